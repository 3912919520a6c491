/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The background worker that delivers a database's revocations.
 *
 * It is started by a commit (worker_wake.c) or by the launcher
 * (worker_launcher.c), and is the only one of its database, told by the lock of
 * its place, which it takes before all else.  Round by round it looks into the
 * queue, delivers what is due (queue_deliver.c), and sleeps: until the next row
 * is due, until a commit sets its latch, or for a naptime.  When nothing has
 * been left for some seconds it goes: it lets go of its place first and then
 * looks once more, so that who comes meanwhile is either seen or has a new
 * worker started.
 *
 * When it cannot work (no key, a role that is missing, a copy of the database, a
 * table that is locked, whatever the queue raises) it keeps its place, so that
 * commits start no other, and tries again after pauses that grow.  The log hears
 * of that now and then (worker_complain.c).
 *
 * It must be in nobody's way.  Who is to drop, rename, move or copy the database
 * locks it and waits some seconds for all sessions to end.  So we look several
 * times a second whether a new session could still lock the database, whatever
 * else we do, and leave if not.  If there is still something to do, a successor
 * is left behind that holds the place, waits for the lock to be released without a
 * session in the database, and only then connects, if the database is still there.
 *
 * To a successor it also leaves its place when the extension has been updated: that
 * one has the library that came with the update, or at least all that is known of
 * the queue is new.
 *
 * It connects as the bootstrap superuser, since only then it can find out whose
 * rights it is to have.  From there on each transaction runs as that role, in a
 * security-restricted context that it cannot leave.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "compat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "extension.h"
#include "guc.h"
#include "home.h"
#include "queue.h"
#include "queue_deliver.h"
#include "worker.h"
#include "worker_complain.h"

/* With nothing to do it stays this long, since more may come */
#define LINGER_MS 5000

/* So often it is looked whether we are in somebody's way, who waits for 5 s */
#define WAY_INTERVAL_MS 250

/* ... and, while a delivery goes on, whether the extension has been updated */
#define VERSION_INTERVAL_MS 1000

/* In trouble it pauses this long, doubled each time, and at most a naptime */
#define TROUBLE_PAUSE_MS 1000

/* A copy may be adopted at any time, but not each commit need look */
#define COPY_PAUSE_MS 1000

/* So soon it is looked whether the queue is still locked */
#define SHUT_PAUSE_MS 1000

/* The API may ask to be left alone, but not for ever */
#define MAX_SHUT_OUT_MS (60 * 60 * 1000)

typedef enum Ending
{
	STAYING,
	LEAVING,					/* nothing to do, or wanted to end */
	HANDING_OVER,				/* to a successor, which waits until the
								 * database is free, and has the library that
								 * is there now */
} Ending;

/* There is one per process. */
static struct
{
	Oid			database;
	Ending		ending;
	Oid			role;			/* whose rights a transaction has */
	char	   *version;		/* of the extension, when it was first seen */
	MemoryContext context;		/* of a round */

	/* the next round, by sendkit_clock_now() */
	int64		not_before;		/* whoever wakes us */
	int64		at_last;

	int64		idle_since;		/* nothing was left to do, or 0 */
	int			pauses;			/* rounds in a row that met trouble */
	int64		way_checked;
	int64		version_checked;
	bool		outdated;		/* the extension has been updated */
}			worker;

/* --- in nobody's way --- */

/* Are we to end?  Notes why. */
static bool
is_to_end(void)
{
	int64		now = sendkit_clock_now();

	/*
	 * PostgreSQL 19 asks us to leave so that somebody can have the database
	 * alone
	 */
	if (ProcDiePending)
		worker.ending = sendkit_worker_is_in_the_way(worker.database) ? HANDING_OVER : LEAVING;
	else if (now >= worker.way_checked + WAY_INTERVAL_MS)
	{
		worker.way_checked = now;
		if (sendkit_worker_is_in_the_way(worker.database))
			worker.ending = HANDING_OVER;
	}
	return worker.ending != STAYING;
}

