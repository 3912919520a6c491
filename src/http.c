/*-------------------------------------------------------------------------
 *
 * http.c
 *	  The transport: HTTP requests, many at a time, from one backend.
 *
 * libcurl's multi interface does the protocol; we do the waiting.  A backend
 * must never be inside libcurl while time passes: an interrupt could not be
 * served there, and serving it by longjmp would tear libcurl's state apart.
 * So the driver, sendkit_http_receive(), goes round: take what is finished;
 * serve interrupts; enter libcurl for a due timer; wait on a WaitEventSet for
 * the latch, the postmaster's death and the sockets (http_sockets.c); enter
 * libcurl for each socket that has something.
 *
 * Room.  A request is handed to libcurl only when it can leave at once, and
 * libcurl is entered for it on the spot.  What libcurl does nothing about then
 * would wait inside it, out of reach of our looks and deadlines: that is taken
 * back.  Until it is known what the server speaks, one request is under way, and
 * it tells as soon as TLS is established.  Then there may be one per connection
 * (HTTP/1), or STREAMS per connection and no more connections than that takes
 * (HTTP/2).
 *
 * Deadlines are ours.  They are looked at after what has arrived was taken: a
 * backend that was stopped for a while must not throw away the answers that
 * came meanwhile.
 *
 * Floods.  A peer can keep libcurl busy for as long as it sends.  So a timer
 * looks, while libcurl is entered, whether it should have come home long ago:
 * because of an interrupt, or since one entry has taken more of the CPU than any
 * honest peer can cause.  Then it ends the connection that libcurl was entered
 * for.  Where libcurl calls back in between, it is told to come home by that, too.
 *
 * libcurl resolves names in threads, which inherit the signal mask of whoever
 * starts them: a handler of PostgreSQL's must not run in one.  So every signal
 * is blocked from the moment at which libcurl is about to resolve, which it
 * tells by a callback, until it has come home.  A warm call resolves nothing
 * and pays nothing.
 *
 * Callbacks run inside libcurl and must neither raise an error nor palloc nor
 * serve interrupts (http_transfer.c).
 *
 * Who owns what: the pool is the session's, one static variable, and lives in
 * malloc'd memory and libcurl's.  It owns the multi handle, with the
 * connections kept in it, and the transfers: those under way, and the last one
 * that has ended, whose strings the caller is reading.  Nothing of a
 * statement's memory is referred to between uses.
 *
 * When the transport is left, idle connections stay, if they are not too many.
 * When it is left with requests under way, because an error or an interrupt
 * jumped out, the pool is dropped with all its connections: libcurl would keep
 * some of them to end them in good order, and nobody would enter it for that.
 *
 * Idle connections are closed after IDLE_CLOSE_MS.  No code of ours runs in an
 * idle backend but a signal handler, and there only shutdown(2) is safe: that
 * ends the connections towards the network, and libcurl finds them dead when
 * the next call wants one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "curl_compat.h"
#include "http.h"
#include "http_route.h"
#include "http_sockets.h"
#include "http_transfer.h"

/*
 * Servers and middleboxes commonly drop idle connections after 60 s or more:
 * be the first, or the next request goes into a void.
 */
#define IDLE_CLOSE_MS 30000

/* Setting a timer is dear next to a warm call: a second more or less is alike */
#define IDLE_ARM_MS 1000

/* Idle connections that may stay when the transport is left */
#define MAX_IDLE 32

/* Streams on one HTTP/2 connection: what servers commonly allow */
#define STREAMS 100

/*
 * A new HTTP/2 connection carries one request until the server has told how many
 * it takes at a time.  That is not waited for any longer than this.
 */
#define SETTLE_PATIENCE_MS 1000

/* Connections made at a time: more than a server's backlog would be dropped */
#define MAX_CONNECTING 64

/* Sockets that one connection may take while it is made: two addresses are tried */
#define SOCKETS_PER_CONNECT 2

/* Socket events handled before interrupts are looked at again */
#define EVENTS_PER_ROUND 64

/*
 * No entry into libcurl may outlast an interrupt by much more, or take more of
 * the CPU; or one for its timer
 */
#define LONGEST_ENTRY_MS 100
#define LONGEST_TIMER_ENTRY_MS 1000

/*
 * A libcurl older than 7.87 waits for its resolver thread when a handle is
 * removed.  Handles that hang there are abandoned instead, with their memory
 * and descriptors, but no more often than this in a session.
 */
#define MAX_ABANDONED 8

#define NO_TIMER PG_INT64_MAX

