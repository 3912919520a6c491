
=pod

=head1 NAME

SendkitTest - servers, sessions and calls for TAP tests

=head1 SYNOPSIS

    use SendkitStandin;
    use SendkitTest;
    use Test::More;

    my $api = SendkitStandin->start(tls => 1);
    my $node = start_node($api, listener => 'https',
        conf => "sendkit.max_retries = 1\n");

    is(call($node, 'ws-1')->{outcome}, 'deleted', 'the key is gone');
    is(call($node, 'ws-2;silent', set => { request_timeout => 100 })->{outcome},
        'unknown', 'nobody knows');

    my $session = SendkitTest::Session->new($node);
    my $watcher = SendkitTest::Session->new($node);
    $session->send(call_sql('ws-3;silent'));
    $watcher->wait_for_wait($session);
    $watcher->query('SELECT pg_cancel_backend(' . $session->pid . ')');
    is($session->result->{sqlstate}, '57014', 'it was cancelled');
    is($session->call('ws-3')->{outcome}, 'deleted', 'the next call works');

    ok_key_not_logged($node);
    done_testing();

=head1 DESCRIPTION

A thin layer over L<PostgreSQL::Test::Cluster> and L<SendkitStandin>.

Servers made here don't log statements (F<Cluster.pm> would have them log all),
only those of errors as every server does: thus a key in the log is a bug.

=cut

package SendkitTest;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  $KEY
  call call_many_sql call_sql configure descriptors is_outcome knows_configuration
  libcurl_keeps_connections libcurl_version literal memory_is_plain memory_kb
  ok_key_not_logged outcomes preload_library process_is_gone prompt
  start_node wait_until write_file
);

=pod

=head1 EXPORTS

=over

=item $KEY

The platform key that calls use unless told otherwise.  It occurs nowhere else.

=cut

our $KEY = 'sk_user_T0pSecretOfTheTests';

# How long, in seconds, to wait for anything that a busy machine can delay.
our $PATIENCE = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 60;

my $JSON = JSON::PP->new->utf8;

=pod

=item start_node($api, listener => 'http', name => 'main', deliver => 0, conf => '...', env => {...})

A running server with the extension in its database postgres, and settings that
lead to a listener of the stand-in (default C<http>; undef leaves the default
C<base_url>).  No background worker delivers anything unless C<deliver> is true.
C<conf> is appended to F<postgresql.conf>, C<env> is added to the
server's environment, C<init> is an array of arguments for C<< $node->init >>.

=cut

sub start_node
{
	my ($api, %option) = @_;

	my $listener = exists $option{listener} ? $option{listener} : 'http';
	my $node = PostgreSQL::Test::Cluster->new($option{name} || 'main');
	$node->init(@{ $option{init} || [] });
	$node->append_conf('postgresql.conf', "log_statement = none\n");
	$node->append_conf('postgresql.conf', "sendkit.auto_deliver = off\n")
	  unless $option{deliver};
	$node->append_conf('postgresql.conf',
		"sendkit.base_url = '" . $api->url($listener) . "'\n")
	  if defined $listener;
	$node->append_conf('postgresql.conf',
		"sendkit.ca_file = '" . $api->ca . "'\n")
	  if $api->port('https');
	$node->append_conf('postgresql.conf', $option{conf}) if $option{conf};

	{
		local %ENV = (%ENV, %{ $option{env} || {} });
		$node->start;
	}
	$node->safe_psql('postgres', 'CREATE EXTENSION sendkit');
	return $node;
}

=pod

=item configure($node, proxy => '...', ...)

Writes settings, named without C<sendkit.>, to F<postgresql.conf>, reloads, and
waits until new sessions have them.  Sessions that stay have them once
C<knows_configuration($session)> has returned.

=cut

my $configurations = 0;

