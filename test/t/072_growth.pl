# A queue with a long history is as quick as an empty one.
#
# A million finished revocations lie beside a few that are due. The plans are
# those that the procedure really runs, taken from auto_explain, with the first
# rounds planned for their values and later ones for any, and both with and
# without statistics of the table. Nothing is timed: what is read is counted.

use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $HISTORY = 1_000_000;

my $api = SendkitStandin->start;
my $node = start_node($api,
	conf => "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nmax_wal_size = 4GB\n"
	  . "wal_level = minimal\nmax_wal_senders = 0\nshared_buffers = 256MB\nautovacuum = off\njit = on\n");

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub requested
{
	my ($prefix, $count) = @_;
	sql("SELECT count(sendkit_request_revocation('$prefix-' || i)) FROM generate_series(1, $count) i");
	return;
}

# All nodes of a plan
sub nodes
{
	my ($plan) = @_;
	return ($plan, map { nodes($_) } @{ $plan->{Plans} || [] });
}

# Delivers what is due, two at a time, and returns the plans of the statements
# on the queue that were run.
sub plans_of_delivery
{
	my $seen = -s $node->logfile;
	sql("LOAD 'auto_explain';
		SET auto_explain.log_min_duration = 0;
		SET auto_explain.log_nested_statements = on;
		SET auto_explain.log_analyze = on;
		SET auto_explain.log_timing = off;
		SET auto_explain.log_buffers = on;
		SET auto_explain.log_format = json;
		SET sendkit.max_concurrency = 1;
		CALL sendkit_process_revocations()");
	my $log = substr slurp_file($node->logfile), $seen;
	my @plans = map { JSON::PP->new->decode($_) } $log =~ /plan:\n(\s*\{.*?^\s*\})\n(?=\S|\z)/msg;
	return grep { $_->{'Query Text'} =~ /sendkit_revocation r / } @plans;
}

# How often a plan says something, and where it does
sub count_nodes
{
	my ($plans, $condition) = @_;
	return scalar grep { $condition->() } map { nodes($_->{Plan}) } @$plans;
}

sub most_pages
{
	my ($most) = sort { $b <=> $a } map { $_->{Plan}{'Shared Hit Blocks'} + $_->{Plan}{'Shared Read Blocks'} } @_;
	return $most;
}

sub check_plans
{
	my ($name, $due) = @_;
	my @plans = plans_of_delivery();
	my @claims = grep { $_->{'Query Text'} =~ /SKIP LOCKED/ } @plans;
	my @settles = grep { $_->{'Query Text'} !~ /SKIP LOCKED/ } @plans;

	# from the sixth on, a plan can be generic
	cmp_ok(scalar @claims, '>=', 10, "$name: many claims");
	is(scalar @settles, $due, "$name: all are settled");

	is(count_nodes([@plans], sub { $_->{'Node Type'} eq 'Seq Scan' && $_->{'Relation Name'} }), 0,
		"$name: the table is never read as a whole");
	is(count_nodes([@claims], sub { ($_->{'Index Name'} || '') eq 'sendkit_revocation_due_idx' }), scalar @claims,
		"$name: each claim uses the index of what is due");
	is(count_nodes([@plans], sub { ($_->{'Index Name'} || '') eq 'sendkit_revocation_pkey' }), scalar @plans,
		"$name: and all find their rows by number");

	my $most = most_pages(@plans);
	my $pages = sql('SELECT pg_relation_size(\'sendkit_revocation\') / current_setting(\'block_size\')::int');
	note("$name: " . @claims . " claims; at most $most of $pages pages in one statement");
	cmp_ok($most, '<', $pages / 50, "$name: a statement sees next to nothing of the table");
	return;
}

# What is due lies before the history, and behind it.
sql("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
	CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY')");
requested('before', 30);
sql("INSERT INTO sendkit_revocation (workspace_id, state, requested_by, attempts, claimed_at, finished_at,
		outcome, status, message, system_identifier, database_oid)
	SELECT 'old-' || i, CASE WHEN i % 100 = 0 THEN 'failed' ELSE 'done' END, 'nobody', 1, now(), now(),
		CASE WHEN i % 100 = 0 THEN 'rejected' ELSE 'deleted' END, 200, 'API key deleted', r.system_identifier, r.database_oid
	FROM generate_series(1, $HISTORY) i,
		(SELECT system_identifier, database_oid FROM sendkit_revocation LIMIT 1) r");
requested('behind', 30);
is(sql('SELECT count(*) FROM sendkit_revocation'), $HISTORY + 60, 'a long history');
is(sql("SELECT pg_relation_size('sendkit_revocation_due_idx') <= 2 * current_setting('block_size')::int"), 't',
	'the index of what is due does not know of it');

check_plans('without statistics', 60);

# A claim leaves the indexes alone: the new version goes to the same page, where
# there is room. Settling takes the row out of the index.
sub updates
{
	return split /\|/,
	  sql("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sendkit_revocation'");
}
{
	my ($all, $hot);

	# 14 reports statistics late
	wait_until(sub { ($all, $hot) = updates(); $all == 120 }, 'all updates up to now are counted');
	my $before = $hot;
	requested('bulk', 1000);
	sql('CALL sendkit_process_revocations()');
	wait_until(sub { ($all, $hot) = updates(); $all == 2120 }, 'each row has been updated twice');
	$hot -= $before;
	note("$hot of 1,000 claims were heap-only");
	cmp_ok($hot, '>=', 900, 'claims leave the indexes alone');
}

sql('VACUUM (ANALYZE) sendkit_revocation');
requested('analyzed', 60);
check_plans('with statistics', 60);

# While somebody looks at the past (a dump, a report), what has been settled can't
# be removed from the index. A claim has to begin where the last one ended, or a
# large removal takes a time that grows with its square.
{
	my $session = SendkitTest::Session->new($node);
	$session->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$session->query('SELECT count(*) FROM sendkit_revocation WHERE id < 10');
	sql('VACUUM sendkit_revocation');
	requested('watched', 400);
	my $most = most_pages(plans_of_delivery());
	note("$most pages");
	cmp_ok($most, '<', 200, 'with an old snapshot: a claim does not read what was settled before');
	$session->quit;
}

is(sql('SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL'), '0', 'nothing is left');
$node->stop;
done_testing();
