--
-- The trigger that queues a revocation for each workspace that a statement
-- removes: by row and by statement, on all kinds of tables, for all kinds of
-- columns and roles; and the uses that it refuses, since they would revoke too
-- much or too little. Nothing is delivered here: see queue.sql.
--
\set SHOW_CONTEXT never
\set VERBOSITY terse
TRUNCATE sendkit_revocation RESTART IDENTITY;
-- Shows what was queued since the last time, and forgets it.
CREATE FUNCTION queued(OUT workspace_id text, OUT by_me boolean) RETURNS SETOF record LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM sendkit_revocation RETURNING *)
	SELECT gone.workspace_id, requested_by = session_user FROM gone ORDER BY id
$$;

--
-- By row
--
CREATE TABLE workspace (id text, name text);
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace SELECT 'row-' || i, 'n' || i FROM generate_series(1, 9) i;
SELECT * FROM queued();
DELETE FROM workspace WHERE id = 'row-1';
SELECT workspace_id, state, requested_at <= clock_timestamp() AS requested, requested_by = current_user AS by_me,
	   not_after, attempts, next_attempt_at = requested_at AS due, claimed_at, claimed_by, finished_at, outcome, status, message
FROM sendkit_revocation;
SELECT * FROM queued();
DELETE FROM workspace WHERE id IN ('row-2', 'row-3') RETURNING id;
WITH d AS (DELETE FROM workspace WHERE id = 'row-4' RETURNING name) SELECT name FROM d;
DELETE FROM workspace WHERE id = 'row-1';
UPDATE workspace SET name = 'other';
SELECT * FROM queued();
-- As durable as the removal, no more
BEGIN;
DELETE FROM workspace WHERE id = 'row-5';
SAVEPOINT s;
DELETE FROM workspace WHERE id = 'row-6';
ROLLBACK TO SAVEPOINT s;
COMMIT;
BEGIN;
DELETE FROM workspace WHERE id = 'row-7';
ROLLBACK;
SELECT * FROM queued();
-- A subscriber applies what the publisher has revoked already.
SET session_replication_role = replica;
DELETE FROM workspace WHERE id = 'row-6';
SELECT * FROM queued();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER revoke;
DELETE FROM workspace WHERE id = 'row-7';
SELECT * FROM queued();
RESET session_replication_role;
ALTER TABLE workspace DISABLE TRIGGER revoke;
DELETE FROM workspace WHERE id = 'row-8';
SELECT * FROM queued();
DROP TABLE workspace;

--
-- By statement: once, however many rows
--
CREATE TABLE workspace (name text, id text);
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
-- one that reads the same transition table, before and after ours
CREATE FUNCTION count_removed() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE NOTICE '% removed', (SELECT count(*) FROM removed); RETURN NULL; END $$;
CREATE TRIGGER a_count AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION count_removed();
CREATE TRIGGER z_count AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION count_removed();
INSERT INTO workspace SELECT 'n', 'statement-' || i FROM generate_series(1, 5) i;
DELETE FROM workspace WHERE id = 'statement-1';
SELECT * FROM queued();
DELETE FROM workspace WHERE id > 'statement-3' RETURNING id;
SELECT * FROM queued();
DELETE FROM workspace WHERE false;
SELECT * FROM queued();
BEGIN;
DELETE FROM workspace WHERE id = 'statement-2';
SAVEPOINT s;
DELETE FROM workspace WHERE id = 'statement-3';
ROLLBACK TO SAVEPOINT s;
COMMIT;
SELECT * FROM queued();
SET session_replication_role = replica;
DELETE FROM workspace;
RESET session_replication_role;
SELECT * FROM queued();
-- ... and long ones, which are stored out of line somewhere on the way
DROP TRIGGER a_count ON workspace;
DROP TRIGGER z_count ON workspace;
INSERT INTO workspace SELECT 'n', repeat('x', 240) || i FROM generate_series(1, 20000) i;
DELETE FROM workspace;
SELECT count(*), count(DISTINCT workspace_id), min(length(workspace_id)), count(DISTINCT id) AS ids FROM sendkit_revocation;
TRUNCATE sendkit_revocation;
DROP TABLE workspace;

