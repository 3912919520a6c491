# Kills at random moments under load, with workers and the launcher delivering: the
# stand-in's record and the table agree, nothing is lost, nothing that was rolled
# back is sent, and what is left is delivered within a naptime of the last kill. And
# what a session pays for many commits, and the log for an outage.
#
# Moments and victims are drawn from a seed; SENDKIT_SEED sets another, and
# SENDKIT_ROUNDS another number of rounds than a few.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{SENDKIT_SEED} || 83;
srand($seed);
my $rounds = $ENV{SENDKIT_ROUNDS} || 6;
note("seed $seed, $rounds rounds");

my $api = SendkitStandin->start;
my $node = start_node($api, deliver => 1, init => [ allows_streaming => 1 ], conf => <<'EOC');
shared_preload_libraries = 'sendkit'
sendkit.max_retries = 0
sendkit.worker_naptime = 1s
restart_after_crash = on
EOC
$node->safe_psql('postgres', <<"EOS");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY');
EOS

# --- many commits in one session -------------------------------------------------------

{
	my $session = SendkitTest::Session->new($node);
	my $many = sub {
		my ($count) = @_;
		$session->query("DO \$\$ BEGIN FOR i IN 1 .. $count LOOP
			PERFORM sendkit_request_revocation('many-' || i); COMMIT; END LOOP; END \$\$");
		return memory_kb($session->pid);
	};
	my $before = $many->(2000);
	my $grown = $many->(20000) - $before;
	note("$grown kB more");
	ok($grown < 500 || !memory_is_plain($session->pid), '20,000 commits in one session leave its memory flat');
	my $unfinished = sub { $session->value('SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL') };
	while ((my $left = $unfinished->()) > 0)
	{
		wait_until(sub { sleep 0.3; $unfinished->() < $left }, 'more is delivered');
	}
	$session->query('TRUNCATE sendkit_revocation');
	$session->quit;
	$api->reset;
}

# --- an outage ---------------------------------------------------------------------------

{
	my $session = SendkitTest::Session->new($node);
	$api->control('POST', '/stop');
	my $seen = -s $node->logfile;
	for my $i (1 .. 40) { $session->value("SELECT sendkit_request_revocation('outage-$i')"); sleep 0.1 }
	my @lines = grep { /WARNING|ERROR|FATAL|exited/ } split /\n/, slurp_file($node->logfile, $seen);
	is(scalar @lines, 1, 'an outage of seconds leaves one line in the log') || diag(join "\n", @lines);
	$api->control('POST', '/start');
	wait_until(sub { $session->value('SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL') == 0 }, 'all is delivered');
	pass('when it is over, all is delivered by itself');
	$session->query('TRUNCATE sendkit_revocation');
	$session->quit;
	$api->reset;
}

# --- kills -----------------------------------------------------------------------------------

my (%asked, %kept);
my $serial = 0;
my $promotions = 0;
my @retired;
my @behaviours = ('', '', '', ';delay=0.02', ';delay=0.1', ';status=500;times=1', ';silent;act;times=1', ';reset=answered;act;times=1');

# A session that asks for revocations, some of which it rolls back, until it is
# killed with the server. What is told to be committed is.
sub load
{
	my ($seconds) = @_;
	my $session = eval { SendkitTest::Session->new($node) } or return;
	$session->query("SET sendkit.request_timeout = '1s'");
	my $until = time() + $seconds;
	while (time() < $until)
	{
		my $id = 'kill-' . ++$serial . $behaviours[ rand @behaviours ];
		my $roll_back = rand() < 0.3;
		my $end = $roll_back ? 'ROLLBACK' : 'COMMIT';
		my $result = eval { $session->query("BEGIN; SELECT sendkit_request_revocation('$id'); $end") };
		last if !$result || $result->{lost} || $result->{sqlstate} ne '00000';
		if ($roll_back) { $kept{$id} = 1 } else { $asked{$id} = 1 }
	}
	eval { $session->quit };
	return;
}

sub pids_of
{
	my ($type) = @_;
	my ($status, $out) = $node->psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid()");
	return $status == 0 ? split /\n/, $out : ();
}

sub server_is_back
{
	wait_until(sub { eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } }, 'the server is back');
	return;
}

# A standby takes the server's place, which vanishes in the midst of its work. What
# is committed waits for the standby; what workers note does not, so that a standby
# may know less of what was tried.
sub promote
{
	my $standby = PostgreSQL::Test::Cluster->new('standby' . ++$promotions);
	$node->backup("backup$promotions");
	$standby->init_from_backup($node, "backup$promotions", has_streaming => 1);
	$standby->start;
	$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'\n");
	$node->reload;
	wait_until(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1 },
		'the standby is one');
	load(0.2 + rand 0.8);
	$node->stop('immediate');
	push @retired, $node;
	$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
	$standby->promote;
	$node = $standby;
	return;
}

my @ways = (
	[ 'the worker is terminated', sub { kill 'TERM', pids_of('sendkit worker') } ],
	[ 'the worker is killed', sub { kill 'KILL', pids_of('sendkit worker') } ],
	[ 'the launcher is killed', sub { kill 'KILL', pids_of('sendkit launcher') } ],
	[ 'the server is stopped', sub { $node->stop('immediate'); $node->start } ],
	[ 'the server is restarted', sub { $node->restart } ],
	[ 'a standby is promoted', \&promote ]);

for my $round (1 .. $rounds)
{
	my ($name, $act) = @{ $ways[ $round <= @ways ? $round - 1 : rand @ways ] };
	load(0.2 + rand 0.8);
	$act->();
	server_is_back();
	note("round $round: $name");
}
server_is_back();
$node->safe_psql('postgres', "ALTER SYSTEM SET sendkit.request_timeout = '1s'");
$node->reload;
load(0.2);

my $begin = time();
wait_until(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL') == 0 },
	'all is delivered');
note(sprintf 'all was delivered %.1f s later', time() - $begin);

my (%sent, %row);
$sent{ $_->{id} }++ for @{ $api->control('GET', '/requests?fields=id') };
for (split /\n/, $node->safe_psql('postgres', 'SELECT workspace_id, state, attempts, outcome FROM sendkit_revocation'))
{
	my ($id, $state, $attempts, $outcome) = split /\|/;
	push @{ $row{$id} }, [ $state, $attempts, $outcome ];
}
my %alive = %{ $api->control('GET', '/keys') };

sub none
{
	my ($name, @ids) = @_;
	return is(join(' ', sort @ids), '', $name);
}

note(sprintf '%d asked for, %d rolled back', scalar keys %asked, scalar keys %kept);
cmp_ok(scalar keys %asked, '>', 10, 'much was asked for');
none('whatever was committed has one row', grep { @{ $row{$_} || [] } != 1 } keys %asked);
none('all is done', grep { $row{$_}[0][0] ne 'done' } keys %row);
none('every key is dead', grep { $alive{$_} // 1 } keys %row);
none('nothing was sent that was rolled back', grep { $sent{$_} } keys %kept);
none('nothing was sent that is not in the table', grep { !$row{$_} } keys %sent);
none('each attempt was counted before it was sent', grep { $sent{$_} > $row{$_}[0][1] + $promotions } keys %sent);
for my $server (@retired, $node)
{
	unlike(slurp_file($server->logfile), qr/PANIC|TRAP|terminated by signal (?!9\b)/, 'nothing has crashed but what was killed');
	ok_key_not_logged($server);
}
$node->stop;
done_testing();
