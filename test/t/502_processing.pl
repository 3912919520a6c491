# CALL sendkit_process_revocations(), seen from outside: several sessions at once,
# what it holds while it waits, what becomes of its work when it is interrupted,
# when what failed is tried again, an API that is down or has had enough, claims
# that lost their process, a standby, and the extension dropped beneath it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start;
my $node = start_node($api,
	conf => "sendkit.max_retries = 0\n",
	init => [ allows_streaming => 1 ]);
my $PREPARE = <<"EOS";
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY');
EOS
$node->safe_psql('postgres', $PREPARE);
my $CALL = 'CALL sendkit_process_revocations()';
my $sql = SendkitTest::Session->new($node);

# Asks for these, to be delivered in this order.
sub ask
{
	my (@ids) = @_;
	my $list = join ', ', map { "'$_'" } @ids;
	$sql->value("SELECT count(sendkit_request_revocation(id)) FROM unnest(ARRAY[$list]) id");
	my $n = 0;
	$sql->query("UPDATE sendkit_revocation SET next_attempt_at = now() - interval '1 minute' + "
		  . ++$n . " * interval '1 ms' WHERE workspace_id = '$_'")
	  for @ids;
	return;
}

# Rows as "id state attempts outcome", in order.
sub rows
{
	return $sql->query("SELECT concat_ws(' ', split_part(workspace_id, ';', 1), state, attempts, outcome) "
		  . 'FROM sendkit_revocation ORDER BY next_attempt_at, id')->{rows};
}

sub fresh_start
{
	$sql->query('TRUNCATE sendkit_revocation');
	$api->reset;
	return;
}

sub due_now
{
	$sql->query("UPDATE sendkit_revocation SET next_attempt_at = now() WHERE state = 'pending'");
	return;
}

sub processor
{
	my (%set) = @_;
	my $session = SendkitTest::Session->new($node);
	$session->query("SET sendkit.$_ = '$set{$_}'") for sort keys %set;
	return $session;
}

sub sent
{
	my %count;
	$count{ $_->{id} }++ for @{ $api->requests };
	return \%count;
}

# --- several at once ---------------------------------------------------------------

{
	$api->control('POST', '/default', { directives => 'delay=0.005' });
	$sql->value("SELECT count(sendkit_request_revocation('shared-' || i)) FROM generate_series(1, 600) i");
	my @sessions = map { processor(max_concurrency => 4) } 1 .. 5;
	# (a database may have such a default)
	$sessions[0]->query("SET default_transaction_isolation = 'serializable'");
	$sessions[1]->query("SET default_transaction_isolation = 'repeatable read'");
	$_->send($CALL) for @sessions;
	my @results = map { $_->result } @sessions;
	is(join(' ', map { $_->{sqlstate} } @results), '00000 00000 00000 00000 00000', 'five at once');
	is(join(' ', map { $_->{stderr} } @results), '    ', '... without a word');
	is($sql->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done' AND attempts = 1 AND outcome = 'deleted'"),
		'600', '... deliver all');
	my $sent = sent();
	is(scalar keys %$sent, 600, 'each id was sent');
	is((grep { $_ > 1 } values %$sent), 0, '... once');
	cmp_ok($api->stats->{connections}{total}, '>=', 5, '... by all of them');
	fresh_start();
}

# --- what it holds while it waits -----------------------------------------------------

{
	ask('waits-1;silent', 'waits-2;silent', 'quick');
	my $processor = processor();
	$processor->send($CALL);
	$api->wait_for_requests(3);
	wait_until(sub { rows()->[2] =~ /done/ }, 'the quick one is settled');
	$sql->wait_for_wait($processor);
	my $pid = $processor->pid;
	is($sql->value("SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = $pid"),
		't', 'it holds no snapshot while requests are in flight');
	is($sql->value("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype NOT IN ('virtualxid', 'advisory')"),
		'0', '... and no lock but the one that tells that it lives');
	is($sql->query('BEGIN; LOCK TABLE sendkit_revocation IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT')->{sqlstate},
		'00000', '... so that nobody has to wait for it');
	$sql->value("SELECT pg_cancel_backend($pid)");
	$processor->result;
	fresh_start();
}

