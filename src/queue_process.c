/*-------------------------------------------------------------------------
 *
 * queue_process.c
 *	  Delivers what is due: the loop that introduces the queue to the API.
 *
 * CALL sendkit_process_revocations() goes round: one short transaction settles
 * what has been answered and claims the next rows; then, with no snapshot and
 * no lock held, requests are sent and answers gathered.  Requests stay in
 * flight while the next rows are claimed, so that the window never runs dry.
 * What was not due when the procedure was called is left for the next call.
 *
 * A process works on a claim for less time than the claim stands (queue.c):
 * it claims only twice as many rows as it can have in flight, and gives each
 * at most MAX_REQUEST_TIMEOUT_MS.
 *
 * When the procedure fails or is cancelled, it still settles what it knows:
 * answers that have come, rows that have not been sent.  What is in flight
 * counts as unknown.  A process that dies, or is terminated, settles nothing;
 * its claims expire.
 *
 * Memory: the run's context lives as long as the procedure, across its
 * transactions.  A claim is freed when the transaction that settled it has
 * committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "nodes/parsenodes.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "api.h"
#include "clock.h"
#include "credential.h"
#include "dispatch.h"
#include "extension.h"
#include "guc.h"
#include "queue.h"

/* No request of ours takes longer */
#define MAX_REQUEST_TIMEOUT_MS (5 * 60 * 1000)

/* An answer is settled after this time at the latest */
#define SETTLE_INTERVAL_MS 1000

/* A failed process waits this long for a lock to save what it knows */
#define SAVE_LOCK_TIMEOUT "2s"

/* Backoff between attempts: from 1 s up to 1 h */
#define MAX_BACKOFF_S 3600.0

/* A claimed row on its way */
typedef struct Claim
{
	SendkitDeletion deletion;	/* first, so that one is found by the other */
	SendkitRevocation revocation;
	dlist_node	node;			/* in one of the run's lists */
} Claim;

typedef struct Run
{
	Oid			extension;
	SendkitRun	claims;
	SendkitQueue *queue;		/* while it is worked on */
	MemoryContext context;
	SendkitTextConverter converter;
	SendkitCredential credential;
	SendkitDispatcher *dispatcher;
	dlist_head	under_way;		/* handed to the dispatcher */
	dlist_head	answered;		/* to be settled */
	dlist_head	settled;		/* in a transaction that has yet to commit */
	int			nanswered;
	bool		exhausted;		/* nothing more to claim */
} Run;

PG_FUNCTION_INFO_V1(sendkit_process_revocations);

/* --- settling --- */

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

	delay = Max(delay, Min(asked, MAX_BACKOFF_S));
	return GetCurrentTimestamp() + (TimestampTz) (delay * USECS_PER_SEC);
}

/* What becomes of a row by its verdict */
static SendkitFate
fate_of(const Claim *claim)
{
	switch (claim->deletion.verdict.outcome)
	{
		case SENDKIT_DELETED:
		case SENDKIT_ABSENT:
			return SENDKIT_FATE_DONE;
		case SENDKIT_REJECTED:
			return SENDKIT_FATE_FAILED;
		case SENDKIT_UNAVAILABLE:
		case SENDKIT_UNKNOWN:
			break;
	}
	/* a late retry could delete a newer key */
	return claim->revocation.not_after <= GetCurrentTimestamp() ?
		SENDKIT_FATE_FAILED : SENDKIT_FATE_PENDING;
}

static void
warn_failed(const Claim *claim, const char *message)
{
	ereport(WARNING,
			(errmsg("could not revoke the API key of workspace \"%s\": %s",
					claim->revocation.workspace_id, message),
			 errdetail("Revocation " INT64_FORMAT " has failed after attempt %d.",
					   claim->revocation.id, claim->revocation.attempts),
			 errhint("Call sendkit_retry_revocations() to have it tried again.")));
}

static void
settle_finished(Run *run, const Claim *claim)
{
	const SendkitVerdict *verdict = &claim->deletion.verdict;
	SendkitSettlement settlement;

	settlement.id = claim->revocation.id;
	settlement.attempts = claim->revocation.attempts;
	settlement.fate = fate_of(claim);
	settlement.next_attempt_at = next_attempt(claim);
	settlement.outcome = sendkit_outcome_name(verdict->outcome);
	settlement.status = verdict->status;
	settlement.message = verdict->message;

	if (sendkit_queue_settle(run->queue, &run->claims, &settlement) == SENDKIT_SETTLED &&
		settlement.fate == SENDKIT_FATE_FAILED)
		warn_failed(claim, verdict->message);
}

/* A row that must not or cannot be sent has failed. */
static void
settle_unsendable(Run *run, const Claim *claim, const char *message)
{
	SendkitSettlement settlement;

	memset(&settlement, 0, sizeof(settlement));
	settlement.id = claim->revocation.id;
	settlement.attempts = claim->revocation.attempts;
	settlement.fate = SENDKIT_FATE_FAILED;
	/* what is known from earlier attempts stays */
	settlement.message = message;
	if (sendkit_queue_settle(run->queue, &run->claims, &settlement) == SENDKIT_SETTLED)
		warn_failed(claim, message);
}

