--
-- The settings: what they are, which values they refuse and why, and who may
-- set them.
--
-- Loaded by hand: the settings may be placeholders until the first call.
-- Two are set by the launcher; their defaults are in boot_val.
LOAD 'sendkit';
SELECT name, CASE WHEN name IN ('sendkit.base_url', 'sendkit.auto_deliver') THEN boot_val ELSE setting END AS setting,
	   boot_val, unit, vartype, context, min_val, max_val
FROM pg_settings
WHERE name IN ('sendkit.base_url', 'sendkit.ca_file', 'sendkit.connect_timeout',
			   'sendkit.request_timeout', 'sendkit.max_retries', 'sendkit.max_concurrency',
			   'sendkit.platform_key_file', 'sendkit.auto_deliver', 'sendkit.worker_role',
			   'sendkit.worker_naptime')
ORDER BY name COLLATE "C";
-- Every one of them is described, in a sentence.
SELECT name FROM pg_settings
WHERE name LIKE 'sendkit.%' AND short_desc !~ '^[A-Z].*\.$';
SHOW sendkit.connect_timeout;
SHOW sendkit.request_timeout;
SHOW sendkit.max_retries;
SHOW sendkit.ca_file;
SHOW sendkit.proxy;

-- Units
SET sendkit.request_timeout = '1min';
SHOW sendkit.request_timeout;
SET sendkit.request_timeout = 1500;
SHOW sendkit.request_timeout;
SET sendkit.connect_timeout = '2500 ms';
SHOW sendkit.connect_timeout;
RESET sendkit.request_timeout;
RESET sendkit.connect_timeout;

-- Never endless, never at once, and no nonsense.
\set VERBOSITY sqlstate
SET sendkit.request_timeout = 0;
SET sendkit.request_timeout = -1;
SET sendkit.request_timeout = '2h';
SET sendkit.request_timeout = 'long';
SET sendkit.connect_timeout = 0;
SET sendkit.connect_timeout = '61min';
SET sendkit.max_retries = -1;
SET sendkit.max_retries = 101;
SET sendkit.max_concurrency = 0;
SET sendkit.max_concurrency = 1001;
-- Only postgresql.conf says where a key is, which proxy there is, and who delivers.
SET sendkit.platform_key_file = '/etc/key';
SET sendkit.proxy = 'http://proxy.example.com';
SET sendkit.worker_role = 'postgres';
ALTER DATABASE :"DBNAME" SET sendkit.proxy = 'http://proxy.example.com';
ALTER ROLE CURRENT_USER SET sendkit.proxy = 'http://proxy.example.com';
\set VERBOSITY default

-- Says whether the value was accepted, and if not, why.
CREATE FUNCTION pg_temp.try(setting text, value text) RETURNS text
AS $$
DECLARE
	state text;
	detail text;
BEGIN
	PERFORM set_config('sendkit.' || setting, value, true);
	RETURN CASE current_setting('sendkit.' || setting) WHEN value THEN 'accepted' ELSE 'changed' END;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' | ', state, detail);
END
$$ LANGUAGE plpgsql;

-- The root of the API: https, or http to this very machine
SELECT value, pg_temp.try('base_url', value)
FROM unnest(ARRAY[
	'https://api.sendkit.ai',
	'https://api.sendkit.ai/',
	'HTTPS://api.sendkit.ai',
	'https://api.sendkit.ai:8443/a/path/',
	'https://10.1.2.3',
	'https://[2001:db8::1]:8443/',
	'http://127.0.0.1:8080',
	'http://127.1.2.3',
	'http://[::1]:8080/path',
	'http://localhost',
	'http://LOCALHOST:80']) AS value;
SELECT value, pg_temp.try('base_url', value)
FROM unnest(ARRAY[
	'http://api.sendkit.ai',
	'http://10.1.2.3',
	'http://128.0.0.1',
	'http://0.0.0.0',
	'http://127.0.0.1.example.com',
	'http://localhost.example.com',
	'http://notlocalhost',
	'http://[::]',
	'http://[::2]',
	'http://[2001:db8::1]',
	'http://[::ffff:10.1.2.3]']) AS value;
