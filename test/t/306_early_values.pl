# What is given for a setting before the library is loaded counts only if whoever
# gave it might give it afterwards.
#
# Until then PostgreSQL takes any value from anybody, and a connection's own options
# hide what the administrator wrote into postgresql.conf: pinned authorities, a
# proxy, where the API is. Whether such a value equals a default, and so looks
# harmless, must not matter. And once it is set right, it has to count at once, in
# the same session.

use strict;
use warnings;

use File::Copy qw(copy);
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $default = 'https://api.sendkit.ai';
my $bad = 'http://192.0.2.1';
my $good = $api->url('http');
my $key_file = PostgreSQL::Test::Utils::tempdir() . '/key';
append_to_file($key_file, "$KEY\n");
chmod 0600, $key_file;

# The administrator's: the stand-in, a pinned authority, a proxy, a key's file
my $node = start_node($api, listener => 'https', deliver => 1,
	conf => "sendkit.max_retries = 0\n"
	  . "sendkit.proxy = 'http://127.0.0.1:" . $api->port('proxy') . "'\n"
	  . "sendkit.platform_key_file = '$key_file'\n");
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE ordinary LOGIN;
CREATE ROLE trusted LOGIN;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO ordinary, trusted;
SQL
my $call = q{SELECT outcome FROM (SELECT (sendkit_delete_api_key('ws', NULL)).success) r(outcome)};

# A session of this role, with these options; and what its first call brings.
sub session_with
{
	my ($role, $options) = @_;
	local $ENV{PGOPTIONS} = $options;
	local $ENV{PGUSER} = $role if $role;
	return SendkitTest::Session->new($node);
}

sub refused
{
	my ($result, $name) = @_;
	return $result->{sqlstate} eq '22023'
	  && $result->{stderr} =~ /the value given for "sendkit\.$name" was refused/;
}

