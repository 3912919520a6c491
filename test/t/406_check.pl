# sendkit_check(): does everything work, without deleting anything?
#
# First all is well, then one thing after the other is wrong; each time the step
# that is to blame says so, the steps before it stand, and those that depend on it
# are neither right nor wrong. Nobody ever gets a request, and nobody is shown a
# secret.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(time);

my $api = SendkitStandin->start(tls => 1);
my $folder = PostgreSQL::Test::Utils::tempdir() . '/secret-place';
mkdir $folder or die "$folder: $!";
my $file = "$folder/key";

my $node = start_node($api, listener => 'https',
	conf => "sendkit.platform_key_file = '$file'\nsendkit.auto_deliver = off\n");
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
CREATE ROLE billing LOGIN;
CREATE ROLE clerk LOGIN;
GRANT EXECUTE ON FUNCTION sendkit_check TO billing;
SQL

sub write_key
{
	my ($content, $mode) = @_;
	open(my $handle, '>', $file) or die "$file: $!";
	print $handle $content;
	close $handle or die "$file: $!";
	chmod $mode || 0600, $file or die "$file: $!";
	return;
}

# All that anybody was told.
my $told = '';

# Checks, and returns ok ("t", "f" or "") and detail by step.
sub check
{
	my (%option) = @_;
	my %set = %{ $option{set} || {} };
	my $sql = join '', map { "SET sendkit.$_ = '$set{$_}';\n" } sort keys %set;
	local $ENV{PGUSER} = $option{role} if $option{role};
	local $ENV{PGOPTIONS} = $option{options} if $option{options};
	$sql .= $option{sql} || '';
	my ($status, $out, $err) = $node->psql($option{dbname} || 'postgres',
		"${sql}SELECT step, ok, detail FROM sendkit_check()");
	$told .= "$out\n$err\n";
	return { error => $err } if $status != 0;
	my @rows = map { [ split /\|/, $_, 3 ] } split /\n/, $out;
	return { steps => join(', ', map { $_->[0] } @rows), map { $_->[0] => { ok => $_->[1], detail => $_->[2] } } @rows };
}

# The steps of the way that are right, that is wrong, and that were not tried.
my @way = ('name', 'connection', 'proxy', 'tls', 'protocol', 'round trip');

