/*-------------------------------------------------------------------------
 *
 * queue_books.c
 *	  The books of a delivery: the transactions that settle and claim.
 *
 * A transaction settles what has been answered and claims the next rows, and is
 * short.  What it has done counts when it has committed; after an error all of it
 * is as before, and done again row by row, so that one row which cannot be written
 * delays itself alone.  A row that somebody holds is tried again for some seconds,
 * and so is the table.
 *
 * What is claimed is known by the run's token, whose lock tells that we live
 * (queue.c).  So a row that cannot be settled is left alone in the end: with the
 * end of the run it is due again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "api.h"
#include "clock.h"
#include "guc.h"
#include "queue_books.h"
#include "queue_report.h"
#include "text.h"

/* So often it is looked whether rows have arrived while others are in flight */
#define LOOK_INTERVAL_MS 500

/* How soon a locked row or table is tried again, and for how long in all */
#define LOCK_RETRY_MS 100
#define LOCK_PATIENCE_MS 10000

/* A delivery that is to end has no more time than this for a locked table */
#define LAST_LOCK_PATIENCE_MS 500

/* Backoff between attempts: from 1 s up to 1 h */
#define MAX_BACKOFF_S 3600.0

/* Not one row but something else is the matter if so many cannot be claimed */
#define MAX_UNCLAIMED 20

/* --- what becomes of a row --- */

/*
 * Exponential in the number of attempts, and never the same for two rows that
 * failed together.
 */
static double
backoff_s(int attempts)
{
	double		delay = pow(2.0, Min(attempts - 1, 30));

	if (delay >= MAX_BACKOFF_S)
		return MAX_BACKOFF_S * (0.75 + 0.25 * pg_prng_double(&pg_global_prng_state));
	return Min(delay * (1.0 + 0.5 * pg_prng_double(&pg_global_prng_state)), MAX_BACKOFF_S);
}

static TimestampTz
next_attempt(const SendkitClaim *claim)
{
	double		delay = backoff_s(claim->revocation.attempts);
	double		asked = claim->deletion.verdict.retry_after_ms / 1000.0;

	/* a refused key is no fault of the row's */
	if (claim->deletion.verdict.key_refused)
		return GetCurrentTimestamp();
	delay = Max(delay, Min(asked, MAX_BACKOFF_S));
	return GetCurrentTimestamp() + (TimestampTz) (delay * USECS_PER_SEC);
}

static SendkitFate
fate_of(const SendkitClaim *claim)
{
	if (claim->unsent)
		return SENDKIT_FATE_UNSENT;
	if (claim->fault)
		return SENDKIT_FATE_FAILED;
	switch (claim->deletion.verdict.outcome)
	{
		case SENDKIT_DELETED:
		case SENDKIT_ABSENT:
			return SENDKIT_FATE_DONE;
		case SENDKIT_REJECTED:
			if (!claim->deletion.verdict.key_refused)
				return SENDKIT_FATE_FAILED;
			break;
		case SENDKIT_UNAVAILABLE:
		case SENDKIT_UNKNOWN:
			break;
	}
	/* a late retry could delete a newer key */
	return claim->revocation.not_after <= GetCurrentTimestamp() ?
		SENDKIT_FATE_FAILED : SENDKIT_FATE_PENDING;
}

static SendkitSettled
settle(SendkitDeliveryRun *run, SendkitQueue *queue, SendkitClaim *claim)
{
	const SendkitVerdict *verdict = &claim->deletion.verdict;
	SendkitSettlement settlement;

	memset(&settlement, 0, sizeof(settlement));
	settlement.id = claim->revocation.id;
	settlement.attempts = claim->revocation.attempts;
	settlement.fate = claim->fate = fate_of(claim);
	if (claim->fault)
		/* what is known from earlier attempts stays */
		settlement.message = claim->fault;
	else if (!claim->unsent)
	{
		settlement.next_attempt_at = next_attempt(claim);
		settlement.outcome = sendkit_outcome_name(verdict->outcome);
		settlement.status = verdict->status;
		settlement.message = verdict->message;
	}
	return sendkit_queue_settle(queue, &run->token, &settlement);
}

/* --- settling --- */

/* Its row cannot be settled: with the end of the run it is due again. */
static void
abandon(SendkitDeliveryRun *run, SendkitClaim *claim)
{
	run->delivery->abandoned++;
	claim->lost = true;
	dlist_push_tail(&run->settled, &claim->node);
}

static void
take_locked(SendkitDeliveryRun *run, SendkitClaim *claim)
{
	int64		now = sendkit_clock_now();

	if (claim->locked_since == 0)
		claim->locked_since = now;
	if (now - claim->locked_since >= LOCK_PATIENCE_MS)
		abandon(run, claim);
	else
		dlist_push_tail(&run->locked, &claim->node);
}