/* What the server speaks, as far as it is known */
typedef enum ServerProtocol
{
	SERVER_UNKNOWN,
	SERVER_HTTP1,
	SERVER_HTTP2,
} ServerProtocol;

typedef struct HttpPool
{
	CURLM	   *multi;
	SendkitRoute route;
	SendkitSockets sockets;
	SendkitTransferCommon common;	/* to our transfers */
	WaitEventSet *wait_set;		/* latch, postmaster's death, sockets */
	dlist_head	active;			/* transfers under way */
	int			nactive;
	SendkitTransfer *ended;		/* the one whose result was returned last, or
								 * NULL */
	ServerProtocol server;
	int			concurrency;	/* requests that may be under way */
	int			connections;	/* that there may be */
	int			max_connections;	/* what libcurl has been told of that, ... */
	int			max_idle;		/* ... and of how many may be idle */
	int			full_at;		/* under way when libcurl had no room for one
								 * more */
	int			connect_failures;	/* since a request has left */
	int64		settle_by;		/* new HTTP/2 connections are waited for until
								 * then */
	int64		overdue_since;	/* when a deadline was first found passed, or
								 * 0 */
	int64		next_deadline;	/* of a transfer, or earlier; or NO_TIMER */
	int64		timer;			/* when libcurl wants to be called, or
								 * NO_TIMER */
	int64		idle_since;		/* when the idle timeout was last set anew */
	const char *failure;		/* of libcurl as a whole, until nothing is
								 * under way; or NULL */
	bool		has_failed;		/* the multi handle must not be entered again */
	bool		signals_blocked;	/* by about_to_resolve(), until libcurl
									 * returns */
	sigset_t	signals_before;
} HttpPool;

/* The session's connections: the module's only state */
static HttpPool *pool = NULL;
static int	abandoned_pools = 0;
static TimeoutId idle_timeout = MAX_TIMEOUTS;
static TimeoutId entry_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t in_use = false;

/* What a signal handler may know of an entry into libcurl */
static volatile sig_atomic_t entered = false;
static volatile int64 entered_at;
static volatile curl_socket_t entered_for;
static volatile uint32 entries = 0;

/* --- signals --- */

/* To be wrapped around whatever may let libcurl start a thread. */
static void
block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

static void
restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* --- entries that last too long --- */

/* Is somebody waiting for libcurl to come home?  Safe in a signal handler. */
static bool
must_come_home(void)
{
	return entered && InterruptPending &&
		sendkit_clock_now() >= entered_at + LONGEST_ENTRY_MS;
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
		sendkit_sockets_shutdown_flood(&pool->sockets, entered_for);
	errno = save_errno;
}

/* --- callbacks --- */

/* libcurl may start a thread next. */
static void
about_to_resolve(void)
{
	if (pool->signals_blocked)
		return;
	block_signals(&pool->signals_before);
	pool->signals_blocked = true;
}

/*
 * A request is about to leave.  This is the moment at which it is known what
 * the server speaks.
 */
static void
about_to_send(SendkitTransfer *transfer, bool http2)
{
	pool->server = http2 ? SERVER_HTTP2 : SERVER_HTTP1;
	pool->connect_failures = 0;
	/* another connection has room of its own */
	pool->full_at = INT_MAX;
	if (transfer->sockets_opened > 0)
		pool->settle_by = sendkit_clock_now() + SETTLE_PATIENCE_MS;
}

/*
 * Called by libcurl now and then, wherever it is: a signal that would have to
 * wait till it has come home is let in when that takes long.
 */
static bool
check_must_come_home(int64 deadline)
{
	int64		now = sendkit_clock_now();

	if (!entered || now < entered_at + LONGEST_ENTRY_MS)
		return false;
	if (pool->signals_blocked)
	{
		sigset_t	blocked;

		pthread_sigmask(SIG_SETMASK, &pool->signals_before, &blocked);
		pthread_sigmask(SIG_SETMASK, &blocked, NULL);
	}
	return InterruptPending || now >= deadline;
}

/* CURLMOPT_SOCKETFUNCTION */
static int
on_socket_interest(CURL *easy pg_attribute_unused(), curl_socket_t fd, int what,
				   void *arg, void *unused pg_attribute_unused())
{
	return sendkit_sockets_watch((SendkitSockets *) arg, fd, what) ? 0 : -1;
}

