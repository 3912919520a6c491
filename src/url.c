/*-------------------------------------------------------------------------
 *
 * url.c
 *	  What the URLs in our settings may look like.
 *
 * libcurl's own parser takes a URL apart, so that what is judged here is what
 * will be connected to.  Nothing is kept: each check makes a parse handle and
 * frees it.  The handle is plain memory (no curl_global_init() is needed), so
 * a check may run in the postmaster, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>

#include "url.h"

/* Long enough for any real prefix, short enough for any server's request line */
#define MAX_URL_LENGTH 1024

/* What the domain name system knows (RFC 1035, section 2.3.4) */
#define MAX_HOST_LENGTH 255

/* A parsed URL; whatever it lacks is NULL */
typedef struct UrlParts
{
	CURLU	   *handle;
	char	   *scheme;
	char	   *user;
	char	   *password;
	char	   *host;
	char	   *path;
	char	   *query;
	char	   *fragment;
} UrlParts;

static char *
url_part(CURLU *handle, CURLUPart part)
{
	char	   *value = NULL;

	if (curl_url_get(handle, part, &value, 0) != CURLUE_OK)
		return NULL;
	return value;
}

static void
url_free(UrlParts *parts)
{
	curl_free(parts->scheme);
	curl_free(parts->user);
	curl_free(parts->password);
	curl_free(parts->host);
	curl_free(parts->path);
	curl_free(parts->query);
	curl_free(parts->fragment);
	curl_url_cleanup(parts->handle);
}

/*
 * Visible ASCII only: no URL needs more, and nothing that a log or a header
 * could trip over gets in.
 */
static bool
url_is_visible_ascii(const char *url)
{
	for (const char *p = url; *p; p++)
	{
		if (*p < 0x21 || *p > 0x7e)
			return false;
	}
	return true;
}

