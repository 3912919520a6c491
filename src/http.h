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

/*
 * Raises 55000 while the transport is in use: a function that its user calls,
 * a trigger for instance, cannot use it, too.
 */
extern void sendkit_http_check_not_busy(void);

/*
 * Makes the session's connections ready for up to concurrency requests at a
 * time; with few descriptors left, for fewer.  Takes copies of what it needs of
 * the endpoint.  Raises 53000 when there is no descriptor for even one, 53200
 * when memory is short, and 0A000 when the libcurl found at run time is too old.
 */
extern void sendkit_http_begin(const SendkitHttpEndpoint *endpoint, int concurrency);

/*
 * Hands a request over, if it can leave at once.  Returns whether it can; if
 * not, ask again when sendkit_http_receive() has returned.  When nothing is
 * under way, it always can.  Raises 53200 when memory is short, and 0A000 when
 * libcurl lacks something that is needed.
 */
extern bool sendkit_http_send(const SendkitHttpRequest *request);

/*
 * Waits for any request to end, for at most timeout_ms (-1: for ever).
 * Returns false when the time is up, when there is room for another request and
 * was none before, or, if woken is not the null pointer, with *woken set to
 * true, when the session's latch was set.  Raises what CHECK_FOR_INTERRUPTS()
 * raises, and 38000 when libcurl fails as a whole.
 */
extern bool sendkit_http_receive(int64 timeout_ms, SendkitHttpResult *result, bool *woken);

/*
 * Takes back one request that has been handed over but has not left yet, and
 * returns its tag; NULL if there is none.  Cannot raise an error.
 */
extern void *sendkit_http_recall(void);

/* Has nothing of what is under way left yet?  Cannot raise an error. */
extern bool sendkit_http_is_connecting(void);

/*
 * Gives up whatever is under way, and keeps the idle connections warm for a
 * while, if they are not too many.  Cannot raise an error.
 */
extern void sendkit_http_end(void);

#endif							/* SENDKIT_HTTP_H */
