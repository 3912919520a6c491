/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  The durable queue of revocations: add, claim, settle.  Knows no HTTP.
 *
 * All functions need an SPI connection and raise whatever SQL raises.
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
} SendkitRevocation;

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

/*
 * Adds one row per id, in one INSERT, with the rights of the current user.
 * The ids are texts; not_after may be infinity.  Returns the id of the last
 * row.
 */
extern int64 sendkit_queue_add(Oid schema, Datum *ids, int count, TimestampTz not_after);

/*
 * Claims up to limit rows that were due at the given time, and returns how
 * many; *revocations is in the current memory context.
 */
extern int	sendkit_queue_claim(Oid schema, TimestampTz due, int limit,
								SendkitRevocation **revocations);

/* Settles a row if it is still as it was claimed.  Returns whether it was. */
extern bool sendkit_queue_settle(Oid schema, const SendkitSettlement *settlement);

/* Is this where the row belongs?  Needs no SPI connection; cannot raise. */
extern bool sendkit_queue_is_ours(int64 system_identifier, Oid database);

/* Makes all unfinished rows ours.  Returns how many were not. */
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
