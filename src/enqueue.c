/*-------------------------------------------------------------------------
 *
 * enqueue.c
 *	  How revocations get into the queue: by request, by trigger, by adoption.
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

#include "commands/trigger.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api.h"
#include "queue.h"

PG_FUNCTION_INFO_V1(sendkit_request_revocation);
PG_FUNCTION_INFO_V1(sendkit_revoke_on_delete);
PG_FUNCTION_INFO_V1(sendkit_revocation_is_ours);
PG_FUNCTION_INFO_V1(sendkit_adopt_revocations);

/* --- ids --- */

/* Raises 22023 if the API could never be asked about this id. */
static void
check_id(const SendkitTextConverter *converter, text *id)
{
	const char *fault;
	char	   *segment = sendkit_api_segment(converter, VARDATA_ANY(id),
											  VARSIZE_ANY_EXHDR(id), &fault);

	if (segment == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid workspace_id"),
				 errdetail("%s", fault)));
	pfree(segment);
}

/* Adds the rows.  The calling function's schema is the queue's. */
static int64
add_ids(FunctionCallInfo fcinfo, Datum *ids, int count, TimestampTz not_after)
{
	SendkitTextConverter converter;
	int64		last;

	sendkit_text_init(&converter);
	for (int i = 0; i < count; i++)
		check_id(&converter, DatumGetTextPP(ids[i]));

	SPI_connect();
	last = sendkit_queue_add(get_func_namespace(fcinfo->flinfo->fn_oid),
							 ids, count, not_after);
	SPI_finish();
	return last;
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
	PG_RETURN_INT64(add_ids(fcinfo, &id, 1,
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

/* Returns the number of the column that the trigger's argument names. */
static int
id_column(const TriggerData *trigger)
{
	const char *name;
	int			column;

	if (trigger->tg_trigger->tgnargs != 1)
		report_misuse("sendkit_revoke_on_delete() needs one argument: the name of the column with the workspace's id",
					  NULL);
	name = trigger->tg_trigger->tgargs[0];
	column = SPI_fnumber(RelationGetDescr(trigger->tg_relation), name);
	if (column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Trigger \"%s\" names it.", trigger->tg_trigger->tgname)));
	return column;
}

static Datum
id_as_text(const TriggerData *trigger, int column, Datum value, bool isnull)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	Oid			type = TupleDescAttr(desc, column - 1)->atttypid;
	Oid			output;
	bool		is_varlena;

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("null value in column \"%s\" of relation \"%s\": cannot tell which workspace's API key to revoke",
						NameStr(TupleDescAttr(desc, column - 1)->attname),
						RelationGetRelationName(trigger->tg_relation))));
	getTypeOutputInfo(type, &output, &is_varlena);
	return CStringGetTextDatum(OidOutputFunctionCall(output, value));
}

/* --- by trigger --- */

static void
revoke_row(FunctionCallInfo fcinfo, const TriggerData *trigger, int column)
{
	bool		isnull;
	Datum		value = heap_getattr(trigger->tg_trigtuple, column,
									 RelationGetDescr(trigger->tg_relation), &isnull);
	Datum		id = id_as_text(trigger, column, value, isnull);

	add_ids(fcinfo, &id, 1, DT_NOEND);
}

static void
revoke_rows(FunctionCallInfo fcinfo, const TriggerData *trigger, int column)
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
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, column, &isnull);

		ids[count++] = id_as_text(trigger, column, value, isnull);
	}
	ExecDropSingleTupleTableSlot(slot);
	if (count > 0)
		add_ids(fcinfo, ids, count, DT_NOEND);
}

Datum
sendkit_revoke_on_delete(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (const TriggerData *) fcinfo->context;
	int			column;

	if (!CALLED_AS_TRIGGER(fcinfo))
		report_misuse("sendkit_revoke_on_delete() must be called as a trigger", NULL);
	check_event(trigger);
	column = id_column(trigger);
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		revoke_row(fcinfo, trigger, column);
	else
		revoke_rows(fcinfo, trigger, column);
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
