# What scripts/ do to a machine, tried on machines that are made up.
#
# A machine is a root folder with some files, and a PATH with nothing but the
# real tools that any Debian has and stubs of what may be there or not. The
# functions of scripts/lib.sh and scripts/install-packages run on it unchanged.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Find ();
use File::Path qw(make_path);
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $tree = abs_path(dirname(__FILE__) . '/../..');
my @tools = qw(bash cat chmod cp dirname echo env flock grep head id mkdir mktemp
  realpath rm rmdir sed sh sleep sort tail touch true xargs);

# --- machines -----------------------------------------------------------------

my $machines = 0;

# A machine with the given programs: name => shell script.
sub machine
{
	my (%programs) = @_;
	my $root = PostgreSQL::Test::Utils::tempdir() . '/machine' . ++$machines;
	make_path("$root/bin", "$root/tmp", "$root/usr/sbin", "$root/var/lib/dpkg");
	for my $tool (@tools)
	{
		my ($path) = grep { -x } map { "$_/$tool" } qw(/usr/bin /bin /usr/sbin /sbin);
		symlink $path, "$root/bin/$tool" or die "$tool: $!";
	}
	program($root, $_, $programs{$_}) for keys %programs;
	return $root;
}

sub write_file
{
	my ($path, $text) = @_;
	make_path(dirname($path));
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	close $file or die "$path: $!";
}

sub program
{
	my ($root, $name, $script) = @_;
	my $path = $name =~ m{/} ? "$root$name" : "$root/bin/$name";
	unlink $path; # or the tool that it leads to would be written
	write_file($path, "#!/bin/sh\n$script\n");
	chmod 0755, $path or die;
}

# A PostgreSQL's client, which brings pg_config and, as a decoy, pgxs.mk; its
# server; its headers.
sub add_postgres
{
	my ($root, $version, @parts) = @_;
	my $place = "/usr/lib/postgresql/$version";
	my $headers = "$root/usr/include/postgresql/$version/server";

	program($root, "$place/bin/pg_config", <<"SCRIPT");
case \$1 in
	--version) echo 'PostgreSQL $version.3 (Debian $version.3-1)' ;;
	--bindir) echo '$root$place/bin' ;;
	--pkglibdir) echo '$root$place/lib' ;;
	--pgxs) echo '$root$place/lib/pgxs/src/makefiles/pgxs.mk' ;;
	--includedir-server) echo '$headers' ;;
esac
SCRIPT
	write_file("$root$place/lib/pgxs/src/makefiles/pgxs.mk", '');
	program($root, "$place/bin/postgres", '') if grep { $_ eq 'server' } @parts;
	write_file("$headers/postgres.h", '') if grep { $_ eq 'headers' } @parts;
}

# apt-cache where the distribution has a PostgreSQL and some packages. It speaks
# German to whoever doesn't ask for English.
sub apt_knows
{
	my ($version, @packages) = @_;
	my $known = join '|', 'postgresql-common', @packages;
	return ('apt-cache' => <<"SCRIPT");
case "\$1 \$2" in
	'depends postgresql')
		[ "\$LC_ALL" = C ] && depends=Depends || depends='Hängt ab von'
		printf 'postgresql\\n  %s: postgresql-$version\\n' "\$depends" ;;
	*)
		case \$2 in $known) ;; *) exit 100 ;; esac ;;
esac
SCRIPT
}

my %no_lists = ('apt-cache' => 'echo "E: No packages found" >&2; exit 100');

my %tools_to_build = (
	'gcc' => '',
	'make' => '',
	'pkg-config' => '',
	'curl-config' => 'echo OpenSSL',
	'python3' => '',
	'openssl' => '');
my %tools_to_test = ('perl' => '', 'nghttpx' => '', 'shellcheck' => '');

# A machine that has everything but PostgreSQL.
sub ready_machine
{
	my $root = machine(%tools_to_build, %tools_to_test, @_);
	write_file("$root/usr/include/stdio.h", '');
	write_file("$root/etc/ssl/certs/ca-certificates.crt", '');
	return $root;
}

# --- running ---------------------------------------------------------------------

