# With the library preloaded a launcher sees to databases in which nobody commits:
# after a restart, after COMMIT PREPARED, after a promotion, and when there was no
# room for a worker.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start;
my $node = start_node($api, deliver => 1, init => [ allows_streaming => 1 ], conf => <<'EOC');
shared_preload_libraries = 'sendkit'
sendkit.max_retries = 0
sendkit.worker_naptime = 1s
max_prepared_transactions = 5
restart_after_crash = on
EOC
my $sql = SendkitTest::Session->new($node);

sub set_up
{
	my ($session) = @_;
	return $session->query("CREATE EXTENSION IF NOT EXISTS sendkit; CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
		CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY'); GRANT USAGE ON FOREIGN SERVER sendkit TO PUBLIC");
}

sub dead { my ($id) = @_; return wait_until(sub { !$api->key_alive($id) }, "the key of $id is dead") }

is($sql->value("SELECT concat_ws(', ', application_name, datname) FROM pg_stat_activity WHERE backend_type = 'sendkit launcher'"),
	'sendkit launcher', 'there is a launcher');

# Two databases, in which workers are switched off when something is queued
$sql->query("CREATE DATABASE other");
my $other = SendkitTest::Session->new($node, dbname => 'other');
for my $session ($sql, $other)
{
	set_up($session);
	$session->query('SET sendkit.auto_deliver = off');
}
$sql->value("SELECT sendkit_request_revocation('first')");
$other->value("SELECT sendkit_request_revocation('second')");
dead($_) for 'first', 'second';
pass('the launcher finds what no commit has started a worker for, in each database');
wait_until(sub { !$sql->workers }, 'the workers go');

# It comes by, and does not stay where nothing is to be done.
sleep 2.5;
is(scalar $sql->workers, 0, 'nobody stays where there is nothing to do');

$sql->query('RESET sendkit.auto_deliver');
$sql->query("BEGIN; SELECT sendkit_request_revocation('prepared'); PREPARE TRANSACTION 'p'");
sleep 1.5;
ok($api->key_alive('prepared'), 'what is only prepared is not sent');
$sql->query("COMMIT PREPARED 'p'");
dead('prepared');
pass('what was prepared is sent when it is committed');

# a restart
$sql->query('SET sendkit.auto_deliver = off');
$sql->value("SELECT sendkit_request_revocation('restart;status=500;times=1')");
$_->quit for $sql, $other;
$node->restart;
$sql = SendkitTest::Session->new($node);
wait_until(sub { @{ $api->requests(id => 'restart;status=500;times=1') } == 2 }, 'after a restart');
pass('after a restart deliveries go on');

# a crash of everything
{
	$sql->value("SELECT sendkit_request_revocation('crash;silent;times=1')");
	$api->wait_for_requests(1);
	wait_until(sub { @{ $api->requests(id => 'crash;silent;times=1') } }, 'it is sent');
	my ($pid) = $sql->workers;
	kill 'KILL', $pid;
	wait_until(sub { process_is_gone($pid) }, 'the worker is gone');
	$sql->quit;
	wait_until(sub { @{ $api->requests(id => 'crash;silent;times=1') } == 2 }, 'it is sent again');
	pass('after a crash deliveries go on at once');
	wait_until(sub { eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } }, 'the server is back');
	$sql = SendkitTest::Session->new($node);
}

# no room
{
	$sql->query("ALTER SYSTEM SET sendkit.auto_deliver = off");
	$sql->query('SELECT pg_reload_conf()');
	wait_until(sub { $sql->value('SHOW sendkit.auto_deliver') eq 'off' }, 'switched off');
	$sql->value("SELECT sendkit_request_revocation('switched-off')");
	sleep 2;
	ok($api->key_alive('switched-off'), 'switched off, the launcher starts nobody');
	$sql->query("ALTER SYSTEM RESET sendkit.auto_deliver");
	$sql->query('SELECT pg_reload_conf()');
	dead('switched-off');
	pass('switched on, it does');
}

# a standby
{
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	$sql->query('SET sendkit.auto_deliver = off');
	$node->append_conf('postgresql.conf', "sendkit.auto_deliver = off\n");
	$node->reload;
	sleep 0.5;
	$sql->value("SELECT sendkit_request_revocation('promoted')");
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	sleep 1.5;
	ok($api->key_alive('promoted'), 'a standby delivers nothing');
	is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'sendkit%'"), '0', '... and has no process for it');
	$sql->quit;
	$node->stop;
	$standby->promote;
	dead('promoted');
	pass('after promotion it does by itself');
	unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing has crashed there');
	$standby->stop;
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal (?!9\b)/, 'nothing has crashed but what was killed');
ok_key_not_logged($node);
done_testing();
