# The hunt: does a stored key show anywhere?
#
# A server is told to log and keep all that it can, and then everything is done
# with stored keys, by mapping and by file, that is known to work or to fail.
# After that each key is looked for wherever somebody might look: what clients
# were told, the server's log, every view and catalog, dumps, the files of the
# data folder, and what the system shows of processes.
#
# Where PostgreSQL itself keeps the key of a user mapping, the hunt has to find
# it: else it would be blind, and its silence worth nothing.

use strict;
use warnings;

use File::Find;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

# As a real key looks, without anything that others might have to say.
my %key = (
	mapping => 'sk_user_vQ8mZrTw3pLk',
	public => 'sk_user_Hc5nYxJd9bFs',
	file => 'sk_user_gR2tUeMa7wPi',
	argument => 'sk_user_kB6vSoXq4zNj');
my @stored = qw(mapping public file);

# All have the same length; and this is what is shown in their place.
my $mask = '*' x length $key{mapping};

my $folder = PostgreSQL::Test::Utils::tempdir();

# The names of those keys that are in a text.
sub keys_in
{
	my ($text) = @_;
	# the second halves are telling enough
	return grep { index($text, substr $key{$_}, 8) >= 0 } sort keys %key;
}

# Tests that of all keys a text shows these, and no others.
sub ok_shows
{
	my ($text, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $good = is(join(' ', keys_in($text)), $expected, $name);
	if (!$good)
	{
		my $any = join '|', map { substr $_, 8 } values %key;
		diag(join "\n", grep { defined } (grep { /$any/ } split /\n/, $text)[ 0 .. 4 ]);
	}
	return $good;
}

my $api = SendkitStandin->start(tls => 1);
my $node = PostgreSQL::Test::Cluster->new('hunt');
$node->init;
my $lib = $node->config_data('--pkglibdir');
my @watchers = grep { -e "$lib/$_.so" } qw(pg_stat_statements auto_explain pgaudit);
my %watched_by = map { $_ => 1 } @watchers;
$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '@{[ join ',', @watchers ]}'
log_statement = all
log_min_messages = debug5
log_min_error_statement = debug5
log_error_verbosity = verbose
log_min_duration_statement = 0
log_transaction_sample_rate = 1
log_duration = on
log_lock_waits = on
log_temp_files = 0
log_replication_commands = on
log_executor_stats = on
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
debug_print_parse = on
debug_print_rewritten = on
debug_print_plan = on
track_activity_query_size = 100kB
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_settings = on
auto_explain.log_triggers = on
auto_explain.log_nested_statements = on
@{[ $watched_by{pgaudit} ? join("\n", map { "pgaudit.$_" } 'log = all', 'log_catalog = on', 'log_client = on',
	'log_parameter = on', 'log_relation = on', 'log_rows = on', 'log_statement = on', 'role = nosy') : '' ]}
sendkit.base_url = '@{[ $api->url('http') ]}'
sendkit.ca_file = '@{[ $api->ca ]}'
sendkit.max_retries = 1
sendkit.request_timeout = 400ms
sendkit.platform_key_file = '$folder/key'
CONF
$node->start;

# Roles: one with a key in a user mapping, one for PUBLIC's, one whose mapping has
# no key, which leaves it to the file; an owner of all, who is no superuser; one who
# has no right but to read what all may, and looks everywhere; and one who may read
# all data.
$node->safe_psql('postgres', <<"SQL");
CREATE ROLE owner LOGIN;
CREATE ROLE billing LOGIN;
CREATE ROLE anyone LOGIN;
CREATE ROLE clerk LOGIN;
CREATE ROLE nosy LOGIN;
CREATE ROLE reader LOGIN IN ROLE pg_read_all_data;
CREATE DATABASE app OWNER owner ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0;
SQL
$node->safe_psql('app', <<"SQL");
CREATE EXTENSION sendkit;
@{[ map { "CREATE EXTENSION $_;" } grep { $watched_by{$_} } qw(pg_stat_statements pgaudit) ]}
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key, sendkit_delete_api_keys
	TO billing, anyone, clerk;
CREATE TABLE audit (at timestamptz DEFAULT now(), role name DEFAULT current_user, message text, details jsonb);
GRANT INSERT ON audit TO PUBLIC;
-- an auditor of DDL keeps all that event triggers are told
CREATE TABLE ddl (at timestamptz DEFAULT now(), event text, statement text, command text, object text);
GRANT INSERT ON ddl TO PUBLIC;
CREATE FUNCTION keep_ddl() RETURNS event_trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO ddl (event, statement) VALUES (TG_EVENT || ' ' || TG_TAG, current_query());
	IF TG_EVENT = 'ddl_command_end' THEN
		INSERT INTO ddl (event, statement, command, object)
		SELECT TG_EVENT, current_query(), command_tag, object_identity FROM pg_event_trigger_ddl_commands();
	ELSIF TG_EVENT = 'sql_drop' THEN
		INSERT INTO ddl (event, statement, object)
		SELECT TG_EVENT, current_query(), object_identity FROM pg_event_trigger_dropped_objects();
	END IF;
END \$\$;
CREATE EVENT TRIGGER keep_start ON ddl_command_start EXECUTE FUNCTION keep_ddl();
CREATE EVENT TRIGGER keep_end ON ddl_command_end EXECUTE FUNCTION keep_ddl();
CREATE EVENT TRIGGER keep_drop ON sql_drop EXECUTE FUNCTION keep_ddl();
SQL

# --- storing the keys ---

# All that clients were told.
my $told = '';

# Runs a script with psql, errors and all.
sub run_sql
{
	my ($sql, %option) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = $option{role} if $option{role};
	IPC::Run::run(
		[
			$node->installed_command('psql'), '-XAtq', '-d', $node->connstr('app'),
			'-v', 'VERBOSITY=verbose', '-f', '-'
		],
		'<', \$sql, '>', \$out, '2>', \$err);
	$told .= $out . $err unless $option{secret};
	return ($out, $err);
}

# The README's way to store a key without a trace.
sub store
{
	my ($role, $key) = @_;
	write_file("$folder/new_key", "$key\n", 0600);
	return run_sql(<<"SQL");
BEGIN;
CREATE TEMP TABLE secret (key text) ON COMMIT DROP;
\\copy secret FROM '$folder/new_key'
SELECT sendkit_store_platform_key('$role', key) FROM secret;
COMMIT;
SQL
}

store('billing', 'sk_user_the_one_before');
store('public', 'sk_user_another_before');
# ANALYZE, which autovacuum does, too, takes samples
run_sql('ANALYZE pg_user_mapping');
my $samples = q{SELECT count(*) > 0 FROM pg_stats s WHERE s::text ~ 'sk_user_[a-z_]*_before'};
my ($answer) = run_sql($samples);
is($answer, "t\n", 'keys are in the planner\'s statistics');
store('billing', $key{mapping});
($answer) = run_sql($samples);
is($answer, "f\n", '... but not when one has been replaced');
store('public', $key{public});
run_sql(<<'SQL');
GRANT USAGE ON FOREIGN SERVER sendkit TO billing, anyone, clerk;
CREATE USER MAPPING FOR clerk SERVER sendkit;
ALTER SERVER sendkit OWNER TO owner;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC; -- all may dump: pg_dump reads the extension's own tables too
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
GRANT USAGE ON FOREIGN DATA WRAPPER sendkit_fdw TO owner;
ALTER TABLE audit OWNER TO owner;
SQL
($answer) = run_sql('SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL');
is($answer, "2\n", 'two mappings are there');

# What goes wrong with it is no reason to tell the key.
my @failures = (
	store('no_such_role', $key{mapping}),
	store('owner', "$key{mapping} "),
	store('owner', "$key{mapping}\x{c3}"),
	store('owner', $key{mapping} x 50),
	run_sql("SELECT sendkit_forget_platform_key('no_such_role')"));
like($failures[$_], qr/ERROR/, "a failure: $_") foreach 1, 3, 5, 7, 9;
unlike($failures[$_], qr/ERROR.*secret.*exist/, '... of the right kind') foreach 1, 3, 5, 7, 9;

# It wouldn't have been so with the command: this is what auditors see of it.
my $decoy = 'sk_user_decoyDecoyDecoy';
run_sql("CREATE USER MAPPING FOR nosy SERVER sendkit OPTIONS (platform_key '$decoy')", secret => 1);
my $seen = slurp_file($node->logfile);
like($seen, qr/statement: CREATE USER MAPPING.*\Q$decoy\E/, 'the command leaves a key in the log');
like($seen, qr/AUDIT: .*CREATE USER MAPPING.*\Q$decoy\E/, '... and in the audit trail') if $watched_by{pgaudit};
($answer) = run_sql("SELECT count(*) > 0 FROM ddl WHERE statement ~ 'decoy' AND event ~ '^ddl_command_end'", secret => 1);
is($answer, "t\n", '... and with event triggers');
run_sql('ANALYZE pg_user_mapping');
run_sql("SELECT sendkit_forget_platform_key('nosy')");
($answer) = run_sql("SELECT count(*) FROM pg_stats s WHERE s::text ~ 'decoy'");
is($answer, "0\n", 'what is forgotten is so by the planner, too');
write_file("$folder/key", "$key{file}\n", 0600);

# --- everything that can be done with them ---

# Bodies that say the key, as an API that echoes headers would: body-KIND-N.
sub add_echoes
{
	my ($kind) = @_;
	my $flat = '{"error": "%1$s", "message": "the key %1$s is not known", "code": 403}';
	my $nested = '{"success": false, "error": {"code": "%1$s", "message": "no: %1$s",'
	  . ' "details": [{"%1$s": "x-api-key: %1$s"}, ["%1$s%1$s"]]}}';
	my $page = '<html>%s</html>';
	my $success = '{"success": true, "data": {"message": "API key deleted by %s"}}';
	my @bodies = map {
		my $body = $_;
		map { sprintf $body, $_ } $key{$kind}, escaped($key{$kind})
	} $flat, $nested, $page, $success;
	$api->control('POST', '/bodies',
		{ map { ("$kind-$_" => { text => $bodies[$_], status => 403 }) } 0 .. $#bodies });
	return map { ";body=$kind-$_" } 0 .. $#bodies;
}

# The same with the key's letters as JSON's escapes.
sub escaped
{
	my ($key) = @_;
	return join '', map { sprintf '\\u%04x', ord } split //, $key;
}

my @directives = (
	'', map({ ";status=$_" } 302, 400, 401, 403, 404, 408, 500, 502), ';redirect=second',
	map({ ";body=$_" } qw(html broken deep badutf8 nul nested-forbidden)),
	';size=200000', ';cl=9999', ';drip=0.2', ';silent', ';http10', ';chunked', ';until-close',
	map({ (";reset=$_", ";fin=$_") } qw(request headers body answered)),
	';close-silently', ';gzip', ';headers=200', ';delay=3');
# These hold back all the others, so they are asked for one by one.
my @limits = (';status=429;retry-after=0;times=1', ';status=429;retry-after=60', ';status=503');
my %role = (mapping => 'billing', public => 'anyone', file => 'clerk');
my $n = 0;

# Calls in all ways that differ in what PostgreSQL does around them.
sub work
{
	my ($kind) = @_;
	my $me = "$kind-" . ++$n;
	my @echoes = add_echoes($kind);
	my @ids = map { "$me-all$_" } @directives, @echoes, ';status=200' . $echoes[-1];
	my $array = 'ARRAY[' . join(', ', map { literal($_) } @ids) . ']';
	my $echoes = join ', ', map { literal("$me-echo$_") } @echoes, @limits;

	return <<"SQL";
SELECT * FROM sendkit_delete_api_keys($array);
SELECT id, r.* FROM unnest(ARRAY[$echoes]) AS id, sendkit_delete_api_key(id) AS r;
INSERT INTO audit (message, details) SELECT message, details FROM sendkit_delete_api_keys($array);
EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM sendkit_delete_api_key('$me-explain');
PREPARE revoke(text) AS SELECT * FROM sendkit_delete_api_key(\$1);
EXECUTE revoke('$me-prepared');
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM sendkit_delete_api_key('$me-cursor');
FETCH c;
COMMIT;
DO \$\$
BEGIN
	PERFORM sendkit_delete_api_key('$me-do');
	BEGIN
		PERFORM sendkit_delete_api_key('');
	EXCEPTION WHEN OTHERS THEN RAISE NOTICE '% %', SQLSTATE, SQLERRM;
	END;
	EXECUTE 'SELECT sendkit_delete_api_key(\$1)' USING '$me-execute';
	RAISE EXCEPTION 'with a context';
END \$\$;
COPY (SELECT * FROM sendkit_delete_api_key('$me-copy')) TO STDOUT;
-- errors: the caller's, before and after the request, and of others
SELECT * FROM sendkit_delete_api_key(NULL);
SELECT * FROM sendkit_delete_api_key('..');
SELECT * FROM sendkit_delete_api_keys(ARRAY['$me-good', '']);
SELECT sendkit_delete_api_key('$me-text')::text::integer;
SELECT (sendkit_delete_api_key('$me-zero')).success, 1 / (random() * 0)::integer;
SELECT sendkit_delete_api_key('$me-misspelt', plattform_key => 'x');
SELECT sendkit_delete_api_key('$me-type', 1);
SET statement_timeout = '200ms';
SELECT * FROM sendkit_delete_api_key('$me-timeout;silent');
SELECT * FROM sendkit_delete_api_keys(ARRAY['$me-timeout1;silent', '$me-timeout2', '$me-timeout3;status=500']);
SET statement_timeout = 0;
SET sendkit.connect_timeout = '200ms';
SQL
}

foreach my $kind (@stored)
{
	my ($out) = run_sql(work($kind), role => $role{$kind});
	cmp_ok(scalar(grep { /API key deleted/ } split /\n/, $out), '>', 8, "$kind: calls succeed");
}
is(join(' ', sort { $a cmp $b } keys %{{ map { $_->[1] => 1 } grep { lc $_->[0] eq 'x-api-key' }
	map { @{ $_->{headers} } } @{ $api->requests } }}),
	join(' ', sort { $a cmp $b } @key{@stored}), 'all stored keys were used, and no others');

# An API that can't be reached, or isn't the one: these are a superuser's settings.
foreach my $listener (qw(https closed blackhole https_expired https_wronghost https_selfsigned https_stuck))
{
	next unless $api->port($listener);
	my $url = $listener =~ /https/
	  ? 'https://localhost:' . $api->port($listener)
	  : 'http://127.0.0.1:' . $api->port($listener);
	my $sql = "SET sendkit.base_url = '$url'; SET sendkit.connect_timeout = '300ms'; SET sendkit.max_retries = 0;";
	$sql .= "SET ROLE $role{$_}; SELECT * FROM sendkit_delete_api_keys(ARRAY['$_-$listener']); RESET ROLE;"
	  foreach @stored;
	run_sql($sql);
}
foreach my $proxy ('http://127.0.0.1:' . $api->port('closed'), 'socks5h://127.0.0.1:' . $api->port('http'),
	'http://127.0.0.1:' . $api->port('proxy'))
{
	configure($node, proxy => $proxy);
	run_sql("SET sendkit.base_url = '@{[ $api->url('https') ]}'; SET ROLE clerk;"
		  . "SELECT * FROM sendkit_delete_api_key('proxy')");
}

configure($node, proxy => '');

# Keys that can't be used.
run_sql('REVOKE USAGE ON FOREIGN SERVER sendkit FROM billing');
run_sql('SELECT * FROM sendkit_delete_api_key(\'no-usage\')', role => 'billing');
run_sql('GRANT USAGE ON FOREIGN SERVER sendkit TO billing');
run_sql('ALTER USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (DROP platform_key)');
foreach my $content ("$key{file}\n$key{file}\n", "$key{file} ", "$key{file}\xc3\xbc", $key{file} x 40, $key{file} x 400)
{
	write_file("$folder/key", $content, 0600);
	run_sql('SELECT * FROM sendkit_delete_api_key(\'bad-file\')', role => 'clerk');
}
write_file("$folder/key", "$key{file}\n", 0644);
run_sql('SELECT * FROM sendkit_delete_api_key(\'loose-file\')', role => 'clerk');
unlink "$folder/key";
run_sql('SELECT * FROM sendkit_delete_api_key(\'no-file\')', role => 'clerk');
write_file("$folder/key", "$key{file}\n", 0600);
store('public', $key{public});

ok_shows($told, '', 'no client was told a key');
cmp_ok(scalar(() = $told =~ /key \Q$mask\E is not known/g), '>=', 2 * @stored, '... though the API did tell');

# --- during a call ---

# What the hunters do is of no interest, and would fill the log.
my $quiet = join '', map { "SET $_;\n" } 'log_min_duration_statement = -1', 'log_min_messages = warning',
  'log_min_error_statement = error', 'log_duration = off', 'log_executor_stats = off',
  'auto_explain.log_min_duration = -1', 'log_transaction_sample_rate = 0',
  'pg_stat_statements.track = none', 'jit = off', 'log_statement = none', 'debug_print_parse = off',
  'debug_print_rewritten = off', 'debug_print_plan = off', 'pgaudit.log = none';
my $watcher = SendkitTest::Session->new($node, dbname => 'app');
$watcher->value($quiet);

# Starts to print all that a role can read of views and catalogs, wherever they
# are. (A query that had a key in it would find itself.)
sub start_reading
{
	my ($role) = @_;
	my $names = $watcher->query(<<"SQL");
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'p') AND has_schema_privilege('$role', n.oid, 'USAGE')
	AND has_table_privilege('$role', c.oid, 'SELECT')
ORDER BY 1
SQL
	my $sql = $quiet . "SET SESSION AUTHORIZATION $role;\n";
	$sql .= "\\echo '= $_'\nSELECT t.*::text FROM $_ t;\n" foreach @{ $names->{rows} };
	write_file("$folder/read_$role.sql", $sql, 0600);
	return IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq', '-d', $node->connstr('app'),
			'-f', "$folder/read_$role.sql"
		],
		'>', "$folder/read_$role.out", '2>', "$folder/read_$role.err");
}