--
-- Soft delete: the WHEN clause says which change is a removal.
--
CREATE TABLE workspace (id text, deleted_at timestamptz);
CREATE TRIGGER revoke AFTER UPDATE OF deleted_at ON workspace FOR EACH ROW
	WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL)
	EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace SELECT 'soft-' || i FROM generate_series(1, 4) i;
UPDATE workspace SET deleted_at = now() WHERE id = 'soft-1';
UPDATE workspace SET deleted_at = now() WHERE id = 'soft-1';
UPDATE workspace SET deleted_at = NULL WHERE id = 'soft-1';
SELECT * FROM queued();
-- The workspace that it was is the one to lose its key.
UPDATE workspace SET deleted_at = now(), id = 'renamed' WHERE id = 'soft-2';
DELETE FROM workspace WHERE id = 'soft-3';
SELECT * FROM queued();
-- A removal for good may follow, of workspaces with and without a key.
CREATE TRIGGER revoke_hard AFTER DELETE ON workspace FOR EACH ROW WHEN (OLD.deleted_at IS NULL)
	EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspace;
SELECT * FROM queued();
DROP TABLE workspace;

--
-- The column
--
CREATE DOMAIN workspace_name AS varchar(30) CHECK (VALUE <> '');
CREATE TYPE workspace_kind AS ENUM ('kind-of');
CREATE TABLE workspace (t text, dropped int, u uuid, b bigint, v varchar(20), c char(12), n name, d workspace_name,
						e workspace_kind, i int GENERATED ALWAYS AS (b + 1) STORED, "Odd ""name" text);
ALTER TABLE workspace DROP COLUMN dropped;
INSERT INTO workspace VALUES ('text', '0f0e0d0c-0b0a-0908-0706-050403020100', 9223372036854775806 - 9223372036854775000, 'varchar', 'char', 'name',
							  'domain', 'kind-of', DEFAULT, 'odd');
-- (added later, so that the stored row has no value of its own)
ALTER TABLE workspace ADD COLUMN later text DEFAULT 'later';
DO $$
DECLARE
	c text;
BEGIN
	FOREACH c IN ARRAY ARRAY['t', 'u', 'b', 'v', 'n', 'd', 'e', 'i', 'Odd "name', 'later'] LOOP
		EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete(%L)', 'row ' || c, c);
		EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete(%L)', 'statement ' || c, c);
	END LOOP;
END $$;
DELETE FROM workspace;
SELECT workspace_id, count(*) FROM queued() GROUP BY 1 ORDER BY workspace_id COLLATE "C";
DROP TABLE workspace;
DROP TYPE workspace_kind;
DROP DOMAIN workspace_name;

-- What isn't there, or can't be sent, is an error, and the workspace stays.
CREATE TABLE workspace (id text, gone text, n int DEFAULT 1);
ALTER TABLE workspace DROP COLUMN gone;
INSERT INTO workspace VALUES ('kept');
\set VERBOSITY default
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('no_such');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('no_such');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('gone');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
-- (the name of a dropped column)
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('........pg.dropped.2........');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('ctid');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete();
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id', 'n');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
-- Ids that can't be sent: none of the statement's rows goes. No id, no key.
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES (NULL, 2), ('', 3), ('..', 4), (repeat('x', 256), 5);
DELETE FROM workspace WHERE n = 2;
DELETE FROM workspace WHERE n = 3;
DELETE FROM workspace WHERE n IN (1, 4);
\echo :SQLSTATE
DELETE FROM workspace WHERE n = 5;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES (NULL, 2), ('', 3);
DELETE FROM workspace WHERE n IN (2, 3);
DELETE FROM workspace WHERE n IN (1, 4);
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
SELECT n FROM workspace ORDER BY n;
SELECT * FROM queued();
DELETE FROM workspace WHERE n > 1;

