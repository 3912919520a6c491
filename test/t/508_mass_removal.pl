# However many workspaces one statement removes, one at a time is in memory, and the
# statement can be interrupted.
#
# Ids are uuids, whose text is made by a function that takes a kilobyte for each.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $ROWS = 200_000;

my $api = SendkitStandin->start;
my $node = start_node($api,
	conf => "fsync = off\nsynchronous_commit = off\nautovacuum = off\nmax_wal_size = 4GB\n");
my $watcher = SendkitTest::Session->new($node);

my %forms = (
	'FOR EACH ROW' => 'FOR EACH ROW',
	'FOR EACH STATEMENT' => 'REFERENCING OLD TABLE AS removed FOR EACH STATEMENT');
foreach my $form (sort keys %forms)
{
	$watcher->query(<<"SQL");
DROP TABLE IF EXISTS workspace;
TRUNCATE sendkit_revocation;
CREATE TABLE workspace (id uuid);
CREATE TRIGGER revoke AFTER DELETE ON workspace $forms{$form} EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace SELECT gen_random_uuid() FROM generate_series(1, $ROWS);
SQL
	my $session = SendkitTest::Session->new($node);
	my $pid = $session->pid;
	$session->value('SELECT count(*) FROM workspace');
	my $before = memory_kb($pid);

	# It is found in the trigger by the sequence, of which nothing is rolled back.
	my $numbers = 'SELECT last_value FROM sendkit_revocation_id_seq';
	my $first = $watcher->value($numbers);
	$session->send('DELETE FROM workspace');
	wait_until(sub { $watcher->value($numbers) > $first + $ROWS / 20 }, 'it is in the trigger');
	my $begin = time();
	$watcher->value("SELECT pg_cancel_backend($pid)");
	is($session->result->{sqlstate}, '57014', "$form: is cancelled");
	cmp_ok($watcher->value($numbers), '<', $first + $ROWS, "$form: amid its rows");
	prompt(time() - $begin, $form);
	is($watcher->value('SELECT count(*) FROM sendkit_revocation'), '0', "$form: nothing is queued");

	my $most = $before;
	my $active = "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND state = 'active'";
	$session->send('DELETE FROM workspace');
	wait_until(sub { $watcher->value($active) }, 'it has begun');
	while ($watcher->value($active))
	{
		my $now = memory_kb($pid);
		$most = $now if $now > $most;
		sleep 0.02;
	}
	is($session->result->{sqlstate}, '00000', "$form: all are removed");
	is($watcher->value('SELECT count(DISTINCT workspace_id) FROM sendkit_revocation'), $ROWS, "$form: and queued");
	SKIP:
	{
		skip 'memory is not plain', 1 unless memory_is_plain($pid);
		note("$form: from $before to $most kB");
		cmp_ok($most - $before, '<', 50_000, "$form: in bounded memory");
	}
	$session->quit;
}

$watcher->quit;
$node->stop;
done_testing();
