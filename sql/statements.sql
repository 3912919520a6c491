--
-- The function in all kinds of statements: how often it is called, what it may
-- be called in, and what a transaction makes of it.
--
CREATE FUNCTION pg_temp.delete(id text) RETURNS sendkit_result
AS $$ SELECT sendkit_delete_api_key(id, 'sk_user_statements') $$ LANGUAGE sql;

-- VOLATILE, not STRICT, not parallel safe, and expensive
SELECT provolatile, proisstrict, proparallel, proretset, prosecdef, procost >= 10000 AS expensive
FROM pg_proc WHERE oid = 'sendkit_delete_api_key(text, text)'::regprocedure;

-- EXPLAIN sends nothing: nothing is evaluated while planning. (Plans look different
-- from version to version.)
\o /dev/null
EXPLAIN (COSTS OFF) SELECT sendkit_delete_api_key('explained-1', 'sk_user_statements');
EXPLAIN (COSTS OFF) SELECT * FROM sendkit_delete_api_key('explained-2', 'sk_user_statements');
EXPLAIN (COSTS OFF) SELECT 1 WHERE (sendkit_delete_api_key('explained-3', 'sk_user_statements')).success;
PREPARE explained AS SELECT * FROM sendkit_delete_api_key('explained-4', $1);
EXPLAIN (COSTS OFF) EXECUTE explained('sk_user_statements');
CREATE VIEW explained AS SELECT * FROM sendkit_delete_api_key('explained-5', 'sk_user_statements');
DROP VIEW explained;
\o
\! $STANDIN_CTL GET /requests
-- Not even a NULL is quietly skipped.
\set VERBOSITY sqlstate
SELECT sendkit_delete_api_key('no-key', NULL) IS NULL;
\set VERBOSITY default

-- In FROM it is called once per row; expanded by .* once per column, and the
-- second call finds no key any more.
SELECT * FROM sendkit_delete_api_key('from', 'sk_user_statements');
SELECT i, r.* FROM generate_series(1, 3) AS i, LATERAL sendkit_delete_api_key('lateral-' || i, 'sk_user_statements') AS r;
SELECT (sendkit_delete_api_key('star', 'sk_user_statements')).*;
SELECT (r).* FROM (SELECT sendkit_delete_api_key('offset', 'sk_user_statements') OFFSET 0) AS t(r);
\! $STANDIN_CTL GET '/requests?fields=n,id'
\! $STANDIN_CTL POST /reset

-- In WHERE, CASE, RETURNING, a CTE and a cursor
SELECT i FROM generate_series(1, 3) AS i WHERE (pg_temp.delete('where-' || i)).success ORDER BY i;
SELECT CASE WHEN false THEN (pg_temp.delete('case-1')).message ELSE (pg_temp.delete('case-2')).message END;
CREATE TEMP TABLE workspace (id text, name text);
INSERT INTO workspace VALUES ('returning-1', 'a'), ('returning-2', 'b');
DELETE FROM workspace RETURNING id, pg_temp.delete(id);
WITH gone AS MATERIALIZED (SELECT pg_temp.delete('cte') AS r)
SELECT (r).success, (r).message FROM gone;
WITH unused AS (SELECT pg_temp.delete('cte-unused')) SELECT 'not called';
BEGIN;
DECLARE c CURSOR FOR SELECT (pg_temp.delete('cursor-' || i)).success FROM generate_series(1, 5) AS i;
FETCH 2 FROM c;
COMMIT;
-- LIMIT stops it, too, since nothing has to be sorted.
SELECT (pg_temp.delete('limit-' || i)).success FROM generate_series(1, 5) AS i LIMIT 2;
\! $STANDIN_CTL GET '/requests?fields=n,id'
\! $STANDIN_CTL POST /reset

-- PL/pgSQL
DO $$
DECLARE
	r sendkit_result;
	yes boolean;
	words text;
BEGIN
	r := sendkit_delete_api_key('plpgsql-1', 'sk_user_statements');
	RAISE NOTICE '% %', r.success, r.message;
	SELECT * INTO yes, words FROM sendkit_delete_api_key('plpgsql-1', 'sk_user_statements');
	RAISE NOTICE '% %', yes, words;
	FOR r IN SELECT d.* FROM generate_series(2, 3) AS i, sendkit_delete_api_key('plpgsql-' || i, 'sk_user_statements') AS d LOOP
		RAISE NOTICE '% %', r.success, r.message;
	END LOOP;
	EXECUTE 'SELECT * FROM sendkit_delete_api_key($1, $2)' INTO r USING 'plpgsql-4', 'sk_user_statements';
	RAISE NOTICE '%', r;
END $$;

-- Bound parameters, with generic plans as well
PREPARE bound(text, text) AS SELECT * FROM sendkit_delete_api_key($1, $2);
SET plan_cache_mode = force_generic_plan;
EXECUTE bound('bound-1', 'sk_user_statements');
EXECUTE bound('bound-2', 'sk_user_statements');
RESET plan_cache_mode;

-- Nothing is written: a read-only transaction will do, at any isolation level.
BEGIN READ ONLY;
SELECT * FROM pg_temp.delete('read-only');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT * FROM pg_temp.delete('serializable');
COMMIT;

-- It can't be rolled back: the key is gone.
BEGIN;
SELECT * FROM pg_temp.delete('rolled-back');
ROLLBACK;
\! $STANDIN_CTL GET '/keys?id=rolled-back'
BEGIN;
SAVEPOINT s;
SELECT * FROM pg_temp.delete('rolled-back-to');
ROLLBACK TO s;
SELECT * FROM pg_temp.delete('rolled-back-to');
COMMIT;
DO $$
BEGIN
	PERFORM pg_temp.delete('caught');
	RAISE EXCEPTION 'after the call';
EXCEPTION WHEN raise_exception THEN
	RAISE NOTICE '%', sendkit_delete_api_key('caught', 'sk_user_statements');
END $$;
-- A transaction that failed calls nothing.
BEGIN;
SELECT 1 / 0;
SELECT * FROM pg_temp.delete('failed');
ROLLBACK;
\! $STANDIN_CTL GET '/requests?id=failed'

-- Many rows in one statement, over one connection.
\! $STANDIN_CTL POST /reset
SELECT (r).success, (r).message, count(*)
FROM (SELECT pg_temp.delete(CASE WHEN i % 2 = 0 THEN 'many-' ELSE 'absent-' END || i) FROM generate_series(1, 500) AS i OFFSET 0) AS t(r)
GROUP BY 1, 2 ORDER BY 1;
\set requests `$STANDIN_CTL GET "/requests?fields=id,connection"`
SELECT count(*), count(DISTINCT id) AS ids, count(DISTINCT connection) AS connections
FROM regexp_split_to_table(:'requests', E'\n') AS r, json_to_record(r::json) AS j(id text, connection int);
