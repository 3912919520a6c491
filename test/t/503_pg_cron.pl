# The pattern of the README, with the real pg_cron: a trigger on the table of
# workspaces, and a job that calls the procedure.
#
# What matters is what pg_cron does differently from a psql: whether CALL is
# allowed to commit there (by libpq, its default, and by background workers), a
# session per run, a role that is no superuser, and jobs that overlap. Jobs are
# scheduled for the server's start, which every version of pg_cron knows, so that
# nobody has to wait for the next minute; from 1.5 on also for every second.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start;
my $node = start_node($api, conf => "fsync = off\n");

plan skip_all => 'pg_cron is not installed'
  if $node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'") eq '0';

$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'pg_cron'\n"
	  . "cron.database_name = 'postgres'\n"
	  . "cron.host = '" . $node->host . "'\n");
$node->restart;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub remove_workspaces
{
	my ($ids) = @_;
	sql("SET ROLE shop; DELETE FROM workspace WHERE id LIKE '$ids'");
	return;
}

# Schedules for the next start, as this role, or as the superuser if there is none;
# restarts, and waits until all these have run.
my $job = 0;

sub run_jobs
{
	my ($role, @commands) = @_;
	my $become = defined $role ? "SET ROLE $role; " : '';
	my @ids = map { sql($become . "SELECT cron.schedule('job " . ++$job . "', '\@reboot', " . literal($_) . ')') } @commands;
	my $ids = join ', ', @ids;

	$node->restart;
	wait_until(
		sub { sql("SELECT count(DISTINCT jobid) FROM cron.job_run_details WHERE jobid IN ($ids) AND status IN ('succeeded', 'failed')") == @ids },
		'the jobs are done');
	sql("SELECT cron.unschedule(jobid) FROM cron.job WHERE jobid IN ($ids)");
	return sql("SELECT string_agg(status || ': ' || return_message, E'\\n' ORDER BY jobid) FROM cron.job_run_details WHERE jobid IN ($ids)");
}

sub states
{
	return sql("SELECT string_agg(state || ' ' || revocations, ', ') FROM sendkit_revocation_summary WHERE revocations > 0");
}

my $CALL = 'CALL sendkit_process_revocations()';

sql(<<"SQL");
CREATE EXTENSION pg_cron;

CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TRIGGER revoke_api_key AFTER DELETE ON workspace
	FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace SELECT kind || '-' || i FROM unnest(ARRAY['first', 'second', 'third', 'fourth', 'fifth', 'kept']) kind,
	generate_series(10, 49) i;

-- the application, which may remove workspaces, and the one that revokes keys
CREATE ROLE shop;
GRANT SELECT, DELETE ON workspace TO shop;
CREATE ROLE revoker LOGIN;
GRANT USAGE ON SCHEMA cron TO revoker;
GRANT EXECUTE ON PROCEDURE sendkit_process_revocations() TO revoker;
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
GRANT USAGE ON FOREIGN SERVER sendkit TO revoker;
SQL

# A job without a key
remove_workspaces('first-%');
like(run_jobs('revoker', $CALL), qr/^failed: ERROR: .*platform key/,
	'pg_cron shows the error of a job that finds no key');
is(states(), 'pending 40', 'which loses nothing');

# A job with one
sql("CREATE USER MAPPING FOR revoker SERVER sendkit OPTIONS (platform_key '$KEY')");
is(run_jobs('revoker', $CALL), 'succeeded: CALL', 'a job of a role that is no superuser succeeds');
is(states(), 'done 40', 'it has delivered all revocations');
is((grep { $api->key_alive("first-$_") } 10 .. 49), 0, 'the keys are gone');
is($api->stats->{requests}{total}, 40, 'and no other was asked for');

# By background workers
$node->append_conf('postgresql.conf', "cron.use_background_workers = on\nmax_worker_processes = 20\n");
$node->restart;
remove_workspaces('second-%');
like(run_jobs('revoker', $CALL), qr/^succeeded: /, 'a job in a background worker succeeds');
is(states(), 'done 80', 'it has delivered');
is((grep { $api->key_alive("second-$_") } 10 .. 49), 0, 'the keys are gone');
$node->append_conf('postgresql.conf', "cron.use_background_workers = off\n");

