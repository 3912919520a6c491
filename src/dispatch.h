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
	TimestampTz send_before;	/* not to be sent from then on, by the clock on
								 * the wall; infinity: no such limit */
	SendkitVerdict verdict;		/* filled in when finished */
	bool		finished;
	bool		in_flight;		/* handed over, and no answer yet */

	/* the dispatcher's own */
	dlist_node	node;			/* in one of its lists, unless in flight */
	const char *key;			/* that it was last sent with */
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

/*
 * Returns a dispatcher of the current settings, in the current memory context,
 * where the verdicts' texts will be, too.  The converter must live as long.  Raises what sendkit_guc_check(),
 * sendkit_http_check_not_busy() and sendkit_http_begin() raise, and 54001 when
 * the stack is nearly used up.  There is one at a time;
 * it must be ended by sendkit_dispatcher_end(), also after an error.
 */
extern SendkitDispatcher *sendkit_dispatcher_begin(const SendkitTextConverter *converter,
												   const char *platform_key,
												   int max_concurrency,
												   int request_timeout_ms);

/*
 * Has what is sent from now on carry this key, of which a copy is taken, and
 * wiped in the end.  Raises nothing but out of memory.
 */
extern void sendkit_dispatcher_set_key(SendkitDispatcher *dispatcher, const char *platform_key);

/* Hands a deletion over, which must stay where it is until it is finished. */
extern void sendkit_dispatcher_add(SendkitDispatcher *dispatcher,
								   SendkitDeletion *deletion);

/*
 * Returns a deletion that has its verdict, each one once; NULL if timeout_ms
 * (-1: no limit) is over first, or none is left.  Raises what sending and
 * receiving raise, interrupts above all.
 */
extern SendkitDeletion *sendkit_dispatcher_next(SendkitDispatcher *dispatcher,
												int64 timeout_ms);

/*
 * The same, but returns NULL, with *woken set to true, as soon as the session's
 * latch is set: the caller looks to whatever has set it and comes back.  If it
 * was an interrupt, that has not been served yet.
 */
extern SendkitDeletion *sendkit_dispatcher_next_unless_woken(SendkitDispatcher *dispatcher,
															 int64 timeout_ms,
															 bool *woken);

/* How many were added and have not been sent yet.  Cannot raise an error. */
extern int	sendkit_dispatcher_backlog(const SendkitDispatcher *dispatcher);

/*
 * Has all that was added been given up, since the API could not be reached for
 * a whole request_timeout?  Cannot raise an error.
 */
extern bool sendkit_dispatcher_gave_up(const SendkitDispatcher *dispatcher);

/* In a few words, what it is that takes so long.  Cannot raise an error. */
extern const char *sendkit_dispatcher_waits_for(const SendkitDispatcher *dispatcher);

/* How far it has come.  Cannot raise an error. */
extern const SendkitTally *sendkit_dispatcher_tally(const SendkitDispatcher *dispatcher);

/* Gives up whatever is under way.  Cannot raise an error. */
extern void sendkit_dispatcher_end(SendkitDispatcher *dispatcher);

#endif							/* SENDKIT_DISPATCH_H */
