# The key is in no log, whatever fails.
#
# PostgreSQL logs the statement of every error, and the statements of all the
# functions around it as its context. A call's key may be a literal in any of
# them. So the server here logs all that a server ever logs by itself, and each
# way to fail is gone through in each form that a call can have; then the log is
# searched for the key. The same is done with what clients are told. (What a
# server logs on demand, as by log_statement = all, log_min_duration_statement or
# auto_explain, it logs before or without us, and is not looked at.)
#
# In the second half the server even logs the statement of each debug message,
# which no extension can prevent; there, keys come from elsewhere than the
# statement: as bound parameters or from a table.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitBinding;
use SendkitStandin;
use SendkitTest;
use Test::More;

# Part of each key below, in whatever shape it comes.
my $secret = $KEY =~ s/^sk_user_//r;

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => <<'CONF');
log_min_messages = debug5
log_min_error_statement = error
log_error_verbosity = verbose
log_parameter_max_length_on_error = 0
log_connections = on
log_disconnections = on
log_lock_waits = on
client_connection_check_interval = 50ms
sendkit.max_retries = 1
CONF

my $watcher = SendkitTest::Session->new($node);
my $session = SendkitTest::Session->new($node);

# Whatever a client was told since it was asked last.
sub told
{
	my ($result) = @_;
	return join "\n", @{ $result->{rows} }, $result->{stderr};
}

# The log must be searchable: this is what it would look like.
$session->query('SELECT 1/0 AS canary_in_statement');
$session->query(q{DO $$ BEGIN EXECUTE 'SELECT 1/0 AS canary_in_context'; END $$});
my $log = slurp_file($node->logfile);
like($log, qr/STATEMENT:  SELECT 1\/0 AS canary_in_statement/,
	'failed statements are logged here');
like($log, qr/CONTEXT:  SQL statement "SELECT 1\/0 AS canary_in_context"/,
	'and so are those of functions');
like($log, qr/DEBUG:  /, 'and debug messages');

# --- arguments, in all forms of a call -----------------------------------------

# The key is inside these functions' bodies, too.
my $one = 'sendkit_delete_api_key';
my $many = 'sendkit_delete_api_keys';