# Jobs that overlap: one request at a time each, 4 s of work for one of them. The
# restart between the request and the run makes them start together.
$api->reset;
$api->control('POST', '/default', { directives => 'delay=0.1' });
sql('ALTER ROLE revoker SET sendkit.max_concurrency = 1');
remove_workspaces('third-%');
is(run_jobs('revoker', $CALL, $CALL), "succeeded: CALL\nsucceeded: CALL", 'two jobs at a time succeed');
is(states(), 'done 120', 'they have delivered');
{
	my (%requests, %connections);
	foreach my $request (@{ $api->requests })
	{
		$requests{ $request->{id} }++;
		$connections{ $request->{connection} }++;
	}
	is(scalar keys %requests, 40, 'all keys were asked for');
	is_deeply([ grep { $requests{$_} != 1 } sort keys %requests ], [], 'each of them once');
	is(scalar keys %connections, 2, 'and both jobs had a share in it');
}
sql('ALTER ROLE revoker RESET ALL');
$api->reset;

# A failed revocation is no failed job: one has to look at the summary.
sql("INSERT INTO workspace VALUES ('fourth;status=403')");
remove_workspaces('fourth%');
is(run_jobs('revoker', $CALL), 'succeeded: CALL', 'a job that meets a rejected one succeeds');
is(states(), 'failed 1, done 160', 'the summary shows it');

# The line that keeps the history short
sql("UPDATE sendkit_revocation SET finished_at = now() - interval '29 days' WHERE workspace_id LIKE 'first-%';
	UPDATE sendkit_revocation SET finished_at = now() - interval '31 days' WHERE workspace_id LIKE 'second-%' OR state = 'failed'");
like(run_jobs(undef, "DELETE FROM sendkit_revocation WHERE state = 'done' AND finished_at < now() - interval '30 days'"),
	qr/^succeeded: DELETE 40/, 'a job removes what was done long ago');
is(states(), 'failed 1, done 120', 'and nothing else');

# A check tells of a job, but not what else is in its command.
my $delivery = "SET sendkit.auto_deliver = off; SET sendkit.base_url = 'http://127.0.0.1:1';"
  . " SELECT ok, detail FROM sendkit_check() WHERE step = 'delivery'";
like(sql($delivery), qr/^\|whoever calls/, 'a check finds no job');
sql("SET ROLE revoker; SELECT cron.schedule('for the check', '0 3 * * *', '$CALL -- hush')");
is(sql($delivery), 't|pg_cron, "0 3 * * *", as role "revoker"', '... and then one');
sql("UPDATE cron.job SET active = false WHERE jobname = 'for the check'");
like(sql($delivery), qr/^\|whoever calls/, '... and none that is switched off');
sql("SET ROLE revoker; SELECT cron.unschedule('for the check')");

# Again and again
SKIP:
{
	my ($major, $minor) = sql("SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'") =~ /^(\d+)\.(\d+)/;
	skip 'pg_cron before 1.5 has no interval below a minute', 3
	  if $major == 1 && $minor < 5;

	sql("SET ROLE revoker; SELECT cron.schedule('revoke API keys', '1 second', '$CALL')");
	remove_workspaces('fifth-1%');
	wait_until(sub { states() eq 'failed 1, done 130' }, 'the job has run');
	pass('a job for every second runs');
	remove_workspaces('fifth-%');
	wait_until(sub { states() eq 'failed 1, done 160' }, 'the job has run again');
	is((grep { $api->key_alive("fifth-$_") } 10 .. 49), 0, 'and again');
	sql("SET ROLE revoker; SELECT cron.unschedule('revoke API keys')");
	is(sql("SELECT count(*) FROM cron.job_run_details WHERE status = 'failed' AND start_time > now() - interval '1 minute'"
		  . " AND command = '$CALL' AND return_message !~ 'platform key'"), '0', 'without a failure');
}

is((grep { !$api->key_alive("kept-$_") } 10 .. 49), 0, 'workspaces that stay keep their keys');
ok_key_not_logged($node);
$node->stop;
done_testing();
