--
-- What CREATE EXTENSION makes, where, and what \dx+ and its like explain.
--
SELECT relocatable, superuser, trusted, comment
FROM pg_available_extension_versions
WHERE name = 'sendkit' AND version = (SELECT default_version FROM pg_available_extensions WHERE name = 'sendkit');
SELECT extname, extrelocatable FROM pg_extension WHERE extname = 'sendkit';

-- Everything that belongs to it has a comment. (Up to PostgreSQL 16 the types of
-- arrays and of a table's rows are no members of their own.)
CREATE TEMP VIEW members AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) AS object,
	   obj_description(objid, classid::regclass::name) AS comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sendkit')
  AND NOT (classid = 'pg_type'::regclass AND EXISTS (
		SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
		WHERE t.oid = objid AND (t.typcategory = 'A' OR c.relkind <> 'c')));
SELECT count(*) >= 2 AS has_members FROM members;
SELECT object FROM members WHERE comment IS NULL ORDER BY object COLLATE "C";
SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'sendkit';

-- Names, types and defaults of the arguments and of the result
SELECT pg_get_function_arguments(oid) AS arguments, pg_get_function_result(oid) AS result
FROM pg_proc WHERE proname = 'sendkit_delete_api_key';
SELECT attname, atttypid::regtype FROM pg_attribute
WHERE attrelid = (SELECT typrelid FROM pg_type WHERE oid = 'sendkit_result'::regtype)
ORDER BY attnum;

-- Columns have comments, too.
SELECT attrelid::regclass, attname FROM pg_attribute
WHERE attrelid IN ('sendkit_result'::regclass, 'sendkit_revocation'::regclass,
				   'sendkit_revocation_summary'::regclass)
  AND attnum > 0 AND NOT attisdropped AND col_description(attrelid, attnum) IS NULL
ORDER BY attrelid, attnum;

-- No function can be called by PUBLIC.
SELECT object FROM members
WHERE classid = 'pg_proc'::regclass AND has_function_privilege('public', objid, 'EXECUTE');

-- Dropped, it leaves nothing; what uses it holds it back.
CREATE VIEW uses_it AS SELECT NULL::sendkit_result AS r;
DROP EXTENSION sendkit;
DROP VIEW uses_it;
DROP EXTENSION sendkit;
SELECT proname FROM pg_proc WHERE proname LIKE 'sendkit%';
SELECT typname FROM pg_type WHERE typname LIKE '%sendkit%';
\set VERBOSITY sqlstate
SELECT sendkit_delete_api_key('dropped', 'sk_user_catalog');

-- Its objects live in the schema that CREATE EXTENSION names, however odd, and
-- the function works wherever the search path leads.
CREATE SCHEMA "Odd schema; 100%";
CREATE EXTENSION sendkit SCHEMA "Odd schema; 100%";
SELECT DISTINCT nspname
FROM members JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
	 JOIN pg_namespace n ON n.oid = pronamespace
UNION
SELECT nspname
FROM members JOIN pg_type t ON classid = 'pg_type'::regclass AND t.oid = objid
	 JOIN pg_namespace n ON n.oid = typnamespace
UNION
SELECT nspname
FROM members JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
	 JOIN pg_namespace n ON n.oid = relnamespace;
SELECT object FROM members WHERE comment IS NULL ORDER BY object COLLATE "C";
SELECT * FROM sendkit_delete_api_key('not-in-path', 'sk_user_catalog');
\set VERBOSITY default
SELECT * FROM "Odd schema; 100%".sendkit_delete_api_key('odd', 'sk_user_catalog');
SET search_path = "Odd schema; 100%";
SELECT sendkit_delete_api_key('odd-in-path', 'sk_user_catalog');
SET search_path = '';
SELECT ("Odd schema; 100%".sendkit_delete_api_key('odd-no-path', 'sk_user_catalog')).message;
RESET search_path;
ALTER EXTENSION sendkit SET SCHEMA public;
DROP EXTENSION sendkit;
DROP SCHEMA "Odd schema; 100%";

-- By default that is the first of the search path. A namesake elsewhere in the
-- path, of other types, changes nothing.
CREATE SCHEMA first;
CREATE TYPE public.sendkit_result AS (other int);
SET search_path = first, public;
CREATE EXTENSION sendkit;
SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'sendkit';
SELECT * FROM sendkit_delete_api_key('first', 'sk_user_catalog');
RESET search_path;
DROP EXTENSION sendkit;
DROP SCHEMA first;
DROP TYPE public.sendkit_result;

-- And again, in the session that has called the old one.
CREATE EXTENSION sendkit;
SELECT * FROM sendkit_delete_api_key('again', 'sk_user_catalog');