/* CURLMOPT_TIMERFUNCTION: -1 deletes the timer, 0 means at once */
static int
on_timer(CURLM *multi pg_attribute_unused(), long timeout_ms, void *arg)
{
	HttpPool   *owner = (HttpPool *) arg;

	owner->timer = timeout_ms < 0 ? NO_TIMER : sendkit_clock_now() + timeout_ms;
	return 0;
}

/* --- the pool --- */

static void
free_ended(HttpPool *owner)
{
	if (owner->ended)
		sendkit_transfer_free(owner->ended);
	owner->ended = NULL;
}

/* Takes a transfer out of the multi handle, and keeps it as the last that has ended. */
static void
end_transfer(HttpPool *owner, SendkitTransfer *transfer)
{
	curl_multi_remove_handle(owner->multi, transfer->easy);
	dlist_delete(&transfer->node);
	owner->nactive--;
	if (owner->nactive == 0)
		owner->failure = NULL;
	owner->full_at = INT_MAX;
	free_ended(owner);
	owner->ended = transfer;
}

/* Frees a pool, also one half built. */
static void
free_pool(HttpPool *old)
{
	while (!dlist_is_empty(&old->active))
		end_transfer(old, dlist_head_element(SendkitTransfer, node, &old->active));
	free_ended(old);
	if (old->multi)
		curl_multi_cleanup(old->multi);
	if (old->wait_set)
		FreeWaitEventSet(old->wait_set);
	sendkit_sockets_free(&old->sockets);
	sendkit_route_free(&old->route);
	free(old);
}

static void
drop_pool(void)
{
	HttpPool   *old = pool;
	sigset_t	before;

	if (old == NULL)
		return;
	block_signals(&before);
	/* callbacks may still look at it */
	free_pool(old);
	pool = NULL;
	restore_signals(&before);
}

/* NULL: there is no memory for it */
static void
make_multi(HttpPool *owner)
{
	sigset_t	before;

	block_signals(&before);
	owner->multi = curl_multi_init();
	restore_signals(&before);
}

#define SET_MULTI(multi, name, value) \
	do { \
		if (curl_multi_setopt((multi), (name), (value)) != CURLM_OK) \
			return false; \
	} while (0)

static bool
set_multi_options(HttpPool *new_pool)
{
	CURLM	   *multi = new_pool->multi;

	if (sendkit_curl_multi_can_quick_exit() &&
		sendkit_curl_multi_quick_exit(multi) != CURLM_OK)
		return false;
	SET_MULTI(multi, CURLMOPT_SOCKETFUNCTION, on_socket_interest);
	SET_MULTI(multi, CURLMOPT_SOCKETDATA, &new_pool->sockets);
	SET_MULTI(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	SET_MULTI(multi, CURLMOPT_TIMERDATA, new_pool);
	SET_MULTI(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX);
	SET_MULTI(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, (long) STREAMS);
	return true;
}

/* How many connections there may be.  Returns false if libcurl does not take it. */
static bool
limit_connections(int limit)
{
	if (limit == pool->max_connections)
		return true;
	SET_MULTI(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) limit);
	pool->max_connections = limit;
	return true;
}

/*
 * ... of which may stay while they are not needed: libcurl closes one that comes
 * free when there are more.
 */
static bool
limit_idle(int limit)
{
	if (limit == pool->max_idle)
		return true;
	SET_MULTI(pool->multi, CURLMOPT_MAXCONNECTS, (long) limit);
	pool->max_idle = limit;
	return true;
}

/*
 * SSLKEYLOGFILE in the server's environment would make libcurl write the
 * secrets of our connections to a file: it reads the variable when it is
 * initialized, and must not find it then.
 */
static CURLcode
global_init_unlogged(void)
{
	static const char variable[] = "SSLKEYLOGFILE";
	const char *value = getenv(variable);
	char	   *saved = value ? strdup(value) : NULL;
	CURLcode	result;

	if (value && saved == NULL)
		return CURLE_OUT_OF_MEMORY;
	unsetenv(variable);
	result = curl_global_init(CURL_GLOBAL_DEFAULT);
	if (saved)
	{
		setenv(variable, saved, 1);
		free(saved);
	}
	return result;
}

static void
initialize_curl(void)
{
	static bool initialized = false;
	sigset_t	before;
	CURLcode	result;

	if (initialized)
		return;
	if (sendkit_curl_version() < SENDKIT_MIN_LIBCURL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("libcurl %s is too old for sendkit",
						curl_version_info(CURLVERSION_NOW)->version),
				 errdetail("Version 7.76.0 or later is needed."),
				 errhidestmt(true), errhidecontext(true)));

	block_signals(&before);
	result = global_init_unlogged();
	restore_signals(&before);
	if (result != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not initialize libcurl: %s", curl_easy_strerror(result)),
				 errhidestmt(true), errhidecontext(true)));
	initialized = true;
}

