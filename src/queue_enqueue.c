/*-------------------------------------------------------------------------
 *
 * queue_enqueue.c
 *	  How revocations get into the queue: by request and by trigger.
 *
 * The row is written in the transaction that asks for it, and commits or
 * vanishes with it.  Nothing is sent here.  An id that could not be sent later
 * is refused now, when somebody is there to hear it; where a workspace has no id
 * there is no key, and nothing to do.
 *
 * The trigger is for the removal of workspaces.  It reads the column that its
 * argument names, from the row or, once per statement, from the transition
 * table.  Uses that would revoke keys of workspaces which still exist, or miss
 * some, are errors: INSERT, BEFORE, TRUNCATE, which has no rows to read, UPDATE
 * without a WHEN clause that tells a removal from any other change, and the
 * statement form on partitions, where it sees too few rows, or with MERGE rows
 * that have only moved.
 *
 * A deferrable row trigger looks whether the workspace is back, and then leaves it
 * its key.
 *
 * However many rows a statement removes, one at a time is in memory.  A row
 * trigger keeps the queue open until its query ends, since to open it costs more
 * than to write a row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "api.h"
#include "extension.h"
#include "hiding.h"
#include "queue_table.h"
#include "worker.h"
#include "workspace.h"

PG_FUNCTION_INFO_V1(sendkit_request_revocation);
PG_FUNCTION_INFO_V1(sendkit_revoke_on_delete);

/* --- adding rows --- */

/* What is looked up once per statement, not once per row */
typedef struct Enqueuer
{
	Oid			extension;
	SendkitTextConverter converter;
	MemoryContext row;			/* memory for one row */

	/* of a trigger */
	int			column;			/* the one with the ids */
	Oid			relation;		/* ... of this table */
	FmgrInfo	output;			/* its type's output function */
	SendkitQueue *queue;		/* kept open, perhaps */
} Enqueuer;

static Enqueuer *
get_enqueuer(FunctionCallInfo fcinfo)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	Enqueuer   *enqueuer = (Enqueuer *) flinfo->fn_extra;

	if (enqueuer == NULL)
	{
		enqueuer = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(Enqueuer));
		enqueuer->extension = sendkit_extension_of(flinfo->fn_oid);
		sendkit_text_init(&enqueuer->converter);
		enqueuer->row = AllocSetContextCreate(flinfo->fn_mcxt, "sendkit row",
											  ALLOCSET_SMALL_SIZES);
		flinfo->fn_extra = enqueuer;
	}
	return enqueuer;
}

/* Raises 22023 if the API could never be asked about this id, which may be a key. */
static void
check_id(const SendkitTextConverter *converter, text *id)
{
	const char *fault = sendkit_api_id_fault(converter, VARDATA_ANY(id),
											 VARSIZE_ANY_EXHDR(id));

	if (fault == NULL)
		return;
	sendkit_forget_statement();
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid workspace_id"),
			 errdetail("%s", fault),
			 errhidestmt(true), errhidecontext(true)));
}

/* --- by request --- */

Datum
sendkit_request_revocation(PG_FUNCTION_ARGS)
{
	Enqueuer   *enqueuer;
	SendkitQueue *queue;
	text	   *workspace_id;
	int64		id;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("workspace_id must not be null")));
	enqueuer = get_enqueuer(fcinfo);
	workspace_id = PG_GETARG_TEXT_PP(0);
	check_id(&enqueuer->converter, workspace_id);
	queue = sendkit_queue_open(enqueuer->extension, true);
	id = sendkit_queue_add(queue, PointerGetDatum(workspace_id),
						   PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1));
	sendkit_worker_note_enqueued();
	sendkit_queue_close(queue);
	PG_RETURN_INT64(id);
}

/* --- by trigger: is it used in a way that makes sense? --- */

static void
report_misuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("%s", message),
			 hint ? errhint("%s", hint) : 0));
}

