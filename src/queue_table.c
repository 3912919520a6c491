/*-------------------------------------------------------------------------
 *
 * queue_table.c
 *	  The table of the queue: opened, read and written without SQL.
 *
 * Whoever calls us needs no right on the table, and nothing is ever run with
 * the rights of its owner, a superuser.  A statement would do neither: it asks
 * for rights, so that it would have to run as the owner, and then so would every
 * trigger, rule and policy that somebody may attach to the table; and it is
 * resolved by name, again at each lock wait, so that it could be led to another
 * table.  So the relation is opened by OID (extension.c), and written as logical
 * replication writes: below the rewriter and the executor's nodes, with no
 * triggers.  What is a part of the table itself is served: constraints, all
 * indexes, and the defaults and generated columns that somebody may have added.
 * Functions in them run as the caller, who gets nobody's rights by that; but if the
 * table's owner is no superuser (any more), as the owner, who must not get the
 * caller's; and in a security-restricted operation, where they can leave nothing
 * behind either.
 *
 * It is also what makes the queue quick: a row trigger calls it for each row of
 * a bulk removal, and the executor's start and end would cost more than the rest.
 * For those the queue can be kept open across calls, until the query's memory
 * goes away.  Relations belong to a resource owner, which on an error goes
 * before the memory does: then there is nothing left to close, and a callback
 * of the resource owners tells us so.
 *
 * Reading sees what has been committed by now, whatever snapshot the transaction
 * has, and a row that is to be changed is locked first and looked at again in
 * its latest version: so it works alike in all isolation levels.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "extension.h"
#include "lock_tags.h"
#include "queue_table.h"

#define TABLE_NAME "sendkit_revocation"
#define SEQUENCE_NAME "sendkit_revocation_id_seq"

static const SendkitColumn columns[SENDKIT_QUEUE_COLUMNS] = {
	[SENDKIT_QUEUE_ID] = {"id", INT8OID},
	[SENDKIT_QUEUE_WORKSPACE_ID] = {"workspace_id", TEXTOID},
	[SENDKIT_QUEUE_STATE] = {"state", TEXTOID},
	[SENDKIT_QUEUE_REQUESTED_AT] = {"requested_at", TIMESTAMPTZOID},
	[SENDKIT_QUEUE_REQUESTED_BY] = {"requested_by", TEXTOID},
	[SENDKIT_QUEUE_NOT_AFTER] = {"not_after", TIMESTAMPTZOID},
	[SENDKIT_QUEUE_ATTEMPTS] = {"attempts", INT4OID},
	[SENDKIT_QUEUE_NEXT_ATTEMPT_AT] = {"next_attempt_at", TIMESTAMPTZOID},
	[SENDKIT_QUEUE_CLAIMED_AT] = {"claimed_at", TIMESTAMPTZOID},
	[SENDKIT_QUEUE_CLAIMED_BY] = {"claimed_by", INT8OID},
	[SENDKIT_QUEUE_FINISHED_AT] = {"finished_at", TIMESTAMPTZOID},
	[SENDKIT_QUEUE_OUTCOME] = {"outcome", TEXTOID},
	[SENDKIT_QUEUE_STATUS] = {"status", INT4OID},
	[SENDKIT_QUEUE_MESSAGE] = {"message", TEXTOID},
};

/* What is kept open in this session */
static dlist_head kept = DLIST_STATIC_INIT(kept);

/* --- functions of others --- */

/* Who we were before */
typedef struct Confinement
{
	Oid			user;
	int			security;
} Confinement;

/*
 * From here on functions that somebody has put on the table may run, in defaults
 * and indexes; some run already when those are opened.  An error, too, ends it.
 */
