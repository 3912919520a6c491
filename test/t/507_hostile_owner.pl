# Nobody gets rights through the queue.
#
# On PostgreSQL 15 and later every owner of a database owns its schema public, and
# with that the schema's name and what else is called how in it; and whoever has the
# TRIGGER privilege on a table may attach functions to it. The functions of the
# queue are called by others, a superuser among them. So the queue must be the
# relation that the extension made, however it is called by now, and nothing that is
# attached to it may run. Here are the attacks, as they were carried out.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start;
my $node = start_node($api, conf => "sendkit.max_retries = 0\nfsync = off\n");
my $super = SendkitTest::Session->new($node);
my $CALL = 'CALL keys.sendkit_process_revocations()';

# What runs on any table that is taken for the queue: who does it run as?
my $spy = <<'SQL';
CREATE FUNCTION %1$s.spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'the spy runs as %%', current_user;
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		EXECUTE 'ALTER ROLE mallory SUPERUSER';
	END IF;
	RETURN NULL;
END $$;
GRANT EXECUTE ON FUNCTION %1$s.spy TO PUBLIC;
CREATE TRIGGER spy_before BEFORE INSERT OR UPDATE ON %2$s FOR EACH STATEMENT EXECUTE FUNCTION %1$s.spy();
CREATE TRIGGER spy_after AFTER INSERT OR UPDATE ON %2$s FOR EACH ROW EXECUTE FUNCTION %1$s.spy();
SQL

sub fresh_start
{
	$super->query(<<"SQL");
DROP SCHEMA IF EXISTS keys, stolen, decoy CASCADE;
DROP EXTENSION IF EXISTS sendkit CASCADE;
DO \$\$ BEGIN CREATE ROLE mallory LOGIN; CREATE ROLE clerk; EXCEPTION WHEN duplicate_object THEN NULL; END \$\$;
ALTER ROLE mallory NOSUPERUSER;
GRANT CREATE ON DATABASE postgres TO mallory;
CREATE SCHEMA keys AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA keys TO PUBLIC;
CREATE EXTENSION sendkit SCHEMA keys;
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
GRANT USAGE ON FOREIGN SERVER sendkit TO PUBLIC;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA keys TO clerk;
CREATE TABLE keys.workspace (id text);
CREATE TRIGGER revoke AFTER DELETE ON keys.workspace FOR EACH ROW EXECUTE FUNCTION keys.sendkit_revoke_on_delete('id');
GRANT ALL ON keys.workspace TO clerk;
GRANT SELECT ON ALL TABLES IN SCHEMA keys TO mallory;
INSERT INTO keys.workspace VALUES ('ws-trigger');
SQL
	$api->reset;
	return;
}

sub mallory_session
{
	my $session = SendkitTest::Session->new($node);
	$session->query('SET SESSION AUTHORIZATION mallory');
	return $session;
}

# A schema with tables that look like the extension's
sub make_decoy
{
	my ($mallory) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($mallory->query('CREATE SCHEMA decoy; GRANT USAGE ON SCHEMA decoy TO PUBLIC;'
			  . ' CREATE TABLE decoy.sendkit_revocation (LIKE keys.sendkit_revocation);'
			  . ' CREATE TABLE decoy.sendkit_home (LIKE keys.sendkit_home);'
			  . ' GRANT ALL ON ALL TABLES IN SCHEMA decoy TO PUBLIC;'
			  . sprintf $spy, 'decoy', 'decoy.sendkit_revocation')->{sqlstate}, '00000', 'a decoy is there');
	return;
}

sub wait_for_lock
{
	my $pid = $_[0]->pid;
	wait_until(sub { $super->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Lock'") == 1 },
		'it waits for a lock');
	return;
}

sub ok_no_superuser
{
	my ($name, @results) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($super->value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), 'f', "$name: nobody became superuser");
	unlike(join('', map { $_->{stderr} } @results), qr/the spy runs/, "$name: nothing of theirs has run");
	return;
}

# Everything that reads or writes the queue, as a role with no other rights calls it
my %ways = (
	request => "SELECT keys.sendkit_request_revocation('ws-asked') > 0",
	trigger => 'DELETE FROM keys.workspace',
	process => $CALL,
	retry => 'SELECT keys.sendkit_retry_revocations()',
	cancel => 'SELECT keys.sendkit_cancel_revocations(ARRAY[2])',
	adopt => 'SELECT keys.sendkit_adopt_revocations()');
my $rows = "SELECT keys.sendkit_request_revocation('ws-1'); SELECT keys.sendkit_request_revocation('ws-2');"
  . " UPDATE keys.sendkit_revocation SET state = 'failed', finished_at = now() WHERE id = 1";

# --- with no more than the TRIGGER privilege ------------------------------------------------