# Runs a line of bash with the functions of a script; "wait" leaves the end to it.
sub bash
{
	my ($root, $script, $line, %env) = @_;
	my ($out, $err) = ('', '');
	my $code = ". '$tree/scripts/$script'; machine='$root'; PATH='$root/bin'; $line";
	my @command = ('env', '-i', "TMPDIR=$root/tmp", 'PATH=/usr/bin:/bin', 'LANG=de_DE.UTF-8',
		(map { "$_=$env{$_}" } keys %env), 'bash', '-c', "set -euo pipefail; $code", 'demo');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	return { status => $? >> 8, out => $out, err => $err };
}

sub is_missing
{
	my ($root, $kinds, $expected, $name) = @_;
	my $result = bash($root, 'lib.sh', "find_postgres; missing_packages $kinds");
	chomp $result->{out};
	is($result->{out} . $result->{err}, $expected, $name);
}

# The script fails with one line on standard error.
sub fails_with
{
	my ($result, $pattern, $name) = @_;
	my @lines = split /\n/, $result->{err};
	is($result->{status}, 1, "$name: it fails");
	is(scalar @lines, 1, "$name: with one line") or diag($result->{err});
	like($lines[0], $pattern, "$name: that says what to do");
}

# --- what is missing ---------------------------------------------------------------

my $to_build = 'libc6-dev gcc make pkg-config libcurl4-openssl-dev';

is_missing(machine(%no_lists), 'postgres build standin',
	"postgresql postgresql-server-dev-all $to_build python3 openssl",
	'a bare machine without package lists');

is_missing(machine(apt_knows(15)), 'postgres build standin',
	"postgresql-15 postgresql-server-dev-15 $to_build python3 openssl",
	'a bare machine');

is_missing(
	machine(apt_knows(15, 'postgresql-15-cron')), 'test',
	'ca-certificates libipc-run-perl python3-h2 nghttp2-proxy shellcheck postgresql-15-cron',
	'a bare machine, to test on');

my $root = ready_machine(%no_lists);
add_postgres($root, 15, 'server');
is_missing($root, 'postgres build standin test', 'postgresql-server-dev-15',
	'a server without its headers');

$root = ready_machine(apt_knows(15));
add_postgres($root, 15, 'headers');
is_missing($root, 'postgres', 'postgresql-15 postgresql-server-dev-15',
	'headers without a server, whose version nobody tells');

$root = ready_machine(apt_knows(17));
add_postgres($root, 15);
is_missing($root, 'postgres', 'postgresql-17 postgresql-server-dev-17', 'a client alone');

$root = ready_machine(apt_knows(15));
add_postgres($root, 15, 'server', 'headers');
is_missing($root, 'postgres build standin test', '', 'a machine that has everything');
add_postgres($root, 16, 'server');
is_missing($root, 'postgres', 'postgresql-server-dev-16', 'a second, newer server');

$root = ready_machine(apt_knows(15));
add_postgres($root, 9.6, 'server', 'headers');
is_missing($root, 'postgres', 'postgresql-15 postgresql-server-dev-15',
	'a server that is too old');

$root = ready_machine(%no_lists, 'curl-config' => 'exit 1', 'pkg-config' => 'exit 1');
is_missing($root, 'build', 'libcurl4-openssl-dev', 'a machine without libcurl');

$root = ready_machine(apt_knows(15, 'postgresql-15-cron'));
add_postgres($root, 15, 'server', 'headers');
is_missing($root, 'test', 'postgresql-15-cron', 'a machine without pg_cron');
write_file("$root/usr/lib/postgresql/15/lib/pg_cron.so", '');
is_missing($root, 'test', '', 'a machine with pg_cron');

# --- making it fit -------------------------------------------------------------------

# A machine whose apt works, by stubs: install-packages makes lists and notes what
# it is asked for, and a server's headers and pg_cron come into being.
sub fit
{
	my ($root, $kinds, %env) = @_;
	my $place = "$root/usr/lib/postgresql/15";
	my %known = apt_knows(15, 'postgresql-15-cron');
	program($root, '/lists/apt-cache', $known{'apt-cache'});
	program($root, '/install-packages', <<"SCRIPT");
echo "\$*" >>'$root/asked'
case \$* in
	--update) cp '$root/lists/apt-cache' '$root/bin/apt-cache' ;;
	*) touch '$root/usr/include/postgresql/15/server/postgres.h' '$place/lib/pg_cron.so' ;;
