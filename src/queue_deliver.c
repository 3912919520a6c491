/*-------------------------------------------------------------------------
 *
 * queue_deliver.c
 *	  Delivers what is due: the loop that introduces the queue to the API.
 *
 * A delivery goes round: one short transaction, the books, settles what has
 * been answered and claims the next rows; then, with no snapshot and no lock
 * held, requests are sent and answers gathered.  Requests stay in flight while
 * the next rows are claimed, so that the window never runs dry and a hung
 * request delays nobody but itself.  It ends when nothing is under way and
 * nothing more can be claimed.
 *
 * What is claimed is known by the run's token, whose lock tells that we live
 * (queue.c).  So a row that cannot be settled, because somebody holds it or
 * because writing it fails, is left alone in the end: with the end of the run it
 * is due again.  It delays nobody else.
 *
 * A delivery that fails, is cancelled or is to stop still settles what it knows:
 * answers that have come, rows that have not been sent.  What is in flight
 * counts as unknown.  A process that dies settles nothing.
 *
 * The procedure (queue_process.c) and the worker (worker.c) differ in how they
 * make transactions, which the deliverer's functions hide.
 *
 * Memory: the run's context lives across transactions.  A claim moves from list
 * to list, and is freed when the transaction that settled it has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "compat.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "api.h"
#include "clock.h"
#include "credential.h"
#include "dispatch.h"
#include "guc.h"
#include "queue.h"
#include "queue_deliver.h"

/* An answer is settled after this time at the latest */
#define SETTLE_INTERVAL_MS 200

/* So often it is looked whether rows have arrived while others are in flight */
#define LOOK_INTERVAL_MS 500

/* ... and what the surroundings wish */
#define WISH_INTERVAL_MS 250

/* How soon a locked row or table is tried again, and for how long in all */
#define LOCK_RETRY_MS 100
#define LOCK_PATIENCE_MS 10000

/* A delivery that is to end has no more time than this for a locked table */
#define LAST_LOCK_PATIENCE_MS 500

/* Backoff between attempts: from 1 s up to 1 h */
#define MAX_BACKOFF_S 3600.0

/* Not one row but something else is the matter if so many cannot be claimed */
#define MAX_UNCLAIMED 20

/* So many first attempts without a key may be chance */
#define FEW_ABSENT 5

#define NEVER PG_INT64_MAX

/* A claimed row on its way */
typedef struct Claim
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
} Claim;

typedef struct Run
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
} Run;

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
next_attempt(const Claim *claim)
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
fate_of(const Claim *claim)
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
settle(Run *run, SendkitQueue *queue, Claim *claim)
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

static void
free_claim(Claim *claim)
{
	if (claim->deletion.path)
		pfree(unconstify(char *, claim->deletion.path));
	sendkit_verdict_free(&claim->deletion.verdict);
	pfree(claim->revocation.workspace_id);
	pfree(claim);
}

/* --- what is told of it --- */

static const char *
message_of(const Claim *claim)
{
	return claim->fault ? claim->fault : claim->deletion.verdict.message;
}

static void
warn_failed(const Claim *claim)
{
	bool		expired = claim->revocation.not_after <= GetCurrentTimestamp();

	ereport(WARNING,
			(errmsg("could not revoke the API key of workspace \"%s\": %s",
					claim->revocation.workspace_id, message_of(claim)),
			 errdetail("Revocation " INT64_FORMAT " has failed after attempt %d.",
					   claim->revocation.id, claim->revocation.attempts),
			 expired ? 0 :
			 errhint("Call sendkit_retry_revocations() to have it tried again.")));
}

static void
count(SendkitDelivery *delivery, const Claim *claim)
{
	const SendkitVerdict *verdict = &claim->deletion.verdict;

	if (claim->revocation.attempts == 1 && claim->deletion.finished && !claim->unsent)
	{
		delivery->first_attempts++;
		if (verdict->outcome == SENDKIT_ABSENT)
			delivery->first_absent++;
	}
	switch (claim->fate)
	{
		case SENDKIT_FATE_DONE:
			delivery->done++;
			break;
		case SENDKIT_FATE_FAILED:
			delivery->failed++;
			break;
		case SENDKIT_FATE_PENDING:
			if (!verdict->key_refused)
				delivery->put_off++;
			strlcpy(delivery->trouble, message_of(claim), sizeof(delivery->trouble));
			break;
		case SENDKIT_FATE_UNSENT:
			break;
	}
}

