-- Many workspaces in one statement: sendkit_delete_api_keys().
-- What an id has behind its first ";" asks the stand-in for a certain answer.
\set VERBOSITY terse
\pset null '(null)'
SET sendkit.max_retries = 0;
CREATE ROLE regress_sendkit_bulk SUPERUSER;
SET ROLE regress_sendkit_bulk;

-- Every outcome beside the others, with all that is known; rows come in the
-- order of first appearance, and each distinct id is sent once.
SELECT * FROM sendkit_delete_api_keys(ARRAY[
	'bulk-1', 'absent-1', 'bulk-2;body=nested-forbidden', 'bulk-1',
	'bulk-3;status=503;retry-after=0', 'bulk-4;status=500', 'absent-1', 'bulk-5'], 'sk_user_bulk');
\! $STANDIN_CTL GET '/requests?fields=id' | sort

-- A multidimensional array is read in storage order.
SELECT workspace_id, outcome
FROM sendkit_delete_api_keys('{{bulk-6,bulk-7},{bulk-8,bulk-6}}', 'sk_user_bulk');
SELECT workspace_id, outcome
FROM sendkit_delete_api_keys('[5:6]={bulk-9,bulk-10}'::text[], 'sk_user_bulk');

-- One at a time is as good.
SET sendkit.max_concurrency = 1;
SELECT outcome, count(*) FROM sendkit_delete_api_keys(
	ARRAY(SELECT 'bulk-one-' || i FROM generate_series(1, 20) i), 'sk_user_bulk') GROUP BY 1;
RESET sendkit.max_concurrency;

-- An empty array returns no rows and sends nothing; mistakes are found before
-- anything leaves, wherever they stand.
\! $STANDIN_CTL POST /reset > /dev/null
SELECT * FROM sendkit_delete_api_keys('{}', 'sk_user_bulk');
SELECT * FROM sendkit_delete_api_keys('{}', NULL);
SELECT * FROM sendkit_delete_api_keys(NULL, 'sk_user_bulk');
SELECT * FROM sendkit_delete_api_keys(ARRAY['bulk-11', NULL, 'bulk-12'], 'sk_user_bulk');
SELECT * FROM sendkit_delete_api_keys(ARRAY['bulk-11', 'bulk-12', '..'], 'sk_user_bulk');
SELECT * FROM sendkit_delete_api_keys(ARRAY['bulk-11', ''], 'sk_user_bulk');
SELECT * FROM sendkit_delete_api_keys(ARRAY['bulk-11', 'bulk-12'], 'not a key');
SELECT * FROM sendkit_delete_api_keys(ARRAY['bulk-11', 'bulk-12'], NULL);
\! $STANDIN_CTL GET '/requests?fields=id'

-- A key of the wrong kind is told about once.
SELECT outcome, count(*) FROM sendkit_delete_api_keys(
	ARRAY['bulk-11', 'bulk-12', 'bulk-13'], 'sk_workspace') GROUP BY 1;

-- The API's details, whatever they are: hostile JSON never raises an error, a
-- number beyond reason becomes a text, and keys are masked.
\! $STANDIN_CTL POST /bodies '{"huge": {"status": 403, "text": "{\"error\": {\"code\": \"X\", \"message\": \"m\", \"details\": [1e999999, 1e-9, 12.50, {\"a\": [null, true, \"tab\\there\"]}, \"sk_user_bulk\", {\"sk_user_bulk\": \"sk\\u005fuser\\u005fbulk\"}]}}"}, "notarray": {"status": 403, "text": "{\"error\": {\"code\": \"X\", \"message\": \"m\", \"details\": {\"a\": 1}}}"}}' > /dev/null
SELECT workspace_id, outcome, error_code, details
FROM sendkit_delete_api_keys(ARRAY['d1;body=huge', 'd2;body=notarray', 'd3;body=forbidden'], 'sk_user_bulk');

-- In a query's select list, in a view's join, and with other rows.
SELECT (sendkit_delete_api_keys(ARRAY['bulk-20', 'bulk-21'], 'sk_user_bulk')).outcome;
SELECT w.n, r.outcome
FROM (VALUES (1, 'bulk-22'), (2, 'absent-22')) AS w(n, id)
	JOIN sendkit_delete_api_keys(ARRAY['bulk-22', 'absent-22'], 'sk_user_bulk') r
	ON r.workspace_id = w.id ORDER BY w.n;
RESET ROLE;
DROP ROLE regress_sendkit_bulk;
