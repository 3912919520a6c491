/*-------------------------------------------------------------------------
 *
 * caller.h
 *	  What the bare libcurl programs share: the request, its answer, clocks.
 *
 * The request is the extension's, header by header.  An answer is looked at
 * (status, and a body that says success), but not parsed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CALLER_H
#define CALLER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <curl/curl.h>

#define MAX_ANSWER 1024

typedef struct Answer
{
	size_t		len;
	char		body[MAX_ANSWER];
} Answer;

static inline void
die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static inline int64_t
read_clock(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline size_t
on_body(char *data, size_t size, size_t nmemb, void *arg)
{
	Answer	   *answer = arg;
	size_t		len = size * nmemb;

	if (answer->len + len >= MAX_ANSWER)
		return 0;
	memcpy(answer->body + answer->len, data, len);
	answer->len += len;
	answer->body[answer->len] = '\0';
	return len;
}

static inline struct curl_slist *
make_headers(const char *key)
{
	const char *fixed[] = {
		"Content-Type: application/json",
		"Accept: application/json",
		"User-Agent: sendkit/1.0 (PostgreSQL 15)",
	};
	char		line[600];
	struct curl_slist *headers;

	snprintf(line, sizeof(line), "X-Api-Key: %s", key);
	headers = curl_slist_append(NULL, line);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		headers = curl_slist_append(headers, fixed[i]);
	return headers;
}

/* Returns a handle with all set but the URL. */
static inline CURL *
make_handle(struct curl_slist *headers, const char *ca_file, Answer *answer)
{
	CURL	   *easy = curl_easy_init();

	if (easy == NULL)
		die("no handle");
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, answer);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 30000L);
	if (ca_file)
	{
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	return easy;
}

static inline void
set_id(CURL *easy, const char *base_url, const char *prefix, long id)
{
	char		url[512];

	snprintf(url, sizeof(url), "%s/v1/workspaces/%s%ld/api-key", base_url, prefix, id);
	curl_easy_setopt(easy, CURLOPT_URL, url);
}

static inline bool
is_deleted(CURL *easy, const Answer *answer)
{
	long		status = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	return status == 200 && strstr(answer->body, "\"success\": true") != NULL;
}

#endif							/* CALLER_H */
