=pod

=head1 NAME

SendkitInstallation - a copy of PostgreSQL for a TAP test to change

=head1 SYNOPSIS

    use SendkitInstallation;

    my $installation = SendkitInstallation->new;
    append_to_file($installation->sharedir . '/extension/sendkit.control', ...);
    my $node = PostgreSQL::Test::Cluster->new('copy',
        install_path => $installation->path);

=head1 DESCRIPTION

The programs are copied, since they find their libraries and data from where they
are; all else is links, except for what belongs to sendkit, which is copied too.

=cut

package SendkitInstallation;

use strict;
use warnings;

use Carp;
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use PostgreSQL::Test::Utils;

=pod

=over

=item SendkitInstallation->new

Makes the copy, which goes with the test.

=item $installation->path, $installation->bindir, $installation->pkglibdir, $installation->sharedir

The folder above bin, as C<install_path> wants it; and what pg_config would say.

=cut

sub new
{
	my ($class) = @_;
	my %original = map { $_ => _pg_config($_) } qw(bindir pkglibdir sharedir);
	my $root = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { map { $_ => "$root$original{$_}" } keys %original }, $class;

	make_path(values %$self, "$self->{sharedir}/extension");
	_link_all($original{$_}, $self->{$_}) for qw(pkglibdir sharedir);
	_link_all("$original{sharedir}/extension", "$self->{sharedir}/extension");
	$self->_copy_programs($original{bindir});
	return $self;
}

sub path      { my ($self) = @_; return dirname($self->{bindir}); }
sub bindir    { my ($self) = @_; return $self->{bindir}; }
sub pkglibdir { my ($self) = @_; return $self->{pkglibdir}; }
sub sharedir  { my ($self) = @_; return $self->{sharedir}; }

=pod

=item $installation->sendkit_files

The paths of sendkit's library, control file and SQL files.

=cut

sub sendkit_files
{
	my ($self) = @_;
	return grep { -e }
	  "$self->{pkglibdir}/sendkit.so", glob "$self->{sharedir}/extension/sendkit{.control,--*.sql}";
}

=pod

=back

=cut

sub _pg_config
{
	my ($what) = @_;
	chomp(my $dir = `pg_config --$what`);
	croak "pg_config --$what says nothing" unless $dir;
	return $dir;
}

# What is there already has been made for us, and stays.
sub _link_all
{
	my ($from, $to) = @_;

	foreach my $path (glob "$from/*")
	{
		my $copy = "$to/" . basename($path);
		next if -e $copy;
		if (basename($path) =~ /^sendkit(\.so|\.control|--.*\.sql)$/)
		{
			copy($path, $copy) or croak "$copy: $!";
		}
		else
		{
			symlink($path, $copy) or croak "$copy: $!";
		}
	}
	return;
}

# A script in a program's place, as scripts/test puts there, names its folder.
sub _copy_programs
{
	my ($self, $from) = @_;

	foreach my $path (glob "$from/*")
	{
		my $copy = "$self->{bindir}/" . basename($path);
		copy($path, $copy) or croak "$copy: $!";
		if (-T $path)
		{
			my $text = slurp_file($path);
			$text =~ s/\Q$from\E/$self->{bindir}/g;
			unlink $copy;
			append_to_file($copy, $text);
		}
		chmod 0755, $copy;
	}
	return;
}

1;
