/*-------------------------------------------------------------------------
 *
 * queue_books.h
 *	  The books of a delivery: the transactions that settle and claim.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_BOOKS_H
#define SENDKIT_QUEUE_BOOKS_H

#include "queue_run.h"

#define SENDKIT_BOOKS_NEVER PG_INT64_MAX

extern void sendkit_books_keep(SendkitDeliveryRun *run);

extern int64 sendkit_books_due(SendkitDeliveryRun *run);

extern ErrorData *sendkit_books_take_error(SendkitDeliveryRun *run);

extern void sendkit_books_save(SendkitDeliveryRun *run);

#endif							/* SENDKIT_QUEUE_BOOKS_H */
