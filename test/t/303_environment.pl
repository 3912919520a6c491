# What the server's environment says about proxies, secrets and trust is for
# other programs.
#
# A server inherits its environment from whoever started it, and libcurl listens
# to a good deal of it: proxies that would see where we go (for plain http even
# the key), a file to write the session secrets of TLS to, passwords to send
# along. Two servers are started in a hostile environment: one that would have
# everything go through a proxy and be logged, one that would have nothing go
# through the proxy that is set.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $home = PostgreSQL::Test::Utils::tempdir();
my $key_log = "$home/key.log";
my $proxy = 'http://127.0.0.1:' . $api->port('proxy');
my $login = 'login netrc-user password netrc-password';

append_to_file("$home/.netrc",
	"machine localhost $login\nmachine 127.0.0.1 $login\ndefault $login\n");
chmod 0600, "$home/.netrc" or die;
append_to_file("$home/.curlrc",
	"insecure\nnetrc\nuser = rc-user:rc-password\nheader = \"X-Rc: rc\"\nproxy = $proxy\n");

my %no_exception = (NO_PROXY => '', no_proxy => '');
my %proxies = map { $_ => $proxy, uc($_) => $proxy }
  qw(http_proxy https_proxy all_proxy);
my %files = (
	HOME => $home,
	CURL_HOME => $home,
	XDG_CONFIG_HOME => $home,
	NETRC => "$home/.netrc",
	SSLKEYLOGFILE => $key_log);
my %trust = (
	SSL_CERT_FILE => $api->ca,
	SSL_CERT_DIR => $api->ca =~ s{/[^/]*$}{}r,
	CURL_CA_BUNDLE => $api->ca);

sub proxied { return $api->control('GET', '/proxy-requests') }

# A hash of a request's headers, names in lower case.
sub headers_of
{
	my ($id) = @_;
	my ($request) = @{ $api->requests(id => $id) };
	return { map { lc $_->[0] => $_->[1] } @{ $request->{headers} } };
}

my $node = start_node($api,
	name => 'seduced',
	env => { %no_exception, %proxies, %files, %trust },
	conf => "sendkit.max_retries = 0\n");

# The environment must have arrived, or nothing here could fail.
SKIP:
{
	my $pid = $node->safe_psql('postgres', 'SELECT pg_backend_pid()');
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	open(my $environ, '<', "/proc/$postmaster/environ")
	  or skip 'no /proc here', 1;
	local $/;
	my $got = <$environ>;
	# a server may have moved its environment to show its process title
	skip 'the environment of a process cannot be seen here', 1
	  unless $got =~ /\w=/;
	like($got, qr/SSLKEYLOGFILE=\Q$key_log\E/, 'the server has that environment');
}

# All that a call sends.
my $expected = {
	'accept' => 'application/json',
	'content-type' => 'application/json',
	'x-api-key' => $KEY
};

for my $listener (grep { $api->port($_) } qw(http https h2))
{
	my $id = "ws-$listener";
	is_outcome(call($node, $id, set => { base_url => $api->url($listener) }),
		'deleted', "$listener: the call works as ever");
	is(scalar @{ proxied() }, 0, "$listener: the proxy of the environment sees nothing");

	my $headers = headers_of($id);
	# what names the host, the client and HTTP/2's target is not asked about
	delete @$headers{ 'host', 'user-agent', grep { /^:/ } keys %$headers };
	is_deeply($headers, $expected, "$listener: nothing was added to the request");
}
ok(!-e $key_log, 'no secret of a connection was written to a file');

# Names to be found in .netrc do not come from the setting only.
is_outcome(
	call($node, 'ws-netrc', set => { base_url => 'http://localhost:' . $api->port('http') }),
	'deleted', 'a host that .netrc has a password for');
ok(!exists headers_of('ws-netrc')->{authorization}, 'no password was sent to it');

# Trust comes from ca_file, or from what libcurl was built to trust.
$api->reset;
is_outcome(
	call($node, 'ws-trust', set => { base_url => $api->url('https'), ca_file => '' }),
	'unavailable', 'certificates that the environment names are not trusted');
is($api->stats->{requests}{total}, 0, 'and nothing was sent');

# The variable is hidden from libcurl, not taken from the session.
$api->reset;
my $env = $node->safe_psql('postgres', <<"SQL");
SELECT success FROM sendkit_delete_api_key('ws-env', '$KEY');
CREATE TABLE env (line text);
COPY env FROM PROGRAM 'printenv SSLKEYLOGFILE';
SELECT * FROM env;
SQL
is($env, "t\n$key_log", "the session's programs find their environment as it was");
ok(!-e $key_log, 'and still no secret was written');
$node->stop;

# The other way round: exceptions, and trust in nobody.
my $node2 = start_node($api,
	name => 'deterred',
	listener => 'https',
	env => {
		NO_PROXY => '*',
		no_proxy => '*',
		SSL_CERT_FILE => '/nonexistent/file',
		SSL_CERT_DIR => '/nonexistent',
		CURL_CA_BUNDLE => '/nonexistent/file',
	},
	conf => "sendkit.proxy = '$proxy'\nsendkit.max_retries = 0\n");
is_outcome(call($node2, 'ws-proxied'), 'deleted', 'a call through the proxy that is set');
is(scalar @{ proxied() }, 1, 'no exception of the environment leads around it');
$node2->stop;

# "localhost" is this machine: no name server is asked, which might lie or hang.
SKIP:
{
	my $library = preload_library('stuck_resolver')
	  or skip 'no preloading here', 3;
	skip 'this libcurl asks one', 3 if libcurl_version() && libcurl_version() < 7.78;
	my $node3 = start_node($api,
		name => 'misled',
		env => { LD_PRELOAD => $library, STUCK_HOST => 'localhost', STUCK_SECONDS => 20 },
		conf => "sendkit.connect_timeout = '10s'\nsendkit.max_retries = 0\n");
	for my $listener (qw(http https))
	{
		is_outcome(
			call($node3, "ws-local-$listener",
				set => { base_url => $api->url($listener) =~ s/127\.0\.0\.1/localhost/r }),
			'deleted', "$listener: localhost is found without being looked up");
	}
	# ... or else nothing here could fail
	isnt(
		$node3->psql('postgres',
			q{CREATE TEMP TABLE found (line text); COPY found FROM PROGRAM 'timeout 2 getent ahosts localhost'}),
		0, 'who does look it up has to wait');
	$node3->stop;
}

# An older one asks, but plain http then goes to this machine or nowhere.
SKIP:
{
	my $library = preload_library('odd_localhost');
	skip 'no C compiler', 3 unless $library;
	my $node4 = start_node($api,
		name => 'elsewhere',
		env => { LD_PRELOAD => $library },
		conf => "sendkit.max_retries = 0\n");
	my $by_itself = !libcurl_version() || libcurl_version() >= 7.78;
	my %outcome = (http => $by_itself ? 'deleted' : 'unavailable', https => 'deleted');
	for my $listener (sort keys %outcome)
	{
		is_outcome(
			call($node4, "ws-odd-$listener",
				set => { base_url => $api->url($listener) =~ s/127\.0\.0\.1/localhost/r }),
			$outcome{$listener}, "$listener: localhost is said to be elsewhere");
	}
	is( scalar @{ $api->requests(id => 'ws-odd-http') },
		$by_itself ? 1 : 0, 'plain http goes there by no means');
	$node4->stop;
}

done_testing();