/* Returns why the text is no URL, or NULL with the parts filled in. */
static const char *
url_parse(const char *url, UrlParts *parts)
{
	const char *authority;

	memset(parts, 0, sizeof(*parts));
	if (strlen(url) > MAX_URL_LENGTH)
		return "The URL is too long.";
	if (!url_is_visible_ascii(url))
		return "The URL has a character that is not visible ASCII.";
	/* libcurl's parser takes one to three slashes for two */
	authority = strstr(url, "://");
	if (authority == NULL || authority[3] == '/')
		return "The value is not a URL with a scheme and a host.";

	parts->handle = curl_url();
	if (parts->handle == NULL)
		return "Out of memory.";

	/* socks5h and its like are no schemes that libcurl could transfer from */
	if (curl_url_set(parts->handle, CURLUPART_URL, url,
					 CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
	{
		curl_url_cleanup(parts->handle);
		parts->handle = NULL;
		return "The value is not a URL with a scheme and a host.";
	}

	parts->scheme = url_part(parts->handle, CURLUPART_SCHEME);
	parts->user = url_part(parts->handle, CURLUPART_USER);
	parts->password = url_part(parts->handle, CURLUPART_PASSWORD);
	parts->host = url_part(parts->handle, CURLUPART_HOST);
	parts->path = url_part(parts->handle, CURLUPART_PATH);
	parts->query = url_part(parts->handle, CURLUPART_QUERY);
	parts->fragment = url_part(parts->handle, CURLUPART_FRAGMENT);
	if (parts->host && strlen(parts->host) > MAX_HOST_LENGTH)
		return "The URL's host is too long.";
	return NULL;
}

/*
 * Does the host stay on this machine whatever a name server says?  Besides
 * addresses only "localhost", which libcurl itself resolves to loopback
 * (hostip.c, since 7.78), and for which no other socket is opened
 * (http_transfer.c).
 */
static bool
host_is_loopback(const char *host)
{
	char		bare[INET6_ADDRSTRLEN];
	struct in_addr v4;
	struct in6_addr v6;
	size_t		len = strlen(host);

	if (pg_strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;

	/* libcurl leaves the brackets around an IPv6 address */
	if (len < 3 || len - 2 >= sizeof(bare) || host[0] != '[' || host[len - 1] != ']')
		return false;
	memcpy(bare, host + 1, len - 2);
	bare[len - 2] = '\0';
	return inet_pton(AF_INET6, bare, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static const char *
base_parts_fault(const UrlParts *parts)
{
	if (parts->scheme == NULL || parts->host == NULL || parts->host[0] == '\0')
		return "The value is not a URL with a scheme and a host.";
	if (parts->user || parts->password)
		return "The URL must not contain a user name or a password.";
	if (parts->query)
		return "The URL must not contain a query.";
	if (parts->fragment)
		return "The URL must not contain a fragment.";
	if (strcmp(parts->scheme, "https") == 0)
		return NULL;
	if (strcmp(parts->scheme, "http") != 0)
		return "The scheme must be \"https\".";
	if (!host_is_loopback(parts->host))
		return "Plain \"http\" is accepted for loopback addresses only, because it would show the platform key to the network.";
	return NULL;
}

/*
 * Is there a percent sign in the host?  libcurl 7.88 changes such a host each
 * time, and drops the zone of an address.
 */
static bool
host_has_percent(const char *url)
{
	const char *authority = strstr(url, "://");
	const char *end;

	if (authority == NULL)
		return false;
	authority += 3;
	end = authority + strcspn(authority, "/?#");
	for (const char *p = end; p > authority && p[-1] != '@'; p--)
	{
		if (p[-1] == '%')
			return true;
	}
	return false;
}

#define PERCENT_IN_HOST "The URL's host must not contain a percent sign."

/*
 * Takes the root of the API as a setting gives it.  Returns NULL if it can be
 * used, else a whole sentence that says why not.  Never raises an error: GUC
 * check hooks must not.
 */
const char *
sendkit_url_base_fault(const char *url)
{
	UrlParts	parts;
	const char *fault;

	/* libcurl's parser takes an empty query or fragment for none at all */
	if (strchr(url, '?'))
		return "The URL must not contain a query.";
	if (strchr(url, '#'))
		return "The URL must not contain a fragment.";
	/* ... and an empty user name */
	if (strchr(url, '@'))
		return "The URL must not contain a user name or a password.";
	if (host_has_percent(url))
		return PERCENT_IN_HOST;

	fault = url_parse(url, &parts);
	if (fault == NULL)
		fault = base_parts_fault(&parts);
	url_free(&parts);
	return fault;
}

/* Is a part that may be lacking visible ASCII once it is decoded, as it will be used? */
static bool
decodes_well(CURLU *handle, CURLUPart part, CURLUcode lacking)
{
	char	   *value = NULL;
	CURLUcode	code = curl_url_get(handle, part, &value, CURLU_URLDECODE);
	bool		well = code == lacking || (code == CURLUE_OK && url_is_visible_ascii(value));

	curl_free(value);
	return well;
}

static bool
port_is_zero(CURLU *handle)
{
	char	   *port = url_part(handle, CURLUPART_PORT);
	bool		zero = port && strspn(port, "0") == strlen(port);

	curl_free(port);
	return zero;
}

/*
 * What libcurl cannot decode makes it go without the proxy, and say nothing
 * (parse_proxy() in its url.c).
 */
static const char *
decoded_parts_fault(CURLU *handle)
{
	if (!decodes_well(handle, CURLUPART_USER, CURLUE_NO_USER) ||
		!decodes_well(handle, CURLUPART_PASSWORD, CURLUE_NO_PASSWORD))
		return "The user name or the password has, decoded, a character that is not visible ASCII.";
	if (!decodes_well(handle, CURLUPART_HOST, CURLUE_NO_HOST))
		return "The host has, decoded, a character that is not visible ASCII.";
	if (port_is_zero(handle))
		return "The port must not be zero.";
	return NULL;
}

static const char *
proxy_parts_fault(const UrlParts *parts)
{
	static const char *const schemes[] = {
		"http", "https", "socks4", "socks4a", "socks5", "socks5h"
	};

	if (parts->scheme == NULL || parts->host == NULL || parts->host[0] == '\0')
		return "The value is not a URL with a scheme and a host.";
	if (parts->query || parts->fragment ||
		(parts->path && parts->path[0] != '\0' && strcmp(parts->path, "/") != 0))
		return "The URL of a proxy has no path, query or fragment.";
	/* without support for it, libcurl's error would show the proxy's password */
	if (strcmp(parts->scheme, "https") == 0 &&
		!(curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_HTTPS_PROXY))
		return "This server's libcurl does not support HTTPS proxies.";
	for (size_t i = 0; i < lengthof(schemes); i++)
	{
		if (strcmp(parts->scheme, schemes[i]) == 0)
			return decoded_parts_fault(parts->handle);
	}
	return "The scheme must be one of \"http\", \"https\", \"socks4\", \"socks4a\", \"socks5\" and \"socks5h\".";
}

/* The same for the URL of a proxy */
const char *
sendkit_url_proxy_fault(const char *url)
{
	UrlParts	parts;
	const char *fault;

	if (host_has_percent(url))
		return PERCENT_IN_HOST;

	fault = url_parse(url, &parts);
	if (fault == NULL)
		fault = proxy_parts_fault(&parts);
	url_free(&parts);
	return fault;
}

/* Is this usable base URL one of plain HTTP?  Cannot raise an error. */
bool
sendkit_url_is_plain(const char *url)
{
	return pg_strncasecmp(url, "http:", 5) == 0;
}
