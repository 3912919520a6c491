/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  The durable queue of revocations: add, claim, settle.  Knows no HTTP.
 *
 * All functions raise whatever SQL raises; those that say so need an SPI
 * connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_H
#define SENDKIT_QUEUE_H

#include "utils/timestamp.h"

/* One row as it was claimed */
typedef struct SendkitRevocation
{
	int64		id;
	int32		attempts;		/* this one included */
	char	   *workspace_id;
	TimestampTz not_after;		/* infinity: none */
	TimestampTz next_attempt_at;	/* since when it was due */
} SendkitRevocation;

/* Up to where a run has claimed, in the order of the queue */
typedef struct SendkitQueuePlace
{
	TimestampTz next_attempt_at;	/* minus infinity: nowhere yet */
	int64		id;
} SendkitQueuePlace;

/* What becomes of a claimed row */
typedef enum SendkitFate
{
	SENDKIT_FATE_DONE,
	SENDKIT_FATE_FAILED,
	SENDKIT_FATE_PENDING,		/* to be tried again */
} SendkitFate;

typedef struct SendkitSettlement
{
	int64		id;
	int32		attempts;		/* as claimed */
	SendkitFate fate;
	TimestampTz next_attempt_at;	/* if pending */
	const char *outcome;		/* NULL: leave the last one, if any */
	int			status;			/* 0: none */
	const char *message;		/* NULL: leave the last one */
} SendkitSettlement;

/* Where rows are added */
typedef struct SendkitQueue
{
	Oid			table;
	Oid			sequence;
} SendkitQueue;

/* Looks the queue up in the extension's schema. */
extern void sendkit_queue_find(Oid schema, SendkitQueue *queue);

/*
 * Adds one row per id, whoever the current user is.  The ids are texts;
 * not_after may be infinity.  Returns the id of the last row.
 */
extern int64 sendkit_queue_add(const SendkitQueue *queue, Datum *ids, int count, TimestampTz not_after);

/*
 * Needs SPI.  Claims up to limit rows behind *place that were due at the given
 * time, moves *place on, and returns how many; *revocations is in the current
 * memory context.
 */
extern int	sendkit_queue_claim(Oid schema, TimestampTz due, int limit,
								SendkitQueuePlace *place,
								SendkitRevocation **revocations);

/* Needs SPI.  Settles a row if it is still as it was claimed.  Returns whether it was. */
extern bool sendkit_queue_settle(Oid schema, const SendkitSettlement *settlement);

/* Is this where the row belongs?  Needs no SPI connection; cannot raise. */
extern bool sendkit_queue_is_ours(int64 system_identifier, Oid database);

/* Needs SPI.  Makes all unfinished rows ours.  Returns how many were not. */
extern int64 sendkit_queue_adopt(Oid schema);

/* Runs the functions above with the rights of the queue's owner, or back again. */
typedef struct SendkitQueueRights
{
	Oid			user;
	int			security_context;
} SendkitQueueRights;

extern void sendkit_queue_become_owner(Oid schema, SendkitQueueRights *before);
extern void sendkit_queue_become_caller(const SendkitQueueRights *before);

#endif							/* SENDKIT_QUEUE_H */