/* Returns whether the settings were read anew. */
static bool
reload_settings(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

/* --- transactions --- */

static void
become_role(void)
{
	if (OidIsValid(worker.role))
		SetUserIdAndSecContext(worker.role,
							   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

static void
begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	become_role();
}

static void
end_transaction(void)
{
	SetUserIdAndSecContext(GetSessionUserId(), 0);
	CommitTransactionCommand();
	pgstat_report_stat(false);
}

static void
commit_and_begin(void)
{
	end_transaction();
	begin_transaction();
}

static void
roll_back_and_begin(void)
{
	AbortCurrentTransaction();
	begin_transaction();
}

/* --- a round --- */

/*
 * Returns the role that workers of this database run as.  Raises 42704 if a
 * setting names one that does not exist.
 */
Oid
sendkit_worker_runs_as(Oid extension)
{
	Oid			role;

	if (sendkit_worker_role[0] == '\0')
		return sendkit_extension_owner(extension);
	role = get_role_oid(sendkit_worker_role, true);
	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", sendkit_worker_role),
				 errhint("Correct \"sendkit.worker_role\".")));
	return role;
}

/*
 * What a look into the queue has found: when the next row is due, DT_NOEND if
 * none is left
 */
typedef struct Prospect
{
	Oid			extension;		/* InvalidOid: there is none here */
	bool		other_version;	/* of which we may know too little */
	bool		shut;			/* the queue is locked */
	SendkitHome home;			/* is the database */
	TimestampTz next_due;
} Prospect;

/*
 * Has the extension been updated since we began?  Then our library may be an
 * old one, and what the old one knows of the queue may be wrong.
 */
static bool
is_other_version(Oid extension)
{
	char	   *version = sendkit_extension_version(extension);

	if (worker.version == NULL)
		worker.version = MemoryContextStrdup(TopMemoryContext, version);
	return strcmp(version, worker.version) != 0;
}

/* In a transaction */
static void
look(Prospect *prospect)
{
	SendkitQueue *queue;

	memset(prospect, 0, sizeof(*prospect));
	prospect->next_due = DT_NOEND;
	worker.role = InvalidOid;
	prospect->extension = get_extension_oid("sendkit", true);
	if (!OidIsValid(prospect->extension))
		return;
	prospect->other_version = is_other_version(prospect->extension);
	if (prospect->other_version)
		return;
	worker.role = sendkit_worker_runs_as(prospect->extension);
	become_role();

	queue = sendkit_queue_open(prospect->extension, false);
	if (queue == NULL)
	{
		prospect->shut = true;
		return;
	}
	prospect->next_due = sendkit_queue_next_due(queue, NULL);
	if (!TIMESTAMP_IS_NOEND(prospect->next_due))
	{
		sendkit_complain_of_overdue(queue);
		prospect->home = sendkit_home_look(prospect->extension);
	}
	sendkit_queue_close(queue);
}

static SendkitWish
wish(void)
{
	if (is_to_end())
		return SENDKIT_STOP;
	/* what a delivery was begun with may be another address, or proxy */
	if (reload_settings() || !sendkit_auto_deliver || worker.outdated)
		return SENDKIT_FINISH;
	return SENDKIT_GO_ON;
}

/* Whoever wakes us, for the one time; and for no longer than the other, if that is more. */
static void
sleep_for(int64 at_least_ms, int64 at_most_ms)
{
	int64		now = sendkit_clock_now();

	worker.not_before = now + at_least_ms;
	worker.at_last = now + Max(at_most_ms, at_least_ms);
}

/* It was no use, and it would not be to try again at once. */
static int64
next_pause(void)
{
	int64		pause = TROUBLE_PAUSE_MS;

	for (int i = 0; i < worker.pauses && pause < sendkit_worker_naptime; i++)
		pause *= 2;
	worker.pauses++;
	return Min(pause, sendkit_worker_naptime);
}