/*
 * What has been settled counts, now that the transaction has committed.  To say
 * anything would have a pending interrupt served, which has to wait until what
 * is known has been saved.
 */
static void
finish_settled(Run *run)
{
	HOLD_INTERRUPTS();
	while (!dlist_is_empty(&run->settled))
	{
		Claim	   *claim = dlist_container(Claim, node, dlist_pop_head_node(&run->settled));

		if (!claim->lost)
			count(run->delivery, claim);
		if (!claim->lost && claim->fate == SENDKIT_FATE_FAILED)
			warn_failed(claim);
		free_claim(claim);
	}
	RESUME_INTERRUPTS();
}

/* A delivery may never end, and what goes wrong must be heard of before. */
static void
tell(Run *run, SendkitQueue *queue)
{
	if (run->deliverer->tell == NULL)
		return;
	HOLD_INTERRUPTS();
	run->deliverer->tell(run->delivery, queue);
	RESUME_INTERRUPTS();
}

/* --- the books: settling --- */

/* Its row cannot be settled: with the end of the run it is due again. */
static void
abandon(Run *run, Claim *claim)
{
	run->delivery->abandoned++;
	claim->lost = true;
	dlist_push_tail(&run->settled, &claim->node);
}

static void
take_locked(Run *run, Claim *claim)
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
settle_first(Run *run, SendkitQueue *queue)
{
	Claim	   *claim = dlist_head_element(Claim, node, &run->answered);
	SendkitSettled settled = settle(run, queue, claim);

	dlist_delete(&claim->node);
	switch (settled)
	{
		case SENDKIT_SETTLE_LOST:
			claim->lost = true;
			/* FALLTHROUGH */
		case SENDKIT_SETTLED:
			dlist_push_tail(&run->settled, &claim->node);
			break;
		case SENDKIT_SETTLE_LOCKED:
			take_locked(run, claim);
			break;
	}
}

static void
move_all(dlist_head *from, dlist_head *to)
{
	while (!dlist_is_empty(from))
		dlist_push_tail(to, dlist_pop_head_node(from));
}

static void
settle_answered(Run *run, SendkitQueue *queue)
{
	if (run->retry_at <= sendkit_clock_now())
	{
		move_all(&run->locked, &run->answered);
		run->retry_at = sendkit_clock_now() + LOCK_RETRY_MS;
	}
	while (!dlist_is_empty(&run->answered))
		settle_first(run, queue);
	run->nanswered = 0;
}

/* --- the books: claiming --- */

/* Another key from now on, if there is another one */
static bool
renew_key(Run *run)
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

