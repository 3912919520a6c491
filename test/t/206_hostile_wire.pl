# Answers that are broken as a wire can break them, and peers that mean it.
#
# libcurl reads what a stranger sends, inside the backend: a mistake in its memory
# that a peer can reach is a crash of the whole cluster.  The known one, of 7.84 to
# 8.0, is a header line that begins with a blank, where no header came before it:
# it is appended to the last header of the handle's previous answer, whose memory
# was freed.  So calls with good and with broken answers alternate here.
#
# The C library is told to overwrite what is freed, so that using it is noticed.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node(
	$api,
	listener => 'https',
	conf => "sendkit.max_retries = 0\nsendkit.request_timeout = 10s\nrestart_after_crash = on\n",
	env => { MALLOC_PERTURB_ => 165 });
my $session = SendkitTest::Session->new($node);
my $serial = 0;
my %log_seen;

# Under valgrind or a sanitizer everything takes its time.
my $moment = memory_is_plain($session->pid) ? '400ms' : '5s';
my %setting;

sub hex_of { return unpack('H*', $_[0]) }

# Tests that no process of a server has crashed since the last time.
sub ok_no_crash
{
	my ($server, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($crash) = slurp_file($server->logfile, $log_seen{ $server->name } || 0)
	  =~ /(.*terminated by signal.*)/;
	$log_seen{ $server->name } = -s $server->logfile;
	return 1 if ok(!defined $crash, "$name: nothing crashed");
	diag($crash);
	return 0;
}

# The same, and sees to it that there is a session.
sub ok_alive
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $session_lives = ok_no_crash($node, $name);
	return if $session_lives && !$session->query('SELECT 1')->{lost};
	wait_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 'it is back');
	$session = SendkitTest::Session->new($node);
	$session->query(SendkitTest::_settings_sql(\%setting));
	return;
}

# A call's outcome; a session that crashed has none.
sub outcome
{
	my ($in, $id) = @_;
	my $answer = eval { $in->call($id) } or return 'lost';
	return $answer->{lost} ? 'lost' : $answer->{outcome};
}

sub set_all
{
	my (%set) = @_;
	%setting = (%setting, %set);
	$session->query(SendkitTest::_settings_sql(\%setting));
	return;
}

# --- a header line that continues one that isn't there ---

my $end = "Content-Length: 2\r\n\r\n{}";
my %broken = (
	'a first line that begins with a blank' => "HTTP/1.1 403 X\r\n a: b\r\n$end",
	'a first line that begins with a tab' => "HTTP/1.1 403 X\r\n\ta: b\r\n$end",
	'a first line of a blank' => "HTTP/1.1 403 X\r\n \r\n$end",
	'the same in an interim answer' => "HTTP/1.1 103 X\r\n a: b\r\n\r\nHTTP/1.1 403 X\r\n$end",
	'the same behind an interim answer' => "HTTP/1.1 100 X\r\n\r\nHTTP/1.1 403 X\r\n a: b\r\n$end",
	'a folded header' => "HTTP/1.1 403 X\r\na: b\r\n c\r\n d\r\n$end",
	'a folded trailer' =>
	  "HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n a: b\r\n\r\n",
	'a folded trailer and no body' =>
	  "HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n a\r\n\r\n");

foreach my $listener ('http', 'https')
{
	set_all(base_url => $api->url($listener));
	foreach my $name (sort keys %broken)
	{
		my $raw = hex_of($broken{$name});
		my %seen;
		foreach my $round (1 .. 8)
		{
			my $id = ++$serial;
			$seen{ outcome($session, "ws-$id;raw=$raw") }++;
			last if outcome($session, "ws-$id") ne 'deleted';
		}
		is_deeply([ keys %seen ], ['unknown'], "$listener, $name: unknown, every time")
		  || diag(explain(\%seen));
		ok_alive("$listener, $name");
	}

	# Many at a time, in one call
	my @ids = map {
		my $id = ++$serial;
		("ws-$id", map { "ws-$id;raw=" . hex_of($_) } values %broken)
	} 1 .. 20;
	my $rows = eval { $session->call_many(\@ids) } || [];
	is_deeply(outcomes($rows), { deleted => 20, unknown => 160 },
		"$listener: all of them many times in one call");
	ok_alive("$listener, many at a time");
}