static void
report_out_of_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errhidestmt(true), errhidecontext(true)));
}

static void
report_curl_fault(const SendkitCurlFault *fault)
{
	if (fault->code == CURLE_OUT_OF_MEMORY || fault->option == NULL)
		report_out_of_memory();
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("libcurl %s cannot be used: it does not take the option %s: %s",
					curl_version_info(CURLVERSION_NOW)->version,
					fault->option, curl_easy_strerror(fault->code)),
			 errdetail("Nothing was sent to the SendKit API."),
			 errhidestmt(true), errhidecontext(true)));
}

static void
report_no_descriptor(const char *limit)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not connect to the SendKit API: %s", limit),
			 errdetail("Nothing was sent to the SendKit API."),
			 errhint("Raise the limit, or close what else the session holds open, such as connections to other servers."),
			 errhidestmt(true), errhidecontext(true)));
}

static void
build_wait_set(HttpPool *new_pool)
{
	/* it takes a descriptor, and has no good words for want of one */
	if (!AcquireExternalFD())
		report_no_descriptor(SENDKIT_SESSION_FULL);
	ReleaseExternalFD();

	new_pool->wait_set = sendkit_session_wait_event_set(3);
	AddWaitEventToSet(new_pool->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	/* single-user mode has no postmaster */
	if (IsUnderPostmaster)
		AddWaitEventToSet(new_pool->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(new_pool->wait_set, WL_SOCKET_READABLE,
					  new_pool->sockets.epoll_fd, NULL, NULL);
}

/* Returns a pool without sockets and wait set, or NULL for want of memory. */
static HttpPool *
allocate_pool(const SendkitHttpEndpoint *endpoint)
{
	HttpPool   *new_pool = calloc(1, sizeof(HttpPool));

	if (new_pool == NULL)
		return NULL;
	dlist_init(&new_pool->active);
	new_pool->sockets.epoll_fd = -1;
	new_pool->timer = NO_TIMER;
	new_pool->next_deadline = NO_TIMER;
	new_pool->common.route = &new_pool->route;
	new_pool->common.sockets = &new_pool->sockets;
	new_pool->common.max_idle_s = IDLE_CLOSE_MS / 1000;
	new_pool->common.about_to_resolve = about_to_resolve;
	new_pool->common.about_to_send = about_to_send;
	new_pool->common.must_come_home = check_must_come_home;

	make_multi(new_pool);
	if (new_pool->multi == NULL || !set_multi_options(new_pool) ||
		!sendkit_route_init(&new_pool->route, endpoint))
	{
		free_pool(new_pool);
		return NULL;
	}
	return new_pool;
}

static void
build_pool(const SendkitHttpEndpoint *endpoint)
{
	HttpPool   *new_pool = allocate_pool(endpoint);
	const char *limit;

	if (new_pool == NULL)
		report_out_of_memory();

	limit = sendkit_sockets_init(&new_pool->sockets);
	if (limit)
	{
		free_pool(new_pool);
		report_no_descriptor(limit);
	}

	PG_TRY();
	{
		build_wait_set(new_pool);
	}
	PG_CATCH();
	{
		free_pool(new_pool);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pool = new_pool;
}

/* --- idleness --- */

/* Runs in a signal handler: nothing but shutdown(2). */
static void
on_idle_timeout(void)
{
	int			save_errno = errno;

	if (!in_use && pool)
		sendkit_sockets_shutdown(&pool->sockets);
	errno = save_errno;
}

/* To be called when the transport is left. */
static void
arm_idle_timeout(void)
{
	int64		now;

	if (pool == NULL || pool->sockets.opened == 0)
		return;
	now = sendkit_clock_now();
	if (get_timeout_active(idle_timeout) && now < pool->idle_since + IDLE_ARM_MS)
		return;
	enable_timeout_after(idle_timeout, IDLE_CLOSE_MS);
	pool->idle_since = now;
}

/* To be called when the timeout was disabled: sets it for the time that is left. */
static void
rearm_idle_timeout(void)
{
	int64		left;

	if (pool == NULL || pool->sockets.opened == 0 || get_timeout_active(idle_timeout))
		return;
	left = pool->idle_since + IDLE_CLOSE_MS - sendkit_clock_now();
	enable_timeout_after(idle_timeout, (int) Max(left, 1));
}

/*
 * An error disables all timeouts before the transaction is aborted.  Further
 * errors before its end do so unseen: then libcurl, which keeps to the same
 * time, at least does not use the connections any more.
 */
static void
on_transaction_end(XactEvent event, void *arg pg_attribute_unused())
{
	if (event == XACT_EVENT_ABORT && !in_use)
		rearm_idle_timeout();
}

static void
initialize_timeouts(void)
{
	if (idle_timeout != MAX_TIMEOUTS)
		return;
	idle_timeout = RegisterTimeout(USER_TIMEOUT, on_idle_timeout);
	entry_timeout = RegisterTimeout(USER_TIMEOUT, on_entry_timeout);
	RegisterXactCallback(on_transaction_end, NULL);
}

/* --- abandoning what hangs in an old libcurl's resolver --- */

/* Would giving up what is under way wait for a resolver thread? */
static bool
giving_up_would_hang(void)
{
	dlist_iter	iter;

	if (sendkit_curl_easy_can_quick_exit() ||
		sendkit_curl_multi_can_quick_exit())
		return false;
	if (abandoned_pools >= MAX_ABANDONED)
		return false;
	dlist_foreach(iter, &pool->active)
	{
		if (dlist_container(SendkitTransfer, node, iter.cur)->stage == SENDKIT_STAGE_RESOLVING)
			return true;
	}
	return false;
}

/*
 * Leaves libcurl's part of the pool alone for ever, and frees the rest.  That
 * libcurl's part still refers to it does no harm: nobody enters it again.
 */
static void
abandon_pool(void)
{
	abandoned_pools++;
	dlist_init(&pool->active);
	pool->multi = NULL;
	drop_pool();
}

/* --- entering libcurl --- */

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
	dlist_foreach(iter, &pool->active)
	{
		if (dlist_container(SendkitTransfer, node, iter.cur)->stage < SENDKIT_STAGE_SENT)
			return true;
	}
	return false;
}

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
	entered_at = sendkit_clock_now();
	entered = true;
	if (may_start_threads())
		about_to_resolve();
	result = curl_multi_socket_action(pool->multi, fd, action, &running);
	entered = false;
	sendkit_sockets_look_for_settings(&pool->sockets);
	if (pool->signals_blocked)
	{
		restore_signals(&pool->signals_before);
		pool->signals_blocked = false;
	}

	/* no error: what has left may have been carried out, and is to be told */
	if (result != CURLM_OK)
	{
		pool->failure = pool->nactive > 0 ? curl_multi_strerror(result) : NULL;
		pool->has_failed = true;
	}
}

static void
run_timer(void)
{
	pool->timer = NO_TIMER;
	enter_curl(CURL_SOCKET_TIMEOUT, 0);
}

/* Returns whether anything had happened. */
static bool
run_sockets(void)
{
	SendkitSocketEvent events[EVENTS_PER_ROUND];
	int			nevents = sendkit_sockets_poll(&pool->sockets, events, EVENTS_PER_ROUND);
	int64		began = sendkit_clock_now();

	/* those left out are reported again */
	for (int i = 0; i < nevents && !InterruptPending &&
		 sendkit_clock_now() < began + LONGEST_ENTRY_MS; i++)
		enter_curl(events[i].fd, events[i].action);
	return nevents > 0;
}

/*
 * Waits until something happens, or the time is up.  Serves no interrupt.
 * Returns whether the session's latch was set.
 */
static bool
wait_for_event(int64 timeout_ms)
{
	WaitEvent	events[3];
	int			nevents;
	bool		latch_set = false;
	long		timeout = timeout_ms > INT_MAX ? INT_MAX : (long) timeout_ms;

	/* nothing to watch over: it need not wake us */
	disable_timeout(entry_timeout, false);
	nevents = WaitEventSetWait(pool->wait_set, timeout, events, lengthof(events),
							   sendkit_wait_event());
	for (int i = 0; i < nevents; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_set = true;
		}
		else if (events[i].events & WL_SOCKET_READABLE)
			(void) run_sockets();
	}
	return latch_set;
}

