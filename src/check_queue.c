/*-------------------------------------------------------------------------
 *
 * check_queue.c
 *	  The steps of sendkit_check() that are about the queue.
 *
 * The queue's table and pg_cron's are read as they are, by their OIDs and
 * without SQL: whoever owns a schema could put something of the same name in
 * their place, and have it run by a superuser who only wanted to check.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "compat.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "rewrite/prs2lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "check.h"
#include "extension.h"
#include "guc.h"
#include "home.h"
#include "queue.h"
#include "queue_table.h"
#include "worker.h"

/* How many revocations are in which state */
typedef struct QueueCounts
{
	int64		unfinished;
	int64		due;
	int64		overdue;
	int64		failed;
} QueueCounts;

/* --- the queue --- */

static SendkitStepResult
locked(StringInfo detail)
{
	appendStringInfoString(detail, "the queue is locked by somebody");
	return SENDKIT_STEP_WRONG;
}

static bool
is_before(SendkitQueue *queue, SendkitQueueColumn column, TimestampTz time)
{
	bool		isnull;
	Datum		value = sendkit_queue_get(queue, column, &isnull);

	return !isnull && DatumGetTimestampTz(value) <= time;
}

/* Counts the row that was found, by one of the indexes. */
static void
count_row(SendkitQueue *queue, TimestampTz now, QueueCounts *counts)
{
	if (sendkit_queue_is_in(queue, "failed"))
		counts->failed++;
	if (!sendkit_queue_is_in(queue, "pending") && !sendkit_queue_is_in(queue, "sending"))
		return;
	counts->unfinished++;
	if (is_before(queue, SENDKIT_QUEUE_NEXT_ATTEMPT_AT, now))
		counts->due++;
	if (is_before(queue, SENDKIT_QUEUE_REQUESTED_AT, now - SENDKIT_OVERDUE_S * USECS_PER_SEC))
		counts->overdue++;
}

/* Reads what is unfinished or went wrong, however much else there is. */
static void
count_rows(SendkitQueue *queue, QueueCounts *counts)
{
	static const SendkitQueueIndex indexes[] = {
		SENDKIT_QUEUE_BY_URGENT, SENDKIT_QUEUE_BY_DUE, SENDKIT_QUEUE_BY_NOTABLE,
	};
	TimestampTz now = GetCurrentTimestamp();

	for (size_t i = 0; i < lengthof(indexes); i++)
	{
		SendkitQueueScan scan;

		sendkit_queue_scan(&scan, queue, indexes[i], NULL);
		while (sendkit_queue_scan_next(&scan))
		{
			CHECK_FOR_INTERRUPTS();
			count_row(queue, now, counts);
		}
		sendkit_queue_scan_end(&scan);
	}
}

/* Is anything stuck?  Notes how much is unfinished, for the steps that follow. */
SendkitStepResult
sendkit_check_queue(SendkitCheck *check, StringInfo detail)
{
	SendkitQueue *queue;
	QueueCounts counts = {0};
	bool		held;

	/* the lock that it takes is none for these */
	if (RecoveryInProgress())
	{
		appendStringInfoString(detail, "this is a standby: ask the primary");
		return SENDKIT_STEP_UNKNOWN;
	}
	if (XactReadOnly)
	{
		appendStringInfoString(detail, "this transaction is read-only: ask in another one");
		return SENDKIT_STEP_UNKNOWN;
	}
	queue = sendkit_queue_open(check->extension, false);
	if (queue == NULL)
		return locked(detail);
	count_rows(queue, &counts);
	sendkit_queue_close(queue);
	check->unfinished = counts.unfinished;

	held = counts.unfinished > 0 && !sendkit_home_is_here(check->extension);
	appendStringInfo(detail, INT64_FORMAT " unfinished, " INT64_FORMAT " due, "
					 INT64_FORMAT " overdue, " INT64_FORMAT " failed, " INT64_FORMAT " held",
					 counts.unfinished, counts.due, counts.overdue, counts.failed,
					 held ? counts.unfinished : 0);
	return counts.overdue > 0 || counts.failed > 0 || held ?
		SENDKIT_STEP_WRONG : SENDKIT_STEP_RIGHT;
}

/* --- who delivers --- */

/* Returns the table of pg_cron's jobs, locked, or NULL. */
static Relation
open_cron_jobs(void)
{
	Oid			extension = get_extension_oid("pg_cron", true);
	Oid			schema = get_namespace_oid("cron", true);
	Oid			table = OidIsValid(schema) ? get_relname_relid("job", schema) : InvalidOid;
	Relation	jobs;

	if (!OidIsValid(extension) || !OidIsValid(table) ||
		getExtensionOfObject(RelationRelationId, table) != extension)
		return NULL;
	jobs = try_relation_open(table, AccessShareLock);
	if (jobs && jobs->rd_rel->relkind != RELKIND_RELATION)
	{
		relation_close(jobs, AccessShareLock);
		return NULL;
	}
	return jobs;
}