/* There is, or may be, something to do later. */
static void
sleep_until(TimestampTz due)
{
	int64		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due);

	sleep_for(0, Min(left, sendkit_worker_naptime));
}

/* Nothing is left to do: stays a while, then goes. */
static void
linger(void)
{
	int64		now = sendkit_clock_now();

	if (worker.idle_since == 0)
		worker.idle_since = now;
	if (now >= worker.idle_since + LINGER_MS)
		worker.ending = LEAVING;
	else
		sleep_for(0, worker.idle_since + LINGER_MS - now);
}

static void
tell(const SendkitDelivery *delivery, SendkitQueue *queue)
{
	sendkit_complain_of_outage(delivery);
	sendkit_complain_of_overdue(queue);
	if (sendkit_clock_now() >= worker.version_checked + VERSION_INTERVAL_MS)
	{
		worker.version_checked = sendkit_clock_now();
		worker.outdated = is_other_version(get_extension_oid("sendkit", false));
	}
}

static void
deliver(Oid extension)
{
	static const SendkitDeliverer deliverer = {
		.commit = commit_and_begin,
		.rollback = roll_back_and_begin,
		.wish = wish,
		.listen = sendkit_worker_listen,
		.tell = tell,
		.once = false,
		.claim_until = DT_NOEND,
	};
	SendkitDelivery delivery;

	pgstat_report_activity(STATE_RUNNING, "delivering revocations to the SendKit API");
	MemoryContextSwitchTo(worker.context);
	sendkit_complain_begin();
	sendkit_deliver(extension, &deliverer, &delivery);
	/* to say anything would have a pending interrupt served */
	if (delivery.stopped)
		return;

	sendkit_complain_of_outage(&delivery);
	sendkit_complain_of_absent(&delivery);
	if (delivery.key_refused)
		sendkit_complain_of_key(&delivery, worker.role);
	sendkit_complain_of_unclaimed(&delivery);

	if (delivery.shut_out_ms > 0)
		sleep_for(Min(delivery.shut_out_ms, MAX_SHUT_OUT_MS), 0);
	else if (delivery.key_refused)
		sleep_for(next_pause(), 0);
	else if (delivery.abandoned > 0 ||
			 delivery.done + delivery.failed + delivery.put_off == 0)
		/* what is due is held by somebody; others need not wait for that */
		sleep_for(0, next_pause());
	else
	{
		worker.pauses = 0;
		sleep_for(0, 0);
	}
}

static void
do_round(void)
{
	Prospect	prospect;

	/* before the look, so that nothing is missed */
	(void) sendkit_worker_listen(true);
	begin_transaction();
	look(&prospect);

	if (!OidIsValid(prospect.extension) || !sendkit_auto_deliver)
		worker.ending = LEAVING;
	else if (prospect.other_version)
		worker.ending = HANDING_OVER;
	else if (prospect.shut)
		sleep_for(SHUT_PAUSE_MS, 0);
	else if (TIMESTAMP_IS_NOEND(prospect.next_due))
		linger();
	else
	{
		worker.idle_since = 0;
		if (prospect.home == SENDKIT_HOME_ELSEWHERE)
		{
			sendkit_complain_of_copy();
			sleep_for(COPY_PAUSE_MS, sendkit_worker_naptime);
		}
		else if (prospect.next_due > GetCurrentTimestamp())
			sleep_until(prospect.next_due);
		else
			deliver(prospect.extension);
	}
	end_transaction();
}