esac
SCRIPT
	return bash($root, 'lib.sh', "scripts='$root'; need $kinds", %env);
}

my %sudo = ('apt-get' => '', 'sudo' => 'exec "$@"');

$root = ready_machine(%sudo, %no_lists);
add_postgres($root, 15, 'server');
make_path("$root/usr/include/postgresql/15/server");
my $result = fit($root, 'postgres build standin test');
is($result->{status}, 0, 'a server without headers, package lists and pg_cron becomes fit')
  or diag($result->{err});
is(slurp_file("$root/asked"), "--update\npostgresql-server-dev-15 postgresql-15-cron\n",
	'once the lists are there, pg_cron is known');
unlink "$root/asked";
is(fit($root, 'postgres build standin test')->{status}, 0, 'and stays fit');
ok(!-e "$root/asked", 'without apt');

$root = ready_machine(%no_lists);
fails_with(fit($root, 'postgres'),
	qr/^demo: install these Debian packages, or their like, first: postgresql postgresql-server-dev-all$/,
	'without apt');

SKIP:
{
	skip 'root needs no sudo', 9 if $> == 0;

	$root = ready_machine(%no_lists, 'apt-get' => '');
	fails_with(fit($root, 'postgres'),
		qr/^demo: there is no sudo; as root, install .*: postgresql postgresql-server-dev-all$/,
		'without sudo');

	$root = ready_machine(apt_knows(15), 'apt-get' => '', 'sudo' => 'exit 1');
	fails_with(fit($root, 'postgres'),
		qr/^demo: without sudo, .*: postgresql-15 postgresql-server-dev-15$/,
		'with a sudo that says no');

	$root = ready_machine(apt_knows(15), %sudo, 'touch' => '');
	fails_with(fit($root, 'postgres'),
		qr/^demo: installed, but not found: postgresql-15 postgresql-server-dev-15$/,
		'with packages that bring something else');
}

$root = ready_machine(%no_lists, 'curl-config' => 'echo GnuTLS');
fails_with(fit($root, 'postgres'), qr/GnuTLS, and OpenSSL is needed: install libcurl4-openssl-dev/,
	'with a libcurl of GnuTLS');

$root = ready_machine(apt_knows(14), %sudo);
fails_with(fit($root, 'postgres'), qr/PostgreSQL 14 is too old: install 15 or later/,
	'with a distribution that is too old');

$root = ready_machine(apt_knows(15), %sudo);
add_postgres($root, 14, 'server', 'headers');
my $pg_config = "$root/usr/lib/postgresql/14/bin/pg_config";
fails_with(fit($root, 'postgres', PG_CONFIG => $pg_config), qr/PostgreSQL 14 is too old/,
	'with a PG_CONFIG that is too old');
fails_with(fit($root, 'postgres', PG_CONFIG => '/nowhere/pg_config'), qr{no such PG_CONFIG: /nowhere},
	'with a PG_CONFIG that is not there');

# --- the private folder ----------------------------------------------------------------

my $blank = "$root/with a blank";
make_path($blank);
$result = bash($root, 'lib.sh', "PATH=/usr/bin:/bin; make_work; echo \$work", TMPDIR => $blank);
is($result->{status}, 0, 'with a blank in TMPDIR there is another folder') or diag($result->{err});
like($result->{out}, qr{^== working in (\S+): \Q$blank\E has a name .*\n\1/sendkit}, 'it is told');
my ($work) = $result->{out} =~ m{^(/\S+)$}m;
ok(!-e $work, 'it is removed at the end');

# --- installing --------------------------------------------------------------------------

# Runs install-packages with a stub of apt-get.
sub install
{
	my ($root, $apt_get, @arguments) = @_;
	program($root, 'apt-get', "echo \"\$*\" >>'$root/calls'; $apt_get");
	return bash($root, 'install-packages', "pulse=0; main @arguments");
}

my $cluster_conf = 'etc/postgresql-common/createcluster.d/sendkit-scripts.conf';

