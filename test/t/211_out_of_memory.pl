# Memory that runs out, at any moment of a call.
#
# The nth allocation that is made beneath the extension's code fails, for one n
# after the other: what is asked of the C library (by us, libcurl, its TLS library,
# and by PostgreSQL for its memory contexts), and what is asked of memory contexts.
# Whatever n is: the session lives, the next call works, nothing is left behind,
# what the call says agrees with what the API saw, and nothing is sent twice.
#
# SENDKIT_TEST_EVERY=1 tries every n everywhere (it takes some minutes); without it
# every third is tried where a call takes few allocations, and fewer elsewhere.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");

my $headers = $node->safe_psql('postgres',
	q{SELECT setting FROM pg_config WHERE name = 'INCLUDEDIR-SERVER'});
my $library = preload_library('starved', "-Wl,-z,lazy -I'$headers'");
plan skip_all => 'no compiler, no headers of the server, or no glibc' unless $library;
$node->stop;
{
	local $ENV{LD_PRELOAD} = $library;
	$node->start;
}
$node->safe_psql('postgres', <<"EOS");
CREATE FUNCTION starve(int, int) RETURNS void LANGUAGE C STRICT AS '$library';
CREATE FUNCTION starved() RETURNS bool LANGUAGE C STRICT AS '$library';
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key '$KEY');
EOS

my ($MALLOC, $PALLOC) = (1, 2);
my %KIND = ($MALLOC => 'malloc', $PALLOC => 'palloc');
my $serial = 0;

# What one try was like: rows, the error's SQLSTATE ('' for none), whether as many
# allocations were made, and whether the session was lost.
sub try_sql
{
	my ($session, $kind, $n, $sql) = @_;
	my $result = $session->query("SELECT starve($kind, $n); $sql; SELECT 'starved ' || starved()");
	my @rows = grep { length } @{ $result->{rows} };
	my $reached = @rows ? pop @rows : '';

	return {
		rows => \@rows,
		sqlstate => $result->{stderr} =~ /ERROR:  (\w{5}):/ ? $1 : '',
		stderr => $result->{stderr},
		reached => $reached eq 'starved true',
		lost => $result->{lost}
	};
}

# What a session holds when all its connections have been made anew
sub holdings
{
	my ($session) = @_;
	$session->query('BEGIN; SET LOCAL sendkit.base_url = '
		  . literal($api->url('closed')) . '; ' . call_sql('ws') . '; COMMIT');
	$session->call('ws-' . ++$serial);
	return (descriptors($session->pid), memory_kb($session->pid));
}

# Tries n = 1, 1 + step, ... until a call makes fewer allocations.  $session_of
# returns the session to use, given the last one, $make the SQL of a try, and $judge
# what is wrong with one, if anything is.
sub starve_all
{
	my ($name, $kind, $step, $session_of, $make, $judge) = @_;
	my $session = $session_of->();
	my ($descriptors, $memory);
	my (@wrong, %seen);
	my $n = 1;

	$name .= ", $KIND{$kind}";
	$step = $ENV{SENDKIT_TEST_EVERY} || 2 * $step + 1;
	for (;; $n += $step)
	{
		my $try = try_sql($session, $kind, $n, $make->());
		last if !$try->{lost} && !$try->{reached};
		my $what = $try->{lost} ? 'the session is lost' : $judge->($session, $try);
		push @wrong, "$n: $what\n@{$try->{rows}}\n$try->{stderr}" if $what;
		last if @wrong > 5;
		$seen{ $try->{sqlstate} || 'no error' }++;
		my $last = $session;
		$session = $session_of->($session);
		($descriptors, $memory) = holdings($session)
		  if $session == $last && keys %seen == 2 && !defined $memory;
	}
	note("$name: ", $n - 1, ' allocations; ', join ', ', map { "$_: $seen{$_}" } sort keys %seen);
	ok(scalar(keys %seen), "$name: there are allocations");
	is(join("\n", @wrong), '', "$name: whichever fails, all is well");
	return unless defined $memory;

	my ($descriptors_now, $memory_now) = holdings($session);
	note("$name: growth ", $memory_now - $memory, ' kB');
	is($descriptors_now, $descriptors, "$name: no descriptor is left");
	ok($memory_now - $memory < 1000 || !memory_is_plain($session->pid), "$name: nor memory");
	return;
}

