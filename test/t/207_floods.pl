# Nobody can hold a backend up by talking.
#
# A peer that never stops can keep libcurl busy inside one single call of it: it
# reads on for as long as there is something to read, and of much that it reads
# (frames that HTTP/2 only has for itself, what a proxy says instead of opening a
# tunnel) no callback tells.  Whatever it is, an interrupt is served and a deadline
# is kept within a moment.
#
# The bounds here catch hangs; how long it really takes is noted.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api,
	listener => 'https',
	conf => "sendkit.max_retries = 0\n");
my $watcher = SendkitTest::Session->new($node);
my $serial = 0;
my @slowest = (0, 'none');

# What a server may go on with, for ever.
my %floods = (
	flood => [
		qw(headers long-header interim body until-close chunks chunk-extension trailers long-trailer)
	],
	h2_flood => [
		qw(ping ping-ack settings settings-ack window stream-window priority unknown data
		  padding headers continuation interim goaway other-streams)
	]);
$floods{https_flood} = $floods{flood};

# Tests that it took no longer than the second that a hang exceeds by far.
sub soon
{
	my ($seconds, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	@slowest = ($seconds, $name) if $seconds > $slowest[0];
	note(sprintf('%s: %.0f ms', $name, $seconds * 1000));
	return ok($seconds < 2, "$name: at once") || diag(sprintf('it took %.2f s', $seconds));
}

# What ends a call, in each way that there is: SQL that makes it end by itself
# after a while, or a function to be called from elsewhere.
my $patience = 0.3;
my %endings = (
	cancel => [ {}, 'pg_cancel_backend', '57014' ],
	terminate => [ {}, 'pg_terminate_backend', '57P01' ],
	'statement_timeout' => [ { statement_timeout => '300ms' }, undef, '57014' ],
	'request_timeout' => [ { 'sendkit.request_timeout' => '300ms' }, undef, '00000' ],
	'connect_timeout' => [ { 'sendkit.connect_timeout' => '300ms' }, undef, '00000' ]);

# Makes a call that is flooded, and ends it.  Some floods end the call by
# themselves, being over a cap or against the protocol: that is as good.
sub flood_ok
{
	my ($on, $id, $url, $ending, $outcomes, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($set, $function, $sqlstate) = @{ $endings{$ending} };
	my $in = SendkitTest::Session->new($on);

	$in->query("SET sendkit.base_url = '$url'");
	$in->query("SET $_ = '$set->{$_}'") foreach keys %$set;
	my $began = time();
	$in->send(call_sql($id));
	sleep $patience;
	if ($function)
	{
		$began = time();
		$watcher->query("SELECT $function(" . $in->pid . ')');
	}
	else
	{
		$began += $patience;
	}
	my $result = eval { local $SendkitTest::PATIENCE = 5; $in->result };
	soon(time() - $began, $name);
	$api->control('POST', '/end-floods');
	$result ||= $in->result;

	my $state = $result->{sqlstate};
	my $answer = $state eq '00000'
	  ? SendkitTest::_answer($result->{rows}[-1])->{outcome} : 'none';
	ok($state eq $sqlstate || $answer =~ /^(?:$outcomes)$/, "$name: it ended as it should")
	  || diag("$state, $answer: $result->{stderr}");
	isnt($answer, 'deleted', "$name: and claims nothing") if $answer ne 'none';
	# after a termination, or a call that ended early, there may be nobody left
	eval { $in->quit };
	return;
}

foreach my $listener (grep { $api->port($_) } sort keys %floods)
{
	foreach my $flood (@{ $floods{$listener} })
	{
		# an interrupt, a deadline; and of some all that there are
		foreach my $ending ($flood =~ /^(?:ping|data|body)$/
			? (grep { $_ ne 'connect_timeout' } sort keys %endings)
			: ('cancel', 'request_timeout'))
		{
			flood_ok($node, 'ws-' . ++$serial . ";flood=$flood", $api->url($listener),
				$ending, 'unknown|unavailable', "$listener, $flood, $ending");
		}
	}
}

# A proxy, before there is a tunnel: nothing can have been deleted.
{
	my $proxied = start_node(
		$api,
		name => 'proxied',
		listener => 'https',
		conf => "sendkit.max_retries = 0\nsendkit.proxy = 'http://127.0.0.1:"
		  . $api->port('flood') . "'\n");
	$watcher = SendkitTest::Session->new($proxied);
	foreach my $flood (@{ $floods{flood} })
	{
		foreach my $status (407, 200)
		{
			next if $status == 200 && $flood !~ /header/;
			foreach my $ending ($flood =~ /^(?:body|headers)$/
				? (sort keys %endings) : ('cancel', 'connect_timeout'))
			{
				flood_ok($proxied, 'ws-' . ++$serial, "https://$flood.$status.flood",
					$ending, 'unavailable', "proxy, $status, $flood, $ending");
			}
		}
	}
	$proxied->stop;
}

# One that floods does not hold up the others of the same call, either.
$watcher = SendkitTest::Session->new($node);
foreach my $listener ('flood', 'https_flood')
{
	foreach my $flood ('chunk-extension', 'body', 'interim')
	{
		my $in = SendkitTest::Session->new($node);
		my $name = "$listener, $flood, among others";
		my $began = time();
		my $rows = $in->call_many(
			[ "ws-a;flood=$flood", map { "ws-$_" } 1 .. 31 ],
			set => { base_url => $api->url($listener), request_timeout => '1s' });
		soon(time() - $began - 1, $name);
		$api->control('POST', '/end-floods');
		is_deeply(outcomes($rows), { deleted => 31, unknown => 1 }, "$name: those are deleted");
		$in->quit;
	}
}

# Many that flood: the bound holds for all of them together.
foreach my $listener ('flood', 'https_flood')
{
	foreach my $ending ('cancel', 'request_timeout')
	{
		my $name = "$listener, 64 at a time, $ending";
		my $in = SendkitTest::Session->new($node);
		$in->query(SendkitTest::_settings_sql(
				{
					base_url => $api->url($listener),
					max_concurrency => 64,
					request_timeout => $ending eq 'cancel' ? '30s' : '1s'
				}));
		$in->send(call_many_sql([ map { "ws-$_;flood=chunk-extension" } 1 .. 64 ]));
		sleep 1;
		my $began = time();
		$watcher->query('SELECT pg_cancel_backend(' . $in->pid . ')') if $ending eq 'cancel';
		my $result = eval { local $SendkitTest::PATIENCE = 10; $in->result };
		soon(time() - $began, $name);
		$api->control('POST', '/end-floods');
		$result ||= $in->result;
		# all may have been cut off by themselves before
		like($result->{sqlstate}, $ending eq 'cancel' ? qr/^(?:57014|00000)$/ : qr/^00000$/,
			"$name: it ended as it should");
		$in->quit;
	}
}

note(sprintf('slowest: %s, %.0f ms', $slowest[1], $slowest[0] * 1000));
ok_key_not_logged($node);
$node->stop;
done_testing();
