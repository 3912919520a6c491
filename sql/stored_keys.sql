--
-- A key that is stored by function, as a value: none of it is ever part of a
-- statement's text. That it shows nowhere else is hunted for in
-- test/t/404_hunt.pl; here it is about who may do so, and what it leads to.
--

-- Shows which key each id was asked with since the last time.
\setenv KEYS_USED '$STANDIN_CTL GET "/requests?fields=id,headers" | sed "s/.*.id.: .\\(.*\\)., .headers.*X-Api-Key., .\\([^,]*\\).\\].*/\\1: \\2/"; $STANDIN_CTL POST /reset >/dev/null'
\set SHOW_CONTEXT never

CREATE ROLE regress_sendkit_billing;
CREATE ROLE "regress_sendkit ""audit""";
CREATE ROLE regress_sendkit_keeper;
CREATE ROLE regress_sendkit_super SUPERUSER;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key(text, text)
	TO regress_sendkit_billing, "regress_sendkit ""audit""";

-- Data of COPY are no part of a statement.
CREATE TEMP TABLE secret (name text, key text);
COPY secret FROM STDIN;
first	sk_user_first
second	sk_user_second
public	sk_user_public
workspace	sk_not_of_a_platform
blank	sk_user_with blank
newline	sk_user_line\nX-Admin: yes
empty	
\.
GRANT SELECT ON secret TO PUBLIC;

--
-- The first key makes the server, too; it is its maker's.
--
SET ROLE regress_sendkit_super;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';
RESET ROLE;
SELECT srvname, fdwname, srvowner::regrole, srvacl, srvoptions
FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw;
SELECT usename, umoptions FROM pg_user_mappings;
-- The server belongs to no extension: else no dump would have it.
SELECT deptype FROM pg_depend WHERE classid = 'pg_foreign_server'::regclass AND deptype = 'e';
GRANT USAGE ON FOREIGN SERVER sendkit TO regress_sendkit_billing;
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('stored');
RESET ROLE;

-- Another one takes its place; whoever may use the server is told nothing.
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'second';
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('replaced');
RESET ROLE;
-- It comes and goes with its transaction.
BEGIN;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';
ROLLBACK;
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('rolled-back');
RESET ROLE;
-- Several in one statement, also for the same role.
SELECT count(sendkit_store_platform_key('regress_sendkit_billing', key)) FROM secret WHERE name IN ('first', 'second');
SELECT usename, umoptions FROM pg_user_mappings;
-- A mapping without a key gets one.
ALTER USER MAPPING FOR regress_sendkit_billing SERVER sendkit OPTIONS (DROP platform_key);
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';
SET ROLE regress_sendkit_billing;
SELECT success FROM sendkit_delete_api_key('added');
RESET ROLE;
\! eval "$KEYS_USED"

--
-- "public" is for all who have none of their own; names are taken as they are.
--
SELECT sendkit_store_platform_key('public', key) FROM secret WHERE name = 'public';
SELECT sendkit_store_platform_key('regress_sendkit "audit"', key) FROM secret WHERE name = 'second';
GRANT USAGE ON FOREIGN SERVER sendkit TO PUBLIC;
SELECT sendkit_store_platform_key('public', key) FROM secret WHERE name = 'public';
SET ROLE "regress_sendkit ""audit""";
SELECT success FROM sendkit_delete_api_key('odd-name');
RESET ROLE;
SELECT sendkit_forget_platform_key('regress_sendkit "audit"');
SET ROLE "regress_sendkit ""audit""";
SELECT success FROM sendkit_delete_api_key('public');
RESET ROLE;
SELECT sendkit_forget_platform_key('public');
SET ROLE "regress_sendkit ""audit""";
SELECT success FROM sendkit_delete_api_key('forgotten');
\echo :SQLSTATE
RESET ROLE;
\! eval "$KEYS_USED"
-- What is not there can't be forgotten: the name may be misspelt.
SELECT sendkit_forget_platform_key('public');
\echo :SQLSTATE
SELECT sendkit_forget_platform_key('regress_sendkit_nobody');
\echo :SQLSTATE

