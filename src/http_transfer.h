/*-------------------------------------------------------------------------
 *
 * http_transfer.h
 *	  One request and its answer, on a libcurl easy handle.
 *
 * For the transport's own files.  Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_TRANSFER_H
#define SENDKIT_HTTP_TRANSFER_H

#include <curl/curl.h>

#include "lib/ilist.h"

#include "http_route.h"
#include "http_setopt.h"
#include "http_sockets.h"
#include "http_types.h"

/* Enough for any number of seconds and any HTTP date */
#define SENDKIT_HEADER_VALUE_SIZE 64

/* How far a request has come */
typedef enum SendkitTransferStage
{
	SENDKIT_STAGE_ADDED,		/* libcurl has done nothing about it */
	SENDKIT_STAGE_RESOLVING,
	SENDKIT_STAGE_CONNECTING,	/* a socket was opened for it */
	SENDKIT_STAGE_SENT,			/* or about to be: it may reach the server */
} SendkitTransferStage;

/* What a callback ended a transfer for, or found wrong with it */
typedef enum SendkitTransferTrouble
{
	SENDKIT_TROUBLE_NONE,
	SENDKIT_TROUBLE_STALE,		/* its connection is not safe to use again */
	SENDKIT_TROUBLE_TOO_LATE,	/* to be sent */
	SENDKIT_TROUBLE_BYPASS,		/* libcurl goes around the proxy */
	SENDKIT_TROUBLE_DESCRIPTOR, /* none for a socket */
	SENDKIT_TROUBLE_MEMORY,
	SENDKIT_TROUBLE_TOO_LARGE,	/* its answer is */
	SENDKIT_TROUBLE_REFUSED,	/* it was sent, and by the protocol not
								 * processed */
	SENDKIT_TROUBLE_LOST,		/* it was sent, and libcurl would send it
								 * again */
	SENDKIT_TROUBLE_INTERRUPTED,	/* libcurl went on for too long */
} SendkitTransferTrouble;

struct SendkitTransfer;

/*
 * What all transfers of a pool have in common.  Must live for as long as libcurl
 * is entered for any of them.
 */
typedef struct SendkitTransferCommon
{
	const SendkitRoute *route;
	SendkitSockets *sockets;
	long		max_idle_s;		/* connections idle for longer are not used */
	/* called from inside libcurl: a thread may be started next, ... */
	void		(*about_to_resolve) (void);
	/* ... the request leaves, by this protocol (CURL_HTTP_VERSION_...), ... */
	void		(*about_to_send) (struct SendkitTransfer *transfer, bool http2);
	/* ... must libcurl leave one with that deadline, whatever a peer sends? */
	bool		(*must_come_home) (int64 deadline);
} SendkitTransferCommon;

typedef struct SendkitTransfer
{
	dlist_node	node;			/* the owner's */
	CURL	   *easy;
	void	   *tag;			/* the request's, as is this: */
	SendkitHttpProbe *probe;	/* NULL: it is to be sent */
	SendkitTransferStage stage;
	int			sockets_opened; /* for it, so far */
	int			local_port;		/* of the connection that it has left on; or 0 */
	bool		answered;		/* by a whole answer */
	bool		is_first;		/* the first request there, just about to
								 * leave */
	int64		leave_by;		/* both by sendkit_clock_now() */
	int64		answer_by;

	/* the rest is http_transfer.c's */
	const SendkitTransferCommon *common;
	TimestampTz send_before;
	int64		connect_timeout_ms;
	SendkitTransferTrouble trouble;
	struct curl_slist headers[SENDKIT_HTTP_MAX_HEADERS];	/* texts are the
															 * caller's */
	char	   *body;			/* malloc'd */
	size_t		body_len;
	size_t		body_size;
	size_t		header_len;
	bool		headers_complete;	/* an empty line ended them */
	char		retry_after[SENDKIT_HEADER_VALUE_SIZE]; /* empty: none came */
	char		date[SENDKIT_HEADER_VALUE_SIZE];
	char		error[CURL_ERROR_SIZE];
} SendkitTransfer;

extern SendkitTransfer *sendkit_transfer_new(const SendkitTransferCommon *common,
											 const SendkitHttpRequest *request,
											 const char *target,
											 SendkitCurlFault *fault);

extern void sendkit_transfer_free(SendkitTransfer *transfer);

extern SendkitTransfer *sendkit_transfer_of(CURL *easy);

extern int64 sendkit_transfer_deadline(const SendkitTransfer *transfer);

extern void sendkit_transfer_finish(SendkitTransfer *transfer, CURLcode code,
									SendkitHttpResult *result);
extern void sendkit_transfer_expire(SendkitTransfer *transfer, SendkitHttpResult *result);

#endif							/* SENDKIT_HTTP_TRANSFER_H */
