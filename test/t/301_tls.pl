# The key goes to the API alone, or nowhere.
#
# Each listener here is the API itself with one thing wrong with its TLS, so
# whoever fails to check that one thing would get a cheerful "deleted". What has
# to come instead is a row that says that nothing was deleted, and the API must
# not have seen a single request: the handshake is where it ends, and a second
# try would not make a bad certificate good.
#
# And what is trusted is trusted: a CA in the file that ca_file names, or, without
# one, in the system's trust store, in each of the forms that it may have. As no
# test may write there, a preloaded library (test/preload/trust_store.c) puts a
# folder of ours in the store's place.

use strict;
use warnings;

use File::Basename qw(basename);
use IO::Socket::INET;
use IO::Socket::IP;
use IO::Select;
use POSIX ();
use PostgreSQL::Test::Utils;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);

# The system's own OpenSSL configuration may forbid what is old and weak. It
# must not be the only thing that does.
my $openssl_conf = PostgreSQL::Test::Utils::tempdir() . '/openssl.cnf';
append_to_file($openssl_conf, <<'CONF');
openssl_conf = everything
[everything]
ssl_conf = ssl
[ssl]
system_default = lenient
[lenient]
MinProtocol = TLSv1
CipherString = DEFAULT:@SECLEVEL=0
CONF

my $node = start_node($api,
	listener => 'https',
	env => { OPENSSL_CONF => $openssl_conf },
	conf => "sendkit.connect_timeout = 30s\nsendkit.max_retries = 3\n");

my $no_trust =
  qr/^could not establish a trusted connection to the SendKit API: .+; nothing was deleted$/;

# One call that must end in the handshake of this listener.
sub refused_ok
{
	my ($what, $listener, %setting) = @_;

	$api->reset;
	my $id = "ws-$listener";
	my $answer = call($node, $id,
		set => { base_url => $api->url($listener), %setting });
	is_outcome($answer, 'unavailable', "$what: no key was deleted");
	like($answer->{message}, $no_trust, "$what: for want of trust");
	my $stats = $api->stats;
	is($stats->{requests}{total}, 0, "$what: not one request arrived");
	is($stats->{accepted}{$listener}, 1, "$what: it was tried once");
	return;
}

sub trusted_ok
{
	my ($what, $id, %setting) = @_;
	is_outcome(call($node, $id, set => \%setting), 'deleted', $what);
	return;
}

# The proof that what fails below fails for the reason given.
trusted_ok('a good certificate is trusted', 'ws-good');
trusted_ok('a certificate for an address is trusted at that address',
	'ws-address', base_url => 'https://127.0.0.1:' . $api->port('https'));

refused_ok('expired certificate', 'https_expired');
refused_ok('certificate for another host', 'https_wronghost');
refused_ok('certificate for another host, by address', 'https_wronghost',
	base_url => 'https://127.0.0.1:' . $api->port('https_wronghost'));
refused_ok('self-signed certificate', 'https_selfsigned');

SKIP:
{
	skip 'the TLS library of the stand-in has no TLS 1.1', 4
	  unless $api->port('https_tls11');
	refused_ok('nothing newer than TLS 1.1', 'https_tls11');
}

# Whom to trust: ca_file is a bundle, and the only source.
my $other_ca = PostgreSQL::Test::Utils::tempdir() . '/other.pem';
system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
	'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=another CA',
	'-keyout', "$other_ca.key", '-out', $other_ca);
refused_ok('unknown CA', 'https', ca_file => $other_ca);
refused_ok("the system's trust store", 'https', ca_file => '');

my ($other, $ours) = map { slurp_file($_) } ($other_ca, $api->ca);
my @bundles = map { PostgreSQL::Test::Utils::tempdir() . "/bundle.pem" } 1 .. 2;
append_to_file($bundles[0], "# two authorities\n$other\n$ours");
append_to_file($bundles[1], "$ours\n$other");
for my $i (0, 1)
{
	trusted_ok("the CA is found at place @{[ 2 - $i ]} of a bundle",
		"ws-bundle-$i", ca_file => $bundles[$i]);
}

# A file that holds no certificate trusts nobody.
my $no_ca = PostgreSQL::Test::Utils::tempdir() . '/empty.pem';
append_to_file($no_ca, "no certificate in here\n");
refused_ok('a file without certificates', 'https', ca_file => $no_ca);

