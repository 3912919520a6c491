# A copy must not revoke the original's keys.
#
# Whoever restores a dump of production on a staging server, or makes a database
# from a template, gets everything along: the queue, so that nothing is lost when
# the restore is for good, the workspaces, and perhaps a key. Nobody can tell a
# rescue from a copy. So nothing is delivered, neither what came along nor what is
# requested when the copy is purged, until a person says that this is the home
# now.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $far = "'2100-01-01'";
my $conf = "sendkit.max_retries = 0\nfsync = off\n";

my $origin = start_node($api, name => 'origin', conf => $conf);
my $other = start_node($api, name => 'other', conf => $conf);

# Without PGHOST and the like, which safe_psql sets by itself.
sub run_client
{
	my ($node, $name, @command) = @_;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err);
	my $ok = IPC::Run::run([ $node->installed_command($command[0]), @command[ 1 .. $#command ] ],
		'>', \$out, '2>', \$err);
	ok($ok, $name) || diag($err);
	# pg_restore and psql may do only a part, and go on
	is($err, '', "$name: without a word");
	return;
}

sub summary
{
	my ($node, $db) = @_;
	return $node->safe_psql($db,
		"SELECT string_agg(state || ' ' || revocations, ', ') FROM keys.sendkit_revocation_summary WHERE revocations > 0");
}

sub contents
{
	my ($node, $db) = @_;
	return $node->safe_psql($db, 'SELECT * FROM keys.sendkit_revocation ORDER BY id');
}

sub sent
{
	return $api->stats->{requests}{total};
}

# Delivers, and returns the ids of the workspaces that were sent. (A copy may
# refuse to.)
sub delivered
{
	my ($node, $db) = @_;
	my $before = sent();
	$node->psql($db, 'CALL keys.sendkit_process_revocations()');
	my @requests = @{ $api->requests };
	return join ' ', sort map { $_->{id} } @requests[ $before .. $#requests ];
}

# --- the original: a queue with a row in each state ---

# Its schema is not in any search path.
$origin->safe_psql('postgres', 'CREATE DATABASE shop');
$origin->safe_psql('shop', <<"SQL");
CREATE SCHEMA keys;
CREATE EXTENSION sendkit SCHEMA keys;
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke AFTER DELETE ON workspace
	FOR EACH ROW EXECUTE FUNCTION keys.sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('ws-done'), ('absent-1'), ('ws-rejected;status=403'), ('ws-waits'),
	('ws-sending'), ('ws-kept');
DELETE FROM workspace WHERE id IN ('ws-done', 'absent-1', 'ws-rejected;status=403');
SQL
delivered($origin, 'shop');

# One that is waiting, also for another attempt; and one whose process is lost.
$origin->safe_psql('shop', <<"SQL");
DELETE FROM workspace WHERE id = 'ws-waits';
SELECT keys.sendkit_request_revocation('ws-leaked', $far);
DELETE FROM workspace WHERE id = 'ws-sending';
UPDATE keys.sendkit_revocation
	SET state = 'sending', attempts = 1, claimed_at = now(), claimed_by = 1 WHERE workspace_id = 'ws-sending';
SQL
my $queue = contents($origin, 'shop');
my $pending_later = 0;
is(summary($origin, 'shop'), 'pending 2, sending 1, failed 1, done 2',
	'the original has rows in each state');

# --- what must hold of every copy ---

sub check_copy
{
	my ($node, $db, $name, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(contents($node, $db), $queue, "$name: the rows are all there, as they were");
	is(summary($node, $db), 'held 3, failed 1, done 2', "$name: what is unfinished is held");
	is($node->safe_psql($db, 'SELECT keys.sendkit_is_home()'), 'f', "$name: this is not the home");
	is(delivered($node, $db), '', "$name: nothing is sent");

	$node->restart;
	is(delivered($node, $db), '', "$name: not after a restart either");
	is($node->safe_psql($db, 'SELECT keys.sendkit_retry_revocations()'), $pending_later + 1,
		"$name: to retry makes what has failed or waits due ...");
	is(delivered($node, $db), '', "$name: ... and sends nothing");
	is(summary($node, $db), 'held 4, done 2', "$name: ... but holds it");

	# The purge of a copy, by the trigger that came along
	my $last = $node->safe_psql($db, 'SELECT max(id) FROM keys.sendkit_revocation');
	$node->safe_psql($db, 'DELETE FROM workspace');
	cmp_ok($node->safe_psql($db, "SELECT id FROM keys.sendkit_revocation WHERE workspace_id = 'ws-kept'"),
		'>', $last, "$name: numbers go on after the last one");
	is(delivered($node, $db), '', "$name: what is removed in the copy is not revoked");
	is(summary($node, $db), 'held 5, done 2', "$name: but held as well");
	ok($api->key_alive($_), "$name: $_ has its key") for qw(ws-waits ws-leaked ws-sending ws-kept);

	is($node->safe_psql($db, 'SELECT keys.sendkit_adopt_revocations()'), '5',
		"$name: a person makes it the home");
	is($node->safe_psql($db, 'SELECT keys.sendkit_adopt_revocations()'), '0',
		"$name: once");
	is(delivered($node, $db), 'ws-kept ws-leaked ws-rejected;status=403 ws-sending ws-waits',
		"$name: then all is delivered");
	is(summary($node, $db), 'failed 1, done 6', "$name: to the end");
	ok(!$api->key_alive($_), "$name: the key of $_ is gone") for qw(ws-waits ws-leaked ws-sending ws-kept);
	$api->reset;
	return;
}

# --- pg_dump, read by psql and by pg_restore ---

# A superuser's dump carries the key of the user mapping, as for every wrapper.
run_client($origin, 'pg_dump', 'pg_dump', '-f', "$dir/plain.sql", 'shop');
$other->safe_psql('postgres', 'CREATE DATABASE plain');
run_client($other, 'psql', 'psql', '-Xq', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", 'plain');
check_copy($other, 'plain', 'pg_dump | psql');

run_client($origin, 'pg_dump -Fc', 'pg_dump', '-Fc', '-f', "$dir/custom", 'shop');
$other->safe_psql('postgres', 'CREATE DATABASE custom');
run_client($other, 'pg_restore', 'pg_restore', '-j2', '-d', 'custom', "$dir/custom");
check_copy($other, 'custom', 'pg_dump -Fc | pg_restore');

# --- the same by a role for backups, which gets to see no key ---

$origin->safe_psql('postgres', 'CREATE ROLE backup LOGIN IN ROLE pg_read_all_data');
run_client($origin, 'pg_dump by an ordinary role', 'pg_dump', '-U', 'backup', '-f', "$dir/backup.sql", 'shop');
my $dump = slurp_file("$dir/backup.sql");
like($dump, qr/^COPY keys\.sendkit_revocation .*\tws-waits\t/ms, 'it has the queue');
like($dump, qr/setval\('keys\.sendkit_revocation_id_seq'/, 'and the sequence');
unlike($dump, qr/\Q$KEY\E/, 'but no key');

like($dump, qr/^COPY keys\.sendkit_home /m, 'it knows whose they are');

# --- data alone, into a database that has the extension and its own home ---

run_client($origin, 'pg_dump --data-only', 'pg_dump', '--data-only', '-f', "$dir/data.sql", 'shop');
$other->safe_psql('postgres', 'CREATE DATABASE data');
$other->safe_psql('data', <<"SQL");
CREATE SCHEMA keys;
CREATE EXTENSION sendkit SCHEMA keys;
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke AFTER DELETE ON workspace
	FOR EACH ROW EXECUTE FUNCTION keys.sendkit_revoke_on_delete('id');
SQL
is($other->safe_psql('data', 'SELECT keys.sendkit_is_home()'), 't', 'a database is its own home');
run_client($other, 'psql with data', 'psql', '-Xq', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/data.sql", 'data');
check_copy($other, 'data', 'pg_dump --data-only');

# --- a copy in the same cluster ---

$origin->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE shop');
check_copy($origin, 'copy', 'CREATE DATABASE ... TEMPLATE');

# --- the original is what it was, also under another name ---

is(contents($origin, 'shop'), $queue, 'the original was not touched');
$origin->safe_psql('postgres', 'ALTER DATABASE shop RENAME TO store');
is(summary($origin, 'store'), 'pending 2, sending 1, failed 1, done 2',
	'in a renamed database nothing is held');
$origin->safe_psql('postgres', 'ALTER DATABASE store RENAME TO shop');

# --- a dump goes back into the database that it came from ---

$origin->safe_psql('shop', 'DROP SCHEMA keys CASCADE; DROP TABLE workspace');
run_client($origin, 'psql into the original', 'psql', '-Xq', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", 'shop');
is(contents($origin, 'shop'), $queue, 'the old state is back');
is(summary($origin, 'shop'), 'pending 2, sending 1, failed 1, done 2', 'and not held');
is($origin->safe_psql('shop', 'SELECT count(*) FROM keys.sendkit_home'), '2', 'the home is named twice');
is(delivered($origin, 'shop'), 'ws-leaked ws-sending ws-waits', 'so that it is delivered');
$api->reset;
# back to the state that the copies know
$origin->safe_psql('shop', 'DROP SCHEMA keys CASCADE; DROP TABLE workspace');
run_client($origin, 'once more', 'psql', '-Xq', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", 'shop');

# --- pg_upgrade: a new cluster, too, so that it needs the same word ---

my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
$upgraded->init;
# as that of the original, except for the port
$upgraded->append_conf('postgresql.conf',
	"log_statement = none\nsendkit.auto_deliver = off\nsendkit.base_url = '" . $api->url('http') . "'\n$conf");
my $bin = $origin->safe_psql('postgres', "SELECT setting FROM pg_config WHERE name = 'BINDIR'");
$origin->safe_psql('postgres', 'DROP DATABASE copy');
$other->stop;
$origin->stop;
{
	# It leaves files where it runs.
	my $out;
	mkdir "$dir/upgrade" or die "$dir/upgrade: $!";
	local $ENV{PATH} = "$bin:$ENV{PATH}";
	my $ok = IPC::Run::run(
		[ "$bin/pg_upgrade", '-b', $bin, '-B', $bin,
			'-d', $origin->data_dir, '-D', $upgraded->data_dir,
			'-p', $origin->port, '-P', $upgraded->port, '-s', $origin->host ],
		'>', \$out, '2>&1', init => sub { chdir "$dir/upgrade" or die "chdir: $!" });
	ok($ok, 'pg_upgrade') || diag($out);
}
$upgraded->start;
check_copy($upgraded, 'shop', 'pg_upgrade');

# --- away with the extension, and back, under the eyes of a session ---

{
	my $session = SendkitTest::Session->new($upgraded, dbname => 'shop');
	$session->value('SELECT keys.sendkit_request_revocation(\'ws-first\')');
	$session->query('CALL keys.sendkit_process_revocations()');
	ok(!$api->key_alive('ws-first'), 'a session that has used the queue');

	is($session->query('DROP EXTENSION sendkit')->{sqlstate}, '2BP01',
		'DROP EXTENSION is refused while a trigger needs it');
	is($session->query('DROP EXTENSION sendkit CASCADE')->{sqlstate}, '00000',
		'with CASCADE it is dropped');
	is($session->query("DELETE FROM workspace; INSERT INTO workspace VALUES ('ws-second'); DELETE FROM workspace")->{sqlstate},
		'00000', 'workspaces can be removed without it');
	is($session->query('CREATE SCHEMA elsewhere; CREATE EXTENSION sendkit SCHEMA elsewhere')->{sqlstate},
		'00000', 'it is created again in another schema');
	$session->query(<<"SQL");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
SQL
	is($session->value("SELECT elsewhere.sendkit_request_revocation('ws-third')"), '1',
		'numbers begin anew');
	is($session->query('CALL elsewhere.sendkit_process_revocations()')->{sqlstate}, '00000',
		'the session goes on with the new queue');
	ok(!$api->key_alive('ws-third'), 'and delivers from it');

	is($session->query('DROP EXTENSION sendkit CASCADE; CREATE EXTENSION sendkit SCHEMA elsewhere')->{sqlstate},
		'00000', 'it is created again in the same schema');
	$session->query(<<"SQL");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
SQL
	is($session->value("SELECT elsewhere.sendkit_request_revocation('ws-fourth')"), '1',
		'which is new to the session as well');
	is($session->query('CALL elsewhere.sendkit_process_revocations()')->{sqlstate}, '00000',
		'the session goes on');
	ok(!$api->key_alive('ws-fourth'), 'and delivers');
	$session->quit;
}

ok_key_not_logged($upgraded);
$_->stop for $upgraded;
done_testing();
