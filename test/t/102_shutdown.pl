# A call holds nothing up.
#
# A server that is to stop, a database that is to be dropped, a postmaster that
# has died: none of them can wait for a vendor's answer.  Each of these is tried
# with a session in mid-request, at a stand-in that never answers, and with one
# that hangs in the resolver, where libcurl's own cleanup would wait.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(time);

# Longer than the request may take, were it waited for
my $STUCK_SECONDS = int($SendkitTest::HANG) + 3;

my $api = SendkitStandin->start(tls => 1);
my $library = preload_library('stuck_resolver');
my %env = (
	$library ? (LD_PRELOAD => $library) : (),
	STUCK_HOST => 'stuck.test',
	STUCK_SECONDS => $STUCK_SECONDS);
my $node = start_node($api, listener => 'https', env => \%env);

my @waits = ([ 'waiting for an answer', $api->url('https') ]);
push @waits, [ 'resolving a name', 'https://stuck.test' ] if $library;

sub session_in_mid_request
{
	my ($wait, $dbname) = @_;
	my $watcher = SendkitTest::Session->new($node);
	my $session = SendkitTest::Session->new($node, dbname => $dbname);
	$session->query(
		SendkitTest::_settings_sql({
				base_url => $wait->[1],
				connect_timeout => '1min',
				request_timeout => '1min' }));
	$session->send(call_sql('ws;silent'));
	$watcher->wait_for_wait($session);
	$watcher->quit;
	return $session;
}

sub start_again
{
	local %ENV = (%ENV, %env);
	$node->start;
	return;
}

foreach my $wait (@waits)
{
	foreach my $mode ('fast', 'immediate')
	{
		my $name = "$mode shutdown while $wait->[0]";
		my $session = session_in_mid_request($wait);
		my $start = time();
		$node->stop($mode);
		prompt(time() - $start, $name);
		ok($session->result->{lost}, "$name: the session has ended");
		ok(process_is_gone($session->pid), "$name: so has its backend");
		start_again();
		is_outcome(call($node, "ws-after-$mode-$wait->[0]"), 'deleted',
			"$name: the server starts and works");
	}

	# the other session's call must not keep the database alive
	my $name = "DROP DATABASE while $wait->[0]";
	$node->safe_psql('postgres', 'CREATE DATABASE doomed');
	$node->safe_psql('doomed', 'CREATE EXTENSION sendkit');
	my $session = session_in_mid_request($wait, 'doomed');
	my $start = time();
	$node->safe_psql('postgres', 'DROP DATABASE doomed WITH (FORCE)');
	prompt(time() - $start, $name);
	my $result = $session->result;
	ok($result->{lost}, "$name: the session has ended");
	is($result->{sqlstate}, '57P01', "$name: admin_shutdown");
}

# Nobody is left to send a signal to the orphans: they have to notice by
# themselves.
{
	my @sessions = map { session_in_mid_request($_) } @waits;
	my $start = time();
	$node->kill9;
	foreach my $i (0 .. $#waits)
	{
		my $name = "the postmaster dies while $waits[$i][0]";
		wait_until(sub { process_is_gone($sessions[$i]->pid) },
			'the orphan has ended');
		prompt(time() - $start, $name);
		ok($sessions[$i]->result->{lost}, "$name: the session has ended");
	}
}

ok_key_not_logged($node);
done_testing();
