# Every file is as .editorconfig has editors write it: encoding, ends of lines, the
# newline at the end, and the indentation of C and Python. (In scripts and tests
# other languages stand inside, with rules of their own.)

use strict;
use warnings;

use File::Find;
use PostgreSQL::Test::Utils;
use Test::More;

# Sections, as pairs of a pattern and its rules, in their order.
my @sections;

# Of globs, those that are used: {a,b}, *, and ** for folders below.
sub pattern
{
	my ($glob) = @_;
	my $anchored = $glob =~ m{/};
	my %meaning = ('{' => '(?:', '}' => ')', ',' => '|', '*' => '[^/]*', '**' => '.*');
	$glob =~ s/(\*\*|[{},*])|([^{},*]+)/defined $1 ? $meaning{$1} : quotemeta $2/ge;
	return $anchored ? qr{^$glob$} : qr{(?:^|/)$glob$};
}

foreach (split /\n/, slurp_file('.editorconfig'))
{
	push @sections, [ pattern($1), {} ] if /^\[(.*)\]$/;
	$sections[-1][1]{$1} = $2 if @sections && /^(\w+) = (\S+)$/;
}

sub rules_of
{
	my ($file) = @_;
	return map { %{ $_->[1] } } grep { $file =~ $_->[0] } @sections;
}

# The tree's own files, without what a build or a test has left.
my @files = grep { -f && !-B _ || /corpus/ } glob('* .ci/* .github/workflows/* .editorconfig');
find({
		no_chdir => 1,
		wanted => sub { push @files, $_ if -f && !m{\.(?:o|bc|so|gcno|gcda|pyc|dylib)$|__pycache__} }
	},
	grep { -d } qw(bench debian doc expected packaging scripts sql src test));
@files = grep { !/^(?:regression\.|sendkit\.so)|^debian\/(?:\.debhelper|postgresql-|files)/ } @files;

my %broken;
foreach my $file (sort @files)
{
	my %rules = rules_of($file);
	my $text = slurp_file($file);
	my $broken = sub { push @{ $broken{ $_[0] } }, $file if ($rules{ $_[0] } // '') eq $_[1] && $_[2] };

	$broken->('end_of_line', 'lf', $text =~ /\r/);
	$broken->('charset', 'utf-8', !utf8::decode(my $copy = $text));
	$broken->('insert_final_newline', 'true', $text =~ /[^\n]\z/);
	$broken->('indent_style', 'tab', $text =~ /^\t* {4,}[^ *]/m) if $file =~ m{^src/.*\.[ch]$};
	$broken->('indent_style', 'space', $text =~ /^ *\t/m) if $file =~ /\.(?:py|yml)$/;
}

cmp_ok(scalar @files, '>', 200, 'the files are found');
foreach my $rule (qw(charset end_of_line insert_final_newline indent_style))
{
	is(join(' ', @{ $broken{$rule} || [] }), '', "$rule is kept");
}
is(join(' ', grep { !{ rules_of($_) }->{indent_style} } @files), '', 'and there is a rule for each file');

done_testing();
