# What had no effect is tried again; what may have had one never is.
#
# The stand-in's records are the witness: how often a request came is what an
# answer must never hide.  A repeated DELETE could revoke the key that somebody
# has created since the first.

use strict;
use warnings;

use POSIX qw(strftime);
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api);
my $session = SendkitTest::Session->new($node);
my $watcher = SendkitTest::Session->new($node);

my %usual = (
	base_url => $api->url('http'),
	request_timeout => '30s',
	max_retries => 3);

sub statuses
{
	my ($id) = @_;
	return [ map { $_->{status} } @{ $api->requests(id => $id) } ];
}

# Connection refused: the API is down, and comes up while the call goes on
{
	$session->call('ws-warm', set => { %usual, max_retries => 10 });
	$api->control('POST', '/stop');
	# the end of the warm connection must have arrived
	sleep 0.1;
	$session->send(call_sql('ws-down'));
	$watcher->wait_for_wait($session);
	# long enough for the first attempts to fail
	sleep 0.3;
	is_deeply(statuses('ws-down'), [], 'an API that is down gets nothing');
	$api->control('POST', '/start');
	my $result = $session->result;
	like($result->{rows}[0], qr/"success":true/,
		'an API that comes up is found by a retry');
	is_deeply(statuses('ws-down'), [200], 'and gets the request once');
}

# Refusals that are certain to have had no effect
foreach my $case (
	[ 'ws-429;status=429;times=2', [ 429, 429, 200 ] ],
	[ 'ws-503;status=503;retry-after=0;times=2', [ 503, 503, 200 ] ],
	[ 'ws-429;status=429;retry-after=0;times=3', [ 429, 429, 429, 200 ] ],
	# these count by their status alone, whatever becomes of the body
	[ 'ws-429;status=429;body=html;times=1', [ 429, 200 ] ],
	[ 'ws-429;status=429;reset=body;times=1', [ 429, 200 ] ],
	[ 'ws-429;status=429;body=deleted;times=1', [ 429, 200 ] ])
{
	my ($id, $expected) = @$case;
	is_outcome($session->call($id, set => \%usual), 'deleted',
		"$id: deleted in the end");
	is_deeply(statuses($id), $expected, "$id: what came on the way");
}

# max_retries is exact
foreach my $retries (0 .. 4)
{
	my $id = "ws-count-$retries;status=429;retry-after=0";
	is_outcome(
		$session->call($id, set => { %usual, max_retries => $retries }),
		'unavailable', "$retries retries: given up");
	is_deeply(statuses($id), [ (429) x ($retries + 1) ],
		"$retries retries: " . ($retries + 1) . ' requests');
}