/* A row that was claimed and never sent goes back as it was. */
static void
settle_unsent(Run *run, const Claim *claim)
{
	SendkitSettlement settlement;

	memset(&settlement, 0, sizeof(settlement));
	settlement.id = claim->revocation.id;
	settlement.attempts = claim->revocation.attempts;
	settlement.fate = SENDKIT_FATE_UNSENT;
	(void) sendkit_queue_settle(run->queue, &run->claims, &settlement);
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

static void
settle_answered(Run *run)
{
	while (!dlist_is_empty(&run->answered))
	{
		/* it stays where it is known while that may fail */
		Claim	   *claim = dlist_head_element(Claim, node, &run->answered);

		settle_finished(run, claim);
		dlist_delete(&claim->node);
		dlist_push_tail(&run->settled, &claim->node);
	}
	run->nanswered = 0;
}

static void
free_settled(Run *run)
{
	while (!dlist_is_empty(&run->settled))
		free_claim(dlist_container(Claim, node, dlist_pop_head_node(&run->settled)));
}

/* The transaction that settled them was rolled back. */
static void
unsettle(Run *run)
{
	while (!dlist_is_empty(&run->settled))
		dlist_push_tail(&run->answered, dlist_pop_head_node(&run->settled));
}

/* --- claiming --- */

/* Hands a row to the dispatcher, or settles one that must not be sent any more. */
static void
start_claim(Run *run, const SendkitRevocation *revocation)
{
	Claim	   *claim = palloc0(sizeof(Claim));
	const char *fault;

	claim->revocation = *revocation;
	claim->revocation.workspace_id = pstrdup(revocation->workspace_id);
	claim->deletion.path = sendkit_api_key_path(&run->converter,
												revocation->workspace_id,
												strlen(revocation->workspace_id),
												&fault);
	if (claim->deletion.path && revocation->not_after <= GetCurrentTimestamp())
		fault = "its \"not_after\" had passed before it could be delivered";
	claim->deletion.send_before = revocation->not_after;
	if (fault)
	{
		settle_unsendable(run, claim, fault);
		free_claim(claim);
		return;
	}
	dlist_push_tail(&run->under_way, &claim->node);
	sendkit_dispatcher_add(run->dispatcher, &claim->deletion);
}

static void
claim_more(Run *run)
{
	SendkitRevocation *revocations;
	int			limit = Min(sendkit_batch_size, 2 * sendkit_max_concurrency);
	int			count = sendkit_queue_claim(run->queue, &run->claims, limit, &revocations);
	MemoryContext old = MemoryContextSwitchTo(run->context);

	for (int i = 0; i < count; i++)
		start_claim(run, &revocations[i]);
	MemoryContextSwitchTo(old);
	run->exhausted = (count < limit);
}

static bool
wants_more(const Run *run)
{
	return !run->exhausted &&
		sendkit_dispatcher_backlog(run->dispatcher) < sendkit_max_concurrency;
}

static void
settle_and_claim(Run *run)
{
	settle_answered(run);
	if (wants_more(run))
		claim_more(run);
}

/*
 * Runs work on the queue in a subtransaction, so that an error leaves the procedure where it can still roll back and commit:
 * snapshots, user and resource owner are as before.
 */
static void
work_on_queue(Run *run, void (*work) (Run *run))
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		run->queue = sendkit_queue_open(run->extension, true);
		work(run);
		sendkit_queue_close(run->queue);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
}

