# Whatever the other side sends, and however often: a backend stays small.
#
# Memory and descriptors that grow with the number of calls are found by many
# calls of every kind, among them failed and cancelled ones, without TLS and with
# it; memory that grows with an answer by huge answers, of which not even a
# passing trace may be seen; descriptors that PostgreSQL doesn't know of by how
# many are left to another extension (test/preload/descriptors.c); and the
# reading of answers by thousands of documented ones that have been damaged at
# random, with a second opinion on each from another JSON parser.

use strict;
use warnings;

use Encode ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(time);

my $api = SendkitStandin->start(tls => 1, args => ['--no-record']);
my $node = start_node(
	$api,
	conf => "sendkit.max_retries = 0\n"
	  . "max_files_per_process = 100\n"
	  . "test.key = '$KEY'\n");
my %usual = (base_url => $api->url('http'), request_timeout => '30s');

# A statement that makes calls, id by id, and counts their outcomes.  It is without
# the key: a time-out may cancel it before the call is reached, and the server
# logs it then.
sub calls_sql
{
	my ($ids) = @_;
	return 'SELECT count(*) FILTER (WHERE success), count(*) FROM unnest(ARRAY['
	  . join(', ', map { literal($_) } @$ids)
	  . "]) i, LATERAL sendkit_delete_api_key(i, current_setting('test.key'))";
}

# Makes a call that is cancelled while it waits for its answer. Returns how many
# calls that were.
sub cancel_call
{
	my ($session) = @_;
	my $result = $session->query('SET statement_timeout = 10; '
		  . calls_sql(['ws;silent']));
	die "not cancelled: $result->{stderr}" if $result->{sqlstate} ne '57014';
	$session->query('SET statement_timeout = 0');
	return 1;
}

# Plays rounds, each of which returns how many calls it made, until there were so
# many; from the first number of calls on, nothing may grow.
sub ok_flat
{
	my ($session, $round, $first, $last, $name) = @_;
	my $calls = 0;

	$calls += $round->() while $calls < $first;
	my $pid = $session->pid;
	my ($memory, $descriptors) = (memory_kb($pid), descriptors($pid));
	my $start = $calls;
	$calls += $round->() while $calls < $last;
	my $growth = memory_kb($pid) - $memory;
	note("$name: $calls calls; growth since call $start: $growth kB of $memory kB");

	# 8,000 leaks of 64 bytes would be 500 kB, 300 of 1.3 kB 400 kB
	ok($growth < 400 || !memory_is_plain($pid),
		"$name: memory does not grow from call $first to $last");
	is(descriptors($pid), $descriptors,
		"$name: nor does the number of descriptors");
	is_outcome($session->call("$name-last", set => \%usual),
		'deleted', "$name: the session works");
	return;
}

# 10,000 calls in one backend
{
	my $session = SendkitTest::Session->new($node);
	my $serial = 0;

	# per round: 200 calls, of which 199 by two statements
	my @kinds = (
		(map { '' } 1 .. 21),
		';status=403', ';status=500', ';body=html', ';body=long-message',
		';body=long-error', ';body=deep', ';body=details-scalars',
		';body=echo-key-everywhere', ';body=badutf8', ';status=429;retry-after=60',
		';reset=request', ';reset=body', ';fin=headers', ';size=100000',
		';headers=80', ';close', ';close-silently', ';redirect=second',
		';unsolicited=deleted');

	my $round = sub {
		my @ids = map { my $kind = $_; map { 'ws-' . ++$serial . $kind } 1 .. 4 }
		  @kinds;
		$session->query(SendkitTest::_settings_sql(\%usual));
		# twice, so that many are absent the second time
		my $row = $session->value(calls_sql([ @ids, @ids[ 0 .. 36 ] ]));
		my ($deleted, $all) = split /\|/, $row;
		die "only $deleted of $all" if $deleted < 84;

		# cancelled in mid-answer
		my $cancelled = cancel_call($session);

		# refused; and another endpoint means everything is built anew
		$session->query('SET sendkit.base_url = '
			  . literal($api->url('closed')) . '; '
			  . calls_sql(['ws']));
		return $all + $cancelled + 1;
	};

	ok_flat($session, $round, 2000, 10_000, 'http');
}

