/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  The durable queue of revocations: add, claim, settle.  Knows no HTTP.
 *
 * The queue is the table sendkit_revocation.  A row that waits is "pending".
 * Claiming makes it "sending" and counts the attempt, and is committed before
 * anything is sent, so that a row which kills its process is seen to do so.
 * Settling makes it "done", "failed" or "pending" again, but only if the claim
 * still stands: nobody else has counted another attempt since.
 *
 * A row that stays "sending" has lost its process.  It is due again at once if
 * it was claimed before the server started, and else when LEASE is over, which
 * is longer than any process works on a claim (queue_process.c).
 *
 * Rows belong to a cluster and a database, told by the system identifier and
 * the database's OID.  Those of another one came with a dump or a template,
 * and are not touched until a person adopts them.
 *
 * Rows are added without a statement, as logical replication adds them: a row
 * trigger calls that for each row of a bulk removal, and the executor's start
 * and end would cost more than the rest.  Constraints, indexes and row triggers
 * of the table are served all the same; the right to insert is not asked for,
 * since those who may call the functions above it need none.
 *
 * The table is found in the schema of the function that was called, never by
 * the search path.  Plans are kept for the session, as PL/pgSQL keeps its.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "queue.h"

#define TABLE_NAME "sendkit_revocation"
#define SEQUENCE_NAME "sendkit_revocation_id_seq"

/* How long a claim may stand while its process seems to live */
#define LEASE "30 minutes"

/* The statements, with %s for the table's qualified name */

/*
 * MATERIALIZED, lest the planner lock more rows than LIMIT.  The index knows
 * what is due; claimed rows stay in it, so that claiming need not change it.
 * Each claim of a run goes on where the last one ended: the entries before are
 * those of rows that are settled by now, and as long as an old snapshot sees
 * them they would all have to be visited again.
 */
static const char claim_sql[] =
	"WITH due AS MATERIALIZED ("
	" SELECT r.id FROM %s r"
	" WHERE r.finished_at IS NULL"
	" AND r.next_attempt_at OPERATOR(pg_catalog.<=) $1"
	" AND ROW(r.next_attempt_at, r.id) OPERATOR(pg_catalog.>) ROW($5, $6)"
	" AND r.system_identifier OPERATOR(pg_catalog.=) $2"
	" AND r.database_oid OPERATOR(pg_catalog.=) $3"
	" AND (r.state OPERATOR(pg_catalog.=) 'pending'"
	" OR r.claimed_at OPERATOR(pg_catalog.<) pg_catalog.pg_postmaster_start_time()"
	" OR r.claimed_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) interval '" LEASE "'))"
	" ORDER BY r.next_attempt_at, r.id LIMIT $4 FOR UPDATE SKIP LOCKED) "
	"UPDATE %s r SET state = 'sending', attempts = r.attempts OPERATOR(pg_catalog.+) 1,"
	" claimed_at = pg_catalog.clock_timestamp() "
	"FROM due WHERE r.id OPERATOR(pg_catalog.=) due.id "
	"RETURNING r.id, r.attempts, r.workspace_id, r.not_after, r.next_attempt_at";

static const char settle_sql[] =
	"UPDATE %s r SET state = $3,"
	" finished_at = CASE WHEN $3 OPERATOR(pg_catalog.<>) 'pending' THEN pg_catalog.clock_timestamp() END,"
	" claimed_at = CASE WHEN $3 OPERATOR(pg_catalog.<>) 'pending' THEN r.claimed_at END,"
	" next_attempt_at = CASE WHEN $3 OPERATOR(pg_catalog.=) 'pending' THEN $4 ELSE r.next_attempt_at END,"
	" outcome = COALESCE($5, r.outcome),"
	" status = CASE WHEN $5 IS NULL THEN r.status ELSE $6 END,"
	" message = COALESCE($7, r.message) "
	"WHERE r.id OPERATOR(pg_catalog.=) $1 AND r.attempts OPERATOR(pg_catalog.=) $2"
	" AND r.state OPERATOR(pg_catalog.=) 'sending'";