sub configure
{
	my ($node, %set) = @_;
	$configurations++;
	$node->append_conf('postgresql.conf',
		join('', map { "sendkit.$_ = '" . ($set{$_} =~ s/'/''/gr) . "'\n" } sort keys %set)
		  . "sendkit_test.configuration = $configurations\n");
	$node->reload;
	wait_until(
		sub { $node->safe_psql('postgres', 'SHOW sendkit_test.configuration') eq $configurations },
		'new sessions have the settings');
	return;
}

sub knows_configuration
{
	my ($session) = @_;
	wait_until(
		sub { $session->value('SHOW sendkit_test.configuration') eq $configurations },
		'the session has the settings');
	return;
}

=pod

=item literal($text)

The text as an SQL literal.

=cut

sub literal
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return "'$text'" unless $text =~ /\\/;
	$text =~ s/\\/\\\\/g;
	return " E'$text'";
}

=pod

=item call_sql($id, key => $KEY)

A SELECT that calls C<sendkit_delete_api_key()> and returns the row as JSON.

=cut

sub call_sql
{
	my ($id, %option) = @_;
	my $key = exists $option{key} ? $option{key} : $KEY;
	return 'SELECT row_to_json(r) FROM sendkit_delete_api_key('
	  . literal($id) . ', ' . literal($key) . ') r';
}

sub call_many_sql
{
	my ($ids, %option) = @_;
	my $key = exists $option{key} ? $option{key} : $KEY;
	my $array = ref $ids ? 'ARRAY[' . join(',', map { literal($_) } @$ids) . ']::text[]' : $ids;
	return "SELECT row_to_json(r) FROM sendkit_delete_api_keys($array, "
	  . literal($key) . ') r';
}

sub outcomes
{
	my ($rows) = @_;
	my %count;
	$count{ $_->{outcome} }++ foreach @$rows;
	return \%count;
}

# SET statements from a hash of settings, whose names lack "sendkit."
sub _settings_sql
{
	my ($set) = @_;
	return join('',
		map { "SET sendkit.$_ = " . literal($set->{$_}) . ";\n" }
		sort keys %{ $set || {} });
}

# Reads a call's result.  SQL shows success and message only, so the outcome is
# told by the promise that each kind of message ends with.
sub _answer
{
	my ($json) = @_;
	my $row = $JSON->decode($json);
	my $message = $row->{message};

	$row->{success} = $row->{success} ? 1 : 0;
	$row->{outcome} =
	    $row->{success} ? 'deleted'
	  : $message =~ /; nothing was deleted$/ ? 'unavailable'
	  : $message =~ /may or may not have been deleted$/ ? 'unknown'
	  : 'refused';
	return $row;
}

=pod

=item call($node, $id, key => $KEY, set => { name => value })

Calls in a session of its own.  C<set> holds settings, named without
C<sendkit.>.  Returns a hash with C<success> (1 or 0), C<message>, and
C<outcome>: C<deleted>, C<unavailable>, C<unknown>, or C<refused> for those two,
absent and rejected, that show the API's own message.  After an SQL error the
hash has C<error>, what psql wrote, and C<outcome> is C<error>.

=cut

sub call
{
	my ($node, $id, %option) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres',
		_settings_sql($option{set}) . call_sql($id, %option));

	return { outcome => 'error', error => $stderr } if $status != 0;
	my $answer = _answer((split /\n/, $stdout)[-1]);
	$answer->{stderr} = $stderr;
	return $answer;
}

=pod

=item is_outcome($answer, $outcome, $name)

Tests that a call's answer has this outcome, and shows the whole if it hasn't.

=cut

sub is_outcome
{
	my ($answer, $outcome, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($answer->{outcome}, $outcome, $name)
	  || diag(explain($answer));
}

=pod

=item prompt($seconds, $name)

Tests that something took less than C<$SendkitTest::HANG> seconds, a bound far
beyond the milliseconds that it should take, which only a hang exceeds; and
notes how long it was.

=cut

our $HANG = 3;

sub prompt
{
	my ($seconds, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	note(sprintf('%s: %.1f ms', $name, $seconds * 1000));
	return ok($seconds < $HANG, "$name: promptly")
	  || diag(sprintf('it took %.3f s', $seconds));
}

=pod

=item wait_until(sub { ... }, $what)

Calls the code until it returns something true, and returns that.  Dies after a
long while.

=cut

sub wait_until
{
	my ($condition, $what) = @_;
	my $deadline = time() + $PATIENCE;

	while (1)
	{
		my $value = $condition->();
		return $value if $value;
		croak "waited $PATIENCE s until $what" if time() >= $deadline;
		sleep 0.01;
	}
}

=pod

=item descriptors($pid), memory_kb($pid), process_is_gone($pid)

How many descriptors a process has open (the files of its data directory, which
come and go as tables are used, not included), how much memory of its own (not
shared) it uses, and whether it has ended.

=item memory_is_plain($pid)

False when the process runs under a tool, such as AddressSanitizer, that keeps
freed memory: then growth says nothing.

=item libcurl_version()

The libcurl that extensions are built with here, as a number such as 7.88, or 0
where that can't be told.

=item libcurl_keeps_connections()

Whether that one uses a connection again, and speaks HTTP/2.  Before 7.80 it does
neither, since it does not ask before it sends.

=cut

sub libcurl_keeps_connections
{
	my $version = libcurl_version();
	return !$version || $version >= 7.80;
}

sub libcurl_version
{
	my $text = `pkg-config --modversion libcurl 2>/dev/null`
	  || `curl-config --version 2>/dev/null`;
	return $text =~ /(\d+)\.(\d+)/ ? sprintf('%d.%02d', $1, $2) : 0;
}

sub descriptors
{
	my ($pid) = @_;
	my $data = readlink "/proc/$pid/cwd";
	my $count = 0;

	opendir(my $folder, "/proc/$pid/fd") or croak "/proc/$pid/fd: $!";
	foreach my $fd (grep { !/^\./ } readdir $folder)
	{
		my $what = readlink "/proc/$pid/fd/$fd";
		$count++ unless defined $what && index($what, "$data/") == 0;
	}
	return $count;
}

sub memory_kb
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m
	  ? $1
	  : croak "no RssAnon of process $pid";
}

sub memory_is_plain
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/maps") !~ /asan|valgrind|vgpreload/;
}

sub process_is_gone
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/stat") or return 1;
	my $stat = <$file>;
	close $file;
	# one that nobody has reaped yet is gone as well
	return !defined $stat || $stat =~ /\) [ZX] /;
}

