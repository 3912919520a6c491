# The library can be loaded in every way in which PostgreSQL loads libraries.
#
# Preloaded by the server, it must not leave a mark there: a thread in the
# postmaster, started by libcurl, would be inherited by nobody and disturb every
# fork. Loaded on demand, it finds settings that were made when nobody knew them,
# also by people who may not make them: whoever decides where the key is sent has
# to be a superuser, however early he said it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $second = 'http://127.0.0.1:' . $api->port('second');
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");

# The number of threads of a process, or undef where that can't be seen.
sub threads
{
	my ($pid) = @_;
	opendir(my $tasks, "/proc/$pid/task") or return;
	return scalar grep { !/^\./ } readdir $tasks;
}

sub postmaster_pid
{
	return (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
}

sub shown
{
	my ($name, %option) = @_;
	return $node->safe_psql('postgres', "SHOW sendkit.$name", %option);
}

# --- on demand --------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE ordinary LOGIN;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO ordinary;
SQL
my @ordinary = (extra_params => [ '-U', 'ordinary' ]);

is_outcome(call($node, 'ws-on-demand'), 'deleted', 'loaded by the first call');
is( $node->safe_psql('postgres', "LOAD 'sendkit'; SHOW sendkit.max_retries; SHOW sendkit.request_timeout"),
	"0\n30s", 'loaded by LOAD, settings of postgresql.conf and defaults hold');

# A role may set what it likes as long as nobody knows the name, in each way that
# there is. When the library comes, what leads the key away is void. The value of
# postgresql.conf is lost then, too: so the call is refused, rather than sent to
# where the built-in default leads.
sub refused_ok
{
	my ($what, $name, $err) = @_;
	my $words = $name eq 'proxy' ? 'parameter "sendkit.proxy" cannot be changed now'
	  : "permission denied to set parameter \"sendkit.$name\"";
	like($err, qr/WARNING:.*\Q$words\E/, "$what: refused");
	like($err, qr/ERROR:.*the value given for "sendkit\.$name" was refused/,
		"$what: and so is the call");
	return;
}

my %way = (
	'SET' => sub { "SET sendkit.$_[0] = '$_[1]';" },
	'set_config' => sub { "SELECT set_config('sendkit.$_[0]', '$_[1]', false);" },
	'SET LOCAL' => sub { "BEGIN; SET LOCAL sendkit.$_[0] = '$_[1]';" });
my %bait = (
	base_url => $second,
	ca_file => '/etc/hostname',
	proxy => 'http://127.0.0.1:' . $api->port('proxy'));
for my $way (sort keys %way)
{
	for my $name (sort keys %bait)
	{
		my ($status, $out, $err) = $node->psql(
			'postgres',
			$way{$way}->($name, $bait{$name}) . call_sql("ws-$name-" . lc substr $way, -5),
			on_error_stop => 0, @ordinary);
		refused_ok("$way $name by an ordinary role, before the library is loaded",
			$name, $err);
	}
}
for my $name (sort keys %bait)
{
	local $ENV{PGOPTIONS} = "-c sendkit.$name=$bait{$name}";
	my ($status, $out, $err) =
	  $node->psql('postgres', call_sql("ws-$name-options"), on_error_stop => 0, @ordinary);
	refused_ok("PGOPTIONS with $name by an ordinary role", $name, $err);
}
$node->psql('postgres', "ALTER ROLE ordinary SET sendkit.base_url = '$second'", @ordinary);
$node->psql('postgres', call_sql('ws-role'), @ordinary);
$node->safe_psql('postgres', 'ALTER ROLE ordinary RESET ALL');
# (for the role's setting it depends on the version who refuses it, and when)
is(join(' ', grep { !/^ws-(?:on-demand|role)$/ } map { $_->{id} } @{ $api->requests }),
	'', 'the API received no call that was refused');
is(scalar @{ $api->control('GET', '/second-requests') }, 0, 'no key went elsewhere');
is(scalar @{ $api->control('GET', '/proxy-requests') }, 0, 'nor through a proxy');

# What is the caller's to set holds, though set early.
is( $node->safe_psql('postgres', "SET sendkit.request_timeout = '5min'; LOAD 'sendkit'; SHOW sendkit.request_timeout"),
	'5min', 'a setting for everyone, made before the library is loaded');

# A superuser may do for others what they can't.
$node->safe_psql('postgres', "ALTER ROLE ordinary SET sendkit.base_url = '" . $api->url('https') . "'");
$api->reset;
$node->safe_psql('postgres', call_sql('ws-by-superuser'), @ordinary);
is_deeply([ map { $_->{listener} } @{ $api->requests } ], ['https'],
	'a setting that a superuser made for a role');
$node->safe_psql('postgres', 'ALTER ROLE ordinary RESET ALL');

# Nonsense is reported at loading, and is as good as not said.
my (undef, $out, $err) = $node->psql('postgres',
	"SET sendkit.base_url = 'ftp://nowhere'; LOAD 'sendkit'; SHOW sendkit.base_url; SET sendkit.typo = 1");
like($err, qr/WARNING:.*invalid value for parameter "sendkit\.base_url"/,
	'a bad value that was there before is reported');
is($out, $api->url('http'), 'and ignored');
like($err, qr/ERROR:.*"sendkit\.typo"/, 'the prefix is reserved');

# --- session_preload_libraries -----------------------------------------------------

$node->append_conf('postgresql.conf', "session_preload_libraries = 'sendkit'\n");
$node->reload;
is(shown('request_timeout', @ordinary), '30s', 'preloaded by the session, for everyone');
is_outcome(call($node, 'ws-session'), 'deleted', 'a call works');
(undef, undef, $err) =
  $node->psql('postgres', "SET sendkit.base_url = '$second'", @ordinary);
like($err, qr/permission denied to set parameter/, 'a bad idea is refused at once');

# --- shared_preload_libraries ------------------------------------------------------

$node->append_conf('postgresql.conf', <<"CONF");
session_preload_libraries = ''
shared_preload_libraries = 'sendkit'
sendkit.request_timeout = 20s
CONF
$node->restart;
is(shown('request_timeout', @ordinary), '20s', 'preloaded by the server');
is(shown('base_url'), $api->url('http'), 'with the settings of postgresql.conf');

SKIP:
{
	my $pid = postmaster_pid();
	skip 'no /proc here', 9 unless defined threads($pid);
	is(threads($pid), 1, 'the postmaster has no thread but its own');

	# In a session libcurl may have one, while it resolves a name.
	my @sessions = map { SendkitTest::Session->new($node) } 1 .. 3;
	my $n = 0;
	for my $round (1, 2)
	{
		for my $session (@sessions)
		{
			is_outcome(
				$session->call('ws-shared-' . $n++,
					set => { base_url => $api->url($round == 1 ? 'http' : 'https') }),
				'deleted', 'sessions of one postmaster, each with connections of its own');
		}
	}
	is(threads($pid), 1, 'and still none after calls');
	my %connections =
	  map { $_->{connection} => 1 } grep { $_->{id} =~ /^ws-shared/ } @{ $api->requests };
	is(scalar keys %connections, 6, 'none of which another process used');
	$_->quit for @sessions;
}

# --- settings that change while the server runs -------------------------------------

$node->safe_psql('postgres', "ALTER SYSTEM SET sendkit.request_timeout = '7s'");
my $session = SendkitTest::Session->new($node);
$node->reload;
wait_until(sub { $session->value('SHOW sendkit.request_timeout') eq '7s' },
	'a running session has the new value');
is(shown('request_timeout'), '7s', 'ALTER SYSTEM and reload');

for my $bad (
	[ 'base_url', 'http://example.com' ], [ 'base_url', 'https://user@host' ],
	[ 'ca_file', 'relative.pem' ], [ 'ca_file', '/nonexistent/ca.pem' ],
	[ 'proxy', 'gopher://host' ], [ 'max_retries', '-1' ], [ 'request_timeout', '0' ])
{
	my ($name, $value) = @$bad;
	(undef, undef, $err) =
	  $node->psql('postgres', "ALTER SYSTEM SET sendkit.$name = '$value'");
	like($err, qr/ERROR:.*"sendkit\.$name"/, "ALTER SYSTEM refuses $name = $value");
}

# One bad value in the file is reported, and keeps none of the others from being
# read, nor the server from running.
my $before = shown('base_url');
my $from = -s $node->logfile;
$node->append_conf('postgresql.conf', <<'CONF');
sendkit.base_url = 'http://example.com'
sendkit.connect_timeout = 9s
CONF
$node->reload;
wait_until(sub { $session->value('SHOW sendkit.connect_timeout') eq '9s' },
	'the reload has arrived');
is($session->value('SHOW sendkit.base_url'), $before, 'a running session keeps the old value');
is(shown('base_url'), $before, 'so does a new one');
is(shown('connect_timeout'), '9s', 'the good value beside it is in force');
my $log = substr slurp_file($node->logfile), $from;
like($log, qr/invalid value for parameter "sendkit\.base_url": "http:\/\/example\.com"/,
	'the log says what is wrong');
like($log, qr/DETAIL:.*loopback/, 'and why');
is_outcome(call($node, 'ws-reloaded'), 'deleted', 'calls go on as before');

# Put right, it is read.
$node->append_conf('postgresql.conf', "sendkit.base_url = '" . $api->url('https') . "'\n");
$node->reload;
wait_until(sub { $session->value('SHOW sendkit.base_url') eq $api->url('https') },
	'the next value arrives');
$api->reset;
is_outcome($session->call('ws-corrected'), 'deleted', 'a session goes where it is led now');
is_deeply([ map { $_->{listener} } @{ $api->requests } ], ['https'], 'and nowhere else');
$session->quit;

$node->stop;
done_testing();
