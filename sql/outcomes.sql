--
-- What an answer, or the lack of one, is judged to mean. There are five
-- outcomes, told apart here by what the message says:
--
--   deleted      success, with the API's words
--   absent       the API's words, from its 404
--   rejected     the API's words, or that it gave none
--   unavailable  "nothing was deleted"
--   unknown      "the API key may or may not have been deleted"
--
SET sendkit.max_retries = 0;
SET sendkit.request_timeout = '10s';

-- libcurl's words differ from version to version: they are left out.
CREATE FUNCTION pg_temp.delete(id text, OUT success boolean, OUT message text)
AS $$
	SELECT r.success,
		   regexp_replace(r.message, '((?:connect|connection) to the SendKit API|no complete answer came): .+; ', '\1: ...; ')
	FROM sendkit_delete_api_key(id, 'sk_user_outcomes') AS r
$$ LANGUAGE sql;

-- Every status, with the body that belongs to it: the documented JSON where
-- there is one, the same shape otherwise, nothing for 204, 205 and 3xx.
SELECT status, r.*
FROM unnest(ARRAY[200, 201, 202, 204, 205, 206,
				  300, 301, 302, 303, 304, 307, 308,
				  400, 401, 402, 403, 404, 405, 407, 408, 409, 410, 418, 422, 425, 429, 451, 499,
				  500, 501, 502, 503, 504, 599]) AS status,
	 pg_temp.delete(format('status-%s;status=%s', status, status)) AS r;

-- The same with a body that says "deleted": an error's status weighs more.
SELECT status, r.*
FROM unnest(ARRAY[204, 302, 400, 403, 404, 408, 425, 429, 500, 503]) AS status,
	 pg_temp.delete(format('yes-%s;status=%s;body=deleted;close', status, status)) AS r;

-- ... and with a proxy's page: only a 429 counts whatever the body says.
SELECT status, r.*
FROM unnest(ARRAY[200, 302, 400, 403, 404, 408, 425, 429, 500, 503]) AS status,
	 pg_temp.delete(format('page-%s;status=%s;body=html', status, status)) AS r;

-- Retry-After, in seconds or as a date, makes a 503 a refusal for now; also
-- when its value means nothing. It changes nothing for other statuses.
SELECT what, r.*
FROM (VALUES ('429;retry-after=7'),
			 ('429;retry-after=soon'),
			 ('429;retry-after='),
			 ('503;retry-after=7'),
			 ('503;retry-after=007'),
			 ('503;retry-after=Fri,+31+Dec+1999+23:59:59+GMT'),
			 ('503;retry-after=soon'),
			 ('503;retry-after=-1'),
			 ('503;retry-after=7;body=deleted'),
			 ('503;retry-after=7;body=html'),
			 ('503;retry-after=7;body=empty'),
			 ('503;header=RETRY-AFTER:7'),
			 ('500;retry-after=7'),
			 ('502;retry-after=7'),
			 ('408;retry-after=7'),
			 ('404;retry-after=7'),
			 ('302;retry-after=7'),
			 ('200;retry-after=7')) AS v(what),
	 pg_temp.delete('wait;status=' || what) AS r;

-- Without a body only 204 means deleted.
SELECT what, r.*
FROM (VALUES ('204'), ('200;body=empty'), ('201;body=empty'), ('205;body=empty')) AS v(what),
	 pg_temp.delete('empty;status=' || what) AS r;

-- Interim answers (100, 103) come before the answer and are none.
SELECT * FROM pg_temp.delete('interim;continue');
SELECT * FROM pg_temp.delete('interim-404;continue;status=404');
SELECT * FROM pg_temp.delete('interim-silence;continue;fin=headers');
-- Nor does a Retry-After in an interim answer belong to the 503 that follows.
SELECT * FROM pg_temp.delete('raw;close;raw=' || encode(
	E'HTTP/1.1 103 Early Hints\r\nRetry-After: 7\r\n\r\nHTTP/1.1 503 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n', 'hex'));

-- However the answer is delivered, as long as it is whole.
SELECT how, r.*
FROM unnest(ARRAY['http10', 'chunked', 'until-close', 'close', 'delay=0.01', 'drip=0.001',
				  'type=text/html', 'type=', 'headers=20']) AS how,
	 pg_temp.delete('delivered;' || how) AS r;

