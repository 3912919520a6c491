/* sendkit--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION sendkit" to load this file. \quit

CREATE TYPE @extschema@.sendkit_result AS (
	success boolean,
	message text
);
COMMENT ON TYPE @extschema@.sendkit_result IS
'what became of a request to delete a workspace''s API key: success is true only if the API confirmed that the key is gone';

CREATE FUNCTION @extschema@.sendkit_delete_api_key(
	workspace_id text,
	platform_key text DEFAULT NULL
)
RETURNS @extschema@.sendkit_result
AS 'MODULE_PATHNAME', 'sendkit_delete_api_key'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000;

REVOKE ALL ON FUNCTION @extschema@.sendkit_delete_api_key(text, text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.sendkit_delete_api_key(text, text) IS
'deletes the API key of a SendKit workspace now; cannot be rolled back. Call it as SELECT * FROM sendkit_delete_api_key(...): SELECT (sendkit_delete_api_key(...)).* would call it once per column';

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
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE COST 1000000 ROWS 100;

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
'keeps the platform keys of SendKit: CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw, then CREATE USER MAPPING ... OPTIONS (platform_key ''sk_user_...''). It has no foreign tables';