# How often the API was asked for an id
sub sent
{
	my ($id) = @_;
	return scalar @{ $api->requests(id => $id) };
}

# What contradicts what: an outcome, and how often it was sent
sub contradicts
{
	my ($outcome, $sent) = @_;
	return "sent $sent times" if $sent > 1;
	return "$outcome, but sent" if $sent && $outcome =~ /^(unavailable|not sent)$/;
	return "$outcome, but not sent" if !$sent && $outcome =~ /^(deleted|absent|rejected)$/;
	return '';
}

# OpenSSL may keep, in the process, what it could not set up for want of memory (3.5
# was seen to).  Then no connection is trusted any more, but in another session.
sub next_is_wrong
{
	my ($session) = @_;
	my $next = $session->call('ws-' . ++$serial);

	if ($next->{outcome} eq 'unavailable' && $next->{message} =~ /trusted connection/)
	{
		my $other = fresh_by_tls();
		$next = $other->call('ws-' . ++$serial);
		$other->quit;
	}
	return $next->{outcome} eq 'deleted' ? '' : "the next call: $next->{message}";
}

# A session that stays; and one for each try, plain or by TLS
sub staying
{
	my ($session) = @_;
	return $session if $session;
	$session = SendkitTest::Session->new($node);
	$session->call('ws-' . ++$serial);
	return $session;
}

sub fresh
{
	my ($session) = @_;
	$session->quit if $session;
	$session = SendkitTest::Session->new($node);
	$session->query("LOAD 'sendkit'");
	return $session;
}

sub fresh_by_tls
{
	my $session = fresh(@_);
	$session->query('SET sendkit.base_url = ' . literal($api->url('https')));
	return $session;
}

# --- one key ---

# An error is right when nothing was sent; else there is a row, or a notice and a
# line in the log that say what it would have said.
sub one_key
{
	my ($name, $kind, $step, $session_of, $directives) = @_;
	my $id;

	starve_all(
		"one key, $name", $kind, $step,
		$session_of,
		sub {
			$id = 'ws-' . ++$serial . $directives;
			return "SELECT success || '|' || message FROM sendkit_delete_api_key('$id', '$KEY')";
		},
		sub {
			my ($session, $try) = @_;
			my $row = $try->{rows}[0] // '';
			my $outcome;

			if ($try->{sqlstate})
			{
				return "error $try->{sqlstate}" if $try->{sqlstate} ne '53200';
				$outcome = $try->{stderr} =~ /sendkit_delete_api_key was interrupted: (.+)$/m ? $1 : 'not sent';
			}
			else
			{
				$outcome =
				    $row =~ /^true\|/ ? 'deleted'
				  : $row =~ /nothing was deleted$/ ? 'unavailable'
				  : $row =~ /may or may not have been deleted$/ ? 'unknown'
				  : 'refused';
			}
			return contradicts($outcome, sent($id)) || next_is_wrong($session);
		});
	return;
}

# --- many keys ---

# Rows, or a notice that names the outcomes; an error without one came before
# anything was sent.
sub many_keys
{
	my ($name, $kind, $step, $set) = @_;
	my $session = staying();
	my @ids;

	$session->query("SET sendkit.$_ = " . literal($set->{$_})) foreach sort keys %$set;
	starve_all(
		"many keys, $name", $kind, $step,
		sub { $session },
		sub {
			@ids = map { 'ws-' . ++$serial . $_ } '', ';status=403', ';body=long-message', '';
			return "SELECT workspace_id || ': ' || outcome FROM sendkit_delete_api_keys(ARRAY["
			  . join(',', map { "'$_'" } @ids) . "], '$KEY')";
		},
		sub {
			my ($session, $try) = @_;
			my $told = join ', ', @{ $try->{rows} };

			return "error $try->{sqlstate}" if $try->{sqlstate} && $try->{sqlstate} ne '53200';
			$told = $try->{stderr} =~ /was interrupted: .*\nDETAIL:  (.*)/ ? $1 : ''
			  if $try->{sqlstate};
			foreach my $id (@ids)
			{
				my $outcome = $told =~ /\Q$id\E: (not sent|\w+)/ ? $1 : 'not sent';
				my $what = contradicts($outcome, sent($id));
				return "$id: $what" if $what;
			}
			return next_is_wrong($session);
		});
	return;
}

