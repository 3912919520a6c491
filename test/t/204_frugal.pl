# A call opens no more connections than it takes, and gives back what it took.
#
# A connection that died while nobody looked costs one new connection, not one for
# each request; a server that allows few streams is not asked for one connection
# per request; and what a thousand at a time needed is not kept until the session
# ends: neither connections, nor descriptors, nor memory.

use strict;
use warnings;

use SendkitBulk;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'this libcurl keeps no connections' unless libcurl_keeps_connections();

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");
my $session = SendkitTest::Session->new($node);
my @listeners = grep { $api->port($_) } 'http', 'https', 'h2';
my $serial = 0;

# --- no more connections than it takes ----------------------------------------

foreach my $listener ('http', 'https')
{
	my $name = "$listener: a connection that ended while idle";
	my $in = SendkitTest::Session->new($node);
	set_all($in, $api, base_url => $api->url($listener));
	ok_all(many($in, ids(32, ';delay=0.2')), 'deleted', 32, "$name: (32 opened)");
	foreach my $how ('fin', 'reset')
	{
		is($api->control('POST', '/close-idle', { how => $how, count => 1 })->{closed},
			1, "$name: one is closed by $how");
		sleep 0.1;
		$api->reset;
		ok_all(many($in, ids(32, ';delay=0.2')), 'deleted', 32, "$name, $how: all are deleted");
		cmp_ok($api->stats->{accepted}{total} || 0,
			'<=', 2, "$name, $how: costs one connection, not one for each");
	}
	$in->quit;
	wait_until(sub { $api->stats->{open} == 0 }, 'all connections are closed');
}

SKIP:
{
	skip 'no HTTP/2', 1 unless $api->port('h2');
	foreach my $limit (1, 10, 128)
	{
		my $limited = SendkitStandin->start(tls => 1, args => [ '--h2-max-streams', $limit ]);
		my $name = "a limit of $limit streams";
		my $in = SendkitTest::Session->new($node);
		set_all(
			$in, $api,
			base_url => $limited->url('h2'),
			ca_file => $limited->ca,
			max_retries => 3,
			max_concurrency => 200);
		foreach my $state ('cold', 'warm')
		{
			$limited->reset;
			ok_all(many($in, ids(200, ';delay=0.02')), 'deleted', 200,
				"$name, $state: none of 200 is lost");
			my $open = $limited->stats;
			cmp_ok($open->{max_open}, '<=', 3, "$name, $state: connections")
			  || diag(explain($open));
			# what comes before the server could say so is refused, and comes again
			my $sent = @{ $limited->requests };
			note("$name, $state: $sent requests");
			cmp_ok($sent, '<=', 220, "$name, $state: the server's limit is waited for, and kept to");
		}
		$in->quit;
		$limited->stop;
	}
}

# --- what a large call leaves behind ------------------------------------------

# How many descriptors are left for others can be told with the server's headers.
my $headers = $node->safe_psql('postgres',
	q{SELECT setting FROM pg_config WHERE name = 'INCLUDEDIR-SERVER'});
my $descriptors = preload_library('descriptors', "-I'$headers'");
if ($descriptors)
{
	$node->safe_psql('postgres',
		"CREATE FUNCTION $_(int) RETURNS int LANGUAGE C STRICT AS '$descriptors'")
	  foreach 'take_descriptors', 'give_back_descriptors';
}
foreach my $listener (@listeners)
{
	my $name = "$listener, a thousand at a time";
	my $in = SendkitTest::Session->new($node);
	set_all($in, $api, base_url => $api->url($listener), max_concurrency => 1000);
	is($in->value('SHOW sendkit.max_concurrency'), 1000, "$name: is set");
	$in->call('ws-' . ++$serial);
	my $free = 'SELECT give_back_descriptors(take_descriptors(1000))';
	my $before = $descriptors ? $in->value($free) : 0;
	my $memory = memory_kb($in->pid);
	my $open = descriptors($in->pid);
	ok_all(many($in, ids(1000, ';delay=0.1')), 'deleted', 1000, "$name: deleted");
	cmp_ok($api->stats->{open}, '<=', 32, "$name: at most 32 connections stay");
	cmp_ok(descriptors($in->pid), '<=', $open + 32, "$name: so do descriptors");
	cmp_ok($before - $in->value($free), '<=', 32, "$name: the rest are free for others")
	  if $descriptors;
	my $growth = memory_kb($in->pid) - $memory;
	note("$name: grew by $growth kB");
	cmp_ok($growth, '<', 12000, "$name: memory is given back")
	  if memory_is_plain($in->pid);
	is_outcome($in->call('ws-' . ++$serial), 'deleted', "$name: the next call works");
	$in->quit;
	wait_until(sub { $api->stats->{open} == 0 }, 'all connections are closed');
}

$node->stop;
done_testing();
