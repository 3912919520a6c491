/*-------------------------------------------------------------------------
 *
 * queue_deliver.c
 *	  Delivers what is due: the loop that introduces the queue to the API.
 *
 * A delivery goes round: one short transaction, the books (queue_books.c),
 * settles what has been answered and claims the next rows; then, with no
 * snapshot and no lock held, requests are sent and answers gathered.  Requests
 * stay in flight while the next rows are claimed, so that the window never runs
 * dry and a hung request delays nobody but itself.  It ends when nothing is
 * under way and nothing more can be claimed.
 *
 * A delivery that fails, is cancelled or is to stop still settles what it knows:
 * answers that have come, rows that have not been sent.  What is in flight
 * counts as unknown.  A process that dies settles nothing.
 *
 * The procedure (queue_process.c) and the worker (worker.c) differ in how they
 * make transactions, which the deliverer's functions hide.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "api.h"
#include "clock.h"
#include "guc.h"
#include "guc_guard.h"
#include "queue_books.h"

/* An answer is settled after this time at the latest */
#define SETTLE_INTERVAL_MS 200

/* So often it is looked what the surroundings wish */
#define WISH_INTERVAL_MS 250

/* --- sending --- */

/*
 * The API does not know the key.  It may have been replaced since; if not, it is
 * no use to send more.
 */
static void
handle_refused_key(SendkitDeliveryRun *run, const SendkitClaim *claim)
{
	dlist_iter	iter;

	if (claim->key_generation < run->key_generation || sendkit_run_renew_key(run))
		return;
	run->stop_claiming = true;
	run->delivery->key_refused = true;
	/* what has not left yet must not: its time is over */
	dlist_foreach(iter, &run->under_way)
		dlist_container(SendkitClaim, node, iter.cur)->deletion.send_before = DT_NOBEGIN;
}

static void
take_answer(SendkitDeliveryRun *run, SendkitDeletion *deletion)
{
	SendkitClaim *claim = (SendkitClaim *) deletion;
	const SendkitVerdict *verdict = &deletion->verdict;

	/* where an error finds it */
	dlist_delete(&claim->node);
	dlist_push_tail(&run->answered, &claim->node);
	if (run->nanswered++ == 0)
		run->settle_at = sendkit_clock_now() + SETTLE_INTERVAL_MS;

	if (deletion->send_before == DT_NOBEGIN && verdict->status == 0 &&
		verdict->outcome == SENDKIT_UNAVAILABLE)
	{
		claim->unsent = true;
		return;
	}
	/* nothing was reached for as long as a row would be kept trying */
	if (sendkit_dispatcher_gave_up(run->dispatcher))
		run->stop_claiming = true;
	if (verdict->limits_all && verdict->retry_after_ms > sendkit_request_timeout)
	{
		/* it takes nothing for longer than a row would be kept waiting */
		run->stop_claiming = true;
		run->delivery->shut_out_ms = verdict->retry_after_ms;
	}
	if (verdict->key_refused)
		handle_refused_key(run, claim);
}

/* Returns whether to stop. */
static bool
heed_wish(SendkitDeliveryRun *run)
{
	SendkitWish wish = run->deliverer->wish ? run->deliverer->wish() : SENDKIT_GO_ON;

	if (wish == SENDKIT_FINISH)
		run->stop_claiming = true;
	/* pg_terminate_backend(), or shutdown: not served yet */
	if (wish == SENDKIT_STOP || ProcDiePending)
		run->delivery->stopped = true;
	return run->delivery->stopped;
}

/* Sends and gathers until there is something to enter into the books. */
static void
gather_answers(SendkitDeliveryRun *run)
{
	while (!dlist_is_empty(&run->under_way) && !heed_wish(run))
	{
		int64		left;
		SendkitDeletion *deletion;
		bool		woken;

		/* what was committed while we did not listen is to be looked for */
		if (run->deliverer->listen && run->deliverer->listen(sendkit_run_may_claim(run)))
			run->look_at = 0;
		left = sendkit_books_due(run) - sendkit_clock_now();
		if (left <= 0)
			return;
		deletion = sendkit_dispatcher_next_unless_woken(run->dispatcher,
														Min(left, WISH_INTERVAL_MS), &woken);
		if (deletion)
			take_answer(run, deletion);
		if (!woken)
			continue;
		run->look_at = 0;
		if (!ProcDiePending)
			CHECK_FOR_INTERRUPTS();
	}
}

