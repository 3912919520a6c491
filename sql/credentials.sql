--
-- Which platform key a call uses when its argument gives none: that of the
-- role in whose name the call runs, from a user mapping, and nobody else's.
-- What was used is told by the API (a stand-in, one per script: see
-- test/standin), since the database must not tell. The key file, the other
-- place to keep a key, has a test of its own: test/t/402_key_file.pl.
--

-- Shows which key each id was asked with since the last time.
\setenv KEYS_USED '$STANDIN_CTL GET "/requests?fields=id,headers" | sed "s/.*.id.: .\\(.*\\)., .headers.*X-Api-Key., .\\([^,]*\\).\\].*/\\1: \\2/"; $STANDIN_CTL POST /reset >/dev/null'
\set SHOW_CONTEXT never

CREATE ROLE regress_sendkit_billing;
CREATE ROLE regress_sendkit_audit;
CREATE ROLE regress_sendkit_keeper;
CREATE ROLE regress_sendkit_member IN ROLE regress_sendkit_billing;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key(text, text), sendkit_delete_api_keys(text[], text)
	TO regress_sendkit_billing, regress_sendkit_audit, regress_sendkit_keeper, regress_sendkit_member;

--
-- The wrapper has a validator and nothing else, so that a foreign table can be
-- made, as with any wrapper, but is of no use.
--
SELECT fdwname, fdwhandler = 0 AS no_handler, fdwvalidator::regproc AS validator,
	   has_foreign_data_wrapper_privilege('regress_sendkit_billing', oid, 'USAGE') AS for_everyone
FROM pg_foreign_data_wrapper WHERE fdwname LIKE 'sendkit%';
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE FOREIGN TABLE regress_sendkit_table (id text) SERVER sendkit;
SELECT * FROM regress_sendkit_table;
DROP FOREIGN TABLE regress_sendkit_table;

--
-- A key belongs to a user mapping: not to anything that all may read.
--
ALTER FOREIGN DATA WRAPPER sendkit_fdw OPTIONS (ADD platform_key 'sk_user_misplaced');
\echo :SQLSTATE
CREATE SERVER regress_sendkit_other FOREIGN DATA WRAPPER sendkit_fdw OPTIONS (platform_key 'sk_user_misplaced');
\echo :SQLSTATE
ALTER SERVER sendkit OPTIONS (ADD platform_key 'sk_user_misplaced');
\echo :SQLSTATE
CREATE FOREIGN TABLE regress_sendkit_table (id text) SERVER sendkit OPTIONS (platform_key 'sk_user_misplaced');
\echo :SQLSTATE
CREATE FOREIGN TABLE regress_sendkit_table (id text OPTIONS (platform_key 'sk_user_misplaced')) SERVER sendkit;
\echo :SQLSTATE
-- And it is all that a user mapping, or anything else, can have.
ALTER SERVER sendkit OPTIONS (ADD host 'api.sendkit.ai');
\echo :SQLSTATE
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (password 'sk_user_misnamed');
\echo :SQLSTATE
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS ("Platform_Key" 'sk_user_misnamed');
\echo :SQLSTATE
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key 'sk_user_right', key 'sk_user_misnamed');
\echo :SQLSTATE
SELECT count(*) AS mappings FROM pg_user_mappings WHERE srvname = 'sendkit';

--
-- What can't be sent as a header isn't stored. The message says why, without
-- a character of what was given.
--
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key '');
\echo :SQLSTATE
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key 'sk_user_with space');
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key E'sk_user_line\r\nX-Admin: yes');
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key E'sk_user_newline\n');
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key E'sk_user_del\x7f');
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key 'sk_user_ä');
\echo :SQLSTATE
SELECT 'sk_user_' || repeat('x', 505) AS too_long, 'sk_user_' || repeat('x', 504) AS long_enough \gset
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key :'too_long');
\echo :SQLSTATE
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key :'long_enough');
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (SET platform_key 'sk_user_not good');
\echo :SQLSTATE
-- What the API is likely to refuse is stored: the API is the authority.
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (SET platform_key 'sk_a_workspace_key');
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (SET platform_key 'sk_user_visible!"#~');
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (DROP platform_key);
DROP USER MAPPING FOR regress_sendkit_billing SERVER sendkit;
DROP SERVER sendkit;

--
-- Without a key there is an error, before anything is sent. It names the role,
-- since that is what one is likely to be wrong about, and the ways to go.
--
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('no-key');
\echo :SQLSTATE
SELECT * FROM sendkit_delete_api_keys(ARRAY['no-key', 'no-key-2']);
\echo :SQLSTATE
-- Also where there would be nothing to send.
SELECT * FROM sendkit_delete_api_keys('{}');
RESET ROLE;

