# It works with each libcurl that there may be, and sends nothing twice with any.
#
# Distributions build libcurl without this or that: RTSP, one of whose options keeps
# libcurl from repeating a request by itself; HTTP/2.  And the library that is there
# at run time may be older than the headers.  Each is played here by a library that
# stands before the real one.
#
# Whatever libcurl may want to repeat, a request that may have been processed leaves
# once: the stand-in deletes the key, and then the connection or the stream ends.
# Sent again, the answer would be "absent", which is not what happened.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep);

my $api = SendkitStandin->start(tls => 1);
my $shim = preload_library('other_libcurl', '$(pkg-config --cflags libcurl)');
my $serial = 0;

# The connection or stream ends when the request was carried out, and not a byte of
# an answer has come.
my %ends = (
	'a reset' => [ 'act;reset=request', qw(http https h2) ],
	'a clean end' => [ 'act;fin=request', qw(http https h2) ],
	'a late reset' => [ 'act;delay=0.2;reset=request', qw(http https h2) ],
	'a late clean end' => [ 'act;delay=0.2;fin=request', qw(http https h2) ],
	'half a header section' => [ 'act;fin=headers', qw(http https h2) ],
	'HTTP_1_1_REQUIRED' => [ 'act;rst=HTTP_1_1_REQUIRED', 'h2' ],
	'CANCEL' => [ 'act;rst=CANCEL', 'h2' ],
	'NO_ERROR' => [ 'act;rst=NO_ERROR', 'h2' ],
	'INTERNAL_ERROR' => [ 'act;rst=INTERNAL_ERROR', 'h2' ],
	'ENHANCE_YOUR_CALM' => [ 'act;rst=ENHANCE_YOUR_CALM', 'h2' ],
	'STREAM_CLOSED' => [ 'act;rst=STREAM_CLOSED', 'h2' ]);

sub close_idle
{
	$api->control('POST', '/close-idle', { how => 'reset' });
	wait_until(sub { $api->stats->{open} == 0 }, 'all connections are closed');
	return;
}

foreach my $lacking ('', 'rtsp', 'http2', 'rtsp http2', '7.76.1', '7.76.1 rtsp', '7.80.0', '7.80.0 rtsp', '7.84.0', '8.0.0')
{
	next if $lacking && !$shim;
	my $name = $lacking ? "libcurl without or of $lacking" : 'the libcurl that is there';
	# before 7.80 it does not ask before it sends: each request on a connection of its own
	my $by_http2 = $lacking !~ /http2|7\.76/;
	my $node = start_node(
		$api,
		name => 'n' . ($lacking =~ s/\W/_/gr),
		conf => "sendkit.max_retries = 0\nsendkit.request_timeout = 30s\n",
		env => { CURL_LACKS => $lacking, $lacking ? (LD_PRELOAD => $shim) : () });
	my $session = SendkitTest::Session->new($node);
	my @listeners = grep { $api->port($_) } 'http', 'https', 'h2';

	foreach my $listener (@listeners)
	{
		$session->query(SendkitTest::_settings_sql({ base_url => $api->url($listener) }));
		my $id = 'ws-' . ++$serial;
		my $answer = $session->call($id);
		is_outcome($answer, 'deleted', "$name, $listener: deleted") || next;
		is($session->call($id)->{message},
			'The requested resource was not found', "$name, $listener: absent");
		is_deeply(
			outcomes($session->call_many([ map { "$id-$_" } 1 .. 100 ])),
			{ deleted => 100 }, "$name, $listener: many");
		if ($listener eq 'h2')
		{
			my $version = $by_http2 ? '2' : '1.1';
			is($api->requests(id => $id)->[0]{version}, $version, "$name, $listener: by HTTP/$version");
		}
	}

	# an older version at run time is about options: one of each kind will do
	foreach my $end ($lacking =~ /\d\./ ? ('a reset', 'HTTP_1_1_REQUIRED') : sort keys %ends)
	{
		my ($directives, @where) = @{ $ends{$end} };
		foreach my $listener (grep { $api->port($_) } @where)
		{
			next if $directives =~ /rst=/ && !$by_http2;
			# on a new connection; on one that was used; amid others that work
			foreach my $state ('new', 'used', 'among others')
			{
				my $what = "$name, $listener, $end, $state";
				my $id = 'ws-' . ++$serial . ";$directives";
				close_idle();
				$session->query(SendkitTest::_settings_sql({ base_url => $api->url('second') }) . call_sql('x'))
				  if $state eq 'new';
				$session->query(SendkitTest::_settings_sql({ base_url => $api->url($listener) }));
				if ($state ne 'new')
				{
					$session->call("warm-$id-$_") foreach 1 .. 2;
				}
				my @ids = ($id, map { "$id-$_" =~ s/;.*-/-/r } 1 .. ($state eq 'among others' ? 8 : 0));
				my $rows = eval { $session->call_many(\@ids) } || [ { message => $@ } ];
				my $row = $rows->[0];
				is($row->{outcome}, 'unknown', "$what: unknown") || diag(explain($row));
				is(scalar @{ $api->requests(id => $id) }, 1, "$what: sent once");
			}
		}
		$api->reset;
	}

	# A refused stream has had no effect, which no library hides.
	if ($api->port('h2') && $by_http2)
	{
		my $id = 'ws-' . ++$serial;
		$session->query(SendkitTest::_settings_sql(
				{ base_url => $api->url('h2'), max_retries => 2 }));
		foreach my $state ('used', 'new')
		{
			my $refused = "$id-$state;refuse;times=1";
			my $outcome = $session->call($refused)->{outcome};
			my $sent = @{ $api->requests(id => $refused) };
			# without the option for RTSP it cannot be told from a lost connection
			ok( ($outcome eq 'deleted' && $sent == 2)
				  || ($lacking =~ /rtsp/ && $outcome eq 'unknown' && $sent == 1),
				"$name: a refused stream is sent again, or given up")
			  || diag("$outcome, sent $sent times");
			close_idle();
		}
	}

	is_outcome($session->call('ws-' . ++$serial), 'deleted', "$name: and goes on to work");
	unlike(slurp_file($node->logfile), qr/terminated by signal/, "$name: nothing crashed");
	ok_key_not_logged($node);
	$session->quit;
	$node->stop;
}

done_testing();
