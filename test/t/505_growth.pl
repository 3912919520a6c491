# A queue with a long history is as quick as an empty one.
#
# A million finished revocations lie beside a few that are due. Nothing is timed: what
# is read of the table and its indexes is counted, by the server's own statistics.

use strict;
use warnings;

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

# What has been read: scans of the whole table, entries of each index, rows updated
sub counted
{
	my %count;
	($count{seq_scan}, $count{all}, $count{hot}) = split /\|/,
	  sql("SELECT seq_scan, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sendkit_revocation'");
	foreach (split /\n/, sql("SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes WHERE relname = 'sendkit_revocation'"))
	{
		my ($index, $read) = split /\|/;
		$count{ $index =~ s/^sendkit_revocation_//r } = $read;
	}
	return \%count;
}

# Delivers what is due, two at a time, and returns what was read meanwhile.
sub counted_delivery
{
	my ($due) = @_;
	my $before = counted();
	sql('SET sendkit.max_concurrency = 1; CALL sendkit_process_revocations()');
	my $after;
	wait_until(sub { $after = counted(); $after->{all} >= $before->{all} + 2 * $due },
		'each row has been updated twice, and is counted');
	return { map { $_ => $after->{$_} - $before->{$_} } keys %$after };
}

sub check_delivery
{
	my ($name, $due) = @_;
	my $read = counted_delivery($due);

	is($read->{seq_scan}, 0, "$name: the table is never read as a whole");
	cmp_ok($read->{due_idx}, '<', 20 * $due, "$name: claims read little of the index of what is due");
	is($read->{"${_}_idx"}, 0, "$name: and nothing of the history ($_)") for qw(notable finished workspace);
	cmp_ok($read->{pkey}, '<=', 3 * $due, "$name: rows are settled by number");
	note(join ', ', map { "$_ $read->{$_}" } sort keys %$read);
	return;
}

# What is due lies before the history, and behind it.
sql("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
	CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY')");
requested('before', 30);
sql("INSERT INTO sendkit_revocation (workspace_id, state, requested_by, attempts, claimed_at, finished_at,
		outcome, status, message)
	SELECT 'old-' || i, CASE WHEN i % 100 = 0 THEN 'failed' ELSE 'done' END, 'nobody', 1, now(), now(),
		CASE WHEN i % 100 = 0 THEN 'rejected' ELSE 'deleted' END, 200, 'API key deleted'
	FROM generate_series(1, $HISTORY) i");
requested('behind', 30);
is(sql('SELECT count(*) FROM sendkit_revocation'), $HISTORY + 60, 'a long history');
is(sql("SELECT pg_relation_size('sendkit_revocation_due_idx') <= 2 * current_setting('block_size')::int"), 't',
	'the index of what is due does not know of it');

check_delivery('without statistics', 60);

# A claim leaves the indexes alone: the new version goes to the same page, where
# there is room. Settling takes the row out of the index.
requested('bulk', 1000);
my $bulk = counted_delivery(1000);
note("$bulk->{hot} of 1,000 claims were heap-only");
cmp_ok($bulk->{hot}, '>=', 900, 'claims leave the indexes alone');

sql('VACUUM (ANALYZE) sendkit_revocation');
requested('analyzed', 60);
check_delivery('with statistics', 60);

# While somebody looks at the past (a dump, a report), what has been settled can't
# be removed from the index. A claim has to begin where the last one ended, or a
# large removal takes a time that grows with its square.
{
	my $session = SendkitTest::Session->new($node);
	$session->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$session->query('SELECT count(*) FROM sendkit_revocation WHERE id < 10');
	sql('VACUUM sendkit_revocation');
	requested('watched', 400);
	my $read = counted_delivery(400)->{due_idx};
	note("$read entries");
	cmp_ok($read, '<', 20 * 400, 'with an old snapshot: a claim does not read what was settled before');
	$session->quit;
}

is(sql('SELECT count(*) FROM sendkit_revocation WHERE finished_at IS NULL'), '0', 'nothing is left');
$node->stop;
done_testing();
