# A call writes nothing to the database.
#
# So it has to work where nothing can be written: on a standby and in a read-only
# transaction, with and without arguments to be fetched. What the primary has
# set up (the extension, a stored key) works on its standby, too.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $primary = start_node($api,
	name => 'primary',
	init => [ allows_streaming => 1 ],
	conf => "sendkit.max_retries = 0\n");
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# Made after the backup, so that it comes by streaming.
my $stored = 'sk_user_stored-on-the-primary';
$primary->safe_psql('postgres', <<"SQL");
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$stored');
CREATE TABLE workspace AS SELECT 'ws-listed-' || i AS id FROM generate_series(1, 3) i;
SQL
$primary->wait_for_catchup($standby, 'replay');

is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't',
	'this is a standby');
is_outcome(call($standby, 'ws-standby'), 'deleted', 'a call works on it');
ok(!$api->key_alive('ws-standby'), 'and deletes the key');
is_outcome(call($standby, 'ws-standby'), 'refused', 'a second one finds none');
is_outcome(call($standby, 'ws-silent;silent', set => { request_timeout => '100ms' }),
	'unknown', 'a call that fails does so in a row');
is($standby->safe_psql('postgres', "SELECT count(*) FROM workspace, sendkit_delete_api_key(id, '$KEY') d WHERE d.success"),
	'3', 'a call for each row of a table');
is( $standby->safe_psql('postgres',
		"SELECT string_agg(workspace_id || ' ' || outcome, ', ') FROM sendkit_delete_api_keys('{ws-p1,ws-p2,absent}', '$KEY')"),
	'ws-p1 deleted, ws-p2 deleted, absent absent',
	'the plural form');
is_outcome(call($standby, 'ws-stored', key => undef), 'deleted',
	'and with the key that the primary has stored');
my ($request) = @{ $api->requests(id => 'ws-stored') };
my ($key) = map { $_->[1] } grep { lc $_->[0] eq 'x-api-key' } @{ $request->{headers} };
is($key, $stored, 'which is the one that was sent');

# After an interrupt in mid-call the session goes on.
is($standby->safe_psql('postgres', "SELECT string_agg(step, ' ') FROM sendkit_check() WHERE NOT ok"), '',
	'a check finds nothing wrong');
is($standby->safe_psql('postgres', "SELECT detail FROM sendkit_check() WHERE step = 'delivery'"),
	'this is a standby: nothing is delivered here', '... and says who does not deliver');

my $session = SendkitTest::Session->new($standby);
my $watcher = SendkitTest::Session->new($standby);
$session->send(call_sql('ws-cancelled;silent'));
$watcher->wait_for_wait($session);
$watcher->query('SELECT pg_cancel_backend(' . $session->pid . ')');
is($session->result->{sqlstate}, '57014', 'a call is cancelled on a standby');
is_outcome($session->call('ws-after'), 'deleted', 'the next one works');
$_->quit for $session, $watcher;

# The primary, with writing forbidden in each way that there is.
my %forbid = (
	'a read-only transaction' => [ 'BEGIN READ ONLY', 'COMMIT' ],
	'a serializable, read-only, deferrable one' =>
	  [ 'BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE', 'COMMIT' ],
	'default_transaction_read_only' => [ 'SET default_transaction_read_only = on', '' ]);
my $n = 0;
for my $way (sort keys %forbid)
{
	my ($before, $after) = @{ $forbid{$way} };
	my $id = 'ws-read-only-' . $n++;
	is($primary->safe_psql('postgres', "$before; SELECT success FROM sendkit_delete_api_key('$id', '$KEY'); $after"),
		't', "$way: a call works");
	is($primary->safe_psql('postgres', "$before; SELECT success FROM sendkit_delete_api_keys('{$id-many}', '$KEY'); $after"),
		't', "$way: the plural form, too");
	my ($status, $out, $err) =
	  $primary->psql('postgres', "$before; CREATE TABLE forbidden ()");
	like($err, qr/read-only transaction/, "$way: it is one");
}

# A promoted standby is just a server.
$session = SendkitTest::Session->new($standby);
is_outcome($session->call('ws-before'), 'deleted', 'a session of the standby');
$standby->promote;
is_outcome($session->call('ws-promoted'), 'deleted', 'goes on after promotion');
$session->quit;

$_->stop for $standby, $primary;
done_testing();