# Tests how far a check came on the way, and what the step says that it ended at.
sub ends_at
{
	my ($check, $step, $detail, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $expected = '';
	my $result = 't';
	foreach (@way)
	{
		$result = 'f' if $_ eq $step;
		$expected .= "$_:$result ";
		$result = '' if $result eq 'f';
	}
	is(join('', map { "$_:" . ($check->{$_}{ok} // 'missing') . ' ' } @way), $expected, $name)
	  || diag(explain($check));
	like($check->{$step}{detail} // '', $detail, '... and the step says why') if $detail;
	return;
}

# --- all is well ---

write_key("sk_user_in_the_file\n");
my $good = check();
is($good->{steps},
	'settings, credential, home, name, connection, proxy, tls, protocol, round trip, queue, delivery, attachments',
	'the steps have their order');
is(join(' ', map { "$_:$good->{$_}{ok}" } grep { $_ ne 'delivery' } split /, /, $good->{steps}),
	'settings:t credential:t home:t name:t connection:t proxy:t tls:t protocol:t round trip:t queue:t attachments:t',
	'all is well') || diag(explain($good));
my ($base_url, $ca) = ($api->url('https'), $api->ca);
like($good->{settings}{detail}, qr/sendkit\.base_url = \Q$base_url\E \(configuration file\)/, 'settings have their source');
like($good->{settings}{detail}, qr/sendkit\.platform_key_file is set \(configuration file\)/, '... but no secret place');
like($good->{credential}{detail}, qr/uses the key in the file/, 'the key is that of the file');
like($good->{connection}{detail}, qr/^to \S+ port @{[ $api->port('https') ]}$/, 'the address is told');
like($good->{tls}{detail}, qr/^TLSv1\.\d.*; certificate expires .*GMT, is issued by .*stand-in CA, trusted by \Q$ca\E$/,
	'TLS, certificate and trust are told');
is($good->{protocol}{detail}, 'HTTP/1.1', 'the protocol is told');
like($good->{'round trip'}{detail}, qr/^\d+\.\d ms .* \d+\.\d ms$/, 'times are told');
is($good->{queue}{detail}, '0 unfinished, 0 due, 0 overdue, 0 failed, 0 held', 'the queue is empty');

SKIP:
{
	skip 'no HTTP/2 here', 1 unless $api->port('h2');
	my $h2 = check(set => { base_url => 'https://localhost:' . $api->port('h2') });
	ends_at($h2, '', undef, 'all is well by HTTP/2');
	is($h2->{protocol}{detail}, libcurl_keeps_connections() ? 'HTTP/2' : 'HTTP/1.1', '... which is told');
}
my $plain = check(set => { base_url => $api->url('http') });
ends_at($plain, '', undef, 'all is well by plain HTTP');
like($plain->{tls}{detail}, qr/^none/, '... without TLS');
my $reading = check(sql => 'BEGIN READ ONLY;');
ends_at($reading, '', undef, 'all is well in a transaction that only reads');
is($reading->{queue}{ok}, '', '... which cannot look into the queue') || diag(explain($reading));

# --- something is wrong on the way ---

sub at_port
{
	my ($listener) = @_;
	return { base_url => 'https://localhost:' . $api->port($listener), connect_timeout => '500ms' };
}

ends_at(check(set => { base_url => 'https://nowhere.invalid' }), 'name', qr/resolve/, 'an unknown host');
ends_at(check(set => at_port('closed')), 'connection', qr/connect/, 'a closed port');
ends_at(check(set => at_port('blackhole')), 'connection', qr/./, 'nobody there');
ends_at(check(set => at_port('https_stuck')), 'tls', qr/./, 'a handshake that hangs');
foreach my $listener (qw(https_expired https_wronghost https_selfsigned))
{
	my $check = check(set => at_port($listener));
	ends_at($check, 'tls', qr/; trusted are the authorities in \Q$ca\E$/, "a bad certificate: $listener");
	is($check->{queue}{ok}, 't', '... the steps behind the way are taken all the same');
}
ends_at(check(set => { ca_file => '' }), 'tls', qr/; trusted are the authorities in (?!\Q$ca\E)/,
	'a certificate of nobody whom the system trusts');

# An early value that was refused: the way isn't tried, since it leads elsewhere.
my $early = check(role => 'billing', options => "-c sendkit.base_url=$base_url/elsewhere");
is($early->{settings}{ok} // '', 'f', 'a setting that was refused') || diag(explain($early));
like($early->{settings}{detail} // '', qr/sendkit\.base_url/, '... is named');
is(join('', map { $_->{ok} } @$early{@way}), '', '... and the way not tried');
is($early->{queue}{ok}, 't', '... but the rest is');

# --- by a proxy ---

sub use_proxy
{
	my ($url) = @_;
	$node->append_conf('postgresql.conf', "sendkit.proxy = '$url'\n");
	$node->restart;
	return;
}

my $password = 'hush-of-the-proxy';
my $proxy = "http://proxyuser:$password\@127.0.0.1:" . $api->port('proxy');
use_proxy($proxy);
my $through = check();
ends_at($through, '', undef, 'a proxy that lets us through');
is($through->{proxy}{detail}, 'it lets us through', '... is noted');
is($through->{connection}{detail}, 'to 127.0.0.1 port ' . $api->port('proxy'), '... and connected to');
$api->control('POST', '/proxy', { status => 407 });
ends_at(check(), 'proxy', qr/407/, 'a proxy that refuses');
$api->control('POST', '/proxy', {});
ends_at(check(set => at_port('https_expired')), 'tls', qr/./, 'a bad certificate behind a proxy');
use_proxy($proxy =~ s/:\d+$/':' . $api->port('closed')/er);
ends_at(check(), 'connection', qr/./, 'no proxy there');
use_proxy($proxy =~ s/127\.0\.0\.1/nowhere.invalid/r);
ends_at(check(), 'name', qr/resolve/, 'an unknown proxy');
use_proxy('');

# --- which key ---

sub credential
{
	my (%option) = @_;
	my $found = check(set => at_port('closed'), %option)->{credential};
	return ($found->{ok} // 'missing') . ' ' . ($found->{detail} // '');
}

write_key("sk_of_a_workspace\n");
like(credential(), qr/^f .*file.*likely to reject: platform keys begin with "sk_user_"/, 'a key of another kind');
write_key("sk_user_in_the_file\n", 0644);
like(credential(), qr/^f cannot use the file .*group or world access/, 'a file that others may read');
unlink $file;
like(credential(), qr/^f could not read the file/, 'no file');
write_key("two lines\nof hush\n");
like(credential(), qr/^f cannot use the file .*visible ASCII/, 'a file of something else');
write_key("sk_user_in_the_file\n");

$node->safe_psql('postgres', <<'SQL');
CREATE TEMP TABLE secret AS SELECT 'sk_user_' || 'stored' AS key;
SELECT sendkit_store_platform_key('public', key), sendkit_store_platform_key('billing', key) FROM secret;
SQL
like(credential(role => 'billing', set => {}), qr/^f permission denied for foreign server sendkit/, 'a mapping without USAGE');
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER sendkit TO PUBLIC');
like(credential(role => 'billing', set => {}), qr/^t role "billing" uses the key in its own user mapping/, 'a mapping of its own');
like(credential(role => 'monitor', set => {}), qr/^t role "monitor" uses the key in PUBLIC's user mapping/, 'PUBLIC\'s mapping');

# --- who may look ---

ends_at(check(role => 'monitor'), '', undef, 'a member of pg_monitor may check');
like(check(role => 'clerk')->{error}, qr/permission denied for function sendkit_check/, 'others may not');

# --- who delivers ---

is(check()->{delivery}{ok}, '', 'whether somebody calls the procedure cannot be told');
my $workers = check(set => { auto_deliver => 'on' })->{delivery};
is($workers->{ok}, 't', 'workers deliver');
like($workers->{detail}, qr/^background workers: role "\S+" uses the key in PUBLIC's user mapping; none is there now; they start with a commit/,
	'... as whom, and when');
$node->safe_psql('postgres', 'CREATE ROLE deliverer; GRANT EXECUTE ON FUNCTION sendkit_check TO deliverer');
$node->append_conf('postgresql.conf', "sendkit.worker_role = 'deliverer'\nsendkit.auto_deliver = on\nshared_preload_libraries = 'sendkit'\n");
$node->restart;
$workers = check()->{delivery};
like($workers->{detail}, qr/^background workers: role "deliverer" uses the key in PUBLIC's user mapping; none is there now$/,
	'... as another role, with a launcher');
$node->safe_psql('postgres', 'ALTER ROLE deliverer RENAME TO gone');
$workers = check()->{delivery};
is($workers->{ok}, 'f', 'a role that is missing');
like($workers->{detail}, qr/role "deliverer" does not exist/, '... is named');
$node->append_conf('postgresql.conf', "sendkit.worker_role = ''\nsendkit.auto_deliver = off\nshared_preload_libraries = ''\n");
$node->restart;

# --- without a stored key ---

# Where all calls are given one, nothing is wrong; but the queue needs one that is stored.
configure($node, platform_key_file => '');
$node->safe_psql('postgres', 'CREATE DATABASE keyless');
$node->safe_psql('keyless', 'CREATE EXTENSION sendkit; CREATE TABLE workspace (id text)');

sub keyless
{
	return check(dbname => 'keyless', set => { auto_deliver => 'on' });
}

my $keyless = keyless();
is(join(' ', grep { $_ ne 'steps' && $keyless->{$_}{ok} eq 'f' } sort keys %$keyless), '', 'no stored key, and none is needed');
is($keyless->{credential}{ok}, '', '... which is told');
like($keyless->{credential}{detail}, qr/^role "\S+" has no stored key: a call works if it is given one$/, '... of the calling role');
is($keyless->{delivery}{ok}, '', '... and of delivery');
like($keyless->{delivery}{detail}, qr/has no stored key, and needs one only when something is queued; none is there/, '... so far');
$node->safe_psql('keyless', q{CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW
	EXECUTE FUNCTION sendkit_revoke_on_delete('id')});
is(keyless()->{delivery}{ok}, 'f', 'a trigger that would queue something makes it wrong');
like(keyless()->{delivery}{detail}, qr/has no stored key, and what is queued cannot be delivered without/, '... and says why');
$node->safe_psql('keyless', 'DROP TABLE workspace');
is(keyless()->{delivery}{ok}, '', '... until it is dropped');
$node->safe_psql('keyless', q{SELECT sendkit_request_revocation('ws')});
is(keyless()->{delivery}{ok}, 'f', 'so does something that is queued');
configure($node, platform_key_file => $file);

# --- the queue ---

$node->safe_psql('postgres', <<'SQL');
SELECT sendkit_request_revocation('ws-' || n) FROM generate_series(1, 5) n;
SQL
is(check()->{queue}{detail}, '5 unfinished, 5 due, 0 overdue, 0 failed, 0 held', 'some are due');
is(check()->{queue}{ok}, 't', '... which is well');
$node->safe_psql('postgres', <<'SQL');
UPDATE sendkit_revocation SET requested_at = now() - interval '1 hour' WHERE workspace_id IN ('ws-1', 'ws-2');
UPDATE sendkit_revocation SET state = 'failed', finished_at = now() WHERE workspace_id = 'ws-3';
SQL
is(check()->{queue}{detail}, '4 unfinished, 4 due, 2 overdue, 1 failed, 0 held', 'some are overdue, one failed');
is(check()->{queue}{ok}, 'f', '... which is not');

my $locker = SendkitTest::Session->new($node);
$locker->value('BEGIN; LOCK TABLE sendkit_revocation IN ACCESS EXCLUSIVE MODE; SELECT 1');
is(check()->{queue}{detail}, 'the queue is locked by somebody', 'a queue that is locked is not waited for');
$locker->value('ROLLBACK; SELECT 1');
$locker->quit;

$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER audit_it BEFORE UPDATE ON sendkit_revocation FOR EACH ROW EXECUTE FUNCTION f();
SQL
my $attached = check()->{attachments};
is($attached->{ok}, 'f', 'a trigger on the queue');
like($attached->{detail}, qr/trigger "audit_it"/, '... is named');
$node->safe_psql('postgres', 'DROP TRIGGER audit_it ON sendkit_revocation; TRUNCATE sendkit_revocation');

# --- a copy ---

$node->safe_psql('postgres', 'CREATE DATABASE staging TEMPLATE postgres');
my $copy = check(dbname => 'staging');
is($copy->{home}{ok}, 'f', 'a copy of the database');
like($copy->{home}{detail}, qr/is a copy: nothing is delivered.*sendkit_adopt_revocations\(\)/, '... says what to do');
is($copy->{credential}{ok}, 'f', '... and uses no stored key');

# --- in an odd place, and within another call ---

$node->safe_psql('template1', 'CREATE SCHEMA "odd; schema"; CREATE EXTENSION sendkit SCHEMA "odd; schema"');
is($node->safe_psql('template1', 'SET search_path = \'\'; SELECT string_agg(step, \' \') FROM "odd; schema".sendkit_check() WHERE NOT ok'),
	'', 'in a schema that is not in the path');

# A function that somebody has put on the queue runs while a delivery is under way.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION check_now(id text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT string_agg(step || ': ' || detail, '; ') FROM public.sendkit_check() WHERE NOT ok);
END $$;
ALTER TABLE sendkit_revocation ADD checked text GENERATED ALWAYS AS (check_now(workspace_id)) STORED;
SELECT sendkit_request_revocation('nested');
CALL sendkit_process_revocations();
SQL
is($node->safe_psql('postgres', 'SELECT state, outcome FROM sendkit_revocation'), 'done|deleted', 'within a delivery, which goes on');
like($node->safe_psql('postgres', 'SELECT checked FROM sendkit_revocation'), qr/^name: cannot call the SendKit API while another call/,
	'... a check says that it cannot try the way');
$node->safe_psql('postgres', 'ALTER TABLE sendkit_revocation DROP checked; TRUNCATE sendkit_revocation');

# A call is over when a trigger gets its rows.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE audit (outcome text, checked bigint);
CREATE FUNCTION check_it() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	SELECT count(*) INTO NEW.checked FROM sendkit_check() WHERE NOT ok;
	RETURN NEW;
END \$\$;
CREATE TRIGGER check_it BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION check_it();
CREATE TEMP TABLE secret AS SELECT 'sk_user_' || 'stored' AS key;
INSERT INTO audit SELECT r.outcome FROM secret, sendkit_delete_api_keys(ARRAY['audited-1', 'audited-2'], secret.key) r;
SQL
is($node->safe_psql('postgres', 'SELECT outcome, checked FROM audit'), "deleted|0\ndeleted|0", 'in a trigger on what a call has returned');

# --- interrupts ---

my $library = preload_library('stuck_resolver');
if ($library)
{
	local %ENV = (%ENV, LD_PRELOAD => $library, STUCK_HOST => 'stuck.test', STUCK_SECONDS => 30);
	$node->restart;
}
my $session = SendkitTest::Session->new($node);
my $watcher = SendkitTest::Session->new($node);
$session->value("SET sendkit.connect_timeout = '60s'; SET sendkit.request_timeout = '60s'; SELECT 1");
foreach my $listener ('blackhole', 'https_stuck', $library ? 'resolver' : ())
{
	my $url = $listener eq 'resolver' ? 'https://stuck.test' : at_port($listener)->{base_url};
	$session->value("SET sendkit.base_url = '$url'; SELECT 1");
	my $before = descriptors($session->pid);
	foreach my $try (1 .. 3)
	{
		$session->send('SELECT * FROM sendkit_check()');
		$watcher->wait_for_wait($session);
		my $begin = time;
		$watcher->value('SELECT pg_cancel_backend(' . $session->pid . ')');
		is($session->result->{sqlstate}, '57014', "a check is cancelled: $listener");
		prompt(time() - $begin, 'the cancel');
		$before = descriptors($session->pid) if $try == 1;
	}
	# a resolver keeps one until it is done
	is(descriptors($session->pid), $before, '... and leaves no descriptor open') if $listener ne 'resolver';
	is($session->query("SET statement_timeout = '300ms'; SELECT * FROM sendkit_check()")->{sqlstate}, '57014',
		'statement_timeout ends one');
	$session->value('SET statement_timeout = 0; SELECT 1');
}
$session->value("SET sendkit.base_url = '$base_url'; SELECT 1");
is($session->value('SELECT count(*) FROM sendkit_check() WHERE NOT ok'), 0, 'the next one is well');
is($session->call('after-checks')->{outcome}, 'deleted', '... and a call works');
$session->value("SET sendkit.base_url = '" . at_port('https_stuck')->{base_url} . "'; SELECT 1");
$session->send('SELECT * FROM sendkit_check()');
$watcher->wait_for_wait($session);
$watcher->value('SELECT pg_terminate_backend(' . $session->pid . ')');
is($session->result->{sqlstate}, '57P01', 'one is terminated');

# --- what was sent, and told ---

is_deeply([ map { $_->{id} } @{ $api->requests } ], [ 'nested', 'audited-1', 'audited-2', 'after-checks' ], 'no check has sent a request');
unlike($told, qr/\Q$password\E|proxyuser|secret-place|sk_user_in|sk_user_st|sk_of_a|hush/, 'and nobody was told a secret');
ok_key_not_logged($node, $password, 'sk_user_in_the_file', 'sk_user_stored');

$node->stop;
$api->stop;
done_testing();