static bool
is_done(SendkitDeliveryRun *run)
{
	return dlist_is_empty(&run->under_way) && dlist_is_empty(&run->answered) &&
		dlist_is_empty(&run->locked) &&
		(run->stop_claiming || (run->exhausted && run->shut_since == 0));
}

/* Nothing is under way; what is to be settled is locked. */
static void
await_books(SendkitDeliveryRun *run)
{
	while (dlist_is_empty(&run->under_way) && !is_done(run) && !heed_wish(run))
	{
		int64		due = sendkit_books_due(run);
		int64		left = due - sendkit_clock_now();

		if (left <= 0 || due == SENDKIT_BOOKS_NEVER)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, WISH_INTERVAL_MS), sendkit_wait_event());
		ResetLatch(MyLatch);
		if (!ProcDiePending)
			CHECK_FOR_INTERRUPTS();
	}
}

static void
deliver(SendkitDeliveryRun *run)
{
	/* an interrupt is not served before what it would lose has been saved */
	while (!heed_wish(run) && !is_done(run))
	{
		sendkit_books_keep(run);
		gather_answers(run);
		await_books(run);
	}
}

/* --- saving what is known --- */

/* In flight is what the dispatcher has sent and got no answer for. */
static void
interrupt_claim(SendkitClaim *claim)
{
	SendkitVerdict *verdict = &claim->deletion.verdict;

	if (claim->deletion.finished)
		return;
	if (!claim->deletion.in_flight)
		claim->unsent = true;
	else
	{
		sendkit_verdict_free(verdict);
		memset(verdict, 0, sizeof(*verdict));
		verdict->outcome = SENDKIT_UNKNOWN;
		verdict->retry_after_ms = -1;
		verdict->message = pstrdup("the delivery was interrupted; the API key may or may not have been deleted");
	}
}

static void
interrupt_claims(SendkitDeliveryRun *run)
{
	dlist_iter	iter;

	sendkit_dispatcher_end(run->dispatcher);
	run->dispatcher = NULL;
	MemoryContextSwitchTo(run->context);
	dlist_foreach(iter, &run->under_way)
		interrupt_claim(dlist_container(SendkitClaim, node, iter.cur));
	sendkit_claims_move(&run->under_way, &run->answered);
	sendkit_claims_move(&run->locked, &run->answered);
}

static void
save_what_is_known(SendkitDeliveryRun *run)
{
	interrupt_claims(run);
	sendkit_books_save(run);
}

/* Delivers; whatever ends it finds the books in order. */
static void
deliver_and_save(SendkitDeliveryRun *run)
{
	PG_TRY();
	{
		deliver(run);
	}
	PG_CATCH();
	{
		ErrorData  *error = sendkit_books_take_error(run);

		save_what_is_known(run);
		ReThrowError(error);
	}
	PG_END_TRY();

	if (run->delivery->stopped)
	{
		uint32		holdoff = InterruptHoldoffCount;

		/* the interrupt that is pending would end the process first */
		HOLD_INTERRUPTS();
		save_what_is_known(run);
		/* an error on the way has set it to zero */
		InterruptHoldoffCount = holdoff;
	}
}

/* --- the door --- */

/*
 * Delivers all that is due in an extension's queue (extension.h), and what
 * becomes due meanwhile, as the current user and with that user's key.  To be
 * called in a transaction that may be committed, without a snapshot, and in a
 * memory context that outlasts transactions.
 * Raises what keeps it from going on, with the books in order: no key, what the
 * queue raises, and interrupts above all.  The delivery is filled in in any case.
 */
void
sendkit_deliver(Oid extension, const SendkitDeliverer *deliverer, SendkitDelivery *delivery)
{
	MemoryContext old = CurrentMemoryContext;
	SendkitDeliveryRun run;

	sendkit_run_begin(&run, extension, deliverer, delivery);
	MemoryContextSwitchTo(run.context);
	PG_TRY();
	{
		/* a key that is missing may be missing because of a setting */
		sendkit_guard_check();
		sendkit_text_init(&run.converter);
		sendkit_credential_find(&run.credential, extension, GetUserId());
		run.dispatcher = sendkit_dispatcher_begin(&run.converter, run.credential.key,
												  sendkit_max_concurrency,
												  sendkit_request_timeout);
		sendkit_queue_begin_run(&run.token);
		run.token.once = deliverer->once;
		deliver_and_save(&run);
	}
	PG_FINALLY();
	{
		sendkit_run_end(&run);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(run.context);
}
