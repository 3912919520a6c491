# What packages and registries are told agrees with sendkit.control, the one place
# where the version is written, and META.json is what PGXN's specification 1.0.0
# asks for.

use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my ($version) = slurp_file('sendkit.control') =~ /^default_version = '(.*)'$/m;
like($version, qr/^\d+\.\d+(\.\d+)?$/, "sendkit.control has the version $version");
# a semantic version has three numbers
my $semantic = $version =~ /\..*\./ ? $version : "$version.0";

# --- META.json -----------------------------------------------------------------------

# "make installcheck", if that is what runs us, hands its arguments down.
delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES)};
is(system('make -s META.json'), 0, 'make META.json');
my $meta = eval { JSON::PP->new->utf8->decode(slurp_file('META.json')) };
ok($meta, 'it is JSON') or BAIL_OUT($@);

my %required = map { $_ => 1 } qw(abstract maintainer license provides name version meta-spec);
my %optional = map { $_ => 1 }
  qw(description prereqs tags release_status generated_by resources no_index);
is(join(' ', grep { !exists $meta->{$_} } sort keys %required), '', 'no field is missing');
is(join(' ', grep { !$required{$_} && !$optional{$_} && !/^x_/i } sort keys %$meta),
	'', 'no field is unknown');
ok(!ref $meta->{$_} && length $meta->{$_}, "$_ is a text")
  for qw(abstract description license maintainer name release_status generated_by);
unlike($meta->{name}, qr{[\s/\\\0-\x1f\x7f]|^.?$}, 'the name is a term');
is($meta->{license}, 'postgresql', 'the license is one that PGXN knows');
like($meta->{maintainer}, qr/^[^<>]+ <[^<>@\s]+\@[^<>@\s]+>$/, 'the maintainer is one as packages want it');
ok(scalar(grep { $meta->{release_status} eq $_ } qw(stable testing unstable)), 'the status is one of three');
is($meta->{'meta-spec'}{version}, '1.0.0', 'it follows the specification 1.0.0');
is($meta->{version}, $semantic, 'the version is that of the control file');
ok(!(grep { ref || !length || length > 255 || m{[/\\\0-\x1f\x7f]} } @{ $meta->{tags} }),
	'tags are texts of up to 255 characters, without slashes');

is(join(' ', keys %{ $meta->{provides} }), 'sendkit', 'it provides the extension');
my $provided = $meta->{provides}{sendkit};
is(join(' ', sort keys %$provided), 'abstract docfile file version', 'of which it tells these');
is($provided->{version}, $semantic, 'its version');
ok(-s $provided->{$_}, "its $_: $provided->{$_}") for qw(file docfile);

foreach my $phase (keys %{ $meta->{prereqs} })
{
	like($phase, qr/^(configure|build|test|runtime|develop)$/, "prereqs: $phase is a phase");
	foreach my $relation (keys %{ $meta->{prereqs}{$phase} })
	{
		my $needed = $meta->{prereqs}{$phase}{$relation};
		like($relation, qr/^(requires|recommends|suggests|conflicts)$/, "prereqs: $relation is a relation");
		like($needed->{$_}, qr/^\d+\.\d+\.\d+$/, "prereqs: $_ has a version") for keys %$needed;
	}
}

# --- the others ------------------------------------------------------------------------

sub like_file
{
	my ($file, $pattern, $name) = @_;
	return like(slurp_file($file), $pattern, "$file: $name");
}

like_file('debian/changelog', qr/\Asendkit \(\Q$version\E-\d+\) /, 'its first entry is of this version');
like_file('packaging/sendkit.spec', qr/^Version: +\Q$version\E$/m, 'it is for this version');
like_file('CHANGELOG.md', qr/\A# Changelog\n\n## \Q$version\E /, 'its first entry is of this version');
like_file($_, qr/^(?:Maintainer:| --|\* \w+ \w+ \d+ \d+) \Q$meta->{maintainer}\E/m, 'it names the same maintainer')
  for qw(debian/control.in debian/control debian/changelog packaging/sendkit.spec);
like_file('Makefile', qr/^EXTVERSION = \$\(shell sed/m, 'it reads the control file');
is(join("\n", glob "sendkit--$version.sql"), "sendkit--$version.sql", 'the SQL of this version is here');

done_testing();