--
-- Uses that would revoke keys of workspaces that still exist, or miss some
--
CREATE TRIGGER revoke BEFORE DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke BEFORE DELETE ON workspace FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER INSERT ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('new');
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER TRUNCATE ON workspace FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
TRUNCATE workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke BEFORE TRUNCATE ON workspace FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
TRUNCATE workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER UPDATE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
UPDATE workspace SET n = 2;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER UPDATE OF n ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
UPDATE workspace SET n = 2;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER UPDATE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
UPDATE workspace SET n = 2;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
-- (a clause that is about no row)
CREATE TRIGGER revoke AFTER UPDATE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT WHEN (current_user <> '') EXECUTE FUNCTION sendkit_revoke_on_delete('id');
UPDATE workspace SET n = 2;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspace;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspace;
CREATE VIEW workspaces AS SELECT id FROM workspace;
CREATE TRIGGER revoke INSTEAD OF DELETE ON workspaces FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspaces;
\echo :SQLSTATE
DROP TRIGGER revoke ON workspaces;
SELECT sendkit_revoke_on_delete();
\echo :SQLSTATE
SELECT id, n FROM workspace;
SELECT * FROM queued();
\set VERBOSITY terse
-- What goes through a view, goes.
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspaces;
SELECT * FROM queued();
DROP VIEW workspaces;
DROP TABLE workspace;

--
-- Partitioned tables. A partition may have its columns in another order.
--
CREATE TABLE workspace (region text, id text) PARTITION BY LIST (region);
CREATE TABLE workspace_eu PARTITION OF workspace FOR VALUES IN ('eu');
CREATE TABLE workspace_us (id text, more int, region text);
ALTER TABLE workspace_us DROP COLUMN more;
ALTER TABLE workspace ATTACH PARTITION workspace_us FOR VALUES IN ('us');
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
CREATE TABLE workspace_ap (id text, region text);
ALTER TABLE workspace ATTACH PARTITION workspace_ap FOR VALUES IN ('ap');
INSERT INTO workspace VALUES ('eu', 'eu-1'), ('eu', 'eu-2'), ('us', 'us-1'), ('us', 'us-2'), ('ap', 'ap-1'), ('ap', 'ap-2');
DELETE FROM workspace WHERE id LIKE '%-1';
SELECT workspace_id FROM queued() ORDER BY 1;
DELETE FROM workspace_us;
SELECT workspace_id FROM queued() ORDER BY 1;
-- By statement, on the parent or a partition, it would see rows of one name only,
-- and among them, when a MERGE removes some and moves others, those that live on.
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
\set VERBOSITY default
DELETE FROM workspace;
\set VERBOSITY terse
DELETE FROM workspace WHERE false;
MERGE INTO workspace w USING (VALUES ('eu-2', true), ('ap-2', false)) v (id, moves) ON w.id = v.id
WHEN MATCHED AND v.moves THEN UPDATE SET region = 'us' WHEN MATCHED THEN DELETE;
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace_us REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
DELETE FROM workspace_us;
DROP TRIGGER revoke ON workspace_us;
SELECT id FROM workspace ORDER BY 1;
DROP TABLE workspace;

-- A row that moves to another partition is deleted there and inserted here, and
-- row triggers are fired by that; but the workspace lives on.
CREATE TABLE workspace (region text, id text) PARTITION BY LIST (region);
CREATE TABLE workspace_eu PARTITION OF workspace FOR VALUES IN ('eu');
CREATE TABLE workspace_us PARTITION OF workspace FOR VALUES IN ('us');
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('eu', 'moves'), ('eu', 'goes');
UPDATE workspace SET region = 'us' WHERE id = 'moves';
SELECT * FROM queued();
MERGE INTO workspace w USING (VALUES ('moves', true), ('goes', false)) v (id, moves) ON w.id = v.id
WHEN MATCHED AND v.moves THEN UPDATE SET region = 'eu' WHEN MATCHED THEN DELETE;
SELECT * FROM queued();
DELETE FROM workspace;
SELECT * FROM queued();
DROP TABLE workspace;

-- Soft delete, where the partition's WHEN clause has other column numbers
CREATE TABLE workspace (region text, deleted boolean DEFAULT false, id text) PARTITION BY LIST (region);
CREATE TABLE workspace_eu (id text, more int, deleted boolean, region text);
ALTER TABLE workspace_eu DROP COLUMN more;
ALTER TABLE workspace ATTACH PARTITION workspace_eu FOR VALUES IN ('eu');
CREATE TRIGGER revoke AFTER UPDATE ON workspace FOR EACH ROW WHEN (NEW.deleted AND NOT OLD.deleted)
	EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('eu', false, 'soft-1'), ('eu', true, 'soft-2');