/* A claim stays where it is known while settling it may fail. */
static void
settle_first(SendkitDeliveryRun *run, SendkitQueue *queue)
{
	SendkitClaim *claim = dlist_head_element(SendkitClaim, node, &run->answered);
	SendkitSettled settled = settle(run, queue, claim);

	dlist_delete(&claim->node);
	if (settled == SENDKIT_SETTLE_LOCKED)
	{
		take_locked(run, claim);
		return;
	}
	claim->lost = (settled == SENDKIT_SETTLE_LOST);
	dlist_push_tail(&run->settled, &claim->node);
}

static void
settle_answered(SendkitDeliveryRun *run, SendkitQueue *queue)
{
	if (run->retry_at <= sendkit_clock_now())
	{
		sendkit_claims_move(&run->locked, &run->answered);
		run->retry_at = sendkit_clock_now() + LOCK_RETRY_MS;
	}
	while (!dlist_is_empty(&run->answered))
		settle_first(run, queue);
	run->nanswered = 0;
}

/*
 * What has been settled counts, now that the transaction has committed.  To say
 * anything would have a pending interrupt served, which has to wait until what
 * is known has been saved.
 */
static void
finish_settled(SendkitDeliveryRun *run)
{
	HOLD_INTERRUPTS();
	while (!dlist_is_empty(&run->settled))
	{
		SendkitClaim *claim = dlist_container(SendkitClaim, node, dlist_pop_head_node(&run->settled));

		if (!claim->lost)
			sendkit_report_settled(run->delivery, claim);
		sendkit_claim_free(claim);
	}
	RESUME_INTERRUPTS();
}

/* --- claiming --- */

static void
claim_more(SendkitDeliveryRun *run, SendkitQueue *queue)
{
	SendkitRevocation *revocations;
	int			limit = run->careful ? 1 :
		Min(sendkit_batch_size, 2 * sendkit_max_concurrency);
	int			count;
	bool		late = true;
	MemoryContext old;

	sendkit_run_renew_key(run);
	run->token_before = run->token;
	run->claiming = true;
	count = sendkit_queue_claim(queue, &run->token, limit, &revocations);
	run->claiming = false;
	old = MemoryContextSwitchTo(run->context);
	for (int i = 0; i < count; i++)
	{
		sendkit_claim_prepare(run, &revocations[i]);
		if (revocations[i].requested_at <= run->deliverer->claim_until)
			late = false;
	}
	MemoryContextSwitchTo(old);

	run->exhausted = (count == 0);
	run->look_at = count < limit ? sendkit_clock_now() + LOOK_INTERVAL_MS : 0;
	if (count > 0 && late)
		run->stop_claiming = true;
}

/* What has been claimed may be sent, now that the transaction has committed. */
static void
start_claimed(SendkitDeliveryRun *run)
{
	while (!dlist_is_empty(&run->claimed))
	{
		SendkitClaim *claim = dlist_container(SendkitClaim, node, dlist_pop_head_node(&run->claimed));

		if (claim->fault)
		{
			dlist_push_tail(&run->answered, &claim->node);
			run->nanswered++;
			continue;
		}
		dlist_push_tail(&run->under_way, &claim->node);
		sendkit_dispatcher_add(run->dispatcher, &claim->deletion);
	}
}

/* A delivery may never end, and what goes wrong must be heard of before. */
static void
tell(SendkitDeliveryRun *run, SendkitQueue *queue)
{
	if (run->deliverer->tell == NULL)
		return;
	HOLD_INTERRUPTS();
	run->deliverer->tell(run->delivery, queue);
	RESUME_INTERRUPTS();
}

/* --- transactions --- */

static void
commit_books(SendkitDeliveryRun *run)
{
	run->deliverer->commit();
	MemoryContextSwitchTo(run->context);
}

/* What the transaction has settled is not, and what it has claimed neither. */
static void
roll_back_books(SendkitDeliveryRun *run)
{
	run->deliverer->rollback();
	MemoryContextSwitchTo(run->context);
	sendkit_claims_move(&run->settled, &run->answered);
	while (!dlist_is_empty(&run->claimed))
		sendkit_claim_free(dlist_container(SendkitClaim, node, dlist_pop_head_node(&run->claimed)));
}

/*
 * To be called in PG_CATCH(): rolls back, and returns the error, which is then
 * over, in the run's memory.
 */
ErrorData *
sendkit_books_take_error(SendkitDeliveryRun *run)
{
	ErrorData  *error;

	MemoryContextSwitchTo(run->context);
	error = CopyErrorData();
	FlushErrorState();
	roll_back_books(run);
	return error;
}

static void
report_shut(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not open the queue of revocations: somebody holds a lock on it")));
}

/* Somebody has the table locked: not for too long. */
static void
leave_shut(SendkitDeliveryRun *run)
{
	int64		now = sendkit_clock_now();

	if (run->shut_since == 0)
		run->shut_since = now;
	if (now - run->shut_since >= LOCK_PATIENCE_MS)
		report_shut();
	run->open_at = now + LOCK_RETRY_MS;
}

