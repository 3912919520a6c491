# The key file: sendkit.platform_key_file.
#
# Whoever can put another file in the place of this one, or name another one,
# makes the server send what is in it to the API: so it must be named by nobody
# but the administrator, and belong to nobody but the server. Whoever can read it
# has the key, so that loose permissions are an error and not a warning. What is
# wrong with a file is told by rule; neither its content nor where it is.
#
# Secrets are mounted and rotated in several ways, all of which have to be
# noticed by sessions that are there already.

use strict;
use warnings;

use IO::Socket::UNIX;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(time);

my $api = SendkitStandin->start;
my $folder = PostgreSQL::Test::Utils::tempdir() . '/secret-place';
mkdir $folder or die "$folder: $!";
my $file = "$folder/key";

# With a lie about who owns which file, see there; undef without a compiler.
my $lie = preload_library('owner');

my $node = start_node($api,
	conf => "sendkit.platform_key_file = '$file'\n",
	env => $lie ? { LD_PRELOAD => $lie } : {});
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE clerk;
CREATE ROLE mapped;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO clerk, mapped;
SQL

# One ordinary session for all, since a file must be looked at for each call.
my $session = SendkitTest::Session->new($node);
$session->value('SET ROLE clerk');
my $pid = $session->pid;
my $calls = 0;

sub clear
{
	if (-d $file && !-l $file)
	{
		rmdir $file or die "$file: $!";
	}
	unlink $file;
	return;
}

# Calls and returns the key that the API was asked with, or the whole answer.
sub key_used
{
	my ($by, %option) = @_;
	my $id = 'file-' . ++$calls;
	my $answer = $by->call($id, key => $option{key});
	return $answer if $answer->{outcome} eq 'error';
	my ($key) = map { $_->[1] } grep { lc $_->[0] eq 'x-api-key' }
	  @{ $api->requests(id => $id)->[0]{headers} };
	return $key;
}

# Tests that a call uses this key.
sub ok_key
{
	my ($key, $name, $by) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $used = key_used($by || $session);
	return is(ref $used ? $used->{error} : $used, $key, $name);
}

