/*-------------------------------------------------------------------------
 *
 * queue_run.c
 *	  A delivery under way: its beginning and end, its key, and its claims.
 *
 * Memory: the run's context lives across transactions.  A claim moves from list
 * to list, and is freed when the transaction that settled it has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "api.h"
#include "guc.h"
#include "queue_run.h"

/*
 * Begins a delivery with nothing claimed, to be ended by sendkit_run_end() also
 * after an error; and clears what is to come of it.  Its memory is a child of the
 * current context.
 */
void
sendkit_run_begin(SendkitDeliveryRun *run, Oid extension,
				  const SendkitDeliverer *deliverer, SendkitDelivery *delivery)
{
	memset(run, 0, sizeof(*run));
	memset(delivery, 0, sizeof(*delivery));
	run->extension = extension;
	run->deliverer = deliverer;
	run->delivery = delivery;
	run->context = AllocSetContextCreate(CurrentMemoryContext, "sendkit delivery",
										 ALLOCSET_DEFAULT_SIZES);
	dlist_init(&run->claimed);
	dlist_init(&run->under_way);
	dlist_init(&run->answered);
	dlist_init(&run->locked);
	dlist_init(&run->settled);
}

/*
 * Ends it: requests under way are given up, copies of keys wiped, and what was
 * claimed and not settled is due at once.  Its memory is the caller's to free.
 * Cannot raise.
 */
void
sendkit_run_end(SendkitDeliveryRun *run)
{
	if (run->dispatcher)
		sendkit_dispatcher_end(run->dispatcher);
	sendkit_credential_wipe(&run->credential);
	sendkit_credential_wipe(&run->latest);
	sendkit_queue_end_run(&run->token);
}

/*
 * Reads the key again, and sends with it from now on.  Returns whether it is
 * another one.  Raises what sendkit_credential_find() raises.
 */
bool
sendkit_run_renew_key(SendkitDeliveryRun *run)
{
	bool		changed;

	sendkit_credential_find(&run->latest, run->extension, GetUserId());
	changed = strcmp(run->latest.key, run->credential.key) != 0;
	if (changed)
	{
		run->credential = run->latest;
		run->key_generation++;
		sendkit_dispatcher_set_key(run->dispatcher, run->credential.key);
	}
	sendkit_credential_wipe(&run->latest);
	return changed;
}

/* --- claims --- */

/* Returns whether more can be sent than has been claimed.  Cannot raise. */
bool
sendkit_run_may_claim(const SendkitDeliveryRun *run)
{
	return !run->stop_claiming &&
		sendkit_dispatcher_backlog(run->dispatcher) < sendkit_max_concurrency;
}

/*
 * Makes a claim of a row that is claimed in this transaction, and adds it to
 * run->claimed, with the fault, if there is one, for which it must not be sent.
 * In the current memory context, the run's.
 */
void
sendkit_claim_prepare(SendkitDeliveryRun *run, const SendkitRevocation *revocation)
{
	SendkitClaim *claim = palloc0(sizeof(SendkitClaim));
	const char *fault = NULL;

	claim->revocation = *revocation;
	claim->revocation.workspace_id = pstrdup(revocation->workspace_id);
	claim->deletion.path = sendkit_api_key_path(&run->converter,
												revocation->workspace_id,
												strlen(revocation->workspace_id),
												&fault);
	if (claim->deletion.path == NULL)
		claim->fault = fault;
	else if (revocation->not_after <= GetCurrentTimestamp())
		claim->fault = "its \"not_after\" had passed before it could be delivered";
	claim->deletion.send_before = revocation->not_after;
	claim->key_generation = run->key_generation;
	dlist_push_tail(&run->claimed, &claim->node);
}

/* Frees a claim that is in no list any more.  Cannot raise. */
void
sendkit_claim_free(SendkitClaim *claim)
{
	if (claim->deletion.path)
		pfree(unconstify(char *, claim->deletion.path));
	sendkit_verdict_free(&claim->deletion.verdict);
	pfree(claim->revocation.workspace_id);
	pfree(claim);
}

/* Moves all claims of a list to the end of another.  Cannot raise. */
void
sendkit_claims_move(dlist_head *from, dlist_head *to)
{
	while (!dlist_is_empty(from))
		dlist_push_tail(to, dlist_pop_head_node(from));
}
