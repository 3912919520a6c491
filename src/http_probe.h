/*-------------------------------------------------------------------------
 *
 * http_probe.h
 *	  What a transfer finds on its way, when that is all it is for.
 *
 * For the transport's own files.  Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_PROBE_H
#define SENDKIT_HTTP_PROBE_H

#include <curl/curl.h>

#include "http_route.h"
#include "http_setopt.h"
#include "http_types.h"

extern bool sendkit_probe_set_options(CURL *easy, SendkitHttpProbe *probe,
									  SendkitCurlFault *fault);

extern void sendkit_probe_ready(CURL *easy, bool http2, SendkitHttpProbe *probe);

extern void sendkit_probe_end(CURL *easy, const SendkitRoute *route,
							  SendkitHttpProbe *probe);

#endif							/* SENDKIT_HTTP_PROBE_H */