my %form = (
	'plain' => sub { "SELECT * FROM $one($_[0], $_[1])" },
	'plural' => sub { "SELECT * FROM $many(ARRAY[$_[0]], $_[1])" },
	'in a list' => sub { "SELECT 1, $one($_[0], $_[1]), 2" },
	'prepared' => sub {
		"PREPARE p AS SELECT $one($_[0], $_[1]);\nEXECUTE p";
	},
	'prepared, with parameters' => sub {
		"PREPARE p(text, text) AS SELECT $one(\$1, \$2);\nEXECUTE p($_[0], $_[1])";
	},
	'in a cursor' => sub {
		"BEGIN;\nDECLARE c CURSOR FOR SELECT $one($_[0], $_[1]);\nFETCH c";
	},
	'in DO' => sub { "DO \$do\$ BEGIN PERFORM $one($_[0], $_[1]); END \$do\$" },
	'in DO, assigned' => sub {
		"DO \$do\$ DECLARE r record; BEGIN r := $one($_[0], $_[1]); END \$do\$";
	},
	'in DO, in EXECUTE' => sub {
		"DO \$do\$ BEGIN EXECUTE \$ex\$SELECT * FROM $many(ARRAY[$_[0]], $_[1])\$ex\$; END \$do\$";
	},
	'in DO, in EXECUTE with parameters' => sub {
		"DO \$do\$ BEGIN EXECUTE 'SELECT $one(\$1, \$2)' USING $_[0]::text, $_[1]::text; END \$do\$";
	},
	'in DO, caught and raised again' => sub {
		"DO \$do\$ BEGIN PERFORM $one($_[0], $_[1]); "
		  . 'EXCEPTION WHEN OTHERS OR query_canceled THEN RAISE; END $do$';
	},
	'in a function' => sub {
		"CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS "
		  . "\$f\$ BEGIN PERFORM * FROM $one($_[0], $_[1]); END \$f\$;\nSELECT f()";
	},
	'in nested functions' => sub {
		"CREATE OR REPLACE FUNCTION inner_f(k text) RETURNS void LANGUAGE plpgsql AS "
		  . "\$f\$ BEGIN EXECUTE format('SELECT $one(%L, %L)', $_[0], k); END \$f\$;\n"
		  . "CREATE OR REPLACE FUNCTION outer_f() RETURNS void LANGUAGE plpgsql AS "
		  . "\$f\$ BEGIN PERFORM inner_f($_[1]); END \$f\$;\n"
		  . "DO \$do\$ BEGIN EXECUTE \$ex\$SELECT outer_f() -- $_[1]\n\$ex\$; END \$do\$";
	},
	'in an SQL function' => sub {
		"CREATE OR REPLACE FUNCTION s() RETURNS SETOF text LANGUAGE sql AS "
		  . "\$f\$ SELECT message FROM $one($_[0], $_[1]) \$f\$;\nSELECT s()";
	},
	'in a trigger' => sub {
		"CREATE TEMP TABLE IF NOT EXISTS t (a int);\n"
		  . "CREATE OR REPLACE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS "
		  . "\$f\$ BEGIN PERFORM $one($_[0], $_[1]); RETURN NULL; END \$f\$;\n"
		  . "CREATE OR REPLACE TRIGGER tr AFTER INSERT ON t EXECUTE FUNCTION tf();\n"
		  . "INSERT INTO t VALUES (1) RETURNING $_[1]";
	},);

# Arguments as SQL, and the SQLSTATE that they lead to.
my @mistakes = (
	[ 'no id', 'NULL', "'$KEY'", '22004' ],
	[ 'an empty id', q{''}, "'$KEY'", '22023' ],
	[ 'a dotted id', q{'%2e%2E'}, "'$KEY'", '22023' ],
	[ 'an id with a control character', q{E'a\\nb'}, "'$KEY'", '22023' ],
	[ 'an id that is too long', q{repeat('x', 256)}, "'$KEY'", '22023' ],
	[ 'an empty key', q{'ws-bad'}, "'' /* $KEY */", '22023' ],
	[ 'a key with CR LF', q{'ws-bad'}, "E'$KEY\\r\\nX-Evil: 1'", '22023' ],
	[ 'a key with a blank', q{'ws-bad'}, "' $KEY'", '22023' ],
	[ 'a key beyond ASCII', q{'ws-bad'}, "'$KEY\x{c3}\x{a9}'", '22023' ],
	[ 'a key that is too long', q{'ws-bad'}, "'" . $KEY x 30 . "'", '22023' ],
	[ 'no key', q{'ws-bad'}, "NULL /* $KEY */", '28000' ],
	[ 'a key that the id holds', "'$KEY/..' || E'\\t'", "'$KEY'", '22023' ],
	[ 'a statement_timeout', q{'ws-bad;silent'}, "'$KEY'", '57014' ],
);

# At debug level, PostgreSQL 18 shows the statement when it looks for our library
# and when it reads a page of a catalog: before a call, and the first time only.
# So all is done once with another key.
for my $form (sort keys %form)
{
	for my $mistake (grep { $_->[3] ne '57014' } @mistakes)
	{
		my (undef, $id, $key) = map { s/\Q$KEY\E/sk_user_anything/gr } @$mistake;
		$session->query($form{$form}->($id, $key));
		$session->query('ROLLBACK; DEALLOCATE ALL');
	}
}

