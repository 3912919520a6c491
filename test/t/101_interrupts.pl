# A call can be ended at any moment.
#
# libcurl has its own ideas of when to come back: with its easy interface, or
# with a name server that hangs, a cancel would be served minutes later.  And a
# jump out of the middle of its work would leave it in a state that spoils the
# next call.  So each phase of a request is brought about here, ended in each of
# the ways PostgreSQL has, and then the same session has to give right answers
# and own as many descriptors as before.
#
# An interrupt has to wake the backend up.  libcurl has timers of its own, and the
# API sends something now and then: whatever wakes it sooner would hide that the
# interrupt did not.  So calls are ended where nothing else happens for long.
#
# Times are noted.  A single one is only compared with a bound that a hang
# exceeds, the median of many with one far beyond what it should be, and far
# below what it takes until something else happens.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

# The resolver hangs for longer than anything here may take.
my $STUCK_SECONDS = int($SendkitTest::HANG) + 3;

# In seconds: what the median must be below.  It should be some milliseconds.
my $MEDIAN = 0.15;

# libcurl's timer of 200 ms, which it sets when it connects, has then gone off.
my $SETTLED = 0.25;

# While it resolves a name, libcurl looks every 250 ms whether it is done: at last
# some 250 and 500 ms after the start.  A timeout comes soon after that.
my $TIMEOUT = 0.3;
my $LATER_TIMEOUT = 0.55;

my $api = SendkitStandin->start(tls => 1);
my $library = preload_library('stuck_resolver');
my $node = start_node(
	$api,
	listener => 'https',
	# see terminated_at()
	conf => "log_line_prefix = '%n [%p] '\n",
	env => $library
	? { LD_PRELOAD => $library,
		STUCK_HOST => 'stuck.test',
		STUCK_SECONDS => $STUCK_SECONDS }
	: {});
my $watcher = SendkitTest::Session->new($node);

my $NEVER = 9**9**9;

my @resolving = $library
  ? ([ 'resolving a name', 'ws', { base_url => 'https://stuck.test' } ])
  : ();

# In each of these phases a call would stay for seconds, and nothing wakes it up
# for as long, with two exceptions: libcurl's looking after the resolver, and the
# ends of the first pauses before a retry, of up to 200, 400 and 800 ms.  There the
# medians of 20, below, tell whether an interrupt works.
my @phases = (
	@resolving,
	[ 'connecting', 'ws', { base_url => $api->url('blackhole') } ],
	[ 'shaking hands over TLS', 'ws', { base_url => $api->url('https_stuck') } ],
	[ 'waiting for an answer over TLS', 'ws;silent' ],
	[ 'waiting for an answer', 'ws;silent', { base_url => $api->url('http') } ],
	[ 'receiving a body over TLS', 'ws;drip=10' ],
	[ 'receiving a body', 'ws;drip=10', { base_url => $api->url('http') } ],
	[ 'pausing before a retry', 'ws',
		{ base_url => $api->url('closed'), max_retries => 10 } ],
	[ 'obeying Retry-After', 'ws;status=429;retry-after=20' ]);