SELECT value, pg_temp.try('base_url', value)
FROM unnest(ARRAY[
	'',
	' ',
	'api.sendkit.ai',
	'//api.sendkit.ai',
	'/v1',
	'https:',
	'https://',
	'https://:443',
	'https://api.sendkit.ai:port',
	'https://api.sendkit.ai:99999',
	'ftp://api.sendkit.ai',
	'file:///etc/passwd',
	'gopher://api.sendkit.ai',
	'https://user@api.sendkit.ai',
	'https://user:password@api.sendkit.ai',
	'https://:@api.sendkit.ai',
	'https://@api.sendkit.ai',
	'https://api.sendkit.ai@elsewhere',
	'https://api.sendkit.ai?',
	'https://api.sendkit.ai?key=value',
	'https://api.sendkit.ai/v1?',
	'https://api.sendkit.ai#',
	'https://api.sendkit.ai/#part',
	'https://api%2Esendkit.ai',
	'https://[fe80::1%25eth0]',
	'https://api sendkit.ai',
	' https://api.sendkit.ai',
	'https://api.sendkit.ai ']) AS value;
SELECT pg_temp.try('base_url', value)
FROM unnest(ARRAY[
	E'https://api.sendkit.ai\r\nX-Injected: yes',
	E'https://api.sendkit.ai/\t',
	E'https://api.sendkit.ai/\x7f']) AS value;
SELECT pg_temp.try('base_url', 'https://api.sendkit.ai/' || repeat('x', 1001)),
	   pg_temp.try('base_url', 'https://api.sendkit.ai/' || repeat('x', 1002));
SELECT pg_temp.try('base_url', 'https://' || repeat('x', 255)),
	   pg_temp.try('base_url', 'https://' || repeat('x', 256));

-- A file of certificates: the server's own configuration will do for a file
SELECT pg_temp.try('ca_file', ''),
	   pg_temp.try('ca_file', current_setting('config_file'));
SELECT value, pg_temp.try('ca_file', value)
FROM unnest(ARRAY['ca.pem', './ca.pem', '/nonexistent/ca.pem', '/', '/dev/null']) AS value;
SELECT pg_temp.try('ca_file', '/' || repeat('x', 1024));

-- An error names the setting; the old value stays.
SET sendkit.base_url = 'https://api.sendkit.ai/staging';
SET sendkit.base_url = 'http://api.sendkit.ai';
SHOW sendkit.base_url;
RESET sendkit.base_url;

-- The prefix is reserved: there is no setting but these. (Up to PostgreSQL 14 one
-- is warned, since 15 it is an error.)
DO $$
BEGIN
	PERFORM set_config('sendkit.platform_key', 'sk_user_settings', false);
EXCEPTION WHEN invalid_name THEN
	NULL;
END $$;
SELECT current_setting('server_version_num')::int < 150000
	   OR current_setting('sendkit.platform_key', true) IS NULL AS reserved;

-- Where the key goes is for superusers, how long to wait for everybody.
CREATE ROLE regress_sendkit_user;
SET ROLE regress_sendkit_user;
SET sendkit.base_url = 'https://elsewhere.example.com';
SET sendkit.ca_file = '';
SET sendkit.connect_timeout = '1s';
SET sendkit.request_timeout = '1s';
SET sendkit.max_retries = 0;
SET sendkit.max_concurrency = 1;
-- A proxy's password is not for everybody to see.
\set VERBOSITY sqlstate
SHOW sendkit.proxy;
\set VERBOSITY default
RESET ROLE;
-- ... in the view of settings not even for those who may see all of them.
SELECT name FROM pg_settings WHERE name = 'sendkit.proxy';
DROP ROLE regress_sendkit_user;
-- Set for a database, a role or a function: the checks are the same.
CREATE FUNCTION pg_temp.patient() RETURNS text LANGUAGE sql SET sendkit.request_timeout = '7s'
AS $$ SELECT current_setting('sendkit.request_timeout') $$;
SELECT pg_temp.patient(), current_setting('sendkit.request_timeout');
CREATE FUNCTION pg_temp.lost() RETURNS void LANGUAGE sql SET sendkit.base_url = 'http://api.sendkit.ai'
AS $$ SELECT $$;
SET sendkit.request_timeout = '9s';
BEGIN;
SET LOCAL sendkit.request_timeout = '8s';
SHOW sendkit.request_timeout;
ROLLBACK;
SHOW sendkit.request_timeout;

-- They take effect with the next call: to another address, and back.
\set second `echo "$STANDIN_SECOND"`
RESET ALL;
SELECT success FROM sendkit_delete_api_key('absent-here', 'sk_user_settings');
SELECT set_config('sendkit.base_url', 'http://localhost:' || :'second', false) \gset ignored_
SELECT success FROM sendkit_delete_api_key('absent-there', 'sk_user_settings');
RESET sendkit.base_url;
SELECT success FROM sendkit_delete_api_key('absent-again', 'sk_user_settings');
\! for call in requests second-requests; do $STANDIN_CTL GET "/$call?fields=target"; done
