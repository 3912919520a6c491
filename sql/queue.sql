--
-- Revocations: rows that commit or roll back with the transaction that asks for
-- them, and are delivered afterwards. Here is what one session can see of it:
-- asking, delivering, what becomes of a row, who may do what. Crashes, several
-- sessions and time have tests of their own in test/t and test/specs.
--
-- Requests are shown as the API got them, since it is the one who knows (a
-- stand-in, one per script: see test/standin).
--
\setenv REQUESTS '$STANDIN_CTL GET "/requests?fields=id" | LC_ALL=C sort; $STANDIN_CTL POST /reset >/dev/null'
\set SHOW_CONTEXT never
TRUNCATE sendkit_revocation RESTART IDENTITY;
-- One at a time, and in order
SET sendkit.max_concurrency = 1;
SET sendkit.max_retries = 0;

--
-- Asking
--
-- The number that is returned is the row's; all that the row says is true.
SELECT sendkit_request_revocation('asked-1') AS asked \gset
SELECT id = :asked AS the_same, workspace_id, state, requested_at <= clock_timestamp() AS requested,
	   requested_by = current_user AS by_me, not_after, attempts, next_attempt_at = requested_at AS due,
	   claimed_at, claimed_by, finished_at, outcome, status, message
FROM sendkit_revocation;
SELECT sendkit_request_revocation(workspace_id => 'asked-2', not_after => '2100-01-01 00:00+00') > :asked AS higher;
SELECT sendkit_request_revocation('asked-3', NULL) > :asked AS higher;
SELECT sendkit_request_revocation('asked-4', 'infinity') > :asked AS higher;
SELECT workspace_id, not_after = '2100-01-01 00:00+00' AS until_2100 FROM sendkit_revocation ORDER BY id;
-- The same workspace may be asked for again: a new key may have been made.
SELECT sendkit_request_revocation('asked-1') > :asked AS higher;
SELECT count(*) FROM sendkit_revocation WHERE workspace_id = 'asked-1';
-- Nothing was sent.
\! eval "$REQUESTS"
TRUNCATE sendkit_revocation;

-- It is a part of the transaction, and of the subtransaction.
BEGIN;
SELECT sendkit_request_revocation('rolled-back') > 0 AS asked;
ROLLBACK;
BEGIN;
SELECT sendkit_request_revocation('committed') > 0 AS asked;
SAVEPOINT s;
SELECT sendkit_request_revocation('savepoint-rolled-back') > 0 AS asked;
ROLLBACK TO SAVEPOINT s;
SAVEPOINT s;
SELECT sendkit_request_revocation('savepoint-released') > 0 AS asked;
RELEASE SAVEPOINT s;
COMMIT;
DO $$
BEGIN
	BEGIN
		PERFORM sendkit_request_revocation('exception');
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM sendkit_request_revocation('after-exception');
	END;
END $$;
SELECT workspace_id FROM sendkit_revocation ORDER BY id;
TRUNCATE sendkit_revocation;

-- What could never be sent is refused while somebody is there to hear it.
SELECT sendkit_request_revocation(NULL);
\echo :SQLSTATE
SELECT sendkit_request_revocation('');
\echo :SQLSTATE
SELECT sendkit_request_revocation('..');
\echo :SQLSTATE
SELECT sendkit_request_revocation('%2e%2E');
\echo :SQLSTATE
SELECT sendkit_request_revocation(E'line\nfeed');
\echo :SQLSTATE
SELECT sendkit_request_revocation(repeat('x', 256));
\echo :SQLSTATE
SELECT sendkit_request_revocation(repeat('x', 255)) > 0 AS long_enough;
SELECT length(workspace_id), count(*) FROM sendkit_revocation GROUP BY 1;
TRUNCATE sendkit_revocation;
-- A transaction that only reads can't ask.
BEGIN READ ONLY;
SELECT sendkit_request_revocation('read-only');
\echo :SQLSTATE
ROLLBACK;

--
-- Delivering
--
-- Without a key nothing is begun: no row is claimed.
SELECT sendkit_request_revocation('ws-1') > 0 AS asked;
\set VERBOSITY sqlstate
CALL sendkit_process_revocations();
\set VERBOSITY default
SELECT workspace_id, state, attempts FROM sendkit_revocation;
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR CURRENT_USER SERVER sendkit OPTIONS (platform_key 'sk_user_queue');