push @phases,
  [ 'waiting for an answer over HTTP/2', 'ws;silent',
	{ base_url => $api->url('h2') } ],
  [ 'receiving a body over HTTP/2', 'ws;drip=10',
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

sub set_for
{
	my ($session, $phase) = @_;
	my $set = $phase->[2] || {};
	$session->query(SendkitTest::_settings_sql({ %usual, %$set }));
	return;
}

# Starts a call, and returns when it waits; its phase is to follow, see $SETTLED.
sub begin_call
{
	my ($session, $phase) = @_;
	set_for($session, $phase);
	$session->send(call_sql($phase->[1]));
	$watcher->wait_for_wait($session);
	return;
}

# Starts a call, and returns when it is in its phase.
sub start_call
{
	my ($session, $phase) = @_;
	begin_call($session, $phase);
	sleep $SETTLED;
	return;
}

# Notes how long it took many times, in seconds, and tests the median and the worst.
sub prompt_by_median
{
	my ($name, @seconds) = @_;
	my @sorted = sort { $a <=> $b } @seconds;
	my $half = int(@sorted / 2);
	my $median =
	  @sorted % 2 ? $sorted[$half] : ($sorted[ $half - 1 ] + $sorted[$half]) / 2;

	note(sprintf('%s: median %.1f ms, worst %.1f ms of %d',
			$name, $median * 1000, $sorted[-1] * 1000, scalar @sorted));
	cmp_ok($median, '<', $MEDIAN, "$name: promptly by the median");
	cmp_ok($sorted[-1], '<', $SendkitTest::HANG, "$name: promptly at worst");
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
	my (@cancelled, @timed_out);

	foreach my $phase (@phases)
	{
		my $name = "cancelled while $phase->[0]";
		start_call($session, $phase);
		my $start = time();
		$watcher->value('SELECT pg_cancel_backend(' . $session->pid . ')');
		my $result = $session->result;
		push @cancelled, time() - $start;
		prompt($cancelled[-1], $name);
		is($result->{sqlstate}, '57014', "$name: query_canceled");
		is_deeply($result->{rows}, [], "$name: no row");
		check_session($session, $name);
		$session = check_descriptors($session, $phase, $descriptors, $name);
	}
	prompt_by_median('cancelled in each phase', @cancelled);

	foreach my $phase (@phases)
	{
		my $name = "timed out while $phase->[0]";
		set_for($session, $phase);
		my $start = time();
		$session->send('BEGIN; SET LOCAL statement_timeout = '
			  . $TIMEOUT * 1000 . ";\n" . call_sql($phase->[1]));
		my $result = $session->result;
		push @timed_out, time() - $start - $TIMEOUT;
		prompt($timed_out[-1], $name);
		is($result->{sqlstate}, '57014', "$name: query_canceled");
		like($result->{stderr}, qr/statement timeout/,
			"$name: because of statement_timeout");
		$session->query('ROLLBACK');
		check_session($session, $name);
		$session = check_descriptors($session, $phase, $descriptors, $name);
	}
	prompt_by_median('timed out in each phase', @timed_out);
}

# Calls a function with the backend's process id, and returns when that was, by
# the server's clock.
sub interrupt
{
	my ($session, $function) = @_;
	return $watcher->value(
		'SELECT extract(epoch FROM clock_timestamp())::float8 '
		  . "FROM $function(" . $session->pid . ')');
}

# When did the backend say that it was terminated, by the server's clock?
sub terminated_at
{
	my ($session) = @_;
	my $pid = $session->pid;
	my ($at) = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~
	  /^(\d+\.\d+) \[$pid\] FATAL: /m;
	return defined $at ? $at : $NEVER;
}

# pg_terminate_backend(), in each phase
{
	my @cases = map { { phase => $_, session => new_session() } } @phases;
	my @seconds;

	begin_call($_->{session}, $_->{phase}) foreach @cases;
	sleep $SETTLED;
	foreach my $case (@cases)
	{
		$case->{start} = time();
		$case->{sent} = interrupt($case->{session}, 'pg_terminate_backend');
	}
	foreach my $case (@cases)
	{
		my $name = "terminated while $case->{phase}[0]";
		my $session = $case->{session};
		my $result = $session->result;
		wait_until(sub { process_is_gone($session->pid) },
			'the terminated backend has gone');
		prompt(time() - $case->{start}, $name);
		is($result->{sqlstate}, '57P01', "$name: admin_shutdown");
		push @seconds, terminated_at($session) - $case->{sent};
	}
	prompt_by_median('terminated in each phase', @seconds);
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

	foreach my $id ('ws;silent', 'ws;drip=10')
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

# How long does it take?  In 20 sessions at a time, since it takes a while until
# each of them is where nothing else will wake it up soon.
#
# It is measured by the server's clock, from the interrupt's being sent, or the
# timeout's being due, to the error's being caught, or logged.
my $TIMES = 20;

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

# How often has the backend gone to sleep?
sub sleeps
{
	my ($session) = @_;
	my $status = '/proc/' . $session->pid . '/status';
	my ($count) = PostgreSQL::Test::Utils::slurp_file($status) =~
	  /^voluntary_ctxt_switches:\s+(\d+)/m;
	return $count;
}

# Waits until one of the sessions wakes up by itself and has gone to sleep again,
# and returns it; undef if none of them does.
sub first_to_wake
{
	my @sessions = @_;
	my %before = map { $_ => sleeps($_) } @sessions;
	my $deadline = time() + 0.3;

	while (time() < $deadline)
	{
		my ($woken) = grep { sleeps($_) != $before{$_} } @sessions;
		# a timer may go off a bit early, and then once more
		sleep 0.003;
		return $woken if $woken;
	}
	return undef;
}

# Starts a call in each session, interrupts one after the other, each in a moment
# after which it would sleep for long, and returns when that was.
sub interrupt_asleep
{
	my ($function, $sql, @sessions) = @_;
	my $quiet = 0;
	my %sent;

	foreach my $session (@sessions)
	{
		$session->send($sql);
		$watcher->wait_for_wait($session);
	}
	sleep $SETTLED;
	while (@sessions)
	{
		my $next = $quiet ? undef : first_to_wake(@sessions);
		$quiet = !$next;
		$next ||= $sessions[0];
		@sessions = grep { $_ != $next } @sessions;
		$sent{$next} = interrupt($next, $function);
	}
	return %sent;
}

# What ended_at() returned: nothing, if an error came after its end.
sub ended
{
	my ($session) = @_;
	my $at = $session->result->{rows}[0];
	return defined $at ? $at : $NEVER;
}

sub measure_cancel
{
	my ($sql, @sessions) = @_;
	my %sent = interrupt_asleep('pg_cancel_backend', $sql, @sessions);
	return map { ended($_) - $sent{$_} } @sessions;
}

sub measure_terminate
{
	my ($sql, @sessions) = @_;
	my %sent = interrupt_asleep('pg_terminate_backend', $sql, @sessions);
	$_->result foreach @sessions;
	return map { terminated_at($_) - $sent{$_} } @sessions;
}

sub measure_timeout
{
	my ($sql, @sessions) = @_;
	my @seconds;

	foreach my $session (@sessions)
	{
		$session->query('SET statement_timeout = ' . $LATER_TIMEOUT * 1000);
		$session->send(
			"$sql - extract(epoch FROM statement_timestamp())::float8");
		# they are not to end all at once
		sleep 0.01;
	}
	foreach my $session (@sessions)
	{
		push @seconds, ended($session) - $LATER_TIMEOUT;
		$session->query('SET statement_timeout = 0');
	}
	return @seconds;
}

sub new_sessions
{
	return map { SendkitTest::Session->new($node) } 1 .. $TIMES;
}

my %measured = map { $_ => 1 }
  'resolving a name', 'waiting for an answer over TLS',
  'pausing before a retry';
my @sessions = new_sessions();
foreach my $phase (grep { $measured{ $_->[0] } } @phases)
{
	my $name = "while $phase->[0], $TIMES times";
	my $sql = 'SELECT ended_at('
	  . literal($phase->[1]) . ', ' . literal($KEY) . ')';

	set_for($_, $phase) foreach @sessions;
	prompt_by_median("cancelled $name", measure_cancel($sql, @sessions));
	prompt_by_median("timed out $name", measure_timeout($sql, @sessions));

	# New ones also because PostgreSQL lets the alarm of the last timeout go off
	# later, though nobody needs it, and that looks like waking up by oneself.
	my @mortal = new_sessions();
	set_for($_, $phase) foreach @mortal;
	prompt_by_median("terminated $name", measure_terminate($sql, @mortal));
}
check_session($sessions[0], 'ended several times');

foreach my $case (@resolved)
{
	my ($session, $descriptors, $name) = @$case;
	my $pid = $session->pid;
	wait_until(sub { my @threads = glob "/proc/$pid/task/*"; @threads == 1 },
		'the resolver threads have ended');
	is(descriptors($pid), $descriptors, "$name: no descriptor is left over")
	  if libcurl_version() >= 7.87 || !libcurl_version();
	check_session($session, "$name: when the resolver has come back");
}

ok_key_not_logged($node);
done_testing();
