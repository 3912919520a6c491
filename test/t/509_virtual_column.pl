# A generated column that is not stored, which PostgreSQL 18 and later have, is in no
# row that a trigger gets to see. It must not be taken for an empty one, whose
# workspace has no key.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use SendkitStandin;
use SendkitTest;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('virtual');
plan skip_all => 'no virtual columns here' if $node->pg_version < 18;
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION sendkit');
my $session = SendkitTest::Session->new($node);

foreach my $form ('FOR EACH ROW', 'REFERENCING OLD TABLE AS removed FOR EACH STATEMENT')
{
	foreach my $kind ('VIRTUAL', 'STORED')
	{
		$session->query(<<"SQL");
DROP TABLE IF EXISTS workspace;
TRUNCATE sendkit_revocation;
CREATE TABLE workspace (name text, id text GENERATED ALWAYS AS (lower(name)) $kind);
CREATE TRIGGER revoke AFTER DELETE ON workspace $form EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('WS-1');
SQL
		my $result = $session->query('DELETE FROM workspace');
		is($result->{sqlstate}, $kind eq 'STORED' ? '00000' : '0A000', "$kind, $form")
		  || diag($result->{stderr});
		is($session->value('SELECT count(*) FROM sendkit_revocation'), $kind eq 'STORED' ? 1 : 0, '... and what is queued');
	}
}

$session->quit;
$node->stop;
done_testing();