UPDATE workspace SET deleted = true;
SELECT * FROM queued();
DROP TABLE workspace;

-- Inheritance: a row trigger belongs to its table alone, the statement form sees all.
CREATE TABLE workspace (id text);
CREATE TABLE workspace_big (size int) INHERITS (workspace);
CREATE TRIGGER revoke AFTER DELETE ON workspace REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('parent');
INSERT INTO workspace_big VALUES ('child', 1);
DELETE FROM workspace;
SELECT workspace_id FROM queued() ORDER BY 1;
DROP TRIGGER revoke ON workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('parent');
INSERT INTO workspace_big VALUES ('child without', 1);
DELETE FROM workspace;
CREATE TRIGGER revoke AFTER DELETE ON workspace_big FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace_big VALUES ('child with', 1);
DELETE FROM workspace;
SELECT workspace_id FROM queued() ORDER BY 1;
DROP TABLE workspace CASCADE;

--
-- What removes a workspace without naming it
--
CREATE TABLE customer (id int PRIMARY KEY);
CREATE TABLE workspace (id text PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE);
CREATE TABLE workspace2 (id text PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE);
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
CREATE TRIGGER revoke AFTER DELETE ON workspace2 REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO customer VALUES (1), (2), (3);
INSERT INTO workspace VALUES ('cascade-1', 1), ('cascade-2', 1), ('cascade-3', 2);
INSERT INTO workspace2 SELECT id || '-s', customer FROM workspace;
DELETE FROM customer WHERE id = 3;
SELECT * FROM queued();
DELETE FROM customer WHERE id = 1;
SELECT workspace_id FROM queued() ORDER BY 1;
BEGIN;
DELETE FROM customer;
ROLLBACK;
SELECT * FROM queued();
DROP TABLE workspace2;

-- At the end of the transaction
DROP TRIGGER revoke ON workspace;
CREATE CONSTRAINT TRIGGER revoke AFTER DELETE ON workspace DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
BEGIN;
DELETE FROM workspace;
SELECT count(*) AS not_yet FROM sendkit_revocation;
COMMIT;
SELECT * FROM queued();
INSERT INTO workspace VALUES ('immediate-1'), ('immediate-2');
BEGIN;
DELETE FROM workspace WHERE id = 'immediate-1';
SET CONSTRAINTS revoke IMMEDIATE;
SELECT count(*) AS now FROM sendkit_revocation;
DELETE FROM workspace;
SELECT count(*) AS now FROM sendkit_revocation;
COMMIT;
SELECT * FROM queued();
DROP TABLE workspace, customer;

-- A workspace that is removed and made anew in one transaction keeps its key if
-- that is looked at in the end, with an index and without.
CREATE TABLE workspace (name text, id varchar(40));
CREATE CONSTRAINT TRIGGER revoke AFTER DELETE ON workspace DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
CREATE FUNCTION replace_workspaces() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO workspace (id) VALUES ('back'), ('gone'), ('changed'), (NULL);
	SET CONSTRAINTS ALL DEFERRED;
	DELETE FROM workspace;
	INSERT INTO workspace (id) VALUES ('back'), ('changed'), (NULL);
	UPDATE workspace SET id = 'another' WHERE id = 'changed';
	SET CONSTRAINTS ALL IMMEDIATE;
	RETURN QUERY SELECT workspace_id FROM queued() ORDER BY 1;
	SET CONSTRAINTS ALL DEFERRED;
	DELETE FROM workspace;
	SET CONSTRAINTS ALL IMMEDIATE;
	PERFORM FROM queued();
