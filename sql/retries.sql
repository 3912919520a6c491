--
-- What certainly had no effect is tried again, within max_retries and
-- request_timeout; what may have had one never is. The numbers of requests are
-- what the stand-in counted.
--
CREATE FUNCTION pg_temp.delete(id text) RETURNS sendkit_result
AS $$ SELECT sendkit_delete_api_key(id, 'sk_user_retries') $$ LANGUAGE sql;

-- The API takes no requests twice, and then it does.
SELECT * FROM pg_temp.delete('twice-429;status=429;retry-after=0;times=2');
SELECT * FROM pg_temp.delete('twice-503;status=503;retry-after=0;times=2');
-- A date gone by, or one in an older style, asks for nothing more than our own pause.
SELECT * FROM pg_temp.delete('date-past;status=429;retry-after=Fri,+31+Dec+1999+23:59:59+GMT;times=1');
SELECT * FROM pg_temp.delete('date-old;status=503;retry-after=Friday,+31-Dec-99+23:59:59+GMT;times=1');
-- A date, in each of the three styles, is by the server's clock, which the answer tells.
SET sendkit.max_retries = 0;
SELECT r.message
FROM unnest(ARRAY['Fri,+31+Dec+1999+23:59:59+GMT', 'Friday,+31-Dec-99+23:59:59+GMT', 'Fri+Dec+31+23:59:59+1999',
				  'Sat,+01+Jan+2000+00:00:00+GMT', 'Fri,+31+Dec+1999+00:00:00+GMT']) AS until,
	 pg_temp.delete('date-own;status=429;header=Date:Fri,+31+Dec+1999+23:58:59+GMT;retry-after=' || until) AS r;
-- What is no date asks for nothing: nobody's calendar has these.
SELECT r.message, count(*)
FROM unnest(ARRAY['Fri,+31+Dec+2147483647+23:59:59+GMT', 'Fri,+31+Feb+2100+23:59:59+GMT', 'Fri,+31+Dez+2100+23:59:59+GMT',
				  'Fri,+31+Dec+2100+24:00:00+GMT', 'Fri,+31+Dec+2100+23:60:00+GMT', 'Fri,+31+Dec+2100+23:59:59+CET',
				  'Fri,+31+Dec+2100+23:59:59+GMT,', 'Fri,+31+Dec+2100', '2100-12-31', '-1', '1.5', '0x10', '1+s']) AS until,
	 pg_temp.delete('date-none;status=429;retry-after=' || until) AS r
GROUP BY 1;
RESET sendkit.max_retries;
-- Without Retry-After, or with one that nobody can read, there is a pause of our own.
SELECT * FROM pg_temp.delete('pause;status=429;times=1');
SELECT * FROM pg_temp.delete('pause-soon;status=503;retry-after=soon;times=1');
-- After any other answer there is nothing to try again.
SELECT * FROM pg_temp.delete('absent;retry-after=0');

-- At most max_retries more, by default 3.
SELECT * FROM pg_temp.delete('always-3;status=429;retry-after=0');
SET sendkit.max_retries = 1;
SELECT * FROM pg_temp.delete('always-1;status=429;retry-after=0');
SET sendkit.max_retries = 0;
SELECT * FROM pg_temp.delete('always-0;status=429;retry-after=0');
SET sendkit.max_retries = 2;
SELECT * FROM pg_temp.delete('always-2;status=503;retry-after=0');
-- The last attempt's answer is the one that counts.
SELECT * FROM pg_temp.delete('then-200;status=429;retry-after=0;times=1');
SELECT r.* FROM sendkit_delete_api_key('then-401;status=429;retry-after=0;times=1', 'sk_user_unknown') AS r;

-- Never again: whatever may have had an effect.
SELECT what, count(*)
FROM unnest(ARRAY['status=500', 'status=502', 'status=503', 'status=504', 'status=408',
				  'status=425', 'status=408;retry-after=0', 'status=500;retry-after=0',
				  'status=302', 'body=html', 'body=broken', 'body=empty', 'size=70000',
				  'reset=request', 'fin=request', 'reset=headers', 'fin=headers', 'reset=body', 'fin=body']) AS what,
	 pg_temp.delete('never;' || what) AS r
WHERE r.message LIKE '%; the API key may or may not have been deleted'
GROUP BY what ORDER BY what COLLATE "C";
SET sendkit.request_timeout = '50ms';
SELECT * FROM pg_temp.delete('never;silent');
RESET sendkit.request_timeout;
-- Nor what was refused for good.
SELECT what, r.message
FROM unnest(ARRAY['status=400', 'status=403', 'status=409', 'body=success-false']) AS what,
	 pg_temp.delete('refused;' || what) AS r;

-- An API that asks for more patience than there is: no use to wait for it. A
-- number too large to count is the largest, not none.
SET sendkit.request_timeout = '30s';
SET statement_timeout = '10s';
SELECT * FROM pg_temp.delete('patience-1;status=429;retry-after=3600');
SELECT * FROM pg_temp.delete('patience-2;status=503;retry-after=31');
SELECT r.success, r.message LIKE '% asks to wait %; nothing was deleted' AS message
FROM unnest(ARRAY['patience-3;status=429;retry-after=Fri,+31+Dec+9999+23:59:59+GMT',
				  'patience-4;status=429;retry-after=99999999999999999999999999',
				  'patience-5;status=503;retry-after=9223372036854775807',
				  'patience-6;status=429;retry-after=18446744073709551616']) AS id,
	 pg_temp.delete(id) AS r;
-- A pause of our own that the time left doesn't allow for.
SET sendkit.request_timeout = '80ms';
SELECT * FROM pg_temp.delete('patience-7;status=429');
RESET statement_timeout;
RESET sendkit.request_timeout;

-- How often each was asked.
\set requests `$STANDIN_CTL GET "/requests?fields=id,status"`
SELECT id, count(*), string_agg(coalesce(status::text, '-'), ' ' ORDER BY line) AS statuses
FROM regexp_split_to_table(:'requests', E'\n') WITH ORDINALITY AS r(request, line),
	 json_to_record(request::json) AS j(id text, status int)
GROUP BY id ORDER BY min(line);