# The same with TLS, HTTP/2, and a certificate that isn't trusted: much more
# memory per connection, and other ways for a connection to end.  Each round is
# begun with all made anew, after a call was cancelled in its handshake.
foreach my $listener ('https', 'https_selfsigned', 'h2')
{
	SKIP:
	{
		skip "the stand-in has no $listener", 3 unless $api->port($listener);

		my @kinds = (
			'', '', '', '', '', '', ';status=403', ';status=500', ';body=html',
			';size=100000', ';headers=80', ';redirect=second', ';reset=request',
			';close', ';reset=body', ';fin=headers', ';close-silently');
		push @kinds, (
			';refuse', ';rst=CANCEL', ';rst=INTERNAL_ERROR:body', ';goaway',
			';goaway-below') if $listener eq 'h2';
		my $trusted = $listener ne 'https_selfsigned';
		my $session = SendkitTest::Session->new($node);
		my $serial = 0;

		my $use = sub {
			$session->query(SendkitTest::_settings_sql(
				{ %usual, base_url => $api->url($_[0]) }));
		};
		my $round = sub {
			$use->('https_stuck');
			my $cancelled = cancel_call($session);
			$use->($listener);
			my ($deleted, $all) = split /\|/,
			  $session->value(calls_sql([ map { "$listener-" . ++$serial . $_ } @kinds ]));
			die "$deleted of $all" if $trusted ? $deleted < 6 : $deleted > 0;
			$cancelled += cancel_call($session) if $trusted;
			# with a connection that is kept, if there can be one
			$session->value(calls_sql([ "$listener-" . ++$serial ]));
			return $all + $cancelled + 1;
		};

		ok_flat($session, $round, 150, 450, $listener);
	}
}

# Huge answers.  What a backend holds when it has refused one says nothing about
# what it held before: the kernel knows its peak.
sub peak_kb
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m
	  ? $1
	  : die "no VmHWM of process $pid";
}

{
	my $session = SendkitTest::Session->new($node);
	$session->call('ws-first', set => \%usual);
	$session->call('ws-second;size=70000');
	my $memory = memory_kb($session->pid);

	foreach my $case (
		[ 'a body of 1 GB', 'size=1073741824' ],
		[ 'a chunked body of 1 GB', 'size=1073741824;chunked' ],
		[ 'a body of 1 GB without a length', 'size=1073741824;until-close' ],
		# the rest never comes: whoever waits for it, waits long
		[ 'the first 70,000 bytes of 1 GB', 'size=70000;cl=1073741824' ],
		[ 'a length that is not true', 'cl=9223372036854775807;fin=answered' ],
		[ '1,000 headers of 1 KB', 'headers=1000' ],
		[ '70 headers of 1 KB', 'headers=70' ],
		[ '50 headers of 1 KB', 'headers=50', 'deleted' ],
		[ 'a gzip bomb', 'gzip;size=100000000' ],
		# The whole success would come out of it, but nobody asked for gzip
		[ 'a small gzip answer', 'gzip;size=1000' ],
		[ 'a body of just over 64 KiB', 'size=65537' ],
		[ 'a body of 64 KiB', 'size=65536', 'deleted' ])
	{
		my ($name, $directives, $outcome) = @$case;
		my $peak = peak_kb($session->pid);
		my $start = time();
		is_outcome($session->call("ws-huge;$directives"),
			$outcome || 'unknown', "$name: " . ($outcome || 'unknown'));
		prompt(time() - $start, $name);

		# A backend's peak includes what it uses of the server's shared memory,
		# and large machines count in large steps.
		my $rise = peak_kb($session->pid) - $peak;
		note("$name: the peak rose by $rise kB");
		ok($rise < 16 * 1024 || !memory_is_plain($session->pid),
			"$name: never much of it in memory");
	}
	my $growth = memory_kb($session->pid) - $memory;
	note("growth by huge answers: $growth kB");
	ok($growth < 1000 || !memory_is_plain($session->pid),
		'huge answers leave memory as it was');
	is_outcome($session->call('ws-third'), 'deleted', 'the session works');
}

