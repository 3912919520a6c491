# HTTP/2: some requests are certain not to have been processed, others are not.
#
# A stream that the server refuses (REFUSED_STREAM), and one above the last that
# its GOAWAY names, was not processed: RFC 9113 says so (8.7), and such a request
# is sent again.  Any other end of a stream or of its connection proves nothing.
# libcurl silently repeats some of those, too, when the connection was used
# before; so each case is tried on a fresh connection and on a used one.
#
# The stand-in's key store tells what was processed, its records what was sent.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep);

my $api = SendkitStandin->start(nghttpx => 1);
plan skip_all => 'neither the h2 library of Python nor nghttpx'
  unless $api->port('h2') || $api->port('nghttpx');
plan skip_all => 'with this libcurl HTTP/1.1 is spoken' unless libcurl_keeps_connections();

my $node = start_node($api, listener => $api->port('h2') ? 'h2' : 'nghttpx');
my $session = SendkitTest::Session->new($node);
my $serial = 0;

# Has the session use a connection that is new, or has carried answers before.
sub prepare
{
	my ($connection, $listener) = @_;
	my $url = $api->url($listener);

	$session->call('ws-else', set => { base_url => $api->url('second') });
	$session->query(SendkitTest::_settings_sql(
			{ base_url => $url, request_timeout => '10s', max_retries => 3 }));
	return if $connection eq 'fresh';
	is_outcome($session->call('ws-warm-' . ++$serial), 'deleted',
		'a connection to be used again')
	  foreach 1 .. 2;
	return;
}

sub records
{
	my ($id) = @_;
	return @{ $api->requests(id => $id) };
}

# It works at all, and it is HTTP/2
foreach my $listener (grep { $api->port($_) } 'h2', 'nghttpx')
{
	prepare('fresh', $listener);
	my $id = "ws-plain-$listener";
	is($session->call($id)->{message},
		'API key deleted', "$listener: deleted");
	is( $session->call($id)->{message},
		'The requested resource was not found',
		"$listener: absent");
	is(scalar records($id), 2, "$listener: two requests");
	my ($first) = records($id);
	is($first->{version}, '2', "$listener: by HTTP/2") if $listener eq 'h2';
}

if ($api->port('h2'))
{
	foreach my $connection ('fresh', 'reused')
	{
		# Certain not to have been processed: sent again, and none the wiser
		foreach my $directive ('refuse', 'rst=REFUSED_STREAM:request')
		{
			my $name = "$directive on a $connection connection";
			my $id = "ws-$connection;$directive;times=1";
			prepare($connection, 'h2');
			is_outcome($session->call($id), 'deleted', "$name: deleted");
			is_deeply([ map { $_->{status} } records($id) ],
				[ undef, 200 ], "$name: refused, sent again, answered");
			ok(!$api->key_alive($id), "$name: the key is gone");
			is_outcome($session->call("ws-after-$name"), 'deleted',
				"$name: the next call works");
		}

		# A GOAWAY says the same of streams above its number.  When the end of the
		# connection is right behind it, libcurl may see no more than that end: to
		# give up is right then, too, because it claims nothing.
		{
			my $name = "goaway-below on a $connection connection";
			my $id = "ws-$connection;goaway-below;times=1";
			prepare($connection, 'h2');
			my $outcome = $session->call($id)->{outcome};
			like($outcome, qr/^(deleted|unknown)$/, "$name: sent again or given up");
			is_deeply([ map { $_->{status} } records($id) ],
				$outcome eq 'deleted' ? [ undef, 200 ] : [undef],
				"$name: the requests");
			is($api->key_alive($id), $outcome eq 'deleted' ? 0 : 1, "$name: the key");
			is_outcome($session->call("ws-after-$name"), 'deleted',
				"$name: the next call works");
		}

		# ... but not for ever
		{
			my $name = "refused each time on a $connection connection";
			my $id = "ws-$connection;refuse";
			prepare($connection, 'h2');
			my $answer = $session->call($id);
			is($answer->{success}, 0, "$name: no success");
			ok($api->key_alive($id), "$name: the key is alive");
			is_outcome($session->call("ws-after-$name"), 'deleted',
				"$name: the next call works");
		}

		# Announced to be the last: this one is answered, the next one goes
		# elsewhere
		{
			my $name = "goaway on a $connection connection";
			my $id = "ws-$connection;goaway";
			prepare($connection, 'h2');
			is_outcome($session->call($id), 'deleted', "$name: deleted");
			is(scalar records($id), 1, "$name: one request");
			is_outcome($session->call("ws-after-$name"), 'deleted',
				"$name: the next call works");
			is(scalar records("ws-after-$name"), 1, "$name: by one request");
		}

		# Perhaps processed: never sent again.  The key goes when the request
		# comes, and a second request would find another's.
		foreach my $cut (
			'reset=request', 'reset=headers', 'reset=body',
			'fin=request', 'fin=headers', 'fin=body',
			'rst=NO_ERROR:request', 'rst=PROTOCOL_ERROR:request',
			'rst=INTERNAL_ERROR:request', 'rst=CANCEL:request',
			'rst=ENHANCE_YOUR_CALM:request',
			'rst=STREAM_CLOSED:request', 'rst=INADEQUATE_SECURITY:request',
			'rst=12345:request', 'rst=CANCEL:headers', 'rst=CANCEL:body',
			'rst=NO_ERROR:body')
		{
			my $name = "$cut on a $connection connection";
			my $id = "ws-$connection;$cut;act";
			prepare($connection, 'h2');
			is_outcome($session->call($id), 'unknown', "$name: nobody knows");
			is(scalar records($id), 1, "$name: one request");
			is_outcome($session->call("ws-after-$name"), 'deleted',
				"$name: the next call works");
			is(scalar records("ws-after-$name"), 1, "$name: by one request");
		}

		# The server asks to be sent the request again, by HTTP/1.1: newer
		# versions of libcurl do so
		{
			my $id = "ws-$connection;rst=HTTP_1_1_REQUIRED:request";
			prepare($connection, 'h2');
			$session->call($id);
			cmp_ok(scalar records($id), '<=', 2,
				"HTTP_1_1_REQUIRED on a $connection connection: twice at most");
		}

		# The answer was whole and the end in good order
		{
			my $name = "fin=answered on a $connection connection";
			my $id = "ws-$connection;fin=answered";
			prepare($connection, 'h2');
			is_outcome($session->call($id), 'deleted', "$name: deleted");
			is(scalar records($id), 1, "$name: one request");
		}

		# A reset right behind the answer makes the kernel discard what was not
		# read yet, and of a stream that is reset there came every byte of the
		# body but not its end: either view is true.
		foreach my $cut ('reset=answered', 'rst=INTERNAL_ERROR:answered')
		{
			my $name = "$cut on a $connection connection";
			my $id = "ws-$connection;$cut;act";
			prepare($connection, 'h2');
			like($session->call($id)->{outcome},
				qr/^(deleted|unknown)$/, "$name: no refusal");
			is(scalar records($id), 1, "$name: one request");
		}
	}

	# Several requests on one connection, as the plural form has them: GOAWAY
	# ends some of them and lets the others finish
	{
		my ($below, $above) =
		  ('ws-below;delay=0.5', 'ws-above;delay=0.1;goaway-below;times=1');
		prepare('reused', 'h2');
		my $rows = $session->query(
			"SELECT outcome FROM sendkit_delete_api_keys(ARRAY['$below', '$above'], "
			  . "'$KEY')")->{rows};
		is_deeply($rows, [ 'deleted', 'deleted' ],
			'goaway amid two requests: both deleted');
		is(scalar records($below), 1,
			'goaway amid two requests: the one below was sent once');
		is_deeply([ map { $_->{status} } records($above) ],
			[ undef, 200 ],
			'goaway amid two requests: the one above was sent again');
	}

	# A rate limit is waited for in the same way as with HTTP/1
	{
		my $id = 'ws-limited;status=429;times=2';
		prepare('reused', 'h2');
		is_outcome($session->call($id), 'deleted', 'retried after 429');
		my @requests = records($id);
		is_deeply([ map { $_->{status} } @requests ],
			[ 429, 429, 200 ], 'three requests');
		my %connections = map { $_->{connection} => 1 } @requests;
		is(scalar keys %connections, 1, 'on one connection');
	}
}