# What these roles can read: for each, what is in which relation.
sub readable_by
{
	my @roles = @_;
	my @readers = map { start_reading($_) } @roles;
	my %readable;
	$_->finish foreach @readers;
	foreach my $role (@roles)
	{
		my (undef, %content) = split /^= (.*)\n/m, slurp_file("$folder/read_$role.out"), -1;
		$readable{$role} = \%content;
	}
	return %readable;
}

# Which relations show which keys, as text.
sub findings
{
	my ($content) = @_;
	return join '; ', map {
		my @shown = keys_in($content->{$_});
		@shown ? "$_: @shown" : ()
	} sort keys %$content;
}

my %busy;
foreach my $kind (@stored)
{
	local $ENV{PGUSER} = $role{$kind};
	$busy{$kind} = SendkitTest::Session->new($node, dbname => 'app');
	$busy{$kind}->value('SET sendkit.request_timeout = \'100s\'');
	$busy{$kind}->send("SELECT * FROM sendkit_delete_api_keys(ARRAY['$kind-busy', '$kind-busy;silent'])");
}
$watcher->wait_for_wait($_) foreach values %busy;

my $superuser = $watcher->value('SELECT current_user');
my %readable = readable_by(qw(nosy owner billing clerk reader), $superuser);
my $nosy = $readable{nosy};
cmp_ok(scalar(keys %$nosy), '>', 100, 'an ordinary role can read a lot');
ok(exists $nosy->{$_}, "... of $_")
  foreach qw(pg_catalog.pg_stat_activity pg_catalog.pg_user_mappings pg_catalog.pg_settings
  information_schema.user_mapping_options pg_catalog.pg_foreign_server public.audit);