-- A connection that the server has closed in the meantime is not used again.
-- (The second call makes sure that the first one's work is done.)
SELECT * FROM pg_temp.delete('kept');
\! for call in 'POST /close-idle' 'GET /keys?id=kept'; do $STANDIN_CTL $call; done
SELECT * FROM pg_temp.delete('kept');
SELECT * FROM pg_temp.delete('kept-not;close-silently');
\! for call in 'POST /close-idle' 'GET /keys?id=kept'; do $STANDIN_CTL $call; done
SELECT * FROM pg_temp.delete('kept-anew');
-- Nor is one on which an answer waits that nobody asked for: it would be taken for
-- the next one.
SELECT * FROM pg_temp.delete('trap;status=403;unsolicited=deleted;unsolicited-after=0.01');
\! sleep 0.05; for call in 1 2; do $STANDIN_CTL GET /stats >/dev/null; done
SELECT * FROM pg_temp.delete('trapped;status=403');

-- A redirect is not followed: the second host would say "deleted" to anything.
SELECT status, r.*
FROM unnest(ARRAY[301, 302, 303, 307, 308]) AS status,
	 pg_temp.delete(format('redirected;redirect=second;status=%s', status)) AS r;
\! $STANDIN_CTL GET /second-requests

-- The connection ends too early: that of the first two was used before, and
-- the others are new.
SELECT how, r.*
FROM unnest(ARRAY['reset=request', 'fin=request', 'reset=headers', 'fin=headers',
				  'reset=body', 'fin=body', 'cl=1000;close', 'act;cl=1000;close']) AS how,
	 pg_temp.delete('cut-off;' || how) AS r;
SELECT * FROM pg_temp.delete('cut-off-no-more');
SELECT * FROM pg_temp.delete('cut-off-reused;fin=request');
-- None of them was asked twice.
\set requests `$STANDIN_CTL GET "/requests?fields=id"`
SELECT id, count(*)
FROM regexp_split_to_table(:'requests', E'\n') AS r, json_to_record(r::json) AS j(id text)
WHERE id LIKE 'cut-off%'
GROUP BY id ORDER BY id COLLATE "C";

-- Something that is no HTTP: "SSH-2.0-x", and a status line without a status.
SELECT * FROM pg_temp.delete('raw;close;raw=5353482d322e302d780d0a');
SELECT * FROM pg_temp.delete('raw;close;raw=485454502f312e310d0a0d0a');

-- Too large to be an answer of the API: 64 KiB is the limit, for the headers too.
SELECT what, r.*
FROM unnest(ARRAY['size=65536', 'size=65537', 'size=65537;chunked', 'size=65537;until-close',
				  'size=1000000', 'size=65537;status=404', 'size=65537;status=500',
				  'headers=80', 'headers=80;status=403']) AS what,
	 pg_temp.delete('large;' || what) AS r;
-- Nobody asked for a compressed answer: it isn't unpacked.
SELECT * FROM pg_temp.delete('compressed;gzip;size=1000');

-- No answer in time.
SET sendkit.request_timeout = '60ms';
SELECT * FROM pg_temp.delete('silence;silent');
SELECT * FROM pg_temp.delete('silence;delay=5;act');
SELECT * FROM pg_temp.delete('silence;drip=5');
RESET sendkit.request_timeout;

-- No connection: refused; without an answer in time, as often as one likes; and
-- to what speaks no TLS.
\set closed `echo "$STANDIN_CLOSED"`
\set blackhole `echo "$STANDIN_BLACKHOLE"`
\set http `echo "$STANDIN_HTTP"`
SELECT set_config('sendkit.base_url', 'http://127.0.0.1:' || :'closed', false) \gset ignored_
SELECT DISTINCT r.* FROM generate_series(1, 3) AS i, pg_temp.delete('unconnected-' || i) AS r;
SELECT set_config('sendkit.base_url', 'http://127.0.0.1:' || :'blackhole', false) \gset ignored_
SET sendkit.request_timeout = '40ms';
SELECT DISTINCT r.* FROM generate_series(1, 3) AS i, pg_temp.delete('unconnected-' || i) AS r;
RESET sendkit.request_timeout;
SET sendkit.connect_timeout = '40ms';
SELECT DISTINCT r.* FROM generate_series(1, 3) AS i, pg_temp.delete('unconnected-' || i) AS r;
-- That was the timeout every time, and not a shortage of descriptors by then.
SELECT count(*)
FROM generate_series(1, 3) AS i, sendkit_delete_api_key('unconnected-' || i, 'sk_user_outcomes') AS r
WHERE r.message LIKE '%too many open files%';
SELECT set_config('sendkit.base_url', 'https://127.0.0.1:' || :'http', false) \gset ignored_
-- Where no TLS is spoken it depends on the server's answer whether that is told
-- apart from a connection that hangs.
SELECT success, message LIKE '%nothing was deleted' AS nothing_deleted
FROM pg_temp.delete('unconnected');
RESET sendkit.connect_timeout;

-- After all that the next call is as good as the first.
RESET sendkit.base_url;
SELECT * FROM pg_temp.delete('at-last');
