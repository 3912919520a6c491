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

	/* the dispatcher's own */
	dlist_node	node;			/* in its list of those that wait */
	int			attempts;
	int64		deadline;		/* by sendkit_http_now() */
	int64		due;			/* not to be sent before */
} SendkitDeletion;

typedef struct SendkitDispatch
{
	SendkitDeletion *deletions;
	int			ndeletions;
	const char *platform_key;
	const SendkitTextConverter *converter;
	int			max_concurrency;
} SendkitDispatch;

/*
 * Carries all the deletions out and returns when each has its verdict, with
 * texts in the current memory context.  Raises what sendkit_http_begin(), send
 * and receive raise, interrupts above all; then nothing is left under way.
 */
extern void sendkit_dispatch(const SendkitDispatch *dispatch);

#endif							/* SENDKIT_DISPATCH_H */