/* A round, whatever it raises */
static void
try_round(void)
{
	PG_TRY();
	{
		do_round();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(worker.context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		sendkit_complain_of_error(error);
		sleep_for(next_pause(), 0);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker.context);
	MemoryContextReset(worker.context);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Sleeps until the next round, or until we are to end. */
static void
await_round(void)
{
	bool		woken = false;

	while (!is_to_end())
	{
		int64		now = sendkit_clock_now();
		int64		until = woken ? worker.not_before : worker.at_last;

		if (now >= until)
			return;
		/* once is enough */
		if (woken)
			(void) sendkit_worker_listen(false);
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					  Min(until - now, WAY_INTERVAL_MS),
					  sendkit_worker_wait_event()) & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			woken = true;
		}
		/* whatever was wrong may have been corrected */
		if (reload_settings())
			return;
		/* there is no statement to cancel */
		QueryCancelPending = false;
		if (!ProcDiePending)
			CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Having let go of its place, does the worker leave something to do, which may
 * have been committed when the place was still held?  When in doubt, it does.
 */
static bool
is_something_left(void)
{
	volatile bool something = true;

	PG_TRY();
	{
		Prospect	prospect;

		begin_transaction();
		look(&prospect);
		something = OidIsValid(prospect.extension) && sendkit_auto_deliver &&
			(prospect.shut || prospect.other_version ||
			 !TIMESTAMP_IS_NOEND(prospect.next_due));
		end_transaction();
	}
	PG_CATCH();
	{
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	return something;
}

static void
work(void)
{
	do
	{
		worker.ending = STAYING;
		while (worker.ending == STAYING)
		{
			try_round();
			if (worker.ending == STAYING)
				await_round();
		}
		worker.idle_since = 0;
		sendkit_worker_leave_place(worker.database);
	} while (worker.ending == LEAVING && !ProcDiePending && is_something_left() &&
			 sendkit_worker_take_place(worker.database));

	if (worker.ending == HANDING_OVER && (ProcDiePending || is_something_left()))
		(void) sendkit_worker_start(worker.database, SENDKIT_ERRAND_DELIVER, NULL);
}

/* --- beginning and end --- */

static void
wait_unconnected(void)
{
	while (sendkit_worker_is_in_the_way(worker.database))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 WAY_INTERVAL_MS, sendkit_worker_wait_event());
		ResetLatch(MyLatch);
		if (ProcDiePending)
			proc_exit(0);
	}
}

/* The settings that our transactions need, whatever those of the database are */
static void
set_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"application_name", "sendkit worker"},
		{"search_path", ""},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},

		/*
		 * a lost synchronous standby must not hold up the books, nor a
		 * shutdown
		 */
		{"synchronous_commit", "local"},
		/* we wait for no lock on the queue, and not for long on catalogs */
		{"lock_timeout", "1s"},
#if SENDKIT_HAVE_TRANSACTION_TIMEOUT
		{"transaction_timeout", "0"},
#endif
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i].name, settings[i].value, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * The session's end gives the place back, but before we are connected there is
 * no session.
 */
static void
give_place_back(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	LockReleaseAll(USER_LOCKMETHOD, true);
}

/*
 * The process of a worker, whose argument is a database: takes its place, or goes
 * if another one has it.
 */
void
sendkit_worker_main(Datum database)
{
	SendkitErrand errand = (SendkitErrand) MyBgworkerEntry->bgw_extra[0];

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	worker.database = DatumGetObjectId(database);
	before_shmem_exit(give_place_back, (Datum) 0);
	if (!sendkit_worker_take_place(worker.database))
		proc_exit(0);
	wait_unconnected();
	if (!sendkit_worker_has_database(worker.database))
		proc_exit(0);

	/*
	 * Who is still connected where nobody else may connect can commit, and
	 * would have worker after worker started that cannot.
	 */
	BackgroundWorkerInitializeConnectionByOid(worker.database, InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	set_settings();
	worker.context = AllocSetContextCreate(TopMemoryContext, "sendkit worker",
										   ALLOCSET_DEFAULT_SIZES);

	/* a visitor does not stay where there is nothing to do */
	if (errand == SENDKIT_ERRAND_VISIT)
		worker.idle_since = sendkit_clock_now() - LINGER_MS;
	work();
	proc_exit(0);
}