sub is_refused
{
	my ($session, $name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = $session->query($call);
	return ok(refused($result, $name), "$what: the call is refused") || diag(explain($result));
}

sub is_taken
{
	my ($session, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$api->control('POST', '/keys', { restore => ['ws'] });
	my $result = $session->query($call);
	return is("$result->{sqlstate} @{ $result->{rows} }", '00000 t', "$what: the call works")
	  || diag($result->{stderr});
}

is_taken(session_with('ordinary', ''), 'nothing given early');

# --- options of the connection ------------------------------------------------------

# By an ordinary role: each setting, by its default and by another value
my %given = (
	base_url => [ $default, $api->url('https'), $bad, '' ],
	ca_file => [ '', '/etc/hostname' ],
	proxy => [ '', 'http://127.0.0.1:' . $api->port('proxy') ],
	platform_key_file => [ '', $key_file ],
	worker_role => [ '', 'postgres' ]);
for my $name (sort keys %given)
{
	for my $value (@{ $given{$name} })
	{
		$api->reset;
		my $session = session_with('ordinary', "-c sendkit.$name=$value");
		is_refused($session, $name, "PGOPTIONS with $name = '$value'");
		is_refused($session, $name, '... again');
		is($session->query("RESET ALL; SET sendkit.max_retries = 1; $call")->{sqlstate},
			'22023', '... nor does RESET ALL bring the truth back');
		is($api->stats->{accepted}{total} + @{ $api->control('GET', '/proxy-requests') },
			0, '... and nothing was sent');
	}
}

# A parallel worker has the settings of its leader, but does not know what was refused.
{
	$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION says_parallel(id text) RETURNS bool LANGUAGE plpgsql PARALLEL SAFE AS
\$\$ BEGIN RETURN (sendkit_delete_api_key(id, '$KEY')).success; END \$\$;
SQL
	my $forced = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	for my $options ('', "-c sendkit.base_url=$default", '-c sendkit.proxy= -c sendkit.ca_file=')
	{
		my $what = $options || 'nothing given early';
		my $session = session_with('ordinary', $options);
		$session->query($call);
		$api->reset;
		my $result = $session->query("SET $forced = on; SELECT says_parallel('ws')");
		is($result->{sqlstate}, '25000', "$what: a parallel worker calls nobody") || diag(explain($result));
		is($api->stats->{accepted}{total} + @{ $api->control('GET', '/proxy-requests') },
			0, '... and nothing was sent');
	}
}

# What a superuser may set counts; what only the file may say doesn't.
is_taken(session_with('', "-c sendkit.base_url=$good"), 'PGOPTIONS of a superuser');
is_refused(session_with('', '-c sendkit.proxy='), 'proxy', 'PGOPTIONS of a superuser for the file\'s own');
is_refused(session_with('', "-c sendkit.base_url=$bad"), 'base_url', 'a bad value of a superuser');
SKIP:
{
	skip 'no GRANT SET ON PARAMETER for it', 1
	  if $node->psql('postgres', "LOAD 'sendkit'; GRANT SET ON PARAMETER sendkit.base_url TO trusted");
	is_taken(session_with('trusted', "-c sendkit.base_url=$good"), 'PGOPTIONS of one who may set it');
}

# Whether commits start deliverers
for my $options ('-c sendkit.auto_deliver=on', '')
{
	my $session = session_with('ordinary', $options);
	is_taken($session, "with options \"$options\"");
	is($session->value('SHOW sendkit.auto_deliver'), $options ? 'off' : 'on',
		'where nobody knows whether delivery is on, it is off, else it is on');
}

# --- set right ------------------------------------------------------------------------

my $session = session_with('', "-c sendkit.base_url=$bad");
is_refused($session, 'base_url', 'an option');
$session->query("SET sendkit.base_url = '$good'");
is_taken($session, '... after SET');
$session->query('RESET sendkit.base_url');
is_refused($session, 'base_url', '... after RESET, which leads back to it');
$session->query("BEGIN; SET LOCAL sendkit.base_url = '$good'");
is_taken($session, '... after SET LOCAL');
$session->query('ROLLBACK');
is_refused($session, 'base_url', '... after its end');
configure($node, base_url => $api->url('https'));
knows_configuration($session);
is_taken($session, '... after a reload, which brings the file\'s value');

# ... which is not what the administrator wants of this database, or this role
for my $where ('DATABASE postgres', 'ROLE ordinary', 'ROLE ALL', 'ROLE ordinary IN DATABASE postgres')
{
	$node->safe_psql('postgres', "ALTER $where SET sendkit.base_url = '$good/staging'");
	$session = session_with('ordinary', "-c sendkit.base_url=$bad");
	is_refused($session, 'base_url', "ALTER $where, hidden by an option");
	configure($node, base_url => $api->url('https') . '/anew');
	wait_until(sub { $session->value('SHOW sendkit.base_url') =~ /anew/ }, 'the reload is seen');
	is_refused($session, 'base_url', '... after a reload');
	is_taken(session_with('ordinary', ''), '... but not in a session without it');
	$node->safe_psql('postgres', "ALTER $where RESET sendkit.base_url");
	configure($node, base_url => $api->url('https'));
}

$session = session_with('ordinary', '-c sendkit.ca_file=');
is_refused($session, 'ca_file', 'an option of an ordinary role');
configure($node, ca_file => $api->ca);
knows_configuration($session);
is_taken($session, '... after a reload');
is($session->value('SHOW sendkit.ca_file'), $api->ca, '... by the file\'s value');

# --- SET before the library is loaded ----------------------------------------------------

$session = session_with('ordinary', '');
$session->query("SET sendkit.ca_file = ''");
my $result = $session->query($call);
ok(refused($result, 'ca_file'), 'SET by an ordinary role: the call is refused');
like($result->{stderr}, qr/HINT: .*connect anew/, '... and told what to do');
is($session->value('SHOW sendkit.ca_file'), $api->ca, '... the administrator\'s value is in force');
is_refused($session, 'ca_file', '... again');

$session = session_with('', '');
$session->query("SET sendkit.base_url = '$bad'");
is_refused($session, 'base_url', 'SET of a bad value');
$session->query('RESET sendkit.base_url');
is_taken($session, '... after RESET');

$session = session_with('', '');
$session->query("SET sendkit.base_url = '$bad'");
is_refused($session, 'base_url', 'SET of a bad value');
$session->query("SET sendkit.base_url = '$good'");
is_taken($session, '... after SET of a good one');

# A reload is no answer to a SET, and a RESET that is undone is none.
$session = session_with('', '');
$session->query("SET sendkit.base_url = '$bad'");
is_refused($session, 'base_url', 'SET of a bad value');
configure($node, base_url => $api->url('https') . '/anew');
wait_until(sub { $session->value('SHOW sendkit.base_url') =~ /anew/ }, 'the reload is seen');
is_refused($session, 'base_url', '... after a reload');
configure($node, base_url => $api->url('https'));
knows_configuration($session);
$session->query('BEGIN; RESET sendkit.base_url; ROLLBACK');
is_refused($session, 'base_url', '... after RESET and ROLLBACK');

$node->safe_psql('postgres', "CREATE FUNCTION sets_anew() RETURNS int LANGUAGE plpgsql AS "
	  . "\$\$ BEGIN PERFORM set_config('sendkit.base_url', '$good', false); RETURN 1; END \$\$");
for my $undone ('DO $$ BEGIN RESET sendkit.base_url; RAISE \'x\'; END $$', 'DO $$ BEGIN RESET ALL; ROLLBACK; END $$',
	'CREATE MATERIALIZED VIEW n AS SELECT sets_anew() WITH NO DATA; REFRESH MATERIALIZED VIEW n; DROP MATERIALIZED VIEW n')
{
	$session->query($undone);
	is_refused($session, 'base_url', "... after $undone");
}
$session->query('BEGIN; RESET sendkit.base_url; COMMIT');
is_taken($session, '... but not after RESET and COMMIT');

# Nor is a value lost that was SET before a parallel operation that would load the library.
{
	my $forced = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	$node->safe_psql('postgres', "CREATE FUNCTION loads() RETURNS bool LANGUAGE plpgsql PARALLEL RESTRICTED SET sendkit.base_url = '$good'"
		  . q{ AS $$ BEGIN RETURN (sendkit_delete_api_key('ws')).success; END $$});
	$session = session_with('', '');
	$session->query("SET sendkit.base_url = '$good'; SET $forced = on");
	is($session->query('SELECT loads()')->{sqlstate}, '25000', 'loaded within a parallel operation');
	$session->query("SET $forced = off");
	is($session->value('SHOW sendkit.base_url'), $good, '... what was SET is kept');
	is_taken($session, '... and taken');
}

# Another one that was right before hides no correction.
for my $set ('SET', 'SET LOCAL')
{
	$session = session_with('', '');
	$session->query("SET sendkit.base_url = '$good/before'; BEGIN; SET sendkit.base_url = '$bad'; SAVEPOINT s");
	is_refused($session, 'base_url', 'SET of a bad value above a good one');
	$session->query("ROLLBACK TO s; $set sendkit.base_url = '$good'");
	is_taken($session, "... after $set of a good one");
	$session->query('ROLLBACK');
}

# What is right for a while is right for that while.
$session = session_with('', '');
$session->query("SET sendkit.base_url = '$bad'");
is_refused($session, 'base_url', 'SET of a bad value');
for my $set ('SET', 'SET LOCAL')
{
	$session->query("BEGIN; $set sendkit.base_url = '$good'");
	is_taken($session, "... after $set of a good one");
	$session->query('ROLLBACK');
	is_refused($session, 'base_url', '... after ROLLBACK');
}
$session->query("BEGIN; SET LOCAL sendkit.base_url = '$good'; COMMIT");
is_refused($session, 'base_url', '... after the end of SET LOCAL');
$node->safe_psql('postgres', "CREATE FUNCTION beneath() RETURNS bool LANGUAGE sql SET sendkit.base_url = '$good'"
	  . q{ AS $$SELECT success FROM sendkit_delete_api_key('ws')$$});
$api->control('POST', '/keys', { restore => ['ws'] });
is($session->value('SELECT beneath()'), 't', '... in a function that sets a good one: the call is made');
is_refused($session, 'base_url', '... after it');
$session->query("SET sendkit.base_url = '$good'");
is_taken($session, '... after SET of a good one that lasts');

# By default and value the same, but by whom?
$session = session_with('ordinary', '');
$session->query("SET sendkit.base_url = '" . $api->url('https') . q{'});
is_refused($session, 'base_url', 'SET by an ordinary role to what is in force');

# A superuser's SET stays his when he becomes somebody else, and nobody's becomes one.
$session = session_with('', '');
$session->query("SET sendkit.base_url = '$good'; SET ROLE ordinary");
is_taken($session, 'SET by a superuser, then SET ROLE');
$session = session_with('', '');
$session->query("SET ROLE ordinary; SET sendkit.base_url = '$good'; RESET ROLE");
is_refused($session, 'base_url', 'SET under SET ROLE');

for my $end ('ROLLBACK', 'COMMIT')
{
	for my $set ('SET', 'SET LOCAL')
	{
		$session = session_with('', '');
		$session->query("BEGIN; $set sendkit.base_url = '$bad'; LOAD 'sendkit'; SAVEPOINT s");
		is_refused($session, 'base_url', "$set in a transaction");
		$session->query("ROLLBACK TO s; $end");
		if ($set eq 'SET' && $end eq 'COMMIT')
		{
			is_refused($session, 'base_url', "... after $end");
		}
		else
		{
			is_taken($session, "... after $end");
		}
	}
}
$session = session_with('', '');
$session->query("BEGIN; SAVEPOINT s; SET sendkit.base_url = '$bad'");
is_refused($session, 'base_url', 'SET behind a savepoint');
$session->query('ROLLBACK TO s');
is_taken($session, '... after ROLLBACK TO it');
$session->query('ROLLBACK');

# What was SET lasts as long as a SET does: behind RELEASE, and beneath another. And a
# function's own settings have levels of their own, which are no savepoints.
$node->safe_psql('postgres', "CREATE FUNCTION sets() RETURNS void LANGUAGE plpgsql SET work_mem = '1MB' AS "
	  . "\$\$ BEGIN PERFORM set_config('sendkit.base_url', '$bad', false); LOAD 'sendkit'; END \$\$");
for my $begun ("BEGIN; SAVEPOINT a; SET sendkit.base_url = '$bad'; LOAD 'sendkit'; RELEASE a", 'BEGIN; SELECT sets()')
{
	$session = session_with('', '');
	$session->query("$begun; SAVEPOINT s");
	is_refused($session, 'base_url', "after $begun");
	$session->query('ROLLBACK TO s');
	is_refused($session, 'base_url', '... after ROLLBACK TO a savepoint behind it');
	$session->query('ROLLBACK');
	is_taken($session, '... after ROLLBACK');
}
for my $sets (
	[ "SET sendkit.base_url = '$bad'", "SET LOCAL sendkit.base_url = '$bad/local'" ],
	[ "SET sendkit.base_url = '$bad'", "SAVEPOINT s; SET LOCAL sendkit.base_url = '$bad/local'" ],
	[ "SET ROLE ordinary; SET sendkit.base_url = '$good'; RESET ROLE", "SET LOCAL sendkit.base_url = '$good'" ])
{
	my ($set, $above) = @$sets;
	for my $begun ("$set; BEGIN; $above", "BEGIN; $set; $above")
	{
		$session = session_with('', '');
		$session->query("$begun; LOAD 'sendkit'; COMMIT");
		is_refused($session, 'base_url', "after the end of $begun");
	}
}

$node->safe_psql('postgres', "CREATE FUNCTION under(call text) RETURNS text LANGUAGE plpgsql SET sendkit.base_url = '$bad' AS "
	  . q{$$ DECLARE r text; BEGIN EXECUTE call INTO r; RETURN r; END $$});
$session = session_with('ordinary', '');
my $inside = "SELECT under(\$\$SELECT success FROM sendkit_delete_api_key('ws')\$\$)";
ok(refused($session->query($inside), 'base_url'), 'SET of a function: the call is refused');
is_taken($session, '... after it');

# --- of a role, a database -----------------------------------------------------------------

# As placeholders these are a superuser's to give, and as such they are taken, but
# for those that only the file may say.
$node->safe_psql('postgres', "ALTER ROLE ordinary SET sendkit.base_url = '$good'");
is_taken(session_with('ordinary', ''), 'a role\'s, given by a superuser');
$node->safe_psql('postgres', "ALTER ROLE ordinary RESET ALL; ALTER DATABASE postgres SET sendkit.proxy = ''");
is_refused(session_with('ordinary', ''), 'proxy', 'a database\'s, for the file\'s own');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET ALL');
$node->psql('postgres', "ALTER ROLE ordinary SET sendkit.ca_file = ''", extra_params => [ '-U', 'ordinary' ]);
ok(is_taken(session_with('ordinary', ''), 'a role\'s own'), 'could not be given')
  if $node->safe_psql('postgres', 'SELECT count(*) FROM pg_db_role_setting') == 0;
$node->safe_psql('postgres', 'ALTER ROLE ordinary RESET ALL');

# --- in the file ------------------------------------------------------------------------------

configure($node, base_url => $bad);
$session = session_with('ordinary', '');
is_refused($session, 'base_url', 'a bad value in the file');
configure($node, base_url => $api->url('https'));
knows_configuration($session);
is_taken($session, '... after it was corrected');

# Everybody is told of it, but not what it is: it may be the key.
configure($node, platform_key_file => 'sk_user_in_the_wrong_place');
my $told = session_with('ordinary', '')->query($call);
ok(refused($told, 'platform_key_file'), 'a key instead of its file');
unlike($told->{stderr}, qr/wrong_place/, '... is shown to nobody');
configure($node, platform_key_file => $key_file);

ok_key_not_logged($node);
$node->stop;

# --- where the file says nothing, but a superuser has for the database ------------------------

# The name of a placeholder is the one that it was given first, in whatever case.
$node = start_node($api, name => 'bare', listener => undef, conf => "sendkit.max_retries = 0\n");
$node->safe_psql('postgres', "CREATE ROLE ordinary LOGIN; GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO ordinary;"
	  . " GRANT EXECUTE ON PROCEDURE sendkit_process_revocations TO ordinary; ALTER DATABASE postgres SET sendkit.base_url = '" . $api->url('https') . q{'});
$call =~ s/NULL/'$KEY'/;
is_taken(session_with('ordinary', ''), 'a database\'s, given by a superuser');
for my $option ('-c sendkit.base_url=x', '-c SENDKIT.Base_URL=x', '--Sendkit.base-url=x')
{
	is_refused(session_with('ordinary', $option), 'base_url', "an option that hides it: $option");
}

# The server's command line is above the file, too, and a reload does not bring it back.
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET sendkit.base_url');
$node->stop;
for my $option ('-c sendkit.base_url=', '--SENDKIT.base-url=')
{
	my $pg_ctl = $node->installed_command('pg_ctl');
	my @control = ($pg_ctl, '-s', '-w', '-D', $node->data_dir, '-l', $node->logfile);
	system(@control, '-o', $option . $api->url('https'), 'start') == 0 or die 'no server';
	my $session = session_with('ordinary', '-c sendkit.base_url=x');
	is_refused($session, 'base_url', "an option that hides the server's: $option");
	is_taken(session_with('ordinary', ''), '... which counts without it');
	configure($node, base_url => $api->url('http') . '/anew');
	wait_until(sub { $session->value('SHOW sendkit.base_url') =~ /anew/ }, 'the reload is seen');
	is_refused($session, 'base_url', '... after a reload');
	system(@control, '-m', 'fast', 'stop') == 0 or die 'no end';
}
$node->start;
$node->safe_psql('postgres', "ALTER DATABASE postgres SET sendkit.base_url = '" . $api->url('https') . q{'});

# There is no stored key either, which may be for the same reason.
ok(refused(session_with('ordinary', '-c sendkit.base_url=x')->query('CALL sendkit_process_revocations()'), 'base_url'),
	'a delivery is refused for the option, and not for the lack of a key');
is(session_with('ordinary', '')->query('CALL sendkit_process_revocations()')->{sqlstate}, '28000', '... for which it is without');
ok_key_not_logged($node);
$node->stop;
done_testing();
