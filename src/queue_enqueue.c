/*-------------------------------------------------------------------------
 *
 * queue_enqueue.c
 *	  How revocations get into the queue: by request, by trigger, by adoption.
 *
 * Neither function needs the definer's rights, nor a search path: they write
 * the row by themselves (queue.c) and run no SQL.  Switching roles and paths
 * for each row of a bulk removal would cost more than the row.
 *
 * The row is written in the transaction that asks for it, and commits or
 * vanishes with it.  Nothing is sent here.  An id that could not be sent later
 * is refused now, when somebody is there to hear it.
 *
 * The trigger is for the removal of workspaces.  It reads the column that its
 * argument names, from the row or, once per statement, from the transition
 * table.  Uses that would revoke keys of workspaces which still exist, or miss
 * some, are errors: INSERT, BEFORE, TRUNCATE, which has no rows to read, and
 * UPDATE without a WHEN clause that tells a removal from any other change.
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
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "api.h"
#include "queue.h"

PG_FUNCTION_INFO_V1(sendkit_request_revocation);
PG_FUNCTION_INFO_V1(sendkit_revoke_on_delete);
PG_FUNCTION_INFO_V1(sendkit_revocation_is_ours);
PG_FUNCTION_INFO_V1(sendkit_adopt_revocations);

/* --- adding rows --- */

/* What is looked up once per statement, not once per row */
typedef struct Enqueuer
{
	SendkitQueue queue;
	SendkitTextConverter converter;
	int			column;			/* of a trigger: the one with the ids */
	Oid			relation;		/* ... of this table */
	FmgrInfo	output;			/* its type's output function */
} Enqueuer;

static Enqueuer *
get_enqueuer(FunctionCallInfo fcinfo)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	Enqueuer   *enqueuer = (Enqueuer *) flinfo->fn_extra;

	if (enqueuer)
		return enqueuer;

	enqueuer = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(Enqueuer));
	/* the calling function's schema is the queue's */
	sendkit_queue_find(get_func_namespace(flinfo->fn_oid), &enqueuer->queue);
	sendkit_text_init(&enqueuer->converter);
	flinfo->fn_extra = enqueuer;
	return enqueuer;
}

/* Raises 22023 if the API could never be asked about this id. */
static void
check_id(const SendkitTextConverter *converter, text *id)
{
	const char *fault = sendkit_api_id_fault(converter, VARDATA_ANY(id),
											 VARSIZE_ANY_EXHDR(id));

	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid workspace_id"),
				 errdetail("%s", fault)));
}

static int64
add_ids(const Enqueuer *enqueuer, Datum *ids, int count, TimestampTz not_after)
{
	for (int i = 0; i < count; i++)
		check_id(&enqueuer->converter, DatumGetTextPP(ids[i]));
	return sendkit_queue_add(&enqueuer->queue, ids, count, not_after);
}

/* --- by request --- */

Datum
sendkit_request_revocation(PG_FUNCTION_ARGS)
{
	Datum		id;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("workspace_id must not be null")));
	id = PointerGetDatum(PG_GETARG_TEXT_PP(0));
	PG_RETURN_INT64(add_ids(get_enqueuer(fcinfo), &id, 1,
							PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1)));
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

	getTypeOutputInfo(TupleDescAttr(RelationGetDescr(relation), enqueuer->column - 1)->atttypid,
					  &output, &is_varlena);
	fmgr_info_cxt(output, &enqueuer->output, fcinfo->flinfo->fn_mcxt);
	enqueuer->relation = RelationGetRelid(relation);
}

static Datum
id_as_text(const TriggerData *trigger, Enqueuer *enqueuer, Datum value, bool isnull)
{
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(trigger->tg_relation),
												enqueuer->column - 1);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("null value in column \"%s\" of relation \"%s\": cannot tell which workspace's API key to revoke",
						NameStr(attribute->attname),
						RelationGetRelationName(trigger->tg_relation))));
	if (attribute->atttypid == TEXTOID)
		return PointerGetDatum(DatumGetTextPP(value));
	/* the blanks that fill a char(n) up are no part of its value */
	if (getBaseType(attribute->atttypid) == BPCHAROID)
		return DirectFunctionCall1(rtrim1, value);
	return CStringGetTextDatum(OutputFunctionCall(&enqueuer->output, value));
}

/* --- by trigger --- */

static void
revoke_row(const TriggerData *trigger, Enqueuer *enqueuer)
{
	bool		isnull;
	Datum		value;
	Datum		id;

	/* an UPDATE has moved it to another partition: the workspace lives on */
	if (HeapTupleHeaderIndicatesMovedPartitions(trigger->tg_trigtuple->t_data))
		return;

	value = heap_getattr(trigger->tg_trigtuple, enqueuer->column,
						 RelationGetDescr(trigger->tg_relation), &isnull);
	id = id_as_text(trigger, enqueuer, value, isnull);

	add_ids(enqueuer, &id, 1, DT_NOEND);
}

static void
revoke_rows(const TriggerData *trigger, Enqueuer *enqueuer)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation),
													&TTSOpsMinimalTuple);
	Tuplestorestate *rows = trigger->tg_oldtable;
	int64		size = Max(tuplestore_tuple_count(rows), 1);
	Datum	   *ids = palloc_extended(size * sizeof(Datum), MCXT_ALLOC_HUGE);
	int			count = 0;

	/* other triggers read the same table */
	tuplestore_select_read_pointer(rows, tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND));
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, true, slot))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, enqueuer->column, &isnull);

		ids[count++] = PointerGetDatum(PG_DETOAST_DATUM_COPY(id_as_text(trigger, enqueuer,
																		value, isnull)));
	}
	ExecDropSingleTupleTableSlot(slot);
	if (count > 0)
		add_ids(enqueuer, ids, count, DT_NOEND);
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
		revoke_row(trigger, enqueuer);
	else
		revoke_rows(trigger, enqueuer);
	return PointerGetDatum(NULL);
}

/* --- by adoption --- */

Datum
sendkit_revocation_is_ours(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sendkit_queue_is_ours(PG_GETARG_INT64(0), PG_GETARG_OID(1)));
}

Datum
sendkit_adopt_revocations(PG_FUNCTION_ARGS)
{
	int64		count;

	SPI_connect();
	count = sendkit_queue_adopt(get_func_namespace(fcinfo->flinfo->fn_oid));
	SPI_finish();
	PG_RETURN_INT64(count);
}
