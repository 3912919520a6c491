# What PostgreSQL keeps of a key that a call is given: the README's table.
#
# A key reaches a call as a literal in its statement, as a bound parameter, or as
# a value of a table that COPY has filled. Each row here is a place where
# PostgreSQL shows or keeps statements. It says in which of the three forms the
# key is found there: some are, whatever an extension does, and this test notices
# when a version of PostgreSQL changes that, so that the README can be corrected.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitBinding;
use SendkitStandin;
use SendkitTest;
use Test::More;

my @forms = qw(literal bound table);
my %key = (
	literal => 'sk_user_Lm4RzQ8vTpWs',
	bound => 'sk_user_Bx7NcY2hKjGd',
	table => 'sk_user_Te9FwU3rViOa');

my $api = SendkitStandin->start;
my $node = PostgreSQL::Test::Cluster->new('traces');
$node->init;
my $lib = $node->config_data('--pkglibdir');
my %has = map { $_ => -e "$lib/$_.so" } qw(pg_stat_statements auto_explain pgaudit);
$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '@{[ join ',', grep { $has{$_} } sort keys %has ]}'
log_statement = none
restart_after_crash = on
sendkit.base_url = '@{[ $api->url('http') ]}'
sendkit.auto_deliver = off
CONF
$node->append_conf('postgresql.conf', "pgaudit.log = none\n") if $has{pgaudit};
$node->start;
my $user = $node->safe_psql('postgres', 'SELECT current_user');
my $version = $node->safe_psql('postgres', 'SHOW server_version_num');
$version = int($version / 10000);
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION sendkit;
@{[ $has{pg_stat_statements} ? 'CREATE EXTENSION pg_stat_statements;' : '' ]}
CREATE TABLE secret (key text);
COPY secret FROM STDIN;
$key{table}
\\.
SQL

# --- statements ---

# A statement that calls, and its parameters. With what else it is to return.
my $calls = 0;

sub call_in
{
	my ($form, %option) = @_;
	my $id = $option{id} // 'traces-' . ++$calls . ($option{directive} || '');
	my $also = $option{also} ? ", $option{also}" : '';
	my $from = $option{from} ? ", $option{from}" : '';
	return ("SELECT r.success$also FROM sendkit_delete_api_key('$id', '$key{literal}') r$from") if $form eq 'literal';
	return ("SELECT r.success$also FROM sendkit_delete_api_key(\$1, \$2) r$from", $id, $key{bound}) if $form eq 'bound';
	return ("SELECT r.success$also FROM secret, sendkit_delete_api_key('$id', secret.key) r$from");
}

# A session with settings of its own, that has made a call already: what is loaded
# at the first is not of interest.
sub login
{
	my (@settings) = @_;
	my $client = SendkitBinding->connect($node, $user);
	$client->query($_) foreach map { "SET $_" } @settings;
	return $client;
}

# What the log has got since the last time.
my $log_seen = 0;

sub new_log
{
	my $log = slurp_file($node->logfile, $log_seen);
	$log_seen += length $log;
	return $log;
}

# Does what is to be done, and returns what the log has got by it: up to where it
# says that the session is gone.
sub logged
{
	my ($settings, $form, %option) = @_;
	new_log();
	my $client = login(@$settings);
	$client->query(call_in($form, %option));
	$client->vanish;
	return wait_until_gone($client->pid);
}

sub wait_until_gone
{
	my ($pid) = @_;
	wait_until(sub { process_is_gone($pid) }, 'the session is gone');
	return new_log();
}

my $watcher = SendkitTest::Session->new($node);

