# The README's other trigger, by a direct call: the removal fails when the
# revocation fails.
#
# What the queue does not have to explain shows here: a key that was deleted
# stays deleted when its workspace comes back by rollback. So the trigger must
# take "there is no key" for a success, or nobody could repeat the removal.

use strict;
use warnings;

use SendkitStandin;
use SendkitTest;
use Test::More;

my $api = SendkitStandin->start;
my $node = start_node($api, conf => "sendkit.max_retries = 0\n");
my $session = SendkitTest::Session->new($node);

sub outcome
{
	my ($sql) = @_;
	my $result = $session->query($sql);
	return $result->{sqlstate} eq '00000' ? 'ok' : $result->{stderr} =~ /ERROR:  (.*)/ ? $1 : $result->{stderr};
}

is(outcome(<<"SQL"), 'ok', 'the pattern');
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key '$KEY');

CREATE TABLE workspace (id text PRIMARY KEY);

CREATE FUNCTION revoke_api_keys_now() RETURNS trigger
LANGUAGE plpgsql AS \$\$
DECLARE
	failure record;
BEGIN
	SELECT * INTO failure
	FROM sendkit_delete_api_keys(ARRAY(SELECT id::text FROM removed))
	WHERE NOT success AND outcome <> 'absent';

	IF FOUND THEN
		RAISE EXCEPTION 'could not revoke the API key of workspace "%": %',
			failure.workspace_id, failure.message;
	END IF;
	RETURN NULL;
END
\$\$;

CREATE TRIGGER revoke_api_keys AFTER DELETE ON workspace
	REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION revoke_api_keys_now();

INSERT INTO workspace VALUES ('ws-1'), ('ws-2'), ('ws-3'), ('absent-4'), ('ws-5;status=403'),
	('ws-6;status=429;retry-after=1;times=1'), ('ws-7;status=500;times=1'), ('ws-8');
SQL

sub left
{
	return join ' ', @{ $session->query('SELECT id FROM workspace ORDER BY id')->{rows} };
}
my $all = left();

is(outcome("DELETE FROM workspace WHERE id IN ('ws-1', 'absent-4')"), 'ok',
	'workspaces with and without a key are removed');
ok(!$api->key_alive('ws-1'), 'the key is gone');
unlike(left(), qr/ws-1\b|absent-4/, 'and so are they');

foreach my $id ('ws-5;status=403', 'ws-6;status=429;retry-after=1;times=1', 'ws-7;status=500;times=1')
{
	like(outcome("DELETE FROM workspace WHERE id = '$id'"), qr/could not revoke the API key of workspace "\Q$id\E"/,
		"$id: the removal fails");
	like(left(), qr/\Q$id\E/, "$id: the workspace is still there");
}

# Several at a time, of which one fails: this is what can't be rolled back.
like(outcome("DELETE FROM workspace WHERE id ~ '^ws-[235]'"), qr/workspace "ws-5/,
	'one of three fails');
like(left(), qr/ws-2 ws-3 ws-5/, 'all three workspaces are still there');
ok(!$api->key_alive('ws-2') && !$api->key_alive('ws-3'), 'but two keys are gone');
is(outcome("DELETE FROM workspace WHERE id ~ '^ws-[2367]'"), 'ok',
	'to repeat the removal works, when nothing is in the way any more');
is(left(), 'ws-5;status=403 ws-8', 'they are removed');

my $before = $api->stats->{requests}{total};
is(outcome("DELETE FROM workspace WHERE id = 'nobody'"), 'ok', 'where nothing is removed ...');
is($api->stats->{requests}{total}, $before, '... nothing is asked for');

$session->quit;
ok_key_not_logged($node);
$node->stop;
done_testing();
