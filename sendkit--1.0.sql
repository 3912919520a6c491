/* sendkit--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION sendkit" to load this file. \quit

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
LANGUAGE C VOLATILE PARALLEL UNSAFE;

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
	finished_at timestamptz,
	outcome text,
	status integer,
	message text,
	system_identifier bigint NOT NULL,
	database_oid oid NOT NULL,
	CONSTRAINT sendkit_revocation_pkey PRIMARY KEY (id)
)
-- room for the new version that a claim makes of a row
WITH (fillfactor = 80);

ALTER SEQUENCE @extschema@.sendkit_revocation_id_seq OWNED BY @extschema@.sendkit_revocation.id;

-- What is due, however much history lies beside it. A claim changes none of
-- these columns, so that it can be a heap-only update.
CREATE INDEX sendkit_revocation_due_idx ON @extschema@.sendkit_revocation (next_attempt_at, id)
	WHERE finished_at IS NULL;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.sendkit_revocation', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.sendkit_revocation_id_seq', '');

REVOKE ALL ON TABLE @extschema@.sendkit_revocation FROM PUBLIC;
REVOKE ALL ON SEQUENCE @extschema@.sendkit_revocation_id_seq FROM PUBLIC;

COMMENT ON SEQUENCE @extschema@.sendkit_revocation_id_seq IS
'numbers the revocations';
COMMENT ON TABLE @extschema@.sendkit_revocation IS
'API keys to be revoked: each row is delivered to the SendKit API after its transaction has committed, at least once. Rows in state done may be deleted at any time';
COMMENT ON COLUMN @extschema@.sendkit_revocation.id IS
'number of the revocation';
COMMENT ON COLUMN @extschema@.sendkit_revocation.workspace_id IS
'workspace whose API key is to be revoked';
COMMENT ON COLUMN @extschema@.sendkit_revocation.state IS
'pending: waits for next_attempt_at; sending: claimed by a process; done: the key is gone or there was none; failed: needs a person';
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
COMMENT ON COLUMN @extschema@.sendkit_revocation.finished_at IS
'when it was done, or had failed';
COMMENT ON COLUMN @extschema@.sendkit_revocation.outcome IS
'outcome of the last attempt: deleted, absent, rejected, unavailable or unknown';
COMMENT ON COLUMN @extschema@.sendkit_revocation.status IS
'HTTP status of the last attempt; null: no answer came';
COMMENT ON COLUMN @extschema@.sendkit_revocation.message IS
'message of the last attempt';
COMMENT ON COLUMN @extschema@.sendkit_revocation.system_identifier IS
'cluster that the revocation belongs to: another one will not deliver it';
COMMENT ON COLUMN @extschema@.sendkit_revocation.database_oid IS
'database that the revocation belongs to: another one will not deliver it';
COMMENT ON INDEX @extschema@.sendkit_revocation_due_idx IS
'finds the revocations that are due';
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

CREATE FUNCTION @extschema@.sendkit_revocation_is_ours(system_identifier bigint, database_oid oid)
RETURNS boolean
AS 'MODULE_PATHNAME', 'sendkit_revocation_is_ours'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

REVOKE ALL ON FUNCTION @extschema@.sendkit_revocation_is_ours(bigint, oid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.sendkit_revocation_is_ours(bigint, oid) TO pg_monitor;

COMMENT ON FUNCTION @extschema@.sendkit_revocation_is_ours(bigint, oid) IS
'does a revocation with this cluster and database belong here, so that it will be delivered?';

CREATE FUNCTION @extschema@.sendkit_adopt_revocations()
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'sendkit_adopt_revocations';

REVOKE ALL ON FUNCTION @extschema@.sendkit_adopt_revocations() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_adopt_revocations() IS
'makes the revocations that came with a dump or a template this database''s own, to be delivered from here; returns how many. Never call it in a copy whose original lives on';

-- A body that is bound to its table when it is created: by name it could find
-- another one, after the schema has been renamed
CREATE FUNCTION @extschema@.sendkit_retry_revocations(ids bigint[] DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	WITH retried AS (
		UPDATE @extschema@.sendkit_revocation r
		SET state = 'pending',
			next_attempt_at = pg_catalog.now(),
			claimed_at = NULL,
			finished_at = NULL
		WHERE r.state OPERATOR(pg_catalog.=) 'failed'
			AND (ids IS NULL OR r.id OPERATOR(pg_catalog.=) ANY (ids))
		RETURNING 1
	)
	SELECT pg_catalog.count(*) FROM retried;
END;

REVOKE ALL ON FUNCTION @extschema@.sendkit_retry_revocations(bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_retry_revocations(bigint[]) IS
'makes failed revocations pending again: these, or all of them; returns how many. One whose not_after has passed fails again';

CREATE VIEW @extschema@.sendkit_revocation_summary AS
SELECT s.state,
	pg_catalog.count(r.id) AS revocations,
	pg_catalog.min(r.requested_at) AS oldest_requested_at,
	pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.min(r.requested_at) AS oldest_age,
	pg_catalog.max(r.attempts) AS most_attempts,
	pg_catalog.count(r.id) FILTER (WHERE r.finished_at IS NULL
		AND r.next_attempt_at OPERATOR(pg_catalog.<)
			(pg_catalog.now() OPERATOR(pg_catalog.-) interval '10 minutes')) AS overdue
FROM pg_catalog.unnest(ARRAY['pending', 'sending', 'held', 'failed', 'done'])
		WITH ORDINALITY AS s(state, place)
	LEFT JOIN (
		SELECT q.id, q.requested_at, q.attempts, q.finished_at, q.next_attempt_at,
			CASE
				WHEN q.finished_at IS NULL
					AND NOT @extschema@.sendkit_revocation_is_ours(q.system_identifier, q.database_oid)
				THEN 'held'
				ELSE q.state
			END AS state
		FROM @extschema@.sendkit_revocation q
	) r ON r.state OPERATOR(pg_catalog.=) s.state
GROUP BY s.state, s.place
ORDER BY s.place;

REVOKE ALL ON TABLE @extschema@.sendkit_revocation_summary FROM PUBLIC;
GRANT SELECT ON TABLE @extschema@.sendkit_revocation_summary TO pg_monitor;

COMMENT ON VIEW @extschema@.sendkit_revocation_summary IS
'is anything stuck? One line per state; held ones came with a dump or a template and wait for sendkit_adopt_revocations()';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.state IS
'pending, sending, held, failed or done';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.revocations IS
'how many revocations are in this state';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.oldest_requested_at IS
'when the oldest of them was requested';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.oldest_age IS
'how long ago that was';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.most_attempts IS
'the most attempts that any of them has taken';
COMMENT ON COLUMN @extschema@.sendkit_revocation_summary.overdue IS
'how many have been due for more than 10 minutes: nobody delivers, or not fast enough';