# Fails twice for want of a lock.
my $busy = <<'SCRIPT';
tries=$(cat "$TMPDIR/tries" 2>/dev/null || :)
if [ "$tries" != xx ]; then
	printf %s "${tries}x" >"$TMPDIR/tries"
	echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)' >&2
	exit 100
fi
SCRIPT

$root = machine();
$result = install($root, $busy, '--update');
is($result->{status}, 0, 'another apt is waited for') or diag($result->{err});
is($result->{out} =~ s/\n +.*//gr, <<'OUT', 'and it is told once');
== fetching apt's package lists
== waiting for another apt: /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)
OUT

$result = install(machine(), 'echo "E: no network" >&2; exit 100', '--update');
is($result->{status}, 0, 'packages may be found with old lists');
like($result->{err}, qr/not all package lists could be fetched.*\nE: no network/, 'but it is told');

# What is forbidden while packages are installed, and said how far it is.
my $look = <<'SCRIPT';
case "$*" in *--download-only*) exit ;; esac
echo 'pmstatus:libfoo:41.5:Installing libfoo (amd64)' >&3
policy=$MACHINE/usr/sbin/policy-rc.d
if [ -x "$policy" ]; then
	"$policy" && ours=0 || ours=$?
	(unset SENDKIT_NO_SERVICES; "$policy") && others=0 || others=$?
fi
echo "$ours $others $(cat "$MACHINE/CONF")" >"$MACHINE/seen"
SCRIPT
$root = machine();
$look =~ s/\$MACHINE/$root/g;
$look =~ s/CONF/$cluster_conf/;
$result = install($root, $look, 'postgresql-15 make');
is($result->{status}, 0, 'packages are installed') or diag($result->{err});
is($result->{out}, <<'OUT', 'and it is told how far it is');
== downloading postgresql-15 make and what they need
== installing them
   41 %: Installing libfoo (amd64)
OUT
is(slurp_file("$root/seen"), "101 0 create_main_cluster = false\n",
	'their services are not started, but those of others, and no cluster is made');
unlike(slurp_file("$root/calls"), qr/^(?!.*--no-remove)/m, 'nothing is removed for them');
ok(!-e "$root/usr/sbin/policy-rc.d", 'services may be started again');
ok(!-e "$root/etc/postgresql-common", 'clusters may be made again');

write_file("$root/usr/sbin/policy-rc.d", "#!/bin/sh\n# the administrator's\nexit 7\n");
chmod 0755, "$root/usr/sbin/policy-rc.d";
install($root, $look, 'make');
like(slurp_file("$root/seen"), qr/^7 7 /, "the administrator's rule stays in charge");
like(slurp_file("$root/usr/sbin/policy-rc.d"), qr/administrator/, 'and there');

$root = machine();
$result = install($root, 'case "$*" in *--download-only*) exit;; esac; echo "E: disk full" >&2; exit 100',
	'make');
is($result->{status}, 1, 'a failed installation is told');
is($result->{err}, "E: disk full\n", "in apt's own words");
ok(!-e "$root/usr/sbin/policy-rc.d" && !-e "$root/etc/postgresql-common", 'and undone');

$root = machine();
program($root, 'update-rc.d', "echo \"\$*\" >>'$root/rc.d'");
install($root, '', 'nghttp2-proxy');
is(slurp_file("$root/rc.d"), "nghttpx disable\n", 'no service starts at the next boot either');

# --- all shell code ----------------------------------------------------------------------

my @shell;
File::Find::find(
	{
		no_chdir => 1,
		wanted => sub {
			$File::Find::prune = 1 if m{/(\.git|tmp_check|results|log)$};
			return unless -f && -r;
			open my $file, '<', $_ or return;
			my $first = <$file> // '';
			push @shell, $_ if m{\.sh$} || $first =~ m{^#!.*\b(ba)?sh\b};
		}
	},
	$tree);

ok((grep { m{scripts/test$} } @shell), 'shell scripts are found');
SKIP:
{
	skip 'there is no shellcheck', 1 if system('command -v shellcheck >/dev/null') != 0;
	is(`shellcheck -x -f gcc @{[ map { "'$_'" } sort @shell ]}`, '', 'shellcheck has no complaint');
}

done_testing();
