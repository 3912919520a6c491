/*-------------------------------------------------------------------------
 *
 * queue_report.h
 *	  What is told of a delivery: counts and warnings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_QUEUE_REPORT_H
#define SENDKIT_QUEUE_REPORT_H

#include "queue_deliver.h"

struct SendkitClaim;

extern void sendkit_report_settled(SendkitDelivery *delivery, const struct SendkitClaim *claim);

extern void sendkit_report_absent(const SendkitDelivery *delivery);

extern void sendkit_report_unclaimed(const SendkitDelivery *delivery);

extern void sendkit_report_overdue(int overdue, bool or_more);

#endif							/* SENDKIT_QUEUE_REPORT_H */
