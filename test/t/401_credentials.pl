# User mappings among several sessions: what sql/credentials.sql, which is one
# session and a superuser's, can't show. Roles log in themselves, so that nothing
# is loaded or allowed because of the superuser behind them; keys change under
# sessions that have used them; and mappings go through dumps.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start;
my $node = start_node($api);
my $calls = 0;

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE billing LOGIN;
CREATE ROLE audit LOGIN;
CREATE ROLE admin LOGIN;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO billing, audit;
GRANT USAGE ON FOREIGN DATA WRAPPER sendkit_fdw TO admin;
GRANT CREATE ON DATABASE postgres TO admin;
SQL

sub login
{
	my ($role, $dbname) = @_;
	local $ENV{PGUSER} = $role;
	return SendkitTest::Session->new($node, dbname => $dbname || 'postgres');
}

# The key that a session's call is made with, or the SQLSTATE of its error.
sub key_used
{
	my ($session, $sql) = @_;
	my $id = 'mapping-' . ++$calls;
	my $result = $session->query($sql ? sprintf($sql, $id) : "SELECT sendkit_delete_api_key('$id')");
	return $result->{sqlstate} if $result->{sqlstate} ne '00000';
	my ($key) = map { $_->[1] } grep { lc $_->[0] eq 'x-api-key' }
	  @{ $api->requests(id => $id)->[0]{headers} };
	return $key;
}

# --- an ordinary role can administer it ---

my $admin = login('admin');
is($admin->query('CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw')->{sqlstate},
	'00000', 'USAGE on the wrapper is enough to create the server');
my $billing = login('billing');
is(key_used($billing), '28000', 'a role that has no mapping has no key');
my $own = "CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key 'sk_user_own')";
is($billing->query($own)->{sqlstate}, '42501', 'a role without USAGE can\'t create its own mapping');
$admin->value('GRANT USAGE ON FOREIGN SERVER sendkit TO billing');
is($billing->query($own)->{sqlstate}, '00000', '... and one with it can');
is(key_used($billing), 'sk_user_own', 'it is used');
is($billing->query("CREATE USER MAPPING FOR audit SERVER sendkit OPTIONS (platform_key 'sk_user_x')")->{sqlstate},
	'42501', 'but it can\'t give another role a key');
is($admin->query("CREATE USER MAPPING FOR audit SERVER sendkit OPTIONS (platform_key 'sk_user_audit')")->{sqlstate},
	'00000', 'the server\'s owner can');

# --- changes are seen by sessions that are there ---

my $audit = login('audit');
is(key_used($audit), '42501', 'a mapping without USAGE is refused');
$admin->value('GRANT USAGE ON FOREIGN SERVER sendkit TO audit');
is(key_used($audit), 'sk_user_audit', 'USAGE that is granted meanwhile is enough');
is(key_used($billing), 'sk_user_own', 'each role has its own key');

my $prepared = "EXECUTE revoke('%s')";
$billing->value('PREPARE revoke(text) AS SELECT sendkit_delete_api_key($1)');
is(key_used($billing, $prepared), 'sk_user_own', 'a prepared statement uses the key');
$admin->value("ALTER USER MAPPING FOR billing SERVER sendkit OPTIONS (SET platform_key 'sk_user_rotated')");
is(key_used($billing, $prepared), 'sk_user_rotated', '... and the new one when it is changed');
my ($before, $after) = @{ $api->requests }[ -2, -1 ];
is($after->{connection}, $before->{connection}, '... over the same connection');

$admin->value('BEGIN');
$admin->value("ALTER USER MAPPING FOR billing SERVER sendkit OPTIONS (SET platform_key 'sk_user_tentative')");
is(key_used($billing), 'sk_user_rotated', 'a change that isn\'t committed is not used');
$admin->value('ROLLBACK');
is(key_used($billing), 'sk_user_rotated', '... nor one that was rolled back');
$admin->value('REVOKE USAGE ON FOREIGN SERVER sendkit FROM billing');
is(key_used($billing, $prepared), '42501', 'USAGE that is revoked is missed at once');
$admin->value('GRANT USAGE ON FOREIGN SERVER sendkit TO billing');
$admin->value('ALTER SERVER sendkit RENAME TO sendkit_old');
is(key_used($billing), '28000', 'a server of another name isn\'t used');
$admin->value('ALTER SERVER sendkit_old RENAME TO sendkit');
is(key_used($billing), 'sk_user_rotated', '... until it is named so again');

# --- dumps ---

# Restores what a role dumps into a new database.
sub restored_from
{
	my ($role) = @_;
	my $dump = PostgreSQL::Test::Utils::tempdir() . "/$role.sql";
	$node->safe_psql('postgres', "CREATE DATABASE from_$role");
	{
		local $ENV{PGUSER} = $role if $role ne 'superuser';
		$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], "a dump by $role");
	}
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr("from_$role") ],
		'... is restored');
	return login('billing', "from_$role");
}

# pg_dump reads the extension's own tables as well.
$node->safe_psql('postgres', <<'SQL');
GRANT SELECT ON ALL TABLES IN SCHEMA public TO audit;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO audit;
SQL
is(key_used(restored_from('audit')), '28000', '... with mappings that have no key, if a role that may not see it did');
my $copy = restored_from('superuser');
is(key_used($copy), '55000', '... with keys, if a superuser made it, which a copy must not use');
is(key_used($copy, "SELECT sendkit_delete_api_key('%s', 'sk_user_given')"), 'sk_user_given', '... but one that it is given');
$node->safe_psql('from_superuser', 'SELECT sendkit_adopt_revocations()');
is(key_used($copy), 'sk_user_rotated', '... until it takes the place of the original');
$copy->quit;

# A copy made in another way, and the other stored key
$node->safe_psql('postgres', 'CREATE ROLE clerk LOGIN; GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO clerk');
my $file = PostgreSQL::Test::Utils::tempdir() . '/key';
open(my $handle, '>', $file) or die $!;
print $handle "sk_user_file\n";
close $handle;
chmod 0600, $file;
$node->append_conf('postgresql.conf', "sendkit.platform_key_file = '$file'\n");
$_->quit foreach $admin, $billing, $audit;
$node->restart;
$node->safe_psql('template1', 'CREATE DATABASE by_template TEMPLATE postgres');
is(key_used(login('clerk')), 'sk_user_file', 'the original uses the file');
is(key_used(login('clerk', 'by_template')), '55000', '... which a copy must not');
($admin, $billing, $audit) = map { login($_) } qw(admin billing audit);

# --- the end ---

is($node->psql('postgres', 'DROP EXTENSION sendkit'), 3, 'the extension stays while there is a server');
is(key_used($billing), 'sk_user_rotated', '... and works');
$node->safe_psql('postgres', 'DROP EXTENSION sendkit CASCADE; CREATE EXTENSION sendkit;'
	  . 'GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO billing');
is(key_used($billing), 'sk_user_file', 'with the server go the keys in mappings');

my $log = slurp_file($node->logfile);
# other than sendkit's own errors, PostgreSQL's show the statement
unlike($log, qr/sk_user_(?:rotated|audit|tentative)/, 'the log shows no key in use');

$_->quit foreach $admin, $billing, $audit;
$node->stop;
$api->stop;
done_testing();