END $$;
SELECT replace_workspaces();
CREATE INDEX useless ON workspace (id) WHERE name = 'x';
CREATE INDEX useful ON workspace (id, name);
SELECT replace_workspaces();
DROP TABLE workspace;
-- ... in whatever partition
CREATE TABLE workspace (id text, place int, name text, PRIMARY KEY (id, place)) PARTITION BY LIST (place);
CREATE TABLE workspace_1 PARTITION OF workspace FOR VALUES IN (1);
CREATE TABLE workspace_2 (name text, place int NOT NULL, id text NOT NULL);
ALTER TABLE workspace ATTACH PARTITION workspace_2 FOR VALUES IN (2);
CREATE CONSTRAINT TRIGGER revoke AFTER DELETE ON workspace DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
INSERT INTO workspace VALUES ('moved', 1), ('gone', 1);
BEGIN;
DELETE FROM workspace;
INSERT INTO workspace VALUES ('moved', 2);
COMMIT;
SELECT workspace_id FROM queued();
BEGIN;
DELETE FROM workspace_2;
INSERT INTO workspace_1 VALUES ('moved', 1);
COMMIT;
SELECT workspace_id FROM queued();
-- An UPDATE that takes a workspace away leaves its row.
ALTER TABLE workspace ADD deleted boolean;
CREATE CONSTRAINT TRIGGER soft AFTER UPDATE ON workspace DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.deleted) EXECUTE FUNCTION sendkit_revoke_on_delete('id');
UPDATE workspace SET deleted = true;
SELECT workspace_id FROM queued();
DROP TABLE workspace;
DROP FUNCTION replace_workspaces;

-- Errors and subtransactions among the rows of one statement: what is kept open
-- for its rows is closed with it, and opened anew where it was lost.
CREATE TABLE workspace (id text);
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM sendkit_request_revocation('lost ' || OLD.id);
		DELETE FROM workspace WHERE id = '..';
	EXCEPTION WHEN invalid_parameter_value THEN
		PERFORM sendkit_request_revocation('kept ' || OLD.id);
	END;
	RETURN NULL;
END $$;
CREATE TRIGGER a_stumble AFTER DELETE ON workspace FOR EACH ROW WHEN (OLD.id <> '..') EXECUTE FUNCTION stumble();
CREATE TRIGGER z_stumble AFTER DELETE ON workspace FOR EACH ROW WHEN (OLD.id <> '..') EXECUTE FUNCTION stumble();
INSERT INTO workspace VALUES ('1'), ('..'), ('2');
DELETE FROM workspace WHERE id <> '..';
SELECT workspace_id FROM queued();
INSERT INTO workspace VALUES ('3');
DO $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			DELETE FROM workspace;
		EXCEPTION WHEN invalid_parameter_value THEN
			DELETE FROM workspace WHERE id = '3';
			INSERT INTO workspace VALUES ('3');
		END;
	END LOOP;
END $$;
SELECT workspace_id FROM queued();
DROP TABLE workspace;
DROP FUNCTION stumble;

--
-- Who deletes needs no right on the queue, and is the one who asked, even if a
-- function of somebody else's did it.
--
CREATE ROLE regress_sendkit_deleter;
CREATE TABLE workspace (id text);
CREATE TRIGGER revoke AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
GRANT SELECT, DELETE ON workspace TO regress_sendkit_deleter;
CREATE TABLE workspace_s (id text);
CREATE TRIGGER revoke AFTER DELETE ON workspace_s REFERENCING OLD TABLE AS removed
	FOR EACH STATEMENT EXECUTE FUNCTION sendkit_revoke_on_delete('id');
GRANT SELECT, DELETE ON workspace_s TO regress_sendkit_deleter;
CREATE FUNCTION remove(which text) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = public, pg_temp AS $$ DELETE FROM workspace WHERE id = which $$;
INSERT INTO workspace VALUES ('direct'), ('by definer'), ('by superuser'), ('hostile'), ('temp');
INSERT INTO workspace_s VALUES ('statement');
SET ROLE regress_sendkit_deleter;
DELETE FROM workspace WHERE id = 'direct';
DELETE FROM workspace_s;
SELECT remove('by definer');
SELECT * FROM sendkit_revocation;
INSERT INTO sendkit_revocation (workspace_id) VALUES ('by hand');
-- Without EXECUTE on it, the trigger function can't be put on a table of one's own.
CREATE TEMP TABLE mine (id text);
CREATE TRIGGER revoke AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION sendkit_revoke_on_delete('id');
RESET ROLE;
DELETE FROM workspace WHERE id = 'by superuser';
SELECT workspace_id, requested_by = 'regress_sendkit_deleter' AS by_deleter FROM sendkit_revocation ORDER BY id;
TRUNCATE sendkit_revocation;

