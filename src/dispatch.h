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

/* One workspace whose key is to be deleted */
typedef struct SendkitDeletion
{
	const char *segment;		/* the id as a path segment */
	SendkitVerdict verdict;		/* filled in when finished */
	bool		finished;
	bool		in_flight;		/* handed over, and no answer yet */

	/* the dispatcher's own */
	dlist_node	node;			/* in its list of those that wait */
	int			attempts;
	int64		deadline;		/* by sendkit_http_now() */
	int64		due;			/* not to be sent before */
} SendkitDeletion;

/* How far a dispatch has come */
typedef struct SendkitTally
{
	int			outcomes[SENDKIT_OUTCOMES]; /* finished, by outcome */
	int			finished;
	int			in_flight;		/* handed over and not answered yet */
} SendkitTally;

typedef struct SendkitDispatch
{
	SendkitDeletion *deletions;
	int			ndeletions;
	const char *platform_key;
	const SendkitTextConverter *converter;
	int			max_concurrency;

	/* called now and then, if given; may raise an error */
	void		(*on_progress) (const struct SendkitDispatch *dispatch);

	SendkitTally tally;			/* kept up to date, also for one who jumps out */
} SendkitDispatch;

/*
 * Carries all the deletions out and returns when each has its verdict, with
 * texts in the current memory context.  Raises what sendkit_http_begin(), send
 * and receive raise, interrupts above all; then nothing is left under way.
 */
extern void sendkit_dispatch(SendkitDispatch *dispatch);

#endif							/* SENDKIT_DISPATCH_H */
