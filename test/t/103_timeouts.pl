# No call waits longer than it was told to, and each says what became of the key.
#
# A connection that never came about is certain to have had no effect; a request
# that was sent is not.  The two timeouts cut across that: request_timeout may
# strike at any moment, and the answer has to be right for that moment.
#
# Lower bounds are asserted, since a timeout must not strike early.  Upper ones
# only tell a timeout from none: what is waited for would take a minute.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(time);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");
my $session = SendkitTest::Session->new($node);

my %usual = (
	base_url => $api->url('http'),
	connect_timeout => '1min',
	request_timeout => '1min',
	max_retries => 0);
my $serial = 0;

# Calls, and tests that it took the given seconds and hardly more.
sub timed_call
{
	my ($name, $seconds, $id, %set) = @_;
	$session->query(SendkitTest::_settings_sql({ %usual, %set }));
	my $start = time();
	my $answer = $session->call($id);
	my $elapsed = time() - $start;

	# the server's clock and ours need not tick together
	cmp_ok($elapsed, '>=', $seconds - 0.02, "$name: not before the time");
	prompt($elapsed - $seconds, "$name: late by");
	return $answer;
}

sub works_again
{
	my ($name) = @_;
	my $id = 'ws-after-' . ++$serial;
	is_outcome($session->call($id, set => \%usual), 'deleted',
		"$name: the next call deletes");
	is(scalar @{ $api->requests(id => $id) }, 1, "$name: by one request");
}

# Nothing was sent: unavailable, whichever timeout strikes
foreach my $where ('blackhole', 'https_stuck')
{
	foreach my $which ('connect_timeout', 'request_timeout')
	{
		# more than once, because each time could leave something behind
		foreach my $round (1 .. 3)
		{
			my $name = "$which at $where, time $round";
			my $answer = timed_call($name, 0.2, 'ws-nowhere',
				base_url => $where eq 'blackhole'
				? $api->url($where)
				: 'https://localhost:' . $api->port($where),
				$which => '200ms');
			is_outcome($answer, 'unavailable', "$name: nothing was deleted");
			like($answer->{message}, qr/nothing was deleted$/,
				"$name: and the message says so");
		}
		works_again("after $which at $where");
	}
}
ok($api->key_alive('ws-nowhere'), 'nothing was deleted indeed');

# Something was sent: unknown
foreach my $listener ('http', 'https', $api->port('h2') ? 'h2' : ())
{
	foreach my $case (
		[ 'silence', "ws-$listener;silent;act" ],
		[ 'a body that drips', "ws-$listener;drip=0.05;size=1000;act" ],
		[ 'an answer that comes too late', "ws-$listener;delay=60" ])
	{
		my ($what, $id) = @$case;
		my $name = "$what over $listener";
		my $answer = timed_call($name, 0.3, $id,
			base_url => $api->url($listener),
			request_timeout => '300ms',
			max_retries => 5);
		is_outcome($answer, 'unknown', "$name: nobody knows");
		is(scalar @{ $api->requests(id => $id) }, 1, "$name: sent once");
		ok(!$api->key_alive($id), "$name: the key is gone, who would have known");
		works_again("after $name");
	}
}

# connect_timeout is over once the connection is there
is_outcome(
	timed_call(
		'an answer later than connect_timeout', 0.3, 'ws-slow;delay=0.3',
		connect_timeout => '100ms'),
	'deleted',
	'a slow answer is no matter of connect_timeout');

# request_timeout is for all attempts together ...
is_outcome(
	timed_call(
		'ten attempts to connect', 0, 'ws-refused',
		base_url => $api->url('closed'),
		request_timeout => '500ms',
		max_retries => 10),
	'unavailable',
	'refused connections end in time');
is_outcome(
	timed_call(
		'hanging attempts to connect', 0.5, 'ws-hanging',
		base_url => $api->url('blackhole'),
		connect_timeout => '300ms',
		request_timeout => '500ms',
		max_retries => 10),
	'unavailable',
	'the second attempt has the rest of the time only');

# ... the last of which has the rest of the time only.  The first one is refused
# by a rate limit, and when that is lifted the API is silent.
{
	my $id = 'ws-rest;silent';
	my ($wait, $timeout) =
	  ($SendkitTest::HANG + 1, $SendkitTest::HANG + 1.5);
	$session->query(
		SendkitTest::_settings_sql({
				%usual, request_timeout => "${timeout}s", max_retries => 1 }));
	$api->control('POST', '/limit',
		{ per_second => 0.001, burst => 0, retry_after => "$wait" });
	my $start = time();
	$session->send(call_sql($id));
	wait_until(sub { @{ $api->requests(id => $id) } == 1 },
		'the first attempt was refused');
	$api->control('POST', '/limit', {});
	my $answer = $session->result;
	my $elapsed = time() - $start;
	like($answer->{rows}[0], qr/may or may not/,
		'silence after a rate limit: nobody knows');
	is(scalar @{ $api->requests(id => $id) },
		2, 'silence after a rate limit: two requests');
	cmp_ok($elapsed, '>=', $timeout - 0.02,
		'silence after a rate limit: not before the time');
	prompt($elapsed - $timeout, 'silence after a rate limit: late by');
}

# ... and waiting until a rate limit is over is part of it
{
	my $id = 'ws-limited;status=429;retry-after=1;times=1';
	is_outcome(timed_call('Retry-After within the time', 1, $id,
			request_timeout => '30s', max_retries => 1),
		'deleted', 'a wait that fits is waited');

	foreach my $status (429, 503)
	{
		$id = "ws-limited;status=$status;retry-after=30";
		my $name = "Retry-After beyond the time with $status";
		my $answer = timed_call($name, 0, $id,
			request_timeout => '10s', max_retries => 5);
		is_outcome($answer, 'unavailable', "$name: answered at once");
		like($answer->{message}, qr/\b$status\b.* 30 s;/,
			"$name: the message tells how long to wait");
		is(scalar @{ $api->requests(id => $id) }, 1, "$name: not sent again");
	}

	$id = 'ws-limited;status=429;retry-after=1';
	my $answer = timed_call('Retry-After again and again', 0, $id,
		request_timeout => '2500ms', max_retries => 100);
	is_outcome($answer, 'unavailable', 'a rate limit without an end');
	my $sent = @{ $api->requests(id => $id) };
	ok($sent == 2 || $sent == 3, 'as many attempts as fit into the time')
	  || diag("sent $sent times");
}

works_again('after all');
ok_key_not_logged($node);
done_testing();
