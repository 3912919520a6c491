# A background worker lives on for hours, and with what others set and update.
#
# An outage of two hours is told of in a few lines, whether the API is not there,
# fails, or never answers; the clocks of the servers run fast, so that this takes a
# minute. An update of the extension makes a successor take over, with the library
# that came with it. No timeout that is set for others ends a worker, and no idle
# one is seen to do anything.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitInstallation;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start;

sub set_up
{
	my ($session) = @_;
	return $session->query("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
		CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY')");
}

sub complaints
{
	my ($node) = @_;
	return grep { /WARNING|ERROR|FATAL|exited/ } split /\n/, slurp_file($node->logfile);
}

sub is_done
{
	my ($session, $id) = @_;
	return $session->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done' AND workspace_id = " . literal($id)) == 1;
}

# --- two hours of an outage -----------------------------------------------------------

my $speed = 120;
my $clock = preload_library('fast_clock');

SKIP:
{
	skip 'no C compiler', 1 unless $clock;
	my %outage = (
		'is not there' => [ '', "sendkit.base_url = 'http://127.0.0.1:1'\n" ],
		'fails' => [ ';status=500', '' ],
		'never answers' => [ ';silent', '' ]);
	my (%node, %session);
	for my $kind (sort keys %outage)
	{
		$node{$kind} = start_node($api, name => $kind =~ s/ /_/gr, deliver => 1, conf => $outage{$kind}[1],
			env => { LD_PRELOAD => join(' ', $clock, $ENV{LD_PRELOAD} // ()), CLOCK_SPEED => $speed, CLOCK_START => int(time()) });
		$session{$kind} = SendkitTest::Session->new($node{$kind});
		set_up($session{$kind});
	}
	my $begin = time();
	my $serial = 0;
	while (time() < $begin + 7200 / $speed)
	{
		$serial++;
		$session{$_}->value("SELECT sendkit_request_revocation('ws-$serial$outage{$_}[0]')") for keys %outage;
		sleep 0.2;
	}
	for my $kind (sort keys %outage)
	{
		my @lines = complaints($node{$kind});
		note(map { "$_\n" } $kind, @lines);
		my $hours = $session{$kind}->value("SELECT extract(epoch FROM now() - min(requested_at)) / 3600 FROM sendkit_revocation");
		cmp_ok($hours, '>', 1.9, "an API that $kind for two hours");
		cmp_ok(scalar @lines, '<', 30, '... is told of in a few lines');
		is(scalar(grep { /tried again later: $|the last one: $/ } @lines), 0, '... which say why');
		cmp_ok(scalar(grep { /could not be delivered|have failed and are repeated/ } @lines), '>=', 3, '... at once, and again and again');
		cmp_ok(scalar(grep { /are overdue/ } @lines), '>=', 2, '... and so is what has become overdue');
		is(scalar(grep { !/WARNING/ } @lines), 0, '... and by nothing else');
		is(scalar $session{$kind}->workers, 1, '... while there is one worker');
		$session{$kind}->quit;
		$node{$kind}->stop('immediate');
	}
	$api->reset;
}

# --- what is seen of it ----------------------------------------------------------------

{
	my $node = start_node($api, name => 'seen', deliver => 1, conf => <<'EOC');
shared_preload_libraries = 'pg_stat_statements, sendkit'
pg_stat_statements.track = all
sendkit.worker_naptime = 100ms
EOC
	my $sql = SendkitTest::Session->new($node);
	my $named = $sql->value("SELECT current_setting('server_version_num')::int >= 170000") eq 't';
	set_up($sql);
	$sql->query("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()");
	$sql->value("SELECT sendkit_request_revocation('seen')");
	wait_until(sub { is_done($sql, 'seen') }, 'it is delivered');
	my $event = $named ? 'SendkitWorkerMain' : 'Extension';
	my $seen;
	eval { wait_until(sub { ($seen = $sql->value("SELECT concat_ws(', ', application_name, datname, usename, state, wait_event_type, wait_event, query)
		FROM pg_stat_activity WHERE backend_type = 'sendkit worker'")) =~ /idle/ }, 'the worker is idle') };
	my $user = $sql->value('SELECT current_user');
	is($seen, "sendkit worker, postgres, $user, idle, Extension, $event, delivering revocations to the SendKit API",
		'an idle worker can be seen, and what it did last');
	is($sql->value("SELECT concat_ws(', ', application_name, wait_event_type, wait_event) FROM pg_stat_activity WHERE backend_type = 'sendkit launcher'"),
		"sendkit launcher, Extension, $event", 'and so can the launcher');
	$sql->value("SELECT sendkit_request_revocation('busy;silent')");
	wait_until(sub { @{ $api->requests(id => 'busy;silent') } }, 'it is sent');
	$event = $named ? 'SendkitRequest' : 'Extension';
	wait_until(sub { ($seen = $sql->value("SELECT concat_ws(', ', state, wait_event_type, wait_event, query)
		FROM pg_stat_activity WHERE backend_type = 'sendkit worker'")) =~ /Extension/ }, 'the worker waits');
	is($seen, "active, Extension, $event, delivering revocations to the SendKit API", '... and one that waits for an answer');
	sleep 1;
	is($sql->value("SELECT COALESCE(string_agg(query, '; '), 'nothing') FROM pg_stat_statements WHERE query !~ 'pg_stat_|sendkit_request_revocation|sendkit_revocation WHERE|current_'"),
		'nothing', 'neither is seen in pg_stat_statements');
	$sql->quit;
	$node->stop;
	$api->reset;
}

# --- what is set for others -------------------------------------------------------------

{
	my $node = start_node($api, name => 'settings', deliver => 1, conf => "sendkit.max_retries = 0\n");
	my $sql = SendkitTest::Session->new($node);
	my $has_limit = $sql->value("SELECT current_setting('transaction_timeout', true) IS NOT NULL") eq 't';
	set_up($sql);
	my @limits = ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
		$has_limit ? 'transaction_timeout' : ());
	$sql->query("ALTER DATABASE postgres SET $_ = '100ms'") for @limits;
	$sql->query("ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';
		ALTER DATABASE postgres SET default_transaction_read_only = on");
	$sql->value("SELECT sendkit_request_revocation('limited;delay=1')");
	wait_until(sub { is_done($sql, 'limited;delay=1') }, 'it is delivered');
	is(scalar @{ $api->requests(id => 'limited;delay=1') }, 1, 'no timeout and no mode of transactions keeps a worker from delivering');
	is(join("\n", complaints($node)), '', '... nor has it anything to say');

	# who is there may stay, and commit
	$sql->query('CREATE DATABASE closed');
	my $last = SendkitTest::Session->new($node, dbname => 'closed');
	$last->query('CREATE EXTENSION sendkit');
	set_up($last);
	$sql->query('ALTER DATABASE closed ALLOW_CONNECTIONS false');
	$last->value("SELECT sendkit_request_revocation('closed-$_')") for 1 .. 5;
	eval { wait_until(sub { is_done($last, 'closed-5') }, 'it is delivered') };
	ok(is_done($last, 'closed-5'), 'what is committed in a database that takes no more connections is delivered');
	is(join("\n", complaints($node)), '', '... without a word');
	$last->quit;

	$sql->query("ALTER DATABASE postgres RESET ALL");
	if ($has_limit)
	{
		my $caller = SendkitTest::Session->new($node);
		$caller->query("SET sendkit.auto_deliver = off; SELECT sendkit_request_revocation('called;delay=1')");
		$caller->query("SET transaction_timeout = '300ms'");
		is($caller->query('CALL sendkit_process_revocations()')->{sqlstate}, '00000', 'transaction_timeout does not end a CALL');
		is($caller->value('SHOW transaction_timeout'), '300ms', '... and holds for the rest of the session');
		ok(is_done($caller, 'called;delay=1'), '... that has delivered');
		$caller->quit;
	}

	# Settings of the database count, those of the role as which it runs do not:
	# it connects before that is known.
	$sql->value("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'sendkit worker'");
	wait_until(sub { !$sql->workers }, 'the worker is gone');
	$sql->query("CREATE ROLE revoker; GRANT USAGE ON FOREIGN SERVER sendkit TO revoker;
		CREATE USER MAPPING FOR revoker SERVER sendkit OPTIONS (platform_key '$KEY');
		ALTER ROLE revoker SET sendkit.request_timeout = '1h';
		ALTER DATABASE postgres SET sendkit.request_timeout = '1s'");
	$node->append_conf('postgresql.conf', "sendkit.worker_role = revoker\n");
	$node->reload;
	$sql->value("SELECT sendkit_request_revocation('timed;silent;times=1')");
	wait_until(sub { is_done($sql, 'timed;silent;times=1') }, 'after a time-out it is delivered');
	pass('settings of the database count for a worker, those of its role do not');
	$sql->quit;
	$node->stop;
	$api->reset;
}

# --- an update --------------------------------------------------------------------------

{
	my $installation = SendkitInstallation->new;
	my $extensions = $installation->sharedir . '/extension';
	my ($current) = slurp_file("$extensions/sendkit.control") =~ /^default_version = '(.*)'$/m or die 'no version';
	append_to_file("$extensions/sendkit--$current--next.sql", "SELECT 1;\n");
	append_to_file("$extensions/sendkit--next--strange.sql", "ALTER TABLE \@extschema\@.sendkit_revocation RENAME COLUMN message TO remark;\n");
	append_to_file("$extensions/sendkit--strange--next.sql", "ALTER TABLE \@extschema\@.sendkit_revocation RENAME COLUMN remark TO message;\n");

	my $node = PostgreSQL::Test::Cluster->new('updated', install_path => $installation->path);
	$node->init;
	$node->append_conf('postgresql.conf', "log_statement = none\nsendkit.max_retries = 0\nsendkit.base_url = '" . $api->url('http') . "'\n");
	$node->start;
	my $sql = SendkitTest::Session->new($node);
	$sql->query('CREATE EXTENSION sendkit');
	set_up($sql);

	$sql->value("SELECT sendkit_request_revocation('updated;status=500;times=3')");
	wait_until(sub { @{ $api->requests(id => 'updated;status=500;times=3') } }, 'it is tried');
	my ($old) = $sql->workers;
	$sql->query("ALTER EXTENSION sendkit UPDATE TO 'next'");
	wait_until(sub { is_done($sql, 'updated;status=500;times=3') }, 'it is delivered');
	my ($new) = $sql->workers;
	isnt($new, $old, 'after an update of the extension another worker goes on, by itself');

	# also while one request after the other is under way
	append_to_file("$extensions/sendkit--next--again.sql", "SELECT 1;\n");
	append_to_file("$extensions/sendkit--again--next.sql", "SELECT 1;\n");
	$sql->query("ALTER SYSTEM SET sendkit.request_timeout = '2s'");
	$node->reload;
	my $serial = 0;
	my $keep_busy = sub { $sql->value("SELECT sendkit_request_revocation('busy-" . ++$serial . ";silent;times=1')"); sleep 0.3 };
	$keep_busy->() for 1 .. 3;
	($old) = $sql->workers;
	$sql->query("ALTER EXTENSION sendkit UPDATE TO 'again'");
	eval { wait_until(sub { $keep_busy->(); my ($there) = $sql->workers; $there && $there != $old }, 'another worker is there') };
	isnt(($sql->workers)[0], $old, '... and so it does while requests hang');
	wait_until(sub { $sql->value('SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL') == 0 }, 'all is delivered');
	$sql->query("ALTER EXTENSION sendkit UPDATE TO 'next'");
	$sql->value("SELECT sendkit_request_revocation('waits;status=500;times=9')");
	wait_until(sub { @{ $api->requests(id => 'waits;status=500;times=9') } }, 'a worker is there, and waits');

	# (its library is still the same, and cannot work with this)
	is($sql->query("ALTER EXTENSION sendkit UPDATE TO 'strange'")->{sqlstate}, '00000', 'an update to what it does not know');
	$sql->value("INSERT INTO sendkit_revocation (workspace_id, requested_by) VALUES ('strange', 'somebody') RETURNING id");
	is($sql->query("SELECT sendkit_request_revocation('strange')")->{sqlstate}, '55000', 'a session says so');
	wait_until(sub { grep { /could not deliver/ } complaints($node) }, 'a worker says so');
	my @there = $sql->workers;
	sleep 2;
	is(join(' ', $sql->workers), join(' ', @there), 'one that cannot work with it keeps its place');
	is(scalar(grep { /could not deliver/ } complaints($node)), 1, '... and says so once');
	is($sql->query("ALTER EXTENSION sendkit UPDATE TO 'next'")->{sqlstate}, '00000', 'an update to what it knows');
	$sql->value("SELECT sendkit_request_revocation('familiar')");
	wait_until(sub { is_done($sql, 'familiar') && is_done($sql, 'strange') }, 'all is delivered');
	pass('... and all is delivered again');
	is(scalar(grep { /FATAL|exited/ } complaints($node)), 0, 'nobody has failed');
	$sql->quit;
	$node->stop;
}

done_testing();