static void
check_event(const TriggerData *trigger)
{
	TriggerEvent event = trigger->tg_event;

	if (TRIGGER_FIRED_BY_TRUNCATE(event))
		report_misuse("cannot revoke API keys on TRUNCATE: it does not tell which workspaces it removes",
					  "Use DELETE instead of TRUNCATE, or request the revocations with sendkit_request_revocation() first.");
	if (!TRIGGER_FIRED_AFTER(event))
		report_misuse("sendkit_revoke_on_delete() must be fired AFTER the event", NULL);
	if (TRIGGER_FIRED_BY_INSERT(event))
		report_misuse("sendkit_revoke_on_delete() must be fired by DELETE or UPDATE", NULL);
	if (TRIGGER_FIRED_BY_UPDATE(event) &&
		(!TRIGGER_FIRED_FOR_ROW(event) || trigger->tg_trigger->tgqual == NULL))
		report_misuse("sendkit_revoke_on_delete() fired by UPDATE needs FOR EACH ROW and a WHEN clause",
					  "The WHEN clause tells the removal of a workspace from other changes, as in WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL).");
	if (TRIGGER_FIRED_FOR_STATEMENT(event) && trigger->tg_oldtable == NULL)
		report_misuse("sendkit_revoke_on_delete() fired FOR EACH STATEMENT needs a transition table",
					  "Add REFERENCING OLD TABLE AS removed to the trigger's definition.");
	if (TRIGGER_FIRED_FOR_STATEMENT(event) &&
		(trigger->tg_relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		 trigger->tg_relation->rd_rel->relispartition))
		report_misuse("sendkit_revoke_on_delete() on a partitioned table needs FOR EACH ROW",
					  "Create the trigger FOR EACH ROW on the partitioned table: FOR EACH STATEMENT misses what is deleted by the name of another table of the tree, and takes for removed what a MERGE moves to another partition.");
}

/* Finds the column that the trigger's argument names. */
static void
find_column(FunctionCallInfo fcinfo, const TriggerData *trigger, Enqueuer *enqueuer)
{
	Relation	relation = trigger->tg_relation;
	const char *name;
	Oid			output;
	bool		is_varlena;

	if (enqueuer->relation == RelationGetRelid(relation))
		return;
	if (trigger->tg_trigger->tgnargs != 1)
		report_misuse("sendkit_revoke_on_delete() needs one argument: the name of the column with the workspace's id",
					  NULL);

	name = trigger->tg_trigger->tgargs[0];
	enqueuer->column = SPI_fnumber(RelationGetDescr(relation), name);
	if (enqueuer->column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(relation)),
				 errdetail("Trigger \"%s\" names it.", trigger->tg_trigger->tgname)));
	/* it would look like a null, and its keys would live on */
	if (sendkit_is_virtual(TupleDescAttr(RelationGetDescr(relation), enqueuer->column - 1)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot revoke API keys by column \"%s\" of relation \"%s\", which is generated and not stored",
						name, RelationGetRelationName(relation)),
				 errhint("Have the column STORED, or use one that is.")));

	getTypeOutputInfo(TupleDescAttr(RelationGetDescr(relation), enqueuer->column - 1)->atttypid,
					  &output, &is_varlena);
	fmgr_info_cxt(output, &enqueuer->output, fcinfo->flinfo->fn_mcxt);
	enqueuer->relation = RelationGetRelid(relation);
}

/* Returns an id as a text, or NULL if there is none. */
static text *
id_as_text(const TriggerData *trigger, Enqueuer *enqueuer, Datum value, bool isnull)
{
	Oid			type = TupleDescAttr(RelationGetDescr(trigger->tg_relation),
									 enqueuer->column - 1)->atttypid;
	text	   *id;

	if (isnull)
		return NULL;
	if (type == TEXTOID)
		id = DatumGetTextPP(value);
	/* the blanks that fill a char(n) up are no part of its value */
	else if (getBaseType(type) == BPCHAROID)
		id = DatumGetTextPP(DirectFunctionCall1(rtrim1, value));
	else
		id = cstring_to_text(OutputFunctionCall(&enqueuer->output, value));
	return VARSIZE_ANY_EXHDR(id) > 0 ? id : NULL;
}