is(findings($nosy), '', '... but no key');
is(findings($readable{clerk}), '', 'nor can one whose calls use the file');

is(findings($readable{billing}),
	'information_schema.user_mapping_options: mapping; pg_catalog.pg_user_mappings: mapping',
	'a mapping\'s role sees its own');
is(findings($readable{owner}),
	'information_schema.user_mapping_options: public; pg_catalog.pg_user_mappings: public',
	'the server\'s owner sees PUBLIC\'s');
is(findings($readable{reader}), 'pg_catalog.pg_user_mapping: mapping public',
	'who may read all data can read the catalog that has them');
is(findings($readable{$superuser}),
	'information_schema._pg_user_mappings: mapping public; information_schema.user_mapping_options: mapping public; '
	  . 'pg_catalog.pg_user_mapping: mapping public; pg_catalog.pg_user_mappings: mapping public',
	'a superuser sees both, in their catalog and the views of it, and nowhere else');

SKIP:
{
	skip 'no /proc', 2 unless -r "/proc/$$/cmdline";
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @pids = grep { slurp_file("/proc/$_/stat") =~ /\) \S+ $postmaster / }
	  @{ $watcher->query('SELECT pid FROM pg_stat_activity')->{rows} };
	cmp_ok(scalar @pids, '>=', 8, 'the system shows the server\'s processes');
	ok_shows(join("\n", map { slurp_file("/proc/$_/cmdline"), slurp_file("/proc/$_/environ") } @pids),
		'', '... with no key in a title or environment');
}

