# Many workspaces in one statement, as the stand-in's own records tell it.
#
# What counts is what arrived: never more requests or connections at a time than
# allowed, each id once, one connection where the server speaks HTTP/2.  And what
# is left when things go wrong half way: a rate limit, a server that goes away, an
# impatient user.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1, nghttpx => 1);
my $node = start_node($api);
my $session = SendkitTest::Session->new($node);
my @listeners = grep { $api->port($_) } 'http', 'https', 'h2', 'nghttpx';

# Deletes so many, and returns outcome => count.
sub delete_many
{
	my ($prefix, $count, $directives) = @_;
	my $result = $session->query(
		"SELECT outcome || ' ' || count(*) FROM sendkit_delete_api_keys("
		  . "ARRAY(SELECT '$prefix-' || i || '$directives' FROM generate_series(1, $count) i), "
		  . "'$KEY') GROUP BY outcome");
	return { map { split / / } @{ $result->{rows} } };
}

sub use_listener
{
	my ($listener, $concurrency) = @_;
	# not query(): with a SET that is refused, the test would prove nothing
	$session->value('SET sendkit.base_url = ' . literal($api->url($listener)) . '; SELECT 1');
	$session->value("SET sendkit.max_concurrency = $concurrency; SELECT 1");
	$api->reset;
}

# Returns how often each id was asked for.
sub times_asked
{
	my %times;
	$times{ $_->{id} // '?' }++ foreach @{ $api->requests };
	return \%times;
}

# The most memory that a process has taken so far
sub most_memory_kb
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 : die "no VmHWM of $pid";
}

sub most { my $n = 0; $n = $_ > $n ? $_ : $n foreach @_; return $n; }

# --- within bounds ------------------------------------------------------------

foreach my $listener (@listeners)
{
	foreach my $concurrency (1, 7, 40)
	{
		my $name = "$listener, $concurrency at a time";
		use_listener($listener, $concurrency);
		is_deeply(delete_many("$listener-$concurrency", 200, ';delay=0.01'),
			{ deleted => 200 }, "$name: all are deleted");

		my @requests = @{ $api->requests };
		is(scalar @requests, 200, "$name: by as many requests");
		is(most(values %{ times_asked() }), 1, "$name: each id once");
		my $flight = most(map { $_->{in_flight} } @requests);
		cmp_ok($flight, '<=', $concurrency, "$name: never more in flight");
		cmp_ok($flight, '>=', $concurrency / 2, "$name: and not much less")
		  if $concurrency < 40;
		my %connections = map { $_->{connection} => 1 } @requests;
		my $expected = !libcurl_keeps_connections() ? 200 : $listener eq 'h2' ? 1 : $concurrency;
		cmp_ok(scalar keys %connections, '<=', $expected,
			"$name: on no more connections");
	}
}

# One slow answer delays nobody else.
use_listener('http', 4);
{
	my $started = time();
	$session->send("SELECT count(*) FROM sendkit_delete_api_keys("
		  . "'{slow;delay=3}' || ARRAY(SELECT 'quick-' || i FROM generate_series(1, 100) i), '$KEY')");
	wait_until(sub { @{ $api->requests } == 101 }, 'all requests have left');
	cmp_ok(time() - $started, '<', 3, 'a slow answer delays nobody else');
	is($session->result->{rows}[0], 101, 'and is waited for');
}

# --- rate limits ---------------------------------------------------------------

# Too many at once are answered 429; all are deleted in the end, each once.
foreach my $listener (@listeners)
{
	use_listener($listener, 20);
	$session->query('SET sendkit.max_retries = 20');
	$api->control('POST', '/limit',
		{ per_second => 60, burst => 10, retry_after => '1', status => 429 });
	is_deeply(delete_many("limit-$listener", 60, ''), { deleted => 60 },
		"$listener: a storm of 429: none is lost");
	my @requests = @{ $api->requests };
	my %done;
	$done{ $_->{id} }++ foreach grep { $_->{status} == 200 } @requests;
	is(scalar keys %done, 60, "$listener: ... each was deleted");
	is(most(values %done), 1, "$listener: ... once");
	cmp_ok(scalar @requests, '<', 240, "$listener: ... without a storm of ours");
	$api->control('POST', '/limit', {});
	$session->query('RESET sendkit.max_retries');
}

