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

#include "http_types.h"
#include "http_route.h"
#include "http_sockets.h"

/* Enough for any number of seconds and any HTTP date */
#define MAX_RETRY_AFTER_SIZE 64

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
	/* ... a request leaves for the first time */
	void		(*about_to_send) (void);
} SendkitTransferCommon;

typedef struct SendkitTransfer
{
	dlist_node	node;			/* the owner's */
	CURL	   *easy;
	void	   *tag;			/* the request's */
	bool		begun;			/* libcurl has been entered since it was added */
	bool		sent;			/* or about to be: it may have reached the server */

	/* the rest is http_transfer.c's */
	const SendkitTransferCommon *common;
	struct curl_slist headers[SENDKIT_HTTP_MAX_HEADERS];	/* texts are the caller's */
	char	   *body;			/* malloc'd */
	size_t		body_len;
	size_t		body_size;
	size_t		header_len;
	bool		headers_complete;	/* an empty line ended them */
	bool		too_large;
	bool		no_memory;
	const char *no_descriptor;	/* for a socket, and why; or NULL */
	bool		resend_refused;
	long		timeout_ms;		/* these four as the easy handle has them */
	long		connect_timeout_ms;
	bool		fresh_connect;
	bool		forbid_reuse;
	bool		has_retry_after;
	char		retry_after[MAX_RETRY_AFTER_SIZE];
	char		error[CURL_ERROR_SIZE];
} SendkitTransfer;

/* Returns a transfer that is to be freed, or NULL for want of memory. */
extern SendkitTransfer *sendkit_transfer_new(const SendkitTransferCommon *common);

/* Frees a transfer that is in no multi handle. */
extern void sendkit_transfer_free(SendkitTransfer *transfer);

/*
 * Makes a new transfer, or one that has succeeded, ready for a request, whose
 * target is given in full.  Returns false for want of memory: then it is to be
 * freed.
 */
extern bool sendkit_transfer_prepare(SendkitTransfer *transfer,
									 const SendkitHttpRequest *request,
									 const char *target);

/*
 * To be called right before libcurl is entered for the first time since the
 * transfer was added.  fresh: it must not use a connection that is there.
 */
extern void sendkit_transfer_begin(SendkitTransfer *transfer, bool fresh);

/* Lets go of the request's headers, which are the caller's, and hold the key. */
extern void sendkit_transfer_forget_headers(SendkitTransfer *transfer);

/* The transfer that an easy handle belongs to */
extern SendkitTransfer *sendkit_transfer_of(CURL *easy);

/* Is the name of the host still being looked up? */
extern bool sendkit_transfer_is_resolving(const SendkitTransfer *transfer);

/*
 * Fills in how a transfer ended that libcurl is done with, by libcurl's code
 * for it.  Strings belong to the transfer, until it is used again or freed.
 */
extern void sendkit_transfer_finish(SendkitTransfer *transfer, CURLcode code,
									SendkitHttpResult *result);

#endif							/* SENDKIT_HTTP_TRANSFER_H */