# The three ways in which somebody else ends a call.
$watcher->value('SELECT pg_cancel_backend(' . $busy{mapping}->pid . ')');
$watcher->value('SELECT pg_terminate_backend(' . $busy{public}->pid . ')');
is($busy{mapping}->result->{sqlstate}, '57014', 'a call is cancelled');
is($busy{public}->result->{sqlstate}, '57P01', 'one is terminated');

# --- dumps ---

sub dump_by
{
	my ($role, $program, @arguments) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = $role if $role ne 'superuser';
	my $good = IPC::Run::run([ $node->installed_command($program), @arguments ], '>', \$out, '2>', \$err);
	diag($err) unless $good;
	return $out . $err;
}

foreach my $case ([ 'superuser', 'mapping public' ], [ 'owner', 'public' ], [ 'billing', 'mapping' ],
	[ 'clerk', '' ], [ 'nosy', '' ])
{
	my ($role, $expected) = @$case;
	my $dump = dump_by($role, 'pg_dump', '-d', $node->connstr('app'));
	like($dump, qr/CREATE USER MAPPING FOR billing SERVER sendkit/, "a dump by $role has the mapping");
	ok_shows($dump, $expected, '... with ' . ($expected ? "these keys: $expected" : 'no key'));
}
ok_shows(dump_by('superuser', 'pg_dumpall', '--globals-only', '-d', $node->connstr('postgres')), '', 'a dump of what is global has no key');

