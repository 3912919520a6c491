# PostgreSQL 18 can take an extension from anywhere: that is how an image with
# nothing but the extension is mounted beside a server (CloudNativePG does that).
# So here is a server in whose own folders there is no sendkit.

use strict;
use warnings;

use File::Basename qw(basename);
use File::Copy qw(move);
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SendkitInstallation;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $installation = SendkitInstallation->new;
my $node = PostgreSQL::Test::Cluster->new('main', install_path => $installation->path);
if ($node->pg_version < 18)
{
	plan skip_all => 'extension_control_path is there from PostgreSQL 18 on';
}

my $image = PostgreSQL::Test::Utils::tempdir();
make_path("$image/lib", "$image/share/extension");
foreach my $file ($installation->sendkit_files)
{
	my $folder = $file =~ /\.so$/ ? 'lib' : 'share/extension';
	move($file, "$image/$folder/" . basename($file)) or die "$file: $!";
}
is(join(' ', $installation->sendkit_files), '', 'the server itself has no sendkit');

my $api = SendkitStandin->start;
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nsendkit.base_url = '" . $api->url('http') . "'\n");
$node->start;
my ($status, undef, $error) = $node->psql('postgres', 'CREATE EXTENSION sendkit');
isnt($status, 0, 'which it says');
like($error, qr/extension "sendkit" is not available/, 'in these words');

$node->append_conf('postgresql.conf', <<"CONF");
extension_control_path = '\$system:$image/share'
dynamic_library_path = '\$libdir:$image/lib'
CONF

foreach my $preload ('', 'sendkit')
{
	my $tag = $preload ? 'preloaded' : 'loaded when needed';
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$preload'\n");
	$node->restart;
	$node->safe_psql('postgres', 'DROP EXTENSION IF EXISTS sendkit; CREATE EXTENSION sendkit');

	is_outcome(call($node, "ws-$preload"), 'deleted', "$tag: the extension works");
	my $session = SendkitTest::Session->new($node);
	$session->call("ws-$preload");
	my ($library) = slurp_file('/proc/' . $session->pid . '/maps') =~ m{(/\S*/sendkit\.so)};
	is($library, "$image/lib/sendkit.so", "$tag: from its own folder");
	$session->quit;
}

$node->stop;
done_testing();
