# Whatever happens on the way, no outcome contradicts what the server did.
#
# A random mix of answers, good and broken, resets, cuts, leftovers, floods, refused
# streams, GOAWAYs, rate limits, time-outs and cancels, in calls for one and for many,
# several sessions at a time.  In the end every outcome is compared with the
# stand-in's records and with what became of the key:
#
#   deleted      the server deleted the key, and said so
#   absent       it said so, and no request of this call had deleted it
#   rejected     it said so
#   unavailable  the key is alive
#   unknown      anything
#
# and nothing was sent twice but what had been refused without effect.
#
# A run of some seconds is part of the suite.  By hand, with the seed that a run
# prints, or for long:
#
#   SENDKIT_SOAK_REQUESTS=100000 SENDKIT_SOAK_SEED=7 \
#       make installcheck REGRESS= ISOLATION= PROVE_TESTS=test/t/210_soak.pl PROVE_FLAGS=-v
#
# SENDKIT_SOAK_LISTENERS (http https h2) and SENDKIT_SOAK_PRELOAD (for a sanitizer or
# a debugging malloc) choose further.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $goal = $ENV{SENDKIT_SOAK_REQUESTS} || 600;
my $seed = $ENV{SENDKIT_SOAK_SEED} || int(rand(1_000_000));
my $sessions = 4;
srand($seed);
diag("seed $seed, $goal requests for each protocol") if $goal > 600;
note("seed $seed");

my $api = SendkitStandin->start(tls => 1);
my @listeners = grep { $api->port($_) }
  split ' ', $ENV{SENDKIT_SOAK_LISTENERS} || 'http https h2';
my $node = start_node(
	$api,
	conf => "restart_after_crash = on\n",
	env => {
		MALLOC_PERTURB_ => 165,
		$ENV{SENDKIT_SOAK_PRELOAD} ? (LD_PRELOAD => $ENV{SENDKIT_SOAK_PRELOAD}) : ()
	});
my $serial = 0;

sub one_of { return $_[ rand @_ ] }

# --- what may happen to a request ---

# Those that HTTP/1 alone, or HTTP/2 alone, knows.  An answer that comes in a segment
# of its own when nobody asked is not among them: that HTTP/1 cannot tell from the
# next answer is no secret.
my %special = (
	http => [ 'status=403;smuggle=record', 'status=404;smuggle=record;close' ],
	https => [
		map { ("status=403;smuggle=$_", "status=403;chunked;smuggle=$_", "status=404;smuggle=$_") }
		  'record', 'body-record', 'own-record'
	],
	h2 => [
		'refuse', 'refuse;times=1', 'refuse;times=2', 'goaway', 'goaway-below',
		'goaway-below;times=1', 'act;rst=CANCEL', 'rst=CANCEL', 'act;rst=HTTP_1_1_REQUIRED',
		'act;rst=INTERNAL_ERROR:headers', 'act;rst=NO_ERROR:body', 'rst=ENHANCE_YOUR_CALM'
	]);

# Some take the connection along, and with it, on HTTP/2, what others wait for.
my $harsh = qr/reset|fin|fuzz|goaway|http10|cl=|close|headers=|silently/;

sub directives
{
	my ($listener, $gentle) = @_;
	my $chosen = any_directives($listener);
	return $gentle && $chosen =~ $harsh ? '' : $chosen;
}

sub any_directives
{
	my ($listener) = @_;
	return '' if rand() < 0.5;
	return ';fuzz=' . int(rand(1_000_000)) if rand() < 0.2;
	return ';' . one_of(@{ $special{$listener} }) if rand() < 0.3;
	return ';' . one_of(
		'status=401', 'status=403', 'status=404', 'status=403;body=html', 'body=html',
		'status=500', 'act;status=500', 'status=503', 'status=408', 'status=301',
		'redirect=second', 'status=429;retry-after=0;times=1', 'status=503;retry-after=0;times=1',
		'continue', 'chunked', 'close', 'close-silently', 'delay=0.02', 'delay=0.1',
		'delay=0.25', 'delay=1', 'act;delay=1', 'silent', 'act;silent', 'drip=0.001',
		'status=204;act', 'size=70000', 'act;size=70000', 'headers=80', 'gzip;size=1000',
		'act;reset=request', 'reset=request', 'reset=headers', 'reset=body', 'reset=answered',
		'act;fin=request', 'fin=request', 'fin=headers', 'fin=body', 'fin=answered',
		'http10', 'until-close', 'cl=5', 'cl=999', 'cl=x');
}

# --- what the server says about it ---

# A request that was refused without effect may come again, no other.
my $no_effect = qr/;(?:.*;)?(?:refuse|goaway-below|status=429|status=503;retry-after)/;

my %problems;
my (%outcomes, %sent_twice);

sub problem
{
	my ($what, @facts) = @_;
	$problems{$what}++;
	diag("$what: ", explain(@facts)) if $problems{$what} <= 5;
	return;
}

sub check_row
{
	my ($row, $records, $alive) = @_;
	my ($id, $outcome) = @$row{ 'workspace_id', 'outcome' };
	my @statuses = grep { defined } map { $_->{status} } @$records;
	my $says = join ' ', @statuses;
	my @facts = { row => $row, requests => $records, alive => $alive };

	$outcomes{$outcome}++;
	problem('deleted, but it is not', @facts) if $outcome eq 'deleted' && $alive;
	problem('deleted, but the server did not say so', @facts)
	  if $outcome eq 'deleted' && $says !~ /20[04]/;
	problem('absent, but the server did not say so', @facts)
	  if $outcome eq 'absent' && $says !~ /404/;
	problem('absent, but it was this call that deleted it', @facts)
	  if $outcome eq 'absent' && !$alive;
	problem('rejected, but the server did not say so', @facts)
	  if $outcome eq 'rejected' && $says !~ /4\d\d/;
	problem('unavailable, but deleted', @facts) if $outcome eq 'unavailable' && !$alive;
	return;
}

