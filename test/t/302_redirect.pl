# A redirect is an answer, not an instruction.
#
# The key is a header, and a client that follows redirects takes its headers
# along, to whatever host the answer names. The second host here says "deleted"
# to everything, so following it would even look like success. What a request
# that was answered by a redirect has done at the API nobody knows.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 3\n");

my $path = '/v1/workspaces/elsewhere/api-key';
my $second = '127.0.0.1:' . $api->port('second');

# Where to, and by what name the records tell of a visit there.
my @targets = (
	[ 'another host', "http://$second$path" ],
	[ 'another host, protocol-relative', "//$second$path" ],
	[ 'another host by name', 'http://localhost:' . $api->port('second') . $path ],
	[ 'plain http', $api->url('http') . $path ],
	[ 'https', $api->url('https') . $path ],
	[ 'another place of the same host', $path ],
	[ 'another place, relative', 'elsewhere/api-key' ],
	[ 'nowhere', '' ],
	[ 'another protocol', "ftp://$second/" ],
	[ 'a file', 'file:///etc/passwd' ]);

my $n = 0;

sub not_followed_ok
{
	my ($from, $status, $what, $target) = @_;
	my $name = "$status from $from to $what";

	# a body that claims success shall not change it
	my $id = "ws-$n;status=$status;body=deleted;redirect=$target";
	$n++;
	$api->reset;
	my $answer = call($node, $id, set => { base_url => $api->url($from) });

	is_outcome($answer, 'unknown', "$name: unknown");
	like($answer->{message},
		qr/\b$status\b.*; the API key may or may not have been deleted$/,
		"$name: says what happened");
	is(scalar @{ $api->control('GET', '/second-requests') },
		0, "$name: the other host received nothing");

	my $stats = $api->stats;
	is_deeply($stats->{requests}, { $from => 1, total => 1 },
		"$name: the API received one request");
	is_deeply($stats->{accepted}, { $from => 1, total => 1 },
		"$name: by one connection, and none was opened elsewhere");
	return;
}

for my $from ('http', 'https')
{
	for my $status (301, 302, 303, 307, 308)
	{
		not_followed_ok($from, $status, @$_) for @targets[ 0, 1, $from eq 'http' ? 4 : 3 ];
	}
	not_followed_ok($from, 302, @$_) for @targets;
}

# Statuses that are redirects by number alone.
not_followed_ok('http', $_, @{ $targets[0] }) for 300, 305, 306, 399;

# Many at a time go no further either.
$api->reset;
is( $node->safe_psql('postgres',
		"SELECT outcome, status, count(*) FROM sendkit_delete_api_keys(ARRAY(SELECT 'ws-many-' || i || ';redirect=second;status=307' FROM generate_series(1, 20) i), '$KEY') GROUP BY 1, 2"),
	'unknown|307|20', 'the plural form judges them alike');
is(scalar @{ $api->control('GET', '/second-requests') },
	0, 'the other host received nothing');
is($api->stats->{requests}{total}, 20, 'the API one request for each');

# The proof that the records of the other host tell of visits.
is_outcome(
	call($node, 'ws-direct', set => { base_url => "http://$second" }),
	'deleted', 'the other host says yes to everything');
is(scalar @{ $api->control('GET', '/second-requests') },
	1, 'and keeps a record of it');

$node->stop;
done_testing();