/* --- by trigger --- */

/* Queues the id of one row, if it has any. */
static void
revoke_value(const TriggerData *trigger, Enqueuer *enqueuer, SendkitQueue *queue,
			 Datum value, bool isnull)
{
	MemoryContext old = MemoryContextSwitchTo(enqueuer->row);
	text	   *id;

	/* PostgreSQL does not look between two rows of a row trigger */
	CHECK_FOR_INTERRUPTS();
	id = id_as_text(trigger, enqueuer, value, isnull);
	if (id)
	{
		check_id(&enqueuer->converter, id);
		(void) sendkit_queue_add(queue, PointerGetDatum(id), DT_NOEND);
		sendkit_worker_note_enqueued();
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(enqueuer->row);
}

/* Opens the queue for as long as the query lasts that fires the trigger. */
static SendkitQueue *
get_kept_queue(FunctionCallInfo fcinfo, Enqueuer *enqueuer)
{
	if (enqueuer->queue == NULL || !sendkit_queue_is_kept(enqueuer->queue))
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		enqueuer->queue = sendkit_queue_open(enqueuer->extension, true);
		sendkit_queue_keep(enqueuer->queue);
		MemoryContextSwitchTo(old);
	}
	return enqueuer->queue;
}

static void
revoke_row(FunctionCallInfo fcinfo, const TriggerData *trigger, Enqueuer *enqueuer)
{
	bool		isnull;
	Datum		value;

	/* an UPDATE has moved it to another partition: the workspace lives on */
	if (HeapTupleHeaderIndicatesMovedPartitions(trigger->tg_trigtuple->t_data))
		return;
	value = heap_getattr(trigger->tg_trigtuple, enqueuer->column,
						 RelationGetDescr(trigger->tg_relation), &isnull);

	/* a deferred trigger has no query of its own, and memory of some kind */
	if (trigger->tg_trigger->tgdeferrable)
	{
		SendkitQueue *queue;

		/* deleted and inserted again: the workspace lives on */
		if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event) && !isnull &&
			sendkit_workspace_is_there(trigger->tg_relation, enqueuer->column, value))
			return;
		queue = sendkit_queue_open(enqueuer->extension, true);
		revoke_value(trigger, enqueuer, queue, value, isnull);
		sendkit_queue_close(queue);
	}
	else
		revoke_value(trigger, enqueuer, get_kept_queue(fcinfo, enqueuer), value, isnull);
}

static void
revoke_rows(const TriggerData *trigger, Enqueuer *enqueuer)
{
	SendkitQueue *queue = sendkit_queue_open(enqueuer->extension, true);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation),
													&TTSOpsMinimalTuple);
	Tuplestorestate *rows = trigger->tg_oldtable;

	/* other triggers read the same table */
	tuplestore_select_read_pointer(rows, tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND));
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, enqueuer->column, &isnull);

		revoke_value(trigger, enqueuer, queue, value, isnull);
	}
	ExecDropSingleTupleTableSlot(slot);
	sendkit_queue_close(queue);
}

Datum
sendkit_revoke_on_delete(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;
	Enqueuer   *enqueuer;

	if (!CALLED_AS_TRIGGER(fcinfo))
		report_misuse("sendkit_revoke_on_delete() must be called as a trigger", NULL);
	check_event(trigger);
	enqueuer = get_enqueuer(fcinfo);
	find_column(fcinfo, trigger, enqueuer);
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		revoke_row(fcinfo, trigger, enqueuer);
	else
		revoke_rows(trigger, enqueuer);
	return PointerGetDatum(NULL);
}
