# Where the client's encoding cannot hold what is said, PostgreSQL raises an error of
# its own in the place of what was to be said.
#
# It must not break the loading of the library, swallow a cancel, lose the books of a
# delivery, or let a statement into the log. And a statement that was kept out of the
# log is there again for whoever caught the error.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start;
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");
$node->safe_psql('postgres', "CREATE DATABASE app ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0");
$node->safe_psql('app', <<"SQL");
CREATE EXTENSION sendkit;
CREATE ROLE ordinary LOGIN;
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
GRANT DELETE, SELECT ON workspace TO ordinary;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key, sendkit_delete_api_keys, sendkit_request_revocation TO ordinary;
CREATE FUNCTION removes_quietly(w text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, public, pg_temp SET sendkit.auto_deliver = off
	AS 'BEGIN DELETE FROM public.workspace WHERE id = w; END';
CREATE TABLE trace (statement text);
CREATE FUNCTION traces() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
	AS 'BEGIN INSERT INTO public.trace VALUES (current_query()); RETURN NULL; END';
CREATE TABLE payroll (n int);
CREATE TRIGGER traces AFTER INSERT ON payroll FOR EACH ROW EXECUTE FUNCTION traces();
SQL

sub abroad
{
	my ($user) = @_;
	local $ENV{PGUSER} = $user if $user;
	my $session = SendkitTest::Session->new($node, dbname => 'app');
	$session->value('SET client_encoding = LATIN1');
	return $session;
}

# --- the library is loaded where a value is refused ---------------------------------------

for my $use (q{SELECT removes_quietly('w')}, q{DELETE FROM workspace WHERE id = 'w'},
	"SELECT success FROM sendkit_delete_api_key('w', '$KEY')")
{
	my $session = abroad('ordinary');
	$session->value(q{SET sendkit.max_retries = U&'\2603'});
	for my $time (1 .. 3)
	{
		is($session->query($use)->{sqlstate}, '00000', "$use, with a value that cannot be shown, for the ${time}th time");
	}
	$session->quit;
}

# --- a cancel stays one --------------------------------------------------------------------

for my $call (q{sendkit_delete_api_key(U&'\2603;silent', %s)}, q{sendkit_delete_api_keys(ARRAY[U&'\2603;silent', 'x'], %s)})
{
	my $session = abroad('ordinary');
	$session->value("SET statement_timeout = '300ms'");
	my $result = $session->query('SELECT ' . sprintf($call, "'$KEY'"));
	is($result->{sqlstate}, '57014', "$call: a cancel is one");
	like($result->{stderr}, qr/NOTICE: .*was interrupted: .*unknown/, '... and its notice is seen');
	$session->quit;
}

# --- the books of a delivery are kept ---------------------------------------------------------

$node->safe_psql('app', "CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw; CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY')");
{
	my $session = abroad();
	$session->value(q{SELECT sendkit_request_revocation(U&'\2603' || i || ';status=422'), sendkit_request_revocation('good-' || i) FROM generate_series(1, 50) i});
	my $result = $session->query('CALL sendkit_process_revocations()');
	is($result->{sqlstate}, '00000', 'a delivery with failures whose names cannot be shown');
	is(join(', ', @{ $session->query('SELECT state, count(*) FROM sendkit_revocation GROUP BY 1 ORDER BY 1')->{rows} }) =~ s/\|/ /gr,
		'done 50, failed 50', '... enters all of it into the books');
	$session->quit;
}

# --- a key is stored for whom it is given -------------------------------------------------------

{
	my $session = abroad();
	$session->value(q{CREATE ROLE U&"\\2603"});
	is($session->query(qq{SELECT sendkit_store_platform_key(U&'\\2603', k) FROM (SELECT reverse(reverse('sk_user_') || 'x') || '12345678') s(k)})->{sqlstate},
		'00000', 'a key is stored for a role whose name cannot be shown');
	is($session->value(q{SELECT count(*) FROM pg_user_mappings WHERE usename = U&'\\2603'}), '1', '... and is there');
	$session->quit;
}

# --- the statement comes back ------------------------------------------------------------------

{
	my $session = SendkitTest::Session->new($node, dbname => 'app');
	for my $caught (q{sendkit_request_revocation('sk_')}, q{sendkit_delete_api_key('', 'x')})
	{
		$session->query("DO \$\$ BEGIN BEGIN PERFORM $caught; EXCEPTION WHEN others THEN NULL; END; INSERT INTO payroll VALUES (1); END \$\$");
		like($session->value('DELETE FROM trace RETURNING statement'), qr/^DO .*payroll/, "a caught error of $caught hides nothing else");
		$session->query("DO \$\$ BEGIN BEGIN PERFORM $caught; EXCEPTION WHEN others THEN NULL; END; RAISE 'in plain sight'; END \$\$");
	}
	$session->quit;
}
like(slurp_file($node->logfile), qr/ERROR:  in plain sight\n(?:.*\n)?.*STATEMENT:  DO .*sk_.*\n(?:.*\n)*.*ERROR:  in plain sight\n(?:.*\n)?.*STATEMENT:  DO .*'x'/,
	'... nor from the log');

# --- swapped name and value ----------------------------------------------------------------------

{
	my $session = SendkitTest::Session->new($node, dbname => 'app');
	my $result = $session->query(qq{CREATE USER MAPPING FOR ordinary SERVER sendkit OPTIONS ("$KEY" 'platform_key')});
	is($result->{sqlstate}, 'HV00D', 'name and value of an option, swapped');
	unlike($result->{stderr}, qr/\Q$KEY\E/, '... are not shown');
	$session->quit;
}

ok_key_not_logged($node);
$node->stop;
done_testing();
