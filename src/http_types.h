/*-------------------------------------------------------------------------
 *
 * http_types.h
 *	  What the transport is asked for, and what it answers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_TYPES_H
#define SENDKIT_HTTP_TYPES_H

#include "datatype/timestamp.h"

/*
 * Where to connect, and whom to trust there.  A connection made under one
 * endpoint is never used under another.
 */
typedef struct SendkitHttpEndpoint
{
	const char *base_url;
	const char *ca_file;		/* empty: what the system trusts */
	const char *proxy;			/* empty: none */
} SendkitHttpEndpoint;

/*
 * How far a request has come that is only to try the way, and what it has found
 * there.  Texts are libcurl's; what is not known is zero.
 */
typedef struct SendkitHttpProbe
{
	bool		connected;		/* by TCP, to the proxy if there is one */
	bool		shaking_hands;	/* TLS has begun */
	bool		ready;			/* a request could have left */
	bool		http2;
	int64		resolved_us;	/* since the beginning: the name is known */
	int64		ready_us;		/* a request could have left */
	int64		round_trip_us;	/* the kernel's estimate */
	char		address[64];	/* connected to */
	int			port;
	int			proxy_status;	/* an HTTP proxy's answer to CONNECT */
	char		tls[64];		/* version and cipher */
	char		issuer[256];	/* of the server's certificate, ... */
	char		expires[64];
	char		trust[1024];	/* ... and where its authority was looked for */
} SendkitHttpProbe;

/* As many headers as a request may have */
#define SENDKIT_HTTP_MAX_HEADERS 8

/*
 * The path begins with a slash and goes on the wire as it is: nothing but
 * visible ASCII may be in it.
 */
typedef struct SendkitHttpRequest
{
	const char *path;			/* below the base URL */
	const char *const *headers; /* ended by NULL; must live, with the texts,
								 * until the request is received */
	int64		connect_timeout_ms; /* until it leaves, and ... */
	int64		timeout_ms;		/* ... until it is answered, both from now */
	TimestampTz send_before;	/* not to leave from then on; infinity: no
								 * limit */
	void	   *tag;			/* the caller's, comes back with the result */
	SendkitHttpProbe *probe;	/* NULL; or to be filled in, and nothing is
								 * sent */
} SendkitHttpRequest;

/* How a request ended, if not by a whole answer */
typedef enum SendkitHttpFailure
{
	SENDKIT_HTTP_OK,			/* a whole answer came */
	SENDKIT_HTTP_STALE,			/* nothing was sent: the connection it got was
								 * not safe to use again; try at once */
	SENDKIT_HTTP_TOO_LATE,		/* nothing was sent: send_before had passed */
	SENDKIT_HTTP_NOT_CONNECTED, /* nothing was sent: no name, no connection,
								 * no socket */
	SENDKIT_HTTP_NOT_TRUSTED,	/* nothing was sent: TLS or certificate
								 * failure */
	SENDKIT_HTTP_REFUSED,		/* sent, but by the protocol not processed */
	SENDKIT_HTTP_NO_ANSWER,		/* sent, or perhaps so; no usable answer came */
	SENDKIT_HTTP_TIMED_OUT,		/* sent, or perhaps so; no answer came in time */
	SENDKIT_HTTP_TOO_LARGE,		/* an answer came that is over a cap */
} SendkitHttpFailure;

/* Strings live until the next receive, recall or end. */
typedef struct SendkitHttpResult
{
	void	   *tag;
	SendkitHttpFailure failure;
	int			status;			/* 0: none came */
	const char *body;			/* zero-terminated */
	size_t		body_len;
	const char *retry_after;	/* these headers' values, or NULL */
	const char *date;
	const char *error;			/* words for the failure, mostly libcurl's */
} SendkitHttpResult;

#endif							/* SENDKIT_HTTP_TYPES_H */
