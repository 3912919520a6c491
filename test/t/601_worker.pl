# Delivered by itself: a server on which nothing is preloaded, and nobody calls
# the procedure.
#
# The commit that queues something has a background worker started or woken. It
# stays while there is work, delays nothing for one request that hangs, and goes
# when there has been none for some seconds. It keeps its place when it cannot
# work, and goes on when it can again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start;
my $node = start_node($api, deliver => 1, conf => "sendkit.max_retries = 0\nrestart_after_crash = on\n");
my $sql = SendkitTest::Session->new($node);

sub reset_all
{
	$sql->query('TRUNCATE sendkit_revocation');
	$api->reset;
	return;
}

# How the row of an id stands: "state attempts outcome"
sub row
{
	my ($id) = @_;
	return join(' ', @{ $sql->query("SELECT concat_ws(' ', state, attempts, outcome) FROM sendkit_revocation WHERE workspace_id = "
			  . literal($id))->{rows} });
}

sub ask
{
	my (@ids) = @_;
	$sql->value('SELECT count(sendkit_request_revocation(id)) FROM unnest(ARRAY[' . join(', ', map { literal($_) } @ids) . ']) id');
	return;
}

sub wait_for_row
{
	my ($id, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $row;
	eval { wait_until(sub { ($row = row($id)) eq $expected }, $name) };
	return is($row, $expected, $name);
}

# Things that the log has said since the last time
my $log_read = 0;

sub log_lines
{
	my ($pattern) = @_;
	my $log = slurp_file($node->logfile, $log_read);
	return grep { /$pattern/ } split /\n/, $log;
}

sub forget_log { $log_read = -s $node->logfile; return }

# --- the README's way -----------------------------------------------------------------

$sql->query(<<"EOS");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY');
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace SELECT 'ws-' || i FROM generate_series(1, 9) i;
EOS
is($sql->value("SELECT current_setting('shared_preload_libraries') = ''"), 't', 'nothing is preloaded');
is(scalar $sql->workers, 0, 'and there is no worker');

$sql->query("DELETE FROM workspace WHERE id = 'ws-1'");
wait_for_row('ws-1', 'done 1 deleted', 'a workspace is deleted, and its key is revoked');
ok(!$api->key_alive('ws-1'), '... it is dead');
my ($worker) = $sql->workers;
is($sql->value("SELECT concat_ws(', ', application_name, datname, state, wait_event_type)
		FROM pg_stat_activity WHERE pid = $worker"),
	'sendkit worker, postgres, idle, Extension', 'the worker can be seen');

$sql->query("BEGIN; DELETE FROM workspace WHERE id = 'ws-2'; ROLLBACK");
$sql->query("BEGIN; SAVEPOINT s; DELETE FROM workspace WHERE id = 'ws-2'; ROLLBACK TO s; COMMIT");
$sql->query("BEGIN; DELETE FROM workspace WHERE id = 'ws-3'; COMMIT");
wait_for_row('ws-3', 'done 1 deleted', 'the next one is revoked as well');
is(join(' ', $sql->workers), $worker, '... by the same worker');
is(scalar @{ $api->requests(id => 'ws-2') }, 0, 'what was rolled back is not sent');

# --- one that hangs, one that fails ------------------------------------------------------

{
	reset_all();
	ask('hangs;silent');
	$api->wait_for_requests(1);
	for my $i (1 .. 3)
	{
		my $begin = time();
		ask("quick-$i");
		$api->wait_for_requests(1 + $i);
		my $took = time() - $begin;
		note(sprintf 'sent after %.0f ms', 1000 * $took);
		cmp_ok($took, '<', 0.4, 'while a request hangs the next one is sent at once');
	}
	wait_for_row('quick-3', 'done 1 deleted', '... and entered into the books');
	is(row('hangs;silent'), 'sending 1', '... though the first still hangs');

	# it leaves what it knows behind
	my $begin = time();
	$sql->value("SELECT pg_terminate_backend($worker)");
	wait_until(sub { !grep { $_ == $worker } $sql->workers }, 'the worker is gone');
	prompt(time() - $begin, 'a terminated worker goes');
	is(row('hangs;silent'), 'pending 1 unknown', '... and says that it does not know what became of the request');
	is(scalar log_lines('exited with exit code|FATAL'), 0, '... without a word in the log');
}

{
	reset_all();
	ask('fails;status=500;times=1');
	wait_for_row('fails;status=500;times=1', 'done 2 deleted', 'what failed is tried again by itself');
	my ($again) = $sql->workers;
	isnt($again, $worker, '... by a new worker');
	is(scalar log_lines('WARNING:.*could not be delivered and is tried again later'), 1, '... and a line in the log');
	$worker = $again;
}

# Urgent ones come first, however many wait.
{
	reset_all();
	$api->control('POST', '/default', { directives => 'delay=0.2' });
	$sql->value("SELECT count(sendkit_request_revocation('bulk-' || i)) FROM generate_series(1, 500) i");
	$api->wait_for_requests(50);
	$sql->query("SELECT sendkit_request_revocation('urgent', now() + interval '1 minute')");
	wait_until(sub { @{ $api->requests(id => 'urgent') } }, 'the urgent one is sent');
	cmp_ok($api->stats->{requests}{total}, '<', 350, 'one with a not_after overtakes the others');
	wait_until(sub { $sql->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done'") == 501 }, 'all is done');
}

# It goes when nothing has come for a while, and a prepared transaction does not
# keep it.
wait_until(sub { !$sql->workers }, 'the worker goes');
is(scalar log_lines('exited with exit code'), 0, 'it goes without a word');

# --- it cannot work ------------------------------------------------------------------------

# Returns the worker that still is there although it can't deliver, after many
# commits.
sub stubborn_worker
{
	my ($name) = @_;
	ask('first');
	wait_until(sub { log_lines('WARNING:.*could not deliver revocations') }, "$name: it is said");
	my @before = $sql->workers;
	ask("next-$_") for 1 .. 20;
	sleep 0.5;
	is(join(' ', $sql->workers), join(' ', @before), "$name: it keeps its place");
	is(scalar @before, 1, '... alone');
	is(scalar log_lines('WARNING:'), 1, "$name: ... and says so once");
	is(scalar @{ $api->requests }, 0, '... while nothing is sent');
	return;
}

sub wait_for_all
{
	my ($name) = @_;
	wait_until(sub { $sql->value("SELECT count(*) FROM sendkit_revocation WHERE state <> 'done'") == 0 }, $name);
	is($sql->value('SELECT count(*) FROM sendkit_revocation'), 21, $name);
	return;
}

reset_all();
forget_log();
$sql->query('DROP USER MAPPING FOR CURRENT_USER SERVER sendkit');
stubborn_worker('no key');
$sql->query("CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY')");
wait_for_all('when there is a key, all is delivered');

reset_all();
forget_log();
$node->append_conf('postgresql.conf', "sendkit.worker_role = revoker\n");
$node->reload;
$sql->value("SELECT pg_terminate_backend($_)") for $sql->workers;
wait_until(sub { !$sql->workers }, 'the worker is gone');
stubborn_worker('no such role');
# a role that may not even log in; it needs a key and nothing else
$sql->query("CREATE ROLE revoker; GRANT USAGE ON FOREIGN SERVER sendkit TO revoker;
	CREATE USER MAPPING FOR revoker SERVER sendkit OPTIONS (platform_key 'sk_user_of_revoker')");
wait_for_all('when there is the role, all is delivered');
is((grep { join(' ', map { @$_ } @{ $_->{headers} }) !~ /sk_user_of_revoker/ } @{ $api->requests }), 0, '... with its key');

# The API does not know the key: nothing is lost, and it is not asked again and
# again.
reset_all();
forget_log();
$sql->query("ALTER USER MAPPING FOR revoker SERVER sendkit OPTIONS (SET platform_key 'sk_user_unknown')");
ask(map { "refused-$_" } 1 .. 200);
wait_until(sub { log_lines('WARNING:.*refused the platform key') }, 'a refused key is told');
ask("more-$_") for 1 .. 10;
sleep 0.3;
is($sql->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'failed'"), 0, 'with a refused key nothing fails');
cmp_ok(scalar @{ $api->requests }, '<', 100, '... and not all is tried');
is(scalar log_lines('WARNING'), 1, '... and one line is in the log');
$sql->query("ALTER USER MAPPING FOR revoker SERVER sendkit OPTIONS (SET platform_key 'sk_user_of_revoker')");
wait_until(sub { $sql->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done'") == 210 }, 'with another key all is delivered');
pass('with another key all is delivered');

# --- the settings, the extension, the table ---------------------------------------------------

{
	my $other = SendkitStandin->start;
	reset_all();
	$node->append_conf('postgresql.conf', "sendkit.base_url = '" . $other->url('http') . "'\n");
	$node->reload;
	sleep 0.3;
	ask('elsewhere');
	wait_for_row('elsewhere', 'done 1 deleted', 'after a reload');
	is(scalar @{ $other->requests(id => 'elsewhere') }, 1, '... it goes to the new address');
	$node->append_conf('postgresql.conf', "sendkit.base_url = '" . $api->url('http') . "'\n");
	$node->append_conf('postgresql.conf', "sendkit.auto_deliver = off\n");
	$node->reload;
	wait_until(sub { !$sql->workers }, 'switched off, it goes');
	wait_until(sub { $sql->value('SHOW sendkit.auto_deliver') eq 'off' }, 'the session knows');
	ask('later');
	sleep 0.3;
	is(row('later'), 'pending 0', 'switched off, nothing is delivered');
	is(scalar $sql->workers, 0, '... and no worker started');
	$node->append_conf('postgresql.conf', "sendkit.auto_deliver = on\n");
	$node->reload;
	wait_until(sub { $sql->value('SHOW sendkit.auto_deliver') eq 'on' }, 'the session knows');
	ask('now');
	wait_for_row('later', 'done 1 deleted', 'switched on again, the next commit delivers all');
	$other->stop;
}

{
	reset_all();
	$sql->query('CREATE SCHEMA elsewhere');
	$sql->query('DROP EXTENSION sendkit CASCADE');
	is($sql->query('CREATE EXTENSION sendkit SCHEMA elsewhere')->{sqlstate}, '00000', 'the extension is dropped and created');
	$sql->query("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw; GRANT USAGE ON FOREIGN SERVER sendkit TO revoker;
		CREATE USER MAPPING FOR revoker SERVER sendkit OPTIONS (platform_key '$KEY'); SET search_path = elsewhere, public");
	ask('new');
	wait_for_row('new', 'done 1 deleted', '... and works');
	$sql->query('ALTER SCHEMA elsewhere RENAME TO somewhere; SET search_path = somewhere, public');
	ask('renamed');
	wait_for_row('renamed', 'done 1 deleted', 'its schema is renamed, and it works');

	my $holder = SendkitTest::Session->new($node);
	$holder->query('SET search_path = somewhere, public; BEGIN; SELECT sendkit_request_revocation(\'locked\')');
	$holder->query('LOCK TABLE sendkit_revocation IN ACCESS EXCLUSIVE MODE');
	# (something to be woken for)
	my ($pid) = $sql->workers;
	kill 'HUP', $pid;
	sleep 1;
	is(join(' ', $sql->workers), $pid, 'a worker whose table is locked');
	$holder->query('COMMIT');
	wait_for_row('locked', 'done 1 deleted', '... goes on later');

	# one row only
	ask('row;status=500', 'other');
	wait_for_row('other', 'done 1 deleted', 'a row');
	$holder->query("BEGIN; SELECT 1 FROM sendkit_revocation WHERE workspace_id = 'row;status=500' FOR UPDATE");
	sleep 2;
	ask('third');
	wait_for_row('third', 'done 1 deleted', '... that somebody holds delays itself alone');
	$holder->query('ROLLBACK');
	$holder->quit;
	unlike(slurp_file($node->logfile), qr/exited with exit code/, 'no worker has failed');
}

# --- a poisoned row -------------------------------------------------------------------------------

{
	reset_all();
	forget_log();
	$sql->query("ALTER TABLE sendkit_revocation ADD CHECK (workspace_id <> 'poison' OR state <> 'done')");
	ask('healthy-1', 'poison', 'healthy-2');
	wait_for_row("healthy-$_", 'done 1 deleted', 'one that cannot be settled does not keep the others') for 1, 2;
	ask('healthy-3');
	wait_for_row('healthy-3', 'done 1 deleted', '... nor later ones');
	cmp_ok(scalar @{ $api->requests(id => 'poison') }, '<', 5, '... and is not sent without an end');
	$sql->query('ALTER TABLE sendkit_revocation DROP CONSTRAINT sendkit_revocation_check');
	ask('antidote');
	wait_until(sub { row('poison') =~ /^done/ }, 'it is settled in the end');

	reset_all();
	$sql->query("ALTER TABLE sendkit_revocation ADD CHECK (workspace_id <> 'poison' OR state <> 'sending')");
	ask('sound-1', 'poison', 'sound-2');
	wait_for_row("sound-$_", 'done 1 deleted', 'one that cannot be claimed does not keep the others') for 1, 2;
	ask('sound-3');
	wait_for_row('sound-3', 'done 1 deleted', '... nor later ones');
	cmp_ok(scalar log_lines('could not be claimed'), '<=', 1, '... and is told once at most');
	$sql->query('ALTER TABLE sendkit_revocation DROP CONSTRAINT sendkit_revocation_check');
	ask('antidote');
	wait_for_row('poison', 'done 1 deleted', 'when it can be, it is delivered');
}

# --- no room --------------------------------------------------------------------------------------

{
	$node->append_conf('postgresql.conf', "max_worker_processes = 0\n");
	$sql->quit;
	$node->restart;
	forget_log();
	$sql = SendkitTest::Session->new($node);
	$sql->query('SET search_path = somewhere, public');
	reset_all();
	ask('no-room');
	sleep 0.3;
	is(row('no-room'), 'pending 0', 'without room for a worker nothing is delivered');
	is(scalar log_lines('WARNING|ERROR'), 0, '... and nothing said');
	$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
	$sql->quit;
	$node->restart;
	$sql = SendkitTest::Session->new($node);
	$sql->query('SET search_path = somewhere, public');
	ask('room');
	wait_for_row('no-room', 'done 1 deleted', 'with room the next commit has all delivered');
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing has crashed');
ok_key_not_logged($node, $KEY, 'sk_user_of_revoker');
$sql->quit;
$node->stop;
done_testing();