for my $form (sort keys %form)
{
	for my $mistake (@mistakes)
	{
		my ($what, $id, $key, $sqlstate) = @$mistake;
		next if $form =~ /nested/ && $key =~ /NULL/;    # there, NULL is no literal

		# time enough to get into the call: before that, others log the statement
		my $patience = $sqlstate eq '57014' ? '300ms' : '60s';
		my $result = $session->query("SET statement_timeout = '$patience';\n"
			  . $form{$form}->($id, $key));
		is($result->{sqlstate}, $sqlstate, "$form: $what is an error")
		  || diag(told($result));
		unlike(told($result), qr/\Q$secret\E/, "$form: $what: the client is not told");
		$session->query('ROLLBACK; DEALLOCATE ALL; RESET statement_timeout');
	}
}
ok_key_not_logged($node, $secret);

# --- answers --------------------------------------------------------------------

my %set_for = (
	'unknown host' => { base_url => 'https://nowhere.invalid' },
	'refused' => { base_url => 'http://127.0.0.1:' . $api->port('closed') },
	'handshake hangs' => {
		base_url => $api->url('https_stuck'), connect_timeout => '50ms' },
	'nobody there' => {
		base_url => 'http://127.0.0.1:' . $api->port('blackhole'),
		connect_timeout => '50ms' },
	# see below
	'proxy down' => { base_url => $api->url('https') },
	map { $_ => { base_url => $api->url($_) } }
	  grep { /^https/ && $api->port($_) }
	  qw(https_expired https_wronghost https_selfsigned https_tls11));

my @directives = (
	qw(silent delay=1 drip=0.2 redirect=second size=100000 headers=70 gzip),
	(map { ("reset=$_", "fin=$_") } qw(request headers body)),
	(map { ("status=$_") } 200, 204, 302, 400, 401, 403, 404, 408, 418, 425, 429, 500, 503),
	(map { ("body=$_") }
		qw(html empty broken deep badutf8 nul control nested-forbidden
		  echo-key echo-key-json echo-key-everywhere echo-key-success)));

# In one session, as a long-lived one meets them all; with a key of either kind.
for my $key ($KEY, "sk_$secret")
{
	my $n = 0;
	for my $name (sort keys %set_for)
	{
		my %set = %{ $set_for{$name} };
		my $proxy = 'http://127.0.0.1:' . $api->port('closed');
		configure($node, proxy => $proxy), knows_configuration($session) if $name eq 'proxy down';
		my $result = $session->query(
			join('', map { "SET sendkit.$_ = '$set{$_}';\n" } sort keys %set)
			  . "SELECT * FROM $many(ARRAY['ws-way-" . ++$n . "'], '$key')");
		is($result->{sqlstate}, '00000', "$name: an answer") || diag(told($result));
		unlike(told($result), qr/\Q$secret\E/, "$name: the client is not told");
		$session->query(join '', map { "RESET sendkit.$_;\n" } sort keys %set);
		configure($node, proxy => ''), knows_configuration($session) if $name eq 'proxy down';
	}
	for my $directive (@directives)
	{
		my $result = $session->query("SET sendkit.request_timeout = '200ms';\n"
			  . "SELECT * FROM $many(ARRAY['ws-" . ++$n . ";$directive'], '$key');\n"
			  . "DO \$do\$ BEGIN EXECUTE \$ex\$SELECT $one('ws-" . ++$n
			  . ";$directive', '$key')\$ex\$; END \$do\$");
		is($result->{sqlstate}, '00000', "$directive: an answer") || diag(told($result));
		unlike(told($result), qr/\Q$secret\E/, "$directive: the client is not told");
	}
	$session->query('RESET sendkit.request_timeout');

	# the note about the wrong kind of key
	my $result = $session->query("SELECT $one('ws-kind', '$key')");
	unlike(told($result), qr/\Q$secret\E/, 'the client is not told about its kind');
	if ($key ne $KEY)
	{
		like($result->{stderr}, qr/NOTICE:.*platform key/, 'but that it is the wrong one');
		like(slurp_file($node->logfile), qr/NOTICE:.*platform key/, 'and so is the log');
	}
}
ok_key_not_logged($node, $secret);