# Compares all that calls told with all that the server knows, and forgets it.
my @rows;

sub compare
{
	my %records;
	push @{ $records{ $_->{id} } }, $_
	  foreach grep { defined $_->{id} }
	  @{ $api->control('GET', '/requests?fields=id,status,connection,at') };
	my $keys = $api->control('GET', '/keys');

	foreach my $id (keys %records)
	{
		my $times = @{ $records{$id} };
		next if $times == 1;
		$sent_twice{ $id =~ s/^[^;]*//r }++;
		problem('sent twice', $records{$id}) unless $id =~ $no_effect;
	}
	foreach my $row (@rows)
	{
		my $id = $row->{workspace_id};
		my $alive = !exists $keys->{$id} || $keys->{$id} ? 1 : 0;
		check_row($row, $records{$id} || [], $alive);
	}
	@rows = ();
	$api->reset;
	return;
}

# --- calls ---

# Starts a call of a random kind; returns how many requests it is for.
sub start_call
{
	my ($session, $listener) = @_;
	my $many = rand() < 0.7;
	my $count = $many ? 1 + int(rand(120)) : 1;
	my %set = (
		request_timeout => one_of(300, 500, 700),
		connect_timeout => one_of(200, 5000),
		max_retries => one_of(0, 1, 3),
		max_concurrency => one_of(1, 8, 32, 100, 200));
	$set{max_concurrency} = 32 if $set{max_concurrency} == 1 && $count > 5;

	my $gentle = $listener eq 'h2' && rand() < 0.7;
	my @ids = map { 'ws-' . ++$serial . directives($listener, $gentle) } 1 .. $count;
	my $timeout = rand() < 0.05 ? one_of(50, 100, 400) : 0;
	$session->query(SendkitTest::_settings_sql(\%set) . 'SET statement_timeout = 0');
	$session->query("SET statement_timeout = $timeout") if $timeout;
	$session->send(call_many_sql(\@ids));
	return $count;
}

sub finish_call
{
	my ($session) = @_;
	my $result = $session->result;
	if ($result->{lost})
	{
		problem('the session was lost', $result->{stderr});
		return 0;
	}
	if ($result->{sqlstate} eq '57014')
	{
		$outcomes{cancelled}++;
		return 1;
	}
	problem('an error', $result->{stderr}) if $result->{sqlstate} ne '00000';
	push @rows, map { JSON::PP::decode_json($_) } @{ $result->{rows} };
	return 1;
}

# What happens meanwhile
sub something_else
{
	my $dice = rand();
	$api->control('POST', '/close-idle', { how => one_of('fin', 'reset'), count => one_of(1, 5, 100) })
	  if $dice < 0.2;
	$api->control('POST', '/goaway') if $dice > 0.95;
	return;
}

foreach my $listener (@listeners)
{
	my @sessions;
	my $connect = sub {
		my $session = SendkitTest::Session->new($node);
		$session->query(SendkitTest::_settings_sql({ base_url => $api->url($listener) }));
		return $session;
	};
	push @sessions, $connect->() foreach 1 .. $sessions;
	%outcomes = %sent_twice = %problems = ();
	my ($done, $unchecked, $began) = (0, 0, time());

	while ($done < $goal)
	{
		$unchecked += start_call($_, $listener) foreach @sessions;
		something_else();
		foreach my $session (@sessions)
		{
			$session = $connect->() unless eval { finish_call($session) };
		}
		# a flooded session goes on with its connections closed
		if (rand() < 0.02)
		{
			my $flooded = one_of(@sessions);
			my $port = $listener eq 'http' ? 'flood' : "${listener}_flood";
			$flooded->query(SendkitTest::_settings_sql(
					{ base_url => $api->url($port), request_timeout => 200 }));
			my $answer = $flooded->call('ws-' . ++$serial . ';flood='
				  . ($listener eq 'h2' ? one_of('window', 'data', 'ping') : one_of('body', 'chunk-extension')));
			problem('flooded', $answer) if $answer->{outcome} ne 'unknown';
			$flooded->query(SendkitTest::_settings_sql({ base_url => $api->url($listener) }));
		}
		if ($unchecked >= 2000)
		{
			compare();
			($done, $unchecked) = ($done + $unchecked, 0);
			diag(sprintf '%s: %d after %.0f s', $listener, $done, time() - $began)
			  if $goal > 600 && int($done / 10000) > int(($done - 2000) / 10000);
		}
		elsif ($done + $unchecked >= $goal)
		{
			compare();
			($done, $unchecked) = ($done + $unchecked, 0);
		}
	}
	$_->quit foreach @sessions;

	my $report = sprintf '%s: %d requests in %.0f s: %s; sent again: %s', $listener, $done,
	  time() - $began, join(', ', map { "$outcomes{$_} $_" } sort keys %outcomes),
	  join(', ', map { "$sent_twice{$_} $_" } sort keys %sent_twice) || 'none';
	$goal > 600 ? diag($report) : note($report);
	is_deeply(\%problems, {}, "$listener, seed $seed: no outcome contradicts the server");
	cmp_ok($outcomes{$_} || 0, '>', 0, "$listener: some are $_")
	  foreach 'deleted', 'rejected', 'unknown';
	unlike(slurp_file($node->logfile), qr/terminated by signal/, "$listener: nothing crashed");
}

# (That the key is not logged is for other tests: a statement that is cancelled before
# its call begins is logged by PostgreSQL itself.)
$node->stop;
done_testing();
