--
-- What goes on the wire: the request that the API documents, a User-Agent and an
-- Accept header, and nothing else. What only changes from machine to machine or
-- from version to version is replaced.
--
CREATE FUNCTION pg_temp.show(request json) RETURNS SETOF text
AS $$
	SELECT format('%s %s %s, body of %s bytes', request ->> 'method', request ->> 'target',
				  request ->> 'version', request ->> 'body_length')
	UNION ALL
	(SELECT format('%s: %s', name,
				   CASE lower(name)
				   WHEN 'host' THEN regexp_replace(content, ':\d+$', ':(port)')
				   WHEN 'user-agent' THEN replace(content, format('%s (PostgreSQL %s)', extversion, major), '(version) (PostgreSQL (major))')
				   ELSE content
				   END)
	 FROM json_array_elements(request -> 'headers') AS header,
		  LATERAL (SELECT header ->> 0, header ->> 1) AS h(name, content),
		  pg_extension, substring(current_setting('server_version') FROM '^\d+') AS major
	 WHERE extname = 'sendkit'
	 ORDER BY name COLLATE "C", content COLLATE "C")
$$ LANGUAGE sql;

SELECT * FROM sendkit_delete_api_key('665a1b2c3d4e5f6a7b8c9d0e', 'sk_user_wire_1');
\set request `$STANDIN_CTL GET /requests | tail -n 1`
SELECT * FROM pg_temp.show(:'request');

-- The second request, on the same connection, is as the first but for its key:
-- nothing of an earlier call or of an answer comes along.
SELECT * FROM sendkit_delete_api_key('cookie;status=403;header=Set-Cookie:a=b%3B+path=/;header=ETag:"x"', 'sk_user_wire_2');
SELECT * FROM sendkit_delete_api_key('665a1b2c3d4e5f6a7b8c9d0f', 'sk_user_wire_3');
\set request `$STANDIN_CTL GET /requests | tail -n 1`
SELECT * FROM pg_temp.show(:'request');
\! $STANDIN_CTL GET '/requests?fields=n,connection'

-- A path in base_url is kept; slashes at its end are not doubled. Nothing in it
-- is folded or encoded anew. A connection is never used under another base_url.
\set http `echo "$STANDIN_HTTP"`
CREATE FUNCTION pg_temp.delete(id text, base_url text) RETURNS sendkit_result
AS $$
BEGIN
	PERFORM set_config('sendkit.base_url', base_url, false);
	RETURN sendkit_delete_api_key(id, 'sk_user_wire');
END
$$ LANGUAGE plpgsql;
SELECT path, r.success
FROM unnest(ARRAY['', '/', '//', '/prefix', '/prefix/', '/a/b.c/~d///', '/a/./b/../c',
				  '/%7E%2F%20', '/%2e%2e/c%2fd', '/v1/workspaces/x']) WITH ORDINALITY AS p(path, n),
	 pg_temp.delete('path-' || n, format('http://127.0.0.1:%s%s', :'http', path)) AS r;
SELECT r.success FROM pg_temp.delete('by-name', 'http://localhost:' || :'http') AS r;
\! $STANDIN_CTL GET '/requests?fields=connection,target' | tail -n 11
\set request `$STANDIN_CTL GET /requests | tail -n 1`
SELECT * FROM pg_temp.show(:'request') AS line WHERE line LIKE 'Host:%';
