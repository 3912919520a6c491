--
-- The API's errors come in two shapes, flat and nested, and its success in one.
-- What is read from them, and what is done when a part is missing or of another
-- type. Answers that say anything else could come from a proxy or gateway and
-- prove nothing: their outcome is unknown.
--
SET sendkit.max_retries = 0;

-- Has the API answer with this body. What is said of an unknown outcome is in
-- full in the script "outcomes".
CREATE FUNCTION pg_temp.answer(status int, body text, OUT success boolean, OUT message text)
AS $$
	SELECT r.success,
		   regexp_replace(r.message,
						  '^the answer with status \d+ is none of .* may or may not have been deleted$',
						  '(unknown)')
	FROM sendkit_delete_api_key(format('shape;status=%s;hex=%s', status,
									   encode(convert_to(body, 'UTF8'), 'hex')),
								'sk_user_shapes') AS r
$$ LANGUAGE sql;

-- The documented bodies, word for word.
SELECT body, r.*
FROM unnest(ARRAY['deleted', 'forbidden', 'absent', 'unauthorized',
				  'nested-forbidden', 'nested-absent']) AS body,
	 sendkit_delete_api_key('documented;body=' || body, 'sk_user_shapes') AS r;

-- Success: what counts is "success", literally true, at the top.
SELECT body, r.*
FROM unnest(ARRAY[
	'{"success": true}',
	'{"success": true, "data": {"message": "gone"}}',
	' { "data" : { "message" : "gone" , "more" : [ 1 ] } , "success" : true } ',
	'{"success": true, "data": {"message": ""}}',
	'{"success": true, "data": {"message": null}}',
	'{"success": true, "data": {"message": 7}}',
	'{"success": true, "data": {"message": {"message": "deep"}}}',
	'{"success": true, "data": [{"message": "x"}]}',
	'{"success": true, "data": "gone"}',
	'{"success": true, "data": null}',
	'{"success": true, "message": "top"}',
	'{"success": true, "error": null}',
	'{"success": true, "id": 1, "success2": false}',
	'{"success": true, "data": {"success": false, "message": "inner"}}',
	'{"\u0073uccess": true}']) AS body,
	pg_temp.answer(200, body) AS r;

-- No success, though it may look like one.
SELECT body, r.*
FROM unnest(ARRAY[
	'{}',
	'{"data": {"message": "API key deleted"}}',
	'{"data": {"success": true}}',
	'{"success": "true"}',
	'{"success": 1}',
	'{"success": null}',
	'{"success": [true]}',
	'{"success": {"success": true}}',
	'{"Success": true}',
	'{"success ": true}',
	'[{"success": true}]',
	'{"success": true, "success": true}',
	'{"success": false, "success": true}',
	'{"success": true, "success": false}',
	'{"success": true, "\u0073uccess": false}',
	'{"success": true, "data": {"message": "a", "message": "b"}}',
	'{"success": true, "error": {"code": "X", "message": "both"}}',
	'{"success": true, "error": "both", "message": "m"}',
	'{"success": true, "error": false}']) AS body,
	pg_temp.answer(200, body) AS r;

-- "success": false is a refusal, whatever the 2xx says.
SELECT status, body, r.*
FROM unnest(ARRAY[200, 202]) AS status,
	 unnest(ARRAY[
	'{"success": false}',
	'{"success": false, "message": "locked"}',
	'{"success": false, "error": "Locked", "message": "locked"}',
	'{"success": false, "error": {"code": "LOCKED", "message": "locked"}}',
	'{"success": false, "error": {"code": "LOCKED"}}',
	'{"success": false, "data": {"message": "API key deleted"}}']) WITH ORDINALITY AS b(body, n),
	pg_temp.answer(status, body) AS r
ORDER BY status, n;

-- 404 means that there is no key only in a documented shape.
SELECT body, r.*
FROM unnest(ARRAY[
	'{"error": "Not Found", "message": "no such workspace", "code": 404}',
	'{"error": "Not Found", "message": "no such workspace"}',
	'{"error": "", "message": ""}',
	'{"success": false, "error": {"code": "NOT_FOUND", "message": "no key"}}',
	'{"error": {"code": "NOT_FOUND", "message": "no key"}}',
	'{"error": {"message": "no key"}}',
	'{"error": {"code": "NOT_FOUND"}}',
	'{"message": "no route"}',
	'{"message": "no Route matched with those values"}',
	'{"error": "Not Found"}',
	'{"error": 404, "message": "Not Found"}',
	'{"error": true, "message": "Not Found"}',
	'{"error": null, "message": "Not Found"}',
	'{"error": ["Not Found"], "message": "Not Found"}',
	'{"error": "Not Found", "message": 404}',
	'{"error": "Not Found", "message": null}',
	'{"error": {}}',
	'{"error": {"code": 404, "message": "Not Found"}}',
	'{"success": false}',
	'{"success": true}',
	'{"success": true, "error": "Not Found", "message": "both"}',
	'{"error": "Not Found", "message": "a", "message": "b"}',
	'{}', '[]', 'null', '"Not Found"', 'Not Found', '']) AS body,
	pg_temp.answer(404, body) AS r;

-- Another 4xx is a refusal when it is an object with a message or an error.
SELECT status, body, r.*
FROM unnest(ARRAY[400, 403]) AS status,
	 unnest(ARRAY[
	'{"error": "Forbidden", "message": "no right", "code": 403}',
	'{"success": false, "error": {"code": "FORBIDDEN", "message": "no right", "details": [{"a": 1}]}}',
	'{"success": false, "error": {"code": "FORBIDDEN", "message": "no right", "details": {"no": "array"}}}',
	'{"message": "no right"}',
	'{"error": "Forbidden"}',
	'{"error": {"code": "FORBIDDEN"}}',
	'{"error": {"message": "no right"}}',
	'{"message": "outer", "error": {"code": "C", "message": "inner"}}',
	'{"error": {}}',
	'{"error": {"code": 403}}',
	'{"error": 403}',
	'{"message": 403}',
	'{"success": true, "message": "both"}',
	'{}', '["no right"]', '']) WITH ORDINALITY AS b(body, n),
	pg_temp.answer(status, body) AS r
ORDER BY status, n;