-- It commits what it does, so that it can't be a part of something else.
BEGIN;
CALL sendkit_process_revocations();
\echo :SQLSTATE
ROLLBACK;
BEGIN;
SAVEPOINT s;
\set VERBOSITY terse
CALL sendkit_process_revocations();
\echo :SQLSTATE
ROLLBACK;
CREATE FUNCTION call_it() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL sendkit_process_revocations(); END $$;
SELECT call_it();
\echo :SQLSTATE
DROP FUNCTION call_it();
DO $$ BEGIN CALL sendkit_process_revocations(); EXCEPTION WHEN division_by_zero THEN NULL; END $$;
\echo :SQLSTATE
SELECT sendkit_process_revocations();
\echo :SQLSTATE
\set VERBOSITY default
SELECT workspace_id, state, attempts FROM sendkit_revocation;
\! eval "$REQUESTS"
-- As a statement of its own, or in a procedure or a DO block outside of a
-- transaction block, it delivers.
CALL sendkit_process_revocations();
SELECT sendkit_request_revocation('ws-2') > 0 AS asked;
CREATE PROCEDURE call_it() LANGUAGE plpgsql AS $$ BEGIN CALL sendkit_process_revocations(); END $$;
CALL call_it();
DROP PROCEDURE call_it();
SELECT sendkit_request_revocation('ws-3') > 0 AS asked;
DO $$ BEGIN CALL sendkit_process_revocations(); END $$;
SELECT sendkit_request_revocation('odd /%25;') > 0 AS asked;
CALL sendkit_process_revocations();
SELECT workspace_id, state, attempts, outcome, status, message,
	   claimed_at <= finished_at AS finished, finished_at <= clock_timestamp() AS in_past
FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"
-- What is done stays done, and an empty queue is no work.
CALL sendkit_process_revocations();
\! eval "$REQUESTS"
TRUNCATE sendkit_revocation;
CALL sendkit_process_revocations();
\! eval "$REQUESTS"

-- More than one batch, many at a time
SET sendkit.max_concurrency = 7;
SELECT count(sendkit_request_revocation('many-' || i)) FROM generate_series(1, 250) i;
CALL sendkit_process_revocations();
SELECT state, outcome, attempts, count(*) FROM sendkit_revocation GROUP BY 1, 2, 3;
\! eval "$REQUESTS" | uniq | wc -l | tr -d ' '
TRUNCATE sendkit_revocation;
SET sendkit.max_concurrency = 1;

-- What every outcome makes of a row. What may still come about is tried again
-- later; what won't by itself is a person's, and is warned of.
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation('absent-1') > 0 AS asked;
SELECT sendkit_request_revocation('rejected-1;status=403') AS id;
CALL sendkit_process_revocations();
\echo :SQLSTATE
SELECT sendkit_request_revocation('unavailable-1;status=429') > 0 AS asked;
CALL sendkit_process_revocations();
SELECT sendkit_request_revocation('unknown-1;status=500') > 0 AS asked;
CALL sendkit_process_revocations();
SELECT workspace_id, state, attempts, outcome, status, message,
	   finished_at IS NOT NULL AS finished, claimed_at IS NOT NULL AS claimed,
	   next_attempt_at >= now() + interval '0.5 s' AS later
FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"
-- One bad row doesn't hold up those behind it, whatever the first needs.
UPDATE sendkit_revocation SET next_attempt_at = now() + interval '1 hour' WHERE state = 'pending';
SELECT sendkit_request_revocation('bad;reset=request') > 0 AS asked;
SELECT sendkit_request_revocation('good') > 0 AS asked;
CALL sendkit_process_revocations();
SELECT workspace_id, state, outcome FROM sendkit_revocation WHERE workspace_id ~ '^(bad|good)' ORDER BY id;
-- They are not due before their time: nothing is sent now.
UPDATE sendkit_revocation SET next_attempt_at = now() + interval '1 hour' WHERE state = 'pending';
\! eval "$REQUESTS"
CALL sendkit_process_revocations();
\! eval "$REQUESTS"
-- And when it has come, they are. No answer keeps the last status out.
UPDATE sendkit_revocation SET next_attempt_at = now() WHERE state = 'pending';
UPDATE sendkit_revocation SET workspace_id = split_part(workspace_id, ';', 1) WHERE workspace_id ~ '^un';
CALL sendkit_process_revocations();
SELECT workspace_id, state, attempts, outcome, status, right(message, 46) AS message
FROM sendkit_revocation WHERE workspace_id ~ '^(un|bad)' ORDER BY id;
\! eval "$REQUESTS"

