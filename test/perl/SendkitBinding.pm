
=pod

=head1 NAME

SendkitBinding - the least of a client that binds parameters

=head1 SYNOPSIS

    my $client = SendkitBinding->connect($node, $user);
    like($client->query('SELECT $1::text', 'x'), qr/x/, 'an answer');
    $client->send('SELECT pg_sleep($1)', 60);
    $client->vanish;

=head1 DESCRIPTION

psql can bind parameters since PostgreSQL 16 only.  Answers are the bytes of the
protocol's messages, as they come.

=cut

package SendkitBinding;

use strict;
use warnings;

use IO::Socket::UNIX;

sub connect    ## no critic (ProhibitBuiltinHomonyms)
{
	my ($class, $node, $user) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port)
	  or die "connect: $!";
	my $self = bless { socket => $socket }, $class;
	my $body = pack 'N (Z*)*', 196608, 'user', $user, 'database', 'postgres', '';
	$socket->syswrite(pack('N', 4 + length $body) . $body);
	$self->{pid} = unpack 'N', ($self->answer =~ /K\0\0\0\x0c(.{4})/s)[0];
	return $self;
}

sub pid { return $_[0]{pid} }

# Everything until the server is ready for more, or gone.
sub answer
{
	my ($self) = @_;
	my $all = '';
	while ($self->{socket}->read(my $head, 5))
	{
		my ($type, $length) = unpack 'a N', $head;
		my $body = '';
		$self->{socket}->read($body, $length - 4) if $length > 4;
		$all .= $head . $body;
		last if $type eq 'Z';
	}
	return $all;
}

sub _message
{
	my ($type, $body) = @_;
	return $type . pack('N', 4 + length $body) . $body;
}

sub send    ## no critic (ProhibitBuiltinHomonyms)
{
	my ($self, $sql, @parameters) = @_;
	$self->{socket}->syswrite(_message('P', pack 'Z* Z* n', '', $sql, 0)
		  . _message('B', pack('Z* Z* n n', '', '', 0, scalar @parameters)
			  . pack('(N/a*)*', @parameters) . pack('n', 0))
		  . _message('E', pack 'Z* N', '', 0)
		  . _message('S', ''));
	return;
}

sub query
{
	my ($self, @statement) = @_;
	$self->send(@statement);
	return $self->answer;
}

# Closes the connection without a word.
sub vanish
{
	my ($self) = @_;
	close delete $self->{socket};
	return;
}

1;