# Nothing leaves while the API asks to wait.
use_listener('http', 8);
is_deeply(delete_many('held', 30, ';status=503;retry-after=1;times=1'),
	{ deleted => 30 }, 'a 503 with Retry-After holds back');
{
	my @at = sort { $a <=> $b } map { $_->{at} } @{ $api->requests };
	my $pause = 0;
	$pause = $at[$_] - $at[ $_ - 1 ] > $pause ? $at[$_] - $at[ $_ - 1 ] : $pause
	  foreach 1 .. $#at;
	cmp_ok($pause, '>=', 0.9, 'for as long as it asks');
}

# A wait that is longer than the patience ends at once.
use_listener('http', 8);
$session->query("SET sendkit.request_timeout = '3s'");
{
	my $started = time();
	$api->control('POST', '/limit',
		{ per_second => 0.001, burst => 5, retry_after => '3600', status => 429 });
	my $outcomes = delete_many('hour', 500, '');
	is($outcomes->{deleted}, 5, 'what came before the limit is deleted');
	is($outcomes->{unavailable}, 495, 'the rest certainly is not');
	cmp_ok(scalar @{ $api->requests }, '<=', 13, 'and was mostly not sent');
	cmp_ok(time() - $started, '<', 3, 'nor waited for');
	$api->control('POST', '/limit', {});
}
$session->query('RESET sendkit.request_timeout');

# --- connections that end ---------------------------------------------------------

