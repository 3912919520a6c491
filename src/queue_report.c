/*-------------------------------------------------------------------------
 *
 * queue_report.c
 *	  What is told of a delivery: counts, and warnings for the log and for
 *	  whoever has called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "queue_report.h"
#include "queue_run.h"
#include "text.h"

/* So many first attempts without a key may be chance */
#define FEW_ABSENT 5

/* --- of one revocation --- */

static const char *
message_of(const SendkitClaim *claim)
{
	return claim->fault ? claim->fault : claim->deletion.verdict.message;
}

static void
warn_failed(const SendkitClaim *claim)
{
	bool		expired = claim->revocation.not_after <= GetCurrentTimestamp();
	const char *message = sendkit_text_for_client(message_of(claim));

	/*
	 * an id that cannot be sent may be a key, entered by hand: it is not
	 * named
	 */
	ereport(WARNING,
			(claim->deletion.path ?
			 errmsg("could not revoke the API key of workspace \"%s\": %s",
					sendkit_text_for_client(claim->revocation.workspace_id), message) :
			 errmsg("could not revoke an API key: %s", message),
			 errdetail("Revocation " INT64_FORMAT " has failed after attempt %d.",
					   claim->revocation.id, claim->revocation.attempts),
			 expired ? 0 :
			 errhint("Call sendkit_retry_revocations() to have it tried again.")));
}

static void
count(SendkitDelivery *delivery, const SendkitClaim *claim)
{
	const SendkitVerdict *verdict = &claim->deletion.verdict;

	if (claim->revocation.attempts == 1 && claim->deletion.finished && !claim->unsent)
	{
		delivery->first_attempts++;
		if (verdict->outcome == SENDKIT_ABSENT)
			delivery->first_absent++;
	}
	switch (claim->fate)
	{
		case SENDKIT_FATE_DONE:
			delivery->done++;
			break;
		case SENDKIT_FATE_FAILED:
			delivery->failed++;
			break;
		case SENDKIT_FATE_PENDING:
			if (!verdict->key_refused)
				delivery->put_off++;
			sendkit_text_clip(delivery->trouble, message_of(claim), sizeof(delivery->trouble));
			break;
		case SENDKIT_FATE_UNSENT:
			break;
	}
}

/*
 * Counts a claim that has been settled as it is marked, and warns if it has failed.
 * To say anything has a pending interrupt served, unless the caller holds them.
 */
void
sendkit_report_settled(SendkitDelivery *delivery, const SendkitClaim *claim)
{
	count(delivery, claim);
	if (claim->fate == SENDKIT_FATE_FAILED)
		warn_failed(claim);
}

/* --- of all --- */

/*
 * Warns if a delivery looks like a wrong column, path or account: all of its
 * first attempts, and more than a few, found no key.
 */
void
sendkit_report_absent(const SendkitDelivery *delivery)
{
	if (delivery->first_attempts <= FEW_ABSENT ||
		delivery->first_absent < delivery->first_attempts)
		return;
	ereport(WARNING,
			(errmsg("the SendKit API knew of no key for any of the %d workspaces that were asked for the first time",
					delivery->first_attempts),
			 errdetail("Their revocations are done. A wrong column, a wrong \"sendkit.base_url\" or a key of another account looks like that."),
			 errhint("Look at a workspace_id in sendkit_revocation, and whether the API knows it.")));
}

/* Warns if there were revocations that could not be claimed. */
void
sendkit_report_unclaimed(const SendkitDelivery *delivery)
{
	if (delivery->unclaimed > 0)
		ereport(WARNING,
				(errmsg_plural("%d revocation could not be claimed: %s",
							   "%d revocations could not be claimed; the last one: %s",
							   delivery->unclaimed, delivery->unclaimed,
							   sendkit_text_for_client(delivery->trouble))));
}

/* Warns that so many revocations, or more, are overdue. */
void
sendkit_report_overdue(int overdue, bool or_more)
{
	ereport(WARNING,
			(or_more ?
			 errmsg("%d revocations or more are overdue", overdue) :
			 errmsg_plural("%d revocation is overdue", "%d revocations are overdue",
						   overdue, overdue),
			 errdetail("They were requested more than %d minutes ago, and have neither been delivered nor failed.",
					   SENDKIT_OVERDUE_S / 60),
			 errhint("Their outcome and message in sendkit_revocation tell what became of the last attempt.")));
}
