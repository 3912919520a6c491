/*-------------------------------------------------------------------------
 *
 * queue_person.c
 *	  What a person does to the queue: retry, cancel, adopt.
 *
 * These wait for rows that somebody else holds, as a statement would, since a
 * person is there to cancel them.  What a living run is sending they leave alone:
 * nobody knows yet what becomes of it.
 *
 * Adopting changes no row.  What was claimed in the database that this one is a
 * copy of has no living process here, so that it is due as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "extension.h"
#include "home.h"
#include "queue_table.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(sendkit_retry_revocations);
PG_FUNCTION_INFO_V1(sendkit_cancel_revocations);
PG_FUNCTION_INFO_V1(sendkit_adopt_revocations);

typedef enum Decision
{
	LEAVE,
	CHANGE,
	LEAVE_EXPIRED,
} Decision;

/* What is done to queue->found, and how often it was */
typedef struct Act
{
	Decision	(*decide) (SendkitQueue *queue);
	void		(*change) (SendkitQueue *queue);
	int64		changed;
	int64		expired;
} Act;

/* --- to any row --- */

static void
apply_to_found(SendkitQueue *queue, Act *act)
{
	Decision	decision = act->decide(queue);

	if (decision == LEAVE_EXPIRED)
		act->expired++;
	if (decision != CHANGE)
		return;
	/* while we waited it may have become another one's */
	if (sendkit_queue_lock(queue, LockWaitBlock) != SENDKIT_QUEUE_LOCKED ||
		act->decide(queue) != CHANGE)
		return;
	sendkit_queue_change(queue);
	act->change(queue);
	sendkit_queue_write(queue);
	act->changed++;
}

static void
apply_to_scan(SendkitQueueScan *scan, Act *act)
{
	while (sendkit_queue_scan_next(scan))
		apply_to_found(scan->queue, act);
	sendkit_queue_scan_end(scan);
	CommandCounterIncrement();
}

/* To all that is unfinished, or was finished otherwise than by "deleted" */
static void
apply_to_all(SendkitQueue *queue, Act *act)
{
	static const SendkitQueueIndex indexes[] = {
		SENDKIT_QUEUE_BY_URGENT, SENDKIT_QUEUE_BY_DUE, SENDKIT_QUEUE_BY_NOTABLE
	};

	for (size_t i = 0; i < lengthof(indexes); i++)
	{
		SendkitQueueScan scan;

		sendkit_queue_scan(&scan, queue, indexes[i], NULL);
		apply_to_scan(&scan, act);
	}
}

static void
apply_to_ids(SendkitQueue *queue, ArrayType *array, Act *act)
{
	Datum	   *ids;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &ids, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		SendkitQueueScan scan;

		if (nulls[i])
			continue;
		sendkit_queue_scan_id(&scan, queue, DatumGetInt64(ids[i]));
		apply_to_scan(&scan, act);
	}
}

static bool
has_passed(SendkitQueue *queue, SendkitQueueColumn column)
{
	bool		isnull;
	Datum		value = sendkit_queue_get(queue, column, &isnull);

	return !isnull && DatumGetTimestampTz(value) <= GetCurrentTimestamp();
}

static void
set_state(SendkitQueue *queue, const char *state)
{
	MemoryContext old = MemoryContextSwitchTo(sendkit_queue_row_context(queue));

	sendkit_queue_set(queue, SENDKIT_QUEUE_STATE, CStringGetTextDatum(state));
	MemoryContextSwitchTo(old);
}

/* --- retry --- */

static Decision
decide_retry(SendkitQueue *queue)
{
	bool		failed = sendkit_queue_is_in(queue, "failed");

	if (failed && has_passed(queue, SENDKIT_QUEUE_NOT_AFTER))
		return LEAVE_EXPIRED;
	if (failed || (sendkit_queue_is_in(queue, "pending") &&
				   !has_passed(queue, SENDKIT_QUEUE_NEXT_ATTEMPT_AT)))
		return CHANGE;
	return LEAVE;
}

