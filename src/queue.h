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

extern SendkitQueue *sendkit_queue_open(Oid extension, bool wait);

extern void sendkit_queue_close(SendkitQueue *queue);

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
	bool		once;			/* claim no row that was claimed before by
								 * this run; to be set by the caller, if at
								 * all */

	/* the queue's own */
	SendkitQueuePlace places[2];
	bool		passed_over;	/* behind these, what somebody held */
	bool		unsure;			/* or perhaps something that came late */
	TimestampTz rescan_at;		/* not again from the front before */
} SendkitRun;

extern void sendkit_queue_begin_run(SendkitRun *run);

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

extern int	sendkit_queue_claim(SendkitQueue *queue, SendkitRun *run, int limit,
								SendkitRevocation **revocations);

extern void sendkit_queue_pass_over(SendkitRun *run);

/* What becomes of a claimed row */
typedef enum SendkitFate
{
	SENDKIT_FATE_DONE,
	SENDKIT_FATE_FAILED,
	SENDKIT_FATE_PENDING,		/* to be tried again at next_attempt_at */
	SENDKIT_FATE_UNSENT,		/* as before the claim: the attempt doesn't
								 * count, and only these fields are used: id,
								 * attempts */
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

extern SendkitSettled sendkit_queue_settle(SendkitQueue *queue, const SendkitRun *run,
										   const SendkitSettlement *settlement);

extern TimestampTz sendkit_queue_next_due(SendkitQueue *queue, const SendkitRun *run);

extern int	sendkit_queue_count_overdue(SendkitQueue *queue, int limit);

#endif							/* SENDKIT_QUEUE_H */