-- A failed one becomes pending when a person says so: these, or all.
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation('failed-' || i || ';status=403;times=1') AS id FROM generate_series(1, 3) i;
SELECT sendkit_request_revocation('done-1') AS id;
SET client_min_messages = error;
CALL sendkit_process_revocations();
RESET client_min_messages;
SELECT workspace_id, state FROM sendkit_revocation ORDER BY id;
SELECT sendkit_retry_revocations(ARRAY[2, 4, 99, NULL]::bigint[]);
SELECT sendkit_retry_revocations(ARRAY[2]);
SELECT sendkit_retry_revocations('{}');
SELECT workspace_id, state, attempts, next_attempt_at <= now() AS due, claimed_at, finished_at
FROM sendkit_revocation WHERE id = 2;
BEGIN;
SELECT sendkit_retry_revocations();
ROLLBACK;
SELECT sendkit_retry_revocations();
CALL sendkit_process_revocations();
SELECT workspace_id, state, attempts, outcome, message FROM sendkit_revocation ORDER BY id;
SELECT sendkit_retry_revocations();
\! eval "$REQUESTS"

-- After its not_after nothing is sent any more: a late retry could revoke a
-- newer key. One that waits for its next attempt fails with what it knows.
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation('too-late', now() - interval '1 ms') AS id;
CALL sendkit_process_revocations();
SELECT sendkit_request_revocation('in-time', now() + interval '1 hour') AS id;
CALL sendkit_process_revocations();
SELECT sendkit_request_revocation('later-too-late;status=500', now() + interval '1 hour') AS id;
CALL sendkit_process_revocations();
SELECT id, state FROM sendkit_revocation ORDER BY id;
UPDATE sendkit_revocation SET next_attempt_at = now(), not_after = now() WHERE id = 3;
CALL sendkit_process_revocations();
SELECT workspace_id, state, attempts, outcome, status, message, finished_at IS NOT NULL AS finished
FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"
-- To retry them would only fail again.
SELECT sendkit_retry_revocations(ARRAY[1]);
SELECT sendkit_retry_revocations();
SELECT workspace_id, state, attempts FROM sendkit_revocation WHERE id = 1;
\! eval "$REQUESTS"
-- What is under way then isn't waited for any longer, and not tried again.
SELECT sendkit_request_revocation('last;delay=10;status=500', clock_timestamp() + interval '1.5 s') AS id;
SET client_min_messages = error;
CALL sendkit_process_revocations();
SELECT clock_timestamp() - requested_at < interval '5 s' AS soon FROM sendkit_revocation WHERE id = 4;
UPDATE sendkit_revocation SET next_attempt_at = now() WHERE state = 'pending';
CALL sendkit_process_revocations();
RESET client_min_messages;
SELECT workspace_id, state, outcome, status FROM sendkit_revocation WHERE id = 4;
\! eval "$REQUESTS"

-- A request that is never answered is given up, and the procedure comes to its
-- end: what was not due when it began is for the next one.
SET sendkit.request_timeout = '100 ms';
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation('stuck;silent') AS id;
CALL sendkit_process_revocations();
SELECT workspace_id, state, attempts, outcome, status FROM sendkit_revocation;
\! eval "$REQUESTS"
RESET sendkit.request_timeout;

-- What can't be sent, since somebody has written it into the table or other
-- rules held when it was, is nobody else's trouble.
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation(w) AS id FROM unnest(ARRAY['before', 'bad', 'after']) w;
UPDATE sendkit_revocation SET workspace_id = '..' WHERE workspace_id = 'bad';
SET client_min_messages = error;
CALL sendkit_process_revocations();
RESET client_min_messages;
SELECT workspace_id, state FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"

