# Many sessions at once, everything going wrong at random, and still every answer
# is true.
#
# Eight sessions send hundreds of requests each to an API that resets, cuts
# off, dawdles and refuses, by plain http, TLS and HTTP/2, while somebody cancels
# statements. Afterwards the stand-in, which knows what it got and which keys it
# deleted, is asked about every single id: nothing was sent twice that may not be,
# nothing was called deleted that is alive. And no process crashed.
#
# What is asked for is drawn from a seed; SENDKIT_SEED sets another one.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep);

my $SESSIONS = 8;
my $CALLS = 200;

srand($ENV{SENDKIT_SEED} || 26);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 2\n");
my @listeners = grep { $api->port($_) } qw(http https h2);

# Each with its weight. None takes long, or the others would not get to see much.
my %weight = (
	'' => 30,
	'delay=0.02' => 6, 'delay=0.02;drip=0.0002' => 3, 'chunked' => 3, 'continue' => 3,
	'silent' => 1, 'status=500' => 2, 'status=403' => 3, 'status=404' => 2,
	'status=503' => 2, 'status=302;redirect=second' => 2, 'body=html' => 2,
	'body=deep' => 2, 'body=echo-key-everywhere' => 2, 'size=70000' => 2, 'headers=80' => 1,
	(map { ("reset=$_" => 3, "fin=$_" => 3) } qw(request headers body answered)),
	'close' => 3, 'close-silently' => 4,
	'status=429;retry-after=0;times=1' => 3);

# What HTTP/2 has besides, where an unprocessed request may be sent again.
my %h2_weight = (
	'refuse' => 3, 'refuse;times=1' => 3, 'goaway' => 3, 'goaway-below;times=1' => 3,
	'rst=CANCEL' => 2, 'rst=INTERNAL_ERROR:headers' => 2);

sub draw
{
	my (%among) = @_;
	my $sum = 0;
	$sum += $_ for values %among;
	my $at = rand $sum;
	for my $name (sort keys %among)
	{
		return $name if ($at -= $among{$name}) < 0;
	}
	return '';
}

# Does the API say of a request with this directive that it did not process it?
sub may_be_repeated
{
	my ($id) = @_;
	return $id =~ /;(?:status=429|refuse|goaway-below)/;
}

# The singular form in the plural's words, as far as it tells.
sub select_one
{
	my ($id) = @_;
	return "SELECT $id, success, CASE WHEN success THEN 'deleted' "
	  . "WHEN message LIKE '%; nothing was deleted' THEN 'unavailable' "
	  . "WHEN message LIKE '%may or may not have been deleted' THEN 'unknown' "
	  . "ELSE 'refused' END FROM sendkit_delete_api_key($id, '$KEY');";
}

my %asked;

# One session's script: statements that give rows of id, success and outcome.
sub script
{
	my ($session) = @_;
	my $n = 0;
	my @sql = ("SET sendkit.request_timeout = '250ms';");
	my $listener = '';
	my $id = sub {
		my %among = $listener eq 'h2' ? (%weight, %h2_weight) : %weight;
		my $directive = draw(%among);
		my $new = "ws-$session-" . ++$n . ($directive eq '' ? '' : ";$directive");
		$asked{$new} = 1;
		return "'$new'";
	};

	while ($n < $CALLS)
	{
		if ($listener eq '' || rand() < 0.03)
		{
			$listener = $listeners[ rand @listeners ];
			push @sql, "SET sendkit.base_url = '" . $api->url($listener) . "';";
		}
		push @sql, 'SET statement_timeout = ' . (rand() < 0.1 ? 1 + int rand 60 : 0) . ';';

		my $kind = rand;
		if ($kind < 0.6)
		{
			push @sql, select_one($id->());
		}
		elsif ($kind < 0.9)
		{
			my $array = join ', ', map { $id->() } 1 .. 1 + int rand 12;
			push @sql, "SET sendkit.max_concurrency = " . (1 + int rand 8) . ';',
			  "SELECT workspace_id, success, outcome FROM sendkit_delete_api_keys(ARRAY[$array], '$KEY');";
		}
		else
		{
			# an error is caught, and the next call made all the same
			my ($first, $second) = ($id->(), $id->());
			push @sql, "DO \$\$ BEGIN PERFORM sendkit_delete_api_key($first, '$KEY');"
			  . ' EXCEPTION WHEN query_canceled THEN NULL; END $$;',
			  select_one($second);
		}
	}
	return join "\n", @sql, "SELECT 'session $session', 'is', 'over';\n\\q\n";
}

