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

/*
 * Makes a handle, otherwise ready for a request, one that connects anew and
 * tells what it finds.  Returns false, with *fault telling why, if it can't.
 */
extern bool sendkit_probe_set_options(CURL *easy, SendkitHttpProbe *probe,
									  SendkitCurlFault *fault);

/*
 * Notes what there is to be known when a request is about to leave.  To be
 * called inside libcurl, which must not let it leave.
 */
extern void sendkit_probe_ready(CURL *easy, bool http2, SendkitHttpProbe *probe);

/* Notes what else is known when the handle's transfer has ended. */
extern void sendkit_probe_end(CURL *easy, const SendkitRoute *route,
							  SendkitHttpProbe *probe);

#endif							/* SENDKIT_HTTP_PROBE_H */