# --- what a proxy says before there is a tunnel ---

my %refusal = (
	'a trailer that begins with a blank' =>
	  "HTTP/1.1 407 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n a: b\r\n\r\n",
	'a first line that begins with a blank' => "HTTP/1.1 407 X\r\n a: b\r\nContent-Length: 0\r\n\r\n",
	'the same with a tunnel' => "HTTP/1.1 200 X\r\n a: b\r\n\r\n",
	'the same in an interim answer' =>
	  "HTTP/1.1 100 X\r\n a: b\r\n\r\nHTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n");
my $proxied = start_node(
	$api,
	name => 'proxied',
	listener => 'https',
	conf => "sendkit.proxy = 'http://127.0.0.1:" . $api->port('proxy') . "'\n"
	  . "sendkit.max_retries = 0\nsendkit.request_timeout = 10s\nsendkit.connect_timeout = $moment\n"
	  . "restart_after_crash = on\n",
	env => { MALLOC_PERTURB_ => 165 });
foreach my $name (sort keys %refusal)
{
	my $through = SendkitTest::Session->new($proxied);
	my %seen;
	foreach my $round (1 .. 4)
	{
		my $id = ++$serial;
		$api->control('POST', '/proxy', {});
		last if outcome($through, "ws-$id") ne 'deleted';
		$api->control('POST', '/proxy', { raw => hex_of($refusal{$name}) });
		# the proxy passes the end on: the tunnel must not be used again
		$api->control('POST', '/close-idle', { how => 'reset' });
		wait_until(sub { $api->stats->{open} == 0 }, 'the connection is closed');
		sleep 0.1;
		$seen{ outcome($through, "ws-again-$id") }++;
	}
	is_deeply([ keys %seen ], ['unavailable'], "proxy, $name: unavailable, every time")
	  || diag(explain(\%seen));
	ok_no_crash($proxied, "proxy, $name");
}
$api->control('POST', '/proxy', {});

# --- mistakes without number ---

# The stand-in makes them out of a 403, by a generator: the same number, the same
# mistakes.  None can say "deleted".
my $mistakes = $ENV{SENDKIT_TEST_MISTAKES} || 200;
my $from = $ENV{SENDKIT_TEST_SEED} || 1;
foreach my $listener (grep { $api->port($_) } 'http', 'https', 'h2')
{
	my @ids = map { "ws-$_;fuzz=$_" } $from .. $from + $mistakes - 1;
	my %seen;
	set_all(base_url => $api->url($listener), request_timeout => $moment);
	# good ones in between: handles and connections are to be used again
	while (my @some = splice @ids, 0, 50)
	{
		my $id = ++$serial;
		my @good = map { "ws-good-$id-$_" } 1 .. 10;
		my $rows = eval { $session->call_many([ @some, @good ]) };
		if (!$rows) { diag("ids $some[0] ...: $@"); last; }
		$seen{ $_->{outcome} }++ foreach grep { $_->{workspace_id} =~ /fuzz/ } @$rows;
	}
	note(join ', ', "$listener:", map { "$seen{$_} $_" } sort keys %seen);
	my $sum = 0;
	$sum += $_ foreach values %seen;
	is($sum, $mistakes, "$listener: $mistakes broken answers have an outcome");
	is($seen{deleted}, undef, "$listener: none of them is \"deleted\"");
	ok_alive("$listener, broken answers");
}

ok_key_not_logged($node);
$node->stop;
$proxied->stop;
done_testing();
