/*-------------------------------------------------------------------------
 *
 * http.h
 *	  The transport: HTTP requests, many at a time, from one backend.
 *
 * Knows bytes, timeouts and interrupts; no JSON, no catalogs, no outcomes.
 *
 * Use: sendkit_http_begin(); any number of sendkit_http_send() and
 * sendkit_http_receive(); sendkit_http_end(), also when an error is raised in
 * between (PG_FINALLY).  There is one such batch at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_H
#define SENDKIT_HTTP_H

#include "http_types.h"

/*
 * Raises 55000 if a batch is under way: a function that a batch's owner calls,
 * a trigger for instance, cannot begin another one.
 */
extern void sendkit_http_check_idle(void);

/*
 * Makes the session's connections ready for up to concurrency requests at a
 * time; with few descriptors left, for fewer.  Takes copies of what it needs of
 * the endpoint.  Raises 53000 when there is no descriptor for even one, 53200
 * when memory is short, and 0A000 when the libcurl found at run time is too old.
 */
extern void sendkit_http_begin(const SendkitHttpEndpoint *endpoint, int concurrency);

/*
 * How many requests may be under way now, at most.  It is less at first when
 * connections are cold, and tells sendkit_http_receive() to return when it has
 * grown.  Cannot raise an error.
 */
extern int	sendkit_http_capacity(void);

/* Hands a request over.  Raises 53200 when memory is short. */
extern void sendkit_http_send(const SendkitHttpRequest *request);

/*
 * Waits for any request to end, for at most timeout_ms (-1: for ever).
 * Returns false when the time is up, or when the capacity has grown; and, if
 * woken is not NULL, with *woken set to true when the session's latch was set,
 * which may be an interrupt that has not been served yet.  Raises what
 * CHECK_FOR_INTERRUPTS() raises, and 38000 when libcurl fails as a whole.
 */
extern bool sendkit_http_receive(int64 timeout_ms, SendkitHttpResult *result, bool *woken);

/*
 * Takes back one request that has been handed over but has not left yet, and
 * returns its tag; NULL if there is none.  Cannot raise an error.
 */
extern void *sendkit_http_recall(void);

/*
 * Gives up whatever is under way, and keeps the idle connections warm for a
 * while.  Cannot raise an error.
 */
extern void sendkit_http_end(void);

#endif							/* SENDKIT_HTTP_H */