static void
prepare_claim(Run *run, const SendkitRevocation *revocation)
{
	Claim	   *claim = palloc0(sizeof(Claim));
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

static bool
may_claim(const Run *run)
{
	return !run->stop_claiming &&
		sendkit_dispatcher_backlog(run->dispatcher) < sendkit_max_concurrency;
}

static void
claim_more(Run *run, SendkitQueue *queue)
{
	SendkitRevocation *revocations;
	int			limit = run->careful ? 1 :
		Min(sendkit_batch_size, 2 * sendkit_max_concurrency);
	int			count;
	bool		late = true;
	MemoryContext old;

	renew_key(run);
	run->token_before = run->token;
	run->claiming = true;
	count = sendkit_queue_claim(queue, &run->token, limit, &revocations);
	run->claiming = false;
	old = MemoryContextSwitchTo(run->context);
	for (int i = 0; i < count; i++)
	{
		prepare_claim(run, &revocations[i]);
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
start_claimed(Run *run)
{
	while (!dlist_is_empty(&run->claimed))
	{
		Claim	   *claim = dlist_container(Claim, node, dlist_pop_head_node(&run->claimed));

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

/* --- the books: transactions --- */

static void
commit_books(Run *run)
{
	run->deliverer->commit();
	MemoryContextSwitchTo(run->context);
}

/* What the transaction has settled is not, and what it has claimed neither. */
static void
roll_back_books(Run *run)
{
	run->deliverer->rollback();
	MemoryContextSwitchTo(run->context);
	move_all(&run->settled, &run->answered);
	while (!dlist_is_empty(&run->claimed))
		free_claim(dlist_container(Claim, node, dlist_pop_head_node(&run->claimed)));
}

/* To be called in PG_CATCH(): returns the error, which is then over. */
static ErrorData *
take_error(Run *run)
{
	ErrorData  *error;

	MemoryContextSwitchTo(run->context);
	error = CopyErrorData();
	FlushErrorState();
	return error;
}

/* Somebody has the table locked: not for too long. */
static void
leave_shut(Run *run)
{
	int64		now = sendkit_clock_now();

	if (run->shut_since == 0)
		run->shut_since = now;
	if (now - run->shut_since >= LOCK_PATIENCE_MS)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not open the queue of revocations: somebody holds a lock on it")));
	run->open_at = now + LOCK_RETRY_MS;
}

static void
enter_books(Run *run)
{
	SendkitQueue *queue = sendkit_queue_open(run->extension, false);

	if (queue == NULL)
	{
		leave_shut(run);
		return;
	}
	run->shut_since = run->open_at = 0;
	settle_answered(run, queue);
	if (may_claim(run))
		claim_more(run, queue);
	tell(run, queue);
	sendkit_queue_close(queue);
}

static void
settle_first_alone(Run *run)
{
	SendkitQueue *queue = sendkit_queue_open(run->extension, false);

	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not open the queue of revocations: somebody holds a lock on it")));
	settle_first(run, queue);
	sendkit_queue_close(queue);
}

/*
 * The books could not be kept.  Whatever it was that failed may concern one row
 * only: that one is abandoned.  Returns whether any could be settled.
 */
static bool
settle_one_by_one(Run *run)
{
	volatile bool any = false;

	while (!dlist_is_empty(&run->answered))
	{
		Claim	   *claim = dlist_head_element(Claim, node, &run->answered);

		PG_TRY();
		{
			settle_first_alone(run);
			commit_books(run);
			any = true;
		}
		PG_CATCH();
		{
			ErrorData  *error = take_error(run);

			roll_back_books(run);
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not settle revocation " INT64_FORMAT ": %s",
							claim->revocation.id, error->message)));
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
pass_over(Run *run, const ErrorData *error)
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
	strlcpy(run->delivery->trouble, error->message, sizeof(run->delivery->trouble));
	return run->delivery->unclaimed < MAX_UNCLAIMED;
}

static bool
is_interrupt(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/* The transaction between two spells of sending */
static void
keep_books(Run *run)
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
		ErrorData  *error = take_error(run);

		roll_back_books(run);
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

/* When the books are to be kept next; NEVER: when something has happened */
static int64
books_due(Run *run)
{
	int64		due = NEVER;

	if (run->nanswered >= sendkit_batch_size)
		due = 0;
	else if (run->nanswered > 0)
		due = run->settle_at;
	if (!dlist_is_empty(&run->locked))
		due = Min(due, run->retry_at);
	if (may_claim(run))
		due = Min(due, run->look_at);
	if (dlist_is_empty(&run->under_way) && run->nanswered > 0)
		due = 0;
	return Max(due, run->open_at);
}

/* --- sending --- */

/*
 * The API does not know the key.  It may have been replaced since; if not, it is
 * no use to send more.
 */
static void
handle_refused_key(Run *run, const Claim *claim)
{
	dlist_iter	iter;

	if (claim->key_generation < run->key_generation || renew_key(run))
		return;
	run->stop_claiming = true;
	run->delivery->key_refused = true;
	/* what has not left yet must not: its time is over */
	dlist_foreach(iter, &run->under_way)
		dlist_container(Claim, node, iter.cur)->deletion.send_before = DT_NOBEGIN;
}

static void
take_answer(Run *run, SendkitDeletion *deletion)
{
	Claim	   *claim = (Claim *) deletion;
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
heed_wish(Run *run)
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
gather_answers(Run *run)
{
	while (!dlist_is_empty(&run->under_way) && !heed_wish(run))
	{
		int64		left;
		SendkitDeletion *deletion;
		bool		woken;

		/* what was committed while we did not listen is to be looked for */
		if (run->deliverer->listen && run->deliverer->listen(may_claim(run)))
			run->look_at = 0;
		left = books_due(run) - sendkit_clock_now();
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
is_done(Run *run)
{
	return dlist_is_empty(&run->under_way) && dlist_is_empty(&run->answered) &&
		dlist_is_empty(&run->locked) &&
		(run->stop_claiming || (run->exhausted && run->shut_since == 0));
}

/* Nothing is under way; what is to be settled is locked. */
static void
await_books(Run *run)
{
	while (dlist_is_empty(&run->under_way) && !is_done(run) && !heed_wish(run))
	{
		int64		due = books_due(run);
		int64		left = due - sendkit_clock_now();

		if (left <= 0 || due == NEVER)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, WISH_INTERVAL_MS), sendkit_wait_event());
		ResetLatch(MyLatch);
		if (!ProcDiePending)
			CHECK_FOR_INTERRUPTS();
	}
}

static void
deliver(Run *run)
{
	/* an interrupt is not served before what it would lose has been saved */
	while (!heed_wish(run) && !is_done(run))
	{
		keep_books(run);
		gather_answers(run);
		await_books(run);
	}
}

/* --- saving what is known --- */

/* In flight is what the dispatcher has sent and got no answer for. */
static void
interrupt_claim(Claim *claim)
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
interrupt_claims(Run *run)
{
	dlist_iter	iter;

	sendkit_dispatcher_end(run->dispatcher);
	run->dispatcher = NULL;
	MemoryContextSwitchTo(run->context);
	dlist_foreach(iter, &run->under_way)
		interrupt_claim(dlist_container(Claim, node, iter.cur));
	move_all(&run->under_way, &run->answered);
	move_all(&run->locked, &run->answered);
}

/* All at once if possible, and else row by row.  Raises nothing. */
static void
save_what_is_known(Run *run)
{
	int64		give_up = sendkit_clock_now() + LAST_LOCK_PATIENCE_MS;
	SendkitQueue *queue;

	interrupt_claims(run);
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
		MemoryContextSwitchTo(run->context);
		FlushErrorState();
		roll_back_books(run);
		(void) settle_one_by_one(run);
	}
	PG_END_TRY();
	finish_settled(run);
}

/* Delivers; whatever ends it finds the books in order. */
static void
deliver_and_save(Run *run)
{
	PG_TRY();
	{
		deliver(run);
	}
	PG_CATCH();
	{
		ErrorData  *error = take_error(run);

		roll_back_books(run);
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

static void
begin(Run *run, Oid extension, const SendkitDeliverer *deliverer, SendkitDelivery *delivery)
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

static void
end(Run *run)
{
	if (run->dispatcher)
		sendkit_dispatcher_end(run->dispatcher);
	sendkit_credential_wipe(&run->credential);
	sendkit_credential_wipe(&run->latest);
	sendkit_queue_end_run(&run->token);
}

void
sendkit_deliver(Oid extension, const SendkitDeliverer *deliverer, SendkitDelivery *delivery)
{
	MemoryContext old = CurrentMemoryContext;
	Run			run;

	begin(&run, extension, deliverer, delivery);
	MemoryContextSwitchTo(run.context);
	PG_TRY();
	{
		/* a key that is missing may be missing because of a setting */
		sendkit_guc_check();
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
		end(&run);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(run.context);
}

void
sendkit_delivery_warn_absent(const SendkitDelivery *delivery)
{
	if (delivery->first_attempts <= FEW_ABSENT ||
		delivery->first_absent < delivery->first_attempts)
		return;
	ereport(WARNING,
			(errmsg("the SendKit API knew of no key for any of the %d workspaces that were asked for the first time",
					delivery->first_attempts),
			 errdetail("Their revocations are done. A wrong column, a wrong \"sendkit.base_url\" or a key of another account looks like that."),
			 errhint("Look at a workspace_id in sendkit_revocation, and whether the API knows it.")));
}

void
sendkit_delivery_warn_unclaimed(const SendkitDelivery *delivery)
{
	if (delivery->unclaimed > 0)
		ereport(WARNING,
				(errmsg_plural("%d revocation could not be claimed: %s",
							   "%d revocations could not be claimed; the last one: %s",
							   delivery->unclaimed, delivery->unclaimed, delivery->trouble)));
}

void
sendkit_delivery_warn_overdue(int overdue, bool or_more)
{
	ereport(WARNING,
			(or_more ?
			 errmsg("%d revocations or more are overdue", overdue) :
			 errmsg_plural("%d revocation is overdue", "%d revocations are overdue",
						   overdue, overdue),
			 errdetail("They were requested more than %d minutes ago, and have neither been delivered nor failed.",
					   SENDKIT_OVERDUE_S / 60),
			 errhint("Their outcome and message in sendkit_revocation tell what became of the last attempt.")));
}
