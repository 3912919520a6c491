# A call can be ended at any moment.
#
# libcurl has its own ideas of when to come back: with its easy interface, or
# with a name server that hangs, a cancel would be served minutes later.  And a
# jump out of the middle of its work would leave it in a state that spoils the
# next call.  So each phase of a request is brought about here, ended in each of
# the ways PostgreSQL has, and then the same session has to give right answers
# and own as many descriptors as before.
#
# Times are noted, but only compared with a bound that a hang exceeds.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

# The resolver hangs for longer than anything here may take.
my $STUCK_SECONDS = int($SendkitTest::HANG) + 3;

my $api = SendkitStandin->start(tls => 1);
my $library = preload_library('stuck_resolver');
my $node = start_node(
	$api,
	listener => 'https',
	env => $library
	? { LD_PRELOAD => $library,
		STUCK_HOST => 'stuck.test',
		STUCK_SECONDS => $STUCK_SECONDS }
	: {});
my $watcher = SendkitTest::Session->new($node);

my @resolving = $library
  ? ([ 'resolving a name', 'ws', { base_url => 'https://stuck.test' } ])
  : ();

# In each of these phases a call would stay for seconds.
my @phases = (
	@resolving,
	[ 'connecting', 'ws', { base_url => $api->url('blackhole') } ],
	[ 'shaking hands over TLS', 'ws', { base_url => $api->url('https_stuck') } ],
	[ 'waiting for an answer over TLS', 'ws;silent' ],
	[ 'waiting for an answer', 'ws;silent', { base_url => $api->url('http') } ],
	[ 'receiving a body over TLS', 'ws;drip=1' ],
	[ 'receiving a body', 'ws;drip=1', { base_url => $api->url('http') } ],
	[ 'pausing before a retry', 'ws',
		{ base_url => $api->url('closed'), max_retries => 10 } ],
	[ 'obeying Retry-After', 'ws;status=429;retry-after=20' ]);
push @phases,
  [ 'waiting for an answer over HTTP/2', 'ws;silent',
	{ base_url => $api->url('h2') } ],
  [ 'receiving a body over HTTP/2', 'ws;drip=1',
	{ base_url => $api->url('h2') } ]
  if $api->port('h2');

my %usual = (
	base_url => $api->url('https'),
	connect_timeout => '20s',
	request_timeout => '30s',
	max_retries => 3);

my $serial = 0;

# After all: is the session as good as new?
sub check_session
{
	my ($session, $name) = @_;
	my $id = 'ws-after-' . ++$serial;

	is_outcome($session->call($id, set => \%usual), 'deleted',
		"$name: the next call deletes");
	is(scalar @{ $api->requests(id => $id) }, 1,
		"$name: and was sent once");
	is($session->call($id)->{message},
		'The requested resource was not found',
		"$name: the one after it gets an answer of its own");
}

sub new_session
{
	my $session = SendkitTest::Session->new($node);
	is_outcome($session->call('ws-warm-' . ++$serial, set => \%usual),
		'deleted', 'a warm session');
	return $session;
}

# Starts a call, and returns when it is in its phase.
sub start_call
{
	my ($session, $phase, $before) = @_;
	my ($name, $id, $set) = @$phase;
	$session->query(SendkitTest::_settings_sql({ %usual, %{ $set || {} } }));
	$session->send(($before || '') . call_sql($id));
	$watcher->wait_for_wait($session);
	# past the first round trips on the loopback interface
	sleep 0.1;
	return;
}

# What hangs in getaddrinfo() can't be ended, and keeps a descriptor until it
# comes back.  So sessions with such a past are looked at when all else is done.
my @resolved;

sub check_descriptors
{
	my ($session, $phase, $descriptors, $name) = @_;
	if ($phase->[0] =~ /resolving/)
	{
		push @resolved, [ $session, $descriptors, $name ];
		return new_session();
	}
	# one less is fine: not every libcurl keeps a connection over TLS
	cmp_ok(descriptors($session->pid), '<=', $descriptors,
		"$name: no descriptor is left over");
	return $session;
}