=pod

=item ok_key_not_logged($node, $key...)

Tests that the server's log shows none of the keys (default: C<$KEY>).

=cut

sub ok_key_not_logged
{
	my ($node, @keys) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $log = slurp_file($node->logfile);
	my @shown = grep { index($log, $_) >= 0 } (@keys ? @keys : $KEY);

	return ok(!@shown && length $log, 'the log shows no key')
	  || diag(grep { /\Q$shown[0]\E/ } split /^/, $log);
}

=pod

=item write_file($path, $content, $mode)

Writes a file, byte for byte, that has this mode then; by default its owner's alone.

=cut

sub write_file
{
	my ($path, $content, $mode) = @_;
	open(my $handle, '>:raw', $path) or croak "$path: $!";
	print $handle $content;
	close $handle or croak "$path: $!";
	chmod $mode // 0600, $path or croak "$path: $!";
	return;
}

=pod

=item preload_library($name, @flags)

Compiles F<test/preload/$name.c>, with further flags for the compiler if there are
any, and returns the path of the shared library, to be given to a server as
C<< env => { LD_PRELOAD => $path } >>; undef if there is no C compiler.

=cut

sub preload_library
{
	my ($name, @flags) = @_;
	my $source = __FILE__ =~ s{[^/]*$}{}r . "../preload/$name.c";
	my $library = PostgreSQL::Test::Utils::tempdir() . "/$name.so";

	foreach my $compiler (grep { defined } $ENV{CC}, 'cc', 'gcc', 'clang')
	{
		return $library
		  if system("$compiler @flags -O1 -fPIC -shared -o '$library' '$source' -ldl 2>/dev/null") == 0;
	}
	return undef;
}

=pod

=back

=cut

package SendkitTest::Session;

=pod

=head1 SendkitTest::Session

A session that stays, and that need not be waited for: a psql at the end of two
pipes.  (PostgreSQL's own BackgroundPsql differs between versions in what it
does about errors, which here are what we look at.)

=over

=item SendkitTest::Session->new($node, dbname => 'postgres')

Connects.

=cut

use strict;
use warnings;

use Carp;
use IPC::Run ();
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, $node, %option) = @_;
	my $self = bless { in => '', out => '', err => '', n => 0 }, $class;

	local $ENV{PGAPPNAME} = 'sendkit test session';
	$self->{psql} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq',
			'-d', $node->connstr($option{dbname} || 'postgres'),
			'-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never', '-f', '-'
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
	$self->{pid} = $self->query('SELECT pg_backend_pid()')->{rows}[0]
	  or croak "cannot connect: $self->{err}";
	return $self;
}

=pod

=item $session->pid

The backend's process id.

=cut

sub pid
{
	my ($self) = @_;
	return $self->{pid};
}

=pod

=item $session->send($sql)

Sends one or several statements and returns at once; C<result> is to follow.

=cut

sub send    ## no critic (ProhibitBuiltinHomonyms)
{
	my ($self, $sql) = @_;
	my $mark = '== done ' . ++$self->{n};

	# a second semicolon would be an empty statement, with an SQLSTATE of its own
	$sql =~ s/;?\s*$/;/;
	$self->{in} .= "$sql\n\\echo '$mark' :SQLSTATE\n\\warn '$mark'\n";
	$self->{psql}->pump_nb while length $self->{in};
	return;
}

=pod

=item $session->result

Waits for what was sent, and returns a hash: C<rows>, an array of lines;
C<sqlstate> of the last statement; C<stderr>, with errors and notices in full;
C<lost>, true when the connection has ended.

