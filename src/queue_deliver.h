/*-------------------------------------------------------------------------
 *
 * queue_deliver.h
 *	  Delivers what is due: the loop that introduces the queue to the API.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_DELIVER_H
#define SENDKIT_QUEUE_DELIVER_H

#include "queue.h"

/* What a deliverer's surroundings want of it */
typedef enum SendkitWish
{
	SENDKIT_GO_ON,
	SENDKIT_FINISH,				/* what is under way, and claim no more */
	SENDKIT_STOP,				/* now, saving what is known */
} SendkitWish;

/* What came of a delivery */
typedef struct SendkitDelivery
{
	bool		stopped;		/* as wished */
	bool		key_refused;	/* the API does not know the key */
	int64		shut_out_ms;	/* so long it asks to be left alone, or 0 */
	int			done;
	int			failed;
	int			put_off;		/* unavailable or unknown */
	int			first_attempts;
	int			first_absent;	/* of these, the API knew of no key */
	int			abandoned;		/* their rows could not be settled */
	int			unclaimed;		/* their rows could not be claimed */
	char		trouble[256];	/* message of the last one put off, refused or
								 * unclaimed */
} SendkitDelivery;

/* Who delivers: how transactions are made there, and what is wanted */
typedef struct SendkitDeliverer
{
	/*
	 * Commit, or roll back, and begin the next transaction.  They may leave
	 * any memory context current; the first may raise, and has rolled back
	 * then.
	 */
	void		(*commit) (void);
	void		(*rollback) (void);

	/* Asked several times a second, in a transaction; may be NULL */
	SendkitWish (*wish) (void);

	/*
	 * Is told whether it would be of use to be woken when more becomes due.
	 * Returns whether that has just become so.  May be NULL.
	 */
	bool		(*listen) (bool listening);

	/*
	 * Is told several times a second what has come of the delivery so far,
	 * with the queue open in a transaction; may raise.  May be NULL.
	 */
	void		(*tell) (const SendkitDelivery *delivery, SendkitQueue *queue);

	bool		once;			/* try no row twice */
	int64		claim_until;	/* requested later, by GetCurrentTimestamp():
								 * left to others */
} SendkitDeliverer;

extern void sendkit_deliver(Oid extension, const SendkitDeliverer *deliverer,
							SendkitDelivery *delivery);

#endif							/* SENDKIT_QUEUE_DELIVER_H */