# --- what is left ---

# Which files below a folder show keys: a name and the keys, by the kind of file.
sub files_with_keys
{
	my @catalog = @_;
	my %found;
	my $top = $node->data_dir;
	find({ no_chdir => 1, wanted => sub {
		return unless -f $_ && !-l $_;
		open(my $handle, '<:raw', $_) or return;
		my $content = do { local $/; <$handle> };
		my @shown = defined $content ? keys_in($content) : ();
		return unless @shown;
		my $name = substr $File::Find::name, length($top) + 1;
		$name = 'the catalog' if grep { $name eq $_ } @catalog;
		$name = 'the WAL' if $name =~ m{^pg_wal/};
		$found{$name}{$_} = 1 foreach @shown;
	} }, $top);
	return join '; ', map { "$_: " . join ' ', sort keys %{ $found{$_} } } sort keys %found;
}

# (autovacuum may have taken samples of what is stored)
my @catalog = map { $watcher->value("SELECT pg_relation_filepath('$_')") } 'pg_user_mapping', 'pg_statistic';
$watcher->value('CHECKPOINT');
is(files_with_keys(@catalog), 'the WAL: mapping public; the catalog: mapping public',
	'in the running server\'s files there is a key only where a mapping is stored');
$watcher->quit;

my $log_of_stored = slurp_file($node->logfile);

