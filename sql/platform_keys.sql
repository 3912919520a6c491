--
-- A platform key of 1 to 512 visible ASCII characters goes on the wire as given.
-- The API is the authority on what is a key; one that it rejected, and that
-- isn't of the right kind, earns one notice per statement.
--
SET sendkit.max_retries = 0;
CREATE TEMP TABLE keys (n int GENERATED ALWAYS AS IDENTITY, key text);
INSERT INTO keys (key) VALUES
	('sk_user_0123456789abcdef'),
	(rpad('sk_user_', 512, 'x')),
	('sk_user_' || (SELECT string_agg(chr(code), '' ORDER BY code) FROM generate_series(33, 126) AS code)),
	('sk_user_:'),
	('sk_user_;;,"'''),
	('sk_user_%0d%0aX-Injected:yes'),
	('sk_user_\r\nX-Injected:yes');
SELECT r.*, count(*)
FROM keys, sendkit_delete_api_key('ws-' || n, key) AS r
GROUP BY 1, 2;

-- One header of that name, with the key as its value, and none injected.
\set requests `$STANDIN_CTL GET "/requests?fields=n,headers"`
CREATE TEMP TABLE seen AS
SELECT n, header ->> 0 AS name, header ->> 1 AS value
FROM regexp_split_to_table(:'requests', E'\n') AS line,
	 json_to_record(line::json) AS r(n int, headers json),
	 json_array_elements(headers) AS header;
SELECT n, name, length(value), value = key AS same
FROM seen JOIN keys USING (n)
WHERE name ILIKE 'x-%'
ORDER BY n;

-- Keys of another kind are sent, too. Those that the API rejects get the notice,
-- however short they are; it never shows the key.
SELECT * FROM sendkit_delete_api_key('kind-1', 'sk_workspace_key');
SELECT * FROM sendkit_delete_api_key('kind-2', 'x');
SELECT * FROM sendkit_delete_api_key('kind-3', 'SK_USER_upper');
SELECT * FROM sendkit_delete_api_key('kind-4', '-');
-- No notice for a platform key that is rejected, nor for another kind of key and
-- any other outcome: deleted, absent, unavailable, unknown.
SELECT * FROM sendkit_delete_api_key('kind-5', 'sk_user_norole');
SELECT what, r.success
FROM unnest(ARRAY['status=200', 'status=404', 'status=429', 'status=500']) AS what,
	 sendkit_delete_api_key('kind-6;' || what, 'sk_workspace_key') AS r;
-- Once per statement, however many rows it has, and again with the next one; each
-- statement of a function's is the caller's.
SELECT count(*), r.message
FROM generate_series(1, 20) AS i, sendkit_delete_api_key('kind-7-' || i, 'sk_workspace_key') AS r
GROUP BY 2;
SELECT r.success FROM sendkit_delete_api_key('kind-8', 'sk_workspace_key') AS r;
DO $$
BEGIN
	PERFORM sendkit_delete_api_key('kind-9', 'sk_workspace_key');
	PERFORM sendkit_delete_api_key('kind-10', 'sk_workspace_key');
END $$;
BEGIN;
SELECT r.success FROM sendkit_delete_api_key('kind-11', 'sk_workspace_key') AS r;
SELECT r.success FROM sendkit_delete_api_key('kind-12', 'sk_workspace_key') AS r;
COMMIT;