-- A person may also want to wait no longer, or not at all any more.
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation(w) AS id
FROM unnest(ARRAY['waits', 'waits-long', 'failed', 'done', 'sending', 'cancelled']) w;
UPDATE sendkit_revocation SET next_attempt_at = now() + interval '1 hour' WHERE id IN (2, 5);
UPDATE sendkit_revocation SET state = 'failed', finished_at = now(), outcome = 'rejected' WHERE id = 3;
UPDATE sendkit_revocation SET state = 'done', finished_at = now(), outcome = 'deleted' WHERE id = 4;
UPDATE sendkit_revocation SET state = 'sending', claimed_by = 1 WHERE id = 5;
SELECT sendkit_cancel_revocations(ARRAY[6, 99, NULL, 4]::bigint[]);
SELECT sendkit_cancel_revocations(ARRAY[6]);
SELECT sendkit_cancel_revocations(NULL);
\echo :SQLSTATE
SELECT sendkit_retry_revocations();
SELECT sendkit_retry_revocations();
SELECT id, workspace_id, state, next_attempt_at <= clock_timestamp() AS due, finished_at IS NOT NULL AS finished
FROM sendkit_revocation ORDER BY id;
SELECT sendkit_cancel_revocations(ARRAY[1, 1, 3, 5]), sendkit_cancel_revocations(ARRAY[1]);
CALL sendkit_process_revocations();
SELECT id, workspace_id, state, outcome FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"

-- What a person has finished by hand is not sent, whatever is missing from it; nor
-- is it in anybody's way, or are states and numbers that nobody knows.
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_request_revocation(w) AS id
FROM unnest(ARRAY['by-hand-done', 'by-hand-failed', 'by-hand-odd', 'by-hand-long', 'overflow', 'negative', 'good']) w;
UPDATE sendkit_revocation SET state = 'done' WHERE id = 1;
UPDATE sendkit_revocation SET state = 'failed' WHERE id = 2;
UPDATE sendkit_revocation SET state = 'Sending ' WHERE id = 3;
UPDATE sendkit_revocation SET state = repeat('pending', 100000) WHERE id = 4;
UPDATE sendkit_revocation SET attempts = 2147483647 WHERE id = 5;
UPDATE sendkit_revocation SET attempts = -2147483648 WHERE id = 6;
ALTER TABLE sendkit_revocation ALTER workspace_id DROP NOT NULL, ALTER state DROP NOT NULL,
	ALTER requested_at DROP NOT NULL, ALTER attempts DROP NOT NULL, ALTER next_attempt_at DROP NOT NULL;
INSERT INTO sendkit_revocation (requested_by) VALUES ('nobody');
INSERT INTO sendkit_revocation (workspace_id, state, requested_at, requested_by, attempts, next_attempt_at)
VALUES ('by-hand-null', NULL, NULL, 'nobody', NULL, NULL), ('by-hand-never', 'pending', NULL, 'nobody', NULL, NULL);
CALL sendkit_process_revocations();
SELECT id, workspace_id, left(state, 10) AS state, attempts, outcome FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"

-- What must not be late goes first.
TRUNCATE sendkit_revocation RESTART IDENTITY;
ALTER TABLE sendkit_revocation ALTER workspace_id SET NOT NULL, ALTER state SET NOT NULL,
	ALTER requested_at SET NOT NULL, ALTER attempts SET NOT NULL, ALTER next_attempt_at SET NOT NULL;
SELECT count(sendkit_request_revocation('bulk-' || i)) FROM generate_series(1, 20) i;
SELECT sendkit_request_revocation('urgent', now() + interval '1 hour') AS id;
CALL sendkit_process_revocations();
SELECT id FROM sendkit_revocation ORDER BY finished_at, claimed_at LIMIT 1;
\! eval "$REQUESTS" | wc -l | tr -d ' '

--
-- A copy of a database has another one's home, or several. There nothing is
-- delivered, old or new: the keys are the original's.
--
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT sendkit_is_home(), count(*),
	   bool_and(h.system_identifier = c.system_identifier) AS our_cluster,
	   bool_and(h.database_oid = (SELECT oid FROM pg_database WHERE datname = current_database())) AS our_database
