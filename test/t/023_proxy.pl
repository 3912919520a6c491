# A proxy carries the connection and learns nothing from it.
#
# With https it is asked for a tunnel, and what goes through is for the API's
# eyes only: no header of ours, least of all the key, may be in what the proxy
# itself gets. Plain http would show it the key, so plain http, which never leaves
# this machine anyway, goes past the proxy. Before the tunnel stands, nothing can
# have been deleted.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use POSIX ();
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Socket qw(AF_INET AF_INET6 inet_ntop);
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $proxy = 'http://127.0.0.1:' . $api->port('proxy');
my $node = start_node($api,
	listener => 'https',
	conf => "sendkit.proxy = '$proxy'\nsendkit.max_retries = 0\n");

sub proxied { return $api->control('GET', '/proxy-requests') }

sub as_text { return JSON::PP->new->canonical->encode($_[0]) }

# A tunnel to each kind of API.
for my $listener (grep { $api->port($_) } qw(https h2))
{
	$api->reset;
	is_outcome(call($node, "ws-$listener", set => { base_url => $api->url($listener) }),
		'deleted', "$listener: a key is deleted through the proxy");
	ok(!$api->key_alive("ws-$listener"), "$listener: it is gone");

	my ($seen, @more) = @{ proxied() };
	is(scalar @more, 0, "$listener: the proxy got one request");
	is("$seen->{method} $seen->{target}",
		'CONNECT localhost:' . $api->port($listener),
		"$listener: which asks for a tunnel");
	my @names = sort map { lc $_->[0] } @{ $seen->{headers} };
	is_deeply([ grep { !/^(host|user-agent|proxy-connection)$/ } @names ],
		[], "$listener: with no header of the API's request");
	unlike(as_text($seen), qr/\Q$KEY\E|ws-|api-key|json/i,
		"$listener: and no trace of the key, the id or the endpoint");
}

# A proxy resolves names that nobody here knows, and the certificate is checked
# against the name, not the address: this one is for wrong.example.
is_outcome(
	call($node, 'ws-name',
		set => { base_url => 'https://wrong.example:' . $api->port('https_wronghost') }),
	'deleted', 'the proxy resolves the name, the certificate proves it');
is_outcome(
	call($node, 'ws-no-name',
		set => { base_url => 'https://wrong.example:' . $api->port('https') }),
	'unavailable', 'a tunnel to somebody else is not trusted');
ok($api->key_alive('ws-no-name'), 'and nothing is deleted there');

# The proxy's password is for the proxy.
$api->reset;
is_outcome(
	call($node, 'ws-password',
		set => { proxy => 'http://us%3Aer:pass-w%6frd@127.0.0.1:' . $api->port('proxy') }),
	'deleted', 'a proxy with a password');
my %shown = map { lc $_->[0] => $_->[1] } @{ proxied()->[0]{headers} };
is($shown{'proxy-authorization'}, 'Basic dXM6ZXI6cGFzcy13b3Jk',
	'the proxy gets its password');
unlike(as_text($api->requests), qr/authorization|pass-w/i,
	'and the API does not');

# No tunnel, no request.
for my $status (403, 407, 429, 502, 503, 302)
{
	$api->reset;
	$api->control('POST', '/proxy', { status => $status });
	my $answer = call($node, "ws-$status",
		set => { proxy => 'http://user:pass-word@127.0.0.1:' . $api->port('proxy') });
	is_outcome($answer, 'unavailable', "a proxy that answers $status");
	unlike($answer->{message}, qr/pass-word/, "$status: its password is not shown");
	is($api->stats->{accepted}{total}, 0, "$status: the API saw no connection");
	ok(scalar @{ proxied() }, "$status: the proxy was asked");
}

# What the proxy says is not what the API says: its status is in no column.
is( $node->safe_psql('postgres',
		"SELECT outcome, status IS NULL, error_code IS NULL FROM sendkit_delete_api_keys('{ws-column}', '$KEY')"),
	'unavailable|t|t', "the proxy's refusal is not taken for an answer");
$api->control('POST', '/proxy', {});

my $dead = call($node, 'ws-dead',
	set => { proxy => 'http://user:pass-word@127.0.0.1:' . $api->port('closed') });
is_outcome($dead, 'unavailable', 'a proxy that is down');
unlike($dead->{message}, qr/pass-word/, 'its password is not shown');
ok($api->key_alive('ws-dead'), 'nothing is deleted, nor sent around the proxy');

# TLS to the proxy itself is verified as well, before it is asked for anything.
$api->reset;
my $untrusted = call($node, 'ws-https-proxy',
	set => { proxy => 'https://localhost:' . $api->port('https_selfsigned') });
is_outcome($untrusted, 'unavailable', 'an https proxy with a bad certificate');
is($api->stats->{requests}{total}, 0, 'it is told nothing');

# Plain http would show it the key.
$api->reset;
is_outcome(call($node, 'ws-plain', set => { base_url => $api->url('http') }),
	'deleted', 'plain http works beside a proxy');
is(scalar @{ proxied() }, 0, 'which is not asked');

