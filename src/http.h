/*-------------------------------------------------------------------------
 *
 * http.h
 *	  The transport: HTTP requests, many at a time, from one backend.
 *
 * Knows bytes, timeouts and interrupts; no JSON, no catalogs, no outcomes.
 *
 * Use: sendkit_http_begin(); any number of sendkit_http_send() and
 * sendkit_http_receive(); sendkit_http_end(), also when an error is raised in
 * between (PG_FINALLY).  Only one caller at a time can use it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_H
#define SENDKIT_HTTP_H

#include "http_types.h"

extern void sendkit_http_check_not_busy(void);

extern void sendkit_http_begin(const SendkitHttpEndpoint *endpoint, int concurrency);

extern bool sendkit_http_send(const SendkitHttpRequest *request);

extern bool sendkit_http_receive(int64 timeout_ms, SendkitHttpResult *result, bool *woken);

extern void *sendkit_http_recall(void);

extern bool sendkit_http_is_connecting(void);

extern void sendkit_http_end(void);

#endif							/* SENDKIT_HTTP_H */