static const char adopt_sql[] =
	"UPDATE %s r SET system_identifier = $1, database_oid = $2,"
	" state = 'pending', claimed_at = NULL, next_attempt_at = pg_catalog.now() "
	"WHERE r.finished_at IS NULL"
	" AND (r.system_identifier OPERATOR(pg_catalog.<>) $1 OR r.database_oid OPERATOR(pg_catalog.<>) $2)";

/* --- plans --- */

typedef enum QueuePlan
{
	PLAN_CLAIM,
	PLAN_SETTLE,
	PLAN_ADOPT,
	PLANS
} QueuePlan;

typedef struct PlanRule
{
	const char *sql;
	int			nargs;
	Oid			argtypes[7];
} PlanRule;

static const PlanRule plan_rules[PLANS] = {
	{claim_sql, 6, {TIMESTAMPTZOID, INT8OID, OIDOID, INT4OID, TIMESTAMPTZOID, INT8OID}},
	{settle_sql, 7, {INT8OID, INT4OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, INT4OID, TEXTOID}},
	{adopt_sql, 2, {INT8OID, OIDOID}},
};

/*
 * The session's plans, and the schema that they are for: by its number and by
 * its name, since a plan that is made anew looks its table up by name, and
 * after a renaming that name may be somebody else's.
 */
static SPIPlanPtr plans[PLANS];
static Oid	plans_schema = InvalidOid;
static NameData plans_schema_name;

static void
forget_plans(void)
{
	for (int i = 0; i < PLANS; i++)
	{
		if (plans[i])
			SPI_freeplan(plans[i]);
		plans[i] = NULL;
	}
}

static SPIPlanPtr
make_plan(Oid schema, const PlanRule *rule)
{
	char	   *table = quote_qualified_identifier(get_namespace_name(schema), TABLE_NAME);
	Oid			argtypes[lengthof(rule->argtypes)];
	SPIPlanPtr	plan;

	memcpy(argtypes, rule->argtypes, sizeof(argtypes));
	/* only the claim names the table twice */
	plan = SPI_prepare(psprintf(rule->sql, table, table), rule->nargs, argtypes);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare a statement on the queue: %s",
			 SPI_result_code_string(SPI_result));
	return plan;
}

static SPIPlanPtr
get_plan(Oid schema, QueuePlan which)
{
	const char *name = get_namespace_name(schema);

	if (schema != plans_schema || strcmp(name, NameStr(plans_schema_name)) != 0)
		forget_plans();
	plans_schema = schema;
	namestrcpy(&plans_schema_name, name);
	if (plans[which] == NULL)
		plans[which] = make_plan(schema, &plan_rules[which]);
	return plans[which];
}

static void
run_plan(Oid schema, QueuePlan which, Datum *values, const char *nulls, int expected)
{
	MemoryContext old = CurrentMemoryContext;
	int			result = SPI_execute_plan(get_plan(schema, which), values, nulls, false, 0);

	/* SPI leaves its own behind */
	MemoryContextSwitchTo(old);
	if (result != expected)
		elog(ERROR, "could not run a statement on the queue: %s",
			 SPI_result_code_string(result));
}

/* --- whose rows these are --- */

static Datum
our_system(void)
{
	return Int64GetDatum((int64) GetSystemIdentifier());
}

static Datum
our_database(void)
{
	return ObjectIdGetDatum(MyDatabaseId);
}

bool
sendkit_queue_is_ours(int64 system_identifier, Oid database)
{
	return system_identifier == (int64) GetSystemIdentifier() && database == MyDatabaseId;
}

/* --- rights --- */

static Oid
queue_table(Oid schema)
{
	Oid			table = get_relname_relid(TABLE_NAME, schema);

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", TABLE_NAME)));
	return table;
}

