# Connections are kept, but no longer, and for nobody else, than is right.
#
# A connection that is used again saves nine tenths of a call's time.  It is also
# where trouble hides: it may have been made with other trust, the other side may
# have closed it, or may have said something on it that nobody asked for.  With
# libcurl alone such bytes become the answer to the next request, and a key that
# is alive counts as deleted.
#
# The records of the stand-in tell which connection each request came on.

use strict;
use warnings;

use File::Copy qw(copy);
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1, nghttpx => 1);

my $node = start_node($api, listener => 'https');
my $session = SendkitTest::Session->new($node);
my $serial = 0;
# by this libcurl, at all
my $kept = libcurl_keeps_connections();

my @listeners =
  grep { $api->port($_) } 'http', 'https', 'h2', 'nghttpx';
my %usual = (
	base_url => $api->url('https'),
	ca_file => $api->ca);

sub connection_of
{
	my ($id) = @_;
	my @requests = @{ $api->requests(id => $id) };
	return @requests == 1 ? $requests[0]{connection} : 'none: ' . @requests;
}

# Makes a call that must succeed, and returns the number of its connection.
sub connection_used
{
	my ($name, %set) = @_;
	my $id = 'ws-' . ++$serial;
	is_outcome($session->call($id, set => { %usual, %set }), 'deleted',
		"$name: deleted");
	return connection_of($id);
}

# Idle connections are closed by the idle backend itself, after half a minute.
# That takes its time: begin here, look at it at the end of this file.  The
# stand-in is another one, so that all of its connections are theirs.
my $idle_api = SendkitStandin->start(tls => 1);
my @idle_listeners =
  grep { $idle_api->port($_) } 'http', 'https', 'h2';
my @idle;
my $idle_since = time();
{
	my %endings = (
		'a call' => '',
		'an error' => ';SELECT 1 / 0',
		'an error in a transaction block' => ';BEGIN; SELECT 1 / 0',
		'a timeout' =>
		  ";SET statement_timeout = 50; SELECT pg_sleep(10); RESET statement_timeout");
	foreach my $listener (@idle_listeners)
	{
		foreach my $ending (sort keys %endings)
		{
			my $idler = SendkitTest::Session->new($node);
			my %set = (base_url => $idle_api->url($listener),
				ca_file => $idle_api->ca);
			is_outcome($idler->call('ws-idle-' . @idle, set => \%set),
				'deleted', "a call over $listener");
			$idler->query('SELECT 1' . $endings{$ending});
			push @idle, [ $idler, "idle over $listener after $ending" ];
		}
	}
	is($idle_api->stats->{open}, $kept ? scalar @idle : 0,
		'each idle session keeps its connection, for now');
}

# One connection serves many calls, statements and transactions
foreach my $listener (@listeners)
{
	my %set = (%usual, base_url => $api->url($listener));
	$session->query(SendkitTest::_settings_sql(\%set));
	$session->value(
		"SELECT count(*) FROM generate_series(1, 40) i, LATERAL "
		  . "sendkit_delete_api_key('ws-$listener-a' || i, '$KEY')");
	$session->value(
		"BEGIN; SELECT sendkit_delete_api_key('ws-$listener-b' || i, '$KEY') "
		  . 'FROM generate_series(1, 40) i; ROLLBACK; SELECT 1');
	$session->call("ws-$listener-c$_") foreach 1 .. 20;

	my @requests =
	  grep { $_->{id} =~ /^ws-$listener-[abc]/ } @{ $api->requests };
	is(scalar @requests, 100, "$listener: 100 calls");
	my %connections = map { $_->{connection} => 1 } @requests;
	# a proxy keeps its own, whatever we do
	is(scalar keys %connections, $kept || $listener eq 'nghttpx' ? 1 : 100,
		"$listener: on one connection");
}

# Also when signals interrupt the look at the connection right before a request
SKIP:
{
	skip 'it is not looked at', 8 * @listeners unless $kept;
	my $shim = preload_library('interrupted_polls');
	skip 'no compiler', 8 * @listeners unless $shim;
	my $signalled = start_node($api, name => 'signalled', env => { LD_PRELOAD => $shim });
	my $other = SendkitTest::Session->new($signalled);
	foreach my $listener (@listeners)
	{
		my %set = (%usual, base_url => $api->url($listener));
		is_outcome($other->call("ws-$listener-signalled-$_", set => \%set), 'deleted',
			"$listener, signals, call $_: deleted") foreach 1 .. 6;
		my @requests = grep { $_->{id} =~ /^ws-$listener-signalled/ } @{ $api->requests };
		is(scalar @requests, 6, "$listener, signals: 6 calls");
		my %connections = map { $_->{connection} => 1 } @requests;
		is(scalar keys %connections, 1, "$listener, signals: on one connection");
	}
	$other->quit;
	$signalled->stop;
}