{
	fresh_start();
	my $mallory = mallory_session();
	$super->query("$rows; GRANT TRIGGER ON keys.sendkit_revocation TO mallory; INSERT INTO keys.sendkit_home VALUES (1, 1)");
	is($mallory->query(sprintf $spy, 'keys', 'keys.sendkit_revocation')->{sqlstate}, '00000',
		'triggers are put on the queue');
	my $clerk = SendkitTest::Session->new($node);
	$clerk->query('SET SESSION AUTHORIZATION clerk');
	my %result;
	foreach my $way (qw(request trigger adopt retry cancel process))
	{
		$result{$way} = $clerk->query($ways{$way});
		is($result{$way}->{sqlstate}, '00000', "$way works") || diag($result{$way}->{stderr});
	}
	ok_no_superuser('triggers', values %result);
	is($super->value("SELECT string_agg(workspace_id || ' ' || state, ', ' ORDER BY id) FROM keys.sendkit_revocation"),
		'ws-1 done, ws-2 cancelled, ws-asked done, ws-trigger done', 'all has been done');

	# A statement of somebody's own fires them, so that it is not for a superuser.
	$mallory->query('CREATE TRIGGER spy_delete BEFORE DELETE ON keys.sendkit_revocation'
		  . ' FOR EACH STATEMENT EXECUTE FUNCTION keys.spy()');
	$super->query('DO $$ BEGIN CREATE ROLE janitor; EXCEPTION WHEN duplicate_object THEN NULL; END $$;'
		  . ' GRANT SELECT, DELETE ON keys.sendkit_revocation TO janitor');
	my $janitor = SendkitTest::Session->new($node);
	$janitor->query('SET SESSION AUTHORIZATION janitor');
	my $history = $janitor->query("DELETE FROM keys.sendkit_revocation WHERE state = 'done'"
		  . " AND finished_at < now() - interval '0 days'");
	is($history->{sqlstate}, '00000', 'who may do no more keeps the history short');
	like($history->{stderr}, qr/the spy runs as janitor/, '... and has a trigger run');
	is($super->value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), 'f', '... by which nobody became superuser');
	is($super->value('SELECT count(*) FROM keys.sendkit_revocation'), '1', '... and the history is gone');
	$janitor->quit;
	$_->quit for $mallory, $clerk;
}

# --- by an owner who is no superuser any more ------------------------------------------------