/* --- room --- */

/* The transfers that have not left yet, and their sockets */
typedef struct Connecting
{
	int			transfers;
	int			opened;			/* sockets that they have, ... */
	int			to_open;		/* ... and that they may still open */
} Connecting;

static Connecting
count_connecting(void)
{
	Connecting	connecting = {0};
	dlist_iter	iter;

	dlist_foreach(iter, &pool->active)
	{
		const SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);

		if (transfer->stage == SENDKIT_STAGE_SENT)
			continue;
		connecting.transfers++;
		connecting.opened += transfer->sockets_opened;
		connecting.to_open += Max(SOCKETS_PER_CONNECT - transfer->sockets_opened, 0);
	}
	return connecting;
}

/* Is there an idle connection, or are there descriptors for another one? */
static bool
has_connection(const Connecting *connecting)
{
	int			sent = pool->nactive - connecting->transfers;

	if (pool->sockets.opened > sent + connecting->opened)
		return true;
	return connecting->transfers < MAX_CONNECTING &&
		pool->sockets.opened + connecting->to_open + SOCKETS_PER_CONNECT <= pool->sockets.reserved;
}

/* The connections that HTTP/2 needs for what may be under way */
static int
http2_connections(void)
{
	return Min((pool->concurrency + STREAMS - 1) / STREAMS, pool->connections);
}

