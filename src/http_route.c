/*-------------------------------------------------------------------------
 *
 * http_route.c
 *	  Where requests go, by which way, and whom is trusted there.
 *
 * A route is an endpoint's values in the form in which libcurl takes them:
 * options that are the same for every request.  It owns copies in malloc'd
 * memory, because it outlives the statement whose settings it was made from.
 * Easy handles refer to its parts: libcurl must not be entered for them any
 * more when it is freed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>

#include "curl_compat.h"
#include "http_route.h"
#include "http_tls.h"
#include "url.h"

/*
 * How long certificates that were read are used for new connections: reading a
 * bundle takes some 40 ms, but one that was replaced must be noticed.
 */
#define CA_CACHE_SECONDS 60

/* --- the system's trust --- */

/* Is this the name that OpenSSL looks a certificate up by, such as "1a2b3c4d.0"? */
static bool
is_hashed_name(const char *name)
{
	return strspn(name, "0123456789abcdef") == 8 && name[8] == '.' &&
		name[9] != '\0' && strspn(name + 9, "0123456789") == strlen(name + 9);
}

static bool
has_hashed_names(const char *folder)
{
	DIR		   *dir = opendir(folder);
	struct dirent *entry;
	bool		found = false;

	if (dir == NULL)
		return false;
	while (!found && (entry = readdir(dir)) != NULL)
		found = is_hashed_name(entry->d_name);
	closedir(dir);
	return found;
}

/*
 * With OpenSSL and a hashed folder of certificates, only the one that is asked
 * for is read; the bundle in one file would have to be parsed as a whole, for
 * some 40 ms.  libcurl caches a parsed bundle between connections, but not
 * while a folder is set as well, so it is either the one or the other.  In a
 * folder that was never hashed, as some container images have it, nothing would
 * be found.  Returns NULL if libcurl's defaults will do better.
 */
static const char *
system_ca_folder(void)
{
	curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

	if (info->age < CURLVERSION_SEVENTH || info->capath == NULL ||
		info->ssl_version == NULL ||
		strncmp(info->ssl_version, "OpenSSL/", 8) != 0 ||
		!has_hashed_names(info->capath))
		return NULL;
	return info->capath;
}

/* Where nothing is found: a file, if it is taken for a folder */
static const char *
no_folder(void)
{
	return sendkit_curl_restores_defaults() ? "/dev/null" : NULL;
}

/* --- making and comparing --- */

/*
 * Takes a usable base URL apart.  Returns NULL for want of memory.  That the
 * scheme is one that this libcurl can transfer from is left to the transfer,
 * which says so in better words.
 */
