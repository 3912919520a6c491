# The inputs that the fuzzer begins with, and those that it once found something
# with, break no rule of test/fuzz. The fuzzer itself is test/fuzz/run.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my ($library) = grep { -e "$_/libpgcommon.a" }
  map { my $dir = `pg_config --$_`; chomp $dir; $dir } qw(pkglibdir libdir);
plan skip_all => 'no libpgcommon.a here' unless $library;

my $out = PostgreSQL::Test::Utils::tempdir();
# "make installcheck", if that is what runs us, hands its arguments down.
delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES)};

foreach my $target (qw(answer id url))
{
	my $log;
	IPC::Run::run([ 'make', '-s', '-C', 'test/fuzz', 'CC=gcc', "OUT=$out", "$out/$target" ],
		'>', \$log, '2>&1');
	ok(-x "$out/$target", "$target is built") or diag($log);

	my @inputs = glob "test/fuzz/corpus/$target/*";
	cmp_ok(scalar @inputs, '>', 0, "$target: " . @inputs . ' inputs');
	local $ENV{ASAN_OPTIONS} = 'detect_leaks=0';
	ok(IPC::Run::run([ "$out/$target", @inputs ], '>', \$log, '2>&1'), "$target: no rule is broken")
	  or diag($log);
}

done_testing();
