/*-------------------------------------------------------------------------
 *
 * http_entry.c
 *	  Entering libcurl, and waiting outside of it.
 *
 * Floods.  A peer can keep libcurl busy for as long as it sends.  So a timer
 * looks, while libcurl is entered, whether it should have come home long ago:
 * because of an interrupt, or since one entry has taken more of the CPU than any
 * honest peer can cause.  Then it ends the connection that libcurl was entered
 * for.  Where libcurl calls back in between, it is told to come home by that, too.
 *
 * Threads.  libcurl resolves names in threads, which inherit the signal mask of
 * whoever starts them: a handler of PostgreSQL's must not run in one.  So every
 * signal is blocked from the moment at which libcurl is about to resolve, which it
 * tells by a callback, until it has come home.  A warm call resolves nothing
 * and pays nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "curl_compat.h"
#include "http_entry.h"
#include "http_pool.h"

/* Socket events handled before interrupts are looked at again */
#define EVENTS_PER_ROUND 64

/*
 * No entry into libcurl may outlast an interrupt by much more, or take more of
 * the CPU; or one for its timer
 */
#define LONGEST_ENTRY_MS 100
#define LONGEST_TIMER_ENTRY_MS 1000

static TimeoutId entry_timeout = MAX_TIMEOUTS;

/* What a signal handler may know of an entry into libcurl */
static volatile sig_atomic_t entered = false;
static volatile int64 entered_at;
static volatile curl_socket_t entered_for;
static volatile uint32 entries = 0;

/* --- entries that last too long --- */

/* Is somebody waiting for libcurl to come home?  Safe in a signal handler. */
static bool
must_come_home(void)
{
	return entered && InterruptPending &&
		sendkit_clock_coarse() >= entered_at + LONGEST_ENTRY_MS;
}

/*
 * Has libcurl used more of the CPU in one entry than honest peers can cause?  For
 * a socket there is one connection to be served, for the timer there may be many
 * that shake hands.  Time that others had of the CPU does not count.  Safe in a
 * signal handler.
 */
static bool
is_flooded(void)
{
	static uint32 looked_at = 0;
	static int64 cpu_then;
	int64		longest = entered_for == CURL_SOCKET_TIMEOUT ?
		LONGEST_TIMER_ENTRY_MS : LONGEST_ENTRY_MS;

	if (!entered)
		return false;
	if (looked_at == entries)
		return sendkit_clock_cpu() >= cpu_then + longest;
	looked_at = entries;
	cpu_then = sendkit_clock_cpu();
	return false;
}

/* Runs in a signal handler: nothing but shutdown(2). */
static void
on_entry_timeout(void)
{
	int			save_errno = errno;

	if (must_come_home() || is_flooded())
		sendkit_sockets_shutdown_flood(&sendkit_pool->sockets, entered_for);
	errno = save_errno;
}

/*
 * Must libcurl come home from a transfer with that deadline, whatever a peer
 * sends?  To be called from inside libcurl, now and then: a signal that would
 * have to wait till it has come home is let in when that takes long.
 */
bool
sendkit_entry_must_come_home(int64 deadline)
{
	int64		now = sendkit_clock_coarse();

	if (!entered || now < entered_at + LONGEST_ENTRY_MS)
		return false;
	if (sendkit_pool->signals_blocked)
	{
		sigset_t	blocked;

		pthread_sigmask(SIG_SETMASK, &sendkit_pool->signals_before, &blocked);
		pthread_sigmask(SIG_SETMASK, &blocked, NULL);
	}
	return InterruptPending || now >= deadline;
}

/* --- threads --- */

/* libcurl may start a thread next.  To be called from inside it. */
void
sendkit_entry_about_to_resolve(void)
{
	if (sendkit_pool->signals_blocked)
		return;
	sendkit_block_signals(&sendkit_pool->signals_before);
	sendkit_pool->signals_blocked = true;
}