static Oid
queue_owner(Oid schema)
{
	Oid			table = queue_table(schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", table);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
sendkit_queue_become_owner(Oid schema, SendkitQueueRights *before)
{
	GetUserIdAndSecContext(&before->user, &before->security_context);
	SetUserIdAndSecContext(queue_owner(schema),
						   before->security_context | SECURITY_LOCAL_USERID_CHANGE);
}

void
sendkit_queue_become_caller(const SendkitQueueRights *before)
{
	SetUserIdAndSecContext(before->user, before->security_context);
}

/* --- adding --- */

/* The table's columns, in the order of the install script */
enum
{
	COLUMN_ID,
	COLUMN_WORKSPACE_ID,
	COLUMN_STATE,
	COLUMN_REQUESTED_AT,
	COLUMN_REQUESTED_BY,
	COLUMN_NOT_AFTER,
	COLUMN_ATTEMPTS,
	COLUMN_NEXT_ATTEMPT_AT,
	COLUMN_CLAIMED_AT,
	COLUMN_FINISHED_AT,
	COLUMN_OUTCOME,
	COLUMN_STATUS,
	COLUMN_MESSAGE,
	COLUMN_SYSTEM_IDENTIFIER,
	COLUMN_DATABASE_OID,
	COLUMNS
};

/* Fills in what all rows of one call have in common. */
static void
fill_common(Datum *values, bool *nulls, TimestampTz not_after)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();

	memset(nulls, true, COLUMNS * sizeof(bool));
	nulls[COLUMN_ID] = nulls[COLUMN_WORKSPACE_ID] = nulls[COLUMN_STATE] = false;
	nulls[COLUMN_REQUESTED_AT] = nulls[COLUMN_REQUESTED_BY] = false;
	nulls[COLUMN_ATTEMPTS] = nulls[COLUMN_NEXT_ATTEMPT_AT] = false;
	nulls[COLUMN_SYSTEM_IDENTIFIER] = nulls[COLUMN_DATABASE_OID] = false;
	nulls[COLUMN_NOT_AFTER] = TIMESTAMP_IS_NOEND(not_after);

	values[COLUMN_STATE] = CStringGetTextDatum("pending");
	values[COLUMN_REQUESTED_AT] = TimestampTzGetDatum(now);
	/* not the definer of the function that calls us, but who called that */
	values[COLUMN_REQUESTED_BY] =
		CStringGetTextDatum(GetUserNameFromId(GetOuterUserId(), false));
	values[COLUMN_NOT_AFTER] = TimestampTzGetDatum(not_after);
	values[COLUMN_ATTEMPTS] = Int32GetDatum(0);
	values[COLUMN_NEXT_ATTEMPT_AT] = TimestampTzGetDatum(now);
	values[COLUMN_SYSTEM_IDENTIFIER] = our_system();
	values[COLUMN_DATABASE_OID] = our_database();
}

void
sendkit_queue_find(Oid schema, SendkitQueue *queue)
{
	queue->table = queue_table(schema);
	queue->sequence = get_relname_relid(SEQUENCE_NAME, schema);
}

/* Are the columns that we fill in there?  Others may have been added behind. */
static bool
has_our_columns(TupleDesc desc)
{
	static const Oid types[COLUMNS] = {
		INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID, INT4OID,
		TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT4OID, TEXTOID,
		INT8OID, OIDOID
	};

	if (desc->natts < COLUMNS)
		return false;
	for (int i = 0; i < COLUMNS; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped ||
			TupleDescAttr(desc, i)->atttypid != types[i])
			return false;
	}
	return true;
}

static Relation
open_queue(Oid table)
{
	Relation	queue = table_open(table, RowExclusiveLock);

	if (!has_our_columns(RelationGetDescr(queue)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s\" does not have the columns of this version of sendkit",
						TABLE_NAME),
				 errhint("Undo what has been altered, or run ALTER EXTENSION sendkit UPDATE.")));
	return queue;
}

