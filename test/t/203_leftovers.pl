# What is left of one answer must never become the answer to another request.
#
# A connection that is used again may hold bytes that nobody asked for: in the
# kernel, where a look at the socket shows them; in libcurl's buffer; or inside
# TLS, where a record is decrypted as a whole, or several are read ahead, and no
# socket shows what is left.  If those bytes say "deleted", a key that is alive
# counts as revoked.  HTTP/2 cannot be fooled in this way: its answers have numbers.
#
# Each answer here is a 403, and in its wake comes one that says "deleted", laid
# into records and segments in every way.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $api = SendkitStandin->start(tls => 1);
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");
my $session = SendkitTest::Session->new($node);
my $serial = 0;

my @listeners = ('http', 'https', 'https_tls12');
my @layouts = ('record', 'body-record', 'own-record', 'segment');
my %framing = (
	'a length' => 'status=403',
	'chunks' => 'status=403;chunked',
	'no body' => 'status=204;act',
	'no body, but a length' => 'status=404;size=0');

# --- one after the other ---

# "Deleted" is the right outcome of a 204, and of no other request here.  The one
# that is fooled is the next.
foreach my $listener (@listeners)
{
	$session->query(SendkitTest::_settings_sql({ base_url => $api->url($listener) }));
	foreach my $layout (@layouts)
	{
		foreach my $framing (sort keys %framing)
		{
			my $name = "$listener, $layout, $framing";
			my %seen;
			foreach my $pause (0, 0, 0.02)
			{
				my $id = ++$serial;
				$session->call("ws-$id;$framing{$framing};smuggle=$layout");
				# a later segment is on its way for a moment: HTTP/1 cannot tell
				sleep($layout eq 'segment' ? 0.1 : $pause);
				$seen{ $session->call("ws-next-$id;status=403")->{outcome} }++;
				# and a third, should the bytes still be there
				$seen{ $session->call("ws-third-$id;status=403")->{outcome} }++;
			}
			is($seen{deleted}, undef, "$name: no 403 becomes \"deleted\"")
			  || diag(explain(\%seen));
			is($seen{refused}, 6, "$name: each gets its own answer")
			  || diag(explain(\%seen));
		}
	}
}

# --- many at a time ---

# More requests than connections may be: those that wait for a connection must not
# take one that has just become free without a look.  (Where the bytes come in a
# segment of their own, nothing that HTTP/1 offers can help.)
sub ok_none_deleted
{
	my ($in, $listener, $layout, $name, $concurrency, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $prefix = 'ws-many-' . ++$serial;
	my $rows = $in->call_many(
		"ARRAY(SELECT '$prefix-' || i || ';status=403;smuggle=$layout' "
		  . "FROM generate_series(1, $count) i)",
		set => {
			base_url => $api->url($listener),
			max_concurrency => $concurrency
		});
	is_deeply(outcomes($rows), { rejected => $count }, "$name: $count are rejected");
	my @asked = grep { $_->{id} =~ /^$prefix/ } @{ $api->requests };
	is(scalar @asked, $count, "$name: each was asked for once");
	$api->reset;
	return;
}

my $few = start_node(
	$api,
	name => 'few',
	conf => "sendkit.max_retries = 0\nmax_files_per_process = 100\n");
my $poor = SendkitTest::Session->new($few);
foreach my $listener (@listeners)
{
	foreach my $layout ('record', 'body-record', 'own-record')
	{
		ok_none_deleted($session, $listener, $layout, "$listener, $layout, 32 at a time", 32, 150);
		ok_none_deleted($session, $listener, $layout, "$listener, $layout, 100 at a time", 100, 250);
		ok_none_deleted($poor, $listener, $layout,
			"$listener, $layout, few descriptors", 32, 150);
	}
}
ok_none_deleted($session, 'https', 'own-record', 'https, 400 at a time', 400, 500);

$node->stop;
$few->stop;
done_testing();