# --- later ---

# A revocation is in the queue, or there was an error, also where the commit is to
# wake a worker.
sub enqueue
{
	my ($name, $kind, $how, $ask) = @_;
	my $id;

	starve_all(
		"enqueue, $name", $kind, $kind == $MALLOC ? 1 : 3,
		\&staying,
		sub {
			$id = 'ws-' . ++$serial;
			return "SET sendkit.auto_deliver = $how; " . ($ask =~ s/\$id/$id/r);
		},
		sub {
			my ($session, $try) = @_;
			return "error $try->{sqlstate}" if $try->{sqlstate} && $try->{sqlstate} ne '53200';
			my $queued = $session->value(
				"SELECT count(*) FROM sendkit_revocation WHERE workspace_id = '$id'");
			return "queued $queued times" if $queued != ($try->{sqlstate} ? 0 : 1);
			return next_is_wrong($session);
		});
	return;
}

# Whatever a delivery was in the middle of, the next one completes it.
sub process
{
	my ($kind, $step) = @_;
	my $ids;

	$node->safe_psql('postgres', 'TRUNCATE sendkit_revocation');
	starve_all(
		'process', $kind, $step,
		\&staying,
		sub {
			my @ids = map { 'ws-' . ++$serial } 1 .. 2;
			$ids = join ',', map { "'$_'" } @ids;
			return 'SET sendkit.auto_deliver = off; SELECT FROM unnest(ARRAY['
			  . "$ids]) id, sendkit_request_revocation(id); CALL sendkit_process_revocations()";
		},
		sub {
			my ($session, $try) = @_;
			return "error $try->{sqlstate}" if $try->{sqlstate} && $try->{sqlstate} ne '53200';
			$session->query("UPDATE sendkit_revocation SET next_attempt_at = now() WHERE state = 'pending'");
			my $again = $session->query('CALL sendkit_process_revocations()');
			return "the next delivery: $again->{stderr}" if $again->{sqlstate} ne '00000';
			my $left = $session->query('SELECT concat_ws($$ $$, state, outcome, attempts, message) '
				  . "FROM sendkit_revocation WHERE state <> 'done'")->{rows};
			return "left: @$left" if @$left;
			return next_is_wrong($session);
		});
	return;
}

# --- each of them ---

$node->safe_psql('postgres', <<'EOS');
CREATE TABLE workspace (id text);
CREATE TRIGGER revoke AFTER DELETE ON workspace
	FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
EOS
my $request = q{SELECT sendkit_request_revocation('$id')};
my $delete = q{TRUNCATE workspace; INSERT INTO workspace VALUES ('$id'); DELETE FROM workspace};

# AddressSanitizer and valgrind answer for malloc() themselves
my @kinds = memory_is_plain(SendkitTest::Session->new($node)->pid) ? ($MALLOC, $PALLOC) : ($PALLOC);
foreach my $kind (@kinds)
{
	one_key('warm', $kind, 1, \&staying, '');
	one_key('a large answer', $kind, 1, \&staying, ';body=details-scalars;status=403');
	one_key('a long message', $kind, 1, \&staying, ';body=long-message');
	one_key('cold', $kind, 5, \&fresh, '');
	one_key('cold by TLS', $kind, $kind == $MALLOC ? 997 : 3, \&fresh_by_tls, '');
	many_keys('warm', $kind, 1, {});
	many_keys('HTTP/2', $kind, 5, { base_url => $api->url('h2') }) if $api->port('h2');
	enqueue('by a call', $kind, 'off', $request);
	enqueue('by a trigger', $kind, 'off', $delete);
	# what is allocated at commit has its room beforehand: contexts need not ask for it
	enqueue('to be woken', $kind, 'on', $request) if $kind == $MALLOC;
	process($kind, 3);
}

ok_key_not_logged($node);
done_testing();