/* Returns a column's value as text, or an empty one. */
static char *
column_text(Relation relation, TupleTableSlot *slot, const char *name)
{
	AttrNumber	column = get_attnum(RelationGetRelid(relation), name);
	Oid			output;
	bool		isvarlena;
	bool		isnull;
	Datum		value;

	if (column == InvalidAttrNumber)
		return pstrdup("");
	value = slot_getattr(slot, column, &isnull);
	if (isnull)
		return pstrdup("");
	getTypeOutputInfo(get_atttype(RelationGetRelid(relation), column), &output, &isvarlena);
	return OidOutputFunctionCall(output, value);
}

/* Is this a job of this database that calls us, and not switched off? */
static bool
is_delivering_job(Relation jobs, TupleTableSlot *slot)
{
	return strstr(column_text(jobs, slot, "command"), "sendkit_process_revocations") &&
		strcmp(column_text(jobs, slot, "database"), get_database_name(MyDatabaseId)) == 0 &&
		strcmp(column_text(jobs, slot, "active"), "f") != 0;
}

/* Appends when and as whom pg_cron delivers.  Returns whether it does. */
static bool
append_cron_job(StringInfo detail)
{
	Relation	jobs = open_cron_jobs();
	Snapshot	snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;
	bool		found = false;

	if (jobs == NULL)
		return false;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(jobs, NULL);
	scan = sendkit_table_beginscan(jobs, snapshot);
	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		found = is_delivering_job(jobs, slot);
		if (found)
			appendStringInfo(detail, "pg_cron, \"%s\", as role \"%s\"",
							 column_text(jobs, slot, "schedule"),
							 column_text(jobs, slot, "username"));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	relation_close(jobs, AccessShareLock);
	return found;
}

/* Is there a trigger that would queue something, on any table? */
static bool
has_trigger(Oid extension)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		CHECK_FOR_INTERRUPTS();
		found = !trigger->tgisinternal &&
			getExtensionOfObject(ProcedureRelationId, trigger->tgfoid) == extension;
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/*
 * Who uses the queue needs a key for it.  Whose calls are all given one doesn't,
 * and is not to be told again and again that something is wrong.
 */
static SendkitStepResult
judge_missing_key(const SendkitCheck *check, StringInfo detail)
{
	if (check->unfinished > 0 || has_trigger(check->extension))
	{
		appendStringInfoString(detail, ", and what is queued cannot be delivered without");
		return SENDKIT_STEP_WRONG;
	}
	appendStringInfoString(detail, ", and needs one only when something is queued");
	return SENDKIT_STEP_UNKNOWN;
}

/* Workers deliver: who they are, and whether they can. */
static SendkitStepResult
check_workers(const SendkitCheck *check, StringInfo detail)
{
	SendkitStepResult result;

	appendStringInfoString(detail, "background workers: ");
	result = sendkit_check_key_of(check, sendkit_worker_runs_as(check->extension), detail);
	if (result == SENDKIT_STEP_UNKNOWN)
		result = judge_missing_key(check, detail);
	appendStringInfoString(detail, sendkit_worker_is_there(MyDatabaseId) ?
						   "; one is there" : "; none is there now");
	if (!sendkit_worker_has_launcher())
		appendStringInfoString(detail, "; they start with a commit that queues something, "
							   "and without sendkit in shared_preload_libraries not by themselves");
	return result;
}

/* Who delivers the queue, and can they? */
SendkitStepResult
sendkit_check_delivery(SendkitCheck *check, StringInfo detail)
{
	if (RecoveryInProgress())
	{
		appendStringInfoString(detail, "this is a standby: nothing is delivered here");
		return SENDKIT_STEP_RIGHT;
	}
	if (sendkit_auto_deliver)
		return check_workers(check, detail);
	if (append_cron_job(detail))
		return SENDKIT_STEP_RIGHT;
	appendStringInfoString(detail, "whoever calls sendkit_process_revocations(): sendkit.auto_deliver is off, and no job of pg_cron in this database does");
	return SENDKIT_STEP_UNKNOWN;
}

/* --- what others have attached to the queue --- */

static void
append_attachment(StringInfo detail, const char *kind, const char *name)
{
	appendStringInfo(detail, "%s%s \"%s\"", detail->len > 0 ? ", " : "", kind, name);
}

static void
append_triggers(Relation queue, StringInfo detail)
{
	const TriggerDesc *triggers = queue->trigdesc;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		if (!triggers->triggers[i].tgisinternal)
			append_attachment(detail, "trigger", triggers->triggers[i].tgname);
	}
}

/* Has somebody attached to the queue what is not going to run? */
SendkitStepResult
sendkit_check_attachments(SendkitCheck *check, StringInfo detail)
{
	Relation	queue = sendkit_table_open(check->extension, "sendkit_revocation", AccessShareLock,
										   false, NULL, 0);

	if (queue == NULL)
		return locked(detail);
	append_triggers(queue, detail);
	for (int i = 0; queue->rd_rules && i < queue->rd_rules->numLocks; i++)
		appendStringInfo(detail, "%sa rule", detail->len > 0 ? ", " : "");
	if (queue->rd_rel->relrowsecurity)
		appendStringInfo(detail, "%srow-level security", detail->len > 0 ? ", " : "");
	table_close(queue, NoLock);

	if (detail->len == 0)
	{
		appendStringInfoString(detail, "nothing is attached to the queue");
		return SENDKIT_STEP_RIGHT;
	}
	appendStringInfoString(detail, ": not heeded when revocations are queued and delivered");
	return SENDKIT_STEP_WRONG;
}
