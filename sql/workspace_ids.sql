--
-- A workspace's id is opaque text: it arrives at the API as it is, as one
-- segment of the path, percent-encoded. Only what could leave that segment is
-- refused (see the script "arguments").
--
SET sendkit.max_retries = 0;
-- The stand-in takes what follows a ";" for directives, but not after ";;".
CREATE TEMP TABLE ids (n int GENERATED ALWAYS AS IDENTITY, id text);
INSERT INTO ids (id) VALUES
	('665a1b2c3d4e5f6a7b8c9d0e'),
	('AZaz09-._~'),
	('a b'),
	('a/b'),
	('/'),
	('..a/b..'),
	('a/.../b'),
	('?q=1'),
	('#fragment'),
	('a?b#c'),
	('%'),
	('%%'),
	('%41'),
	('%2f'),
	('%2'),
	('%zz'),
	('a%2e'),
	('%2e%2e%2e'),
	('...'),
	('.a'),
	('a.'),
	('..;;'),
	('+'),
	('&=@:$,!*()'';;'),
	('[]{}|\^`<>"'),
	('user@host:80'),
	('http://elsewhere/'),
	('\\elsewhere\share'),
	('task_sk_user_'),
	(repeat('x', 255));

-- One row each, and all succeed.
SELECT r.*, count(*)
FROM ids, sendkit_delete_api_key(id, 'sk_user_ids') AS r
GROUP BY 1, 2;

-- What the API got: the path on the wire, and the id that it reads from it.
\set requests `$STANDIN_CTL GET "/requests?fields=n,id,target"`
SELECT n, left(target, 70) AS target, r.id = ids.id AS same
FROM regexp_split_to_table(:'requests', E'\n') AS line,
	 json_to_record(line::json) AS r(n int, id text, target text)
	 JOIN ids USING (n)
ORDER BY n;

-- The same id twice is two requests, and another case is another workspace.
SELECT id, r.*
FROM unnest(ARRAY['Same', 'Same', 'same']) AS id,
	 sendkit_delete_api_key(id, 'sk_user_ids') AS r;

-- From a varchar, and from a char(n), whose blanks at the end are none.
SELECT * FROM sendkit_delete_api_key('varchar'::varchar, 'sk_user_ids');
SELECT * FROM sendkit_delete_api_key('char'::char(10), 'sk_user_ids');
\! $STANDIN_CTL GET '/requests?fields=n,target' | tail -n 2

-- From a row so long that its columns are compressed, or stored elsewhere.
CREATE TEMP TABLE long_rows (id text, key text, filler text);
ALTER TABLE long_rows
	ALTER id SET STORAGE EXTERNAL, ALTER key SET STORAGE MAIN, ALTER filler SET STORAGE PLAIN;
INSERT INTO long_rows VALUES (repeat('y', 200), rpad('sk_user_', 512, 'y'), repeat('z', 6000));
SELECT pg_column_size(key) < 512 AS compressed,
	   pg_relation_size((SELECT reltoastrelid FROM pg_class WHERE oid = 'long_rows'::regclass)) > 0 AS elsewhere
FROM long_rows;
SELECT r.* FROM long_rows, sendkit_delete_api_key(id, key) AS r;
\set request `$STANDIN_CTL GET "/requests?fields=id,headers" | tail -n 1`
SELECT :'request'::json ->> 'id' = id AS same_id,
	   strpos(:'request', '"' || key || '"') > 0 AS same_key
FROM long_rows;
