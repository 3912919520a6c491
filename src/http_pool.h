/*-------------------------------------------------------------------------
 *
 * http_pool.h
 *	  The session's connections to the API.
 *
 * For the transport's own files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_POOL_H
#define SENDKIT_HTTP_POOL_H

#include <curl/curl.h>
#include <signal.h>

#include "storage/latch.h"

#include "http_route.h"
#include "http_sockets.h"
#include "http_transfer.h"

/* Idle connections that may stay when the transport is left */
#define MAX_IDLE 32

/* Streams on one HTTP/2 connection: what servers commonly allow */
#define STREAMS 100

/* Sockets that one connection may take while it is made: two addresses are tried */
#define SOCKETS_PER_CONNECT 2

#define NO_TIMER PG_INT64_MAX

/* What the server speaks, as far as it is known */
typedef enum SendkitServerProtocol
{
	SERVER_UNKNOWN,
	SERVER_HTTP1,
	SERVER_HTTP2,
} SendkitServerProtocol;

typedef struct SendkitHttpPool
{
	CURLM	   *multi;
	SendkitRoute route;
	SendkitSockets sockets;
	SendkitTransferCommon common;	/* to our transfers */
	WaitEventSet *wait_set;		/* latch, postmaster's death, sockets */
	dlist_head	active;			/* transfers under way */
	int			nactive;
	SendkitTransfer *ended;		/* the one whose result was returned last, or
								 * NULL */
	SendkitServerProtocol server;
	int			concurrency;	/* requests that may be under way */
	int			connections;	/* that there may be */
	int			max_connections;	/* what libcurl has been told of that, ... */
	int			max_idle;		/* ... and of how many may be idle */
	int			full_at;		/* under way when libcurl had no room for one
								 * more */
	int			connect_failures;	/* since a request has left */
	int64		settle_by;		/* new HTTP/2 connections are waited for until
								 * then */
	int64		overdue_since;	/* when a deadline was first found passed, or
								 * 0 */
	int64		next_deadline;	/* of a transfer, or earlier; or NO_TIMER */
	int64		timer;			/* when libcurl wants to be called, or
								 * NO_TIMER */
	int64		idle_since;		/* when the idle timeout was last set anew */
	const char *failure;		/* of libcurl as a whole, until nothing is
								 * under way; or NULL */
	bool		has_failed;		/* the multi handle must not be entered again */
	bool		gave_up;		/* a connection in this use, which libcurl may
								 * not have ended yet */
	bool		signals_blocked;	/* since a thread may be started, until
									 * libcurl returns */
	sigset_t	signals_before;
} SendkitHttpPool;

/* NULL: there is none.  The module's only state, with what signal handlers look at */
extern SendkitHttpPool *sendkit_pool;

/* To be wrapped around whatever may let libcurl start a thread. */
static inline void
sendkit_block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

static inline void
sendkit_restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

extern bool sendkit_pool_is_in_use(void);

extern void sendkit_pool_begin(const SendkitHttpEndpoint *endpoint, int concurrency,
							   const SendkitTransferCommon *callbacks);

extern bool sendkit_pool_limit_connections(int limit);
extern bool sendkit_pool_limit_idle(int limit);

extern void sendkit_pool_renew_multi(void);

extern void sendkit_pool_end_transfer(SendkitHttpPool *owner,
									  SendkitTransfer *transfer);

extern void sendkit_pool_end(void);

#endif							/* SENDKIT_HTTP_POOL_H */
