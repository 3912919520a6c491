# What the README and doc/ tell to paste is pasted here, block by block, in the state
# that the text says: with a real psql, by the role that is named, the stand-in for
# an API.
#
# @walk has an entry for each fenced block, in their order. One that no entry knows
# fails the test, so that none can be added untried; what cannot be run here (it
# installs packages, say) is listed with its whole text. An output that is shown
# behind a block is what the block has to print.
#
# Where a block asks for the platform key it is typed at a terminal. "sudo -u" is
# played by a script that changes the home folder and the role, and afterwards the key
# must be in nobody's history.

use strict;
use warnings;

use Cwd qw(getcwd);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTerminal;
use SendkitTest;
use Test::More;

plan skip_all => "Perl's IO::Pty is not installed" unless SendkitTerminal->possible;
plan skip_all => 'bash is not installed' if system('bash -c :') != 0;

my $tree = getcwd();
my $folder = PostgreSQL::Test::Utils::tempdir();
my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, listener => 'https', deliver => 1,
	conf => "sendkit.worker_naptime = 1s\nmax_worker_processes = 20\n");
my $has_pg_cron =
  $node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'");
$node->append_conf('postgresql.conf', <<"CONF") if $has_pg_cron;
shared_preload_libraries = 'pg_cron'
cron.database_name = 'app'
cron.host = '@{[ $node->host ]}'
CONF
$node->restart;

# --- somebody at a terminal ----------------------------------------------------------

# What people have: home folders, with the histories of bash and psql in them.
mkdir "$folder/$_" or die "$folder/$_: $!" foreach qw(bin me postgres);
write_file("$folder/bin/sudo", <<"SH", 0755);
#!/bin/sh
[ "\$1 \$2" = "-u postgres" ] || exit 1
shift 2
HOME=$folder/postgres PGUSER=postgres exec "\$@"
SH
write_file("$folder/me/platform-key", "$KEY\n", 0600);
delete @ENV{ grep { /^(?:PG(?:OPTIONS|USER|DATABASE)|PSQL_HISTORY|HISTFILE)$/ } keys %ENV };
%ENV = (%ENV,
	HOME => "$folder/me", HISTFILE => "$folder/me/.bash_history", PSQL_HISTORY => '~/.psql_history',
	PATH => "$folder/bin:$ENV{PATH}", PGHOST => $node->host, PGPORT => $node->port,
	PAGER => 'cat', TERM => 'dumb', PS1 => '$ ');

# The content of a file that may be gone, or not be ours.
sub what_is_there
{
	my ($path) = @_;
	open(my $file, '<', $path) or return '';
	local $/;
	return scalar(<$file>) // '';
}

# The output of the last block, without what a terminal adds.
my $output = '';

# Runs SQL in a psql of my own; it must not fail.
sub paste_sql
{
	my ($sql, %option) = @_;
	local $ENV{PGUSER} = $option{role} || 'postgres';
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $option{dbname} || 'app', '-f', '-' ],
		'<', \$sql, '>', \$out, '2>', \$err, init => sub { chdir "$folder/me" });
	ok($ok, 'it works') || diag($err);
	$output = $out;
	return;
}

# The same for an error, of which this is part.
sub paste_sql_and_fail
{
	my ($sql, $error, $name, %option) = @_;
	local $ENV{PGUSER} = $option{role} || 'postgres';
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', 'app', '-f', '-' ],
		'<', \$sql, '>', \$out, '2>', \$err);
	ok(!$ok, $name);
	like($err, $error, "$name: as it says");
	return;
}

sub paste_into_shell
{
	my ($script) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'bash', '-euc', $script ], '<', '/dev/null', '>', \$out, '2>', \$err,
		init => sub { chdir "$folder/me" });
	ok($ok, 'it works') || diag($err);
	$output = $out;
	return;
}

