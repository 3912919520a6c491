# What is under way together must not hold up, starve or outlast one another.
#
# A request is handed to libcurl only when it can leave at once, deadlines are
# kept outside of libcurl.  So a workspace that hangs, a host that is not there, a
# server that refuses each stream, cost what they must and no more.

use strict;
use warnings;

use Fcntl qw(F_SETFL O_NONBLOCK);
use List::Util qw(min);
use SendkitBulk;
use SendkitStandin;
use SendkitTest;
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 AF_INET6);
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");
my $session = SendkitTest::Session->new($node);
my @listeners = grep { $api->port($_) } 'http', 'https', 'h2';
my $serial = 0;

# --- one that hangs -----------------------------------------------------------

foreach my $listener (@listeners)
{
	foreach my $state ('cold', 'warm')
	{
		my $name = "$listener, $state: one that hangs";
		my $in = SendkitTest::Session->new($node);
		set_all($in, $api, base_url => $api->url($listener), request_timeout => '3s');
		ok_all(many($in, ids(40)), 'deleted', 40, "$name: (warmed up)")
		  if $state eq 'warm';
		my $id = 'ws-' . ++$serial;
		my $rows = many($in, [ "$id;silent", map { "$id-$_" } 1 .. 31 ]);
		is_deeply(outcomes($rows), { deleted => 31, unknown => 1 },
			"$name: the others are deleted");
		$in->quit;
	}
}

# --- nobody there -------------------------------------------------------------

foreach my $hole ('blackhole', 'https_stuck')
{
	my $url = 'https://127.0.0.1:' . $api->port($hole);
	my $in = SendkitTest::Session->new($node);

	set_all($in, $api, base_url => $url, connect_timeout => '1s');
	my $began = time();
	my $rows = ok_all(many($in, ids(8)), 'unavailable', 8,
		"$hole: 8 that cannot be connected are unavailable");
	my $took = time() - $began;
	note("$hole: 8 took $took s");
	cmp_ok($took, '>=', 0.9, "$hole: after connect_timeout");
	cmp_ok($took, '<', 3.5, "$hole: and not one after the other");
	is(scalar(grep { $_->{message} =~ /resol/i } @$rows),
		0, "$hole: no message speaks of resolving")
	  || diag($rows->[0]{message});

	set_all($in, $api, base_url => $url, connect_timeout => '1s', request_timeout => '2s');
	$in->query("SET statement_timeout = '20s'");
	$began = time();
	ok_all(many($in, ids(640)), 'unavailable', 640,
		"$hole: 640 that cannot be connected are unavailable");
	$took = time() - $began;
	note("$hole: 640 took $took s");
	cmp_ok($took, '<', 10, "$hole: in the time of a few");
	$in->quit;
}

# A server that comes back is found, by the probe
{
	my $in = SendkitTest::Session->new($node);
	set_all($in, $api, max_retries => 10, request_timeout => '20s');
	$api->control('POST', '/stop');
	$in->send(call_many_sql(ids(100)));
	sleep 1;
	$api->control('POST', '/start');
	ok_all(many($in), 'deleted', 100,
		'a server that comes back while all wait: all are deleted');
	$in->quit;
}

# --- answers that are here ----------------------------------------------------

foreach my $listener (@listeners)
{
	my $name = "$listener: answers that came while the process stood still";
	my $in = SendkitTest::Session->new($node);
	set_all($in, $api, base_url => $api->url($listener), request_timeout => '1s');
	ok_all(many($in, ids(10)), 'deleted', 10, "$name: (warmed up)");
	$api->reset;
	$in->send(call_many_sql(ids(10, ';delay=0.4')));
	$api->wait_for_requests(10);
	kill 'STOP', $in->pid;
	sleep 1.5;
	kill 'CONT', $in->pid;
	ok_all(many($in), 'deleted', 10, "$name: count");
	$in->quit;
}

