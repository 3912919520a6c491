--
-- The function as its users meet it: a key is revoked for real, and the API's
-- words come back. The API is a stand-in, one per script: see test/standin.
--
-- A workspace has a key ...
\! $STANDIN_CTL GET '/keys?id=665a1b2c3d4e5f6a7b8c9d0e'
SELECT * FROM sendkit_delete_api_key('665a1b2c3d4e5f6a7b8c9d0e', 'sk_user_demo');
-- ... and then none, which the second call is told.
\! $STANDIN_CTL GET '/keys?id=665a1b2c3d4e5f6a7b8c9d0e'
SELECT * FROM sendkit_delete_api_key('665a1b2c3d4e5f6a7b8c9d0e', 'sk_user_demo');
-- A workspace that never had one.
SELECT * FROM sendkit_delete_api_key('absent-workspace', 'sk_user_demo');

-- Refused: a key that the API doesn't know, one without the right role, and a
-- workspace's key, which earns a notice. The workspaces keep their keys.
SELECT * FROM sendkit_delete_api_key('refused-1', 'sk_user_unknown');
SELECT * FROM sendkit_delete_api_key('refused-2', 'sk_user_norole');
SELECT * FROM sendkit_delete_api_key('refused-3', 'sk_a_workspace_key');
\! $STANDIN_CTL GET /keys

-- Each call asked once, and the id is what it asked about.
\! $STANDIN_CTL GET '/requests?fields=n,method,id,status'

-- Arguments by name, and the result as one value of its own type.
SELECT sendkit_delete_api_key(workspace_id => 'named', platform_key => 'sk_user_demo');
SELECT (r).success, (r).message, pg_typeof(r) AS type
FROM (SELECT sendkit_delete_api_key('typed', 'sk_user_demo') OFFSET 0) AS t(r);