# pg_cancel_backend() and statement_timeout, each in each phase
{
	my $session = new_session();
	my $descriptors = descriptors($session->pid);

	foreach my $phase (@phases)
	{
		my $name = "cancelled while $phase->[0]";
		start_call($session, $phase);
		my $start = time();
		$watcher->value('SELECT pg_cancel_backend(' . $session->pid . ')');
		my $result = $session->result;
		prompt(time() - $start, $name);
		is($result->{sqlstate}, '57014', "$name: query_canceled");
		is_deeply($result->{rows}, [], "$name: no row");
		check_session($session, $name);
		$session = check_descriptors($session, $phase, $descriptors, $name);
	}

	foreach my $phase (@phases)
	{
		my $name = "timed out while $phase->[0]";
		my $timeout = 300;
		my $start = time();
		start_call($session, $phase,
			"BEGIN; SET LOCAL statement_timeout = $timeout;\n");
		my $result = $session->result;
		prompt(time() - $start - $timeout / 1000, $name);
		is($result->{sqlstate}, '57014', "$name: query_canceled");
		like($result->{stderr}, qr/statement timeout/,
			"$name: because of statement_timeout");
		$session->query('ROLLBACK');
		check_session($session, $name);
		$session = check_descriptors($session, $phase, $descriptors, $name);
	}
}

# pg_terminate_backend(), in each phase
foreach my $phase (@phases)
{
	my $name = "terminated while $phase->[0]";
	my $session = new_session();
	start_call($session, $phase);
	my $start = time();
	$watcher->value('SELECT pg_terminate_backend(' . $session->pid . ')');
	my $result = $session->result;
	wait_until(sub { process_is_gone($session->pid) },
		'the terminated backend has gone');
	prompt(time() - $start, $name);
	is($result->{sqlstate}, '57P01', "$name: admin_shutdown");
}

# A cancel that PL/pgSQL catches.  WHEN OTHERS does not catch it, and must not
# be led to believe that the call has returned.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION catch_cancel(first text, next text, key text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	caught text := 'nothing';
BEGIN
	BEGIN
		BEGIN
			PERFORM sendkit_delete_api_key(first, key);
		EXCEPTION WHEN OTHERS THEN
			caught := 'others';
		END;
	EXCEPTION WHEN query_canceled THEN
		caught := 'query_canceled';
	END;
	RETURN caught || ', then ' ||
		(SELECT message FROM sendkit_delete_api_key(next, key));
