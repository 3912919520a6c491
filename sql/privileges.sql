--
-- Who may call the function, and in which schema it lives.
--
CREATE ROLE regress_sendkit_billing;
CREATE ROLE regress_sendkit_other;
SET client_min_messages = warning;

-- Nobody but the owner, until somebody is let.
SELECT has_function_privilege('public', 'sendkit_delete_api_key(text, text)', 'EXECUTE');
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('denied', 'sk_user_privileges');
RESET ROLE;
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO regress_sendkit_billing;
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('granted', 'sk_user_privileges');
-- The type is everybody's, so that functions and columns can be made of it.
SELECT has_type_privilege('sendkit_result', 'USAGE');
SET ROLE regress_sendkit_other;
SELECT * FROM sendkit_delete_api_key('denied', 'sk_user_privileges');
RESET ROLE;
-- ... or by a function that is SECURITY DEFINER, which doesn't hand the right on.
CREATE FUNCTION revoke_for_others(id text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS $$ SELECT success FROM sendkit_delete_api_key(id, 'sk_user_privileges') $$;
SET ROLE regress_sendkit_other;
SELECT revoke_for_others('for-others');
SELECT * FROM sendkit_delete_api_key('denied', 'sk_user_privileges');
RESET ROLE;
DROP FUNCTION revoke_for_others;
REVOKE EXECUTE ON FUNCTION sendkit_delete_api_key FROM regress_sendkit_billing;
SET ROLE regress_sendkit_billing;
SELECT * FROM sendkit_delete_api_key('revoked', 'sk_user_privileges');
RESET ROLE;
\! $STANDIN_CTL GET '/requests?fields=n,id'

-- The message about a missing key names the role that called.
GRANT EXECUTE ON FUNCTION sendkit_delete_api_key TO regress_sendkit_billing;
SET ROLE regress_sendkit_billing;
\set VERBOSITY terse
SELECT * FROM sendkit_delete_api_key('no-key');
\set VERBOSITY default
RESET ROLE;

-- An ordinary user may not create the extension, not even with CREATE on the
-- database: it isn't trusted.
SELECT current_database() AS db \gset
GRANT CREATE ON DATABASE :"db" TO regress_sendkit_other;
DROP EXTENSION sendkit;
SET ROLE regress_sendkit_other;
\set VERBOSITY terse
CREATE EXTENSION sendkit;
\set VERBOSITY default
RESET ROLE;
REVOKE CREATE ON DATABASE :"db" FROM regress_sendkit_other;
CREATE EXTENSION sendkit;
-- Back to nobody: the grant went with the extension.
SELECT has_function_privilege('regress_sendkit_billing', 'sendkit_delete_api_key(text, text)', 'EXECUTE');

DROP ROLE regress_sendkit_billing;
DROP ROLE regress_sendkit_other;