/* Has the server told of each HTTP/2 connection how many requests it takes? */
static bool
is_settled(void)
{
	return pool->sockets.unsettled == 0 || sendkit_clock_now() >= pool->settle_by;
}

/* Could another request leave at once? */
static bool
has_room(void)
{
	Connecting	connecting;

	if (pool->nactive == 0)
		return true;
	if (pool->failure || pool->nactive >= pool->concurrency || pool->nactive >= pool->full_at)
		return false;

	connecting = count_connecting();
	switch (pool->server)
	{
		case SERVER_UNKNOWN:

			/*
			 * when the first could not connect, the next need not wait for
			 * each other
			 */
			if (pool->connect_failures == 0)
				return false;
			break;
		case SERVER_HTTP1:
			break;
		case SERVER_HTTP2:
			if (!is_settled())
				return false;
			return pool->nactive - connecting.transfers < pool->sockets.http2 * STREAMS ||
				pool->sockets.http2 + connecting.transfers < http2_connections();
	}
	return pool->nactive < pool->connections && has_connection(&connecting);
}

/*
 * Tells libcurl how many connections there may be.  With HTTP/2 it is one more
 * than needed: one that the server is about to end takes no more requests, and
 * may yet be kept open for long by a single one.
 */
static bool
set_connection_limit(void)
{
	return limit_connections(pool->server == SERVER_HTTP2 ?
							 Min(http2_connections() + 1, pool->connections) :
							 pool->connections);
}

/* --- deadlines --- */

/* Finds the next deadline anew.  Returns the transfer that it is of, or NULL. */
static SendkitTransfer *
find_next_deadline(void)
{
	SendkitTransfer *first = NULL;
	dlist_iter	iter;

	pool->next_deadline = NO_TIMER;
	dlist_foreach(iter, &pool->active)
	{
		SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);
		int64		deadline = sendkit_transfer_deadline(transfer);

		if (deadline < pool->next_deadline)
		{
			pool->next_deadline = deadline;
			first = transfer;
		}
	}
	return first;
}

/*
 * Has a deadline passed for so long that what arrives can wait no more?  The
 * time is that since it was noticed: the backend may have stood still.
 */
static bool
is_long_overdue(int64 now)
{
	if (now < pool->next_deadline)
		pool->overdue_since = 0;
	else if (pool->overdue_since == 0)
		pool->overdue_since = now;
	return pool->overdue_since > 0 && now >= pool->overdue_since + LONGEST_ENTRY_MS;
}

/* Gives a transfer up whose deadline has passed, if there is one. */
static bool
take_expired(int64 now, SendkitHttpResult *result)
{
	SendkitTransfer *transfer = find_next_deadline();

	if (now < pool->next_deadline)
		return false;
	Assert(transfer != NULL);
	sendkit_transfer_expire(transfer, result);
	if (result->failure == SENDKIT_HTTP_NOT_CONNECTED)
		pool->connect_failures++;
	end_transfer(pool, transfer);
	return true;
}

/* --- the door --- */

/* malloc keeps what was freed, unless asked: with glibc one can. */
static void
give_memory_back(void)
{
#ifdef __GLIBC__
	(void) malloc_trim(0);
#endif
}

/*
 * Keeps the pool for the next use, if that is not too much to keep, and nothing
 * in it waits for us: libcurl takes its time to end a connection (8.10 and later),
 * for which it would have to be entered.
 */