# The same while a run of the queue waits for a lock
{
	my $in = SendkitTest::Session->new($node);
	my $locker = SendkitTest::Session->new($node);
	set_all($in, $api, request_timeout => '3s');
	$in->value(
		"CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;"
		  . "CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY');"
		  . "SELECT count(sendkit_request_revocation('ws-queued-' || i || "
		  . "CASE WHEN i = 1 THEN ';delay=0.1' ELSE ';delay=2' END)) FROM generate_series(1, 10) i");
	$api->reset;
	$in->send('CALL sendkit_process_revocations()');
	$api->wait_for_requests(10);
	$locker->value('BEGIN; LOCK TABLE sendkit_revocation IN EXCLUSIVE MODE; SELECT 1');
	sleep 4;
	$locker->query('COMMIT');
	$in->result;
	is( $locker->value(
			"SELECT string_agg(DISTINCT state || ' ' || attempts || ' ' || outcome, ', ') FROM sendkit_revocation"),
		'done 1 deleted', 'answers that came while the queue waited for a lock count');
	$locker->query('DELETE FROM sendkit_revocation');
	$_->quit foreach $in, $locker;
}

# --- streams that are always refused ------------------------------------------

SKIP:
{
	skip 'no HTTP/2', 1 unless $api->port('h2') && libcurl_keeps_connections();
	foreach my $directive ('refuse', 'goaway-below')
	{
		foreach my $state ('cold', 'warm')
		{
			my $name = "$directive for ever, $state";
			my $in = SendkitTest::Session->new($node);
			set_all($in, $api, base_url => $api->url('h2'), max_retries => 3);
			$in->call('ws-' . ++$serial) if $state eq 'warm';
			my $id = 'ws-' . ++$serial . ";$directive";
			my $outcome = $in->call($id)->{outcome};
			my @at = map { $_->{at} } @{ $api->requests(id => $id) };
			cmp_ok(scalar @at, '<=', 4, "$name: sent once and three times more");
			# libcurl may see no more of a GOAWAY than the end behind it
			next if $directive eq 'goaway-below' && @at == 1 && $outcome eq 'unknown';
			is($outcome, 'unavailable', "$name: unavailable");
			cmp_ok(scalar @at, '>=', 2, "$name: it was tried again");
			cmp_ok(min(map { $at[$_] - $at[ $_ - 1 ] } 1 .. $#at),
				'>=', 0.09, "$name: with a pause each time")
			  || diag("@at");
			is_outcome($in->call('ws-' . ++$serial), 'deleted', "$name: the next call works");
			$in->quit;
		}
	}
	# of many, those only that are refused
	my $in = SendkitTest::Session->new($node);
	set_all($in, $api, base_url => $api->url('h2'), max_retries => 1);
	my $id = 'ws-' . ++$serial;
	is_deeply(
		outcomes(many($in, [ map { ("$id-$_", "$id-$_;refuse") } 1 .. 50 ])),
		{ deleted => 50, unavailable => 50 },
		'half of the streams are refused: the other half is deleted');
	$in->quit;
}

# --- a host of two addresses, one of them dead --------------------------------

# A socket on ::1, with the port of the stand-in's, that lets nobody in: its queue
# of those that wait to be accepted is full.
sub hole_beside
{
	my ($port) = @_;
	my $address = pack_sockaddr_in6($port, inet_pton(AF_INET6, '::1'));
	my @sockets;

	foreach (0 .. 4)
	{
		socket(my $socket, AF_INET6, SOCK_STREAM, 0) or return;
		push @sockets, $socket;
		fcntl($socket, F_SETFL, O_NONBLOCK) or return;
		if (@sockets == 1)
		{
			setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1);
			bind($socket, $address) && listen($socket, 0) or return;
		}
		else
		{
			connect($socket, $address);
		}
	}
	sleep 0.2;
	return \@sockets;
}

SKIP:
{
	my $hole = hole_beside($api->port('https')) or skip 'no IPv6 here', 1;
	my $in = SendkitTest::Session->new($node);
	foreach my $count (1, 32, 100)
	{
		set_all($in, $api, base_url => $api->url('https'), max_concurrency => $count);
		my $rows = ok_all(many($in, ids($count, ';delay=0.1')), 'deleted', $count,
			"one of two addresses is dead, $count at a time: deleted");
		$in->call('ws-else', set => { base_url => $api->url('second') });
	}
	$in->quit;
}

$node->stop;
done_testing();
