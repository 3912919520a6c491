/*-------------------------------------------------------------------------
 *
 * queue_table.h
 *	  The table of the queue, for those files that know its columns.
 *
 * All functions raise what reading and writing a table raises.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_TABLE_H
#define SENDKIT_QUEUE_TABLE_H

#include "access/genam.h"
#include "executor/tuptable.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "nodes/lockoptions.h"
#include "utils/resowner.h"

#include "queue.h"

/* The columns, in the order of the install script */
typedef enum SendkitQueueColumn
{
	SENDKIT_QUEUE_ID,
	SENDKIT_QUEUE_WORKSPACE_ID,
	SENDKIT_QUEUE_STATE,
	SENDKIT_QUEUE_REQUESTED_AT,
	SENDKIT_QUEUE_REQUESTED_BY,
	SENDKIT_QUEUE_NOT_AFTER,
	SENDKIT_QUEUE_ATTEMPTS,
	SENDKIT_QUEUE_NEXT_ATTEMPT_AT,
	SENDKIT_QUEUE_CLAIMED_AT,
	SENDKIT_QUEUE_CLAIMED_BY,
	SENDKIT_QUEUE_FINISHED_AT,
	SENDKIT_QUEUE_OUTCOME,
	SENDKIT_QUEUE_STATUS,
	SENDKIT_QUEUE_MESSAGE,
	SENDKIT_QUEUE_COLUMNS
} SendkitQueueColumn;

/* The indexes by which rows are found; those of what is due come first */
typedef enum SendkitQueueIndex
{
	SENDKIT_QUEUE_BY_URGENT,	/* unfinished with a not_after: when due, id */
	SENDKIT_QUEUE_BY_DUE,		/* the other unfinished ones: when due, id */
	SENDKIT_QUEUE_BY_NOTABLE,	/* finished, and not as "deleted": by id */
	SENDKIT_QUEUE_BY_ID,
	SENDKIT_QUEUE_INDEXES
} SendkitQueueIndex;

struct SendkitQueue
{
	Oid			extension;
	MemoryContext context;		/* of all that follows */
	Relation	table;
	Oid			sequence;
	Relation	indexes[SENDKIT_QUEUE_INDEXES];
	EState	   *estate;
	ResultRelInfo *target;
	TupleTableSlot *found;		/* the row that was read or locked last */
	TupleTableSlot *written;	/* the row that is being written */
	Datum	   *new_values;		/* of a new row, as far as all have them in */
	bool	   *new_nulls;		/* common; NULL before the first */
	ExprState **defaults;		/* of columns that somebody has added */

	/* if it is kept */
	ResourceOwner owner;
	dlist_node	node;
	MemoryContextCallback callback;
};

extern void sendkit_queue_keep(SendkitQueue *queue);

extern bool sendkit_queue_is_kept(const SendkitQueue *queue);

/* --- reading --- */

/* A scan of the queue in the order of an index */
typedef struct SendkitQueueScan
{
	SendkitQueue *queue;
	SysScanDesc scan;
	ScanKeyData key;
	ScanKeyData members[2];		/* of the key, if it is a row */
} SendkitQueueScan;

extern void sendkit_queue_scan(SendkitQueueScan *scan, SendkitQueue *queue,
							   SendkitQueueIndex index, const SendkitQueuePlace *behind);

extern void sendkit_queue_scan_id(SendkitQueueScan *scan, SendkitQueue *queue, int64 id);

extern bool sendkit_queue_scan_next(SendkitQueueScan *scan);

extern void sendkit_queue_scan_end(SendkitQueueScan *scan);

extern Datum sendkit_queue_get(SendkitQueue *queue, SendkitQueueColumn column, bool *isnull);

extern bool sendkit_queue_is_in(SendkitQueue *queue, const char *state);

extern bool sendkit_queue_claim_lives(SendkitQueue *queue);

/* --- writing --- */

typedef enum SendkitQueueLock
{
	SENDKIT_QUEUE_LOCKED,		/* ours until the end of the transaction */
	SENDKIT_QUEUE_HELD,			/* somebody else's: only with LockWaitSkip */
	SENDKIT_QUEUE_GONE,			/* deleted, or changed by this very command */
} SendkitQueueLock;

extern SendkitQueueLock sendkit_queue_lock(SendkitQueue *queue, LockWaitPolicy policy);

extern void sendkit_queue_change(SendkitQueue *queue);
extern void sendkit_queue_set(SendkitQueue *queue, SendkitQueueColumn column, Datum value);
extern void sendkit_queue_set_null(SendkitQueue *queue, SendkitQueueColumn column);
extern void sendkit_queue_write(SendkitQueue *queue);

extern MemoryContext sendkit_queue_row_context(SendkitQueue *queue);

#endif							/* SENDKIT_QUEUE_TABLE_H */
