/*-------------------------------------------------------------------------
 *
 * queue_process.c
 *	  CALL sendkit_process_revocations(): delivers what is due, for a person or
 *	  for pg_cron.
 *
 * The work is done by the engine that workers use as well (queue_deliver.c).
 * What the procedure adds is SPI, by which it commits, and words for the caller.
 *
 * Until its end it takes what has become due meanwhile, too; but each row is
 * tried once, and what was requested long after its beginning is left to the
 * next call, so that there is an end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension.h"
#include "queue.h"
#include "queue_deliver.h"
#include "queue_report.h"

/* What is requested later than this after the beginning is the next call's */
#define CLAIM_SPELL_S 60

/* Overdue revocations are not counted beyond this */
#define MANY_OVERDUE 1000

PG_FUNCTION_INFO_V1(sendkit_process_revocations);

/* --- transactions --- */

static void
set_for_transaction(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * A transaction's settings, whatever the session's are.  Several processes at
 * once skip each other's rows; under a stricter isolation level they would fail
 * instead.  A transaction in which requests are waited for takes its time.
 */
static void
begin_books(void)
{
	set_for_transaction("transaction_isolation", "read committed");
	if (SENDKIT_HAVE_TRANSACTION_TIMEOUT)
		set_for_transaction("transaction_timeout", "0");
}

static void
commit_books(void)
{
	/* a lost synchronous standby must not hold up the books */
	set_for_transaction("synchronous_commit", "local");
	SPI_commit();
	begin_books();
}

/*
 * SPI counts the snapshots that are left, of which there are none but those of
 * the code that has failed.
 */
static void
roll_back_books(void)
{
	while (ActiveSnapshotSet())
		PopActiveSnapshot();
	SPI_rollback();
	begin_books();
}

/* --- words --- */

static void
check_call(FunctionCallInfo fcinfo)
{
	CallContext *call = (CallContext *) fcinfo->context;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("sendkit_process_revocations() cannot run inside a transaction block"),
				 errdetail("It commits what it has done batch by batch."),
				 errhint("Use CALL as a statement of its own, outside of BEGIN and COMMIT, and not from within a function.")));
	PreventCommandIfReadOnly("CALL sendkit_process_revocations()");
}

static void
warn_overdue(Oid extension)
{
	SendkitQueue *queue = sendkit_queue_open(extension, false);
	int			overdue;

	if (queue == NULL)
		return;
	overdue = sendkit_queue_count_overdue(queue, MANY_OVERDUE);
	sendkit_queue_close(queue);
	if (overdue > 0)
		sendkit_report_overdue(overdue, overdue >= MANY_OVERDUE);
}

static void
report_refused_key(const SendkitDelivery *delivery)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("the SendKit API refused the platform key: %s", delivery->trouble),
			 errdetail("What could not be delivered is still pending."),
			 errhint("Replace the key, and call sendkit_process_revocations() again."),
			 errhidestmt(true), errhidecontext(true)));
}

/* --- the procedure --- */

Datum
sendkit_process_revocations(PG_FUNCTION_ARGS)
{
	Oid			extension;
	SendkitDelivery delivery;
	SendkitDeliverer deliverer = {
		.commit = commit_books,
		.rollback = roll_back_books,
		.once = true,
		.claim_until = GetCurrentTimestamp() + CLAIM_SPELL_S * USECS_PER_SEC,
	};

	check_call(fcinfo);
	extension = sendkit_extension_of(fcinfo->flinfo->fn_oid);
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	/* whatever the caller has done before is not ours to commit carelessly */
	SPI_commit();
	begin_books();

	sendkit_deliver(extension, &deliverer, &delivery);

	/* what has stopped it */
	CHECK_FOR_INTERRUPTS();
	sendkit_report_absent(&delivery);
	sendkit_report_unclaimed(&delivery);
	warn_overdue(extension);
	if (delivery.key_refused)
		report_refused_key(&delivery);
	SPI_finish();
	PG_RETURN_VOID();
}
