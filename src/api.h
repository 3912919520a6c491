/*-------------------------------------------------------------------------
 *
 * api.h
 *	  The vendor's contract: what is asked of the API, what its answers mean.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_API_H
#define SENDKIT_API_H

#include "http_types.h"
#include "platform_key.h"
#include "text.h"

/*
 * Everything that can become of a request to delete a workspace's key.  Zero is
 * the one that claims nothing.
 */
typedef enum SendkitOutcome
{
	SENDKIT_UNKNOWN,			/* the key may or may not be gone */
	SENDKIT_UNAVAILABLE,		/* the request certainly had no effect */
	SENDKIT_REJECTED,			/* the API refused for good */
	SENDKIT_ABSENT,				/* the API knows of no key to delete */
	SENDKIT_DELETED,			/* the key is gone */
} SendkitOutcome;

#define SENDKIT_OUTCOMES 5

/* Texts are palloc'd, in the database's encoding, and show no key. */
typedef struct SendkitVerdict
{
	SendkitOutcome outcome;
	int			status;			/* 0: no answer came */
	char	   *message;		/* never NULL */
	char	   *error_code;		/* the API's, or NULL */
	char	   *details;		/* the API's, as JSON, or NULL */
	bool		retryable;		/* unavailable, and worth another attempt */
	bool		limits_all;		/* the refusal concerns the whole account */
	bool		key_refused;	/* rejected: the API doesn't know the platform
								 * key */
	bool		wrong_kind_of_key;	/* rejected, and the key is no platform
									 * key */
	bool		unreachable;	/* nothing could be sent at all */
	int64		retry_after_ms; /* how long the API asks to wait, or -1 */
} SendkitVerdict;

extern const char *sendkit_outcome_name(SendkitOutcome outcome);

extern const char *sendkit_api_id_fault(const SendkitTextConverter *converter,
										const char *id, int len);

extern char *sendkit_api_key_path(const SendkitTextConverter *converter,
								  const char *id, int len, const char **fault);

/* The headers of every request, and NULL */
#define SENDKIT_HEADERS 4

typedef struct SendkitHeaders
{
	const char *lines[SENDKIT_HEADERS + 1];
	char		key_header[SENDKIT_MAX_KEY_LENGTH + sizeof("X-Api-Key: ")];
} SendkitHeaders;

extern void sendkit_api_set_headers(SendkitHeaders *headers, const char *platform_key);

extern void sendkit_api_wipe_headers(SendkitHeaders *headers);


extern void sendkit_api_judge(const SendkitTextConverter *converter,
							  const SendkitHttpResult *result,
							  const char *platform_key,
							  SendkitVerdict *verdict);

extern void sendkit_verdict_free(SendkitVerdict *verdict);

#endif							/* SENDKIT_API_H */