# Waits until a client's backend waits for something.
sub wait_for
{
	my ($client, $event_type) = @_;
	wait_until(
		sub {
			($watcher->value('SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $client->pid) || '') eq $event_type;
		},
		"the session waits for $event_type");
	return;
}

# A session within a call, which is ended by finish().
sub within
{
	my ($form) = @_;
	my $client = login("sendkit.request_timeout = '60s'");
	$client->send(call_in($form, directive => ';silent'));
	wait_for($client, 'Extension');
	return $client;
}

sub finish
{
	my ($client) = @_;
	$watcher->value('SELECT pg_cancel_backend(' . $client->pid . ')');
	$client->answer;
	$client->vanish;
	wait_until_gone($client->pid);
	return;
}

sub statistics
{
	return join "\n", @{ $watcher->query('SELECT query FROM pg_stat_statements')->{rows} };
}

my @logged_slowly = ('log_min_duration_statement = 0');

# --- places ---

# Each has a name, the forms in which the key is found there, and how to look.
my @places = (
	[ 'log: at default settings', '', sub { logged([], $_[0]) } ],
	[ 'log: an error of sendkit', '', sub { logged([], $_[0], id => '..') } ],
	[ 'log: a call that is timed out', '',
		sub { logged(["statement_timeout = '300ms'", "sendkit.request_timeout = '60s'"], $_[0], directive => ';silent') } ],
	[ 'log: another error in the statement', 'literal',
		sub { logged([], $_[0], also => '1 / (random() * 0)::int') } ],
	[ 'log: the same, with log_parameter_max_length_on_error', 'literal bound',
		sub { logged(['log_parameter_max_length_on_error = -1'], $_[0], also => '1 / (random() * 0)::int') } ],
	[ 'log: it waits for a lock, with log_lock_waits', 'literal',
		sub {
			my ($form) = @_;
			new_log();
			$watcher->value('SELECT pg_advisory_lock(77)');
			my $client = login('log_lock_waits = on', "deadlock_timeout = '10ms'");
			$client->send(call_in($form, also => 'pg_advisory_xact_lock(77)'));
			my $log = '';
			wait_until(sub { ($log .= new_log()) =~ /still waiting for/ }, 'the wait is logged');
			$watcher->value('SELECT pg_advisory_unlock(77)');
			$client->answer;
			$client->vanish;
			return $log . wait_until_gone($client->pid);
		} ],
	[ 'log: it is in the way of another session, which ends in a deadlock', 'literal',
		sub {
			my ($form) = @_;
			new_log();
			$watcher->value("SET deadlock_timeout = '10ms'; SELECT pg_advisory_lock(78)");
			my $client = login("deadlock_timeout = '1h'");
			$client->send(call_in($form, also => 'pg_advisory_xact_lock(77), pg_advisory_xact_lock(78)'));
			wait_for($client, 'Lock');
			is($watcher->query('SELECT pg_advisory_lock(77)')->{sqlstate}, '40P01', 'a deadlock');
			$watcher->value('SELECT pg_advisory_unlock_all()');
			$client->answer;
			$client->vanish;
			return wait_until_gone($client->pid);
		} ],
	[ 'log: the client vanishes before its answer', 'literal',
		sub {
			my ($form) = @_;
			new_log();
			my $client = login();
			$client->send(call_in($form, also => "n, repeat('x', 100000)", from => 'generate_series(1, 1000) n'));
			wait_for($client, 'Client');
			$client->vanish;
			return wait_until_gone($client->pid);
		} ],
	[ 'log: log_statement', 'literal bound', sub { logged(["log_statement = 'all'"], $_[0]) } ],
	[ 'log: the same, with log_parameter_max_length = 0', 'literal',
		sub { logged(['log_parameter_max_length = 0', "log_statement = 'all'"], $_[0]) } ],
	[ 'log: a duration limit', 'literal bound', sub { logged(\@logged_slowly, $_[0]) } ],
	[ 'log: the same, with log_parameter_max_length = 0', 'literal',
		sub { logged([ 'log_parameter_max_length = 0', @logged_slowly ], $_[0]) } ],
	[ 'log: auto_explain', $version >= 16 ? 'literal bound' : 'literal',
		sub { logged(['auto_explain.log_min_duration = 0'], $_[0]) }, 'auto_explain' ],
	[ 'log: auto_explain, with log_verbose', 'literal bound',
		sub { logged([ 'auto_explain.log_verbose = on', 'auto_explain.log_min_duration = 0' ], $_[0]) }, 'auto_explain' ],
	[ 'log: pgaudit', 'literal', sub { logged(["pgaudit.log = 'all'"], $_[0]) }, 'pgaudit' ],
	[ 'log: pgaudit, with log_parameter', 'literal bound',
		sub { logged([ 'pgaudit.log_parameter = on', "pgaudit.log = 'all'" ], $_[0]) }, 'pgaudit' ],
	[ 'log: pg_log_backend_memory_contexts()', 'literal',
		sub {
			my ($form) = @_;
			my $client = within($form);
			new_log();
			my $log = '';
			$watcher->value('SELECT pg_log_backend_memory_contexts(' . $client->pid . ')');
			wait_until(sub { ($log .= new_log()) =~ /Grand total:/ }, 'memory contexts are logged');
			finish($client);
			return $log;
		} ],
	[ 'pg_stat_activity', 'literal',
		sub {
			my $client = within($_[0]);
			my $query = $watcher->value('SELECT query FROM pg_stat_activity WHERE pid = ' . $client->pid);
			finish($client);
			return $query;
		} ],
	[ 'CONTEXT that the client gets', 'literal',
		sub {
			my ($form) = @_;
			my %function = (
				literal => "PERFORM * FROM sendkit_delete_api_key('..', '$key{literal}')",
				bound => "PERFORM * FROM sendkit_delete_api_key('..', key)",
				table => "PERFORM r.* FROM secret, sendkit_delete_api_key('..', secret.key) r");
			my $client = login();
			$client->query("CREATE FUNCTION pg_temp.revoke(key text) RETURNS void LANGUAGE plpgsql AS"
				  . " \$body\$ BEGIN $function{$form}; END \$body\$");
			my $answer = $client->query('SELECT pg_temp.revoke($1)', $form eq 'bound' ? $key{bound} : 'none');
			$client->vanish;
			die $answer unless $answer =~ /SQL statement/;
			return $answer;
		} ],
	[ 'pg_stat_statements', '',
		sub {
			my ($form) = @_;
			$watcher->value('SELECT pg_stat_statements_reset()');
			logged([], $form);
			return statistics();
		}, 'pg_stat_statements' ],
	[ 'pg_stat_statements, reset during the call', 'literal',
		sub {
			my $client = login();
			$client->send(call_in($_[0], directive => ';delay=1.5'));
			wait_for($client, 'Extension');
			$watcher->value('SELECT pg_stat_statements_reset()');
			$client->answer;
			$client->vanish;
			return statistics();
		}, 'pg_stat_statements' ],
	[ 'pg_stat_statements, reset after PREPARE', 'literal',
		sub {
			my ($form) = @_;
			my $client = login();
			$client->query('PREPARE call AS ' . (call_in($form))[0]) if $form ne 'bound';
			$watcher->value('SELECT pg_stat_statements_reset()');
			$client->query('EXECUTE call');
			$client->vanish;
			return statistics();
		}, 'pg_stat_statements' ],
	[ 'pg_stat_statements: DO', 'literal',
		sub {
			my ($form) = @_;
			my $client = login();
			$client->query('DO $do$ BEGIN PERFORM r.* FROM (' . (call_in($form))[0] . ') r; END $do$') if $form ne 'bound';
			$client->vanish;
			return statistics();
		}, 'pg_stat_statements' ],
	[ 'pg_stat_statements: EXPLAIN', $version >= 16 ? '' : 'literal',
		sub {
			my ($form) = @_;
			$watcher->value('SELECT pg_stat_statements_reset()');
			my ($sql, @parameters) = call_in($form);
			my $client = login();
			$client->query("EXPLAIN $sql", @parameters);
			$client->vanish;
			return statistics();
		}, 'pg_stat_statements' ],
	[ 'log: the process is killed', 'literal',
		sub {
			my ($form) = @_;
			my $client = within($form);
			new_log();
			$watcher->quit;
			kill 'KILL', $client->pid;
			my $log = '';
			wait_until(sub { ($log .= new_log()) =~ /ready to accept connections/ }, 'the server is back');
			$client->vanish;
			$watcher = SendkitTest::Session->new($node);
			return $log;
		} ]);

foreach my $place (@places)
{
	my ($name, $expected, $look, $module) = @$place;
	SKIP:
	{
		skip "no $module here", 1 if $module && !$has{$module};
		is(join(' ', grep { index($look->($_), $key{$_}) >= 0 } @forms), $expected, $name);
	}
}

$watcher->quit;
$node->stop;
$api->stop;
done_testing();
