/*-------------------------------------------------------------------------
 *
 * worker_launcher.c
 *	  The launcher: sees to databases in which nobody commits anything.
 *
 * It runs where the library is preloaded.  Once per sendkit.worker_naptime, from
 * the end of recovery on, it goes round all databases, as autovacuum does, and
 * has a worker started in each that has none.  The worker sees whether anything
 * is due, and goes at once if not.  One visit comes after the other, so that many
 * databases take one process at a time.
 *
 * So revocations are delivered that no commit has started a worker for: after a
 * restart or a promotion, after COMMIT PREPARED, or when there was no room for
 * another background worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "compat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "clock.h"
#include "guc.h"
#include "worker.h"

/* After this time a worker that is still there has found something to do */
#define VISIT_MS 1000

/* The postmaster starts the launcher again after a failure, in seconds */
#define RESTART_INTERVAL_S 10

/* --- waiting --- */

/* Sleeps, or until the latch is set; ends the process if that is wanted. */
static void
nap(int64 timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, sendkit_worker_wait_event());
	ResetLatch(MyLatch);
	if (ProcDiePending)
		proc_exit(0);
	/* there is no statement to cancel */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* --- a round of visits --- */

/* Returns the databases that can be visited, in the current memory context. */
static List *
find_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *databases = NIL;
	Relation	catalog;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(catalog, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		/* a limit below -1: dropping it was interrupted */
		if (!database->datallowconn || database->datistemplate ||
			database->datconnlimit < -1)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/* Has a worker look into a database, and waits until it has seen enough. */
static void
visit(Oid database)
{
	BackgroundWorkerHandle *handle;
	int64		patience = sendkit_clock_now() + VISIT_MS;
	pid_t		pid;

	if (sendkit_worker_is_there(database) ||
		!sendkit_worker_start(database, SENDKIT_ERRAND_VISIT, &handle))
		return;
	while (GetBackgroundWorkerPid(handle, &pid) < BGWH_STOPPED &&
		   sendkit_clock_now() < patience)
		nap(patience - sendkit_clock_now());
	pfree(handle);
}

static void
go_round(void)
{
	List	   *databases = find_databases();
	ListCell   *cell;

	foreach(cell, databases)
	{
		if (sendkit_auto_deliver)
			visit(lfirst_oid(cell));
	}
}

/* --- the process --- */

/* The launcher's process */
void
sendkit_launcher_main(Datum unused pg_attribute_unused())
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* shared catalogs only */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", "sendkit launcher", PGC_USERSET, PGC_S_OVERRIDE);
	context = AllocSetContextCreate(TopMemoryContext, "sendkit launcher",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		int64		next = sendkit_clock_now() + sendkit_worker_naptime;

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		go_round();
		pgstat_report_stat(false);
		while (sendkit_clock_now() < next)
			nap(next - sendkit_clock_now());
	}
}

/* Set in the postmaster, and known to all that it starts */
static bool has_launcher = false;

/* Was it registered?  Cannot raise an error. */
bool
sendkit_worker_has_launcher(void)
{
	return has_launcher;
}

/* Registers the launcher, if the library is being preloaded.  For _PG_init(). */
void
sendkit_worker_init(void)
{
	BackgroundWorker launcher;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	memset(&launcher, 0, sizeof(launcher));
	launcher.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	launcher.bgw_start_time = BgWorkerStart_RecoveryFinished;
	launcher.bgw_restart_time = RESTART_INTERVAL_S;
	strlcpy(launcher.bgw_library_name, "$libdir/sendkit", sizeof(launcher.bgw_library_name));
	strlcpy(launcher.bgw_function_name, "sendkit_launcher_main", sizeof(launcher.bgw_function_name));
	strlcpy(launcher.bgw_name, "sendkit launcher", sizeof(launcher.bgw_name));
	strlcpy(launcher.bgw_type, "sendkit launcher", sizeof(launcher.bgw_type));
	RegisterBackgroundWorker(&launcher);
	has_launcher = true;
}
