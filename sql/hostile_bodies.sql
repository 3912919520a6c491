--
-- Bodies that are broken, disguised or made to do harm. Whatever comes is a
-- row: an error would hide that a key is gone. What isn't strictly valid JSON
-- in UTF-8 proves nothing; and of what is shown, nothing can upset a terminal,
-- a log or the database's encoding.
--
SET sendkit.max_retries = 0;

-- What is said of an unknown outcome is in full in the script "outcomes".
CREATE FUNCTION pg_temp.delete(id text, OUT success boolean, OUT message text)
AS $$
	SELECT r.success,
		   regexp_replace(r.message,
						  '^the answer with status \d+ is none of .* may or may not have been deleted$',
						  '(unknown)')
	FROM sendkit_delete_api_key(id, 'sk_user_hostile') AS r
$$ LANGUAGE sql;

CREATE FUNCTION pg_temp.answer_to(key text, status int, body text, OUT message text, OUT details jsonb)
AS $$
	SELECT r.message, r.details
	FROM sendkit_delete_api_keys(ARRAY[format('echo;status=%s;hex=%s', status, encode(convert_to(body, 'UTF8'), 'hex'))], key) AS r
$$ LANGUAGE sql;

-- The stand-in's collection, see test/standin/bodies.py. With 403 and 404 the
-- same bodies are no refusal either.
SELECT body, r.*, count(*)
FROM unnest(ARRAY['empty', 'blank', 'html', 'text', 'broken', 'truncated-json', 'trailing',
				  'two-documents', 'comma', 'single-quotes', 'nan', 'array', 'string', 'number',
				  'true', 'null', 'success-upper', 'deep', 'deep-success', 'deep-objects',
				  'badutf8', 'overlong', 'latin1', 'utf16', 'bom', 'surrogate', 'nul', 'nul-end',
				  'raw-control']) WITH ORDINALITY AS b(body, n),
	 unnest(ARRAY[200, 403, 404]) AS status,
	 pg_temp.delete(format('hostile-%s;status=%s;body=%s', status, status, body)) AS r
GROUP BY n, body, success, message ORDER BY n;

-- Bytes, written out.
CREATE FUNCTION pg_temp.answer(status int, body bytea, OUT success boolean, OUT message text)
AS $$
	SELECT pg_temp.delete(format('bytes;status=%s;hex=%s', status, encode(body, 'hex')))
$$ LANGUAGE sql;
SELECT what, r.*
FROM (VALUES ('half a character', '{"success": true, "a": "\303"}'::bytea),
			 ('ends in half a character', '{"success": true}\342\202'),
			 ('a surrogate in UTF-8', '{"success": true, "a": "\355\240\200"}'),
			 ('beyond Unicode', '{"success": true, "a": "\364\220\200\200"}'),
			 ('NUL between', '{"success": true,\000 "a": 1}'),
			 ('NUL after', '{"success": true}\000'),
			 ('NUL, then no', '{"success": true}\000{"success": false}'),
			 ('a no-break space', '\302\240{"success": true}'),
			 ('a lone high surrogate', '{"success": true, "a": "\\ud800"}'),
			 ('a lone low surrogate', '{"success": true, "a": "\\udc00"}'),
			 ('a pair the wrong way', '{"success": true, "a": "\\udc00\\ud800"}'),
			 ('half an escape', '{"success": true, "a": "\\u00'),
			 ('an escape of no digits', '{"success": true, "a": "\\u00zz"}'),
			 ('an unknown escape', '{"success": true, "a": "\\x41"}'),
			 ('an endless string', '{"success": true, "a": "'),
			 ('an endless object', '{"success": true'),
			 ('a name that is a number', '{1: 2, "success": true}'),
			 ('a comment', '{"success": true /* yes */}'),
			 ('a leading zero', '{"success": true, "a": 01}'),
			 ('no comma', '{"success": true "a": 1}'),
			 ('only a brace', '{'),
			 ('only a backslash', '\\'),
			 ('one byte', '\377')) AS v(what, body),
	 pg_temp.answer(200, body) AS r;

-- What is valid, if unusual, counts. The limit of nesting is 64.
SELECT what, r.*
FROM (VALUES ('blanks around', E'\t\r\n {"success":true} \n'),
			 ('a large number', '{"success": true, "a": 1e999999999}'),
			 ('a long number', '{"success": true, "a": ' || repeat('9', 70) || '}'),
			 ('brackets in a string', '{"success": true, "a": "' || repeat('[', 66) || '"}'),
			 ('a quote and a backslash', '{"success": true, "a": "\"\\"}'),
			 ('an empty name', '{"": {"": 1}, "success": true}'),
			 ('other names twice', '{"a": 1, "a": 2, "success": true}')) AS v(what, body),
	 pg_temp.answer(200, convert_to(body, 'UTF8')) AS r;

