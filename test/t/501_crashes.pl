# Whatever crashes, no revocation is lost, and none is made up.
#
# Round after round, workspaces are deleted in transactions that commit, roll
# back, stay open or are prepared; somebody delivers; and then the delivering
# backend is killed, or the whole server stopped as if the power had failed: at
# states that are brought about on purpose (queued, claimed but not sent, sent,
# answered but not settled, half settled) and at random times. After each crash
# deliveries go on, by a new session.
#
# In the end the stand-in, which knows what it got and which keys live, is asked
# about every workspace: the key of each that was deleted is dead, nothing was
# ever sent for those whose deletion was rolled back, and what the table says has
# happened.
#
# Random times and workspaces are drawn from a seed; SENDKIT_SEED sets another.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

srand($ENV{SENDKIT_SEED} || 60);

my $api = SendkitStandin->start;
my $node = start_node($api, conf => <<'EOC');
sendkit.max_retries = 0
max_prepared_transactions = 5
# (Cluster.pm would have the server stay down after a backend's crash)
restart_after_crash = on
EOC
$node->safe_psql('postgres', <<"EOS");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY');
CREATE TABLE before (last bigint);
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
EOS

my (%deleted, %kept);    # ids whose deletion was committed, and not
my %settled;             # ids that were done right after a crash: requests until then
my $serial = 0;

# So many new workspaces, with this behaviour of the API
sub new_ids
{
	my ($count, $directive) = @_;
	return map { 'ws-' . ++$serial . ($directive eq '' ? '' : ";$directive") } 1 .. $count;
}

sub values_of { return join ', ', map { "('$_')" } @_ }
sub list_of { return join ', ', map { "'$_'" } @_ }

# What may happen to a request that a crash cuts off, and some that it may not
my @behaviours = ('', '', '', 'delay=0.02', 'delay=0.1', 'status=500;times=1',
	'status=429;times=1', 'silent;times=1', 'silent;act;times=1', 'reset=request;times=1',
	'reset=answered;act;times=1');

sub delete_ids
{
	my ($session, @ids) = @_;
	$session->value("INSERT INTO workspace VALUES " . values_of(@ids) . ' RETURNING 1');
	$session->value('WITH d AS (DELETE FROM workspace WHERE id IN (' . list_of(@ids)
		  . ') RETURNING 1) SELECT count(*) FROM d');
	return;
}

# Deletions that are not to be: rolled back, and never committed. Returns the
# session, which has to be kept until the crash.
sub delete_in_vain
{
	my $session = SendkitTest::Session->new($node);
	my @ids = new_ids(4, '');
	$kept{$_} = 1 for @ids;

	$session->query('BEGIN');
	delete_ids($session, $ids[0], $ids[1]);
	$session->query('ROLLBACK');
	$session->query('BEGIN');
	$session->query('SAVEPOINT s');
	delete_ids($session, $ids[2]);
	$session->query('ROLLBACK TO SAVEPOINT s');
	delete_ids($session, $ids[3]);
	return $session;
}

sub delete_committed
{
	my (@ids) = @_;
	my $session = SendkitTest::Session->new($node);
	delete_ids($session, @ids);
	$deleted{$_} = 1 for @ids;
	$session->quit;
	return;
}

# --- the ways to crash ------------------------------------------------------------

# Kills the backend, which makes the server end all others and recover.
sub kill_backend
{
	my ($processor, @others) = @_;
	kill 'KILL', $processor->pid;
	wait_until(sub { process_is_gone($processor->pid) }, 'the backend is gone');
	$_->quit for $processor, @others;
	# (a psql that can't connect may be gone before it was told what to ask)
	wait_until(sub { eval { ($node->psql('postgres', 'SELECT 1'))[0] == 0 } }, 'the server is back');
	return;
}

sub stop_immediately
{
	my (@sessions) = @_;
	$node->stop('immediate');
	# before a new server inherits the ends of their pipes
	$_->quit for @sessions;
	$node->start;
	return;
}

# --- the rounds --------------------------------------------------------------------

