/*-------------------------------------------------------------------------
 *
 * http_route.h
 *	  Where requests go, by which way, and whom is trusted there.
 *
 * For the transport's own files.  Nothing here raises an error, unless it says
 * so.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_ROUTE_H
#define SENDKIT_HTTP_ROUTE_H

#include <curl/curl.h>

#include "http_setopt.h"
#include "http_types.h"

/* An endpoint, made ready for libcurl; everything is malloc'd */
typedef struct SendkitRoute
{
	bool		plain;			/* HTTP without TLS */
	CURLU	   *url;			/* the base URL, taken apart */
	char	   *base_path;		/* its path, without a slash at the end */
	char	   *base_url;
	char	   *ca_file;
	const char *ca_folder;		/* lives for ever; NULL: not to be used */
	char	   *proxy;
	bool		tls_to_proxy;
} SendkitRoute;

extern bool sendkit_route_init(SendkitRoute *route, const SendkitHttpEndpoint *endpoint);

extern void sendkit_route_free(SendkitRoute *route);

extern bool sendkit_route_fits(const SendkitRoute *route, const SendkitHttpEndpoint *endpoint);

extern bool sendkit_route_keeps_connections(const SendkitRoute *route);

extern bool sendkit_route_speaks_http2(const SendkitRoute *route);

extern bool sendkit_route_set_options(const SendkitRoute *route, CURL *easy,
									  SendkitCurlFault *fault);

extern char *sendkit_route_target(const SendkitRoute *route, const char *path);

#endif							/* SENDKIT_HTTP_ROUTE_H */
