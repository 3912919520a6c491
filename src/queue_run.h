/*-------------------------------------------------------------------------
 *
 * queue_run.h
 *	  What the files that deliver share: a delivery under way, and what it
 *	  has claimed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_RUN_H
#define SENDKIT_QUEUE_RUN_H

#include "lib/ilist.h"

#include "credential.h"
#include "dispatch.h"
#include "queue.h"
#include "queue_deliver.h"

/* A claimed row on its way */
typedef struct SendkitClaim
{
	SendkitDeletion deletion;	/* first, so that one is found by the other */
	SendkitRevocation revocation;
	dlist_node	node;			/* in one of the run's lists */
	const char *fault;			/* why it must not be sent, or NULL */
	SendkitFate fate;			/* as it was settled */
	bool		lost;			/* it was not: the claim is void, or abandoned */
	int			key_generation; /* of the key that it was to be sent with */
	int64		locked_since;	/* when its row was first found locked, or 0 */
	bool		unsent;			/* goes back as it was */
} SendkitClaim;

/* A delivery under way */
typedef struct SendkitDeliveryRun
{
	Oid			extension;
	const SendkitDeliverer *deliverer;
	SendkitDelivery *delivery;
	SendkitRun	token;
	SendkitRun	token_before;	/* the last claim */
	MemoryContext context;
	SendkitTextConverter converter;
	SendkitCredential credential;
	SendkitCredential latest;	/* to be compared with it */
	int			key_generation;
	SendkitDispatcher *dispatcher;

	dlist_head	claimed;		/* in a transaction that has yet to commit */
	dlist_head	under_way;		/* handed to the dispatcher */
	dlist_head	answered;		/* to be settled */
	dlist_head	locked;			/* the same, but somebody holds the row */
	dlist_head	settled;		/* in a transaction that has yet to commit */
	int			nanswered;

	/* by sendkit_clock_now() */
	int64		settle_at;		/* what is answered, at the latest */
	int64		retry_at;		/* what is locked */
	int64		look_at;		/* for more to claim */
	int64		open_at;		/* the books, not before: they are locked */
	int64		shut_since;		/* they have been, since then, or 0 */

	bool		stop_claiming;
	bool		exhausted;		/* the last look has found nothing to claim */
	bool		claiming;		/* now */
	bool		careful;		/* row by row, since one cannot be claimed */
} SendkitDeliveryRun;

extern void sendkit_run_begin(SendkitDeliveryRun *run, Oid extension,
							  const SendkitDeliverer *deliverer, SendkitDelivery *delivery);

extern void sendkit_run_end(SendkitDeliveryRun *run);

extern bool sendkit_run_renew_key(SendkitDeliveryRun *run);

extern bool sendkit_run_may_claim(const SendkitDeliveryRun *run);

extern void sendkit_claim_prepare(SendkitDeliveryRun *run, const SendkitRevocation *revocation);

extern void sendkit_claim_free(SendkitClaim *claim);

extern void sendkit_claims_move(dlist_head *from, dlist_head *to);

#endif							/* SENDKIT_QUEUE_RUN_H */