# --- interrupted ------------------------------------------------------------------------

my %interrupt = (
	cancelled => [ '57014', sub { $sql->value("SELECT pg_cancel_backend($_[0])") } ],
	terminated => [ '57P01', sub { $sql->value("SELECT pg_terminate_backend($_[0])") } ]);
for my $how (sort keys %interrupt)
{
	my ($sqlstate, $act) = @{ $interrupt{$how} };

	# Two in flight at a time, four claimed at a time: when the first was answered,
	# more were claimed than can be sent.
	ask('quick', 'silent-1;silent', 'silent-2;silent', map { "later-$_" } 1 .. 4);
	my $processor = processor(max_concurrency => 2);
	$processor->send($CALL);
	$api->wait_for_requests(3);
	wait_until(sub { 4 <= grep { / sending / } @{ rows() } }, 'more were claimed');
	$sql->wait_for_wait($processor);
	my $at = $sql->value('SELECT clock_timestamp()');
	my $begin = time();
	$act->($processor->pid);
	is($processor->result->{sqlstate}, $sqlstate, "$how");
	wait_until(sub { $sql->value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid = " . $processor->pid) == 0 },
		'it is over');
	prompt(time() - $begin, $how);

	my %row = map { /^(\S+) (.*)/ } @{ rows() };
	is($row{quick}, 'done 1 deleted', "$how: what was answered is done");
	is($row{"silent-$_"}, 'pending 1 unknown', "$how: what was in flight is to be tried again") for 1, 2;
	is($row{"later-$_"}, 'pending 0', "$how: what was not sent is back, as it was") for 1 .. 4;
	is($sql->value("SELECT count(*) FROM sendkit_revocation WHERE next_attempt_at <= clock_timestamp() AND state = 'pending' AND workspace_id LIKE 'later%'"),
		'4', '... and due at once');
	is($sql->value("SELECT count(*) FROM sendkit_revocation WHERE next_attempt_at >= '$at'::timestamptz + interval '1 s'"
			. " AND claimed_at IS NULL AND message LIKE '%may or may not have been deleted'"),
		'2', 'the others after a while');
	is(scalar @{ $api->requests }, 3, "$how: nothing else was sent");
	is($sql->query($CALL)->{sqlstate}, '00000', "$how: the next one works");
	is(join(' ', sort map { /^(\S+) done/ } @{ rows() }), 'later-1 later-2 later-3 later-4 quick',
		"$how: ... and delivers what was left");
	$processor->quit;
	fresh_start();
}

# Answers that have come are entered into the books, whatever happens meanwhile. A
# row that somebody holds is left out, and is due again.
for my $how (sort keys %interrupt)
{
	my ($sqlstate, $act) = @{ $interrupt{$how} };
	ask('answered-1;delay=0.5', 'held;delay=0.5', 'answered-2;delay=0.5');
	my $processor = processor();
	my $keeper = SendkitTest::Session->new($node);
	$processor->send($CALL);
	$api->wait_for_requests(3);
	$keeper->query("BEGIN; SELECT 1 FROM sendkit_revocation WHERE workspace_id LIKE 'held%' FOR UPDATE");
	wait_until(sub { 2 == grep { /^answered.* done 1 deleted/ } @{ rows() } }, 'the others are settled');
	pass("$how: a row that somebody holds does not delay the others");
	$sql->value("SELECT count(sendkit_request_revocation('meanwhile'))");
	wait_until(sub { grep { /^meanwhile done/ } @{ rows() } }, 'one that comes meanwhile is delivered');
	pass("$how: ... nor those that come meanwhile");
	my $begin = time();
	$act->($processor->pid);
	is($processor->result->{sqlstate}, $sqlstate, "$how while it waits for the row");
	prompt(time() - $begin, $how);
	wait_until(sub { $sql->value('SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $processor->pid . " AND state = 'active'") == 0 }, 'it is over');
	$keeper->query('ROLLBACK');
	is(join(', ', grep { /^held/ } @{ rows() }), 'held sending 1', '... which nobody is sending any more');
	$sql->query($CALL);
	is(join(', ', grep { /^held/ } @{ rows() }), 'held done 2 absent', '... so that it is due at once');
	$_->quit for $processor, $keeper;
	fresh_start();
}

# One that stays locked is given up in the end, and then is another's.
{
	ask('held;delay=0.5');
	my $processor = processor();
	my $keeper = SendkitTest::Session->new($node);
	$processor->send($CALL);
	$api->wait_for_requests(1);
	$keeper->query("BEGIN; SELECT 1 FROM sendkit_revocation FOR UPDATE");
	is($processor->result->{sqlstate}, '00000', 'a call ends although somebody holds a row');
	$keeper->query('ROLLBACK');
	$sql->query($CALL);
	is(join(', ', @{ rows() }), 'held done 2 absent', '... which does not keep it');
	$_->quit for $processor, $keeper;
	fresh_start();
}

# One whose not_after passes between the answer and the books isn't put off.
{
	my $keeper = SendkitTest::Session->new($node);
	my $processor = processor();
	$sql->query("SELECT sendkit_request_revocation('late;delay=0.3;status=500', clock_timestamp() + interval '3 s')");
	$processor->send($CALL);
	$api->wait_for_requests(1);
	$keeper->query("BEGIN; SELECT 1 FROM sendkit_revocation FOR UPDATE");
	wait_until(sub { $sql->value('SELECT count(*) FROM sendkit_revocation WHERE not_after < clock_timestamp()') == 1 },
		'it is too late');
	$keeper->query('ROLLBACK');
	my $result = $processor->result;
	is($result->{sqlstate}, '00000', 'not_after passes before the answer is in the books');
	like($result->{stderr}, qr/WARNING: .*could not revoke the API key of workspace "late/, '... which is told');
	is(join(', ', sort @{ rows() }), 'late failed 1 unknown', '... and not tried again');
	$_->quit for $processor, $keeper;
	fresh_start();
}

# The number of a claimed row may be another row's before the answer comes.
{
	ask('old;delay=1');
	my $processor = processor();
	$processor->send($CALL);
	$api->wait_for_requests(1);
	$sql->query('TRUNCATE sendkit_revocation RESTART IDENTITY');
	$sql->query('DISCARD SEQUENCES');
	# at once, or it would be claimed
	$sql->query("BEGIN; SELECT sendkit_request_revocation('new', 'infinity');
		UPDATE sendkit_revocation SET state = 'sending', attempts = 1, next_attempt_at = now() + interval '1 hour'; COMMIT");
	is($processor->result->{sqlstate}, '00000', 'the queue is emptied while a request is in flight');
	is(join(', ', @{ rows() }), 'new sending 1', '... and its answer is not taken for another row\'s');
	$processor->quit;
	fresh_start();
}

# --- the key ---------------------------------------------------------------------------------

{
	ask(map { "refused-$_" } 1 .. 150);
	$sql->query("ALTER USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (SET platform_key 'sk_user_unknown')");
	my $result = $sql->query($CALL);
	is($result->{sqlstate}, '28000', 'a key that the API does not know is an error');
	is((grep { / pending / } @{ rows() }), 150, '... and costs no row');
	cmp_ok(scalar @{ $api->requests }, '<', 100, '... nor a request for each');

	# replaced while it works
	$api->reset;
	$api->control('POST', '/default', { directives => 'delay=0.05' });
	$sql->query("ALTER USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (SET platform_key '$KEY')");
	$sql->value("SELECT count(sendkit_request_revocation('more-' || i)) FROM generate_series(1, 400) i");
	my $processor = processor(max_concurrency => 10);
	$processor->send($CALL);
	$api->wait_for_requests(50);
	$sql->query("ALTER USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (SET platform_key 'sk_user_the_next')");
	$result = $processor->result;
	is($result->{sqlstate} . $result->{stderr}, '00000', 'a key that is replaced while a call works');
	is((grep { / done / } @{ rows() }), 550, '... takes over');
	my %sent;
	$sent{ (join ' ', map { @$_ } @{ $_->{headers} }) =~ /(sk_user_\w+)/ ? $1 : '' }++ for @{ $api->requests };
	cmp_ok($sent{sk_user_the_next} // 0, '>', 200, '... at once');
	$sql->query("ALTER USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (SET platform_key '$KEY')");
	$processor->quit;
	fresh_start();
}

# --- what a call says ----------------------------------------------------------------------------

{
	ask('overdue;status=500');
	$sql->query("UPDATE sendkit_revocation SET requested_at = now() - interval '11 minutes', next_attempt_at = now() + interval '1 hour'");
	my $result = $sql->query($CALL);
	is($result->{sqlstate}, '00000', 'a revocation that is put off for an hour');
	like($result->{stderr}, qr/WARNING: .*1 revocations? (?:is|are) overdue/, '... is overdue, and the call says so');
	fresh_start();

	ask(map { "absent-$_" } 1 .. 9);
	like($sql->query($CALL)->{stderr}, qr/WARNING: .*knew of no key for any of the 9 workspaces/,
		'when the API knows none of the workspaces, the call says so');
	fresh_start();
	ask('present', map { "absent-$_" } 1 .. 9);
	is($sql->query($CALL)->{stderr}, '', '... not if it knows one');
	fresh_start();
}

# --- tried again, and when ----------------------------------------------------------------

{
	my @attempts = (1, 2, 3, 5, 8, 12, 13, 14, 31, 40, 1000);
	ask(map { "backoff-$_;status=500" } @attempts);
	$sql->query("UPDATE sendkit_revocation SET attempts = substring(workspace_id FROM '-(\\d+);')::int - 1");
	my $before = $sql->value('SELECT extract(epoch FROM clock_timestamp())');
	$sql->query($CALL);
	my $after = $sql->value('SELECT extract(epoch FROM clock_timestamp())');
	for my $attempts (@attempts)
	{
		my ($state, $at) = split /\|/, $sql->value("SELECT state, extract(epoch FROM next_attempt_at) "
			  . "FROM sendkit_revocation WHERE attempts = $attempts");
		my $base = 2**($attempts > 31 ? 31 : $attempts) / 2;
		my ($least, $most) = $base < 3600 ? ($base, $base * 1.5) : (1800, 3600);
		$most = 3600 if $most > 3600;
		ok($state eq 'pending' && $at - $before >= $least && $at - $after <= $most,
			"after attempt $attempts: from $least to $most s")
		  || diag(sprintf '%s, %.3f to %.3f s', $state, $at - $after, $at - $before);
	}
	fresh_start();

	# Rows that fail together don't come again together.
	ask(map { "jitter-$_;status=500" } 1 .. 30);
	$sql->query('UPDATE sendkit_revocation SET attempts = 7');
	$sql->query($CALL);
	cmp_ok($sql->value('SELECT count(DISTINCT extract(epoch FROM next_attempt_at)::int) FROM sendkit_revocation'),
		'>', 12, 'rows that failed at once are tried again at many times');
	fresh_start();

	# The API may ask for more, up to an hour.
	foreach my $id ('patient;status=503;retry-after=200', 'eternal;status=503;retry-after=1000000')
	{
		ask($id);
		$sql->query($CALL);
	}
	is( join(' ', @{ $sql->query("SELECT split_part(workspace_id, ';', 1), outcome,"
			. ' extract(epoch FROM next_attempt_at - clock_timestamp()) BETWEEN 190 AND 200,'
			. ' extract(epoch FROM next_attempt_at - clock_timestamp()) BETWEEN 3590 AND 3600'
			. ' FROM sendkit_revocation ORDER BY id')->{rows} }),
		'patient|unavailable|t|f eternal|unavailable|f|t', 'Retry-After is heeded, up to an hour');
	fresh_start();
}

# --- an API that is down, or has had enough ------------------------------------------------

{
	ask(map { "down-$_" } 1 .. 10);
	$api->control('POST', '/stop');
	my $result = $sql->query($CALL);
	is($result->{sqlstate} . $result->{stderr}, '00000', 'an API that is down is no error');
	is((grep { / pending 1 (?:unavailable|unknown)$/ } @{ rows() }), 10, '... and everything waits');
	$api->control('POST', '/start');
	due_now();
	$sql->query($CALL);
	is((grep { / done 2 deleted$/ } @{ rows() }), 10, '... until it is up again');
	fresh_start();

	$api->control('POST', '/limit', { per_second => 0.001, burst => 5, retry_after => '3600', status => 429 });
	my @ids = map { "limited-$_" } 1 .. 200;
	ask(@ids);
	$sql->query('SET sendkit.max_concurrency = 4; SET sendkit.max_retries = 3');
	my $begin = time();
	is($sql->query($CALL)->{sqlstate}, '00000', 'one that has had enough isn\'t either');
	prompt(time() - $begin, 'it is left alone');
	my @rows = @{ rows() };
	is((grep { / done / } @rows), 5, 'what it took is done');
	is((grep { / pending / } @rows), 195, '... and nothing is lost');
	cmp_ok(scalar @{ $api->requests }, '<', 30, 'it was not asked about each of the others');
	cmp_ok((grep { / pending 0$/ } @rows), '>', 150, '... which were not even claimed');
	$sql->query('RESET sendkit.max_concurrency; RESET sendkit.max_retries');
	$api->control('POST', '/limit', {});
	due_now();
	$sql->query($CALL);
	is((grep { / done \d+ deleted$/ } @{ rows() }), 200, '... and when it may be asked again, all is done');
	fresh_start();
}

# --- claims of processes that are gone ---------------------------------------------------------

{
	ask('never', 'gone', 'just-now', 'future');
	my %age = (never => 'NULL', gone => "now() - interval '1 day'", 'just-now' => 'now()', future => "now() + interval '1 day'");
	$sql->query("UPDATE sendkit_revocation SET state = 'sending', attempts = 1, claimed_by = 1, claimed_at = $age{$_} "
		  . "WHERE workspace_id = '$_'") for keys %age;
	$sql->query($CALL);
	is((grep { / done 2 deleted$/ } @{ rows() }), 4, 'what nobody is sending any more is due at once');
	fresh_start();
}

# --- much history, and much to do ----------------------------------------------------------------

{
	$sql->query('INSERT INTO sendkit_revocation (workspace_id, state, requested_by, finished_at, outcome) '
		  . "SELECT 'old', 'done', 'x', now(), 'deleted' FROM generate_series(1, 30000)");
	$sql->query('VACUUM ANALYZE sendkit_revocation');
	$sql->value("SELECT count(sendkit_request_revocation('new-' || i)) FROM generate_series(1, 10) i");
	my $scans = sub {
		return split /\|/, $sql->value("SELECT t.seq_scan, i.idx_scan FROM pg_stat_user_tables t, pg_stat_user_indexes i "
			  . "WHERE t.relname = 'sendkit_revocation' AND i.indexrelname = 'sendkit_revocation_due_idx'");
	};
	# (statistics are complete when a session has ended)
	$sql->quit;
	$sql = SendkitTest::Session->new($node);
	my ($seq_before, $idx_before) = $scans->();
	my $processor = processor();
	is($processor->query($CALL)->{sqlstate}, '00000', 'beside a long history');
	$processor->quit;
	wait_until(sub { ($scans->())[1] > $idx_before }, 'statistics are there');
	is(($scans->())[0], $seq_before, '... what is due is found by the index alone');
	is($sql->value("SELECT count(*) FROM sendkit_revocation WHERE workspace_id LIKE 'new-%' AND outcome = 'deleted'"),
		'10', '... and delivered');
	fresh_start();
}

{
	my $light = SendkitStandin->start(args => ['--no-record']);
	my $processor = processor(base_url => $light->url('http'));
	# Memory while the call is still there: the last request isn't answered.
	my $deliver = sub {
		my ($name, $count) = @_;
		$sql->value("SELECT count(sendkit_request_revocation('$name-' || i)) FROM generate_series(1, $count) i");
		$sql->value("SELECT sendkit_request_revocation('$name-last;silent')");
		$processor->send($CALL);
		wait_until(sub { $sql->value("SELECT count(*) FROM sendkit_revocation WHERE state <> 'done'") == 1 },
			'all but the last are done');
		my $memory = memory_kb($processor->pid);
		$sql->value('SELECT pg_cancel_backend(' . $processor->pid . ')');
		$processor->result;
		is($sql->value("SELECT count(*) FROM sendkit_revocation WHERE outcome = 'deleted'"), $count,
			"$count are delivered");
		$sql->query('TRUNCATE sendkit_revocation');
		return $memory;
	};
	my $before = $deliver->('some', 2000);
	my $grown = $deliver->('many', 20000) - $before;
	note("$grown kB more");
	ok($grown < 1000 || !memory_is_plain($processor->pid),
		'twenty thousand in one call need no more memory than two thousand');
	$processor->quit;
	$light->stop;
	fresh_start();
}

# --- a standby, and its promotion ---------------------------------------------------------------

{
	ask('replicated-1', 'replicated-2');
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->start;
	ask('replicated-3');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));

	my $session = SendkitTest::Session->new($standby);
	my $result = $session->query($CALL);
	is($result->{sqlstate}, '25006', 'nothing is delivered on a standby');
	is(scalar @{ $api->requests }, 0, '... nothing at all');
	is($session->query("SELECT sendkit_request_revocation('no')")->{sqlstate}, '25006', '... nor asked for');
	is($session->value('SELECT count(*) FROM sendkit_revocation_summary'), '6', 'the summary can be read');
	$node->stop;
	$standby->promote;
	is($session->query($CALL)->{sqlstate}, '00000', 'after promotion the same session delivers');
	is($session->value("SELECT count(*) FROM sendkit_revocation WHERE state = 'done' AND outcome = 'deleted'"),
		'3', '... all that was asked for');
	is($session->query("SELECT sendkit_request_revocation('more')")->{sqlstate}, '00000', '... and takes more');
	$session->quit;
	$standby->stop;
	$sql->quit;
	$node->start;
	$sql = SendkitTest::Session->new($node);
	fresh_start();
}

# --- a message too long to be told whole is not cut within a character ----------------------------

for my $encoding ('UTF8', 'SQL_ASCII')
{
	my $encoded = start_node($api, name => $encoding, init => [ extra => ["--encoding=$encoding"] ]);
	$encoded->safe_psql('postgres', $PREPARE
		  . "; SELECT sendkit_request_revocation('refused;body=long-unauthorized')");
	my (undef, undef, $told) = $encoded->psql('postgres', $CALL);
	like($told, qr/(?:\xc3\xa9){50}/, "$encoding: a long message is told");
	my $decoded = $told;
	ok(utf8::decode($decoded), '... in whole characters') || diag($told);
	$encoded->stop;
}

# --- every index has every row that it is of, somebody's included ---------------------------------

SKIP:
{
	skip 'no amcheck', 1 if $sql->query('CREATE EXTENSION amcheck')->{sqlstate} ne '00000';
	$sql->query('CREATE INDEX ON sendkit_revocation (status) WHERE finished_at IS NOT NULL;'
		  . 'CREATE INDEX ON sendkit_revocation (workspace_id) WHERE finished_at IS NULL;'
		  . 'CREATE INDEX ON sendkit_revocation (requested_at)');
	ask('indexed', 'rejected;status=403', 'later;status=500');
	$sql->query($CALL);
	ask('new');
	is($sql->value(q{SELECT count(bt_index_check(indexrelid, true)) FROM pg_index
			WHERE indrelid = 'sendkit_revocation'::regclass}), 9,
		'no row is missing in any index');
	$sql->query('DROP EXTENSION amcheck');
	fresh_start();
}

# --- the extension is dropped while requests are in flight -----------------------------------------

{
	ask('dropped;silent', 'quick');
	my $processor = processor(request_timeout => '1500ms');
	$processor->send($CALL);
	wait_until(sub { rows()->[1] =~ /done/ }, 'the quick one is settled');
	my $begin = time();
	is($sql->query("SET lock_timeout = '10s'; DROP EXTENSION sendkit CASCADE")->{sqlstate}, '00000',
		'the extension is dropped while a request is in flight');
	my $result = $processor->result;
	is($result->{sqlstate}, '42P01', '... which its processor hears when it would settle') || diag($result->{stderr});
	is($processor->value('SELECT 1'), '1', '... and survives');
	is($sql->query('CREATE EXTENSION sendkit')->{sqlstate}, '00000', 'it is created again');
	$sql->query($PREPARE);
	ask('again');
	is($processor->query($CALL)->{sqlstate}, '00000', '... and the same session delivers');
	is(join(', ', @{ rows() }), 'again done 1 deleted', '... what is in the new queue');
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing has crashed');
ok_key_not_logged($node);
done_testing();