FROM sendkit_home h, pg_control_system() c;
SELECT sendkit_request_revocation(w) AS id FROM unnest(ARRAY['old', 'old-sending', 'old-done', 'old-failed']) w;
UPDATE sendkit_revocation SET state = 'sending', attempts = 1, claimed_at = '2000-01-01', claimed_by = 1 WHERE id = 2;
UPDATE sendkit_revocation SET state = 'done', attempts = 1, finished_at = now(), outcome = 'deleted' WHERE id = 3;
UPDATE sendkit_revocation SET state = 'failed', finished_at = now() WHERE id = 4;
-- another cluster's, besides ours; then another database's alone; then none
INSERT INTO sendkit_home SELECT system_identifier + 1, database_oid FROM sendkit_home;
SELECT sendkit_is_home();
SELECT sendkit_request_revocation('new') AS id;
\set VERBOSITY sqlstate
CALL sendkit_process_revocations();
\set VERBOSITY default
SELECT id, workspace_id, state, attempts FROM sendkit_revocation ORDER BY id;
SELECT state, revocations, overdue FROM sendkit_revocation_summary;
UPDATE sendkit_home SET system_identifier = (SELECT system_identifier FROM pg_control_system()), database_oid = 1;
SELECT sendkit_is_home();
TRUNCATE sendkit_home;
SELECT sendkit_is_home();
\set VERBOSITY sqlstate
CALL sendkit_process_revocations();
\set VERBOSITY default
SELECT sendkit_cancel_revocations(ARRAY[1]);
SELECT sendkit_retry_revocations();
SELECT state, revocations FROM sendkit_revocation_summary WHERE revocations > 0;
\! eval "$REQUESTS"
-- A dump that is restored into its own database adds what is there.
BEGIN;
SELECT sendkit_adopt_revocations();
INSERT INTO sendkit_home SELECT * FROM sendkit_home;
SELECT sendkit_is_home();
SELECT sendkit_adopt_revocations();
ROLLBACK;
SELECT sendkit_is_home();
-- An index that somebody has added is served, unless it would run something.
CREATE INDEX regress_sendkit_plain ON sendkit_home (database_oid);
CREATE INDEX regress_sendkit_odd ON sendkit_home ((database_oid::text));
SELECT sendkit_adopt_revocations();
DROP INDEX regress_sendkit_odd;
SELECT sendkit_adopt_revocations();
SELECT sendkit_adopt_revocations();
SELECT sendkit_is_home(), count(*) FROM sendkit_home;
DROP INDEX regress_sendkit_plain;
CALL sendkit_process_revocations();
SELECT id, workspace_id, state, attempts, outcome FROM sendkit_revocation ORDER BY id;
\! eval "$REQUESTS"

--
-- Is anything stuck? One line per state, empty ones too.
--
TRUNCATE sendkit_revocation RESTART IDENTITY;
SELECT * FROM sendkit_revocation_summary;
SELECT sendkit_request_revocation('ws') AS id FROM generate_series(1, 7);
UPDATE sendkit_revocation SET requested_at = requested_at - id * interval '1 day', attempts = id * 10;
UPDATE sendkit_revocation SET requested_at = now() - interval '9 minutes' WHERE id = 1;
UPDATE sendkit_revocation SET requested_at = now() - interval '11 minutes', next_attempt_at = now() + interval '50 minutes',
	not_after = 'infinity' WHERE id = 2;
UPDATE sendkit_revocation SET state = 'sending' WHERE id = 4;
UPDATE sendkit_revocation SET state = 'failed', finished_at = now() WHERE id IN (5, 6);
UPDATE sendkit_revocation SET state = 'cancelled', finished_at = now(), outcome = 'unknown' WHERE id = 6;
UPDATE sendkit_revocation SET state = 'done', finished_at = now(), outcome = 'deleted' WHERE id = 7;
INSERT INTO sendkit_revocation (workspace_id, state, requested_by, attempts, finished_at, outcome)
SELECT 'ws', 'done', '', n, now(), 'absent' FROM unnest(ARRAY[1, 1, 2]) n;
SELECT state, revocations, most_attempts, overdue, absent_at_first,
	   round(extract(epoch FROM now() - oldest_requested_at) / 86400) AS days,
	   oldest_age = now() - oldest_requested_at AS age
FROM sendkit_revocation_summary;
INSERT INTO sendkit_home VALUES (1, 1);
SELECT state, revocations, overdue FROM sendkit_revocation_summary;
DELETE FROM sendkit_home WHERE database_oid = 1;
TRUNCATE sendkit_revocation RESTART IDENTITY;