# Never used under another root, trust or proxy
{
	my $other_ca = PostgreSQL::Test::Utils::tempdir() . '/other_ca.pem';
	copy($api->ca, $other_ca) or die $!;
	my $wrong_ca = $api->ca =~ s/ca\.pem$/selfsigned.pem/r;

	my $first = connection_used('at first');
	my $second = connection_used('again');
	is($second, $kept ? $first : $first + 1, 'the same settings: the same connection');

	foreach my $case (
		[ 'another path', base_url => $api->url('https') . '/prefix' ],
		[ 'another name', base_url => 'https://127.0.0.1:' . $api->port('https') ],
		[ 'another CA file', ca_file => $other_ca ])
	{
		my ($name, %set) = @$case;
		my $other = connection_used($name, %set);
		isnt($other, $first, "$name: another connection");
		is(connection_used("$name again", %set), $kept ? $other : $other + 1,
			"$name: which is kept as well");
		$first = connection_used("$name no more");
		isnt($first, $other, "$name no more: another connection");
	}

	# The server was trusted a moment ago: now it must not be
	is_outcome(
		$session->call('ws-untrusted', set => { %usual, ca_file => $wrong_ca }),
		'unavailable', 'a CA file that does not trust the server');
	is_deeply($api->requests(id => 'ws-untrusted'), [],
		'what is not trusted gets no request');
	connection_used('trusted again');
}

# Closed by the other side while idle: the next call does not fall for it
foreach my $listener (grep { $_ ne 'nghttpx' } @listeners)
{
	my %set = (base_url => $api->url($listener));
	foreach my $how ('fin', 'reset')
	{
		my $name = "$listener, idle connection ended by $how";
		my $before = connection_used("$name: before", %set);
		ok($api->control('POST', '/close-idle', { how => $how })->{closed} > 0 || !$kept,
			"$name: ended");
		sleep 0.05;
		isnt(connection_used("$name: after", %set), $before,
			"$name: another connection");
	}
	foreach my $directive ('close', 'close-silently')
	{
		my $name = "$listener, $directive";
		my $id = 'ws-' . ++$serial . ";$directive";
		is_outcome($session->call($id, set => { %usual, %set }), 'deleted',
			"$name: deleted");
		sleep 0.05;
		isnt(connection_used("$name: after", %set), connection_of($id),
			"$name: another connection");
	}

	# What is not kept is ended soon, though nobody enters libcurl again.  (That an
	# HTTP/2 connection is to be ended may be told after the answer.)
	foreach my $directives ('close', 'fin=headers', 'status=500;fin=body')
	{
		next if $listener eq 'h2' && $directives eq 'close';
		my $name = "$listener, $directives: the connection";
		my $since = time();
		connection_used($name, %set);
		$session->call('ws-' . ++$serial . ";$directives", set => { max_retries => 0 });
		wait_until(sub { $api->stats->{open} == 0 }, 'none is open');
		# those that are kept are closed after half a minute
		cmp_ok(time() - $since, '<', 20, "$name is ended");
	}
	$session->query('RESET sendkit.max_retries');

	# No pause between the end and the next request.  By HTTP/2 that request may
	# cross the announcement, so there it may be lost; but never doubled.
	my $id = 'ws-hurry-' . ++$serial;
	my @ids = map { "$id-$_;close" } 1 .. 20;
	$session->value('SELECT count(*) FROM unnest(ARRAY['
		  . join(', ', map { literal($_) } @ids)
		  . "]) i, LATERAL sendkit_delete_api_key(i, '$KEY')");
	my %seen;
	$seen{ $_->{id} }++ foreach @{ $api->requests };
	my @odd = grep {
		my $n = $seen{$_} || 0;
		$listener eq 'h2' ? $n > 1 : $n != 1
	} @ids;
	is_deeply(\@odd, [],
		"$listener: 20 connections that end with their answer carry no request twice");
}

# An answer that nobody asked for waits on the idle connection.  The next call is
# refused by the API, and must not take that for its own answer.
foreach my $listener ('http', 'https')
{
	my %set = (%usual, base_url => $api->url($listener));
	foreach my $after ('', ';unsolicited-after=0.02')
	{
		my $name = $listener . ($after && ', later');
		foreach my $i (1 .. 5)
		{
			my $id = 'ws-' . ++$serial;
			is_outcome(
				$session->call("$id;unsolicited=deleted$after", set => \%set),
				'deleted', "$name, time $i: an answer, and one too many");
			sleep 0.1;
			my $answer = $session->call("$id;status=403");
			is($answer->{success}, 0, "$name, time $i: the next one is refused")
			  || diag(explain($answer));
			is(scalar @{ $api->requests(id => "$id;status=403") },
				1, "$name, time $i: by the API");
		}
	}
}

# The end of the idleness that began above
{
	my $left = $idle_since + 20 - time();
	sleep $left if $left > 0;
  SKIP:
	{
		# on a machine so slow, half a minute may be over for some
		skip 'too late to look', 1 if $left < -5;
		is($idle_api->stats->{open}, $kept ? scalar @idle : 0,
			'after 20 s of idleness, connections are still kept');
	}
	ok( eval { wait_until(sub { $idle_api->stats->{open} == 0 }, 'none is open') },
		'later they are closed, with the sessions still idle')
	  || diag($@, $idle_api->stats->{open} . ' are open');

	foreach my $case (@idle)
	{
		my ($idler, $name) = @$case;
		$idler->query('ROLLBACK');
		is_outcome($idler->call('ws-' . $idler->pid), 'deleted',
			"$name: the next call works");
		is(scalar @{ $idle_api->requests(id => 'ws-' . $idler->pid) },
			1, "$name: by one request");
	}
}

ok_key_not_logged($node);
done_testing();
