--
-- The caller's mistakes are errors, raised before anything is sent. None of
-- them shows a platform key, wherever it looks for room: message, detail, hint
-- or context.
--
-- 22004 null_value_not_allowed, 22023 invalid_parameter_value,
-- 28000 invalid_authorization_specification
--
CREATE FUNCTION pg_temp.try(id text, key text) RETURNS text
AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
	context text;
BEGIN
	PERFORM sendkit_delete_api_key(id, key);
	RETURN 'sent';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS
		state = RETURNED_SQLSTATE,
		message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT,
		context = PG_EXCEPTION_CONTEXT;
	IF strpos(concat(message, detail, hint, context), coalesce(nullif(key, ''), 'no key')) > 0 THEN
		RETURN 'the key was shown';
	END IF;
	RETURN concat_ws(' | ', state, replace(message, current_user, '(user)'),
					 nullif(detail, ''), nullif(hint, ''));
END
$$ LANGUAGE plpgsql;

-- workspace_id
SELECT pg_temp.try(NULL, 'sk_user_arguments');
SELECT pg_temp.try('', 'sk_user_arguments');
SELECT pg_temp.try(repeat('x', 256), 'sk_user_arguments');
SELECT pg_temp.try(repeat('x', 10000000), 'sk_user_arguments');
-- control characters, one after the other
SELECT count(*), pg_temp.try('a' || chr(code) || 'b', 'sk_user_arguments')
FROM (SELECT generate_series(1, 31) UNION ALL SELECT 127) AS c(code)
GROUP BY 2;
SELECT pg_temp.try(E'newline at the end\n', 'sk_user_arguments');
SELECT pg_temp.try(E'\t', 'sk_user_arguments');

-- "." and ".." would address another resource: refused in every disguise
SELECT count(*), pg_temp.try(id, 'sk_user_arguments')
FROM unnest(ARRAY['.', '..', '%2e', '%2E', '.%2e', '%2e.', '%2e%2e', '%2E%2E', '%2e%2E',
				  '%252e', '%252E%252e', '.%252e', '%2525252e%2e', '%25%32%65', '%%32e',
				  '%2%65', '%2e%25252525252525252e', '%2e%%32%65',
				  '%' || repeat('25', 120) || '2e']) AS id
GROUP BY 2;
-- ... and as one segment of several
SELECT count(*), pg_temp.try(id, 'sk_user_arguments')
FROM unnest(ARRAY['x/../..', './..', '../a', 'a/../b', 'a/.', '/..', '../', 'x\..\..', '.\a',
				  'x%2f..%2f..', 'x%2F%2e%2E', 'x%5c..', '%2e%2f%2e%2e', 'x%252f%252e%252e',
				  '%252e%255cx', 'x%00/..', 'x%00%2f..', 'x%2500%252f%252e', 'x/%25%32%65']) AS id
GROUP BY 2;
-- Swapped arguments would put the key into URLs, tables and logs.
SELECT pg_temp.try('sk_user_arguments', 'ws');
SELECT pg_temp.try('sk_workspace', 'sk_user_arguments');
SELECT pg_temp.try('Bearer sk_user_arguments', 'ws');
-- Blanks at either end come from copying: there is no key under such an id.
SELECT count(*), pg_temp.try(id, 'sk_user_arguments')
FROM unnest(ARRAY[' ', ' ws', 'ws ', ' sk_user_arguments']) AS id
GROUP BY 2;

-- platform_key
SELECT pg_temp.try('ws', NULL);
SELECT pg_temp.try('ws', '');
SELECT pg_temp.try('ws', rpad('sk_user_', 513, 'x'));
SELECT count(*), pg_temp.try('ws', 'sk_user_' || chr(code) || 'arguments')
FROM (SELECT generate_series(1, 32) UNION ALL SELECT 127) AS c(code)
GROUP BY 2;
SELECT pg_temp.try('ws', ' sk_user_arguments');
SELECT pg_temp.try('ws', 'sk_user_arguments ');
SELECT pg_temp.try('ws', E'sk_user_arguments\n');
SELECT pg_temp.try('ws', E'sk_user_arguments\r\nX-Injected: yes');
SELECT pg_temp.try('ws', E'sk_user_arguments\nX-Injected: yes');
SELECT pg_temp.try('ws', E'sk_user_arguments\rX-Injected: yes');

-- Left out is the same as NULL. Without GET STACKED DIAGNOSTICS:
\set VERBOSITY sqlstate
SELECT sendkit_delete_api_key('ws');
SELECT sendkit_delete_api_key(NULL);
SELECT sendkit_delete_api_key(NULL, NULL);
SELECT sendkit_delete_api_key('..', 'sk_user_arguments');
SELECT sendkit_delete_api_key('ws', 'sk user');
\set VERBOSITY terse
-- Not even an error's message from psql has the key in it.
SELECT sendkit_delete_api_key('ws', 'sk_user arguments');
SELECT sendkit_delete_api_key('', 'sk_user_arguments');
\set VERBOSITY default

\set VERBOSITY sqlstate
-- Ids of another type than text have to be cast, as the error's hint says.
SELECT sendkit_delete_api_key('c0ffee00-0000-4000-8000-000000000000'::uuid, 'sk_user_arguments');
SELECT sendkit_delete_api_keys(ARRAY[1, 2]::bigint[], 'sk_user_arguments');
SELECT r.success FROM sendkit_delete_api_key('c0ffee00-0000-4000-8000-000000000000'::uuid::text, 'sk_user_arguments') AS r;
SELECT r.success FROM sendkit_delete_api_keys(ARRAY[1, 2]::bigint[]::text[], 'sk_user_arguments') AS r;
\set VERBOSITY default

-- The session goes on.
SELECT r.success FROM sendkit_delete_api_key('alright', 'sk_user_arguments') AS r;

-- Nothing of all that was sent but what succeeded.
\! $STANDIN_CTL GET '/requests?fields=n,id,status'