--
-- Who may do what
--
CREATE ROLE regress_sendkit_asker;
CREATE ROLE regress_sendkit_runner;
CREATE ROLE regress_sendkit_watcher IN ROLE pg_monitor;
SELECT proname FROM pg_proc
WHERE proname LIKE 'sendkit%' AND has_function_privilege('public', oid, 'EXECUTE');
SELECT relname FROM pg_class
WHERE relname LIKE 'sendkit%' AND relkind IN ('r', 'v', 'S')
  AND (relkind = 'S' AND has_sequence_privilege('public', oid, 'USAGE, SELECT, UPDATE')
	   OR relkind <> 'S' AND has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'));
-- None runs with anybody's rights but the caller's.
SELECT proname FROM pg_proc WHERE proname LIKE 'sendkit%' AND prosecdef ORDER BY 1;

-- Nobody, until somebody is let.
\set VERBOSITY terse
SET ROLE regress_sendkit_asker;
SELECT sendkit_request_revocation('denied');
CALL sendkit_process_revocations();
SELECT sendkit_retry_revocations();
SELECT sendkit_adopt_revocations();
SELECT sendkit_cancel_revocations(ARRAY[1]);
SELECT sendkit_is_home();
SELECT * FROM sendkit_revocation;
SELECT * FROM sendkit_revocation_summary;
RESET ROLE;
-- The right to ask is no more than that.
GRANT EXECUTE ON FUNCTION sendkit_request_revocation TO regress_sendkit_asker;
SET ROLE regress_sendkit_asker;
SELECT sendkit_request_revocation('asked') AS id;
CALL sendkit_process_revocations();
INSERT INTO sendkit_revocation (workspace_id) VALUES ('by hand');
UPDATE sendkit_revocation SET state = 'done';
DELETE FROM sendkit_revocation;
SELECT nextval('sendkit_revocation_id_seq');
RESET ROLE;
SELECT id, workspace_id, requested_by FROM sendkit_revocation;
-- The right to deliver needs a key of one's own; the table may stay closed.
GRANT EXECUTE ON PROCEDURE sendkit_process_revocations TO regress_sendkit_runner;
SET ROLE regress_sendkit_runner;
CALL sendkit_process_revocations();
\echo :SQLSTATE
RESET ROLE;
CREATE USER MAPPING FOR regress_sendkit_runner SERVER sendkit OPTIONS (platform_key 'sk_user_runner');
SET ROLE regress_sendkit_runner;
CALL sendkit_process_revocations();
\echo :SQLSTATE
RESET ROLE;
SELECT workspace_id, state, attempts FROM sendkit_revocation;
GRANT USAGE ON FOREIGN SERVER sendkit TO regress_sendkit_runner;
SET ROLE regress_sendkit_runner;
CALL sendkit_process_revocations();
-- ... and stays closed, afterwards too.
SELECT current_user;
SELECT * FROM sendkit_revocation;
RESET ROLE;
SELECT workspace_id, state, attempts, outcome FROM sendkit_revocation;
\! $STANDIN_CTL GET "/requests?fields=headers" | grep -o 'sk_user_[a-z]*'
\! eval "$REQUESTS" >/dev/null
-- So have those who retry, cancel and adopt.
GRANT EXECUTE ON FUNCTION sendkit_retry_revocations, sendkit_cancel_revocations, sendkit_adopt_revocations TO regress_sendkit_runner;
UPDATE sendkit_revocation SET state = 'failed', outcome = 'rejected';
UPDATE sendkit_home SET database_oid = 1;
SET ROLE regress_sendkit_runner;
SELECT sendkit_retry_revocations();
SELECT sendkit_adopt_revocations();
SELECT sendkit_cancel_revocations(ARRAY[1]);
RESET ROLE;
-- Who monitors sees how much there is, and no workspace.
SET ROLE regress_sendkit_watcher;
SELECT state, revocations FROM sendkit_revocation_summary;
SELECT * FROM sendkit_revocation;
RESET ROLE;
TRUNCATE sendkit_revocation;

-- Who may read the queue can ask whether a key is dead, by an index.
SELECT sendkit_request_revocation('ws-dead') > 0, sendkit_request_revocation('ws-alive') > 0;
UPDATE sendkit_revocation SET state = 'done', outcome = 'deleted', finished_at = now() WHERE workspace_id = 'ws-dead';
GRANT SELECT ON sendkit_revocation TO regress_sendkit_watcher;
SET ROLE regress_sendkit_watcher;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT w, EXISTS (SELECT FROM sendkit_revocation WHERE workspace_id = w AND state = 'done' AND finished_at IS NOT NULL) AS dead
FROM unnest(ARRAY['ws-dead', 'ws-alive', 'ws-unknown']) w;
EXPLAIN (COSTS OFF) SELECT FROM sendkit_revocation WHERE workspace_id = 'ws-dead' AND state = 'done' AND finished_at IS NOT NULL;
SELECT workspace_id, state, outcome FROM sendkit_revocation WHERE finished_at > now() - interval '1 hour' ORDER BY finished_at;
EXPLAIN (COSTS OFF) SELECT FROM sendkit_revocation WHERE finished_at > now() - interval '1 hour' ORDER BY finished_at;
RESET enable_seqscan;
RESET enable_bitmapscan;
RESET ROLE;
REVOKE SELECT ON sendkit_revocation FROM regress_sendkit_watcher;
TRUNCATE sendkit_revocation;

-- Who calls a function of somebody else's asks as himself.
CREATE FUNCTION ask_for_me(id text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = public, pg_temp AS $$ SELECT sendkit_request_revocation(id) $$;
SET ROLE regress_sendkit_watcher;
SELECT ask_for_me('by definer') > 0 AS asked;
RESET ROLE;
SELECT workspace_id, requested_by FROM sendkit_revocation;
DROP FUNCTION ask_for_me;
TRUNCATE sendkit_revocation;

-- Decoys in front of everything are not taken for the queue.
CREATE SCHEMA regress_sendkit_decoy;
CREATE TABLE regress_sendkit_decoy.sendkit_revocation (LIKE sendkit_revocation INCLUDING ALL);
CREATE FUNCTION regress_sendkit_decoy.never(text, text) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a decoy was called'; END $$;
CREATE OPERATOR regress_sendkit_decoy.= (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_sendkit_decoy.never);
CREATE OPERATOR regress_sendkit_decoy.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_sendkit_decoy.never);
CREATE FUNCTION regress_sendkit_decoy.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a decoy was called'; END $$;
-- (a session of its own: plans must be made under this path)
\c -
SET sendkit.max_concurrency = 1;
SET search_path = regress_sendkit_decoy, pg_catalog, public;
SELECT public.sendkit_request_revocation('decoy') > 0 AS asked;
CALL public.sendkit_process_revocations();
\! eval "$REQUESTS"
SELECT public.sendkit_retry_revocations();
SELECT public.sendkit_adopt_revocations();
SELECT revocations FROM public.sendkit_revocation_summary;
RESET search_path;
SELECT workspace_id, state, attempts FROM sendkit_revocation;
SELECT count(*) FROM regress_sendkit_decoy.sendkit_revocation;
SET client_min_messages = warning;
DROP SCHEMA regress_sendkit_decoy CASCADE;
RESET client_min_messages;

--
-- The table is as it should be for dumps, crashes and long histories.
--
SELECT c.relname, c.relpersistence, c.oid = ANY (e.extconfig) AS dumped
FROM pg_class c, pg_extension e
WHERE e.extname = 'sendkit' AND c.relname IN ('sendkit_revocation', 'sendkit_revocation_id_seq', 'sendkit_home')
ORDER BY 1;
TRUNCATE sendkit_revocation RESTART IDENTITY;

DROP USER MAPPING FOR regress_sendkit_runner SERVER sendkit;
DROP USER MAPPING FOR CURRENT_USER SERVER sendkit;
DROP SERVER sendkit;
REVOKE ALL ON FUNCTION sendkit_request_revocation FROM regress_sendkit_asker;
REVOKE ALL ON FUNCTION sendkit_retry_revocations, sendkit_cancel_revocations, sendkit_adopt_revocations FROM regress_sendkit_runner;
REVOKE ALL ON PROCEDURE sendkit_process_revocations FROM regress_sendkit_runner;
DROP ROLE regress_sendkit_asker, regress_sendkit_runner, regress_sendkit_watcher;