-- A server that only has the right name isn't ours, and what its mappings hold
-- is somebody else's secret.
CREATE FOREIGN DATA WRAPPER regress_sendkit_alien;
CREATE SERVER sendkit FOREIGN DATA WRAPPER regress_sendkit_alien;
GRANT USAGE ON FOREIGN SERVER sendkit TO PUBLIC;
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key 'sk_user_alien');
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('alien-server');
\echo :SQLSTATE
RESET ROLE;
DROP FOREIGN DATA WRAPPER regress_sendkit_alien CASCADE;

-- Nor is one of another name.
CREATE SERVER sendkit2 FOREIGN DATA WRAPPER sendkit_fdw;
GRANT USAGE ON FOREIGN SERVER sendkit2 TO PUBLIC;
CREATE USER MAPPING FOR PUBLIC SERVER sendkit2 OPTIONS (platform_key 'sk_user_second');
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('other-server');
\echo :SQLSTATE
RESET ROLE;
DROP SERVER sendkit2 CASCADE;

--
-- The normal case: a user mapping, and USAGE on the server.
--
CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw;
CREATE USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (platform_key 'sk_user_billing');
SET ROLE regress_sendkit_billing;
-- The right to use the server is asked for, whoever made the mapping.
SELECT * FROM sendkit_delete_api_key('no-usage');
\echo :SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER sendkit TO regress_sendkit_billing, regress_sendkit_audit, regress_sendkit_keeper;
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('mapping');
SELECT workspace_id, success, message FROM sendkit_delete_api_keys(ARRAY['mapping-1']);
-- What the call is given goes first, and isn't replaced where it's unusable.
SELECT * FROM sendkit_delete_api_key('argument', 'sk_user_argument');
SELECT workspace_id, success, message FROM sendkit_delete_api_keys(ARRAY['argument-1'], 'sk_user_argument');
SELECT * FROM sendkit_delete_api_key('argument-empty', '');
\echo :SQLSTATE
RESET ROLE;
\! eval "$KEYS_USED"

-- An argument is enough, whatever else there is: no mapping is looked for.
REVOKE USAGE ON FOREIGN SERVER sendkit FROM regress_sendkit_billing;
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('argument-only', 'sk_user_argument');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER sendkit TO regress_sendkit_billing;

-- USAGE and a mapping are no right to call.
REVOKE EXECUTE ON FUNCTION sendkit_delete_api_key(text, text) FROM regress_sendkit_billing;
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('no-execute');
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key(text, text) TO regress_sendkit_billing;
\! eval "$KEYS_USED"

--
-- Nobody uses another role's mapping: not with all the same rights, not as a
-- member of that role, not as the superuser or the server's owner.
--
SET ROLE regress_sendkit_audit;
SELECT * FROM sendkit_delete_api_key('not-mine');
\echo :SQLSTATE
SET ROLE regress_sendkit_member;
SELECT has_server_privilege('sendkit', 'USAGE') AS member_has_usage;
SELECT * FROM sendkit_delete_api_key('not-mine');
\echo :SQLSTATE
-- ... unless it becomes that role.
RESET ROLE;
SET SESSION AUTHORIZATION regress_sendkit_member;
SELECT * FROM sendkit_delete_api_key('still-not-mine');
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('now-mine');
RESET ROLE;
SELECT * FROM sendkit_delete_api_key('no-longer-mine');
RESET SESSION AUTHORIZATION;
-- (The superuser's name isn't the same everywhere.)
CREATE ROLE regress_sendkit_super SUPERUSER;
SET ROLE regress_sendkit_super;
SELECT * FROM sendkit_delete_api_key('not-mine');
RESET ROLE;
ALTER SERVER sendkit OWNER TO regress_sendkit_super;
ALTER ROLE regress_sendkit_super NOSUPERUSER;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key(text, text) TO regress_sendkit_super;
SET ROLE regress_sendkit_super;
SELECT * FROM sendkit_delete_api_key('not-mine');
RESET ROLE;
\! eval "$KEYS_USED"