# Between retries there is a pause, a longer one each time
{
	my $id = 'ws-backoff;status=429';
	$session->call($id, set => \%usual);
	my @at = map { $_->{at} } @{ $api->requests(id => $id) };
	is(scalar @at, 4, 'four attempts');
	# half of each pause is left to chance: 100 to 200 ms, 200 to 400, ...
	my @least = (0.1, 0.2, 0.4);
	foreach my $i (1 .. $#at)
	{
		cmp_ok($at[$i] - $at[ $i - 1 ], '>=', $least[ $i - 1 ] - 0.02,
			"pause $i");
	}
}

# Retry-After in seconds
{
	my $id = 'ws-after;status=503;retry-after=1;times=1';
	is_outcome($session->call($id, set => \%usual), 'deleted',
		'Retry-After in seconds: deleted');
	my @at = map { $_->{at} } @{ $api->requests(id => $id) };
	is(scalar @at, 2, 'Retry-After in seconds: two requests');
	cmp_ok($at[1] - $at[0], '>=', 0.98, 'Retry-After in seconds: a second apart');
}

# ... as a date
sub http_date
{
	# English names, whatever the locale
	my @time = gmtime shift;
	return sprintf('%s,+%02d+%s+%d+%s+GMT',
		(qw(Sun Mon Tue Wed Thu Fri Sat))[ $time[6] ],
		$time[3],
		(qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[ $time[4] ],
		$time[5] + 1900,
		strftime('%H:%M:%S', @time));
}
{
	my $date = int(time()) + 2;
	my $id = 'ws-date;status=429;times=1;retry-after=' . http_date($date);
	is_outcome($session->call($id, set => \%usual), 'deleted',
		'Retry-After as a date: deleted');
	cmp_ok(time(), '>=', $date, 'Retry-After as a date: not before');
	is_deeply(statuses($id), [ 429, 200 ], 'Retry-After as a date: two requests');

	$id = 'ws-past;status=429;times=1;retry-after=' . http_date($date - 86400);
	is_outcome($session->call($id, set => \%usual), 'deleted',
		'Retry-After in the past: deleted');

	$id = 'ws-future;status=429;retry-after=' . http_date($date + 86400);
	my $start = time();
	is_outcome($session->call($id, set => \%usual), 'unavailable',
		'Retry-After tomorrow: unavailable');
	prompt(time() - $start, 'Retry-After tomorrow');
	is_deeply(statuses($id), [429], 'Retry-After tomorrow: one request');
}

# ... as a number that overflows: long, not none
foreach my $number ('9223372036854775807', '99999999999999999999999999')
{
	my $id = "ws-overflow;status=503;retry-after=$number";
	my $start = time();
	is_outcome($session->call($id, set => \%usual), 'unavailable',
		"Retry-After $number: unavailable");
	prompt(time() - $start, "Retry-After $number");
	is_deeply(statuses($id), [503], "Retry-After $number: one request");
}

# ... as something else: the usual pause
foreach my $nonsense ('soon', '-1', '1.5', '')
{
	my $id = "ws-nonsense;status=429;times=1;retry-after=$nonsense";
	is_outcome($session->call($id, set => \%usual), 'deleted',
		"Retry-After \"$nonsense\": deleted");
	my @at = map { $_->{at} } @{ $api->requests(id => $id) };
	cmp_ok($at[1] - $at[0], '>=', 0.08, "Retry-After \"$nonsense\": a pause");
}

# Answers that prove nothing are not tried again
foreach my $directives (
	'status=500', 'status=502', 'status=503', 'status=504', 'status=408',
	'status=425', 'status=408;retry-after=0', 'status=500;retry-after=0',
	'status=200;retry-after=0;body=html', 'redirect=second', 'body=empty')
{
	my $id = "ws-once;$directives";
	is_outcome($session->call($id, set => \%usual), 'unknown',
		"$directives: unknown");
	is(scalar @{ $api->requests(id => $id) }, 1, "$directives: sent once");
}

# TLS failures don't heal within seconds, and might be an attack
foreach my $listener ('https_expired', 'https_wronghost', 'https_selfsigned')
{
	my $before = $api->stats->{accepted}{$listener} || 0;
	my $id = "ws-$listener";
	is_outcome(
		$session->call($id,
			set => {
				%usual, base_url => 'https://localhost:' . $api->port($listener)
			}),
		'unavailable', "$listener: unavailable");
	is($api->stats->{accepted}{$listener} - $before,
		1, "$listener: one connection");
	is_deeply(statuses($id), [], "$listener: no request");
}

# Whatever becomes of a connection that carried a request: it is not sent again.
# On a connection that was used before, libcurl would by itself.
foreach my $listener ('http', 'https')
{
	foreach my $how ('reset', 'fin')
	{
		foreach my $stage ('request', 'headers', 'body', 'answered')
		{
			foreach my $connection ('new', 'reused')
			{
				my $name = "$how after $stage on a $connection $listener connection";
				my $id = "ws-$listener-$connection;$how=$stage;act";
				my %set = (%usual, base_url => $api->url($listener));

				# another root is another connection
				$session->call('ws-else',
					set => { %usual, base_url => $api->url('second') });
				$session->call('ws-warm', set => \%set)
				  if $connection eq 'reused';

				my $answer = $session->call($id, set => \%set);
				# a reset makes the kernel discard what was not read yet
				my $expected =
				    $stage ne 'answered' ? qr/^unknown$/
				  : $how eq 'fin' ? qr/^deleted$/
				  : qr/^(deleted|unknown)$/;
				like($answer->{outcome}, $expected, $name)
				  || diag(explain($answer));
				is(scalar @{ $api->requests(id => $id) }, 1,
					"$name: one request");
			}
		}
	}
}
is_outcome($session->call('ws-last', set => \%usual), 'deleted',
	'after all that, the session works');

ok_key_not_logged($node);
done_testing();
