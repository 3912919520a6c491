/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  The durable queue of revocations: claim and settle.  Knows no HTTP.
 *
 * A row that waits is "pending".  Claiming makes it "sending", counts the
 * attempt and enters the token of the run that claims, and is committed before
 * anything is sent, so that a row which kills its process is seen to do so.
 * Settling makes it "done", "failed" or "pending" again, but only if it is still
 * that claim: the id alone could be another row's by now, if the table has been
 * emptied and numbers begun anew.
 *
 * Each run holds a lock on its token for as long as it lives (lock_tags.h).  If
 * that can be had, the process is gone, by whatever way, and what it had claimed
 * is due at once.  The lock dies with the server, too: after a crash or a
 * promotion no claim is alive.
 *
 * Rows are found by two indexes of what is unfinished, one for those that must
 * not be tried after some time and go first, one for the rest.  Claiming changes
 * no indexed column, so that it can be a heap-only update; claimed rows stay in
 * the index, and so do, as long as an old snapshot sees them, those that were
 * settled.  So a run reads each index on from where it has come to, and not again
 * and again what it has worked off; but rows that were passed over, or committed
 * late, are behind that place.  So it also begins at the front again, as often as
 * that costs less than a tenth of the time.
 *
 * Rows that a person has written by hand, in a state that we don't know or with
 * numbers that make no sense, are in nobody's way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "compat.h"
#include "home.h"
#include "lock_tags.h"
#include "queue_table.h"

/* Time spent on reading from the front, as a part of all time */
#define RESCAN_SHARE 10

/* A row that cannot be claimed is left alone for so long */
#define PASS_OVER_S 60

/* --- runs --- */

static void
forget_places(SendkitRun *run)
{
	for (SendkitQueueIndex i = 0; i <= SENDKIT_QUEUE_BY_DUE; i++)
	{
		run->places[i].next_attempt_at = DT_NOBEGIN;
		run->places[i].id = PG_INT64_MIN;
	}
	run->passed_over = false;
	run->unsure = false;
}

/* Begins a run.  Raises 53200 if there is no room for another lock. */
void
sendkit_queue_begin_run(SendkitRun *run)
{
	LOCKTAG		tag;

	memset(run, 0, sizeof(*run));
	forget_places(run);
	run->rescan_at = DT_NOBEGIN;
	do
	{
		run->token = pg_prng_uint64(&pg_global_prng_state);
		sendkit_lock_tag(&tag, SENDKIT_LOCK_RUN, run->token);
	} while (run->token == 0 ||
			 LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL);
}

/*
 * Ends it: what it has claimed and not settled is due at once for others.
 * Cannot raise; does nothing if it hasn't begun (zeroed) or has ended.  Needs no
 * transaction.  After an error the caller must see to it.
 */
void
sendkit_queue_end_run(SendkitRun *run)
{
	LOCKTAG		tag;

	if (run->token == 0)
		return;
	sendkit_lock_tag(&tag, SENDKIT_LOCK_RUN, run->token);
	(void) LockRelease(&tag, ExclusiveLock, true);
	run->token = 0;
}

/* --- looking at queue->found, and changing it --- */

static bool
is_claimed_by(SendkitQueue *queue, const SendkitRun *run)
{
	bool		isnull;
	Datum		token = sendkit_queue_get(queue, SENDKIT_QUEUE_CLAIMED_BY, &isnull);

	return run && !isnull && (uint64) DatumGetInt64(token) == run->token;
}

static bool
is_due(SendkitQueue *queue, TimestampTz now)
{
	bool		isnull;
	Datum		when = sendkit_queue_get(queue, SENDKIT_QUEUE_NEXT_ATTEMPT_AT, &isnull);

	return !isnull && DatumGetTimestampTz(when) <= now;
}

/* An unfinished row that waits for somebody to send it, perhaps not yet */
static bool
waits(SendkitQueue *queue, const SendkitRun *run)
{
	bool		isnull;

	(void) sendkit_queue_get(queue, SENDKIT_QUEUE_FINISHED_AT, &isnull);
	if (!isnull)
		return false;
	/* who owns the table may have let nulls in */
	(void) sendkit_queue_get(queue, SENDKIT_QUEUE_WORKSPACE_ID, &isnull);
	if (isnull)
		return false;
	if (sendkit_queue_is_in(queue, "pending"))
		return !(run && run->once && is_claimed_by(queue, run));
	return sendkit_queue_is_in(queue, "sending") && !is_claimed_by(queue, run) &&
		!sendkit_queue_claim_lives(queue);
}