int64
sendkit_queue_add(const SendkitQueue *queue, Datum *ids, int count, TimestampTz not_after)
{
	Relation	table = open_queue(queue->table);
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(table, NULL);
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS];
	int64		id = 0;

	/* for triggers that somebody may have put on the table */
	AfterTriggerBeginQuery();
	InitResultRelInfo(target, table, 0, NULL, 0);
	ExecOpenIndices(target, false);
	fill_common(values, nulls, not_after);

	for (int i = 0; i < count; i++)
	{
		id = nextval_internal(queue->sequence, false);
		values[COLUMN_ID] = Int64GetDatum(id);
		values[COLUMN_WORKSPACE_ID] = ids[i];

		ExecClearTuple(slot);
		memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
		memcpy(slot->tts_values, values, sizeof(values));
		memcpy(slot->tts_isnull, nulls, sizeof(nulls));
		ExecStoreVirtualTuple(slot);
		ExecSimpleRelationInsert(target, estate, slot);
		ResetPerTupleExprContext(estate);
	}

	AfterTriggerEndQuery(estate);
	ExecCloseIndices(target);
	ExecCloseResultRelations(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(table, NoLock);
	return id;
}

/* --- claiming and settling --- */

static void
read_revocation(HeapTuple tuple, TupleDesc desc, SendkitRevocation *revocation)
{
	bool		isnull;
	Datum		not_after;

	revocation->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	revocation->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
	revocation->workspace_id = TextDatumGetCString(SPI_getbinval(tuple, desc, 3, &isnull));
	not_after = SPI_getbinval(tuple, desc, 4, &isnull);
	revocation->not_after = isnull ? DT_NOEND : DatumGetTimestampTz(not_after);
	revocation->next_attempt_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 5, &isnull));
}

static bool
is_behind(const SendkitQueuePlace *place, const SendkitRevocation *revocation)
{
	return revocation->next_attempt_at > place->next_attempt_at ||
		(revocation->next_attempt_at == place->next_attempt_at &&
		 revocation->id > place->id);
}

int
sendkit_queue_claim(Oid schema, TimestampTz due, int limit, SendkitQueuePlace *place,
					SendkitRevocation **revocations)
{
	Datum		values[6];

	values[0] = TimestampTzGetDatum(due);
	values[1] = our_system();
	values[2] = our_database();
	values[3] = Int32GetDatum(limit);
	values[4] = TimestampTzGetDatum(place->next_attempt_at);
	values[5] = Int64GetDatum(place->id);
	run_plan(schema, PLAN_CLAIM, values, NULL, SPI_OK_UPDATE_RETURNING);

	*revocations = palloc(Max(SPI_processed, 1) * sizeof(SendkitRevocation));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SendkitRevocation *revocation = &(*revocations)[i];

		read_revocation(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, revocation);
		if (is_behind(place, revocation))
		{
			place->next_attempt_at = revocation->next_attempt_at;
			place->id = revocation->id;
		}
	}
	SPI_freetuptable(SPI_tuptable);
	return (int) SPI_processed;
}

static const char *
state_name(SendkitFate fate)
{
	switch (fate)
	{
		case SENDKIT_FATE_DONE:
			return "done";
		case SENDKIT_FATE_FAILED:
			return "failed";
		case SENDKIT_FATE_PENDING:
			break;
	}
	return "pending";
}

bool
sendkit_queue_settle(Oid schema, const SendkitSettlement *settlement)
{
	Datum		values[7];
	char		nulls[] = "       ";

	memset(values, 0, sizeof(values));
	values[0] = Int64GetDatum(settlement->id);
	values[1] = Int32GetDatum(settlement->attempts);
	values[2] = CStringGetTextDatum(state_name(settlement->fate));
	values[3] = TimestampTzGetDatum(settlement->next_attempt_at);
	values[5] = Int32GetDatum(settlement->status);

	if (settlement->outcome)
		values[4] = CStringGetTextDatum(settlement->outcome);
	else
		nulls[4] = 'n';
	if (settlement->status == 0)
		nulls[5] = 'n';
	if (settlement->message)
		values[6] = CStringGetTextDatum(settlement->message);
	else
		nulls[6] = 'n';

	run_plan(schema, PLAN_SETTLE, values, nulls, SPI_OK_UPDATE);
	return SPI_processed > 0;
}

int64
sendkit_queue_adopt(Oid schema)
{
	Datum		values[2];

	values[0] = our_system();
	values[1] = our_database();
	run_plan(schema, PLAN_ADOPT, values, NULL, SPI_OK_UPDATE);
	return (int64) SPI_processed;
}