sub begin_delivery
{
	my ($concurrency) = @_;
	my $processor = SendkitTest::Session->new($node);
	$processor->query("SET sendkit.max_concurrency = $concurrency");
	$processor->send('CALL sendkit_process_revocations()');
	return $processor;
}

sub states
{
	return join ' ', split /\n/, $node->safe_psql('postgres',
		"SELECT state || ':' || count(*) FROM sendkit_revocation WHERE id > (SELECT last FROM before) GROUP BY state ORDER BY state");
}

sub requests_by_id
{
	my %count;
	$count{ $_->{id} }++ for @{ $api->control('GET', '/requests?fields=id') };
	return \%count;
}

# Deliveries go on until all is done; those that have been put off don't make
# us wait. Returns how many the first one has left in the state of being sent.
sub deliver_the_rest
{
	my $session = SendkitTest::Session->new($node);
	my $first;

	$session->query("SET sendkit.request_timeout = '1s'; SET sendkit.max_concurrency = 20");
	for (1 .. 10)
	{
		my $result = $session->query('CALL sendkit_process_revocations()');
		is($result->{sqlstate}, '00000', 'delivery works') || diag($result->{stderr});
		$first //= $session->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'sending'");
		last if $session->value('SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL') == 0;
		$session->query("UPDATE sendkit_revocation SET next_attempt_at = now() WHERE state = 'pending'");
	}
	$session->quit;
	return $first;
}

# Brings the queue to a state, crashes, and has the rest delivered.
sub crash_round
{
	my ($name, $crash, $bring_about) = @_;

	$node->safe_psql('postgres', 'TRUNCATE before; INSERT INTO before SELECT COALESCE(max(id), 0) FROM sendkit_revocation');
	my $in_vain = delete_in_vain();
	my ($processor, $expected, @others) = $bring_about->();
	is(states(), $expected, "$name: the state to crash in") if defined $expected;
	$crash->($processor, $in_vain, @others);

	my $sent = requests_by_id();
	$settled{$_} //= $sent->{$_} for split /\n/, $node->safe_psql('postgres',
		"SELECT workspace_id FROM sendkit_revocation WHERE state = 'done'");
	is(deliver_the_rest(), '0', "$name: what was being sent was taken up at once");
	is($node->safe_psql('postgres', "SELECT count(*) FROM sendkit_revocation WHERE state <> 'done'"),
		'0', "$name: all is done");
	return;
}

# Nothing has begun yet.
sub queued
{
	delete_committed(new_ids(3, ''));
	my $bystander = SendkitTest::Session->new($node);
	$bystander->send('SELECT pg_sleep(600)');
	return ($bystander, 'pending:3');
}

# One is sent and isn't answered, one was claimed with it and has to wait, the
# others are not even claimed.
sub sent
{
	my ($directive) = @_;
	my @ids = new_ids(4, "$directive;times=1");
	delete_committed(@ids);
	my $processor = begin_delivery(1);
	wait_until(sub { grep { @{ $api->requests(id => $_) } } @ids }, 'one was sent');
	return ($processor, 'pending:2 sending:2');
}

