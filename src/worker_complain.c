/*-------------------------------------------------------------------------
 *
 * worker_complain.c
 *	  What the log hears of a worker's troubles.
 *
 * Of each kind of trouble it hears at once, and then after intervals that grow, as
 * long as the trouble lasts: a worker lives on through hours of an outage, and the
 * log must remain of use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "miscadmin.h"
#include "queue_report.h"
#include "worker_complain.h"

/* The log is spared for this long at first, and then up to that long */
#define FIRST_SILENCE_MS (60 * 1000)
#define MAX_SILENCE_MS (60 * 60 * 1000)

/* Overdue revocations are not counted beyond this, nor more often */
#define MANY_OVERDUE 1000
#define OVERDUE_INTERVAL_MS (60 * 1000)

/* Kinds of trouble, of which the log hears now and then */
typedef struct Complaint
{
	int64		silent_until;
	int64		silence;		/* the last one's length */
} Complaint;

/* There is one worker per process. */
static struct
{
	Complaint	failing;		/* rounds that raise an error */
	Complaint	outage;			/* the API is not reached, or not well */
	Complaint	refused;		/* it refuses the key */
	Complaint	absent;			/* it knows of no key at all */
	Complaint	overdue;
	Complaint	copy;			/* the database is not the home */
	int			put_off;		/* revocations, not yet told of */
	int			noted;			/* of these, those of the delivery under way */
	char		trouble[256];	/* why, of the last one */
	int64		overdue_checked;
}			complaints;

/* Returns whether to speak now. */
static bool
may_complain(Complaint *complaint)
{
	int64		now = sendkit_clock_now();

	if (now < complaint->silent_until)
		return false;
	/* it was quiet for as long as we were: a new trouble */
	if (now >= complaint->silent_until + complaint->silence)
		complaint->silence = FIRST_SILENCE_MS;
	else
		complaint->silence = Min(2 * complaint->silence, MAX_SILENCE_MS);
	complaint->silent_until = now + complaint->silence;
	return true;
}

/* Complains of an error that a round has raised. */
void
sendkit_complain_of_error(const ErrorData *error)
{
	if (!may_complain(&complaints.failing))
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not deliver revocations: %s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/* Another delivery begins: what is told of it counts from zero.  Cannot raise. */
void
sendkit_complain_begin(void)
{
	complaints.noted = 0;
}

/*
 * Complains of attempts that have failed, among them those of a delivery that has
 * not been told of, and may still be under way.
 */
void
sendkit_complain_of_outage(const SendkitDelivery *delivery)
{
	if (delivery->put_off > complaints.noted)
		strlcpy(complaints.trouble, delivery->trouble, sizeof(complaints.trouble));
	complaints.put_off += delivery->put_off - complaints.noted;
	complaints.noted = delivery->put_off;
	if (complaints.put_off == 0 || !may_complain(&complaints.outage))
		return;
	ereport(WARNING,
			(errmsg_plural("%d revocation could not be delivered and is tried again later: %s",
						   "%d attempts to deliver revocations have failed and are repeated later; the last one: %s",
						   complaints.put_off, complaints.put_off, complaints.trouble)));
	complaints.put_off = 0;
}

/* Complains of the key of a role.  Raises what a look at catalogs raises. */
void
sendkit_complain_of_key(const SendkitDelivery *delivery, Oid role)
{
	if (!may_complain(&complaints.refused))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("the SendKit API refused the platform key: %s", delivery->trouble),
			 errdetail("What could not be delivered is still pending."),
			 errhint("Replace the key of role \"%s\".", GetUserNameFromId(role, false))));
}

/* Complains that nothing is delivered since the database is not the home. */
void
sendkit_complain_of_copy(void)
{
	if (!may_complain(&complaints.copy))
		return;
	ereport(WARNING,
			(errmsg("revocations are held, not delivered, since this database is a copy"),
			 errhint("If it takes its original's place, call sendkit_adopt_revocations().")));
}

/*
 * Counts what is overdue now and then, and complains of it.  Raises what reading
 * the queue raises.
 */
void
sendkit_complain_of_overdue(SendkitQueue *queue)
{
	int64		now = sendkit_clock_now();
	int			overdue;

	if (complaints.overdue_checked != 0 && now < complaints.overdue_checked + OVERDUE_INTERVAL_MS)
		return;
	complaints.overdue_checked = now;
	overdue = sendkit_queue_count_overdue(queue, MANY_OVERDUE);
	if (overdue > 0 && may_complain(&complaints.overdue))
		sendkit_report_overdue(overdue, overdue >= MANY_OVERDUE);
}

/* Complains that the API knows of no key at all, if a delivery looks like that. */
void
sendkit_complain_of_absent(const SendkitDelivery *delivery)
{
	if (delivery->first_attempts > 0 &&
		delivery->first_absent == delivery->first_attempts &&
		may_complain(&complaints.absent))
		sendkit_report_absent(delivery);
}

/* Complains of revocations that cannot be claimed, if there are any. */
void
sendkit_complain_of_unclaimed(const SendkitDelivery *delivery)
{
	if (delivery->unclaimed > 0 && may_complain(&complaints.failing))
		sendkit_report_unclaimed(delivery);
}
