# ALTER EXTENSION UPDATE makes what CREATE EXTENSION makes, under running sessions.
#
# A package brings the new library first, so that the SQL of each released version
# has to work with it. Then a person updates database by database, and has to get
# what a new installation gets: whatever only one of the two scripts says would be
# a difference between customers for ever.
#
# Every version that can be updated from is tried. As a rehearsal for the next
# release, so is a step to a version that is made up here, in a copy of PostgreSQL.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitInstallation;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(time);

my $installation = SendkitInstallation->new;
my $extensions = $installation->sharedir . '/extension';
my $control = slurp_file("$extensions/sendkit.control");
my ($current) = $control =~ /^default_version = '(.*)'$/m or die 'no version';
my $next = "$current.999";

# --- a version that is made up -------------------------------------------------------

# Writes the next version as a release would: the change in a script of its own,
# and the same worked into the script that installs all of it.
sub make_next_version
{
	my $all = slurp_file("$extensions/sendkit--$current.sql");
	my $column = "note text DEFAULT 'none'";
	my $change = <<'SQL';
COMMENT ON COLUMN @extschema@.sendkit_revocation.note IS 'a remark';
CREATE INDEX sendkit_revocation_note_idx ON @extschema@.sendkit_revocation (note);
COMMENT ON INDEX @extschema@.sendkit_revocation_note_idx IS 'finds remarks';
CREATE FUNCTION @extschema@.sendkit_remark() RETURNS bigint
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT pg_catalog.count(*) FROM @extschema@.sendkit_revocation r
	WHERE r.note OPERATOR(pg_catalog.<>) 'none';
END;
REVOKE ALL ON FUNCTION @extschema@.sendkit_remark() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.sendkit_remark() IS 'counts remarks';
SQL

	# a column comes behind all others, here as there
	$all =~ s/^(CREATE TABLE \@extschema\@\.sendkit_revocation \(.*?)(^\tCONSTRAINT)/$1\t$column,\n$2/ms
	  or die 'where is the table?';
	append_to_file("$extensions/sendkit--$next.sql", $all . $change);
	append_to_file("$extensions/sendkit--$current--$next.sql",
		"ALTER TABLE \@extschema\@.sendkit_revocation ADD COLUMN $column;\n$change");
	return;
}

# --- catalogs ------------------------------------------------------------------------

# All that the catalogs say of the extension and of what belongs to it, without
# the numbers of objects. pg_dump tells each member, its privileges and comments
# when it is made to dump for pg_upgrade; it doesn't tell what depends on what.
sub catalogs
{
	my ($node, $db) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

	$node->run_log([ $node->installed_command('pg_dump'), '--binary-upgrade', '--schema-only',
			'-f', $file, '-d', $node->connstr($db) ])
	  or die 'pg_dump failed';
	my $dump = slurp_file($file);
	$dump =~ s/^\\(un)?restrict .*\n//mg;
	$dump =~ s/^(-- set missing value\.|SELECT pg_catalog\.binary_upgrade_set_(next|attribute|missing)).*\n//mg;
	$dump =~ s/\b(relfrozenxid|relminmxid|oid) = '\d+'/$1/g;
	$dump =~ s/\n+/\n/g;
	$dump =~ s/(binary_upgrade_create_empty_extension\(.*?)'\{[\d,]*\}'/$1/;

	my $dependencies = $node->safe_psql($db, <<'SQL');
SELECT extconfig::regclass[]::text[] FROM pg_extension WHERE extname = 'sendkit';
WITH RECURSIVE ours(classid, objid) AS (
	SELECT 'pg_extension'::regclass::oid, oid FROM pg_extension WHERE extname = 'sendkit'
	UNION
	SELECT d.classid, d.objid FROM pg_depend d
		JOIN ours o ON (d.refclassid, d.refobjid) = (o.classid, o.objid)
)
SELECT regexp_replace(line, '\d{5,}', 'N', 'g') FROM (
	SELECT format('%s (%s) %s', pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype,
		pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)) AS line
	FROM pg_depend d JOIN ours o ON (d.classid, d.objid) = (o.classid, o.objid)
	UNION ALL
	SELECT format('%s (%s) %s', pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype,
		pg_describe_object(d.refclassid, d.refobjid, 0))
	FROM pg_shdepend d JOIN ours o ON (d.classid, d.objid) = (o.classid, o.objid)
	WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
) s ORDER BY 1
SQL
	return "$dump\n$dependencies\n";
}

# Tests that two are the same, and shows the lines that are not.
sub is_same
{
	my ($got, $expected, $name) = @_;
	my %had = map { $_ => 1 } split /\n/, $expected;
	my %has = map { $_ => 1 } split /\n/, $got;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok($got eq $expected, $name)
	  || diag(map { "$_\n" } (map { "- $_" } grep { !$has{$_} } split /\n/, $expected),
		(map { "+ $_" } grep { !$had{$_} } split /\n/, $got));
}

sub create_database
{
	my ($node, $db, $version) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE SCHEMA keys; CREATE EXTENSION sendkit SCHEMA keys VERSION '$version'");
	return;
}

# --- a database that is in use ---------------------------------------------------------

sub equip_database
{
	my ($node, $db) = @_;

	$node->safe_psql($db, <<"SQL");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke_api_keys AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION keys.sendkit_revoke_on_delete('id');
SQL
	return;
}

# Removes a workspace in this session, whose revocation is to be delivered.
sub remove_workspace
{
	my ($session, $id) = @_;
	$session->value("WITH added AS (INSERT INTO workspace VALUES ('$id') RETURNING id) SELECT id FROM added");
	is($session->query("DELETE FROM workspace WHERE id = '$id'")->{sqlstate}, '00000',
		"$id is removed");
	return;
}

sub state_of
{
	my ($node, $db, $id) = @_;
	return $node->safe_psql($db,
		"SELECT state FROM keys.sendkit_revocation WHERE workspace_id = '$id'");
}

# All ways to the API, in a session that may have come before the update.
sub check_works
{
	my ($node, $db, $session, $tag) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($session->value("SELECT success FROM keys.sendkit_delete_api_key('$db-$tag-one')"),
		't', "$db, $tag: one workspace");
	is($session->value("SELECT string_agg(outcome, ' ') FROM keys.sendkit_delete_api_keys(ARRAY['$db-$tag-a', '$db-$tag-b'])"),
		'deleted deleted', "$db, $tag: several");
	remove_workspace($session, "$db-$tag-removed");
	is($session->query('CALL keys.sendkit_process_revocations()')->{sqlstate}, '00000',
		"$db, $tag: the queue is delivered");
	wait_until(sub { state_of($node, $db, "$db-$tag-removed") eq 'done' }, 'the revocation is done');
	is($session->value('SELECT keys.sendkit_retry_revocations()'), '0',
		"$db, $tag: nothing has failed");
	is($session->value("SELECT revocations > 0 FROM keys.sendkit_revocation_summary WHERE state = 'done'"),
		't', "$db, $tag: and the summary tells");
	return;
}

# --- from one version to another -------------------------------------------------------

sub rehearse
{
	my ($node, $api, $from, $to) = @_;
	my $tag = "$from to $to";
	(my $suffix = "${from}_$to") =~ s/\W/_/g;

	# the catalogs
	create_database($node, "new_$suffix", $to);
	create_database($node, "old_$suffix", $from);
	$node->safe_psql("old_$suffix", "ALTER EXTENSION sendkit UPDATE TO '$to'");
	my ($new, $old) = map { catalogs($node, "${_}_$suffix") } qw(new old);
	is_same($old, $new, "$tag: an update gives what a new installation gives");

	# the old SQL on this library, and the step below those who use it
	my $db = "live_$suffix";
	my $slow = 'ws-slow;delay=3';
	create_database($node, $db, $from);
	equip_database($node, $db);
	my $session = SendkitTest::Session->new($node, dbname => $db);
	my $sender = SendkitTest::Session->new($node, dbname => $db);
	check_works($node, $db, $session, 'before');

	# Whoever delivers it, a worker or this session: it is under way.
	remove_workspace($session, $slow);
	$sender->send('CALL keys.sendkit_process_revocations()');
	wait_until(sub { grep { $_->{id} eq $slow } @{ $api->requests } }, 'the request is under way');
	$node->safe_psql($db, "ALTER EXTENSION sendkit UPDATE TO '$to'");
	is(state_of($node, $db, $slow), 'sending', "$tag: the update waits for no request");
	is($sender->result->{sqlstate}, '00000', "$tag: the session that delivers goes on");
	wait_until(sub { state_of($node, $db, $slow) eq 'done' }, 'the slow revocation is done');
	is(scalar(grep { $_->{id} eq $slow } @{ $api->requests }), 1, "$tag: it was sent once");

	check_works($node, $db, $session, 'after');
	$_->quit for $session, $sender;

	$session = SendkitTest::Session->new($node, dbname => $db);
	check_works($node, $db, $session, 'anew');
	$session->quit;
	$api->reset;
	return;
}

# ---------------------------------------------------------------------------------------

make_next_version();

my $api = SendkitStandin->start;
my $node = PostgreSQL::Test::Cluster->new('main', install_path => $installation->path);
$node->init;
$node->append_conf('postgresql.conf',
	"log_statement = none\nsendkit.base_url = '" . $api->url('http') . "'\n");
$node->start;

# A comparison that sees no difference would be worth nothing.
create_database($node, 'same', $current);
create_database($node, 'other', $current);
my $same = catalogs($node, 'same');
is_same(catalogs($node, 'other'), $same, 'two new installations are the same');
foreach my $difference (
	'GRANT EXECUTE ON FUNCTION keys.sendkit_delete_api_key(text, text) TO PUBLIC',
	"COMMENT ON COLUMN keys.sendkit_revocation.state IS 'else'",
	'ALTER FUNCTION keys.sendkit_retry_revocations(bigint[]) COST 7',
	'ALTER TABLE keys.sendkit_revocation ALTER COLUMN message SET NOT NULL',
	'ALTER TABLE keys.sendkit_revocation RESET (fillfactor)',
	'ALTER EXTENSION sendkit DROP FUNCTION keys.sendkit_retry_revocations(bigint[])',
	"UPDATE pg_extension SET extconfig = extconfig[1:1], extcondition = extcondition[1:1] WHERE extname = 'sendkit'",
	"DELETE FROM pg_depend WHERE objid = 'keys.sendkit_revocation_due_idx'::regclass AND deptype = 'a'")
{
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS different');
	create_database($node, 'different', $current);
	$node->safe_psql('different', $difference);
	isnt(catalogs($node, 'different'), $same, "seen: $difference");
}

my @released = split /\n/, $node->safe_psql('postgres', <<"SQL");
SELECT source FROM pg_extension_update_paths('sendkit')
WHERE target = '$current' AND path IS NOT NULL ORDER BY source
SQL
note("released versions before $current: ", scalar @released ? "@released" : 'none');
rehearse($node, $api, $_, $current) for @released;
rehearse($node, $api, $current, $next);

ok_key_not_logged($node);
$node->stop;
done_testing();