static void
get_place(SendkitQueue *queue, SendkitQueuePlace *place)
{
	bool		isnull;

	place->next_attempt_at =
		DatumGetTimestampTz(sendkit_queue_get(queue, SENDKIT_QUEUE_NEXT_ATTEMPT_AT, &isnull));
	place->id = DatumGetInt64(sendkit_queue_get(queue, SENDKIT_QUEUE_ID, &isnull));
}

static void
set_text(SendkitQueue *queue, SendkitQueueColumn column, const char *value)
{
	MemoryContext old = MemoryContextSwitchTo(sendkit_queue_row_context(queue));

	sendkit_queue_set(queue, column, CStringGetTextDatum(value));
	MemoryContextSwitchTo(old);
}

/* --- claiming --- */

static void
read_revocation(SendkitQueue *queue, SendkitRevocation *revocation)
{
	bool		isnull;
	Datum		value;

	revocation->id = DatumGetInt64(sendkit_queue_get(queue, SENDKIT_QUEUE_ID, &isnull));
	revocation->attempts =
		DatumGetInt32(sendkit_queue_get(queue, SENDKIT_QUEUE_ATTEMPTS, &isnull));
	revocation->workspace_id =
		TextDatumGetCString(sendkit_queue_get(queue, SENDKIT_QUEUE_WORKSPACE_ID, &isnull));
	revocation->requested_at =
		DatumGetTimestampTz(sendkit_queue_get(queue, SENDKIT_QUEUE_REQUESTED_AT, &isnull));
	value = sendkit_queue_get(queue, SENDKIT_QUEUE_NOT_AFTER, &isnull);
	revocation->not_after = isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

/* Claims queue->found, if it can be had, and is still due when it can. */
static bool
claim_found(SendkitQueue *queue, SendkitRun *run, TimestampTz now, SendkitRevocation *revocation)
{
	SendkitQueueLock lock = sendkit_queue_lock(queue, LockWaitSkip);

	if (lock == SENDKIT_QUEUE_HELD)
		run->passed_over = true;
	if (lock != SENDKIT_QUEUE_LOCKED || !waits(queue, run) || !is_due(queue, now))
		return false;

	read_revocation(queue, revocation);
	/* a person may have written any number */
	if (revocation->attempts < PG_INT32_MAX)
		revocation->attempts++;
	sendkit_queue_change(queue);
	set_text(queue, SENDKIT_QUEUE_STATE, "sending");
	sendkit_queue_set(queue, SENDKIT_QUEUE_ATTEMPTS, Int32GetDatum(revocation->attempts));
	sendkit_queue_set(queue, SENDKIT_QUEUE_CLAIMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	sendkit_queue_set(queue, SENDKIT_QUEUE_CLAIMED_BY, Int64GetDatum((int64) run->token));
	sendkit_queue_write(queue);
	return true;
}

/* Claims from one index, behind the run's place in it, and moves that on. */
static int
claim_from(SendkitQueue *queue, SendkitRun *run, SendkitQueueIndex index, TimestampTz now,
		   int limit, SendkitRevocation *revocations)
{
	SendkitQueueScan scan;
	int			count = 0;

	sendkit_queue_scan(&scan, queue, index, &run->places[index]);
	while (count < limit && sendkit_queue_scan_next(&scan) && is_due(queue, now))
	{
		get_place(queue, &run->places[index]);
		if (waits(queue, run) && claim_found(queue, run, now, &revocations[count]))
			count++;
	}
	sendkit_queue_scan_end(&scan);
	return count;
}

static int
claim_on(SendkitQueue *queue, SendkitRun *run, TimestampTz now, int limit,
		 SendkitRevocation *revocations)
{
	int			count = claim_from(queue, run, SENDKIT_QUEUE_BY_URGENT, now, limit, revocations);

	return count + claim_from(queue, run, SENDKIT_QUEUE_BY_DUE, now, limit - count,
							  revocations + count);
}

/* The same from the front, and what that costs decides when it is done again. */
static int
claim_anew(SendkitQueue *queue, SendkitRun *run, int limit, SendkitRevocation *revocations)
{
	TimestampTz begin = GetCurrentTimestamp();
	TimestampTz end;
	int			count;

	forget_places(run);
	count = claim_on(queue, run, begin, limit, revocations);
	end = GetCurrentTimestamp();
	run->rescan_at = end + RESCAN_SHARE * (end - begin);
	return count;
}

/* What there is, or limit rows of it */
static int
claim_all(SendkitQueue *queue, SendkitRun *run, int limit, SendkitRevocation *revocations)
{
	TimestampTz now = GetCurrentTimestamp();
	int			count;

	if (run->rescan_at == DT_NOBEGIN)
		return claim_anew(queue, run, limit, revocations);
	count = claim_on(queue, run, now, limit, revocations);
	if (count == limit)
		return count;
	if (now >= run->rescan_at)
		return count + claim_anew(queue, run, limit - count, revocations + count);
	run->unsure = true;
	return count;
}

/*
 * Claims up to limit rows that are due now, those with a not_after first, and
 * returns how many; *revocations is in the current memory context.  Never waits
 * for a row: those that somebody holds, and those that a living run has
 * claimed, are left out.  Nothing is claimed while this database is not its
 * home (home.h).  The claim counts when the transaction has committed.
 *
 * Reading goes on behind what the run has read before; when all of that is
 * claimed it begins at the front again, unless that cost much time just now.
 * sendkit_queue_next_due() then tells when to come back.
 */
int
sendkit_queue_claim(SendkitQueue *queue, SendkitRun *run, int limit,
					SendkitRevocation **revocations)
{
	int			count = 0;

	*revocations = palloc(Max(limit, 1) * sizeof(SendkitRevocation));
	switch (sendkit_home_look(queue->extension))
	{
		case SENDKIT_HOME_HERE:
			count = claim_all(queue, run, limit, *revocations);
			CommandCounterIncrement();
			break;
		case SENDKIT_HOME_ELSEWHERE:
			break;
		case SENDKIT_HOME_LOCKED:
			run->passed_over = true;
			break;
	}
	return count;
}

/*
 * After an error while claiming one row, and the rollback: goes on behind that
 * row, and does not begin at the front again for a while.  Cannot raise.
 */
void
sendkit_queue_pass_over(SendkitRun *run)
{
	run->rescan_at = GetCurrentTimestamp() + PASS_OVER_S * USECS_PER_SEC;
	run->unsure = true;
}

/* --- settling --- */

static bool
is_claim(SendkitQueue *queue, const SendkitRun *run, const SendkitSettlement *settlement)
{
	bool		isnull;
	Datum		attempts = sendkit_queue_get(queue, SENDKIT_QUEUE_ATTEMPTS, &isnull);

	return sendkit_queue_is_in(queue, "sending") && is_claimed_by(queue, run) &&
		DatumGetInt32(attempts) == settlement->attempts;
}

/* What the API has said, if it has */
static void
set_answer(SendkitQueue *queue, const SendkitSettlement *settlement)
{
	if (settlement->outcome)
	{
		set_text(queue, SENDKIT_QUEUE_OUTCOME, settlement->outcome);
		if (settlement->status != 0)
			sendkit_queue_set(queue, SENDKIT_QUEUE_STATUS, Int32GetDatum(settlement->status));
		else
			sendkit_queue_set_null(queue, SENDKIT_QUEUE_STATUS);
	}
	if (settlement->message)
		set_text(queue, SENDKIT_QUEUE_MESSAGE, settlement->message);
}

static void
set_fate(SendkitQueue *queue, const SendkitSettlement *settlement)
{
	switch (settlement->fate)
	{
		case SENDKIT_FATE_DONE:
			set_text(queue, SENDKIT_QUEUE_STATE, "done");
			break;
		case SENDKIT_FATE_FAILED:
			set_text(queue, SENDKIT_QUEUE_STATE, "failed");
			break;
		case SENDKIT_FATE_PENDING:
			set_text(queue, SENDKIT_QUEUE_STATE, "pending");
			sendkit_queue_set_null(queue, SENDKIT_QUEUE_CLAIMED_AT);
			sendkit_queue_set(queue, SENDKIT_QUEUE_NEXT_ATTEMPT_AT,
							  TimestampTzGetDatum(settlement->next_attempt_at));
			return;
		case SENDKIT_FATE_UNSENT:
			set_text(queue, SENDKIT_QUEUE_STATE, "pending");
			sendkit_queue_set_null(queue, SENDKIT_QUEUE_CLAIMED_AT);
			sendkit_queue_set(queue, SENDKIT_QUEUE_ATTEMPTS,
							  Int32GetDatum(settlement->attempts - 1));
			return;
	}
	sendkit_queue_set(queue, SENDKIT_QUEUE_FINISHED_AT,
					  TimestampTzGetDatum(GetCurrentTimestamp()));
}

/* Settles queue->found. */
static SendkitSettled
settle_found(SendkitQueue *queue, const SendkitRun *run, const SendkitSettlement *settlement)
{
	SendkitQueueLock lock;

	if (!is_claim(queue, run, settlement))
		return SENDKIT_SETTLE_LOST;
	lock = sendkit_queue_lock(queue, LockWaitSkip);
	if (lock == SENDKIT_QUEUE_HELD)
		return SENDKIT_SETTLE_LOCKED;
	if (lock == SENDKIT_QUEUE_GONE || !is_claim(queue, run, settlement))
		return SENDKIT_SETTLE_LOST;

	sendkit_queue_change(queue);
	if (settlement->fate != SENDKIT_FATE_UNSENT)
		set_answer(queue, settlement);
	set_fate(queue, settlement);
	sendkit_queue_write(queue);
	return SENDKIT_SETTLED;
}

/*
 * Settles a row if it is still as the run has claimed it.  Never waits for the
 * row.  Raises what writing a row raises.
 */
SendkitSettled
sendkit_queue_settle(SendkitQueue *queue, const SendkitRun *run,
					 const SendkitSettlement *settlement)
{
	SendkitQueueScan scan;
	SendkitSettled settled = SENDKIT_SETTLE_LOST;

	sendkit_queue_scan_id(&scan, queue, settlement->id);
	if (sendkit_queue_scan_next(&scan))
		settled = settle_found(queue, run, settlement);
	sendkit_queue_scan_end(&scan);
	return settled;
}

/* --- what there is to do --- */

/* When the first row behind the run's place is due; without a run, of all */
static TimestampTz
next_due_of(SendkitQueue *queue, const SendkitRun *run, SendkitQueueIndex index)
{
	SendkitQueueScan scan;
	SendkitQueuePlace place = {DT_NOEND, 0};

	sendkit_queue_scan(&scan, queue, index, run ? &run->places[index] : NULL);
	while (sendkit_queue_scan_next(&scan))
	{
		if (!waits(queue, run))
			continue;
		get_place(queue, &place);
		break;
	}
	sendkit_queue_scan_end(&scan);
	return place.next_attempt_at;
}

/*
 * Returns when it is worth while to claim (again, if the run has begun; it may
 * be NULL): when the next row is due, in the past if one is now, or DT_NOEND if
 * none is left.  Rows that a living run
 * has claimed don't count; a row that somebody holds does, and cannot be
 * claimed: who is told a time that has passed and then finds nothing to claim
 * must wait before trying again.
 */
TimestampTz
sendkit_queue_next_due(SendkitQueue *queue, const SendkitRun *run)
{
	TimestampTz due = Min(next_due_of(queue, run, SENDKIT_QUEUE_BY_URGENT),
						  next_due_of(queue, run, SENDKIT_QUEUE_BY_DUE));

	if (run && run->passed_over)
		return Min(due, GetCurrentTimestamp());
	return run && run->unsure ? Min(due, run->rescan_at) : due;
}

static bool
is_overdue(SendkitQueue *queue, TimestampTz before)
{
	bool		isnull;
	Datum		requested = sendkit_queue_get(queue, SENDKIT_QUEUE_REQUESTED_AT, &isnull);

	return !isnull && DatumGetTimestampTz(requested) < before &&
		(sendkit_queue_is_in(queue, "pending") || sendkit_queue_is_in(queue, "sending"));
}

/*
 * Returns how many unfinished rows are overdue, counting up to limit.  Reads
 * all unfinished rows if there are less.
 */
int
sendkit_queue_count_overdue(SendkitQueue *queue, int limit)
{
	TimestampTz before = GetCurrentTimestamp() - SENDKIT_OVERDUE_S * USECS_PER_SEC;
	int			count = 0;

	for (SendkitQueueIndex index = SENDKIT_QUEUE_BY_URGENT; index <= SENDKIT_QUEUE_BY_DUE; index++)
	{
		SendkitQueueScan scan;

		sendkit_queue_scan(&scan, queue, index, NULL);
		while (count < limit && sendkit_queue_scan_next(&scan))
		{
			if (is_overdue(queue, before))
				count++;
		}
		sendkit_queue_scan_end(&scan);
	}
	return count;
}
