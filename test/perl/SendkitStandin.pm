
=pod

=head1 NAME

SendkitStandin - starts and stops the stand-in API for TAP tests

=head1 SYNOPSIS

    use SendkitStandin;

    my $api = SendkitStandin->start(tls => 1);

    $node->append_conf('postgresql.conf',
        "sendkit.base_url = '" . $api->url('https') . "'\n"
      . "sendkit.ca_file = '" . $api->ca . "'\n");

    $api->control('POST', '/limit', { per_second => 10, burst => 1 });
    ...
    $api->wait_for_requests(3);
    is($api->requests->[0]{method}, 'DELETE', 'it asked to delete');
    ok(!$api->key_alive('ws-1'), 'and the key is gone');
    $api->stop;

=head1 DESCRIPTION

The stand-in is a Python program in F<test/standin>; its F<README.md> describes
the directives by which a workspace id asks for misbehaviour and the calls of
its control port.  This module holds its standard input open and reads from its
standard output which ports it got.  When the test ends, in whatever way, the
input ends and the stand-in goes.

All methods die on failure, so tests need not check.

=cut

package SendkitStandin;

use strict;
use warnings;

use Carp;
use File::Basename qw(dirname);
use File::Spec;
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use Scalar::Util qw(weaken);
use Symbol qw(gensym);
use Time::HiRes qw(sleep time);

# How long, in seconds, to wait for anything that a busy machine can delay.
my $PATIENCE = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 60;

my $JSON = JSON::PP->new->utf8->allow_nonref;

# Those to be stopped at the end: an object of a test that dies in file scope
# would be destroyed too late to run code.
my %running;

=pod

=head1 METHODS

=over

=item SendkitStandin->start(tls => 1, nghttpx => 1, args => [...])

Start a stand-in and wait until it listens.  All arguments are optional: C<tls>
adds the TLS listeners, C<nghttpx> adds nghttpx in front, C<args> are options of
the program itself.

=cut

sub start
{
	my ($class, %option) = @_;

	my @command = (_python(), _program(), '--until-eof');
	push @command, '--tls' if $option{tls};
	push @command, '--nghttpx' if $option{nghttpx};
	push @command, @{ $option{args} || [] };

	my $self = bless { input => '', output => '' }, $class;
	$self->{harness} = IPC::Run::start(\@command,
		'<pipe' => $self->{keep_alive} = gensym(),
		'>', \$self->{output});
	$running{$self} = $self;
	weaken($running{$self});

	$self->{facts} = $JSON->decode($self->_first_line);
	$self->{http} = HTTP::Tiny->new(
		timeout => $PATIENCE,
		proxy => undef,
		http_proxy => undef,
		https_proxy => undef);
	return $self;
}

=pod

=item $api->stop

Stop it.  Harmless when it was stopped before.

=cut

sub stop
{
	my ($self) = @_;

	my $harness = delete $self->{harness} or return;
	delete $running{$self};
	close $self->{keep_alive};
	# Normally gone within milliseconds; never let a test hang on it.
	eval {
		local $SIG{ALRM} = sub { die "time-out\n" };
		alarm 10;
		$harness->finish;
		alarm 0;
	};
	if ($@)
	{
		alarm 0;
		$harness->kill_kill;
	}
	return;
}

=pod

=item $api->port($name)

The port of a listener: C<http>, C<https>, C<https_expired>, C<h2>, C<proxy>, ...
Undef when there is no such listener, as with C<h2> where Python's h2 library is
missing: a test can skip what it can't do.

=cut

sub port
{
	my ($self, $name) = @_;
	return $self->{facts}{$name};
}

=pod

=item $api->url($name)

The same as a root URL, C<https://localhost:PORT> or C<http://127.0.0.1:PORT>.

=cut

sub url
{
	my ($self, $name) = @_;
	my $port = $self->port($name)
	  or croak "the stand-in has no listener \"$name\"";
	return $name =~ /^(?:https|h2|nghttpx)/
	  ? "https://localhost:$port"
	  : "http://127.0.0.1:$port";
}

=pod

=item $api->ca

Path of the certificate authority's certificate.

=cut

sub ca
{
	my ($self) = @_;
	return $self->{facts}{ca} || croak 'the stand-in runs without tls';
}

=pod

=item $api->control($method, $path, $body)

Call the control port.  The body, if any, is sent as JSON; returned is what the
answer's JSON holds.

=cut

sub control
{
	my ($self, $method, $path, $body) = @_;

	my $answer = $self->{http}->request(
		$method,
		"http://127.0.0.1:$self->{facts}{control}$path",
		defined $body ? { content => $JSON->encode($body) } : {});
	croak "$method $path: $answer->{status} $answer->{content}"
	  unless $answer->{success};
	return $JSON->decode($answer->{content});
}

=pod

=item $api->requests(%filter)

All requests that the API received, oldest first, as an array of hashes.  The
filter C<< id => ... >> keeps those of one workspace id.

=cut

sub requests
{
	my ($self, %filter) = @_;
	return $self->control('GET',
		exists $filter{id}
		? '/requests?id=' . _escape($filter{id})
		: '/requests');
}

=pod

=item $api->stats

Counts of requests, connections and what was in flight.

=cut

sub stats
{
	my ($self) = @_;
	return $self->control('GET', '/stats');
}

=pod

=item $api->key_alive($workspace_id)

Does this workspace still have its key?

=cut

sub key_alive
{
	my ($self, $id) = @_;
	my $answer = $self->control('GET', '/keys?id=' . _escape($id));
	return $answer->{alive} ? 1 : 0;
}

=pod

=item $api->reset

Forget all requests, restore all keys, lift limits and defaults.

=cut

sub reset    ## no critic (ProhibitBuiltinHomonyms)
{
	my ($self) = @_;
	$self->control('POST', '/reset');
	return;
}

=pod

=item $api->wait_for_requests($n)

Wait until the API has received at least this many requests since the start or
the last reset, and return how many it were.

=cut

sub wait_for_requests
{
	my ($self, $n) = @_;

	my $deadline = time() + $PATIENCE;
	my $seen = 0;
	while (time() < $deadline)
	{
		$seen = $self->stats->{requests}{total};
		return $seen if $seen >= $n;
		sleep 0.02;
	}
	croak "waited $PATIENCE s for $n requests, saw $seen";
}

=pod

=back

=cut

# The h2 library comes with the system's Python, which need not be the first.
sub _python
{
	return $ENV{PYTHON} if $ENV{PYTHON};
	return -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';
}

sub _program
{
	return File::Spec->catdir(dirname(__FILE__), File::Spec->updir, 'standin');
}

sub _escape
{
	my ($text) = @_;
	utf8::encode($text);
	$text =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord $1)/ge;
	return $text;
}

# The line of JSON by which the stand-in says that it is ready.
sub _first_line
{
	my ($self) = @_;

	my $deadline = time() + $PATIENCE;
	while ($self->{output} !~ /\n/)
	{
		croak "the stand-in did not start within $PATIENCE s"
		  if time() >= $deadline;
		$self->{harness}->pump_nb;
		croak 'the stand-in ended instead of starting'
		  unless $self->{harness}->pumpable || $self->{output} =~ /\n/;
		sleep 0.005;
	}
	return $self->{output};
}

sub DESTROY
{
	my ($self) = @_;
	# Stopping reaps a child; that must not become the test's exit status.
	local ($?, $@);
	$self->stop;
	return;
}

END
{
	local $?;
	$_->stop for grep { defined } values %running;
}

1;