# Descriptors, which PostgreSQL grants to extensions up to a number.
SKIP:
{
	# it is compiled with the server's headers
	my $headers = $node->safe_psql('postgres',
		q{SELECT setting FROM pg_config WHERE name = 'INCLUDEDIR-SERVER'});
	my $library = preload_library('descriptors', "-I'$headers'");
	skip 'no compiler, or no headers of the server', 17 unless $library;
	$node->safe_psql('postgres',
		"CREATE FUNCTION $_(int) RETURNS int LANGUAGE C STRICT AS '$library'")
	  foreach 'take_descriptors', 'give_back_descriptors';

	# None to be had
	my $session = SendkitTest::Session->new($node);
	my $pid = $session->pid;
	my $taken = $session->value('SELECT take_descriptors(1000)');
	my $before = descriptors($pid);
	note("there were $taken descriptors");
	cmp_ok($taken, '<', 1000, 'no more descriptors to be had');

	my (@wrong, @seen);
	foreach my $given (0 .. $taken)
	{
		$session->value('SELECT give_back_descriptors(1)') if $given;
		my $requests = $api->stats->{requests}{total};
		my $answer = $session->call("ws-full-$given", set => \%usual);
		my $sent = $api->stats->{requests}{total} - $requests;

		my $right =
		    $answer->{outcome} eq 'deleted' ? $sent == 1
		  : $answer->{outcome} eq 'unavailable' ? $sent == 0
		  : ($answer->{sqlstate} eq '53000' && $sent == 0);
		push @wrong, $answer unless $right;
		push @seen, $answer->{sqlstate} . ' ' . $answer->{outcome};
		last if $answer->{outcome} eq 'deleted';
	}
	note(join ', ', @seen);
	is_deeply(\@wrong, [], 'an error 53000, or unavailable, and nothing sent')
	  || diag(explain(\@wrong));
	like($seen[0], qr/^53000|unavailable/, 'without a descriptor no call');
	is($seen[-1], '00000 deleted', 'with some it works');
	# at least one socket, and what it is waited for with
	cmp_ok($#seen, '>=', 3, 'a call asks for all that it takes');
	cmp_ok(descriptors($pid) - $before, '<=', $#seen, 'and opens no more than that');
	is_outcome($session->call('ws-full'), 'deleted', 'and goes on to work');
	$session->quit;

	# Every one that a session keeps open is one less for others, and none is
	# that it doesn't.
	$session = SendkitTest::Session->new($node);
	$pid = $session->pid;
	my $room = sub {
		return $session->value('SELECT give_back_descriptors(take_descriptors(1000))');
	};
	my $delete_many = sub {
		my ($count, $directives) = @_;
		return $session->query("SET sendkit.max_concurrency = $count; "
			  . 'SELECT count(*) FROM sendkit_delete_api_keys(ARRAY(SELECT '
			  . "'ws-' || clock_timestamp() || i || '$directives' "
			  . "FROM generate_series(1, $count) i), current_setting('test.key')) "
			  . 'WHERE success');
	};

	my ($all, $fresh) = ($room->(), descriptors($pid));
	$session->call('ws;close', set => \%usual);
	my ($spare, $idle) = ($room->(), descriptors($pid));
	note("room for $all at first, $spare when a session keeps ", $idle - $fresh);
	cmp_ok($idle, '>', $fresh, 'a session keeps descriptors between calls');
	cmp_ok($all - $spare, '>=', $idle - $fresh, 'and all of them are counted');

	is($delete_many->(6, ';delay=0.5')->{rows}[0], 6, 'six at a time');
	my $kept = descriptors($pid) - $idle;
	cmp_ok($kept, '>=', 3, 'leave connections behind');
	is($spare - $room->(), $kept, 'each of which leaves others one less');

	# Another endpoint: all of these are closed.
	$session->call('ws', set => { base_url => $api->url('closed') });
	$session->call('ws;close', set => \%usual);
	is_deeply([ $room->(), descriptors($pid) ], [ $spare, $idle ],
		'when they are closed all are back');
	$delete_many->(6, ';delay=0.1;close');
	is_deeply([ $room->(), descriptors($pid) ], [ $spare, $idle ],
		'and after connections that the server closed');
	$session->query('SET statement_timeout = 200');
	my $result = $delete_many->(6, ';silent');
	$session->query('SET statement_timeout = 0');
	is($result->{sqlstate}, '57014', 'six are cancelled');
	is_deeply([ $room->(), descriptors($pid) ], [ $all, $fresh ],
		'and nothing of the session\'s connections is left');

	# Room for three, and twelve to do
	$session->call('ws;close', set => \%usual);
	wait_until(sub { $api->stats->{open} == 0 }, 'the API is at rest');
	$api->reset;
	$session->value('SELECT give_back_descriptors(3) FROM take_descriptors(1000)');
	is($delete_many->(12, ';delay=0.05')->{rows}[0], 12,
		'with few descriptors to be had, all is done');
	cmp_ok($api->stats->{max_open}, '<=', 3, 'by no more connections than that');
}

# Thousands of damaged bodies
my $seed = $ENV{SENDKIT_TEST_SEED} || 20;
note("SENDKIT_TEST_SEED=$seed");
srand($seed);

my @documented = (
	'{"success": true, "data": {"message": "API key deleted"}}',
	'{"success":true}',
	'{"error": "Forbidden", "message": "You don\'t have permission to access this resource", "code": 403}',
	'{"error": "Not Found", "message": "The requested resource was not found", "code": 404}',
	'{"success": false, "error": {"code": "FORBIDDEN", "message": "no", "details": [{"a": [1, 2.5e3, null]}, {}]}}'
);
my @scraps = (
	'{', '}', '[', ']', ',', ':', '"', '\\', '\\u0000', '\\ud83d', '\\u0073',
	'true', 'false', 'null', '1', '-', '1e999', ' ', "\n", "\0", "\x01", "\x7f",
	"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xc3\xa9", "\xf0\x9f\x94\x91",
	"\xef\xbb\xbf", '"success"', '"success": true', '"success": true,',
	'"success": false,', '"error": "x",', '"data":', '"message":',
	'{"success": true}', ('[' x 200), '/* */');

sub damaged
{
	my $body = $documented[ rand @documented ];
	foreach (1 .. 1 + int(rand 3))
	{
		my $at = int(rand(1 + length $body));
		my $length = int(rand 8);
		my $kind = int(rand 7);

		if ($kind == 0)    # one bit
		{
			substr($body, $at, 1) ^= chr(1 << int(rand 8)) if $at < length $body;
		}
		elsif ($kind == 1)    # one byte
		{
			substr($body, $at, 1) = chr(int(rand 256)) if $at < length $body;
		}
		elsif ($kind == 2)    # a piece less
		{
			substr($body, $at, $length) = '';
		}
		elsif ($kind == 3)    # a piece twice
		{
			substr($body, $at, 0) = substr($body, $at, 4 * $length);
		}
		elsif ($kind == 4)    # cut off
		{
			$body = substr($body, 0, $at);
		}
		elsif ($kind == 5)    # a scrap
		{
			substr($body, $at, 0) = $scraps[ rand @scraps ];
		}
		else                  # a scrap where a token begins
		{
			my @tokens = (0);
			push @tokens, pos $body while $body =~ /[{,:]\s*/g;
			substr($body, $tokens[ rand @tokens ], 0) = $scraps[ rand @scraps ];
		}
	}
	return $body;
}

# The names at top level of a text that is known to be a JSON object.
sub top_level_names
{
	my ($json) = @_;
	my $reader = JSON::PP->new->allow_nonref;
	my $depth = 0;
	my @names;

	while ($json =~ /\G(?:("(?:[^"\\]|\\.)*")(\s*:)?|([{\[])|([}\]])|[^"{}\[\]])/gs)
	{
		push @names, $reader->decode($1) if $2 && $depth == 1;
		$depth++ if $3;
		$depth-- if $4;
	}
	return @names;
}

# The second opinion: does this body really say that the key was deleted?
sub says_deleted
{
	my ($body) = @_;
	my $text = eval { Encode::decode('UTF-8', $body, Encode::FB_CROAK) };
	return 0 unless defined $text;
	my $value = eval { JSON::PP->new->decode($text) };
	return ref $value eq 'HASH'
	  && JSON::PP::is_bool($value->{success})
	  && $value->{success}
	  && 1 == grep { $_ eq 'success' } top_level_names($text);
}

{
	my $count = 4000;
	my @statuses = ((200) x 6, 201, 202, 403, 404);
	my (%bodies, @cases);
	foreach my $i (1 .. $count)
	{
		my $case = { body => damaged(), status => $statuses[ rand @statuses ] };
		push @cases, $case;
		$bodies{"r$i"} =
		  { hex => unpack('H*', $case->{body}), status => $case->{status} };
	}
	$api->control('POST', '/bodies', \%bodies);

	my $session = SendkitTest::Session->new($node);
	$session->query(SendkitTest::_settings_sql(\%usual));
	my $result = $session->query(
		"SELECT r.success FROM generate_series(1, $count) i, LATERAL "
		  . "sendkit_delete_api_key('ws;body=r' || i, '$KEY') r ORDER BY i");
	is($result->{sqlstate}, '00000', 'no damaged body raises an error')
	  || diag($result->{stderr});
	is(scalar @{ $result->{rows} }, $count, "$count bodies, $count rows");

	my ($deleted, @lies, @doubts) = (0);
	foreach my $i (0 .. $#{ $result->{rows} })
	{
		my ($body, $status) = @{ $cases[$i] }{ 'body', 'status' };
		my $success = $result->{rows}[$i] eq 't';
		my $truth = $status < 300 && says_deleted($body);
		my $shown = $body =~ s/([^ -~])/sprintf('\\x%02x', ord $1)/ger;

		$deleted++ if $success;
		push @lies, "$status $shown" if $success && !$truth;
		push @doubts, "$status $shown" if !$success && $truth;
	}
	note("$deleted successes; not believed though JSON says so: " . @doubts);
	is_deeply(\@lies, [], 'none counts as deleted that does not say so');
	cmp_ok($deleted, '>', $count / 50, 'but undamaged enough ones do');

	# Two parsers may differ about the odd text, and an error beside a success
	# makes it doubtful; were there many, this test would look away.
	my @plain = grep { !/"error"|\\u/ } @doubts;
	is_deeply(\@plain, [], 'success without a flaw is believed');
}

ok_key_not_logged($node);
done_testing();
