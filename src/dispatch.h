/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *	  Carries out any number of deletions: window, retries, rate limits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_DISPATCH_H
#define SENDKIT_DISPATCH_H

#include "lib/ilist.h"

#include "api.h"

/* One workspace whose key is to be deleted; zeroed but for the first two */
typedef struct SendkitDeletion
{
	const char *path;			/* of the key, below the API's root */
	TimestampTz send_before;	/* not to be sent from then on, by the clock
								 * on the wall; infinity: no such limit */
	SendkitVerdict verdict;		/* filled in when finished */
	bool		finished;
	bool		in_flight;		/* handed over, and no answer yet */

	/* the dispatcher's own */
	dlist_node	node;			/* in one of its lists, unless in flight */
	const char *key;			/* that it was last sent with */
	char	   *unkept;			/* words for an answer that no memory is left
								 * for */
	int			tries;
	int64		tried_at;		/* these three by sendkit_clock_now() */
	int64		deadline;
	int64		due;			/* not to be sent before */
} SendkitDeletion;

typedef struct SendkitDispatcher SendkitDispatcher;

/* How far a dispatch has come */
typedef struct SendkitTally
{
	int			outcomes[SENDKIT_OUTCOMES]; /* finished, by outcome */
	int			added;
	int			finished;
	int			in_flight;		/* handed over and not answered yet */
} SendkitTally;

extern SendkitDispatcher *sendkit_dispatcher_begin(const SendkitTextConverter *converter,
												   const char *platform_key,
												   int max_concurrency,
												   int request_timeout_ms);

extern void sendkit_dispatcher_set_key(SendkitDispatcher *dispatcher, const char *platform_key);

extern void sendkit_dispatcher_add(SendkitDispatcher *dispatcher,
								   SendkitDeletion *deletion);

extern SendkitDeletion *sendkit_dispatcher_next(SendkitDispatcher *dispatcher,
												int64 timeout_ms);

extern SendkitDeletion *sendkit_dispatcher_next_unless_woken(SendkitDispatcher *dispatcher,
															 int64 timeout_ms,
															 bool *woken);

extern int	sendkit_dispatcher_backlog(const SendkitDispatcher *dispatcher);

extern bool sendkit_dispatcher_gave_up(const SendkitDispatcher *dispatcher);

extern const char *sendkit_dispatcher_waits_for(const SendkitDispatcher *dispatcher);

extern const SendkitTally *sendkit_dispatcher_tally(const SendkitDispatcher *dispatcher);

extern void sendkit_dispatcher_end(SendkitDispatcher *dispatcher);

#endif							/* SENDKIT_DISPATCH_H */