# A whole session: the block is pasted into bash, and the key is typed when it is
# asked for.
sub paste_and_type_key
{
	my ($script, $meanwhile) = @_;
	my $terminal = SendkitTerminal->new('bash', '--norc', '--noprofile');
	$terminal->type($script);
	$terminal->wait_for(qr/\nPlatform key: $/);
	$terminal->wait_for_silence;
	$terminal->forget;
	$terminal->type("$KEY\n");
	$meanwhile->() if $meanwhile;
	$terminal->wait_for(qr/^\$ $/m);
	$terminal->type("exit\n");
	$output = $terminal->finish =~ s/\A\n*|\$ exit\n(?:exit\n)?\z//gr;
	unlike($output, qr/ERROR|sk_user/, 'it works, and shows no key');
	return;
}

sub value
{
	my ($sql, %option) = @_;
	return $node->safe_psql($option{dbname} || 'app', $sql);
}

sub wait_for_value
{
	my ($sql, $expected, $what) = @_;
	wait_until(sub { value($sql) eq $expected }, $what);
	pass($what);
	return;
}

# --- what the text says has been done before -------------------------------------------

sub database_with_key
{
	my ($dbname) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	$node->safe_psql($dbname, "CREATE EXTENSION sendkit; SELECT sendkit_store_platform_key('public', '$KEY')");
	return;
}

# "postgres" is there already where the tests run as that user
$node->safe_psql('postgres', <<'SQL');
DO $$ BEGIN CREATE ROLE postgres SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN END $$;
CREATE ROLE app_owner LOGIN;
CREATE ROLE billing LOGIN;
CREATE ROLE support LOGIN;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
CREATE DATABASE app;
SQL
$node->safe_psql('app', <<'SQL');
GRANT CREATE ON SCHEMA public TO app_owner;
SET ROLE app_owner;
CREATE TABLE workspace (id text PRIMARY KEY, deleted_at timestamptz);
CREATE TABLE leaked (id bigint);
GRANT SELECT ON leaked TO billing;
SQL
database_with_key('ready');

my $STATE_OF = 'SELECT state FROM sendkit_revocation WHERE workspace_id =';

# Removes a workspace, and waits until its key is dead.
sub remove_workspace
{
	my ($id, %option) = @_;
	my $sql = $option{sql} || 'DELETE FROM workspace WHERE id =';
	value("INSERT INTO workspace VALUES ('$id'); $sql '$id'");
	wait_for_value("$STATE_OF '$id'", 'done', 'the revocation is done');
	ok(!$api->key_alive($id), 'the key is dead');
	return;
}

sub without_triggers
{
	value('DROP TABLE workspace; SET ROLE app_owner; CREATE TABLE workspace (id text PRIMARY KEY, deleted_at timestamptz)');
	return;
}

# --- what is not run, word by word -----------------------------------------------------

my @not_run = (
	<<'SH', <<'SH', <<'SH', <<'SH', <<'SH', <<'SH');
git clone https://github.com/ORGANIZATION/sendkit.git && cd sendkit     # the address of this page
sudo apt-get install gcc make pkg-config ca-certificates libcurl4-openssl-dev postgresql-server-dev-15
make && sudo make install
SH
scripts/demo      # a throw-away PostgreSQL and a stand-in API, in psql
scripts/test      # builds everything, runs every test
SH
make PG_CONFIG=/usr/pgsql-18/bin/pg_config with_llvm=no
sudo make install PG_CONFIG=/usr/pgsql-18/bin/pg_config with_llvm=no
SH
scripts/package deb && sudo apt-get install ./dist/postgresql-15-sendkit_*.deb
SH
docker build --build-arg TAG=18-trixie -t postgres-sendkit .
SH
sudo make uninstall
SH

# --- the walk ------------------------------------------------------------------------

# What the exporter's query gives, which the walk reads, and then the rules judge.
my ($exporter_query, @exporter_columns);