static void
confine(Relation table, Confinement *before)
{
	Oid			owner = table->rd_rel->relowner;

	GetUserIdAndSecContext(&before->user, &before->security);
	SetUserIdAndSecContext(superuser_arg(owner) ? before->user : owner,
						   before->security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
}

static void
end_confinement(const Confinement *before)
{
	SetUserIdAndSecContext(before->user, before->security);
}

/* --- opening --- */

typedef struct IndexRule
{
	const char *name;
	int			nkeys;
	AttrNumber	keys[2];
} IndexRule;

static const IndexRule index_rules[SENDKIT_QUEUE_INDEXES] = {
	[SENDKIT_QUEUE_BY_URGENT] = {"sendkit_revocation_urgent_idx", 2,
	{SENDKIT_QUEUE_NEXT_ATTEMPT_AT + 1, SENDKIT_QUEUE_ID + 1}},
	[SENDKIT_QUEUE_BY_DUE] = {"sendkit_revocation_due_idx", 2,
	{SENDKIT_QUEUE_NEXT_ATTEMPT_AT + 1, SENDKIT_QUEUE_ID + 1}},
	[SENDKIT_QUEUE_BY_NOTABLE] = {"sendkit_revocation_notable_idx", 1,
	{SENDKIT_QUEUE_ID + 1}},
	[SENDKIT_QUEUE_BY_ID] = {"sendkit_revocation_pkey", 1,
	{SENDKIT_QUEUE_ID + 1}},
};

static bool
index_follows(Relation index, const IndexRule *rule)
{
	Form_pg_index form = index->rd_index;

	if (strcmp(RelationGetRelationName(index), rule->name) != 0 ||
		index->rd_rel->relam != BTREE_AM_OID || !form->indisvalid ||
		form->indnkeyatts != rule->nkeys)
		return false;
	for (int i = 0; i < rule->nkeys; i++)
	{
		if (form->indkey.values[i] != rule->keys[i])
			return false;
	}
	return true;
}

static Relation
find_index(const ResultRelInfo *target, const IndexRule *rule)
{
	for (int i = 0; i < target->ri_NumIndices; i++)
	{
		if (index_follows(target->ri_IndexRelationDescs[i], rule))
			return target->ri_IndexRelationDescs[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("index \"%s\" is missing or invalid", rule->name),
			 errhint("If it is there, REINDEX INDEX may help.")));
	return NULL;				/* keep compilers quiet */
}

/* Prepares the defaults of columns that somebody has added. */
static void
prepare_defaults(SendkitQueue *queue)
{
	TupleDesc	desc = RelationGetDescr(queue->table);

	if (desc->natts == SENDKIT_QUEUE_COLUMNS)
		return;
	queue->defaults = palloc0(desc->natts * sizeof(ExprState *));
	for (int i = SENDKIT_QUEUE_COLUMNS; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		Expr	   *expression;

		if (attribute->attisdropped || attribute->attgenerated != '\0')
			continue;
		expression = (Expr *) build_column_default(queue->table, i + 1);
		if (expression)
			queue->defaults[i] = ExecPrepareExpr(expression, queue->estate);
	}
}

static void
open_in_context(SendkitQueue *queue)
{
	queue->sequence = sendkit_sequence_of(queue->extension, SEQUENCE_NAME);
	queue->estate = CreateExecutorState();
	queue->target = makeNode(ResultRelInfo);
	InitResultRelInfo(queue->target, queue->table, 0, NULL, 0);
	/* nobody's triggers */
	queue->target->ri_TrigDesc = NULL;
	ExecOpenIndices(queue->target, false);
	for (int i = 0; i < SENDKIT_QUEUE_INDEXES; i++)
		queue->indexes[i] = find_index(queue->target, &index_rules[i]);
	queue->found = table_slot_create(queue->table, NULL);
	queue->written = table_slot_create(queue->table, NULL);
	prepare_defaults(queue);
}

/*
 * Opens the queue of an extension (extension.h) in the current memory context.
 * Returns NULL if wait is false and somebody holds a lock that is in the way.
 * Raises what sendkit_table_open() raises, and 55000 if an index is missing.
 */
SendkitQueue *
sendkit_queue_open(Oid extension, bool wait)
{
	MemoryContext context;
	MemoryContext old;
	SendkitQueue *queue;
	Relation	table;
	Confinement before;

	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot work on the queue of revocations in a read-only transaction")));
	table = sendkit_table_open(extension, TABLE_NAME, RowExclusiveLock, wait,
							   columns, SENDKIT_QUEUE_COLUMNS);
	if (table == NULL)
		return NULL;

	context = AllocSetContextCreate(CurrentMemoryContext, "sendkit queue",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	queue = palloc0(sizeof(SendkitQueue));
	queue->extension = extension;
	queue->context = context;
	queue->table = table;
	confine(table, &before);
	open_in_context(queue);
	end_confinement(&before);
	MemoryContextSwitchTo(old);
	return queue;
}

/* What is not memory */
static void
release(SendkitQueue *queue)
{
	ExecDropSingleTupleTableSlot(queue->found);
	ExecDropSingleTupleTableSlot(queue->written);
	ExecCloseIndices(queue->target);
	table_close(queue->table, NoLock);
}

/*
 * Closes it; the lock stays until the end of the transaction.  Must come before
 * that, in the same subtransaction; after an error nothing need be closed.
 */
void
sendkit_queue_close(SendkitQueue *queue)
{
	release(queue);
	FreeExecutorState(queue->estate);
	MemoryContextDelete(queue->context);
}

/* --- keeping it open --- */

/* Whatever the owner owned has been given back. */
static void
forget_released(ResourceReleasePhase phase, bool is_commit pg_attribute_unused(),
				bool is_top_level pg_attribute_unused(), void *arg pg_attribute_unused())
{
	dlist_mutable_iter iter;

	if (phase != RESOURCE_RELEASE_BEFORE_LOCKS)
		return;
	dlist_foreach_modify(iter, &kept)
	{
		SendkitQueue *queue = dlist_container(SendkitQueue, node, iter.cur);

		if (queue->owner == CurrentResourceOwner)
		{
			dlist_delete(&queue->node);
			queue->owner = NULL;
		}
	}
}

/* Its memory goes; its executor state, a child of it, has gone already. */
static void
close_kept(void *arg)
{
	SendkitQueue *queue = (SendkitQueue *) arg;
	ResourceOwner owner = CurrentResourceOwner;

	if (queue->owner == NULL)
		return;
	dlist_delete(&queue->node);
	CurrentResourceOwner = queue->owner;
	release(queue);
	CurrentResourceOwner = owner;
}

/*
 * Keeps it open until the memory context is reset in which it was opened, which
 * must be before the end of the transaction, unless that is rolled back.
 */
void
sendkit_queue_keep(SendkitQueue *queue)
{
	static bool registered = false;

	if (!registered)
		RegisterResourceReleaseCallback(forget_released, NULL);
	registered = true;
	queue->callback.func = close_kept;
	queue->callback.arg = queue;
	MemoryContextRegisterResetCallback(queue->context, &queue->callback);
	queue->owner = CurrentResourceOwner;
	dlist_push_tail(&kept, &queue->node);
}

/* Is a queue that was to be kept still open?  Not after a rollback. */
bool
sendkit_queue_is_kept(const SendkitQueue *queue)
{
	return queue->owner != NULL;
}

/* --- reading --- */

/* ROW(next_attempt_at, id) > ROW(the place's) */
static void
init_place_key(SendkitQueueScan *scan, const SendkitQueuePlace *behind)
{
	ScanKeyEntryInitialize(&scan->members[0], SK_ROW_MEMBER, 1, BTGreaterStrategyNumber,
						   InvalidOid, InvalidOid, F_TIMESTAMPTZ_CMP,
						   TimestampTzGetDatum(behind->next_attempt_at));
	ScanKeyEntryInitialize(&scan->members[1], SK_ROW_MEMBER | SK_ROW_END, 2,
						   BTGreaterStrategyNumber, InvalidOid, InvalidOid, F_BTINT8CMP,
						   Int64GetDatum(behind->id));
	memset(&scan->key, 0, sizeof(scan->key));
	scan->key.sk_flags = SK_ROW_HEADER;
	/* of the table: the scan turns it into that of the index */
	scan->key.sk_attno = SENDKIT_QUEUE_NEXT_ATTEMPT_AT + 1;
	scan->key.sk_strategy = BTGreaterStrategyNumber;
	scan->key.sk_argument = PointerGetDatum(scan->members);
}

static void
begin_scan(SendkitQueueScan *scan, SendkitQueue *queue, SendkitQueueIndex index, int nkeys)
{
	scan->queue = queue;
	PushActiveSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan_ordered(queue->table, queue->indexes[index],
											GetActiveSnapshot(), nkeys, &scan->key);
}

/*
 * Begins to read what has been committed by now: behind a place if that is
 * given (of the first two indexes), or else from the front.
 */
void
sendkit_queue_scan(SendkitQueueScan *scan, SendkitQueue *queue, SendkitQueueIndex index,
				   const SendkitQueuePlace *behind)
{
	if (behind)
		init_place_key(scan, behind);
	begin_scan(scan, queue, index, behind ? 1 : 0);
}

/* Begins to read the rows, one at most, with this id. */
void
sendkit_queue_scan_id(SendkitQueueScan *scan, SendkitQueue *queue, int64 id)
{
	ScanKeyInit(&scan->key, SENDKIT_QUEUE_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	begin_scan(scan, queue, SENDKIT_QUEUE_BY_ID, 1);
}

/* Reads the next row into queue->found.  Returns false if there is none. */
bool
sendkit_queue_scan_next(SendkitQueueScan *scan)
{
	HeapTuple	tuple;

	CHECK_FOR_INTERRUPTS();
	tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);
	if (!HeapTupleIsValid(tuple))
		return false;
	ExecForceStoreHeapTuple(tuple, scan->queue->found, false);
	scan->queue->found->tts_tid = tuple->t_self;
	return true;
}

/* Ends a scan, whether it has come to its end or not. */
void
sendkit_queue_scan_end(SendkitQueueScan *scan)
{
	systable_endscan_ordered(scan->scan);
	PopActiveSnapshot();
}

/* The value of a column of queue->found */
Datum
sendkit_queue_get(SendkitQueue *queue, SendkitQueueColumn column, bool *isnull)
{
	return slot_getattr(queue->found, column + 1, isnull);
}

/* Is it in this state?  Nobody knows what else a person may have written. */
bool
sendkit_queue_is_in(SendkitQueue *queue, const char *state)
{
	bool		isnull;
	Datum		value = sendkit_queue_get(queue, SENDKIT_QUEUE_STATE, &isnull);
	size_t		length = strlen(state);

	return !isnull && toast_raw_datum_size(value) == length + VARHDRSZ &&
		memcmp(VARDATA_ANY(DatumGetTextPP(value)), state, length) == 0;
}

/* Is queue->found being sent by a process that lives? */
bool
sendkit_queue_claim_lives(SendkitQueue *queue)
{
	bool		isnull;
	uint64		token = (uint64) DatumGetInt64(sendkit_queue_get(queue, SENDKIT_QUEUE_CLAIMED_BY,
																 &isnull));
	LOCKTAG		tag;

	if (isnull || !sendkit_queue_is_in(queue, "sending"))
		return false;
	/* shared, lest two that ask at once take each other for the run */
	sendkit_lock_tag(&tag, SENDKIT_LOCK_RUN, token);
	if (LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, ShareLock, false);
	return false;
}

/* --- writing --- */

/* Memory for one row, which sendkit_queue_write() and _add() reset */
MemoryContext
sendkit_queue_row_context(SendkitQueue *queue)
{
	return GetPerTupleMemoryContext(queue->estate);
}

/*
 * Locks queue->found, during its scan; then it is the row's latest version, which
 * may be another one than was read.
 */
SendkitQueueLock
sendkit_queue_lock(SendkitQueue *queue, LockWaitPolicy policy)
{
	ItemPointerData tid = queue->found->tts_tid;
	TM_FailureData failure;

	switch (table_tuple_lock(queue->table, &tid, GetActiveSnapshot(), queue->found,
							 GetCurrentCommandId(false), LockTupleNoKeyExclusive, policy,
							 TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure))
	{
		case TM_Ok:
			return SENDKIT_QUEUE_LOCKED;
		case TM_WouldBlock:
			return SENDKIT_QUEUE_HELD;
		default:
			return SENDKIT_QUEUE_GONE;
	}
}

/*
 * Changes queue->found, which is locked: begin, set columns, write.  Values live
 * in sendkit_queue_row_context() at least.
 */
void
sendkit_queue_change(SendkitQueue *queue)
{
	TupleTableSlot *found = queue->found;
	TupleTableSlot *written = queue->written;
	int			natts = found->tts_tupleDescriptor->natts;

	slot_getallattrs(found);
	ExecClearTuple(written);
	memcpy(written->tts_values, found->tts_values, natts * sizeof(Datum));
	memcpy(written->tts_isnull, found->tts_isnull, natts * sizeof(bool));
}

/* Sets a column of queue->found; see sendkit_queue_change(). */
void
sendkit_queue_set(SendkitQueue *queue, SendkitQueueColumn column, Datum value)
{
	queue->written->tts_values[column] = value;
	queue->written->tts_isnull[column] = false;
}

/* The same, to null */
void
sendkit_queue_set_null(SendkitQueue *queue, SendkitQueueColumn column)
{
	queue->written->tts_isnull[column] = true;
}

/* A row as it will be, but for what the table itself adds */
static void
evaluate_defaults(SendkitQueue *queue)
{
	TupleTableSlot *slot = queue->written;

	for (int i = SENDKIT_QUEUE_COLUMNS; queue->defaults && i < slot->tts_tupleDescriptor->natts; i++)
	{
		if (queue->defaults[i])
			slot->tts_values[i] = ExecEvalExpr(queue->defaults[i],
											   GetPerTupleExprContext(queue->estate),
											   &slot->tts_isnull[i]);
	}
}

static void
insert_written(SendkitQueue *queue)
{
	evaluate_defaults(queue);
	ExecStoreVirtualTuple(queue->written);
	ExecSimpleRelationInsert(queue->target, queue->estate, queue->written);
}

static void
update_found(SendkitQueue *queue)
{
	TupleConstr *constraints = RelationGetDescr(queue->table)->constr;

	ExecStoreVirtualTuple(queue->written);

	/*
	 * all of them: outside of a query, nobody knows which of them depend on
	 * what changes
	 */
	if (constraints && constraints->has_generated_stored)
		ExecComputeStoredGenerated(queue->target, queue->estate, queue->written, CMD_INSERT);
	ExecSimpleRelationUpdate(queue->target, queue->estate, NULL, queue->found, queue->written);
}

static void
run_confined(SendkitQueue *queue, void (*work) (SendkitQueue *queue))
{
	MemoryContext old = MemoryContextSwitchTo(sendkit_queue_row_context(queue));
	Confinement before;

	confine(queue->table, &before);
	work(queue);
	end_confinement(&before);
	MemoryContextSwitchTo(old);
	ResetPerTupleExprContext(queue->estate);
}

/* Writes queue->found as it was changed.  See sendkit_queue_change(). */
void
sendkit_queue_write(SendkitQueue *queue)
{
	run_confined(queue, update_found);
}

/* Fills in what all new rows of one transaction have in common. */
static void
fill_new(SendkitQueue *queue)
{
	int			natts = RelationGetDescr(queue->table)->natts;
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	MemoryContext old = MemoryContextSwitchTo(queue->context);
	Datum	   *values = palloc0(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));

	memset(nulls, true, natts * sizeof(bool));
	values[SENDKIT_QUEUE_STATE] = CStringGetTextDatum("pending");
	values[SENDKIT_QUEUE_REQUESTED_AT] = TimestampTzGetDatum(now);
	/* not the definer of the function that calls us, but who called that */
	values[SENDKIT_QUEUE_REQUESTED_BY] =
		CStringGetTextDatum(GetUserNameFromId(GetOuterUserId(), false));
	values[SENDKIT_QUEUE_ATTEMPTS] = Int32GetDatum(0);
	values[SENDKIT_QUEUE_NEXT_ATTEMPT_AT] = TimestampTzGetDatum(now);
	nulls[SENDKIT_QUEUE_ID] = nulls[SENDKIT_QUEUE_WORKSPACE_ID] = false;
	nulls[SENDKIT_QUEUE_STATE] = nulls[SENDKIT_QUEUE_REQUESTED_AT] = false;
	nulls[SENDKIT_QUEUE_REQUESTED_BY] = nulls[SENDKIT_QUEUE_ATTEMPTS] = false;
	nulls[SENDKIT_QUEUE_NEXT_ATTEMPT_AT] = false;
	queue->new_values = values;
	queue->new_nulls = nulls;
	MemoryContextSwitchTo(old);
}

/*
 * Adds a row for a workspace's id, a text.  not_after may be infinity (DT_NOEND)
 * for none.  Returns the row's number.  Raises what writing a row raises.
 */
int64
sendkit_queue_add(SendkitQueue *queue, Datum workspace_id, TimestampTz not_after)
{
	TupleTableSlot *slot = queue->written;
	int			natts = slot->tts_tupleDescriptor->natts;
	int64		id = nextval_internal(queue->sequence, false);

	if (queue->new_values == NULL)
		fill_new(queue);
	ExecClearTuple(slot);
	memcpy(slot->tts_values, queue->new_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, queue->new_nulls, natts * sizeof(bool));
	sendkit_queue_set(queue, SENDKIT_QUEUE_ID, Int64GetDatum(id));
	sendkit_queue_set(queue, SENDKIT_QUEUE_WORKSPACE_ID, workspace_id);
	if (!TIMESTAMP_IS_NOEND(not_after))
		sendkit_queue_set(queue, SENDKIT_QUEUE_NOT_AFTER, TimestampTzGetDatum(not_after));
	run_confined(queue, insert_written);
	return id;
}