=cut

sub result
{
	my ($self) = @_;
	my $mark = "== done $self->{n}";
	my $deadline = time() + $SendkitTest::PATIENCE;

	until ($self->{out} =~ /^\Q$mark\E (\w*)\n/m && $self->{err} =~ /^\Q$mark\E\n/m)
	{
		last unless $self->{psql}->pumpable;
		croak "no answer within $SendkitTest::PATIENCE s: $self->{err}"
		  if time() >= $deadline;
		# not pump(), which would wait without an end
		$self->{psql}->pump_nb;
		sleep 0.001;
	}

	my %result = (lost => 1, sqlstate => '');
	if ($self->{out} =~ s/^\Q$mark\E (\w*)\n//m)
	{
		%result = (lost => 0, sqlstate => $1);
	}
	elsif ($self->{err} =~ /^(?:psql:\S+ )?FATAL:  (\w{5}):/m)
	{
		$result{sqlstate} = $1;
	}
	$self->{err} =~ s/^\Q$mark\E\n//m;
	$result{rows} = [ split /\n/, $self->{out} ];
	$result{stderr} = $self->{err};
	$self->{out} = $self->{err} = '';
	return \%result;
}

=pod

=item $session->query($sql), $session->value($sql), $session->call($id, ...)

C<send> and C<result> in one; the same, but the only value of a query that must
not fail; the same for a call, with the arguments and the result of C<call>
above plus C<sqlstate>.  Settings stay set.

=cut

sub query
{
	my ($self, $sql) = @_;
	$self->send($sql);
	return $self->result;
}

sub value
{
	my ($self, $sql) = @_;
	my $result = $self->query($sql);
	croak "\"$sql\" failed: $result->{stderr}"
	  if $result->{lost} || $result->{sqlstate} ne '00000';
	return $result->{rows}[0];
}

sub call
{
	my ($self, $id, %option) = @_;
	my $result = $self->query(SendkitTest::_settings_sql($option{set})
		  . SendkitTest::call_sql($id, %option));

	return { outcome => 'error', error => $result->{stderr}, %$result }
	  if $result->{lost} || $result->{sqlstate} ne '00000';
	my $answer = SendkitTest::_answer($result->{rows}[-1]);
	$answer->{stderr} = $result->{stderr};
	$answer->{sqlstate} = $result->{sqlstate};
	return $answer;
}

=pod

=item call_many_sql($ids), $session->call_many($ids, key => $KEY, set => {...})

A SELECT that deletes many keys in one call, and the call itself, which returns
the rows as an array of hashes.  C<$ids> is an array of ids or an SQL expression
for one.  Dies when the call fails.

=item SendkitTest::outcomes($rows)

How often each outcome occurs in such rows, as a hash.

=cut

sub call_many
{
	my ($self, $ids, %option) = @_;
	$self->query(SendkitTest::_settings_sql($option{set}) . 'SELECT 1')
	  if $option{set};
	$self->send(SendkitTest::call_many_sql($ids, %option));
	return $self->many_rows;
}

# The rows of a call_many_sql() that was sent.
sub many_rows
{
	my ($self) = @_;
	my $result = $self->result;
	croak "the call failed: $result->{stderr}"
	  if $result->{lost} || $result->{sqlstate} ne '00000';
	return [ map { $JSON->decode($_) } @{ $result->{rows} } ];
}

=pod

=item $session->workers($database)

The pids of the workers, of one database or of all, in order.

=cut

sub workers
{
	my ($self, $database) = @_;
	my $where = defined $database ? ' AND datname = ' . SendkitTest::literal($database) : '';
	return @{ $self->query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'sendkit worker'$where ORDER BY pid")->{rows} };
}

=pod

=item $session->wait_for_wait($other)

Waits, by looking at pg_stat_activity, until the other session waits inside a
call.

=cut

sub wait_for_wait
{
	my ($self, $other) = @_;
	my $pid = $other->pid;
	SendkitTest::wait_until(
		sub {
			($self->value('SELECT wait_event_type FROM pg_stat_activity '
				  . "WHERE pid = $pid AND state = 'active'") || '') eq 'Extension';
		},
		"process $pid waits in a call");
	return;
}

=pod

=item $session->quit

Ends the session.

=cut

sub quit
{
	my ($self) = @_;
	my $psql = delete $self->{psql} or return;
	eval {
		local $SIG{ALRM} = sub { die "time-out\n" };
		alarm 10;
		$psql->finish;
		alarm 0;
	};
	alarm 0;
	$psql->kill_kill if $@;
	return;
}

=pod

=back

=cut

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);
	$self->quit;
	return;
}

1;