my @sessions;
for my $number (1 .. $SESSIONS)
{
	my $session = { in => script($number), out => '', err => '' };
	local $ENV{PGAPPNAME} = 'storm';
	$session->{psql} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'),
			'-v', 'VERBOSITY=verbose', '-f', '-' ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{err});
	push @sessions, $session;
}

# The one who cancels, now and then, whatever anybody is at.
my $canceller = SendkitTest::Session->new($node);
my $cancels = 0;
my $deadline = time() + 180;
while (grep { $_->{psql}->pumpable } @sessions)
{
	die 'the sessions hang' if time() > $deadline;
	for my $session (@sessions)
	{
		$session->{psql}->pump_nb if $session->{psql}->pumpable;
	}
	$cancels += $canceller->value(
		"SELECT count(pg_cancel_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
		  . "WHERE application_name = 'storm' AND wait_event_type = 'Extension' "
		  . 'ORDER BY random() LIMIT 1) a')
	  if rand() < 0.1;
	sleep 0.01;
}
$_->{psql}->finish for @sessions;
note("$cancels statements were cancelled");

# --- everybody is still there ---------------------------------------------------

for my $number (1 .. $SESSIONS)
{
	my $session = $sessions[ $number - 1 ];
	like($session->{out}, qr/^session $number\|is\|over$/m,
		"session $number came to its end") || diag(substr $session->{err}, -2000);
	my @others = grep { !/^57014$/ } $session->{err} =~ /^psql:\S+ (?:ERROR|FATAL|PANIC):  (\w{5}):/mg;
	is("@others", '', "session $number: no error but for cancelled statements");
}
is($canceller->value('SELECT 1'), '1', 'the server is up');
$canceller->quit;
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|was terminated|TRAP/,
	'no process has crashed');

# --- and every answer is true ----------------------------------------------------

my %alive = %{ $api->control('GET', '/keys') };
my %times;
# (a stream above the last one that a GOAWAY names is noted, without an id)
$times{ $_->{id} }++
  for grep { defined $_->{id} } @{ $api->control('GET', '/requests?fields=id') };

my %answer;
my @twice;
for my $session (@sessions)
{
	for my $line (split /\n/, $session->{out})
	{
		my ($id, $success, $outcome) = split /\|/, $line;
		next unless $asked{$id};
		push @twice, $id if exists $answer{$id};
		$answer{$id} = [ $success, $outcome ];
	}
}
my @answered = sort keys %answer;
my @deleted = grep { $answer{$_}[0] eq 't' } @answered;
note(sprintf '%d ids, %d answers, %d of them deleted',
	scalar keys %asked, scalar @answered, scalar @deleted);

ok(@deleted > 0.15 * keys %asked, 'many a key was deleted');
ok(@answered > @deleted + 0.15 * keys %asked, 'many a call failed');
is("@twice", '', 'one answer for each id');

is(join(' ', grep { !$asked{$_} } keys %times), '', 'nothing was sent that was not asked for');
is( join(' ', map { "$_ ($times{$_})" }
		  grep { $times{$_} > 1 && !may_be_repeated($_) } sort keys %times),
	'', 'no request was sent again that may have been processed');

is(join(' ', grep { $alive{$_} // 1 } @deleted), '', 'nothing is called deleted that is alive');
is( join(' ', grep { ($answer{$_}[0] eq 't') != ($answer{$_}[1] eq 'deleted') } @answered),
	'', 'success means deleted');
is( join(' ', grep { $answer{$_}[1] =~ /^(?:absent|rejected|refused|unavailable)$/ && !($alive{$_} // 1) } @answered),
	'', 'nothing is called refused or unavailable that is gone');

$node->stop;
done_testing();