/*
 * May a thread be started during any entry?  A libcurl that queues what a
 * thread is to do may start it later than it says.
 */
static bool
may_start_threads(void)
{
	dlist_iter	iter;

	if (!sendkit_curl_starts_threads_unannounced())
		return false;
	dlist_foreach(iter, &sendkit_pool->active)
	{
		if (dlist_container(SendkitTransfer, node, iter.cur)->stage < SENDKIT_STAGE_SENT)
			return true;
	}
	return false;
}

/* --- entering libcurl --- */

/* Has the time looked at that libcurl takes. */
static void
watch_entries(void)
{
	if (!get_timeout_active(entry_timeout))
		enable_timeout_every(entry_timeout,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LONGEST_ENTRY_MS),
							 LONGEST_ENTRY_MS);
}

/* Enters libcurl for a socket, or for its timer (CURL_SOCKET_TIMEOUT). */
static void
enter_curl(curl_socket_t fd, int action)
{
	int			running;
	CURLMcode	result;

	watch_entries();
	entries++;
	entered_for = fd;
	entered_at = sendkit_clock_coarse();
	entered = true;
	if (may_start_threads())
		sendkit_entry_about_to_resolve();
	result = curl_multi_socket_action(sendkit_pool->multi, fd, action, &running);
	entered = false;
	sendkit_sockets_look_for_settings(&sendkit_pool->sockets);
	if (sendkit_pool->signals_blocked)
	{
		sendkit_restore_signals(&sendkit_pool->signals_before);
		sendkit_pool->signals_blocked = false;
	}

	/* no error: what has left may have been carried out, and is to be told */
	if (result != CURLM_OK)
	{
		sendkit_pool->failure = sendkit_pool->nactive > 0 ?
			curl_multi_strerror(result) : NULL;
		sendkit_pool->has_failed = true;
	}
}

/* Enters libcurl for its timer. */
void
sendkit_entry_run_timer(void)
{
	sendkit_pool->timer = NO_TIMER;
	enter_curl(CURL_SOCKET_TIMEOUT, 0);
}

/* Enters libcurl for each socket that has something.  Returns whether there was any. */
bool
sendkit_entry_run_sockets(void)
{
	SendkitSocketEvent events[EVENTS_PER_ROUND];
	int			nevents = sendkit_sockets_poll(&sendkit_pool->sockets, events,
											   EVENTS_PER_ROUND);
	int64		began = sendkit_clock_coarse();

	/* those left out are reported again */
	for (int i = 0; i < nevents && !InterruptPending &&
		 sendkit_clock_coarse() < began + LONGEST_ENTRY_MS; i++)
		enter_curl(events[i].fd, events[i].action);
	return nevents > 0;
}

/*
 * Waits until something happens, or the time is up.  Serves no interrupt.
 * Returns whether the session's latch was set.
 */
bool
sendkit_entry_wait(int64 timeout_ms)
{
	WaitEvent	events[3];
	int			nevents;
	bool		latch_set = false;
	long		timeout = timeout_ms > INT_MAX ? INT_MAX : (long) timeout_ms;

	/* nothing to watch over: it need not wake us */
	disable_timeout(entry_timeout, false);
	nevents = WaitEventSetWait(sendkit_pool->wait_set, timeout, events, lengthof(events),
							   sendkit_wait_event());
	for (int i = 0; i < nevents; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_set = true;
		}
		else if (events[i].events & WL_SOCKET_READABLE)
			(void) sendkit_entry_run_sockets();
	}
	return latch_set;
}

/* To be called before the first entry. */
void
sendkit_entry_begin(void)
{
	if (entry_timeout == MAX_TIMEOUTS)
		entry_timeout = RegisterTimeout(USER_TIMEOUT, on_entry_timeout);
}

/* To be called when libcurl will not be entered for a while. */
void
sendkit_entry_end(void)
{
	disable_timeout(entry_timeout, false);
}
