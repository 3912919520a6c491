/*-------------------------------------------------------------------------
 *
 * url.c
 *	  Fuzzes the checks of base_url and proxy.
 *
 * An input is a byte that tells which of the two it is, and the URL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>

#include "mb/pg_wchar.h"

#include "fuzz.h"
#include "url.h"

#define KEY_PATH "/v1/workspaces/ws-1/api-key"

static char *
part(CURLU *url, CURLUPart which)
{
	char	   *value = NULL;
	char	   *copy;

	if (curl_url_get(url, which, &value, 0) != CURLUE_OK)
		return NULL;
	copy = pstrdup(value);
	curl_free(value);
	return copy;
}

static bool
is_loopback(const char *host)
{
	struct in6_addr v6;
	char	   *bare;

	if (pg_strcasecmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0)
		return true;
	if (host[0] != '[')
		return false;
	bare = pnstrdup(host + 1, strcspn(host + 1, "]"));
	return inet_pton(AF_INET6, bare, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* What is accepted leads where it seems to lead, with the API's path behind it. */
static void
check_base(const char *base)
{
	CURLU	   *url = curl_url();
	char	   *whole = palloc(strlen(base) + sizeof(KEY_PATH));
	size_t		len = strlen(base);
	const char *scheme;
	const char *host;
	const char *path;

	for (const char *p = base; *p; p++)
		MUST(*p > ' ' && *p < 0x7f && !strchr("?#@", *p));

	while (len > 0 && base[len - 1] == '/')
		len--;
	memcpy(whole, base, len);
	strcpy(whole + len, KEY_PATH);
	MUST(curl_url_set(url, CURLUPART_URL, whole, CURLU_PATH_AS_IS) == CURLUE_OK);

	scheme = part(url, CURLUPART_SCHEME);
	host = part(url, CURLUPART_HOST);
	path = part(url, CURLUPART_PATH);
	MUST(scheme && host && host[0] && path);
	MUST(strlen(path) >= strlen(KEY_PATH));
	MUST(strcmp(path + strlen(path) - strlen(KEY_PATH), KEY_PATH) == 0);
	MUST(!part(url, CURLUPART_USER) && !part(url, CURLUPART_PASSWORD) &&
		 !part(url, CURLUPART_QUERY) && !part(url, CURLUPART_FRAGMENT));
	MUST(strcmp(scheme, "https") == 0 || (strcmp(scheme, "http") == 0 && is_loopback(host)));
	MUST(sendkit_url_is_plain(base) == (strcmp(scheme, "http") == 0));
	MUST(memmem(base, strlen(base), host, strlen(host)) != NULL ||
		 strcspn(base, "ABCDEFGHIJKLMNOPQRSTUVWXYZ.:") < strlen(base));
	curl_url_cleanup(url);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *url;

	if (size == 0)
		return 0;
	url = pnstrdup((const char *) data + 1, size - 1);
	if (data[0] % 2 == 0)
	{
		if (sendkit_url_base_fault(url) == NULL)
			check_base(url);
	}
	else if (sendkit_url_proxy_fault(url) == NULL)
		MUST(strstr(url, "://") != NULL);

	fuzz_free_all();
	return 0;
}
