
=pod

=head1 NAME

SendkitTerminal - a program at a terminal, and somebody who types

=head1 SYNOPSIS

    plan skip_all => '...' unless SendkitTerminal->possible;
    my $terminal = SendkitTerminal->new('bash', '--norc');
    $terminal->type("read -rsp 'Key: ' key\n");
    $terminal->wait_for(qr/\nKey: $/);
    $terminal->wait_for_silence;
    $terminal->type("secret\nexit\n");
    unlike($terminal->finish, qr/secret/, 'it is not shown');

=head1 DESCRIPTION

Programs behave otherwise at a terminal than in a pipe: they ask, echo, and keep
histories.

=cut

package SendkitTerminal;

use strict;
use warnings;

use Carp;
use POSIX qw(ECHO);
use SendkitTest ();
use Time::HiRes qw(sleep time);

=pod

=over

=item SendkitTerminal->possible

True where Perl has terminals to give, by its module IO::Pty.

=cut

sub possible
{
	return eval { require IO::Pty; 1 };
}

=pod

=item SendkitTerminal->new(@command)

Starts a program at a terminal of its own.

=cut

sub new
{
	my ($class, @command) = @_;
	my $pty = IO::Pty->new;
	my $pid = fork() // croak "fork: $!";

	if ($pid == 0)
	{
		$pty->make_slave_controlling_terminal;
		my $slave = $pty->slave;
		foreach my $handle (\*STDIN, \*STDOUT, \*STDERR)
		{
			open($handle, '+<&', $slave) or POSIX::_exit(127);
		}
		exec @command or POSIX::_exit(127);
	}
	$pty->close_slave;
	$pty->blocking(0);
	return bless { pty => $pty, pid => $pid, shown => '' }, $class;
}

=pod

=item $terminal->type($text), $terminal->forget

Types it; forgets what was shown so far.

=cut

sub type
{
	my ($self, $text) = @_;
	while (length $text)
	{
		my $written = $self->{pty}->syswrite($text);
		substr($text, 0, $written) = '' if $written;
		$self->_read;
	}
	return;
}

sub forget
{
	my ($self) = @_;
	$self->_read;
	$self->{shown} = '';
	return;
}

# Takes what is there; false when the program has closed the terminal.
sub _read
{
	my ($self) = @_;
	while (my $n = $self->{pty}->sysread(my $part, 4096))
	{
		$self->{shown} .= $part =~ s/\r//gr;
	}
	return $!{EAGAIN};
}

sub _wait
{
	my ($self, $condition, $what) = @_;
	my $deadline = time() + $SendkitTest::PATIENCE;
	until ($condition->())
	{
		croak "waited $SendkitTest::PATIENCE s until $what; the terminal shows: $self->{shown}"
		  if time() >= $deadline;
		sleep 0.01;
	}
	return;
}

=pod

=item $terminal->wait_for($pattern), $terminal->wait_for_silence

Waits until the pattern is shown; until the program has switched the echo off.

=cut

sub wait_for
{
	my ($self, $pattern) = @_;
	$self->_wait(sub { $self->_read; $self->{shown} =~ $pattern }, "$pattern is shown");
	return;
}

sub wait_for_silence
{
	my ($self) = @_;
	my $mode = POSIX::Termios->new;
	$self->_wait(
		sub { $mode->getattr(fileno $self->{pty}); !($mode->getlflag & ECHO) },
		'the echo is off');
	return;
}

=pod

=item $terminal->finish

Waits until the program has ended, and returns all that was shown.

=cut

sub finish
{
	my ($self) = @_;
	$self->_wait(sub { !$self->_read }, 'the program has ended');
	waitpid $self->{pid}, 0;
	return $self->{shown};
}

=pod

=back

=cut

1;
