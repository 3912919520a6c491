/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  The durable queue of revocations: add, claim, settle.  Knows no HTTP.
 *
 * No function here runs SQL or asks for rights on the table: the right to
 * execute the function that was called is the right to do what it does.  All
 * need a transaction, none needs a snapshot or an SPI connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_H
#define SENDKIT_QUEUE_H

#include "utils/timestamp.h"

/* Unfinished revocations are overdue when they were requested before this */
#define SENDKIT_OVERDUE_S (10 * 60)

/* The queue, opened and locked for a part of a transaction */
typedef struct SendkitQueue SendkitQueue;

/*
 * Opens the queue of an extension (extension.h) in the current memory context.
 * Returns NULL if wait is false and somebody holds a lock that is in the way.
 * Raises what sendkit_table_open() raises, and 55000 if an index is missing.
 */
extern SendkitQueue *sendkit_queue_open(Oid extension, bool wait);

/*
 * Closes it; the lock stays until the end of the transaction.  Must come before
 * that, in the same subtransaction; after an error nothing need be closed.
 */
extern void sendkit_queue_close(SendkitQueue *queue);

/*
 * Adds a row for a workspace's id, a text.  not_after may be infinity (DT_NOEND)
 * for none.  Returns the row's number.  Raises what writing a row raises.
 */
extern int64 sendkit_queue_add(SendkitQueue *queue, Datum workspace_id, TimestampTz not_after);

/* --- delivering --- */

/* Up to where claims have read one of the indexes */
typedef struct SendkitQueuePlace
{
	TimestampTz next_attempt_at;
	int64		id;
} SendkitQueuePlace;

/*
 * One process at work on the queue, from its first claim to its last
 * settlement: it holds a lock by which others see that it lives.  When that is
 * gone, however it went, what it had claimed and not settled is due at once.
 */
typedef struct SendkitRun
{
	uint64		token;			/* random, never 0 */
	bool		once;			/* claim no row that was claimed before by this
								 * run; to be set by the caller, if at all */

	/* the queue's own */
	SendkitQueuePlace places[2];
	bool		passed_over;	/* behind these, what somebody held */
	bool		unsure;			/* or perhaps something that came late */
	TimestampTz rescan_at;		/* not again from the front before */
} SendkitRun;

/* Begins a run.  Raises 53200 if there is no room for another lock. */
extern void sendkit_queue_begin_run(SendkitRun *run);

/*
 * Ends it: what it has claimed and not settled is due at once for others.
 * Cannot raise; does nothing if it hasn't begun (zeroed) or has ended.  Needs no
 * transaction.  After an error the caller must see to it.
 */
extern void sendkit_queue_end_run(SendkitRun *run);

/* One row as it was claimed */
typedef struct SendkitRevocation
{
	int64		id;
	int32		attempts;		/* this one included */
	char	   *workspace_id;
	TimestampTz requested_at;
	TimestampTz not_after;		/* DT_NOEND: none */
} SendkitRevocation;

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
extern int	sendkit_queue_claim(SendkitQueue *queue, SendkitRun *run, int limit,
								SendkitRevocation **revocations);

/*
 * After an error while claiming one row, and the rollback: goes on behind that
 * row, and does not begin at the front again for a while.  Cannot raise.
 */
extern void sendkit_queue_pass_over(SendkitRun *run);

/* What becomes of a claimed row */
typedef enum SendkitFate
{
	SENDKIT_FATE_DONE,
	SENDKIT_FATE_FAILED,
	SENDKIT_FATE_PENDING,		/* to be tried again at next_attempt_at */
	SENDKIT_FATE_UNSENT,		/* as before the claim: the attempt doesn't count,
								 * and only these fields are used: id, attempts */
} SendkitFate;

typedef struct SendkitSettlement
{
	int64		id;
	int32		attempts;		/* as claimed */
	SendkitFate fate;
	TimestampTz next_attempt_at;	/* if pending */
	const char *outcome;		/* NULL: leave the last one and its status */
	int			status;			/* 0: none */
	const char *message;		/* NULL: leave the last one */
} SendkitSettlement;

typedef enum SendkitSettled
{
	SENDKIT_SETTLED,
	SENDKIT_SETTLE_LOST,		/* the claim is not this run's any more */
	SENDKIT_SETTLE_LOCKED,		/* somebody holds the row: try again later */
} SendkitSettled;

/*
 * Settles a row if it is still as the run has claimed it.  Never waits for the
 * row.  Raises what writing a row raises.
 */
extern SendkitSettled sendkit_queue_settle(SendkitQueue *queue, const SendkitRun *run,
										   const SendkitSettlement *settlement);

/*
 * Returns when it is worth while to claim (again, if the run has begun; it may
 * be NULL): when the next row is due, in the past if one is now, or DT_NOEND if
 * none is left.  Rows that a living run
 * has claimed don't count; a row that somebody holds does, and cannot be
 * claimed: who is told a time that has passed and then finds nothing to claim
 * must wait before trying again.
 */
extern TimestampTz sendkit_queue_next_due(SendkitQueue *queue, const SendkitRun *run);

/*
 * Returns how many unfinished rows are overdue, counting up to limit.  Reads
 * all unfinished rows if there are less.
 */
extern int	sendkit_queue_count_overdue(SendkitQueue *queue, int limit);

#endif							/* SENDKIT_QUEUE_H */