# --- interrupts -----------------------------------------------------------------

# What is under way when each of them comes.
my %call = (
	'plain' => "SELECT * FROM $one('ws-interrupted;silent', '$KEY')",
	'plural' => "SELECT * FROM $many(ARRAY['ws-interrupted;silent', 'ws-2;silent'], '$KEY')",
	'nested' => $form{'in nested functions'}->(q{'ws-interrupted;silent'}, "'$KEY'"));

sub begin_call
{
	my ($sql) = @_;
	my $victim = SendkitTest::Session->new($node);
	# libraries are to be looked for while there is no key to be shown
	$victim->query($form{$_}->('NULL', q{'sk_user_anything'})) for 'plural', 'in nested functions';
	$victim->send($sql);
	$watcher->wait_for_wait($victim);
	return $victim;
}

for my $form (sort keys %call)
{
	for my $interrupt ([ 'pg_cancel_backend', '57014' ], [ 'pg_terminate_backend', '57P01' ])
	{
		my ($function, $sqlstate) = @$interrupt;
		my $victim = begin_call($call{$form});
		$watcher->query("SELECT $function(" . $victim->pid . ')');
		my $result = $victim->result;
		is($result->{sqlstate}, $sqlstate, "$form: $function is an error");
		unlike(told($result), qr/\Q$secret\E/, "$form: $function: the client is not told");
	}

	my $deserter = begin_call($call{$form});
	my $pid = $deserter->pid;
	$deserter->{psql}->kill_kill;
	wait_until(sub { process_is_gone($pid) }, 'the backend notices that its client is gone');
}

# Others see that there is a call, not what it is; for the whole process list it
# is as bad as for them, so a parameter must not get into the title.
$watcher->query('CREATE ROLE ordinary LOGIN');
my $caller = begin_call($call{plain});
my $row = $node->safe_psql('postgres',
	'SELECT query FROM pg_stat_activity WHERE pid = ' . $caller->pid,
	extra_params => [ '-U', 'ordinary' ]);
is($row, '<insufficient privilege>', 'another role does not see the statement');
$watcher->query('SELECT pg_cancel_backend(' . $caller->pid . ')');
$caller->result;
$caller->quit;

ok_key_not_logged($node, $secret);
for my $word (
	'canceling statement due to user request',
	'canceling statement due to statement timeout',
	'terminating connection due to administrator command',
	'connection to client lost',
	'sendkit_delete_api_keys was interrupted',
	'invalid platform key',
	'no platform key found')
{
	like(slurp_file($node->logfile), qr/\Q$word\E/, "the log has: $word");
}

# --- keys that are not in the statement -------------------------------------------

$watcher->query("CREATE TABLE secret AS SELECT '$KEY' AS key, '$KEY' || E'\\r\\n' AS bad");
$watcher->query(q{ALTER SYSTEM SET log_min_error_statement = debug5});
$watcher->query('SELECT pg_reload_conf()');
wait_until(
	sub { $watcher->value('SHOW log_min_error_statement') eq 'debug5' },
	'statements are logged with debug messages');

my $user = $node->safe_psql('postgres', 'SELECT current_user');
my $client = SendkitBinding->connect($node, $user);
$client->query('SELECT $1::text AS canary_in_debug', 'x');
like(slurp_file($node->logfile), qr/STATEMENT:  SELECT \$1::text AS canary_in_debug/,
	'so they are');