static void
enter_books(SendkitDeliveryRun *run)
{
	SendkitQueue *queue = sendkit_queue_open(run->extension, false);

	if (queue == NULL)
	{
		leave_shut(run);
		return;
	}
	run->shut_since = run->open_at = 0;
	settle_answered(run, queue);
	if (sendkit_run_may_claim(run))
		claim_more(run, queue);
	tell(run, queue);
	sendkit_queue_close(queue);
}

static void
settle_first_alone(SendkitDeliveryRun *run)
{
	SendkitQueue *queue = sendkit_queue_open(run->extension, false);

	if (queue == NULL)
		report_shut();
	settle_first(run, queue);
	sendkit_queue_close(queue);
}

/*
 * The books could not be kept.  Whatever it was that failed may concern one row
 * only: that one is abandoned.  Returns whether any could be settled.
 */
static bool
settle_one_by_one(SendkitDeliveryRun *run)
{
	volatile bool any = false;

	while (!dlist_is_empty(&run->answered))
	{
		SendkitClaim *claim = dlist_head_element(SendkitClaim, node, &run->answered);

		PG_TRY();
		{
			settle_first_alone(run);
			commit_books(run);
			any = true;
		}
		PG_CATCH();
		{
			ErrorData  *error = sendkit_books_take_error(run);

			/* which is to have no interrupt served while others are unsettled */
			HOLD_INTERRUPTS();
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not settle revocation " INT64_FORMAT ": %s",
							claim->revocation.id,
							sendkit_text_for_client(error->message))));
			RESUME_INTERRUPTS();
			FreeErrorData(error);
			/* in whatever list it is by now */
			dlist_delete(&claim->node);
			abandon(run, claim);
		}
		PG_END_TRY();
		finish_settled(run);
	}
	run->nanswered = 0;
	return any;
}

/*
 * Claiming has failed, which may concern one row only: goes on row by row, and
 * past it.  Returns false if it was not for claiming.
 */
static bool
pass_over(SendkitDeliveryRun *run, const ErrorData *error)
{
	if (!run->claiming)
		return false;
	run->claiming = false;
	run->exhausted = false;
	run->look_at = 0;
	if (!run->careful)
	{
		run->careful = true;
		run->token = run->token_before;
		return true;
	}
	sendkit_queue_pass_over(&run->token);
	run->delivery->unclaimed++;
	sendkit_text_clip(run->delivery->trouble, error->message, sizeof(run->delivery->trouble));
	return run->delivery->unclaimed < MAX_UNCLAIMED;
}

static bool
is_interrupt(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/*
 * The transaction between two spells of sending: settles what is answered, claims
 * more if more may be claimed, commits, and hands on what it has claimed.  Rows
 * that cannot be settled or claimed are left alone.  Raises what keeps it from
 * going on, rolled back.
 */
void
sendkit_books_keep(SendkitDeliveryRun *run)
{
	MemoryContext books = AllocSetContextCreate(run->context, "sendkit books",
												ALLOCSET_DEFAULT_SIZES);

	PG_TRY();
	{
		MemoryContextSwitchTo(books);
		enter_books(run);
		MemoryContextSwitchTo(run->context);
		commit_books(run);
	}
	PG_CATCH();
	{
		ErrorData  *error = sendkit_books_take_error(run);

		if (is_interrupt(error) ||
			(!pass_over(run, error) && !settle_one_by_one(run)))
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextDelete(books);
	finish_settled(run);
	start_claimed(run);
}

/*
 * Returns when the books are to be kept next, by sendkit_clock_now(), or
 * SENDKIT_BOOKS_NEVER: when something has happened.  Cannot raise.
 */
int64
sendkit_books_due(SendkitDeliveryRun *run)
{
	int64		due = SENDKIT_BOOKS_NEVER;

	if (run->nanswered >= sendkit_batch_size)
		due = 0;
	else if (run->nanswered > 0)
		due = run->settle_at;
	if (!dlist_is_empty(&run->locked))
		due = Min(due, run->retry_at);
	if (sendkit_run_may_claim(run))
		due = Min(due, run->look_at);
	if (dlist_is_empty(&run->under_way) && run->nanswered > 0)
		due = 0;
	return Max(due, run->open_at);
}

/*
 * Settles what is answered, for the last time: all at once if possible, and else
 * row by row.  Raises nothing.
 */
void
sendkit_books_save(SendkitDeliveryRun *run)
{
	int64		give_up = sendkit_clock_now() + LAST_LOCK_PATIENCE_MS;
	SendkitQueue *queue;

	PG_TRY();
	{
		while ((queue = sendkit_queue_open(run->extension, false)) == NULL &&
			   sendkit_clock_now() < give_up)
			pg_usleep(LOCK_RETRY_MS * 1000L);
		if (queue)
		{
			settle_answered(run, queue);
			sendkit_queue_close(queue);
		}
		commit_books(run);
	}
	PG_CATCH();
	{
		/* the first error is the one to be told */
		FreeErrorData(sendkit_books_take_error(run));
		(void) settle_one_by_one(run);
	}
	PG_END_TRY();
	finish_settled(run);
}