# Tests that a call is refused, promptly, with this SQLSTATE and this message,
# and tells nothing else.
sub ok_refused
{
	my ($sqlstate, $message, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $sent = $api->stats->{requests}{total};
	my $begin = time;
	my $answer = key_used($session);
	my $took = time() - $begin;
	my @wrong;

	$answer = { sqlstate => "none, but asked with \"$answer\"", error => '' } unless ref $answer;
	push @wrong, "SQLSTATE $answer->{sqlstate}" if $answer->{sqlstate} ne $sqlstate;
	push @wrong, 'another message' if $answer->{error} !~ $message;
	push @wrong, 'shows the path' if $answer->{error} =~ /secret-place/;
	push @wrong, 'shows the content' if $answer->{error} =~ /sk_|hush/;
	push @wrong, 'a request was sent' if $api->stats->{requests}{total} != $sent;
	push @wrong, "took $took s" if $took > $SendkitTest::HANG;
	return is(join(', ', @wrong), '', "refused: $name") || diag($answer->{error});
}

my $cannot_use = qr/cannot use the file that "sendkit\.platform_key_file" names\n.*/;
my $not_regular = qr/$cannot_use.*It is not a regular file\.\n/;
my $loose = qr/$cannot_use.*It has group or world access: its permissions must be u=rw \(0600\) or less\.\n/;
my $roots_loose =
  qr/$cannot_use.*It has group or world access: the permissions of a file that root owns must be u=rw,g=r \(0640\) or less\.\n/;
my $not_owner = qr/$cannot_use.*It must be owned by the database server's user or by root\.\n/;
my $not_ascii = qr/$cannot_use.*The key contains something other than visible ASCII characters\.\n/;
my $unreadable = qr/could not read the file that "sendkit\.platform_key_file" names: /;

# --- what a good file looks like ---

write_file($file, "sk_user_file\n");
ok_key('sk_user_file', 'a file with a line');
write_file($file, 'sk_user_bare');
ok_key('sk_user_bare', 'without a newline');
write_file($file, "sk_user_crlf\r\n");
ok_key('sk_user_crlf', 'with a newline of another system');
my $longest = 'sk_user_' . 'x' x 504;
write_file($file, "$longest\n");
ok_key($longest, 'the longest key');
foreach my $mode (0400, 0600, 0700)
{
	write_file($file, "sk_user_mode\n", $mode);
	ok_key('sk_user_mode', sprintf('permissions %04o', $mode));
	unlink $file;
}

write_file($file, "sk_a_workspace_key\n");
my $notice = $session->call('notice', key => undef);
like($notice->{stderr}, qr/needs a platform key/, 'another kind of key is sent, and a notice tells');
unlike($notice->{stderr}, qr/sk_a_work/, '... but not which it was');

# --- and what isn't one ---

clear();
ok_refused('58P01', qr/${unreadable}No such file or directory\n/, 'no file');
symlink "$folder/nowhere", $file or die $!;
ok_refused('58P01', $unreadable, 'a link that leads nowhere');
clear();
write_file($file, "sk_user_hush\n", 0000);
ok_refused('42501', $unreadable, 'one that the server may not read');
clear();
mkdir $file or die $!;
ok_refused('F0000', $not_regular, 'a directory');
clear();
symlink '/dev/zero', $file or die $!;
ok_refused('F0000', $not_regular, 'an endless device');
clear();
mkfifo($file, 0600) or die $!;
ok_refused('F0000', $not_regular, 'a pipe that nobody writes to');
{
	open(my $pipe, '+<', $file) or die $!;
	syswrite $pipe, "sk_user_hush\n";
	ok_refused('F0000', $not_regular, 'a pipe with a key in it');
}
clear();

foreach my $mode (0640, 0620, 0610, 0604, 0602, 0601, 0644, 0666)
{
	write_file($file, "sk_user_hush\n", $mode);
	ok_refused('F0000', $loose, sprintf('permissions %04o', $mode));
}
clear();

write_file($file, "sk_user_hush\n" . ' ' x 4084);
ok_refused('F0000', qr/$cannot_use.*It is too large/, 'a byte too large');
write_file($file, "sk_user_hush\n" x (1 << 16));
ok_refused('F0000', qr/$cannot_use.*It is too large/, 'far too large');
write_file($file, 'sk_user_hush' x 43);
ok_refused('F0000', qr/$cannot_use.*The key is longer than 512 characters\./, 'a key that is too long');
write_file($file, 'sk_user_hush' . 'x' x 4084);
ok_refused('F0000', qr/$cannot_use.*The key is longer than 512 characters\./, 'the largest file');
write_file($file, '');
ok_refused('F0000', qr/$cannot_use.*The key is empty\./, 'an empty file');
write_file($file, "\n");
ok_refused('F0000', qr/$cannot_use.*The key is empty\./, 'an empty line');

my %bad_content = (
	'two lines' => "sk_user_hush\nsk_user_hush2\n",
	'a header' => "sk_user_hush\r\nX-Admin: yes\r\n",
	'an empty line after it' => "sk_user_hush\n\n",
	'a blank before it' => " sk_user_hush\n",
	'a blank after it' => "sk_user_hush \n",
	'a tab' => "sk_user\thush\n",
	'NUL' => "sk_user_\0hush\n",
	'DEL' => "sk_user_hush\x7f\n",
	'a byte order mark' => "\xef\xbb\xbfsk_user_hush\n",
	'UTF-16' => "s\0k\0_\0u\0s\0e\0r\0_\0",
	'a letter with an accent' => "sk_user_h\xc3\xbcsh\n",
	'only NUL' => "\0" x 20);
foreach my $what (sort keys %bad_content)
{
	write_file($file, $bad_content{$what});
	ok_refused('F0000', $not_ascii, "content: $what");
}

# --- whose it is ---

# Without a lie: something that surely is root's, and that all may read.
clear();
SKIP:
{
	skip 'no small file of root\'s', 1
	  unless -f '/etc/passwd' && (stat _)[4] == 0 && (stat _)[2] & 0004;
	symlink '/etc/passwd', $file or die $!;
	ok_refused('F0000', $roots_loose, 'a file of root\'s for all to read');
}

SKIP:
{
	skip 'no C compiler to lie with', 11 unless $lie;
	my $other = $> + 1;

	# A new name each time: the server sees which file it is by its name.
	my $present = sub {
		my ($owner, $mode) = @_;
		my $target = sprintf '%s/owned-by-%d-%04o', $folder, $owner, $mode;
		clear();
		write_file($target, "sk_user_of_$owner\n", $mode);
		symlink $target, $file or die $!;
	};

	$present->($other, 0600);
	ok_refused('F0000', $not_owner, 'another user\'s file');
	$present->($other, 0640);
	ok_refused('F0000', $not_owner, 'another user\'s file, readable by the group');
	foreach my $mode (0400, 0600, 0440, 0640)
	{
		$present->(0, $mode);
		ok_key('sk_user_of_0', sprintf 'a file of root\'s with permissions %04o', $mode);
	}
	foreach my $mode (0660, 0650, 0644, 0642, 0641)
	{
		$present->(0, $mode);
		ok_refused('F0000', $roots_loose,
			sprintf('a file of root\'s with permissions %04o', $mode));
	}
}
clear();

# --- nothing is left over ---

# Each kind of refusal, caught, so that no end of a transaction tidies up.
{
	write_file($file, "sk_user_hush\n", 0644);
	my $refused_often = <<'SQL';
DO $$
BEGIN
	FOR i IN 1..200 LOOP
		BEGIN
			PERFORM sendkit_delete_api_key('refused');
			RAISE 'it was not refused';
		EXCEPTION WHEN config_file_error THEN NULL;
		END;
	END LOOP;
END $$
SQL
	$session->value($refused_often);
	my $before = descriptors($pid);
	$session->value($refused_often);
	is(descriptors($pid), $before, 'refusals leave no file open');
	write_file($file, "sk_user_hush hush\n", 0600);
	$session->value($refused_often);
	is(descriptors($pid), $before, '... nor do those that read it');
	write_file($file, "sk_user_file\n");
	ok_key('sk_user_file', 'and the session uses a good file again');
	is(descriptors($pid) <= $before + 2, 1, '... which leaves none open either');
}

# --- what goes before it ---

$node->safe_psql('postgres', <<'SQL');
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
GRANT USAGE ON FOREIGN SERVER sendkit TO mapped;
CREATE USER MAPPING FOR mapped SERVER sendkit OPTIONS (platform_key 'sk_user_mapping');
SQL
my $mapped = SendkitTest::Session->new($node);
$mapped->value('SET ROLE mapped');
ok_key('sk_user_mapping', 'a role with a user mapping uses that', $mapped);
ok_key('sk_user_file', '... and one without uses the file, without USAGE on the server');
write_file($file, 'unusable', 0666);
ok_key('sk_user_mapping', 'a bad file is of no concern to a user mapping', $mapped);
is(key_used($session, key => 'sk_user_argument'), 'sk_user_argument', '... nor to an argument');
write_file($file, "sk_user_file\n");

$node->safe_psql('postgres', 'REVOKE USAGE ON FOREIGN SERVER sendkit FROM mapped');
my $denied = key_used($mapped);
is(ref $denied ? $denied->{sqlstate} : $denied,
	'42501', 'a mapping that may not be used is an error: the file doesn\'t stand in for it');
$node->safe_psql('postgres',
	'GRANT USAGE ON FOREIGN SERVER sendkit TO mapped;'
  . 'ALTER USER MAPPING FOR mapped SERVER sendkit OPTIONS (DROP platform_key)');
ok_key('sk_user_file', 'a mapping without a key leaves it to the file', $mapped);
$node->safe_psql('postgres',
	'CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key \'sk_user_public\');'
  . 'GRANT USAGE ON FOREIGN SERVER sendkit TO clerk');
ok_key('sk_user_public', 'PUBLIC\'s mapping goes before the file');
$node->safe_psql('postgres', 'DROP SERVER sendkit CASCADE');
ok_key('sk_user_file', 'and without the server it is the file again');

# --- rotation ---

$session->value('BEGIN ISOLATION LEVEL REPEATABLE READ');
ok_key('sk_user_file', 'in a transaction: the key of now');
write_file($file, "sk_user_overwritten\n");
ok_key('sk_user_overwritten', 'a file that was overwritten is noticed by the next call');
write_file("$file.new", "sk_user_renamed\n");
rename "$file.new", $file or die $!;
ok_key('sk_user_renamed', '... so is one that another was renamed to');
$session->value('COMMIT');

# As Kubernetes does it: the name is a link through a link to a folder, and that
# second link is replaced when the secret changes.
clear();
foreach my $round (1, 2)
{
	mkdir "$folder/..round_$round" or die $!;
	write_file("$folder/..round_$round/key", "sk_user_mounted_$round", 0400);
	symlink "..round_$round", "$folder/..data_tmp" or die $!;
	rename "$folder/..data_tmp", "$folder/..data" or die $!;
	symlink '..data/key', $file or die $! if $round == 1;
	ok_key("sk_user_mounted_$round", "a mounted secret, round $round");
}
chmod 0444, "$folder/..round_2/key" or die $!;
ok_refused('F0000', $loose, 'what counts are the permissions of the file, not of a link');
clear();
write_file($file, "sk_user_file\n");

# --- who may name it ---

my $elsewhere = "$folder/elsewhere";
write_file($elsewhere, "sk_user_elsewhere\n");

my $super = SendkitTest::Session->new($node);
$super->value('LOAD \'sendkit\'');
is($super->query("SET sendkit.platform_key_file = '$elsewhere'")->{sqlstate},
	'55P02', 'not even a superuser can set it for a session');
is($super->query("ALTER ROLE clerk SET sendkit.platform_key_file = '$elsewhere'")->{sqlstate},
	'55P02', '... or for a role');
is($super->query("ALTER DATABASE postgres SET sendkit.platform_key_file = '$elsewhere'")->{sqlstate},
	'55P02', '... or a database');
is($super->query("SELECT set_config('sendkit.platform_key_file', '$elsewhere', true)")->{sqlstate},
	'55P02', '... by a function either');
ok_key('sk_user_file', 'the superuser uses the same file', $super);

# Until the library is loaded, any name with a dot can be set. PostgreSQL drops
# such a value then, and may have replaced the configured one by it: there is
# either that one or an error, but never the key that somebody wished for.
sub ok_not_elsewhere
{
	my ($by, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $used = key_used($by);
	return like(ref $used ? $used->{sqlstate} : $used, qr/^(?:22023|28000|sk_user_file)$/, $name);
}

my $early = SendkitTest::Session->new($node);
is($early->query("SET sendkit.platform_key_file = '$elsewhere'")->{sqlstate},
	'00000', 'a session that has not loaded the library can set it');
ok_not_elsewhere($early, '... to no effect');
$node->safe_psql('postgres', <<"SQL");
CREATE ROLE stubborn LOGIN;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO stubborn;
ALTER ROLE stubborn SET sendkit.platform_key_file = '$elsewhere';
ALTER DATABASE postgres SET sendkit.platform_key_file = '$elsewhere';
SQL
{
	local $ENV{PGUSER} = 'stubborn';
	ok_not_elsewhere(SendkitTest::Session->new($node),
		'so can be a role\'s and a database\'s: it is not used');
	local $ENV{PGOPTIONS} = "-c sendkit.platform_key_file=$elsewhere";
	ok_not_elsewhere(SendkitTest::Session->new($node),
		'so can be a connection\'s: it is not used');
}
$node->safe_psql('postgres',
	'ALTER DATABASE postgres RESET sendkit.platform_key_file');

# An ordinary role has no business with where it is.
is($session->query('SHOW sendkit.platform_key_file')->{sqlstate},
	'42501', 'an ordinary role does not see the path');
is($session->value("SELECT count(*) FROM pg_settings WHERE name = 'sendkit.platform_key_file'"),
	0, '... in the view of settings either');

# --- what it can be set to ---

is($super->query('ALTER SYSTEM SET sendkit.platform_key_file = \'key\'')->{sqlstate},
	'22023', 'a path must be absolute');
my $refusal = $super->query('ALTER SYSTEM SET sendkit.platform_key_file = \'./key\'');
like($refusal->{stderr}, qr/DETAIL:  The path must be absolute\./, '... and the detail says so');
$refusal = $super->query('ALTER SYSTEM SET sendkit.platform_key_file = \'/'
	  . 'x' x 2000 . '\'');
like($refusal->{stderr}, qr/DETAIL:  The path is too long\./, '... and not too long');

# Reloads, and waits until the session knows.
sub change_setting
{
	my ($value) = @_;
	$super->value("ALTER SYSTEM SET sendkit.platform_key_file = '$value'");
	$super->value('SELECT pg_reload_conf()');
	wait_until(
		sub { $super->value("SELECT current_setting('sendkit.platform_key_file') = '$value'") eq 't' },
		"the setting is \"$value\"");
	# this one got the signal at the same time, and heeds it between statements
	$session->value('SELECT pg_sleep(0.1)');
	return;
}

change_setting($elsewhere);
ok_key('sk_user_elsewhere', 'another path takes effect with a reload');
change_setting('');
my $none = key_used($session);
is(ref $none ? $none->{sqlstate} : $none, '28000', 'with no path there is no key');

# --- what the log says of all this ---

my $log = slurp_file($node->logfile);
like($log, $loose, 'the log has the refusals');
unlike($log, qr/sk_user_|hush/, '... and no key');

$session->quit;
$mapped->quit;
$early->quit;
$super->quit;
$node->stop;
$api->stop;
done_testing();
