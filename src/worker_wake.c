/*-------------------------------------------------------------------------
 *
 * worker_wake.c
 *	  How a commit finds its database's worker, or has one started.
 *
 * Without preloading there is no shared memory of our own in which a worker
 * could be entered.  But there is the table of locks: a database's worker is
 * the process that holds the lock SENDKIT_LOCK_WORKER.  Whoever wants to wake it
 * looks through the lists of locks that the processes hold (proc.h), each of
 * which has few in the one partition where that lock would be, and sets the
 * latch of the one it finds.  What has been found is kept by the session, and
 * checked before it is used again.
 *
 * A worker that cannot take more now, with all requests hanging or in trouble,
 * says so by another lock, lest thousands of commits a second wake it in vain.
 *
 * All that happens right after the commit, when the row is visible to others,
 * and an error would be a panic: nothing there allocates memory or raises.  No
 * wake-up is lost: who finds the lock held sets the latch of a worker that will
 * look at the queue once more after it has let go of the lock, and who doesn't
 * has a new worker started, which takes the lock before it looks.
 *
 * A session has no second worker registered while its first has not been
 * started.  When it cannot be, for want of room, that is nobody's fault here:
 * the next commit, the launcher or a person tries again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/memutils.h"

#include "guc.h"
#include "lock_tags.h"
#include "worker.h"

/* Has this transaction made anything due? */
static bool something_due = false;

/* The worker that this session found last; to be checked before use */
static PGPROC *known_worker = NULL;

/*
 * The worker that this session has registered last, if any, in a context of its
 * own, whose first block has room for it: at commit it must not fail.
 */
static MemoryContext handle_context = NULL;
static BackgroundWorkerHandle *registered = NULL;

/* --- the place --- */

/* The database may be another one, or not yet ours. */
static void
place_tag(LOCKTAG *tag, Oid database)
{
	sendkit_lock_tag(tag, SENDKIT_LOCK_WORKER, 0);
	tag->locktag_field1 = database;
}

/*
 * Takes a database's place, a lock, which makes this process its worker.  Returns
 * false if another one has it; never waits.
 */
bool
sendkit_worker_take_place(Oid database)
{
	LOCKTAG		tag;

	place_tag(&tag, database);
	return LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_OK;
}

/* Lets go of it. */
void
sendkit_worker_leave_place(Oid database)
{
	LOCKTAG		tag;

	place_tag(&tag, database);
	LockRelease(&tag, ExclusiveLock, true);
}

/*
 * Tells those that commit whether the worker of this database, which is the
 * caller, wants to be woken; it does at first.  Who begins to listen must look
 * at the queue then.  Returns whether that has just begun.  Needs no transaction.
 */
bool
sendkit_worker_listen(bool listening)
{
	static bool deaf = false;
	LOCKTAG		tag;

	if (listening != deaf)
		return false;
	sendkit_lock_tag(&tag, SENDKIT_LOCK_DEAF, 0);
	if (listening)
		LockRelease(&tag, ExclusiveLock, true);
	else if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	deaf = !listening;
	return listening;
}

static bool
is_deaf(PGPROC *proc)
{
	LOCKTAG		tag;
	uint32		hash;
	LWLock	   *partition;
	bool		deaf;

	sendkit_lock_tag(&tag, SENDKIT_LOCK_DEAF, 0);
	hash = LockTagHashCode(&tag);
	partition = LockHashPartitionLock(hash);
	LWLockAcquire(partition, LW_SHARED);
	deaf = sendkit_proc_holds_lock(proc, &tag, hash);
	LWLockRelease(partition);
	return deaf;
}

/* Returns the process that holds a database's place, or NULL. */
static PGPROC *
find_worker(Oid database)
{
	LOCKTAG		tag;
	uint32		hash;
	LWLock	   *partition;
	PGPROC	   *found = NULL;

	place_tag(&tag, database);
	hash = LockTagHashCode(&tag);
	partition = LockHashPartitionLock(hash);

	LWLockAcquire(partition, LW_SHARED);
	if (known_worker && sendkit_proc_holds_lock(known_worker, &tag, hash))
		found = known_worker;
	for (uint32 i = 0; found == NULL && i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];

		if (sendkit_proc_holds_lock(proc, &tag, hash))
			found = proc;
	}
	LWLockRelease(partition);
	return found;
}

/* Does any process hold the place?  Cannot raise an error. */
bool
sendkit_worker_is_there(Oid database)
{
	return find_worker(database) != NULL;
}

/* --- starting --- */

/*
 * Has a worker started in a database.  Returns false if there is no room for
 * one.  The handle may be NULL, and is else in the current memory context;
 * without one this cannot raise an error.
 */
bool
sendkit_worker_start(Oid database, SendkitErrand errand, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION |
		BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_extra[0] = (char) errand;
	/* who has sent a visitor waits for its return */
	worker.bgw_notify_pid = errand == SENDKIT_ERRAND_VISIT ? MyProcPid : 0;
	strlcpy(worker.bgw_library_name, "$libdir/sendkit", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sendkit_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_type, "sendkit worker", sizeof(worker.bgw_type));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "sendkit worker for database %u", database);
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

static bool
start_is_pending(void)
{
	pid_t		pid;

	return registered &&
		GetBackgroundWorkerPid(registered, &pid) == BGWH_NOT_YET_STARTED;
}

/* Cannot raise. */
static void
wake_or_start_worker(void)
{
	MemoryContext old;

	known_worker = find_worker(MyDatabaseId);
	if (known_worker)
	{
		if (!is_deaf(known_worker))
			SetLatch(&known_worker->procLatch);
		return;
	}
	if (start_is_pending())
		return;

	MemoryContextReset(handle_context);
	registered = NULL;
	old = MemoryContextSwitchTo(handle_context);
	if (!sendkit_worker_start(MyDatabaseId, SENDKIT_ERRAND_DELIVER, &registered))
		registered = NULL;
	MemoryContextSwitchTo(old);
}

/* --- at commit --- */

/*
 * What is prepared is committed later, by a session that knows nothing of it.
 * A flag that a subtransaction has set and that was rolled back does no harm.
 */
static void
at_end_of_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (something_due && sendkit_auto_deliver)
				wake_or_start_worker();
			something_due = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			something_due = false;
			break;
		default:
			break;
	}
}

/*
 * To be called by whatever makes a revocation due: when the transaction
 * commits, this database's worker is woken or, where there is none, started.
 * Raises 53200 the first time in a session, if memory is short.
 */
void
sendkit_worker_note_enqueued(void)
{
	if (IsBinaryUpgrade)
		return;
	if (handle_context == NULL)
	{
		MemoryContext context = AllocSetContextCreate(TopMemoryContext, "sendkit worker's handle",
													  ALLOCSET_SMALL_SIZES);

		/* once a session: PostgreSQL keeps a list */
		RegisterXactCallback(at_end_of_transaction, NULL);
		handle_context = context;
	}
	something_due = true;
}