static CURLU *
parse_base_url(const char *url)
{
	CURLU	   *parts = curl_url();

	if (parts == NULL)
		return NULL;
	if (curl_url_set(parts, CURLUPART_URL, url,
					 CURLU_PATH_AS_IS | CURLU_DISALLOW_USER |
					 CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
	{
		curl_url_cleanup(parts);
		return NULL;
	}
	return parts;
}

/* Returns the path of a URL without slashes at its end, malloc'd, or NULL. */
static char *
copy_base_path(CURLU *url)
{
	char	   *path = NULL;
	char	   *copy;
	size_t		len;

	if (curl_url_get(url, CURLUPART_PATH, &path, 0) != CURLUE_OK)
		return NULL;
	len = strlen(path);
	while (len > 0 && path[len - 1] == '/')
		len--;
	copy = strndup(path, len);
	curl_free(path);
	return copy;
}

/*
 * Returns false for want of memory.  The route is to be freed in either case.
 */
bool
sendkit_route_init(SendkitRoute *route, const SendkitHttpEndpoint *endpoint)
{
	memset(route, 0, sizeof(*route));
	route->plain = sendkit_url_is_plain(endpoint->base_url);
	route->url = parse_base_url(endpoint->base_url);
	if (route->url)
		route->base_path = copy_base_path(route->url);
	route->base_url = strdup(endpoint->base_url);
	route->ca_file = strdup(endpoint->ca_file);
	route->ca_folder = endpoint->ca_file[0] != '\0' ? no_folder() : system_ca_folder();
	route->proxy = strdup(endpoint->proxy);
	route->tls_to_proxy = pg_strncasecmp(endpoint->proxy, "https:", 6) == 0;
	return route->base_path && route->base_url && route->ca_file && route->proxy;
}

/* Frees what a route holds; one that is all zeroes is fine, too. */
void
sendkit_route_free(SendkitRoute *route)
{
	curl_url_cleanup(route->url);
	free(route->base_path);
	free(route->base_url);
	free(route->ca_file);
	free(route->proxy);
	memset(route, 0, sizeof(*route));
}

/* Was the route made from these values? */
bool
sendkit_route_fits(const SendkitRoute *route, const SendkitHttpEndpoint *endpoint)
{
	return strcmp(route->base_url, endpoint->base_url) == 0 &&
		strcmp(route->ca_file, endpoint->ca_file) == 0 &&
		strcmp(route->proxy, endpoint->proxy) == 0;
}

/*
 * Takes a request's path.  Returns the palloc'd request target (RFC 9112,
 * section 3.2.1).  May raise out of memory.
 */
char *
sendkit_route_target(const SendkitRoute *route, const char *path)
{
	Assert(path[0] == '/');
	return psprintf("%s%s", route->base_path, path);
}

/* --- options --- */

/*
 * May a connection carry another request?  Only where it can be looked at right
 * before that leaves, TLS and all.
 */
bool
sendkit_route_keeps_connections(const SendkitRoute *route)
{
	return sendkit_curl_asks_before_sending() &&
		(route->plain || sendkit_tls_can_be_looked_into());
}

/*
 * Is HTTP/2 asked for?  If not, HTTP/1.1 is all that is spoken.  It is for TLS,
 * and where connections are kept, which is what it is good for.
 */
bool
sendkit_route_speaks_http2(const SendkitRoute *route)
{
	return !route->plain && sendkit_curl_has_http2() && sendkit_route_keeps_connections(route);
}

/*
 * The URL is handed over in parts, and each request's path as its target:
 * parsing a URL anew for each request, and putting it together again, is a
 * tenth of what a warm call costs libcurl 7.88.
 */
static bool
set_url_options(const SendkitRoute *route, CURL *easy, SendkitCurlFault *fault)
{
	SETOPT(easy, CURLOPT_CURLU, route->url);
	fault->option = "CURLOPT_PROTOCOLS";
	fault->code = sendkit_curl_set_protocol(easy, route->plain);
	if (fault->code != CURLE_OK)
		return false;
	SETOPT(easy, CURLOPT_HTTP_VERSION,
		   (long) (sendkit_route_speaks_http2(route) ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
	return true;
}

static const char *
trusted_file(const SendkitRoute *route)
{
	return route->ca_file[0] != '\0' ? route->ca_file : NULL;
}

/* If not, libcurl's defaults stay. */
static bool
has_own_trust(const SendkitRoute *route)
{
	return trusted_file(route) || route->ca_folder;
}

static bool
set_tls_options(const SendkitRoute *route, CURL *easy, SendkitCurlFault *fault)
{
	SETOPT(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SETOPT(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	SETOPT(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	sendkit_curl_limit_ca_cache(easy, CA_CACHE_SECONDS);
	if (has_own_trust(route))
	{
		SETOPT(easy, CURLOPT_CAINFO, trusted_file(route));
		SETOPT(easy, CURLOPT_CAPATH, route->ca_folder);
	}
	return true;
}

/*
 * An empty proxy is set, too: it keeps libcurl from asking the environment.
 * Plain HTTP is for loopback and stays there: a proxy would see the key.
 */
static bool
set_proxy_options(const SendkitRoute *route, CURL *easy, SendkitCurlFault *fault)
{
	SETOPT(easy, CURLOPT_PROXY, route->plain ? "" : route->proxy);
	if (route->plain || route->proxy[0] == '\0')
		return true;
	SETOPT(easy, CURLOPT_NOPROXY, "");
	SETOPT(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SETOPT(easy, CURLOPT_PROXY_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (has_own_trust(route))
	{
		SETOPT(easy, CURLOPT_PROXY_CAINFO, trusted_file(route));
		SETOPT(easy, CURLOPT_PROXY_CAPATH, route->ca_folder);
	}
	return true;
}

/* Sets a handle's options that depend on the route.  Returns false with *fault if it can't. */
bool
sendkit_route_set_options(const SendkitRoute *route, CURL *easy, SendkitCurlFault *fault)
{
	return set_url_options(route, easy, fault) &&
		set_tls_options(route, easy, fault) &&
		set_proxy_options(route, easy, fault);
}