static void
leave_pool(void)
{
	bool		was_large = pool->concurrency > MAX_IDLE;

	if (pool->nactive > 0 || pool->sockets.opened > MAX_IDLE || pool->has_failed ||
		sendkit_sockets_any_wanted(&pool->sockets))
		drop_pool();
	else
	{
		free_ended(pool);
		sendkit_sockets_release_unused(&pool->sockets);
	}
	/* hundreds of requests leave the heap large and empty */
	if (was_large)
		give_memory_back();
}

/*
 * Raises 55000 while the transport is in use: a function that its user calls,
 * a trigger for instance, cannot use it, too.
 */
void
sendkit_http_check_not_busy(void)
{
	if (in_use)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot call the SendKit API while another call of the same session is under way"),
				 errhidestmt(true), errhidecontext(true)));
}

/* Asks for room for as many connections as are wanted.  Raises 53000 if there is none. */
static void
reserve_connections(int wanted)
{
	int			granted = sendkit_sockets_reserve(&pool->sockets,
												  pool->sockets.opened +
												  SOCKETS_PER_CONNECT * wanted);

	if (granted == 0)
		report_no_descriptor(SENDKIT_SESSION_FULL);
	pool->connections = Min(Max(granted - 1, 1), wanted);
}

/*
 * Makes the session's connections ready for up to concurrency requests at a
 * time; with few descriptors left, for fewer.  Takes copies of what it needs of
 * the endpoint.  Raises 53000 when there is no descriptor for even one, 53200
 * when memory is short, and 0A000 when the libcurl found at run time is too old.
 */
void
sendkit_http_begin(const SendkitHttpEndpoint *endpoint, int concurrency)
{
	initialize_curl();
	initialize_timeouts();
	/* its first call may raise an error */
	(void) sendkit_wait_event();
	in_use = true;

	if (pool && !sendkit_route_fits(&pool->route, endpoint))
		drop_pool();
	if (pool == NULL)
		build_pool(endpoint);

	reserve_connections(concurrency);
	pool->concurrency = concurrency;
	pool->full_at = INT_MAX;
	pool->connect_failures = 0;
	pool->next_deadline = NO_TIMER;
	pool->overdue_since = 0;
	pool->settle_by = 0;
	if (pool->route.plain || !sendkit_route_speaks_http2(&pool->route))
		pool->server = SERVER_HTTP1;
	else if (pool->sockets.opened == 0)
		pool->server = SERVER_UNKNOWN;
	if (!set_connection_limit())
		report_out_of_memory();
}

/*
 * Puts another multi handle in the place of one that has failed: to go on with such
 * a one can crash (7.88 then looks for a transfer in a table of size zero).
 */
static void
renew_multi(void)
{
	sigset_t	before;

	free_ended(pool);
	block_signals(&before);
	curl_multi_cleanup(pool->multi);
	restore_signals(&before);
	pool->timer = NO_TIMER;
	pool->max_connections = 0;
	pool->max_idle = 0;
	make_multi(pool);
	if (pool->multi == NULL || !set_multi_options(pool))
		report_out_of_memory();
	pool->has_failed = false;
}

static SendkitTransfer *
new_transfer(const SendkitHttpRequest *request)
{
	char	   *target = sendkit_route_target(&pool->route, request->path);
	SendkitCurlFault fault;
	SendkitTransfer *transfer = sendkit_transfer_new(&pool->common, request, target, &fault);

	if (transfer == NULL)
		report_curl_fault(&fault);
	pfree(target);
	return transfer;
}

static void
add_transfer(SendkitTransfer *transfer)
{
	if (!set_connection_limit() || !limit_idle(Max(pool->connections, MAX_IDLE)) ||
		curl_multi_add_handle(pool->multi, transfer->easy) != CURLM_OK)
	{
		sendkit_transfer_free(transfer);
		report_out_of_memory();
	}
	dlist_push_tail(&pool->active, &transfer->node);
	pool->nactive++;
	pool->next_deadline = Min(pool->next_deadline, sendkit_transfer_deadline(transfer));
}

/*
 * Hands a request over, if it can leave at once.  Returns whether it can; if
 * not, ask again when sendkit_http_receive() has returned.  When nothing is
 * under way, it always can.  Raises 53200 when memory is short, and 0A000 when
 * libcurl lacks something that is needed.
 */
bool
sendkit_http_send(const SendkitHttpRequest *request)
{
	SendkitTransfer *transfer;

	if (!has_room())
		return false;
	if (pool->has_failed)
		renew_multi();
	transfer = new_transfer(request);
	add_transfer(transfer);
	run_timer();
	/* the only one has nothing to wait for but its own end */
	if (transfer->stage > SENDKIT_STAGE_ADDED ||
		transfer->trouble != SENDKIT_TROUBLE_NONE || pool->failure || pool->nactive == 1)
		return true;

	/* it would wait inside libcurl */
	end_transfer(pool, transfer);
	pool->full_at = pool->nactive;
	return false;
}