# Which rules fire now: of the form "name > 0", or that with one label. A metric is
# named after the group and its column; one like the group's own name cannot be.
sub firing
{
	my (@rules) = @_;
	my $rows = JSON::PP->new->decode(do {
		local $ENV{PGUSER} = 'monitor';
		$node->safe_psql('app', "SELECT json_agg(q) FROM ($exporter_query) q");
	});
	my @fire;
	foreach my $rule (@rules)
	{
		my ($name, $metric, $label, $pattern) =
		  $rule =~ /alert: (\w+)\s+expr: sendkit_(\w+)(?:\{(\w+)=~"([^"]*)"\})? > 0$/
		  or die "a rule of an unknown form: $rule";
		my @measured = grep { !defined $label || $_->{$label} =~ /^(?:$pattern)$/ } @$rows;
		die "$name: nothing is measured" unless @measured && defined $measured[0]{$metric};
		push @fire, $name if grep { $_->{$metric} > 0 } @measured;
	}
	return join ' ', @fire;
}

# The lines that store a key.
my $storing;

my @walk = (
	# the first screen
	[ qr/^SELECT \* FROM sendkit_delete_api_key\('665a1b2c/ => sub { paste_sql($_[0], dbname => 'ready') } ],
	[ qr/psql -d app -c 'CREATE EXTENSION sendkit'/ => sub {
			paste_into_shell($_[0]);
			my %ok = $output =~ /^ (\w[\w ]*?) +\| ([tf ]) +\|/mg;
			is(join(' ', map { "$_=$ok{$_}" } qw(name connection tls protocol)), 'name=t connection=t tls=t protocol=t',
				'the whole way was tried');
			is($ok{credential}, ' ', 'and there is no key');
		} ],
	[ qr/sendkit_delete_api_keys\(ARRAY\['665a1b2c3d4e5f6a7b8c9d0e'\], key\)/ => sub {
			$api->reset;
			$api->control('POST', '/default', { directives => 'delay=1' });
			paste_and_type_key($_[0],
				sub {
					$api->wait_for_requests(1);
					is(join(' ', grep { index(what_is_there($_), $KEY) >= 0 } glob '/proc/[0-9]*/{cmdline,environ}'), '',
						'no list of processes shows the key');
				});
			ok(!$api->key_alive('665a1b2c3d4e5f6a7b8c9d0e'), 'the key is dead');
			$api->control('POST', '/default', { directives => '' });
		} ],
	[ qr/sendkit_store_platform_key\(current_user, key\)/ => sub { paste_and_type_key($storing = $_[0]) } ],
	[ qr/^CREATE TRIGGER revoke_api_keys\b/ => sub {
			paste_sql($_[0]);
			remove_workspace('removed');
			paste_sql_and_fail('TRUNCATE workspace', qr/ERROR:.*TRUNCATE/, 'TRUNCATE fails');
		} ],
	[ qr/^CREATE ROLE revoker.*SELECT cron\.schedule\('sendkit'/s => sub {
			my ($sql) = @_;
			SKIP:
			{
				skip 'pg_cron is not installed', 6 unless $has_pg_cron;
				value('CREATE EXTENSION pg_cron');
				paste_sql($sql);
				is(value("SELECT count(*) FROM cron.job WHERE active AND username = 'revoker'"), '2', 'there are two jobs');
				paste_and_type_key($storing =~ s/current_user/'revoker'/r);
				# what they do is in the test of pg_cron; here, that they can be run as they stand
				value("UPDATE sendkit_revocation SET finished_at = finished_at - interval '31 days';"
					  . " SELECT sendkit_request_revocation('on-schedule')");
				paste_sql(join(";\n", split /\n/, value('SELECT command FROM cron.job ORDER BY jobid')), role => 'revoker');
				wait_for_value("SELECT string_agg(workspace_id || ' ' || state, ', ') FROM sendkit_revocation", 'on-schedule done',
					'they deliver, and keep the history short');
				value('DROP EXTENSION pg_cron');
			}
		} ],

	# installation
	[ qr/^GRANT EXECUTE ON FUNCTION sendkit_delete_api_key/ => sub {
			paste_sql_and_fail("SELECT * FROM sendkit_delete_api_key('x')", qr/permission denied/, 'not before', role => 'billing');
			paste_sql($_[0]);
			paste_sql_and_fail("SELECT * FROM sendkit_delete_api_key('x')", qr/no platform key/, 'a key is missing', role => 'billing');
		} ],
	[ qr/^shared_preload_libraries = / => sub {
			$node->append_conf('postgresql.conf', $_[0]);
			$node->restart;
			wait_for_value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sendkit launcher'", '1', 'the launcher is there');
		} ],

	# keys
	[ qr/^BEGIN;.*\\copy.*store_platform_key\('billing'/s => sub {
			paste_sql($_[0]);
			paste_sql("SELECT success FROM sendkit_delete_api_key('for-billing')", role => 'billing');
			like($output, qr/^ t$/m, 'the role can call');
		} ],
	[ qr/^SELECT sendkit_forget_platform_key/ => sub {
			paste_sql($_[0]);
			paste_sql_and_fail("SELECT * FROM sendkit_delete_api_key('x')", qr/no platform key/, 'it cannot any more', role => 'billing');
		} ],
	[ qr/^sendkit\.platform_key_file = / => sub {
			my ($setting) = @_;
			like($setting, qr{'/etc/postgresql/sendkit\.key'}, 'it names a file of the system, of which we have none');
			configure($node, platform_key_file => "$folder/me/platform-key");
			paste_sql("SELECT success FROM sendkit_delete_api_key('by-file')", role => 'billing');
			like($output, qr/^ t$/m, 'a call with the key from the file');
		} ],

	# calls
	[ qr/^SELECT w\.id, r\.\* FROM leaked/ => sub {
			value('INSERT INTO leaked VALUES (1), (2), (3)');
			paste_sql($_[0], role => 'billing');
			is(scalar(() = $output =~ /^ +\d \| t +\| API key deleted$/mg), 3, 'three are deleted');
		} ],
	[ qr/^SELECT outcome, count\(\*\)/ => sub {
			paste_sql($_[0]);
			like($output, qr/^ absent +\| +3$/m, 'three are absent');
		} ],

	# removals
	[ qr/^GRANT EXECUTE ON FUNCTION sendkit_revoke_on_delete/ => sub {
			my $trigger = "CREATE TRIGGER t AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id')";
			without_triggers();
			paste_sql_and_fail($trigger, qr/permission denied/, 'not before', role => 'app_owner');
			paste_sql($_[0]);
			paste_sql($trigger, role => 'app_owner');
			without_triggers();
		} ],
	[ qr/^CREATE TRIGGER revoke_api_key\n\tAFTER UPDATE OF deleted_at/ => sub {
			paste_sql($_[0], role => 'app_owner');
			remove_workspace('softly', sql => 'UPDATE workspace SET deleted_at = now() WHERE id =');
			without_triggers();
		} ],
	[ qr/^CREATE CONSTRAINT TRIGGER revoke_api_key/ => sub {
			paste_sql($_[0], role => 'app_owner');
			value("BEGIN; INSERT INTO workspace VALUES ('back'); DELETE FROM workspace; INSERT INTO workspace VALUES ('back'); COMMIT");
			remove_workspace('not-back');
			is(value("$STATE_OF 'back'"), '', 'the one that is back keeps its key');
			without_triggers();
		} ],
	[ qr/^CREATE FUNCTION revoke_api_keys_now/ => sub {
			paste_sql($_[0]);
			value("INSERT INTO workspace VALUES ('at-once'), ('fails;status=403')");
			paste_sql("DELETE FROM workspace WHERE id = 'at-once'");
			ok(!$api->key_alive('at-once'), 'the key is dead');
			paste_sql_and_fail('DELETE FROM workspace', qr/could not revoke the API key of workspace "fails/, 'or the removal fails');
			without_triggers();
		} ],

	# the queue
	[ qr/──▶/ => sub { pass('a picture') } ],
	[ qr/^GRANT SELECT ON sendkit_revocation TO support/ => sub {
			my ($grant, $rest) = split /;\n\n/, $_[0], 2;
			paste_sql($grant);
			value("SELECT sendkit_request_revocation('665a1b2c3d4e5f6a7b8c9d0e')");
			wait_for_value("$STATE_OF '665a1b2c3d4e5f6a7b8c9d0e'", 'done', 'it is done');
			paste_sql($rest, role => 'support');
			like($output, qr/^ t$/m, 'it says that the key is dead');
			like($output, qr/^ not-back +\| done +\| deleted/m, 'and lists what was finished');
		} ],
	[ qr/^SELECT sendkit_request_revocation\('665a1b2c/ => sub {
			paste_sql($_[0]);
			wait_for_value('SELECT state FROM sendkit_revocation WHERE not_after IS NOT NULL', 'done', 'it is done');
		} ],
	[ qr/^SELECT id, workspace_id, message.*retry_revocations\(\)/s => sub {
			value("SELECT sendkit_request_revocation('a;status=403;times=1')");
			wait_for_value("$STATE_OF 'a;status=403;times=1'", 'failed', 'one has failed');
			paste_sql($_[0]);
			like($output, qr/^ +\d+ \| a;status=403;times=1 \| \S/m, 'it shows why');
			wait_for_value("$STATE_OF 'a;status=403;times=1'", 'done', 'and it is done');
		} ],

	# monitoring: first all is well, then comes an outage, and one is failed
	[ qr/^SELECT \* FROM sendkit_revocation_summary/ => sub {
			my ($sql) = @_;
			paste_sql($sql, role => 'monitor');
			like($output, qr/\(0 rows\)/, 'there is no alert while all is well');
			configure($node, base_url => $api->url('closed'), connect_timeout => '1s');
			value("SELECT sendkit_request_revocation('in-the-outage')");
			wait_for_value("SELECT attempts > 0 FROM sendkit_revocation WHERE workspace_id = 'in-the-outage'", 't', 'an outage');
			paste_sql($sql, role => 'monitor');
			like($output, qr/\(0 rows\)/, 'is no alert in its first ten minutes');
			grow_old();
			paste_sql($sql, role => 'monitor');
			like($output, qr/^ (?:pending|sending) .*\(1 row\)/sm, 'and one afterwards');
		} ],
	[ qr/^sendkit:\n  query: / => sub {
			my ($yaml) = @_;
			($exporter_query) = $yaml =~ /query: "(.*)"/;
			@exporter_columns = $yaml =~ /^    - (\w+): \{usage: (?:LABEL|GAUGE), description: "[^"]+"\}$/mg;
			paste_sql($exporter_query, role => 'monitor');
			my ($header) = $output =~ /^(.*)/;
			is(join(' ', split /[ |]+/, $header =~ s/^ +//r), "@exporter_columns", 'the metrics are the columns');
		} ],
	[ qr/^groups:\n/ => sub {
			my @rules = $_[0] =~ /- (alert: .*\n\s+expr: .*)$/mg;
			is(scalar @rules, 2, 'two rules');
			is(firing(@rules), 'SendkitRevocationsOverdue', 'in the outage one fires');
			configure($node, base_url => $api->url('https'));
			value('SELECT sendkit_retry_revocations()');
			wait_for_value("$STATE_OF 'in-the-outage'", 'done', 'the outage ends');
			is(firing(@rules), '', 'and none fires');
			value("SELECT sendkit_request_revocation('b;status=403')");
			wait_for_value("$STATE_OF 'b;status=403'", 'failed', 'one has failed');
			is(firing(@rules), 'SendkitRevocationsNeedAPerson', 'of which the other one tells');
		} ],

	# the end
	[ qr/^ALTER EXTENSION sendkit UPDATE/ => sub { paste_sql($_[0]) } ],
	[ qr/^SELECT state.*DROP EXTENSION sendkit CASCADE/s => sub {
			value("CREATE TRIGGER t AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id')");
			paste_sql($_[0]);
			like($output, qr/^ failed \| +1$/m, 'it shows what is left');
			is(value("SELECT count(*) FROM pg_class WHERE relname ~ 'sendkit'"), '0', 'nothing is left of it');
			is(value("SELECT count(*) FROM pg_trigger WHERE tgname = 't'"), '0', 'and no trigger');
		} ],
	[ qr/ENABLE ALWAYS TRIGGER/ => \&subscribe_beside ],

	# somebody's own tests
	[ qr/test\/standin --port-file/ => sub {
			symlink $tree, "$folder/me/sendkit" or die "sendkit: $!";
			value('CREATE EXTENSION sendkit');
			value("INSERT INTO workspace VALUES ('ws-1')");
			# the second block is of the same shell
			our $first_part = $_[0];
			pass('to be continued');
		} ],
	[ qr/standin ctl "\$\(port control\)"/ => sub {
			our $first_part;
			local $ENV{PGUSER} = 'postgres';
			paste_into_shell("trap 'kill \$!' EXIT\n$first_part"
				  . "psql -qXd app -c \"SELECT sendkit_request_revocation('ws-1')\"\n$_[0]");
			like($output, qr/^\{"id": "ws-1", "status": 200\}$/m, 'it tells what it got');
			like($output, qr/"alive": false/, 'and that the key is dead');
			value('ALTER SYSTEM RESET sendkit.base_url');
			configure($node, base_url => $api->url('https'));
		} ],

	# doc/literal-keys.md
	[ qr/^BEGIN;.*\\copy.*sendkit_delete_api_keys/s => sub {
			paste_sql($_[0], dbname => 'ready');
			like($output, qr/ \| deleted +\|/, 'it is deleted');
			$api->reset;
		} ],
	[ qr/\\bind :key/ => sub {
			SKIP:
			{
				skip 'psql before 16 cannot bind', 2 if `psql --version` !~ / (\d+)/ || $1 < 16;
				paste_sql($_[0], dbname => 'ready');
				like($output, qr/API key deleted/, 'it is deleted');
			}
		} ]);

# As if what is pending had been requested eleven minutes ago.
sub grow_old
{
	value("UPDATE sendkit_revocation SET requested_at = requested_at - interval '11 minutes' WHERE finished_at IS NULL");
	return;
}

# On a hosted server there is the table, here are a subscription and the trigger.
sub subscribe_beside
{
	my ($sql) = @_;
	my $hosted = PostgreSQL::Test::Cluster->new('hosted');
	$hosted->init(allows_streaming => 'logical');
	$hosted->start;
	my $table = 'CREATE TABLE workspace (id text PRIMARY KEY)';
	$hosted->safe_psql('postgres', "$table; INSERT INTO workspace VALUES ('hosted-1'), ('hosted-2'); CREATE PUBLICATION p FOR TABLE workspace");
	database_with_key('beside');
	$node->safe_psql('beside', $table);
	paste_sql($sql, dbname => 'beside');
	$node->safe_psql('beside', 'CREATE SUBSCRIPTION s CONNECTION ' . literal($hosted->connstr('postgres')) . ' PUBLICATION p');
	$node->wait_for_subscription_sync($hosted, 's', 'beside');
	$hosted->safe_psql('postgres', "DELETE FROM workspace WHERE id = 'hosted-1'");
	wait_until(sub { !$api->key_alive('hosted-1') }, 'the key is dead');
	pass('the key is dead');
	ok($api->key_alive('hosted-2'), 'and no other');
	$node->safe_psql('beside', 'DROP SUBSCRIPTION s');
	$hosted->stop;
	return;
}

# The fenced blocks of a file: language, text and line.
sub blocks
{
	my ($file) = @_;
	my $text = slurp_file($file);
	my @blocks;
	while ($text =~ /^```(\w*)\n(.*?)^```$/msg)
	{
		my ($language, $block, $line) = ($1, $2, 1 + substr($text, 0, $-[0]) =~ tr/\n//);
		push @blocks, { language => $language, text => $block, where => "$file:$line" };
	}
	unlike($text =~ s/^```.*?^```$//msgr, qr/^(?: {4}|\t)\S/m, "$file: every block is fenced");
	return @blocks;
}

foreach my $block (map { blocks($_) } 'README.md', sort glob 'doc/*.md')
{
	my ($text, $where) = @$block{qw(text where)};
	if ($block->{language} eq '')
	{
		is($output =~ s/\r|\s+$//gmr, $text =~ s/\s+$//gmr, "$where: this is what is printed");
	}
	elsif (grep { $_ eq $text } @not_run)
	{
		@not_run = grep { $_ ne $text } @not_run;
	}
	elsif (@walk && $text =~ $walk[0][0])
	{
		note("$where:\n$text");
		(shift @walk)->[1]->($text);
	}
	else
	{
		fail("$where: this block is tried");
		diag($text, @walk ? "expected was $walk[0][0]" : 'expected was none');
		last;
	}
}
is(scalar @walk, 0, 'all that is known was met') || diag($walk[0][0]);
is(join("\n", @not_run), '', '... and all that is not run');

# --- histories -----------------------------------------------------------------------

# psql keeps what is typed at a terminal, other than what it copies. The first call is
# there to show that it does.
{
	local $ENV{PGUSER} = 'postgres';
	my %in_history = (literal => 'sk_user_LiteralInHistory', copy => $KEY, variable => 'sk_user_InAVariable');
	write_file("$folder/me/variable", "$in_history{variable}\n", 0600);
	my $terminal = SendkitTerminal->new('psql', '-Xd', 'ready');
	$terminal->wait_for(qr/=# $/);
	$terminal->type(<<"SQL");
SELECT * FROM sendkit_delete_api_key('665a', '$in_history{literal}');
CREATE TEMP TABLE secret (key text);
\\copy secret FROM '$folder/me/platform-key'
SELECT r.* FROM secret, sendkit_delete_api_key('665a', key) r;
\\set key `cat $folder/me/variable`
SELECT * FROM sendkit_delete_api_key('665a', :'key');
\\q
SQL
	$terminal->finish;
	my $history = slurp_file("$folder/me/.psql_history");
	is(join(' ', grep { index($history, $in_history{$_}) >= 0 } sort keys %in_history), 'literal',
		'only a literal key is in the history of psql');
	like($history, qr/^\\copy secret/m, '... which has the rest');
}
like(slurp_file("$folder/me/.bash_history"), qr/read -rs key/, 'bash has a history');
is(join(' ', grep { -f && index(slurp_file($_), $KEY) >= 0 } glob "$folder/{me,postgres}/{.*,*}"),
	"$folder/me/platform-key", 'and the key is in none, of nobody');
ok_key_not_logged($node);

# --- the reference is complete ---------------------------------------------------------

my $readme = slurp_file('README.md');

# The rows of all tables that have this in their first cell, as arrays of cells.
sub rows_about
{
	my ($name) = @_;
	return map { [ split / \| /, s/^\| | \|$//gr ] } $readme =~ /^\| [^|]*`\Q$name\E`.*$/mg;
}

foreach my $function (split /\n/, $node->safe_psql('ready', <<'SQL'))
SELECT p.proname || '(' || regexp_replace(replace(pg_get_function_arguments(p.oid), 'timestamp with time zone', 'timestamptz'),
	'::\w+(\[\])?', '', 'g') || ')'
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sendkit')
	AND p.proname <> 'sendkit_fdw_validator'
SQL
{
	is(scalar rows_about($function), 1, "the README has $function");
}

foreach my $column (split /\n/, $node->safe_psql('ready', <<'SQL'))
SELECT DISTINCT attname FROM pg_attribute
WHERE attrelid IN ('sendkit_revocation'::regclass, 'sendkit_revocation_summary'::regclass) AND attnum > 0 AND NOT attisdropped
SQL
{
	ok(scalar rows_about($column), "the README has the column $column");
}

my %who = (user => 'anyone', superuser => 'superuser', sighup => '`postgresql.conf`');
foreach my $setting (split /\n/, $node->safe_psql('ready', <<'SQL'))
LOAD 'sendkit';
SELECT concat_ws('|', name, context, CASE unit WHEN 'ms' THEN boot_val::int / 1000 || 's' WHEN 's' THEN boot_val || 's' ELSE boot_val END)
FROM pg_settings WHERE name ~ '^sendkit\.'
SQL
{
	my ($name, $context, $default) = split /\|/, $setting, -1;
	my ($row) = grep { @$_ == 4 } rows_about($name);
	ok($row, "the README has the setting $name") or next;
	is($row->[2], $who{$context}, '... who may set it');
	like($row->[1], length $default ? qr/^`\Q$default\E`$/ : qr/^empty/, '... and its default');
}

foreach my $step (split /\n/, $node->safe_psql('ready', 'SELECT step FROM sendkit_check()'))
{
	is(scalar rows_about($step), 1, "the README has the step $step");
}

# --- caveats -------------------------------------------------------------------------

# Those that follow from PostgreSQL's own rules, and that no other test shows.
$node->safe_psql('ready', <<'SQL');
CREATE ROLE shop LOGIN;
CREATE TABLE parts (id text, part int) PARTITION BY LIST (part);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
CREATE TRIGGER revoke_api_key AFTER DELETE ON parts FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
GRANT SELECT, DELETE ON parts TO shop;
INSERT INTO parts VALUES ('detached', 1), ('dropped', 2), ('removed', 1);
SQL
{
	local $ENV{PGUSER} = 'shop';
	my (undef, undef, $error) = $node->psql('ready', "DELETE FROM parts WHERE id = 'removed'; SELECT lastval()");
	like($error, qr/permission denied for sequence/, 'lastval() after a removal cannot be read');
	$node->command_fails_like([ 'pg_dump', '-f', '/dev/null', '-t', 'sendkit_revocation', '-d', $node->connstr('ready') ],
		qr/permission denied/, 'pg_dump without rights on the queue fails');
}
$node->safe_psql('ready', 'ALTER TABLE parts DETACH PARTITION part_1; DROP TABLE part_2');
is($node->safe_psql('ready', 'SELECT workspace_id FROM sendkit_revocation'), 'removed',
	'a partition that is detached or dropped fires nothing');

# --- links and names of files -----------------------------------------------------------

# Links lead to headings and files that are there.
foreach my $file ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'bench/README.md', glob 'doc/*.md')
{
	my $text = slurp_file($file);
	my ($here) = $file =~ m{^(.*/)?};
	foreach my $link ($text =~ /\]\(([^)]+)\)/g)
	{
		my ($target, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		next if $target =~ /^https:/;
		$target = $target eq '' ? $file : ($here // '') . $target;
		my $good = -e $target;
		if ($good && defined $anchor)
		{
			my %anchors = map { (lc =~ s/[^\w -]//gr =~ tr/ /-/r) => 1 } slurp_file($target) =~ /^#+ (.*)$/mg;
			$good = $anchors{$anchor};
		}
		ok($good, "$file: $link leads somewhere");
	}
	# tests are named with or without folder and ending
	my @tests = map { /^sql/ ? "$_.sql" : "test/t/$_.pl" }
	  grep { defined } $text =~ m{(?:\btest/t/|`)(\d{3}_\w+)|`(sql/\w+)`}g;
	is(join(' ', grep { !-e } @tests), '', "$file: every test that it names is there");
}


$node->stop;
$api->stop;
done_testing();