-- A namesake in front of the queue isn't taken for it.
CREATE SCHEMA regress_sendkit_decoy AUTHORIZATION regress_sendkit_deleter;
CREATE TABLE regress_sendkit_decoy.sendkit_revocation (LIKE public.sendkit_revocation);
CREATE TEMP TABLE decoy_columns (LIKE public.sendkit_revocation);
GRANT ALL ON regress_sendkit_decoy.sendkit_revocation, decoy_columns TO regress_sendkit_deleter;
SET ROLE regress_sendkit_deleter;
CREATE SEQUENCE regress_sendkit_decoy.sendkit_revocation_id_seq;
SET search_path = regress_sendkit_decoy, pg_catalog, public;
DELETE FROM public.workspace WHERE id = 'hostile';
CREATE TEMP TABLE sendkit_revocation (LIKE decoy_columns);
SET search_path = pg_temp, regress_sendkit_decoy;
DELETE FROM public.workspace WHERE id OPERATOR(pg_catalog.=) 'temp';
SELECT count(*) FROM regress_sendkit_decoy.sendkit_revocation;
SELECT count(*) FROM pg_temp.sendkit_revocation;
RESET ROLE;
RESET search_path;
DROP TABLE pg_temp.sendkit_revocation, decoy_columns, mine;
SELECT workspace_id FROM queued();
-- ... and with no path at all, from a table in any schema
SET search_path = '';
CREATE TABLE regress_sendkit_decoy.workspace (id text);
CREATE TRIGGER revoke AFTER DELETE ON regress_sendkit_decoy.workspace FOR EACH ROW EXECUTE FUNCTION public.sendkit_revoke_on_delete('id');
INSERT INTO regress_sendkit_decoy.workspace VALUES ('no path');
DELETE FROM regress_sendkit_decoy.workspace;
RESET search_path;
SELECT workspace_id FROM queued();

-- Triggers, rules and policies that somebody has put on the queue are no business
-- of those who remove workspaces: they neither fire nor are in the way.
CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% % %', TG_WHEN, TG_OP, TG_LEVEL; END $$;
CREATE TRIGGER hear_before BEFORE INSERT OR UPDATE ON sendkit_revocation FOR EACH ROW EXECUTE FUNCTION hear();
CREATE TRIGGER hear_after AFTER INSERT OR UPDATE ON sendkit_revocation FOR EACH ROW EXECUTE FUNCTION hear();
CREATE TRIGGER hear_statement BEFORE INSERT OR UPDATE ON sendkit_revocation FOR EACH STATEMENT EXECUTE FUNCTION hear();
CREATE RULE hear_rule AS ON INSERT TO sendkit_revocation DO INSTEAD NOTHING;
ALTER TABLE sendkit_revocation ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
INSERT INTO workspace VALUES ('unheard');
INSERT INTO workspace_s VALUES ('unheard too');
GRANT EXECUTE ON FUNCTION sendkit_request_revocation TO regress_sendkit_deleter;
SET ROLE regress_sendkit_deleter;
DELETE FROM workspace WHERE id = 'unheard';
DELETE FROM workspace_s;
SELECT sendkit_request_revocation('unheard as well') > 0 AS asked;
RESET ROLE;
SELECT workspace_id FROM sendkit_revocation ORDER BY id;
DROP RULE hear_rule ON sendkit_revocation;
DROP TRIGGER hear_before ON sendkit_revocation;
DROP TRIGGER hear_after ON sendkit_revocation;
DROP TRIGGER hear_statement ON sendkit_revocation;
DROP FUNCTION hear();
ALTER TABLE sendkit_revocation DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
SELECT workspace_id FROM queued();

