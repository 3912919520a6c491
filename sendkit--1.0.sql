/* sendkit--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION sendkit" to load this file. \quit

-- The name of the schema is put in where it says so, before anything runs. Making a
-- relation locks that schema: so it comes first, here and in every update, lest the
-- schema be renamed meanwhile and the rest go into another one of that name.
CREATE TYPE @extschema@.sendkit_result AS (
	success boolean,
	message text
);
COMMENT ON TYPE @extschema@.sendkit_result IS
'what became of a request to delete a workspace''s API key';
COMMENT ON COLUMN @extschema@.sendkit_result.success IS
'true only if the API confirmed that the key is gone';
COMMENT ON COLUMN @extschema@.sendkit_result.message IS
'the API''s own words, or what kept them from coming';

CREATE FUNCTION @extschema@.sendkit_delete_api_key(
	workspace_id text,
	platform_key text DEFAULT NULL
)
RETURNS @extschema@.sendkit_result
AS 'MODULE_PATHNAME', 'sendkit_delete_api_key'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000;

REVOKE ALL ON FUNCTION @extschema@.sendkit_delete_api_key(text, text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_delete_api_key(text, text) IS
'deletes the API key of a SendKit workspace now; cannot be rolled back. Call it as SELECT * FROM sendkit_delete_api_key(...): SELECT (sendkit_delete_api_key(...)).* would call it once per column. For several rows: FROM ..., LATERAL sendkit_delete_api_key(...)';

CREATE FUNCTION @extschema@.sendkit_delete_api_keys(
	workspace_ids text[],
	platform_key text DEFAULT NULL
)
RETURNS TABLE (
	workspace_id text,
	success boolean,
	message text,
	outcome text,
	status integer,
	error_code text,
	details jsonb
)
AS 'MODULE_PATHNAME', 'sendkit_delete_api_keys'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 10000 ROWS 100;

REVOKE ALL ON FUNCTION @extschema@.sendkit_delete_api_keys(text[], text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_delete_api_keys(text[], text) IS
'deletes the API keys of many SendKit workspaces now, up to sendkit.max_concurrency at a time, and returns one row per distinct workspace; cannot be rolled back';

-- Where a platform key can be kept: a user mapping on a server named "sendkit"

CREATE FUNCTION @extschema@.sendkit_fdw_validator(text[], oid)
RETURNS void
AS 'MODULE_PATHNAME', 'sendkit_fdw_validator'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_fdw_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_fdw_validator(text[], oid) IS
'checks the options of servers and user mappings of sendkit_fdw';

CREATE FOREIGN DATA WRAPPER sendkit_fdw
	VALIDATOR @extschema@.sendkit_fdw_validator;

COMMENT ON FOREIGN DATA WRAPPER sendkit_fdw IS
'keeps the platform keys of SendKit, in user mappings on the server "sendkit" that sendkit_store_platform_key() makes. It has no foreign tables';

CREATE FUNCTION @extschema@.sendkit_store_platform_key(role_name name, platform_key text)
RETURNS void
AS 'MODULE_PATHNAME', 'sendkit_store_platform_key'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_store_platform_key(name, text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_store_platform_key(name, text) IS
'stores the platform key of a role, or that of ''public'' for all who have none of their own; replaces the one that is there. Give the key from a table or as a bound parameter: PostgreSQL keeps what is written in a statement';

CREATE FUNCTION @extschema@.sendkit_forget_platform_key(role_name name)
RETURNS void
AS 'MODULE_PATHNAME', 'sendkit_forget_platform_key'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_forget_platform_key(name) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_forget_platform_key(name) IS
'drops the user mapping with the platform key that was stored for a role, or for ''public''';

-- The clone guard: which database the extension lives in

CREATE TABLE @extschema@.sendkit_home (
	system_identifier bigint NOT NULL,
	database_oid oid NOT NULL
) USING heap;

INSERT INTO @extschema@.sendkit_home
SELECT c.system_identifier, d.oid
FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();

-- with its row: a restore adds the original's to that of the copy
SELECT pg_catalog.pg_extension_config_dump('@extschema@.sendkit_home', '');

REVOKE ALL ON TABLE @extschema@.sendkit_home FROM PUBLIC;

COMMENT ON TABLE @extschema@.sendkit_home IS
'the database that the extension lives in. Where another one is named, or none, it is a copy: nothing is delivered from there and stored keys are not used, until sendkit_adopt_revocations()';
COMMENT ON COLUMN @extschema@.sendkit_home.system_identifier IS
'its cluster';
COMMENT ON COLUMN @extschema@.sendkit_home.database_oid IS
'its OID in that cluster';

CREATE FUNCTION @extschema@.sendkit_is_home()
RETURNS boolean
AS 'MODULE_PATHNAME', 'sendkit_is_home'
LANGUAGE C STABLE PARALLEL RESTRICTED;

REVOKE ALL ON FUNCTION @extschema@.sendkit_is_home() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.sendkit_is_home() TO pg_monitor;

COMMENT ON FUNCTION @extschema@.sendkit_is_home() IS
'does the extension live in this database, so that revocations are delivered and stored keys used? False in a copy';

CREATE FUNCTION @extschema@.sendkit_check()
RETURNS TABLE (step text, ok boolean, detail text)
AS 'MODULE_PATHNAME', 'sendkit_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000 ROWS 12;

REVOKE ALL ON FUNCTION @extschema@.sendkit_check() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.sendkit_check() TO pg_monitor;

COMMENT ON FUNCTION @extschema@.sendkit_check() IS
'does everything work? One row per step on the way to a deletion, without deleting anything: ok is null where an earlier step kept it from being tried';

-- The durable queue

-- CACHE spares a bulk removal most of the sequence's work
CREATE SEQUENCE @extschema@.sendkit_revocation_id_seq CACHE 32;

CREATE TABLE @extschema@.sendkit_revocation (
	id bigint NOT NULL DEFAULT pg_catalog.nextval('@extschema@.sendkit_revocation_id_seq'::pg_catalog.regclass),
	workspace_id text NOT NULL,
	state text NOT NULL DEFAULT 'pending',
	requested_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	requested_by text NOT NULL,
	not_after timestamptz,
	attempts integer NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	claimed_at timestamptz,
	claimed_by bigint,
	finished_at timestamptz,
	outcome text,
	status integer,
	message text,
	CONSTRAINT sendkit_revocation_pkey PRIMARY KEY (id)
)
USING heap
-- room for the new version that a claim makes of a row
WITH (fillfactor = 75);

ALTER SEQUENCE @extschema@.sendkit_revocation_id_seq OWNED BY @extschema@.sendkit_revocation.id;

-- What is due, however much history lies beside it; first what must not be late.
-- A claim changes no column that is in any index or condition here, so that it
-- can be a heap-only update.
CREATE INDEX sendkit_revocation_due_idx ON @extschema@.sendkit_revocation (next_attempt_at, id)
	WHERE finished_at IS NULL AND not_after IS NULL;
CREATE INDEX sendkit_revocation_urgent_idx ON @extschema@.sendkit_revocation (next_attempt_at, id)
	WHERE finished_at IS NULL AND not_after IS NOT NULL;

-- The history: a new row is in none of these.
CREATE INDEX sendkit_revocation_notable_idx ON @extschema@.sendkit_revocation (id)
	WHERE finished_at IS NOT NULL AND (outcome IS NULL OR outcome OPERATOR(pg_catalog.<>) 'deleted');
CREATE INDEX sendkit_revocation_finished_idx ON @extschema@.sendkit_revocation (finished_at)
	WHERE finished_at IS NOT NULL;
CREATE INDEX sendkit_revocation_workspace_idx ON @extschema@.sendkit_revocation (workspace_id)
	WHERE finished_at IS NOT NULL;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.sendkit_revocation', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.sendkit_revocation_id_seq', '');

REVOKE ALL ON TABLE @extschema@.sendkit_revocation FROM PUBLIC;
REVOKE ALL ON SEQUENCE @extschema@.sendkit_revocation_id_seq FROM PUBLIC;

COMMENT ON SEQUENCE @extschema@.sendkit_revocation_id_seq IS
'numbers the revocations';
COMMENT ON TABLE @extschema@.sendkit_revocation IS
'API keys to be revoked: each row is delivered to the SendKit API after its transaction has committed, at least once. Finished rows may be deleted at any time. Triggers, rules and policies that are put on it have no effect on what sendkit does';
COMMENT ON COLUMN @extschema@.sendkit_revocation.id IS
'number of the revocation';
COMMENT ON COLUMN @extschema@.sendkit_revocation.workspace_id IS
'workspace whose API key is to be revoked';
COMMENT ON COLUMN @extschema@.sendkit_revocation.state IS
'pending: waits for next_attempt_at; sending: claimed by a process; done: the key is gone or there was none; failed: needs a person; cancelled: by a person';
COMMENT ON COLUMN @extschema@.sendkit_revocation.requested_at IS
'when the transaction that asked for it began';
COMMENT ON COLUMN @extschema@.sendkit_revocation.requested_by IS
'role that asked for it';
COMMENT ON COLUMN @extschema@.sendkit_revocation.not_after IS
'not to be tried after this time, lest it revoke a newer key; null: no limit';
COMMENT ON COLUMN @extschema@.sendkit_revocation.attempts IS
'how often it was claimed to be sent';
COMMENT ON COLUMN @extschema@.sendkit_revocation.next_attempt_at IS
'when a pending revocation is due';
COMMENT ON COLUMN @extschema@.sendkit_revocation.claimed_at IS
'when it was last claimed to be sent';
COMMENT ON COLUMN @extschema@.sendkit_revocation.claimed_by IS
'the run that claimed it last: while its process lives, nobody else sends it';
COMMENT ON COLUMN @extschema@.sendkit_revocation.finished_at IS
'when it was done, had failed or was cancelled; null: it is not finished';
COMMENT ON COLUMN @extschema@.sendkit_revocation.outcome IS
'outcome of the last attempt: deleted, absent, rejected, unavailable or unknown';
COMMENT ON COLUMN @extschema@.sendkit_revocation.status IS
'HTTP status of the last attempt; null: no answer came';
COMMENT ON COLUMN @extschema@.sendkit_revocation.message IS
'message of the last attempt';
COMMENT ON INDEX @extschema@.sendkit_revocation_due_idx IS
'finds the revocations that are due';
COMMENT ON INDEX @extschema@.sendkit_revocation_urgent_idx IS
'finds those that have a not_after: they go first';
COMMENT ON INDEX @extschema@.sendkit_revocation_notable_idx IS
'finds those that are finished otherwise than by "deleted": failed, cancelled, absent';
COMMENT ON INDEX @extschema@.sendkit_revocation_finished_idx IS
'finds and counts those that are finished, by time';
COMMENT ON INDEX @extschema@.sendkit_revocation_workspace_idx IS
'finds those of a workspace that are finished: is its key dead?';
COMMENT ON CONSTRAINT sendkit_revocation_pkey ON @extschema@.sendkit_revocation IS
'one row per revocation';

CREATE FUNCTION @extschema@.sendkit_request_revocation(
	workspace_id text,
	not_after timestamptz DEFAULT NULL
)
RETURNS bigint
AS 'MODULE_PATHNAME', 'sendkit_request_revocation'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_request_revocation(text, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_request_revocation(text, timestamptz) IS
'queues the revocation of a workspace''s API key, to be delivered after this transaction has committed; returns its number. Give not_after if a new key may be made: a late retry would revoke that one';

CREATE FUNCTION @extschema@.sendkit_revoke_on_delete()
RETURNS trigger
AS 'MODULE_PATHNAME', 'sendkit_revoke_on_delete'
LANGUAGE C VOLATILE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_revoke_on_delete() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_revoke_on_delete() IS
'trigger function: queues the revocation of the API keys of the workspaces that a statement removes. Its argument names the column with the workspace''s id';

CREATE PROCEDURE @extschema@.sendkit_process_revocations()
AS 'MODULE_PATHNAME', 'sendkit_process_revocations'
LANGUAGE C;

REVOKE ALL ON PROCEDURE @extschema@.sendkit_process_revocations() FROM PUBLIC;

COMMENT ON PROCEDURE @extschema@.sendkit_process_revocations() IS
'delivers all revocations that are due, committing batch by batch; made for pg_cron. Several at once share the work';

CREATE FUNCTION @extschema@.sendkit_retry_revocations(ids bigint[] DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'sendkit_retry_revocations'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_retry_revocations(bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_retry_revocations(bigint[]) IS
'makes failed revocations pending again and pending ones due now: these, or all of them; returns how many. Those whose not_after has passed stay failed';

CREATE FUNCTION @extschema@.sendkit_cancel_revocations(ids bigint[])
RETURNS bigint
AS 'MODULE_PATHNAME', 'sendkit_cancel_revocations'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_cancel_revocations(bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_cancel_revocations(bigint[]) IS
'makes pending and failed revocations cancelled, so that they are not tried any more; returns how many. What is being sent is left alone';

CREATE FUNCTION @extschema@.sendkit_adopt_revocations()
RETURNS bigint
AS 'MODULE_PATHNAME', 'sendkit_adopt_revocations'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_adopt_revocations() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_adopt_revocations() IS
'makes this database the extension''s home: revocations are delivered from here, those that came with a dump or a template too, and stored keys used; returns how many were held. Never call it in a copy whose original lives on';

CREATE VIEW @extschema@.sendkit_revocation_summary AS
WITH unfinished AS MATERIALIZED (
	-- in two parts, for the indexes
	SELECT q.state, q.requested_at, q.attempts
	FROM @extschema@.sendkit_revocation q
	WHERE q.finished_at IS NULL AND q.not_after IS NULL
	UNION ALL
	SELECT q.state, q.requested_at, q.attempts
	FROM @extschema@.sendkit_revocation q
	WHERE q.finished_at IS NULL AND q.not_after IS NOT NULL
), notable AS MATERIALIZED (
	SELECT q.state, q.requested_at, q.attempts,
		q.outcome OPERATOR(pg_catalog.=) 'absent'
			AND q.attempts OPERATOR(pg_catalog.=) 1 AS absent_at_first
	FROM @extschema@.sendkit_revocation q
	WHERE q.finished_at IS NOT NULL
		AND (q.outcome IS NULL OR q.outcome OPERATOR(pg_catalog.<>) 'deleted')
), home AS MATERIALIZED (
	SELECT @extschema@.sendkit_is_home() AS is_here
), looked_at AS (
	SELECT CASE
			WHEN NOT h.is_here AND u.state OPERATOR(pg_catalog.=) ANY (ARRAY['pending', 'sending'])
			THEN 'held'
			ELSE u.state
		END AS state,
		u.requested_at, u.attempts, false AS absent_at_first,
		u.state OPERATOR(pg_catalog.=) ANY (ARRAY['pending', 'sending'])
			AND u.requested_at OPERATOR(pg_catalog.<)
				(pg_catalog.now() OPERATOR(pg_catalog.-) interval '10 minutes') AS overdue
	FROM unfinished u CROSS JOIN home h
	UNION ALL
	SELECT n.state, n.requested_at, n.attempts, n.absent_at_first, false
	FROM notable n
)
SELECT s.state,
	pg_catalog.count(l.state) OPERATOR(pg_catalog.+)
		-- the rest of what is finished is counted in an index, and not looked at
		CASE WHEN s.state OPERATOR(pg_catalog.=) 'done'
			THEN (SELECT pg_catalog.count(*) FROM @extschema@.sendkit_revocation q
					WHERE q.finished_at IS NOT NULL)
				OPERATOR(pg_catalog.-) (SELECT pg_catalog.count(*) FROM notable)
			ELSE 0
		END AS revocations,
	pg_catalog.min(l.requested_at)
		FILTER (WHERE s.state OPERATOR(pg_catalog.<>) 'done') AS oldest_requested_at,
	pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.min(l.requested_at)
		FILTER (WHERE s.state OPERATOR(pg_catalog.<>) 'done') AS oldest_age,
	pg_catalog.max(l.attempts)
		FILTER (WHERE s.state OPERATOR(pg_catalog.<>) 'done') AS most_attempts,
	pg_catalog.count(*) FILTER (WHERE l.overdue) AS overdue,
	pg_catalog.count(*) FILTER (WHERE l.absent_at_first) AS absent_at_first
FROM pg_catalog.unnest(ARRAY['pending', 'sending', 'held', 'failed', 'cancelled', 'done'])
		WITH ORDINALITY AS s(state, place)
	LEFT JOIN looked_at l ON l.state OPERATOR(pg_catalog.=) s.state
GROUP BY s.state, s.place
ORDER BY s.place;

REVOKE ALL ON TABLE @extschema@.sendkit_revocation_summary FROM PUBLIC;
GRANT SELECT ON TABLE @extschema@.sendkit_revocation_summary TO pg_monitor;

COMMENT ON VIEW @extschema@.sendkit_revocation_summary IS
'is anything stuck? One line per state; held ones came with a dump or a template, or were requested in the copy, and wait for sendkit_adopt_revocations()';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.state IS
'pending, sending, held, failed, cancelled or done';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.revocations IS
'how many revocations are in this state';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.oldest_requested_at IS
'when the oldest of them was requested; null for what is done';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.oldest_age IS
'how long ago that was';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.most_attempts IS
'the most attempts that any of them has taken; null for what is done';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.overdue IS
'how many are not finished and were requested more than 10 minutes ago';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.absent_at_first IS
'how many had no key when it was tried for the first time: if these are many, the trigger may name the wrong column, or the settings another account';