# In one session, what was connected one way is not used for another.
$api->reset;
my $other_proxy = 'http://localhost:' . $api->port('proxy');
my $session = SendkitTest::Session->new($node);
my $n = 0;
for my $way ($proxy, $proxy, '', $other_proxy, '', $proxy)
{
	is_outcome($session->call('ws-way-' . $n++, set => { proxy => $way }),
		'deleted', 'in one session: by ' . ($way ? 'a proxy' : 'no proxy'));
}
$session->quit;
my @connections = map { $_->{connection} } @{ $api->requests };
# Newer versions of libcurl let TLS read ahead: then nothing is used again.
my $again = libcurl_version() < 8.15 ? 1 : 0;
my %distinct = map { $_ => 1 } @connections;
is($connections[0] == $connections[1] ? 1 : 0, $again,
	'a connection is used again under the same proxy, where that is safe');
is(scalar keys %distinct, 6 - $again, 'and never under another, nor without');
is(scalar @{ proxied() }, 4 - $again, 'the proxies were asked for each tunnel of theirs');

# SOCKS: a server of a few lines that does what RFC 1928 calls CONNECT, leads
# everything to 127.0.0.1, and writes down what it was asked and every byte sent.
sub socks_server
{
	my ($journal) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 5) or die "listen: $!";
	my $pid = fork // die "fork: $!";
	return ($listener->sockport, $pid) if $pid;

	# Not to outlive the test for long, whatever becomes of it.
	alarm 300;
	open(my $log, '>>', $journal) or POSIX::_exit(1);
	binmode $log;
	$log->autoflush;

	my $take = sub {
		my ($from, $length) = @_;
		my $bytes = '';
		while (length $bytes < $length)
		{
			sysread($from, $bytes, $length - length $bytes, length $bytes) or return '';
		}
		return $bytes;
	};

	CLIENT: while (my $client = $listener->accept)
	{
		my ($version, $methods) = unpack 'CC', $take->($client, 2);
		$take->($client, $methods);
		$client->syswrite("\x05\x00");
		my (undef, undef, undef, $kind) = unpack 'C4', $take->($client, 4);
		my $host =
		    $kind == 3 ? $take->($client, unpack 'C', $take->($client, 1))
		  : $kind == 4 ? inet_ntop(AF_INET6, $take->($client, 16))
		  : inet_ntop(AF_INET, $take->($client, 4));
		my $port = unpack 'n', $take->($client, 2);
		print $log "\nsocks$version asked for $host:$port\n";

		my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
		$client->syswrite(pack 'C4 C4 n', 5, $server ? 0 : 5, 0, 1, 127, 0, 0, 1, 0);
		next unless $server;
		my %peer = ($client => $server, $server => $client);
		my $both = IO::Select->new($client, $server);
		while (my @ready = $both->can_read)
		{
			for my $from (@ready)
			{
				next CLIENT unless sysread $from, my $bytes, 65536;
				print $log $bytes if $from == $client;
				$peer{$from}->syswrite($bytes);
			}
		}
	}
	POSIX::_exit(0);
}

my $journal = PostgreSQL::Test::Utils::tempdir() . '/socks';
my ($socks_port, $socks_pid) = socks_server($journal);
is_outcome(
	call($node, 'ws-socks5', set => { proxy => "socks5://127.0.0.1:$socks_port" }),
	'deleted', 'SOCKS 5');
is_outcome(
	call($node, 'ws-socks5h',
		set => {
			proxy => "socks5h://127.0.0.1:$socks_port",
			base_url => 'https://wrong.example:' . $api->port('https_wronghost') }),
	'deleted', 'SOCKS 5 with names that only the proxy knows');
is_outcome(
	call($node, 'ws-socks-refused',
		set => {
			proxy => "socks5h://127.0.0.1:$socks_port",
			base_url => 'https://localhost:' . $api->port('closed') }),
	'unavailable', 'SOCKS 5 to a host that is down');
kill 'KILL', $socks_pid;
waitpid $socks_pid, 0;
my $seen = slurp_file($journal);
like($seen, qr/^socks5 asked for (?:127\.0\.0\.1|::1):@{[ $api->port('https') ]}\n/m,
	'the first was asked for by address');
like($seen, qr/^socks5 asked for wrong\.example:@{[ $api->port('https_wronghost') ]}\n/m,
	'the second by name');
unlike($seen, qr/\Q$KEY\E|ws-socks|X-Api-Key/i, 'and it saw neither key nor request');

# The setting may hold a password, so it is for superusers to see.
$node->append_conf('postgresql.conf',
	"session_preload_libraries = 'sendkit'\n"
	  . "sendkit.proxy = 'http://user:pass-word\@127.0.0.1:1'\n");
$node->reload;
$node->safe_psql('postgres', 'CREATE ROLE ordinary LOGIN');
my @as_ordinary = (extra_params => [ '-U', 'ordinary' ]);
is( $node->safe_psql('postgres', 'SELECT setting FROM pg_settings WHERE name = $$sendkit.proxy$$'),
	'http://user:pass-word@127.0.0.1:1', 'a superuser sees the proxy');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM pg_settings WHERE setting LIKE $$%pass-word%$$ OR reset_val LIKE $$%pass-word%$$',
		@as_ordinary),
	'0', 'an ordinary role sees it nowhere in pg_settings');
for my $sql ('SHOW sendkit.proxy', "SELECT current_setting('sendkit.proxy')",
	"SELECT current_setting('sendkit.proxy', true)", "SET sendkit.proxy = ''")
{
	my ($status, $out, $err) = $node->psql('postgres', $sql, @as_ordinary);
	isnt($status, 0, "$sql: not for an ordinary role");
	like($err, qr/must be superuser|permission denied/, "$sql: says why");
	unlike("$out$err", qr/pass-word/, "$sql: shows nothing");
}

$node->stop;
done_testing();