static void
change_to_pending(SendkitQueue *queue)
{
	set_state(queue, "pending");
	sendkit_queue_set(queue, SENDKIT_QUEUE_NEXT_ATTEMPT_AT,
					  TimestampTzGetDatum(GetCurrentTimestamp()));
	sendkit_queue_set_null(queue, SENDKIT_QUEUE_CLAIMED_AT);
	sendkit_queue_set_null(queue, SENDKIT_QUEUE_CLAIMED_BY);
	sendkit_queue_set_null(queue, SENDKIT_QUEUE_FINISHED_AT);
}

Datum
sendkit_retry_revocations(PG_FUNCTION_ARGS)
{
	SendkitQueue *queue = sendkit_queue_open(sendkit_extension_of(fcinfo->flinfo->fn_oid), true);
	Act			act = {decide_retry, change_to_pending, 0, 0};

	if (PG_ARGISNULL(0))
		apply_to_all(queue, &act);
	else
		apply_to_ids(queue, PG_GETARG_ARRAYTYPE_P(0), &act);
	sendkit_queue_close(queue);
	if (act.changed > 0)
		sendkit_worker_note_enqueued();

	if (act.expired > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld failed revocation is left as it is, since its \"not_after\" has passed",
							   "%lld failed revocations are left as they are, since their \"not_after\" has passed",
							   act.expired, (long long) act.expired),
				 errhint("If the workspace still has to lose its key, request another revocation.")));
	PG_RETURN_INT64(act.changed);
}

/* --- cancel --- */

static Decision
decide_cancel(SendkitQueue *queue)
{
	if (sendkit_queue_is_in(queue, "pending") || sendkit_queue_is_in(queue, "failed"))
		return CHANGE;
	return sendkit_queue_is_in(queue, "sending") && !sendkit_queue_claim_lives(queue) ?
		CHANGE : LEAVE;
}

static void
change_to_cancelled(SendkitQueue *queue)
{
	set_state(queue, "cancelled");
	sendkit_queue_set(queue, SENDKIT_QUEUE_FINISHED_AT,
					  TimestampTzGetDatum(GetCurrentTimestamp()));
}

Datum
sendkit_cancel_revocations(PG_FUNCTION_ARGS)
{
	SendkitQueue *queue;
	Act			act = {decide_cancel, change_to_cancelled, 0, 0};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ids must not be null")));
	queue = sendkit_queue_open(sendkit_extension_of(fcinfo->flinfo->fn_oid), true);
	apply_to_ids(queue, PG_GETARG_ARRAYTYPE_P(0), &act);
	sendkit_queue_close(queue);
	PG_RETURN_INT64(act.changed);
}

/* --- adopt --- */

static int64
count_unfinished(SendkitQueue *queue, SendkitQueueIndex index)
{
	SendkitQueueScan scan;
	int64		count = 0;

	sendkit_queue_scan(&scan, queue, index, NULL);
	while (sendkit_queue_scan_next(&scan))
	{
		if (sendkit_queue_is_in(queue, "pending") || sendkit_queue_is_in(queue, "sending"))
			count++;
	}
	sendkit_queue_scan_end(&scan);
	return count;
}

Datum
sendkit_adopt_revocations(PG_FUNCTION_ARGS)
{
	Oid			extension = sendkit_extension_of(fcinfo->flinfo->fn_oid);
	SendkitQueue *queue = sendkit_queue_open(extension, true);
	int64		count = 0;

	if (sendkit_home_adopt(extension))
		count = count_unfinished(queue, SENDKIT_QUEUE_BY_URGENT) +
			count_unfinished(queue, SENDKIT_QUEUE_BY_DUE);
	sendkit_queue_close(queue);
	if (count > 0)
		sendkit_worker_note_enqueued();
	PG_RETURN_INT64(count);
}