foreach my $how ('close', 'close-silently')
{
	foreach my $listener (grep { $_ ne 'nghttpx' } @listeners)
	{
		use_listener($listener, 10);
		my $outcomes = delete_many("$how-$listener", 60, ";$how");
		# a stream that is refused with each end comes to the end of its retries
		my $refused = $listener eq 'h2' ? $outcomes->{unavailable} // 0 : 0;
		is(($outcomes->{deleted} // 0) + ($outcomes->{unknown} // 0) + $refused, 60,
			"$listener, $how after each answer: no other outcome");
		cmp_ok(scalar(grep { $api->key_alive("$how-$listener-$_;$how") } 1 .. 60), '>=', $refused,
			"$listener, $how after each answer: what is called unavailable lives");
		# an end that is not announced may meet the next request: nobody knows then
		is($outcomes->{deleted}, 60, "$listener, $how: all are deleted")
		  if $listener ne 'h2' && $how eq 'close';
		is(most(values %{ times_asked() }), 1, "$listener, $how: each id once")
		  if $listener ne 'h2';
	}
}

SKIP:
{
	skip 'no HTTP/2 here', 4 unless $api->port('h2');
	use_listener('h2', 20);
	$session->send("SELECT outcome || ' ' || count(*) FROM sendkit_delete_api_keys("
		  . "ARRAY(SELECT 'goaway-' || i || ';delay=0.02' FROM generate_series(1, 200) i), '$KEY') GROUP BY outcome");
	$api->wait_for_requests(60);
	$api->control('POST', '/goaway');
	my %outcomes = map { split / / } @{ $session->result->{rows} };
	# older versions of libcurl lose track of requests that the server refuses
	# along with the last answer: nobody knows then
	my $known = libcurl_version() < 8.14 ? 150 : 200;
	is($outcomes{deleted} + ($outcomes{unknown} // 0), 200, 'a GOAWAY in mid-run: no other outcome');
	cmp_ok($outcomes{deleted}, '>=', $known, 'a GOAWAY in mid-run: most are known to be deleted');
	my %connections = map { $_->{connection} => 1 } @{ $api->requests };
	cmp_ok(scalar keys %connections, '>', 1, '... on another connection as well');
	is(most(map { $_->{status} ? 1 : 0 } @{ $api->requests }), 1, '... and answered');
}

# The server goes away half way: what was confirmed is, the rest is not called dead.
foreach my $listener (grep { $_ ne 'nghttpx' } @listeners)
{
	use_listener($listener, 10);
	$session->query("SET sendkit.max_retries = 0; SET sendkit.request_timeout = '10s'");
	$session->send("SELECT workspace_id || ' ' || outcome FROM sendkit_delete_api_keys("
		  . "ARRAY(SELECT 'stop-$listener-' || i || ';delay=0.02' FROM generate_series(1, 300) i), '$KEY')");
	$api->wait_for_requests(80);
	$api->control('POST', '/stop');
	my %outcome = map { split / / } @{ $session->result->{rows} };
	is(scalar keys %outcome, 300, "$listener, a server that stops: a row for each");
	my %count;
	$count{$_}++ foreach values %outcome;
	is_deeply([ sort keys %count ], [ 'deleted', 'unavailable', 'unknown' ],
		"$listener: some of each kind");
	is(scalar(grep { $outcome{$_} eq 'deleted' && $api->key_alive($_) } keys %outcome),
		0, "$listener: none is called dead that lives");
	is(scalar(grep { $outcome{$_} eq 'unavailable' && !$api->key_alive($_) } keys %outcome),
		0, "$listener: none is called untouched that is dead");
	$api->control('POST', '/start');
	$session->query('RESET sendkit.max_retries; RESET sendkit.request_timeout');
}

# --- an impatient user ------------------------------------------------------------

foreach my $listener (@listeners)
{
	foreach my $count (5, 300)
	{
		my $name = "$listener, cancelled among $count";
		my $watcher = SendkitTest::Session->new($node);
		my $from = -s $node->logfile;
		use_listener($listener, 4);
		$session->send("SELECT count(*) FROM sendkit_delete_api_keys("
			  . "ARRAY(SELECT 'c-$listener-$count-' || i || CASE WHEN i > 3 THEN ';silent' ELSE '' END "
			  . "FROM generate_series(1, $count) i), '$KEY')");
		my $silent = $count == 5 ? 2 : 4;
		wait_until(sub { $silent == grep { ($_->{id} // '') =~ /silent/ } @{ $api->requests } }, 'some wait');
		$watcher->wait_for_wait($session);
		# the answers to the others are to be read as well
		sleep 0.2;
		my $started = time();
		$watcher->query('SELECT pg_cancel_backend(' . $session->pid . ')');
		my $result = $session->result;
		is($result->{sqlstate}, '57014', "$name: ends");
		prompt(time() - $started, $name);

		my $unsent = $count == 5 ? 0 : '\d+';
		my $counts = "sendkit_delete_api_keys was interrupted: 3 deleted, 0 absent, 0 rejected, "
		  . "0 unavailable, \\d+ unknown, $unsent not sent";
		my $log = slurp_file($node->logfile, $from);
		like($log, qr/LOG:  $counts/, "$name: the log counts what was done");
		like($result->{stderr}, qr/NOTICE: .*$counts.*ERROR: /s, "$name: so does a notice before the error");
		for my $told ($log, $result->{stderr})
		{
			if ($count == 5)
			{
				like($told, qr/DETAIL:  c-\S+-1: deleted, .*c-\S+-5;silent: unknown/, "$name: and names it");
			}
			else
			{
				unlike($told, qr/c-$listener-$count-1\b/, "$name: and names none");
			}
		}
		is($session->call("after-$listener-$count")->{outcome}, 'deleted', "$name: the next call works");
	}
}

# Who wants no notices gets none, nor the log's line instead.
foreach my $level ('warning', 'log')
{
	use_listener('http', 4);
	$session->query("SET client_min_messages = $level; SET statement_timeout = '300ms'");
	my $result =
	  $session->query("SELECT count(*) FROM sendkit_delete_api_keys('{silent-1;silent,silent-2;silent}', '$KEY')");
	is($result->{sqlstate}, '57014', "client_min_messages = $level: ends");
	is(scalar(() = $result->{stderr} =~ /was interrupted/g), $level eq 'log' ? 1 : 0,
		"client_min_messages = $level: told accordingly");
	$session->query('RESET client_min_messages; RESET statement_timeout');
}

# A single one tells the same.
{
	use_listener('http', 4);
	my $from = -s $node->logfile;
	my $result = $session->query(
		"SET statement_timeout = '300ms'; SELECT * FROM sendkit_delete_api_key('alone;silent', '$KEY')");
	is($result->{sqlstate}, '57014', 'a single one: ends');
	for my $told (slurp_file($node->logfile, $from), $result->{stderr})
	{
		like($told, qr/sendkit_delete_api_key was interrupted: unknown\n.*DETAIL:  The workspace is "alone;silent"/s,
			'a single one: what is known is told');
	}
	$session->query('RESET statement_timeout');
}

# Arguments are many as well: an end to the patience ends their checking.
$session->query("CREATE TEMP TABLE many AS SELECT ARRAY(SELECT 'many-' || i FROM generate_series(1, 3000000) i) AS ids");
{
	$api->reset;
	my $started = time();
	$session->value('SELECT length(ids[1]) FROM many');
	my $reading = time() - $started;
	$session->query("SET statement_timeout = '200ms'");
	$started = time();
	my $result = $session->query("SELECT count(*) FROM many, sendkit_delete_api_keys(ids, '$KEY')");
	is($result->{sqlstate}, '57014', 'three million ids: a timeout ends the statement');
	cmp_ok(time() - $started, '<', 2 * $reading + 1, '... as soon as they are read');
	is(scalar @{ $api->requests }, 0, '... before anything was sent');
	$session->query('RESET statement_timeout; DROP TABLE many');
}

# --- answers that say much ----------------------------------------------------------

SKIP:
{
	my $talkative = SendkitTest::Session->new($node);
	skip 'memory cannot be told here', 2 unless memory_is_plain($talkative->pid);
	use_listener('http', 4);
	$api->control('POST', '/default', { directives => 'body=long-error' });
	$talkative->query('SET sendkit.base_url = ' . literal($api->url('http')));
	my $before = most_memory_kb($talkative->pid);
	is($talkative->value("SELECT count(*) FROM sendkit_delete_api_keys("
			  . "ARRAY(SELECT 'long-' || i FROM generate_series(1, 6000) i), '$KEY') WHERE outcome = 'rejected'"),
		6000, 'six thousand answers of 60 KB');
	cmp_ok(most_memory_kb($talkative->pid) - $before, '<', 40_000, '... of which little is kept');
	$api->control('POST', '/default', {});
	$talkative->quit;
}

# --- someone who watches ------------------------------------------------------------

use_listener('http', 2);
$session->send("SELECT count(*) FROM sendkit_delete_api_keys("
	  . "ARRAY(SELECT 'long-' || i || CASE WHEN i <= 1200 THEN '' ELSE ';delay=3' END FROM generate_series(1, 1206) i), '$KEY')");
$api->wait_for_requests(1206);
{
	my $result = $session->result;
	like($result->{stderr}, qr/NOTICE:.* 1,20\d of 1,206 done, 0 failed/,
		'a long run says how far it is');
	is($result->{rows}[0], 1206, 'and ends');

	$result = $session->call('long-one;delay=5.5');
	is_outcome($result, 'deleted', 'so does a single one');
	like($result->{stderr}, qr/NOTICE: .*waiting for an answer/, '... and says what it waits for');
}

# --- a thousand at a time -------------------------------------------------------------

SKIP:
{
	skip 'no HTTP/2 here', 2 unless $api->port('nghttpx');
	use_listener('nghttpx', 1000);
	is_deeply(delete_many('thousand', 1000, ';delay=0.05'), { deleted => 1000 },
		'a thousand at a time');
	is(most(values %{ times_asked() }), 1, 'each id once');
}

ok_key_not_logged($node);
$session->quit;
$node->stop;
done_testing();