$client->query(q{SET sendkit.request_timeout = '200ms'});
for my $case (
	[ 'ws-bound', $KEY, qr/API key deleted/ ],
	[ '..', $KEY, qr/C22023/ ],
	[ 'ws', "$KEY\r\n", qr/C22023/ ],
	[ 'ws;silent', $KEY, qr/may or may not/ ],
	[ 'ws;body=echo-key', $KEY, qr/Invalid API key/ ],
	[ 'ws;body=echo-key', "sk_$secret", qr/needs a platform key/ ],
	[ 'ws;reset=body', $KEY, qr/may or may not/ ])
{
	my ($id, $key, $expected) = @$case;
	for my $sql ("SELECT * FROM $one(\$1, \$2)", "SELECT * FROM $many(ARRAY[\$1], \$2)")
	{
		my $got = $client->query($sql, $id =~ s/^ws(?=$|;)/"ws-bound-" . length $sql/er, $key);
		# one and the same key is deleted only once
		next if $id eq 'ws-bound' && $got =~ /The requested resource was not found/;
		like($got, $expected, "bound, $id: $sql");
		unlike($got, qr/\Q$secret\E/, "bound, $id: the client is not told");
	}
}

$session->query(q{SET sendkit.request_timeout = '200ms'});
for my $case (
	[ q{'ws-table'}, 'key', '00000' ],
	[ q{'..'}, 'key', '22023' ],
	[ q{'ws'}, 'bad', '22023' ],
	[ q{'ws-table;silent'}, 'key', '00000' ],
	[ q{'ws-table;body=echo-key'}, 'key', '00000' ])
{
	my ($id, $column, $sqlstate) = @$case;
	my $result = $session->query("SELECT d.* FROM secret, $one($id, $column) d");
	is($result->{sqlstate}, $sqlstate, "from a table, $id");
	unlike(told($result), qr/\Q$secret\E/, "from a table, $id: the client is not told");
	$session->query("DO \$\$ DECLARE k text; BEGIN SELECT $column INTO k FROM secret;"
		  . " PERFORM $one($id, k); END \$\$");
}

# In the process list, and in the statistics, it is $2.
$client->query(q{SET sendkit.request_timeout = '30s'});
$client->send("SELECT * FROM $one(\$1, \$2)", 'ws-title;silent', $KEY);
wait_until(
	sub {
		$watcher->value("SELECT count(*) FROM pg_stat_activity "
			  . "WHERE pid = " . $client->pid . " AND wait_event_type = 'Extension'");
	},
	'the call waits');
is($watcher->value("SELECT query FROM pg_stat_activity WHERE pid = " . $client->pid),
	"SELECT * FROM $one(\$1, \$2)", 'even superusers see the statement without the key');
SKIP:
{
	skip 'no process titles to be seen here', 2 unless -r "/proc/" . $client->pid . "/cmdline";
	my $title = slurp_file("/proc/" . $client->pid . "/cmdline");
	like($title, qr/postgres.*SELECT/, 'the process title tells what it does');
	unlike($title, qr/\Q$secret\E|ws-title/, 'but not with which key');
}
$watcher->query("SELECT pg_cancel_backend(" . $client->pid . ")");
like($client->answer, qr/C57014/, 'a bound call is cancelled');
ok_key_not_logged($node, $secret);

# --- the end of it ---------------------------------------------------------------

# A shutdown in mid-call is the last that the log tells of.
$watcher->query(q{ALTER SYSTEM RESET log_min_error_statement});
$watcher->query('SELECT pg_reload_conf()');
wait_until(
	sub { $watcher->value('SHOW log_min_error_statement') eq 'error' },
	'statements are logged with errors only');
my @last = map { begin_call($call{$_}) } sort keys %call;
$client->send("SELECT * FROM $one(\$1, \$2)", 'ws-last;silent', $KEY);
$api->wait_for_requests(1);
$node->stop('fast');
for my $victim (@last)
{
	my $result = $victim->result;
	is($result->{sqlstate}, '57P01', 'a fast shutdown ends the call');
	unlike(told($result), qr/\Q$secret\E/, 'and the client is not told');
}
like(slurp_file($node->logfile), qr/database system is shut down/, 'the server is down');
ok_key_not_logged($node, $secret);

done_testing();