# A real server's HTTP/2, in front of an API that fails
if ($api->port('nghttpx'))
{
	foreach my $cut ('reset=headers', 'reset=body', 'fin=headers', 'fin=body')
	{
		foreach my $connection ('fresh', 'reused')
		{
			my $name = "$cut behind nghttpx on a $connection connection";
			my $id = "ws-nghttpx-$connection;$cut;act";
			prepare($connection, 'nghttpx');
			is_outcome($session->call($id), 'unknown', "$name: nobody knows");
			is(scalar records($id), 1, "$name: one request");
			is_outcome($session->call("ws-after-$name"), 'deleted',
				"$name: the next call works");
		}
	}
}

# On a new connection, the first request waits alone for the server's settings, but
# not for its answer; also when they are there, and are acknowledged, before libcurl
# has come home from sending that request
SKIP:
{
	my @listeners = grep { $api->port($_) } 'h2', 'nghttpx';
	my $shim = preload_library('slow_sends');
	skip 'no compiler', 2 * @listeners unless $shim;
	my $slow = start_node($api, name => 'slow', env => { LD_PRELOAD => $shim });
	my $other = SendkitTest::Session->new($slow);
	foreach my $listener (@listeners)
	{
		my %set = (base_url => $api->url($listener), request_timeout => '30s');
		my ($spread, $outcomes);
		# what a busy machine delays is not counted
		foreach my $try (1 .. 3)
		{
			$other->call('ws-else', set => { base_url => $api->url('second') });
			my @ids = map { "ws-$listener-settings-$try-$_;delay=3" } 1 .. 8;
			$outcomes = outcomes($other->call_many(\@ids, set => \%set));
			my @at = sort { $a <=> $b } map { $_->{at} }
			  grep { $_->{id} =~ /^ws-$listener-settings-$try-/ } @{ $api->requests };
			$spread = $at[-1] - $at[0];
			last if $spread < 0.8;
		}
		is_deeply($outcomes, { deleted => 8 }, "$listener, settings at once: deleted");
		cmp_ok($spread, '<', 0.8, "$listener, settings at once: the others follow");
	}
	$other->quit;
	$slow->stop;
}

ok_key_not_logged($node);
done_testing();
