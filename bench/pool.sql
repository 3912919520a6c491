-- What a PL/Python user would write: a pool of threads, each with a connection
-- that it keeps.
CREATE EXTENSION IF NOT EXISTS plpython3u;
CREATE OR REPLACE FUNCTION plpython_pool(count int, key text, threads int, base_url text, ca_file text)
RETURNS bigint
LANGUAGE plpython3u AS $$
import concurrent.futures
import http.client
import json
import ssl
import threading
import urllib.parse

url = urllib.parse.urlsplit(base_url)
context = ssl.create_default_context(cafile=ca_file) if url.scheme == "https" else None
headers = {"X-Api-Key": key, "Content-Type": "application/json", "Accept": "application/json"}
own = threading.local()

def connection():
    if not hasattr(own, "connection"):
        if context:
            own.connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=30,
                                                         context=context)
        else:
            own.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    return own.connection

def delete(i):
    c = connection()
    c.request("DELETE", f"{url.path}/v1/workspaces/w{i}/api-key", headers=headers)
    answer = c.getresponse()
    return answer.status == 200 and json.loads(answer.read())["success"]

with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return sum(pool.map(delete, range(count)))
$$;

-- ... and one without any extension: a curl per key.
CREATE OR REPLACE FUNCTION copy_from_curl(count int, command text)
RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE IF NOT EXISTS answer (body text);
	TRUNCATE answer;
	FOR i IN 1 .. count LOOP
		EXECUTE format('COPY answer FROM PROGRAM %L', replace(command, '{}', 'w' || i));
	END LOOP;
	RETURN (SELECT count(*) FROM answer WHERE body LIKE '{"success": true%');
END
$$;