# --- literal keys, in what the extension answers for ---

# At ordinary levels PostgreSQL logs the statement of an error. Those that come
# from within a call, whoever raises them, are exceptions.
{
	my $session = SendkitTest::Session->new($node, dbname => 'app');
	my $other = SendkitTest::Session->new($node, dbname => 'app');
	$session->value($quiet . 'SET sendkit.request_timeout = \'100s\'');
	my $args = "'$key{argument}'";
	is($session->query("SELECT sendkit_delete_api_key('', $args)")->{sqlstate}, '22023', 'literal: a bad id');
	is($session->query("SELECT sendkit_delete_api_key('x', $args || ' ')")->{sqlstate}, '22023', 'a bad key');
	is($session->query("SELECT * FROM sendkit_delete_api_keys(ARRAY['x', NULL], $args)")->{sqlstate},
		'22004', 'a null id');
	$session->value('SET statement_timeout = \'200ms\'');
	is($session->query("SELECT sendkit_delete_api_key('literal;silent', $args)")->{sqlstate},
		'57014', 'statement_timeout');
	is($session->query("DO \$\$ BEGIN PERFORM sendkit_delete_api_key('literal;silent', $args); END \$\$")->{sqlstate},
		'57014', '... in a block');
	$session->value('SET statement_timeout = 0');
	$session->send("SELECT * FROM sendkit_delete_api_keys(ARRAY['literal;silent', 'literal-2'], $args)");
	$other->wait_for_wait($session);
	$other->value('SELECT pg_terminate_backend(' . $session->pid . ')');
	is($session->result->{sqlstate}, '57P01', 'termination');
	$other->quit;

	# A key where none belongs
	foreach my $sql ("sendkit_request_revocation($args)", "sendkit_delete_api_key($args)",
		"sendkit_store_platform_key($args, 'billing')", "sendkit_forget_platform_key($args)")
	{
		my $again = SendkitTest::Session->new($node, dbname => 'app');
		$again->value($quiet);
		my $result = $again->query("SELECT $sql");
		like($result->{sqlstate}, qr/^(?:22023|42704)$/, "refused: $sql") || diag($result->{stderr});
		ok_shows($result->{stderr}, '', '... without saying it');
		$again->quit;
	}

	# PostgreSQL raises an error of its own where the client cannot be told of ours: here
	# the context has a name that is not of its encoding.
	my $abroad = SendkitTest::Session->new($node, dbname => 'app');
	$abroad->value($quiet);
	$abroad->query(q{CREATE FUNCTION U&"\0436"(call text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE call; END'});
	$abroad->query('SET client_encoding = LATIN1');
	foreach my $call ("SELECT sendkit_delete_api_key('', $args)", "SELECT sendkit_request_revocation($args)",
		"SELECT sendkit_store_platform_key('missing', $args)", "SELECT sendkit_forget_platform_key($args)")
	{
		my $result = $abroad->query("SELECT U&\"\\0436\"(\$call\$$call\$call\$) AS told");
		is($result->{sqlstate}, '22P05', "cannot be told: $call") || diag($result->{stderr});
	}
	$abroad->quit;

	# ... and in the queue, where somebody has entered it by hand
	my $hand = SendkitTest::Session->new($node, dbname => 'app');
	$hand->value($quiet);
	$hand->query("INSERT INTO sendkit_revocation (workspace_id, requested_by) VALUES ('sk_user_byHandByHand', 'somebody')");
	my $delivery = $hand->query('CALL sendkit_process_revocations()');
	like($delivery->{stderr}, qr/could not revoke an API key: It looks like a key/, 'a key in the queue is not sent');
	unlike($delivery->{stderr} . slurp_file($node->logfile), qr/byHandByHand/, '... nor told of by its name');
	$hand->quit;
}

$node->stop;
is(files_with_keys(@catalog), 'the WAL: mapping public; the catalog: mapping public',
	'... and the same after it has written what it keeps');

my $log = slurp_file($node->logfile);
cmp_ok(length $log_of_stored, '>', 1_000_000, 'the log has a lot to say');
like($log, qr/DEBUG:.*\n(?:.*\n){1,3}.*STATEMENT:  SELECT \* FROM sendkit_delete_api_keys/, '... with statements');
like($log, qr/Query Text: SELECT \* FROM sendkit_delete_api_keys/, '... and plans')
  if grep { $_ eq 'auto_explain' } @watchers;
ok_shows($log, '', '... and shows no key, stored or literal');

$busy{$_}->quit foreach keys %busy;
$api->stop;
done_testing();