--
-- PUBLIC's mapping is for those who have none of their own, and USAGE.
--
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key 'sk_user_public');
SET ROLE regress_sendkit_audit;
SELECT * FROM sendkit_delete_api_key('public-1');
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('own-before-public');
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER sendkit FROM regress_sendkit_audit;
SET ROLE regress_sendkit_audit;
SELECT * FROM sendkit_delete_api_key('public-no-usage');
\echo :SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER sendkit TO regress_sendkit_audit;
-- A mapping of its own, though without a key (a dump made by an ordinary role
-- brings such), keeps a role from PUBLIC's.
CREATE USER MAPPING FOR regress_sendkit_audit SERVER sendkit;
SET ROLE regress_sendkit_audit;
SELECT * FROM sendkit_delete_api_key('empty-mapping');
\echo :SQLSTATE
RESET ROLE;
DROP USER MAPPING FOR regress_sendkit_audit SERVER sendkit;
SET ROLE regress_sendkit_audit;
SELECT * FROM sendkit_delete_api_key('public-2');
RESET ROLE;
DROP USER MAPPING FOR PUBLIC SERVER sendkit;
\! eval "$KEYS_USED"

--
-- In a SECURITY DEFINER function it is the owner's mapping: so can people
-- revoke with a key that they can't get at.
--
CREATE FUNCTION regress_sendkit_revoke(id text) RETURNS sendkit_result
	LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT
	AS $$ SELECT sendkit_delete_api_key(id) $$;
CREATE FUNCTION regress_sendkit_revoke_as_caller(id text) RETURNS sendkit_result
	LANGUAGE sql SECURITY INVOKER
	AS $$ SELECT sendkit_delete_api_key(id) $$;
ALTER FUNCTION regress_sendkit_revoke(text) OWNER TO regress_sendkit_keeper;
ALTER FUNCTION regress_sendkit_revoke_as_caller(text) OWNER TO regress_sendkit_keeper;
-- The definer has no mapping: the caller's is no substitute, and it's the
-- definer whom the error names.
SET ROLE regress_sendkit_billing;
SELECT * FROM regress_sendkit_revoke('definer-without');
\echo :SQLSTATE
RESET ROLE;
CREATE USER MAPPING FOR regress_sendkit_keeper SERVER sendkit OPTIONS (platform_key 'sk_user_keeper');
CREATE ROLE regress_sendkit_clerk;
SET ROLE regress_sendkit_clerk;
-- A clerk has no right on the server, the functions or a key.
SELECT * FROM regress_sendkit_revoke('definer-clerk');
SELECT * FROM regress_sendkit_revoke_as_caller('invoker-clerk');
\echo :SQLSTATE
SET ROLE regress_sendkit_billing;
SELECT * FROM regress_sendkit_revoke('definer-billing');
SELECT * FROM regress_sendkit_revoke_as_caller('invoker-billing');
-- Both in one statement: neither is taken for the other.
SELECT (regress_sendkit_revoke('definer-' || i)).success AS as_definer,
	   (regress_sendkit_revoke_as_caller('invoker-' || i)).success AS as_invoker
FROM generate_series(1, 2) AS i;
RESET ROLE;
\! eval "$KEYS_USED"

--
-- A new key is used from the next call on, in the session that it found.
--
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('rotation-1');
RESET ROLE;
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (SET platform_key 'sk_user_rotated');
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('rotation-2');
RESET ROLE;
BEGIN;
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (SET platform_key 'sk_user_tentative');
SET LOCAL ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('rotation-3');
ROLLBACK;
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('rotation-4');
RESET ROLE;
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (DROP platform_key);
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('rotation-5');
RESET ROLE;
\! eval "$KEYS_USED"

--
-- Who sees a stored key: PostgreSQL shows a mapping's options to its own role,
-- if that has USAGE, and to superusers; PUBLIC's to the server's owner.
--
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (ADD platform_key 'sk_user_billing');
CREATE USER MAPPING FOR PUBLIC SERVER sendkit OPTIONS (platform_key 'sk_user_public');
SET ROLE regress_sendkit_billing;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'sendkit' ORDER BY usename COLLATE "C";
SET ROLE regress_sendkit_super;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'sendkit' ORDER BY usename COLLATE "C";
SET ROLE regress_sendkit_clerk;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'sendkit' ORDER BY usename COLLATE "C";
SELECT * FROM pg_user_mapping;
\echo :SQLSTATE
RESET ROLE;

DROP FUNCTION regress_sendkit_revoke(text), regress_sendkit_revoke_as_caller(text);
DROP SERVER sendkit CASCADE;
REVOKE EXECUTE ON FUNCTION sendkit_delete_api_key(text, text), sendkit_delete_api_keys(text[], text)
	FROM regress_sendkit_billing, regress_sendkit_audit, regress_sendkit_keeper, regress_sendkit_member,
		 regress_sendkit_super;
DROP ROLE regress_sendkit_billing, regress_sendkit_audit, regress_sendkit_keeper, regress_sendkit_member,
	regress_sendkit_super, regress_sendkit_clerk;
