=pod

=head1 NAME

SendkitBulk - calls for many workspaces, and what came of them

=head1 DESCRIPTION

For tests that look at how many requests there are at a time.  C<$in> is a
L<SendkitTest::Session>, and C<$api> a L<SendkitStandin>.

=over

=item ids($count, $directives)

An SQL array of so many ids that nobody had before, each with these directives.

=item set_all($in, $api, name => value, ...)

Sets what a call for many depends on, by default or as given, and dies if it is
refused.

=item many($in, $ids)

The rows of a call for many, none if it fails; without ids, of one that was sent.

=item ok_all($rows, $outcome, $count, $name)

Tests that all have this outcome, and returns the rows.

=back

=cut

package SendkitBulk;

use strict;
use warnings;

use Exporter 'import';
use SendkitTest;
use Test::More;

our @EXPORT = qw(ids many ok_all set_all);

my $serial = 0;

sub ids
{
	my ($count, $directives) = @_;
	my $prefix = 'many-' . ++$serial;
	return "ARRAY(SELECT '$prefix-' || i || '" . ($directives // '')
	  . "' FROM generate_series(1, $count) i)";
}

sub set_all
{
	my ($in, $api, %set) = @_;
	my $result = $in->query(SendkitTest::_settings_sql(
			{
				base_url => $api->url('http'),
				connect_timeout => '5s',
				request_timeout => '30s',
				max_retries => 0,
				max_concurrency => 32,
				%set
			}));
	die $result->{stderr} if $result->{sqlstate} ne '00000';
	return;
}

sub many
{
	my ($in, $ids) = @_;
	my $rows = eval { $ids ? $in->call_many($ids) : $in->many_rows };
	diag($@) unless $rows;
	return $rows || [];
}

sub ok_all
{
	my ($rows, $outcome, $count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %messages = map { $_->{message} => $_->{outcome} }
	  grep { $_->{outcome} ne $outcome } @$rows;
	is_deeply(outcomes($rows), { $outcome => $count }, $name)
	  || diag(explain(\%messages));
	return $rows;
}

1;