-- What belongs to the table itself is served: constraints, and columns and indexes
-- that somebody has added, with functions that run as the one who removes.
CREATE FUNCTION whoami(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_user; END $$;
ALTER TABLE sendkit_revocation
	ADD CONSTRAINT no_pets CHECK (workspace_id NOT LIKE 'pet%'),
	ADD COLUMN regress_gone text,
	ADD COLUMN regress_note text NOT NULL DEFAULT 'none',
	ADD COLUMN regress_who text DEFAULT whoami(''),
	ADD COLUMN regress_number bigint GENERATED ALWAYS AS IDENTITY,
	ADD COLUMN regress_shown text GENERATED ALWAYS AS (state || ' ' || workspace_id) STORED,
	ADD COLUMN regress_empty text;
ALTER TABLE sendkit_revocation DROP COLUMN regress_gone;
CREATE INDEX regress_by ON sendkit_revocation (whoami(workspace_id));
INSERT INTO workspace VALUES ('noted'), ('pet');
INSERT INTO workspace_s VALUES ('noted too');
SET ROLE regress_sendkit_deleter;
DELETE FROM workspace WHERE id = 'noted';
DELETE FROM workspace_s;
\set VERBOSITY sqlstate
DELETE FROM workspace WHERE id = 'pet';
\set VERBOSITY terse
RESET ROLE;
SELECT workspace_id, regress_note, regress_who, regress_number > 0 AS numbered, regress_shown, regress_empty
FROM sendkit_revocation ORDER BY id;
SELECT sendkit_cancel_revocations(array_agg(id)) FROM sendkit_revocation;
SELECT workspace_id, regress_note, regress_who, regress_number > 0 AS numbered, regress_shown, regress_empty
FROM sendkit_revocation ORDER BY id;
ALTER TABLE sendkit_revocation DROP CONSTRAINT no_pets, DROP COLUMN regress_note, DROP COLUMN regress_who,
	DROP COLUMN regress_number, DROP COLUMN regress_shown, DROP COLUMN regress_empty;
DROP INDEX regress_by;
DROP FUNCTION whoami;
TRUNCATE sendkit_revocation;
-- ... where they can't leave anything behind for whoever caused them to run
CREATE FUNCTION leave_behind() RETURNS text LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE left_behind (); RETURN ''; END $$;
ALTER TABLE sendkit_revocation ADD COLUMN regress_left text DEFAULT leave_behind();
DELETE FROM workspace WHERE id = 'pet';
\echo :SQLSTATE
ALTER TABLE sendkit_revocation DROP COLUMN regress_left;
DROP FUNCTION leave_behind;

-- A queue that is not what the extension made is not touched.
\set VERBOSITY default
ALTER TABLE sendkit_revocation RENAME COLUMN claimed_by TO regress_claimed_by;
DELETE FROM workspace WHERE id = 'pet';
\echo :SQLSTATE
ALTER TABLE sendkit_revocation RENAME COLUMN regress_claimed_by TO claimed_by;
ALTER TABLE sendkit_revocation OWNER TO regress_sendkit_deleter;
DELETE FROM workspace WHERE id = 'pet';
\echo :SQLSTATE
ALTER TABLE sendkit_revocation OWNER TO CURRENT_USER;
ALTER TABLE sendkit_revocation RENAME TO regress_revocation;
CREATE TABLE sendkit_revocation (LIKE regress_revocation INCLUDING ALL);
DELETE FROM workspace WHERE id = 'pet';
\echo :SQLSTATE
DROP TABLE sendkit_revocation;
ALTER TABLE regress_revocation RENAME TO sendkit_revocation;
ALTER TABLE sendkit_revocation SET UNLOGGED;
DELETE FROM workspace WHERE id = 'pet';
\echo :SQLSTATE
ALTER TABLE sendkit_revocation SET LOGGED;
ALTER INDEX sendkit_revocation_due_idx RENAME TO regress_idx;
DELETE FROM workspace WHERE id = 'pet';
\echo :SQLSTATE
ALTER INDEX regress_idx RENAME TO sendkit_revocation_due_idx;
\set VERBOSITY terse
DELETE FROM workspace;
SELECT workspace_id FROM queued();
REVOKE EXECUTE ON FUNCTION sendkit_request_revocation FROM regress_sendkit_deleter;

-- A table with the trigger keeps the extension from being dropped by mistake.
DROP EXTENSION sendkit;

SET client_min_messages = warning;
DROP SCHEMA regress_sendkit_decoy CASCADE;
DROP FUNCTION remove, count_removed, queued;
DROP TABLE workspace, workspace_s;
DROP ROLE regress_sendkit_deleter;
TRUNCATE sendkit_revocation RESTART IDENTITY;