static void
set_for_transaction(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Several processes at once skip each other's rows; under a stricter isolation
 * level, which may be the session's default, they would fail instead.
 */
static void
begin_books(void)
{
	set_for_transaction("transaction_isolation", "read committed");
}

/* A lost synchronous standby must not hold up the books. */
static void
commit_books(void)
{
	set_for_transaction("synchronous_commit", "local");
	SPI_commit();
}

/* The transaction between two spells of sending */
static void
keep_books(Run *run)
{
	MemoryContext books;

	if (run->nanswered == 0 && !wants_more(run))
		return;

	begin_books();
	books = AllocSetContextCreate(run->context, "sendkit books", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(books);
	work_on_queue(run, settle_and_claim);
	MemoryContextSwitchTo(run->context);
	commit_books();
	free_settled(run);
	MemoryContextDelete(books);
}

/* --- sending --- */

/* The API takes nothing for longer than a row would be kept waiting. */
static bool
is_shut_out(const SendkitVerdict *verdict)
{
	return verdict->limits_all &&
		verdict->retry_after_ms > Min(sendkit_request_timeout, MAX_REQUEST_TIMEOUT_MS);
}

static void
take_answer(Run *run, SendkitDeletion *deletion)
{
	Claim	   *claim = (Claim *) deletion;

	dlist_delete(&claim->node);
	dlist_push_tail(&run->answered, &claim->node);
	run->nanswered++;
	/* the next call may find another key */
	if (is_shut_out(&deletion->verdict) || deletion->verdict.key_refused)
		run->exhausted = true;
}

/* Sends and gathers until there is something to enter into the books. */
static void
gather_answers(Run *run)
{
	int64		until = sendkit_clock_now() + SETTLE_INTERVAL_MS;

	while (!dlist_is_empty(&run->under_way))
	{
		int64		left = run->nanswered > 0 ? until - sendkit_clock_now() : -1;
		SendkitDeletion *deletion;

		if (run->nanswered > 0 &&
			(left <= 0 || run->nanswered >= sendkit_batch_size || wants_more(run)))
			return;
		deletion = sendkit_dispatcher_next(run->dispatcher, left);
		if (deletion)
			take_answer(run, deletion);
	}
}

static void
deliver(Run *run)
{
	/* whatever the caller has done before is not ours to commit carelessly */
	SPI_commit();
	do
	{
		keep_books(run);
		gather_answers(run);
	} while (run->nanswered > 0 || !run->exhausted);
}

/* --- interruption --- */

/* In flight is what the dispatcher has sent and got no answer for. */
static void
settle_interrupted(Run *run, Claim *claim)
{
	if (claim->deletion.finished)
		settle_finished(run, claim);
	else if (claim->deletion.in_flight)
	{
		claim->deletion.verdict.outcome = SENDKIT_UNKNOWN;
		claim->deletion.verdict.retry_after_ms = -1;
		claim->deletion.verdict.message = pstrdup("the delivery was interrupted; the API key may or may not have been deleted");
		settle_finished(run, claim);
	}
	else
		settle_unsent(run, claim);
}

static void
settle_first_under_way(Run *run)
{
	settle_interrupted(run, dlist_head_element(Claim, node, &run->under_way));
}

/*
 * Settles what is known, row by row: whatever it was that failed may concern
 * one of them only.  A row that cannot be settled is due when the run has ended.
 */
static void
save_what_is_known(Run *run)
{
	volatile bool hopeless = false;

	SPI_rollback();
	begin_books();
	set_for_transaction("lock_timeout", SAVE_LOCK_TIMEOUT);
	unsettle(run);
	while (!dlist_is_empty(&run->answered))
		dlist_push_tail(&run->under_way, dlist_pop_head_node(&run->answered));

	while (!dlist_is_empty(&run->under_way) && !hopeless)
	{
		MemoryContext old = CurrentMemoryContext;

		PG_TRY();
		{
			work_on_queue(run, settle_first_under_way);
		}
		PG_CATCH();
		{
			/* the first error is the one to be told */
			hopeless = geterrcode() == ERRCODE_QUERY_CANCELED ||
				geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE;
			MemoryContextSwitchTo(old);
			FlushErrorState();
		}
		PG_END_TRY();
		dlist_pop_head_node(&run->under_way);
	}
	commit_books();
}

/* Delivers; an error finds the books in order before it goes on. */
static void
deliver_or_save(Run *run)
{
	PG_TRY();
	{
		deliver(run);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(run->context);
		error = CopyErrorData();
		FlushErrorState();
		sendkit_dispatcher_end(run->dispatcher);
		run->dispatcher = NULL;
		save_what_is_known(run);
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* --- the procedure --- */

static void
check_nonatomic(FunctionCallInfo fcinfo)
{
	CallContext *call = (CallContext *) fcinfo->context;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("sendkit_process_revocations() cannot run inside a transaction block"),
				 errdetail("It commits what it has done batch by batch."),
				 errhint("Use CALL as a statement of its own, outside of BEGIN and COMMIT, and not from within a function.")));
}

Datum
sendkit_process_revocations(PG_FUNCTION_ARGS)
{
	Run			run;

	check_nonatomic(fcinfo);
	memset(&run, 0, sizeof(run));
	run.extension = sendkit_extension_of(fcinfo->flinfo->fn_oid);
	dlist_init(&run.under_way);
	dlist_init(&run.answered);
	dlist_init(&run.settled);

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	/* lives across transactions, as SPI's own does in a procedure */
	run.context = CurrentMemoryContext;

	PG_TRY();
	{
		sendkit_queue_begin_run(&run.claims);
		run.claims.once = true;
		sendkit_text_init(&run.converter);
		sendkit_credential_find(&run.credential, sendkit_extension_of(fcinfo->flinfo->fn_oid));
		run.dispatcher = sendkit_dispatcher_begin(&run.converter, run.credential.key,
												  sendkit_max_concurrency,
												  Min(sendkit_request_timeout,
													  MAX_REQUEST_TIMEOUT_MS));
		deliver_or_save(&run);
	}
	PG_FINALLY();
	{
		if (run.dispatcher)
			sendkit_dispatcher_end(run.dispatcher);
		sendkit_credential_wipe(&run.credential);
		sendkit_queue_end_run(&run.claims);
	}
	PG_END_TRY();

	SPI_finish();
	PG_RETURN_VOID();
}