-- (two bodies that are too long for an id)
\! deep() { printf '%*s' "$1" | tr ' ' "$2"; }; body() { printf '{\\"success\\": true, \\"a\\": %s%s}' "$(deep $1 '[')" "$(deep $1 ']')"; }; $STANDIN_CTL POST /bodies "{\"nested-64\": \"$(body 63)\", \"nested-65\": \"$(body 64)\"}"
SELECT * FROM pg_temp.delete('depth;body=nested-64');
SELECT * FROM pg_temp.delete('depth;body=nested-65');

-- Messages: control characters become blanks, escaped or not (C1 and NUL too);
-- quotes, backslashes and slashes stand for themselves.
SELECT r.success, r.message
FROM sendkit_delete_api_key('control;body=control', 'sk_user_hostile') AS r;
SELECT r.success, r.message
FROM sendkit_delete_api_key('control;body=escaped-nul', 'sk_user_hostile') AS r;
SELECT status, r.*
FROM (VALUES (200, '{"success": true, "data": {"message": "a\u0000b\u001b[31mc\u007fd\u0085e\rf\ng\th\bi\fj"}}'::text),
			 (200, '{"success": true, "data": {"message": "\"q\" \\ \/ '' %s %n $1"}}'),
			 (403, '{"error": "E", "message": "a\u0000b\u0001c"}'),
			 (404, '{"error": {"code": "C\u0000", "message": "\u0000"}}'),
			 (403, '{"error": "a\u0000b"}')) AS v(status, body),
	 pg_temp.answer(status, convert_to(body, 'UTF8')) AS r;

-- Of what the API says no more is kept than anybody would read: 1 KB of a message,
-- 200 bytes of a code, and details of up to 4 KB, or none.
SELECT outcome, length(message), message = left(repeat('long ', 12000), 1024) AS same
FROM sendkit_delete_api_keys('{long;body=long-error}', 'sk_user_hostile');
SELECT outcome, length(message), length(error_code), length(details::text)
FROM sendkit_delete_api_keys('{long;body=long-code}', 'sk_user_hostile');
SELECT outcome, message, error_code, length(details::text)
FROM sendkit_delete_api_keys('{long;body=details-4096,long;body=details-4097}', 'sk_user_hostile');
-- A key across the cut was masked before.
SELECT length(message), right(message, 10)
FROM sendkit_delete_api_key('long;body=key-at-cut', 'sk_user_hostile');

-- Keys that the API repeats are masked: ours, as it is and escaped in JSON; and
-- others of the vendor's, such as the workspace's own.
SELECT body, r.message
FROM unnest(ARRAY['echo-key', 'echo-key-json', 'echo-key-everywhere', 'echo-key-success'])
	 WITH ORDINALITY AS b(body, n),
	 sendkit_delete_api_key('echo;body=' || body, 'sk_user_hostile_1234567890') AS r
ORDER BY n;
SELECT body, r.message
FROM unnest(ARRAY['echo-key', 'echo-key-json', 'echo-key-everywhere'])
	 WITH ORDINALITY AS b(body, n),
	 sendkit_delete_api_key('other;body=' || body, 'an+odd/key"\of{visible}characters') AS r
ORDER BY n;
SELECT r.message
FROM (VALUES ('the key sk_1234567890abcdef of this workspace'),
			 ('sk_1234567890abcdef'),
			 ('(sk_user_1234567890) "sk_live-1234567890", sk_1234567890abcdefsk_'),
			 ('task_sk_user_1234567890, Xsk_1234567890'),
			 ('sk_user_{1}+2/3.4:5,6|7 and more'),
			 ('"sk_user_1234567890''sk_user_1234567890'),
			 ('no keys: sk_ sk_short task_id')) AS v(message),
	 pg_temp.answer(403, convert_to(json_build_object('message', message)::text, 'UTF8')) AS r;
-- Ours, broken by control characters; and one of digits alone, as a text and in numbers.
SELECT r.message
FROM pg_temp.answer_to('a+b+c+d', 403, '{"message": "a\u0000+b\n+c\u009f+d a+b+c a +b+c+d"}') AS r;
SELECT r.message
FROM pg_temp.answer_to('sk_user_hostile', 403, '{"message": "sk_us\u0001er_12\n34567890 sk\u0085_123\t4567890"}') AS r;
SELECT r.message, r.details
FROM pg_temp.answer_to('12345678', 403, '{"error": {"code": "C", "message": "12345678", "details": [12345678, -9.12345678e2, 1234567, "12345678"]}}') AS r;
-- Masking takes no longer than reading, whatever there is to mask.
SET statement_timeout = '5s';
SELECT body, strpos(message, 'sk_') AS shown
FROM unnest(ARRAY['prefixes', 'prefixes-apart']) AS body,
	 sendkit_delete_api_key('long;body=' || body, repeat('sk_', 100)) AS r;
RESET statement_timeout;