# No ca_file: the system's trust store is the source, a folder of certificates
# that are found by their hashed names, and a bundle of them all in one file. A
# machine may have both or (as some container images do) the bundle alone, and
# either has to do.

# What the libcurl that sendkit uses was built with: the TLS library's name with
# its version, the bundle, and the folder. It is asked by numbers of curl.h:
# CURLINFO_CAINFO and CURLINFO_CAPATH, of which one older than 7.84 knows nothing.
sub libcurl_defaults
{
	my $folder = $node->safe_psql('postgres',
		q{SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'});
	my ($libcurl) = `ldd '$folder/sendkit.so'` =~ /libcurl\S* => (\S+)/ or return;
	open(my $answer, '-|', 'python3', '-c', <<'PYTHON', $libcurl) or return;
import ctypes, sys

libcurl = ctypes.CDLL(sys.argv[1])
libcurl.curl_version.restype = ctypes.c_char_p
libcurl.curl_easy_init.restype = ctypes.c_void_p
easy = ctypes.c_void_p(libcurl.curl_easy_init())
print(libcurl.curl_version().decode().split()[1])
for info in 0x100000 + 61, 0x100000 + 62:
    text = ctypes.c_char_p()
    libcurl.curl_easy_getinfo(easy, info, ctypes.byref(text))
    print((text.value or b"").decode())
PYTHON
	chomp(my @answer = <$answer>);
	return @answer;
}

sub store_with
{
	my ($store, %content) = @_;
	unlink glob "$store/*";
	append_to_file("$store/$_", $content{$_}) foreach keys %content;
	return;
}

SKIP:
{
	my ($tls, $bundle, $folder) = libcurl_defaults();
	note("libcurl uses $tls, ", $bundle || 'no bundle', ', ', $folder || 'no folder')
	  if $tls;
	my $library = preload_library('trust_store');
	skip 'where libcurl looks for certificates is not known', 11 unless $bundle;
	skip 'libcurl uses another TLS library than OpenSSL', 11 unless $tls =~ /^OpenSSL/;
	skip 'no compiler for a library to preload', 11 unless $library;

	my $store = PostgreSQL::Test::Utils::tempdir();
	my $hash = `openssl x509 -noout -hash -in '@{[ $api->ca ]}'`;
	my $other_hash = `openssl x509 -noout -hash -in '$other_ca'`;
	chomp($hash, $other_hash);
	my $machine = start_node($api,
		name => 'machine',
		listener => 'https',
		env => { LD_PRELOAD => $library,
			CA_BUNDLE => $bundle,
			CA_FOLDER => $folder,
			CA_INSTEAD => $store },
		conf => "sendkit.ca_file = ''\n");
	my $name = basename($bundle);

	# Without our CA nothing: it is really this store that is looked at.
	store_with($store, "$other_hash.0" => $other, $name => $other);
	$api->reset;
	my $answer = call($machine, 'ws-store-other');
	is_outcome($answer, 'unavailable', 'a store without our CA does not trust us');
	like($answer->{message}, $no_trust, 'a store without our CA: for want of trust');
	store_with($store);
	$answer = call($machine, 'ws-store-empty');
	is_outcome($answer, 'unavailable', 'an empty store trusts nobody');
	like($answer->{message}, $no_trust, 'an empty store: for want of trust');
	is($api->stats->{requests}{total}, 0, 'neither let a request through');

	SKIP:
	{
		skip 'this libcurl has no folder of certificates', 2 unless $folder;
		store_with($store, "$hash.0" => $ours, $name => $other);
		is_outcome(call($machine, 'ws-store-hashed'), 'deleted',
			'a CA is found by its hashed name, when the bundle is without it');
		store_with($store,
			"$hash.0" => $ours, "$other_hash.0" => $other, $name => "$other\n$ours");
		is_outcome(call($machine, 'ws-store-both'), 'deleted',
			'a CA is found in a store that has both');
	}

	store_with($store, $name => "$other\n$ours");
	is_outcome(call($machine, 'ws-store-bundle'), 'deleted',
		'a CA is found in a bundle, without hashed names');
	# Names that look like hashed ones, but nothing is looked up by them.
	store_with($store,
		$name => "$other\n$ours",
		"$hash.pem" => $ours, "$hash.r0" => '', "0$hash.0" => $ours, 'README' => '');
	is_outcome(call($machine, 'ws-store-plain-names'), 'deleted',
		'a CA is found in a bundle beside files of other names');

	# What ca_file names is the only source, whatever the store holds.
	store_with($store, "$hash.0" => $ours, $name => "$other\n$ours");
	$api->reset;
	is_outcome(call($machine, 'ws-store-file', set => { ca_file => $other_ca }),
		'unavailable', 'with ca_file a CA of the store does not count');
	is($api->stats->{requests}{total}, 0, 'and not one request arrived');
	$machine->stop;
}

# In one session: a connection that was trusted under one CA is not used under
# another, a failure leaves nothing behind, and each transport keeps to itself.
$api->reset;
my $session = SendkitTest::Session->new($node);
my @steps = (
	[ 'the right CA', 'deleted', {} ],
	[ 'another CA', 'unavailable', { ca_file => $other_ca } ],
	[ "the system's CAs", 'unavailable', { ca_file => '' } ],
	[ 'the right CA again', 'deleted', { ca_file => $api->ca } ],
	[ 'a bad certificate', 'unavailable', { base_url => $api->url('https_expired') } ],
	[ 'a good one again', 'deleted', { base_url => $api->url('https') } ]);
for my $i (0 .. $#steps)
{
	my ($what, $outcome, $set) = @{ $steps[$i] };
	is_outcome($session->call("ws-step-$i", set => $set),
		$outcome, "in one session: $what");
}
is_deeply([ map { $_->{id} } @{ $api->requests } ],
	[qw(ws-step-0 ws-step-3 ws-step-5)], 'only what was trusted was sent');
$session->quit;

# IPv6: the stand-in is at 127.0.0.1, so copy what comes to ::1 there.
sub relay_from_ipv6
{
	my ($port) = @_;
	my $listener = IO::Socket::IP->new(
		LocalHost => '::1', LocalPort => 0, Listen => 5, V6Only => 1) or return;
	my $pid = fork // die "fork: $!";
	return ($listener->sockport, $pid) if $pid;

	# Not to outlive the test for long, whatever becomes of it.
	alarm 300;
	while (my $client = $listener->accept)
	{
		my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
		  or next;
		my %peer = ($client => $server, $server => $client);
		my $both = IO::Select->new($client, $server);
		COPY: while (my @ready = $both->can_read)
		{
			for my $from (@ready)
			{
				last COPY unless sysread $from, my $bytes, 65536;
				$peer{$from}->syswrite($bytes);
			}
		}
	}
	POSIX::_exit(0);
}

SKIP:
{
	my ($port, $pid) = relay_from_ipv6($api->port('https'));
	skip 'no IPv6 loopback here', 1 unless $port;
	trusted_ok('https to ::1, by its certificate', 'ws-v6',
		base_url => "https://[::1]:$port");
	kill 'KILL', $pid;
	waitpid $pid, 0;
}
SKIP:
{
	my ($port, $pid) = relay_from_ipv6($api->port('http'));
	skip 'no IPv6 loopback here', 1 unless $port;
	trusted_ok('plain http to ::1', 'ws-v6-plain', base_url => "http://[::1]:$port");
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

# Without TLS the key may be shown to this machine, and to none other. Names
# that only look like loopback are some name server's to decide.
for my $host (
	'example.com', '10.0.0.1', '0.0.0.0', '126.255.255.255', '128.0.0.1',
	'[::]', '[::2]', '[fe80::1]', '[::ffff:10.0.0.1]',
	'localhost.example.com', '127.0.0.1.example.com', '127.example.com', 'localhos')
{
	my ($status, $out, $err) =
	  $node->psql('postgres',
		"LOAD 'sendkit'; SET sendkit.base_url = 'http://$host:8080'");
	ok( $status != 0
		  && $err =~ /invalid value for parameter "sendkit\.base_url"/
		  && $err =~ /DETAIL:.*loopback/,
		"plain http to $host is refused, with the reason");
}
for my $host ('127.0.0.1', '127.255.0.7', '[::1]', 'localhost', 'LocalHost')
{
	is( $node->safe_psql('postgres',
			"LOAD 'sendkit'; SET sendkit.base_url = 'http://$host:8080';"
			  . 'SHOW sendkit.base_url'),
		"http://$host:8080",
		"plain http to $host is accepted");
}

$node->stop;
done_testing();