/* Returns whether a request has ended, with its result. */
static bool
take_finished(SendkitHttpResult *result)
{
	CURLMsg    *msg;
	int			left;
	SendkitTransfer *transfer;

	do
	{
		msg = curl_multi_info_read(pool->multi, &left);
		if (msg == NULL)
			return false;
	} while (msg->msg != CURLMSG_DONE);

	transfer = sendkit_transfer_of(msg->easy_handle);
	sendkit_transfer_finish(transfer, msg->data.result, result);
	if (result->failure == SENDKIT_HTTP_NOT_CONNECTED)
		pool->connect_failures++;
	/* who answers has told before */
	if (result->failure == SENDKIT_HTTP_OK && pool->sockets.http2 == 1)
		pool->settle_by = 0;
	/* the message goes with its handle */
	end_transfer(pool, transfer);
	return true;
}

/* Gives a transfer up, if libcurl has failed as a whole: for want of memory, that is. */
static bool
take_failed(SendkitHttpResult *result)
{
	SendkitTransfer *transfer;

	if (pool->failure == NULL)
		return false;
	transfer = dlist_head_element(SendkitTransfer, node, &pool->active);
	strlcpy(transfer->error, pool->failure, sizeof(transfer->error));
	sendkit_transfer_finish(transfer, CURLE_FAILED_INIT, result);
	end_transfer(pool, transfer);
	return true;
}

/*
 * Waits for any request to end, for at most timeout_ms (-1: for ever).
 * Returns false when the time is up, when there is room for another request and
 * was none before, or, if woken is not the null pointer, with *woken set to
 * true, when the session's latch was set.  Raises what CHECK_FOR_INTERRUPTS()
 * raises.
 */
bool
sendkit_http_receive(int64 timeout_ms, SendkitHttpResult *result, bool *woken)
{
	int64		give_up = timeout_ms < 0 ? NO_TIMER : sendkit_clock_now() + timeout_ms;
	bool		had_room = has_room();
	bool		latch_set = false;

	/* there is nothing more to send: what comes free now is not needed */
	if (had_room)
		(void) limit_idle(MAX_IDLE);

	for (;;)
	{
		int64		now;

		/* an answer that is here counts, whatever else happens */
		if (take_finished(result) || take_failed(result))
			return true;

		/*
		 * before an interrupt is served, which the caller may want to prepare
		 * for
		 */
		if (woken && latch_set)
		{
			*woken = true;
			return false;
		}
		CHECK_FOR_INTERRUPTS();

		now = sendkit_clock_now();
		if (is_long_overdue(now))
		{
			if (take_expired(now, result))
				return true;
		}
		else if (pool->timer <= now)
		{
			run_timer();
			/* for a flood it is always due: the others have their turn, too */
			(void) run_sockets();
		}
		else if (pool->next_deadline <= now)
		{
			/* what has arrived comes first */
			if (!run_sockets() && take_expired(now, result))
				return true;
		}
		else if (give_up <= now || (!had_room && has_room()))
			return false;
		else
		{
			int64		until = Min(Min(pool->timer, pool->next_deadline), give_up);

			if (!had_room && !is_settled())
				until = Min(until, pool->settle_by);
			latch_set = wait_for_event(until == NO_TIMER ? -1 : until - now);
		}
	}
}

/*
 * Takes back one request that has been handed over but has not left yet, and
 * returns its tag; NULL if there is none.  Cannot raise an error.
 */
void *
sendkit_http_recall(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &pool->active)
	{
		SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);

		if (transfer->stage == SENDKIT_STAGE_SENT)
			continue;
		end_transfer(pool, transfer);
		return transfer->tag;
	}
	return NULL;
}

/* Has nothing of what is under way left yet?  Cannot raise an error. */
bool
sendkit_http_is_connecting(void)
{
	return pool->nactive > 0 && count_connecting().transfers == pool->nactive;
}

/*
 * Gives up whatever is under way, and keeps the idle connections warm for a
 * while, if they are not too many.  Cannot raise an error.
 */
void
sendkit_http_end(void)
{
	disable_timeout(entry_timeout, false);
	if (pool && giving_up_would_hang())
		abandon_pool();
	else if (pool)
		leave_pool();
	in_use = false;
	arm_idle_timeout();
}
