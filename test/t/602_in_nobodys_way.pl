# A background worker is in nobody's way.
#
# Whoever wants a database for themselves, to drop, rename, move or copy it, gets
# it without FORCE within the 5 s for which PostgreSQL waits, whether the worker is
# idle, has requests in flight, or waits for the next attempt; and the revocations
# go on afterwards, by themselves. So does a shutdown, also with a synchronous
# standby that is down.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start;
my $node = start_node($api, deliver => 1, conf => <<'EOC');
sendkit.max_retries = 0
max_worker_processes = 20
fsync = off
EOC
my $sql = SendkitTest::Session->new($node);

# Each is a way to ask for something that makes the worker what it is to be.
my %state = (
	idle => [ '', sub { my ($id) = @_; wait_until(sub { !$api->key_alive($id) }, 'it is sent'); sleep 0.3 } ],
	busy => [ ';silent', sub { my ($id) = @_; wait_until(sub { @{ $api->requests(id => $id) } }, 'it is sent') } ],
	waiting => [ ';status=500', sub { my ($id) = @_; wait_until(sub { @{ $api->requests(id => $id) } > 2 }, 'it is sent'); sleep 0.1 } ]);

my $serial = 0;

# A new database, with the extension, whose worker is in this state
sub new_database
{
	my ($state) = @_;
	my $name = 'db' . ++$serial;
	my ($directive, $wait) = @{ $state{$state} };
	is($sql->query("CREATE DATABASE $name")->{sqlstate}, '00000', "$state: a database");
	my $session = SendkitTest::Session->new($node, dbname => $name);
	$session->query("CREATE EXTENSION sendkit; CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
		CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY')");
	$session->value("SELECT sendkit_request_revocation('$name$directive')");
	$wait->("$name$directive");
	is(scalar $sql->workers($name), 1, '... and its worker');
	$session->quit;
	return $name;
}

sub is_allowed
{
	my ($name, $statement) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	# (a successor that is just connecting would find the database gone, and say so)
	sleep 0.5;
	wait_until(sub { $sql->value("SELECT count(*) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 24066
			AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.state IN ('idle', 'active'))") == 0 },
		'all workers are connected');
	my $begin = time();
	my $result = $sql->query($statement);
	is($result->{sqlstate}, '00000', $name) || diag($result->{stderr});
	my $took = time() - $begin;
	note(sprintf '%s: %.2f s', $name, $took);
	cmp_ok($took, '<', 4, "$name: without much waiting");
	return;
}

my $space = PostgreSQL::Test::Utils::tempdir();
is($sql->query("CREATE TABLESPACE elsewhere LOCATION '$space'")->{sqlstate}, '00000', 'a tablespace');

for my $state (sort keys %state)
{
	my $db = new_database($state);
	is_allowed("$state: RENAME", "ALTER DATABASE $db RENAME TO ${db}_renamed");
	if ($state ne 'idle')
	{
		wait_until(sub { $sql->workers("${db}_renamed") }, 'a worker is there again');
		pass("$state: a worker is there again, by itself");
	}
	is_allowed("$state: SET TABLESPACE", "ALTER DATABASE ${db}_renamed SET TABLESPACE elsewhere");
	is_allowed("$state: TEMPLATE", "CREATE DATABASE ${db}_copy TEMPLATE ${db}_renamed");
	is_allowed("$state: DROP", "DROP DATABASE ${db}_renamed");
	is_allowed("$state: DROP of a copy", "DROP DATABASE ${db}_copy");
}
sleep 1;
is($sql->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sendkit worker'"), '0',
	'no worker is left of databases that are gone');
is(scalar(grep { /FATAL|exited with exit code/ } split /\n/, slurp_file($node->logfile)), 0, '... nor a word in the log');

# --- in a copy -------------------------------------------------------------------------------

{
	my $db = new_database('waiting');
	$sql->query("CREATE DATABASE staging TEMPLATE $db");
	$api->reset;
	my $copy = SendkitTest::Session->new($node, dbname => 'staging');
	$copy->value("SELECT sendkit_request_revocation('of-the-copy')");
	wait_until(sub { slurp_file($node->logfile) =~ /WARNING:  revocations are held/ }, 'a copy says that it is one');
	sleep 1;
	is(scalar @{ $api->requests(id => 'of-the-copy') }, 0, 'a copy delivers nothing by itself');
	is($copy->query("SELECT sendkit_adopt_revocations()")->{sqlstate}, '00000', 'when it is adopted');
	wait_until(sub { @{ $api->requests(id => 'of-the-copy') } }, 'it delivers');
	pass('... it delivers by itself');
	$copy->quit;
}

# --- shutdown -----------------------------------------------------------------------------------

# The shutdown of a server without a worker takes time as well.
sub stop_takes
{
	my ($mode) = @_;
	my $begin = time();
	$node->stop($mode);
	return time() - $begin;
}

$sql->query("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
	CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY')");
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'\n");
$node->reload;
wait_until(sub { $sql->value('SHOW synchronous_standby_names') eq 'nobody' }, 'it waits for a standby');
$sql->query('SET synchronous_commit = local');
my @ids = ('shutdown-1', 'shutdown-2;silent', 'shutdown-3;status=500');
$sql->value("SELECT sendkit_request_revocation('$_')") for @ids;
for my $id (@ids) { wait_until(sub { @{ $api->requests(id => $id) } }, 'it is sent') }
wait_until(sub { $sql->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done'") == 1 },
	'it is settled without the standby');
wait_until(sub { $sql->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'pending'") == 1 },
	'so is the failure: only one is under way');
$sql->quit;
my $took = stop_takes('fast');
note(sprintf 'fast shutdown: %.2f s', $took);
cmp_ok($took, '<', 3, 'a fast shutdown, without a synchronous standby');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\nsendkit.auto_deliver = off\n");
$node->start;
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', split_part(workspace_id, ';', 1), state, outcome), ', ' ORDER BY id) FROM sendkit_revocation"),
	'shutdown-1 done deleted, shutdown-2 pending unknown, shutdown-3 pending unknown', '... and the books are in order');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing has crashed');
ok_key_not_logged($node);
$node->stop;
done_testing();