--
-- What can't be sent isn't stored, and no part of it is shown. What the API is
-- likely to refuse is stored.
--
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'blank';
\echo :SQLSTATE
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'newline';
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'empty';
SELECT sendkit_store_platform_key('regress_sendkit_billing', repeat(key, 40)) FROM secret WHERE name = 'first';
SELECT sendkit_store_platform_key('regress_sendkit_billing', NULL);
\echo :SQLSTATE
SELECT sendkit_store_platform_key(NULL, key) FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_store_platform_key('regress_sendkit_nobody', key) FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_forget_platform_key(NULL);
\echo :SQLSTATE
-- ... also where it is given as the role.
SELECT sendkit_store_platform_key(key, 'regress_sendkit_billing') FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_store_platform_key(' ' || key, 'regress_sendkit_billing') FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_forget_platform_key(key) FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'workspace';
SELECT usename, umoptions FROM pg_user_mappings;
BEGIN READ ONLY;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT sendkit_forget_platform_key('regress_sendkit_billing');
\echo :SQLSTATE
ROLLBACK;

--
-- A key that is written out is stored, but it can't be called secret any more.
--
SELECT sendkit_store_platform_key('regress_sendkit_billing', 'sk_user_literal');
DO $$ BEGIN PERFORM sendkit_store_platform_key('regress_sendkit_billing', 'sk_user_literal'); END $$;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';

--
-- Superusers and the server's owner may do so; for all others the right to
-- execute is not enough, not even for a key of their own.
--
SET ROLE regress_sendkit_billing;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'second';
\echo :SQLSTATE
SELECT sendkit_forget_platform_key('regress_sendkit_billing');
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION sendkit_store_platform_key, sendkit_forget_platform_key
	TO regress_sendkit_billing, regress_sendkit_keeper;
SET ROLE regress_sendkit_billing;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'second';
\echo :SQLSTATE
SELECT sendkit_forget_platform_key('regress_sendkit_billing');
\echo :SQLSTATE
RESET ROLE;
ALTER SERVER sendkit OWNER TO regress_sendkit_keeper;
SET ROLE regress_sendkit_keeper;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'second';
SELECT sendkit_forget_platform_key('regress_sendkit_billing');
RESET ROLE;
SELECT usename, umoptions FROM pg_user_mappings;
DROP SERVER sendkit;

-- Who may create the server may do so by storing a key.
SET ROLE regress_sendkit_keeper;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_forget_platform_key('regress_sendkit_billing');
\echo :SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN DATA WRAPPER sendkit_fdw TO regress_sendkit_keeper;
SET ROLE regress_sendkit_keeper;
SELECT sendkit_store_platform_key('regress_sendkit_billing', key) FROM secret WHERE name = 'first';
RESET ROLE;
SELECT srvowner::regrole FROM pg_foreign_server;
DROP SERVER sendkit CASCADE;

-- A server that only has the name isn't ours to change.
CREATE FOREIGN DATA WRAPPER regress_sendkit_alien;
CREATE SERVER sendkit FOREIGN DATA WRAPPER regress_sendkit_alien;
SELECT sendkit_store_platform_key('public', key) FROM secret WHERE name = 'first';
\echo :SQLSTATE
SELECT sendkit_forget_platform_key('public');
\echo :SQLSTATE
DROP FOREIGN DATA WRAPPER regress_sendkit_alien CASCADE;

REVOKE EXECUTE ON FUNCTION sendkit_store_platform_key, sendkit_forget_platform_key
	FROM regress_sendkit_billing, regress_sendkit_keeper;
REVOKE EXECUTE ON FUNCTION sendkit_delete_api_key(text, text)
	FROM regress_sendkit_billing, "regress_sendkit ""audit""";
REVOKE USAGE ON FOREIGN DATA WRAPPER sendkit_fdw FROM regress_sendkit_keeper;
DROP TABLE secret;
DROP ROLE regress_sendkit_billing, "regress_sendkit ""audit""", regress_sendkit_keeper, regress_sendkit_super;