END $$;
CREATE FUNCTION catch_others(first text, next text, key text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sendkit_delete_api_key(first, key);
	RETURN 'not caught';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ', then ' ||
		(SELECT message FROM sendkit_delete_api_key(next, key));
END $$;
SQL
{
	my $session = new_session();
	my $descriptors = descriptors($session->pid);

	foreach my $id ('ws;silent', 'ws;drip=1')
	{
		my $next = 'ws-caught-' . ++$serial;
		my $arguments =
		  join(', ', map { literal($_) } $id, $next, $KEY);

		$session->send("SELECT catch_cancel($arguments)");
		$watcher->wait_for_wait($session);
		sleep 0.1;
		$watcher->value('SELECT pg_cancel_backend(' . $session->pid . ')');
		is_deeply($session->result->{rows},
			['query_canceled, then API key deleted'],
			"$id: caught as query_canceled, and the next call of the block works");
		is(scalar @{ $api->requests(id => $next) }, 1, "$id: sent once");

		$session->send("SELECT catch_others($arguments)");
		$watcher->wait_for_wait($session);
		sleep 0.1;
		$watcher->value('SELECT pg_cancel_backend(' . $session->pid . ')');
		is($session->result->{sqlstate}, '57014', "$id: not caught as OTHERS");
		check_session($session, "$id: after that");
	}

	my $next = 'ws-caught-' . ++$serial;
	is( $session->value(
			'SELECT catch_others('
			  . join(', ', map { literal($_) } '..', $next, $KEY) . ')'),
		'22023, then API key deleted',
		'an error for the arguments is caught as OTHERS');
	is(descriptors($session->pid), $descriptors,
		'caught cancels leave no descriptor behind');
}

# libcurl resolves names in threads of its own, which inherit the signal mask.
# Were a signal of PostgreSQL's delivered to one, its handler would run there,
# beside the backend.
SKIP:
{
	skip 'no C compiler', 1 unless $library;
	my $session = new_session();
	start_call($session, $resolving[0]);
	my $pid = $session->pid;
	my %handled =
	  (HUP => 1, INT => 2, QUIT => 3, USR1 => 10, ALRM => 14, TERM => 15,
		URG => 23);
	my @open;
	my $threads = 0;
	foreach my $task (grep { !m{/$pid$} } glob "/proc/$pid/task/*")
	{
		my ($mask) = PostgreSQL::Test::Utils::slurp_file("$task/status") =~
		  /^SigBlk:\s+([0-9a-f]+)/m;
		$threads++;
		push @open, grep { !(hex($mask) & 1 << ($handled{$_} - 1)) }
		  sort keys %handled;
	}
	ok($threads > 0, 'a thread hangs in the resolver');
	is_deeply(\@open, [], 'and gets none of the signals of PostgreSQL');
	$watcher->value("SELECT pg_cancel_backend($pid)");
	$session->result;
}

# How long does it take?  By the server's clock, from the cancel's being sent,
# or the timeout's being due, to the error's being caught.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION ended_at(id text, key text) RETURNS float8
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sendkit_delete_api_key(id, key);
	RETURN 'infinity';
EXCEPTION WHEN query_canceled THEN
	RETURN extract(epoch FROM clock_timestamp());
END $$;
SQL

sub measure_cancel
{
	my ($session, $sql) = @_;
	$session->send($sql);
	$watcher->wait_for_wait($session);
	my $sent = $watcher->value(
		'SELECT extract(epoch FROM clock_timestamp())::float8 '
		  . 'FROM pg_cancel_backend(' . $session->pid . ')');
	return $session->result->{rows}[0] - $sent;
}

sub measure_timeout
{
	my ($session, $sql) = @_;
	my $timeout = 0.03;
	my $elapsed = $session->value(
		'SET statement_timeout = ' . $timeout * 1000 . ";\n$sql"
		  . ' - extract(epoch FROM statement_timestamp())::float8');
	$session->value('SET statement_timeout = 0; SELECT 1');
	return $elapsed - $timeout;
}

foreach my $phase (@resolving, [ 'waiting for an answer', 'ws;silent' ])
{
	my ($name, $id, $set) = @$phase;
	my $session = new_session();
	my $sql = 'SELECT ended_at('
	  . literal($id) . ', ' . literal($KEY) . ')';
	$session->query(SendkitTest::_settings_sql({ %usual, %{ $set || {} } }));

	foreach my $way ([ 'cancel', \&measure_cancel ],
		[ 'statement_timeout', \&measure_timeout ])
	{
		my @ms = sort { $a <=> $b }
		  map { 1000 * $way->[1]->($session, $sql) } 1 .. 20;
		note(sprintf('%s while %s: median %.1f ms, worst %.1f ms of 20',
				$way->[0], $name, ($ms[9] + $ms[10]) / 2, $ms[-1]));
		cmp_ok($ms[-1], '<', $SendkitTest::HANG * 1000,
			"20 times $way->[0] while $name: promptly");
	}
	check_session($session, "20 times ended while $name");
}

foreach my $case (@resolved)
{
	my ($session, $descriptors, $name) = @$case;
	my $pid = $session->pid;
	wait_until(sub { my @threads = glob "/proc/$pid/task/*"; @threads == 1 },
		'the resolver threads have ended');
	is(descriptors($pid), $descriptors, "$name: no descriptor is left over");
	check_session($session, "$name: when the resolver has come back");
}

ok_key_not_logged($node);
done_testing();
