/*-------------------------------------------------------------------------
 *
 * worker_complain.h
 *	  What the log hears of a worker's troubles, each now and then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_WORKER_COMPLAIN_H
#define SENDKIT_WORKER_COMPLAIN_H

#include "queue.h"
#include "queue_deliver.h"

extern void sendkit_complain_begin(void);

extern void sendkit_complain_of_outage(const SendkitDelivery *delivery);

extern void sendkit_complain_of_error(const ErrorData *error);

extern void sendkit_complain_of_key(const SendkitDelivery *delivery, Oid role);

extern void sendkit_complain_of_copy(void);

extern void sendkit_complain_of_overdue(SendkitQueue *queue);

extern void sendkit_complain_of_absent(const SendkitDelivery *delivery);

extern void sendkit_complain_of_unclaimed(const SendkitDelivery *delivery);

#endif							/* SENDKIT_WORKER_COMPLAIN_H */