# All are answered, and so many of them settled: somebody holds the rows of the
# others, which keeps their answers with the processor.
sub answered
{
	my ($settled) = @_;
	my @ids = new_ids(3, 'delay=2;times=1');
	delete_committed(@ids);
	my $keeper = SendkitTest::Session->new($node);
	$keeper->query('BEGIN');
	my $processor = begin_delivery(10);
	wait_until(sub { 3 == grep { @{ $api->requests(id => $_) } } @ids }, 'all are sent');
	is($keeper->query('SELECT 1 FROM sendkit_revocation WHERE workspace_id IN (' . list_of(@ids[ $settled .. 2 ]) . ') FOR UPDATE')->{sqlstate},
		'00000', 'somebody holds rows');
	wait_until(sub { 3 == grep { ($_->{status} // 0) == 200 } map { @{ $api->requests(id => $_) } } @ids }, 'all are answered');
	wait_until(sub { states() =~ /done:$settled/ }, 'it has settled what it could') if $settled;
	return ($processor, $settled ? "done:$settled sending:" . (3 - $settled) : 'sending:3', $keeper);
}

# Anything, at any time
sub at_random
{
	for (1 .. 3)
	{
		delete_committed(map { new_ids(1 + int rand 8, $behaviours[ rand @behaviours ]) } 1 .. 4);
	}
	my $processor = begin_delivery(1 + int rand 10);
	sleep rand 0.25;
	return ($processor, undef);
}

my %crashes = ('killed' => \&kill_backend, 'stopped' => \&stop_immediately);
for my $crash (sort keys %crashes)
{
	my $act = $crashes{$crash};
	crash_round("queued, $crash", $act, \&queued);
	crash_round("sent, $crash", $act, sub { sent('silent') });
	crash_round("sent and carried out, $crash", $act, sub { sent('silent;act') });
	crash_round("answered, $crash", $act, sub { answered(0) });
	crash_round("half settled, $crash", $act, sub { answered(2) });
	crash_round("at random $_, $crash", $act, \&at_random) for 1 .. 6;
}

# What is prepared is neither deleted nor kept before somebody decides, which may
# be after a crash.
{
	my $session = SendkitTest::Session->new($node);
	my @ids = new_ids(2, '');
	for my $i (0, 1)
	{
		$session->query('BEGIN');
		delete_ids($session, $ids[$i]);
		is($session->query("PREPARE TRANSACTION 'p$i'")->{sqlstate}, '00000', 'prepared');
	}
	$session->quit;
	crash_round('prepared, stopped', \&stop_immediately, \&queued);
	is(@{ $api->requests(id => $_) }, 0, 'nothing is sent that is only prepared') for @ids;
	$node->safe_psql('postgres', "COMMIT PREPARED 'p0'");
	$node->safe_psql('postgres', "ROLLBACK PREPARED 'p1'");
	$deleted{ $ids[0] } = 1;
	$kept{ $ids[1] } = 1;
	deliver_the_rest();
}

# --- and in the end ------------------------------------------------------------------

my %alive = %{ $api->control('GET', '/keys') };
my (%sent, %answered);
for my $request (@{ $api->control('GET', '/requests?fields=id,status') })
{
	$sent{ $request->{id} }++;
	push @{ $answered{ $request->{id} } }, $request->{status} // '-';
}
my %row;
for my $line (split /\n/, $node->safe_psql('postgres',
		'SELECT workspace_id, state, attempts, outcome FROM sendkit_revocation'))
{
	my ($id, $state, $attempts, $outcome) = split /\|/, $line;
	push @{ $row{$id} }, { state => $state, attempts => $attempts, outcome => $outcome };
}
note(sprintf '%d deleted, %d sent, %d more than once', scalar keys %deleted, scalar keys %sent,
	scalar grep { $sent{$_} > 1 } keys %sent);

sub none
{
	my ($name, @ids) = @_;
	return is(join(' ', sort @ids), '', $name);
}

cmp_ok(scalar keys %deleted, '>', 200, 'much was deleted');
none('every deleted workspace has one row', grep { @{ $row{$_} || [] } != 1 } keys %deleted);
none('no other workspace has a row', grep { !$deleted{$_} } keys %row);
none('every key is dead', grep { $alive{$_} // 1 } keys %deleted);
none('nothing was sent for those that were kept', grep { $sent{$_} } keys %kept);
none('nothing was sent that nobody asked for', grep { !$deleted{$_} } keys %sent);
none('every row is done, by an answer that says so',
	grep { $row{$_}[0]{state} ne 'done' || $row{$_}[0]{outcome} !~ /^(?:deleted|absent)$/ } keys %row);
none('each attempt was counted before it was sent', grep { $sent{$_} > $row{$_}[0]{attempts} } keys %sent);
none('those called absent had been deleted by an earlier attempt',
	grep { $row{$_}[0]{outcome} eq 'absent' && $sent{$_} < 2 } keys %row);
none('those called deleted were, by the last attempt',
	grep { $row{$_}[0]{outcome} eq 'deleted' && $answered{$_}[-1] ne '200' } keys %row);
none('what was settled before a crash was not sent after it',
	grep { $sent{$_} != $settled{$_} } keys %settled);

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal (?!9\b)/, 'nothing crashed but what was killed');
ok_key_not_logged($node);

$node->stop;
done_testing();