{
	fresh_start();
	$super->query(<<"SQL");
DROP EXTENSION sendkit CASCADE;
ALTER ROLE mallory SUPERUSER;
SET ROLE mallory;
CREATE EXTENSION sendkit SCHEMA keys;
RESET ROLE;
ALTER ROLE mallory NOSUPERUSER;
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
GRANT USAGE ON FOREIGN SERVER sendkit TO PUBLIC;
CREATE TRIGGER revoke AFTER DELETE ON keys.workspace FOR EACH ROW EXECUTE FUNCTION keys.sendkit_revoke_on_delete('id');
SQL
	my $mallory = mallory_session();
	is($mallory->query(<<'SQL')->{sqlstate}, '00000', 'its owner puts functions on the queue');
CREATE FUNCTION keys.as_whom() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		EXECUTE 'ALTER ROLE mallory SUPERUSER';
	END IF;
	RETURN current_user;
END $$;
CREATE FUNCTION keys.pretend(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		RAISE WARNING 'the spy runs as %', current_user;
	END IF;
	RETURN x;
END $$;
ALTER TABLE keys.sendkit_revocation ADD added_by text DEFAULT keys.as_whom(),
	ADD changed text GENERATED ALWAYS AS (keys.pretend(state)) STORED;
CREATE INDEX ON keys.sendkit_revocation (keys.pretend(state));
-- this one runs when the index is opened
CREATE INDEX ON keys.sendkit_revocation (id) WHERE keys.pretend('x') = 'x';
SQL
	my $caller = SendkitTest::Session->new($node);
	my @results;
	foreach my $way (qw(request trigger adopt retry cancel process))
	{
		push @results, $caller->query($ways{$way});
		is($results[-1]->{sqlstate}, '00000', "$way works") || diag($results[-1]->{stderr});
	}
	ok_no_superuser('functions of its owner', @results);
	is($mallory->value("SELECT string_agg(workspace_id || ' ' || added_by, ', ' ORDER BY id) FROM keys.sendkit_revocation"),
		'ws-asked mallory, ws-trigger mallory', 'they ran as the owner');
	$_->quit for $mallory, $caller;
}

# --- the owner of the schema puts another table in the queue's place under a lock wait ------

foreach my $way (sort keys %ways)
{
	fresh_start();
	$super->query($rows);
	my ($holder, $dropper, $mallory) = map { mallory_session() } 1 .. 3;
	my $caller = SendkitTest::Session->new($node);

	$mallory->query('CREATE TABLE keys.bait ()');
	make_decoy($mallory);
	$holder->query('BEGIN; LOCK TABLE keys.bait');
	# holds the queue, and waits for the bait; in the end it fails, since that name
	# means nothing any more
	$dropper->send('DROP TABLE keys.sendkit_revocation, keys.bait');
	wait_for_lock($dropper);
	$caller->send($ways{$way});
	# the procedure tries again and again instead
	$way eq 'process' ? sleep 1 : wait_for_lock($caller);
	is($mallory->query('ALTER SCHEMA keys RENAME TO stolen; ALTER SCHEMA decoy RENAME TO keys')->{sqlstate},
		'00000', "$way: the decoy takes its place");
	$holder->query('COMMIT');
	is($dropper->result->{sqlstate}, '42P01', "$way: nothing is dropped");
	my $result = $caller->result;
	is($result->{sqlstate}, '00000', "$way: works on") || diag($result->{stderr});
	ok_no_superuser("$way under a lock wait", $result);
	is($super->value('SELECT count(*) FROM keys.sendkit_revocation'), '0', "$way: the decoy is empty");
	$_->quit for $holder, $dropper, $mallory, $caller;
}

# --- the schema is renamed while requests are in flight ------------------------------------

{
	fresh_start();
	$super->query("SELECT keys.sendkit_request_revocation('ws-slow;delay=2')");
	my $mallory = mallory_session();
	my $caller = SendkitTest::Session->new($node);
	$caller->send($CALL);
	$api->wait_for_requests(1);
	make_decoy($mallory);
	$super->query('ALTER SCHEMA keys RENAME TO stolen');
	$mallory->query('ALTER SCHEMA decoy RENAME TO keys');
	my $result = $caller->result;
	is($result->{sqlstate}, '00000', 'renamed in flight: it is delivered') || diag($result->{stderr});
	ok_no_superuser('renamed in flight', $result);
	is($super->value('SELECT state FROM stolen.sendkit_revocation'), 'done', '... and entered where it was');
	$_->quit for $mallory, $caller;
}

# --- the extension is dropped under a statement that uses it ---------------------------------

foreach my $way (sort keys %ways)
{
	next if $way eq 'process' || $way eq 'trigger';
	fresh_start();
	my $caller = SendkitTest::Session->new($node);
	my $pid = $caller->pid;
	(my $sql = $ways{$way}) =~ s/^SELECT /SELECT pg_sleep(1.5), /;
	# (planned anew, it would not be found; so it is seen to run)
	$caller->send($sql);
	wait_until(sub { $super->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'PgSleep'") == 1 },
		'it sleeps');
	$super->query('DROP SCHEMA keys CASCADE');
	like($caller->result->{sqlstate}, qr/^(?:55000|42P01)$/, "$way: dropped meanwhile, which is an error");
	is($super->value('SELECT 1'), '1', "$way: and no crash");
	$caller->quit;
}

# --- a partition that is being detached ------------------------------------------------------

# It has no ancestors any more, and yet its rows can be changed.
{
	fresh_start();
	$super->query(<<'SQL');
CREATE TABLE keys.parted (id text, k int) PARTITION BY LIST (k);
CREATE TABLE keys.parted_1 PARTITION OF keys.parted FOR VALUES IN (1);
CREATE TABLE keys.parted_2 PARTITION OF keys.parted FOR VALUES IN (2);
INSERT INTO keys.parted VALUES ('ws-goes', 1), ('ws-moves', 1), ('ws-stays', 1);
CREATE CONSTRAINT TRIGGER revoke AFTER DELETE ON keys.parted DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION keys.sendkit_revoke_on_delete('id');
SQL
	my $reader = SendkitTest::Session->new($node);
	$reader->query('BEGIN; SELECT count(*) FROM keys.parted');
	is($super->query("SET statement_timeout = 500; ALTER TABLE keys.parted DETACH PARTITION keys.parted_1 CONCURRENTLY")->{sqlstate},
		'57014', 'a partition stays half detached');
	$super->query('RESET statement_timeout');
	is($super->query(<<'SQL')->{sqlstate}, '00000', '... and whoever deletes its rows ends no server');
BEGIN;
DELETE FROM keys.parted_1;
INSERT INTO keys.parted_1 VALUES ('ws-stays', 1);
INSERT INTO keys.parted VALUES ('ws-moves', 2);
COMMIT;
SQL
	is($super->value("SELECT string_agg(workspace_id, ' ') FROM keys.sendkit_revocation"), 'ws-goes',
		'... and the keys of those that came back, in it or beside it, are left alone');
	$reader->quit;
}

$super->quit;
ok_key_not_logged($node);
$node->stop;
done_testing();
