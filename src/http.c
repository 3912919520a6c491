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
 * the latch, the postmaster's death and the sockets (http_sockets.c); enter libcurl
 * for each socket that has something.
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
 * connections kept in it, and the transfers.  A transfer is under way (in
 * pool->active) or spare, and used over and over until it fails.  Nothing of a
 * statement's memory is referred to between batches.  Headers belong to the
 * caller, who must not free them during a batch.
 *
 * A batch that ends early, because an error or an interrupt jumped out of it,
 * takes its transfers out of the multi handle in sendkit_http_end(); libcurl
 * closes the connections that were in mid-answer and keeps the others.
 *
 * Idle connections are closed after IDLE_CLOSE_MS.  No code of ours runs in an
 * idle backend but a signal handler, and there only shutdown(2) is safe: that
 * ends the connections towards the network, and libcurl finds them dead when
 * the next call wants one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timeout.h"

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

/* Streams on one HTTP/2 connection, as far as the server agrees */
#define MAX_STREAMS 1000L

/*
 * libcurl takes a new HTTP/2 connection for full at this many streams, until
 * the server's settings have arrived, and opens others for the surplus.  So
 * at first no more than these are handed to it.  The rest follow when the
 * server has spoken; or, before, as soon as two requests share a connection,
 * with libcurl kept from opening another one until the server has spoken.
 */
#define COLD_STREAMS 100

/* Socket events handled before interrupts are looked at again */
#define EVENTS_PER_ROUND 64

/*
 * A libcurl older than 7.87 waits for its resolver thread when a handle is
 * removed.  Handles that hang there are abandoned instead, with their memory
 * and descriptors, but no more often than this in a session.
 */
#define MAX_ABANDONED 8

#define NO_TIMER PG_INT64_MAX

typedef struct HttpPool
{
	CURLM	   *multi;
	SendkitRoute route;
	SendkitSockets sockets;
	SendkitTransferCommon common;	/* to our transfers */
	WaitEventSet *wait_set;		/* latch, postmaster's death, sockets */
	dlist_head	active;
	dlist_head	spare;
	dlist_head	failed;			/* to be freed */
	int64		timer;			/* when libcurl wants to be called, or NO_TIMER */
	int64		idle_since;		/* when the idle timeout was last set anew */
	int			concurrency;	/* of the batch */
	int			connections;	/* that there may be */
	bool		sent;			/* a request has left since all was cold */
	bool		warm;			/* ... and the server has spoken since */
	bool		shared;			/* ... and not, but two requests share a connection */
	bool		capped;			/* libcurl is kept to one connection */
	bool		started;		/* a transfer was added since libcurl ran */
	bool		signals_blocked;	/* by about_to_resolve(), until libcurl returns */
	sigset_t	signals_before;
} HttpPool;

/* The session's connections: the module's only state */
static HttpPool *pool = NULL;
static int	abandoned_pools = 0;
static TimeoutId idle_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t batch_open = false;

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

/* A request is about to leave, for the first time. */
static void
about_to_send(void)
{
	if (pool->sent && !pool->warm && pool->sockets.opened == 1)
		pool->shared = true;
	pool->sent = true;
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

/* --- transfers --- */

/*
 * Takes a transfer out of the multi handle.  Only one that succeeded is used
 * again: a handle keeps more from a failure than can be told (a refused stream
 * would let its next request be repeated).  Its strings live on until the
 * next request.
 */
static void
retire_transfer(SendkitTransfer *transfer, bool succeeded)
{
	curl_multi_remove_handle(pool->multi, transfer->easy);
	sendkit_transfer_forget_headers(transfer);
	dlist_delete(&transfer->node);
	dlist_push_head(succeeded ? &pool->spare : &pool->failed, &transfer->node);
}

static void
free_transfers(dlist_head *transfers)
{
	while (!dlist_is_empty(transfers))
	{
		dlist_node *node = dlist_pop_head_node(transfers);

		sendkit_transfer_free(dlist_container(SendkitTransfer, node, node));
	}
}

/* --- the pool --- */

/* Frees a pool, also one half built. */
static void
free_pool(HttpPool *old)
{
	free_transfers(&old->spare);
	free_transfers(&old->failed);
	if (old->multi)
		curl_multi_cleanup(old->multi);
	if (old->wait_set)
		FreeWaitEventSet(old->wait_set);
	if (old->sockets.epoll_fd >= 0)
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
	free_pool(old);
	pool = NULL;
	restore_signals(&before);
}

static bool
set_multi_options(HttpPool *new_pool)
{
	CURLM	   *multi = new_pool->multi;

	if (sendkit_curl_multi_can_quick_exit() &&
		sendkit_curl_multi_quick_exit(multi) != CURLM_OK)
		return false;
	return curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket_interest) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, &new_pool->sockets) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERDATA, new_pool) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, MAX_STREAMS) == CURLM_OK;
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
				 errdetail("Version 7.80.0 or later is needed."),
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

/* Returns a pool without a wait set, or NULL for want of memory. */
static HttpPool *
allocate_pool(const SendkitHttpEndpoint *endpoint)
{
	HttpPool   *new_pool = calloc(1, sizeof(HttpPool));
	sigset_t	before;

	if (new_pool == NULL)
		return NULL;
	new_pool->sockets.epoll_fd = -1;
	new_pool->timer = NO_TIMER;
	new_pool->common.route = &new_pool->route;
	new_pool->common.sockets = &new_pool->sockets;
	new_pool->common.max_idle_s = IDLE_CLOSE_MS / 1000;
	new_pool->common.about_to_resolve = about_to_resolve;
	new_pool->common.about_to_send = about_to_send;
	dlist_init(&new_pool->active);
	dlist_init(&new_pool->spare);
	dlist_init(&new_pool->failed);

	block_signals(&before);
	new_pool->multi = curl_multi_init();
	restore_signals(&before);

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

	if (!batch_open && pool)
		sendkit_sockets_shutdown(&pool->sockets);
	errno = save_errno;
}

/* To be called when a batch has ended. */
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
	if (event == XACT_EVENT_ABORT && !batch_open)
		rearm_idle_timeout();
}

static void
initialize_idleness(void)
{
	if (idle_timeout != MAX_TIMEOUTS)
		return;
	idle_timeout = RegisterTimeout(USER_TIMEOUT, on_idle_timeout);
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
		if (sendkit_transfer_is_resolving(dlist_container(SendkitTransfer, node, iter.cur)))
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
	dlist_init(&pool->spare);
	dlist_init(&pool->failed);
	pool->multi = NULL;
	drop_pool();
}

/* --- the door --- */

void
sendkit_http_check_idle(void)
{
	if (batch_open)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot call the SendKit API while another call of the same session is under way"),
				 errhidestmt(true), errhidecontext(true)));
}

void
sendkit_http_begin(const SendkitHttpEndpoint *endpoint, int concurrency)
{
	int			granted;

	initialize_curl();
	initialize_idleness();
	/* its first call may raise an error */
	(void) sendkit_wait_event();
	batch_open = true;

	if (pool && !sendkit_route_fits(&pool->route, endpoint))
		drop_pool();
	if (pool == NULL)
		build_pool(endpoint);

	/* one more, because two addresses of a host may be tried at a time */
	granted = sendkit_sockets_reserve(&pool->sockets, concurrency + 1);
	if (granted == 0)
		report_no_descriptor(SENDKIT_SESSION_FULL);
	granted = Min(Max(granted - 1, 1), concurrency);
	if (granted != pool->connections)
	{
		curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) granted);
		curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, (long) granted);
	}
	pool->connections = granted;
	pool->concurrency = concurrency;
	if (pool->sockets.opened == 0)
		pool->sent = pool->warm = pool->shared = false;
}

int
sendkit_http_capacity(void)
{
	/* without HTTP/2, more requests than connections would only queue up */
	if (pool->route.plain)
		return pool->connections;
	return pool->warm || pool->capped ?
		pool->concurrency : Min(pool->concurrency, COLD_STREAMS);
}

static SendkitTransfer *
take_spare_transfer(void)
{
	SendkitTransfer *transfer;

	free_transfers(&pool->failed);
	if (dlist_is_empty(&pool->spare))
	{
		transfer = sendkit_transfer_new(&pool->common);
		if (transfer == NULL)
			report_out_of_memory();
		return transfer;
	}
	return dlist_container(SendkitTransfer, node, dlist_pop_head_node(&pool->spare));
}

void
sendkit_http_send(const SendkitHttpRequest *request)
{
	char	   *target = sendkit_route_target(&pool->route, request->path);
	SendkitTransfer *transfer = take_spare_transfer();

	if (!sendkit_transfer_prepare(transfer, request, target) ||
		curl_multi_add_handle(pool->multi, transfer->easy) != CURLM_OK)
	{
		sendkit_transfer_free(transfer);
		report_out_of_memory();
	}
	pfree(target);
	dlist_push_tail(&pool->active, &transfer->node);
	pool->started = true;
}

/* Returns whether a request has ended, with its result. */
static bool
take_finished(SendkitHttpResult *result)
{
	CURLMsg    *msg;
	int			left;
	SendkitTransfer *transfer;
	CURLcode	code;

	do
	{
		msg = curl_multi_info_read(pool->multi, &left);
		if (msg == NULL)
			return false;
	} while (msg->msg != CURLMSG_DONE);

	/* the message goes with its handle */
	code = msg->data.result;
	transfer = sendkit_transfer_of(msg->easy_handle);
	sendkit_transfer_finish(transfer, code, result);
	retire_transfer(transfer, code == CURLE_OK);
	return true;
}

/* Enters libcurl for a socket, or for its timer (CURL_SOCKET_TIMEOUT). */
static void
enter_curl(curl_socket_t fd, int action)
{
	int			running;
	CURLMcode	result;

	if (sendkit_curl_starts_threads_unannounced())
		about_to_resolve();
	result = curl_multi_socket_action(pool->multi, fd, action, &running);
	if (pool->signals_blocked)
	{
		restore_signals(&pool->signals_before);
		pool->signals_blocked = false;
	}

	if (result != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not drive transfers: %s", curl_multi_strerror(result)),
				 errhidestmt(true), errhidecontext(true)));
}

/*
 * Right before libcurl chooses connections for new transfers: takes the unsafe
 * ones away.  A libcurl that might choose one of those nevertheless is told to
 * make new ones, until it has closed them.
 */
static void
prepare_connections(void)
{
	bool		fresh;
	dlist_iter	iter;

	sendkit_sockets_drop_unsafe(&pool->sockets);
	fresh = pool->sockets.dead > 0 &&
		!sendkit_curl_looks_before_reuse();

	dlist_reverse_foreach(iter, &pool->active)
	{
		SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);

		if (transfer->begun)
			break;
		sendkit_transfer_begin(transfer, fresh);
	}
}

static void
run_timer(void)
{
	if (pool->started)
	{
		prepare_connections();
		pool->started = false;
	}
	pool->timer = NO_TIMER;
	enter_curl(CURL_SOCKET_TIMEOUT, 0);
}

/* Keeps libcurl to one connection, or allows it what there may be. */
static void
cap_connections(bool cap)
{
	if (cap == pool->capped)
		return;
	curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
					  cap ? 1L : (long) pool->connections);
	pool->capped = cap;
}

static void
run_sockets(void)
{
	SendkitSocketEvent events[EVENTS_PER_ROUND];
	int			nevents;
	bool		sent_before = pool->sent;

	nevents = sendkit_sockets_poll(&pool->sockets, events, EVENTS_PER_ROUND);
	for (int i = 0; i < nevents; i++)
		enter_curl(events[i].fd, events[i].action);
	if (nevents > 0 && sent_before)
	{
		pool->warm = true;
		cap_connections(false);
	}
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
			run_sockets();
	}
	return latch_set;
}

bool
sendkit_http_receive(int64 timeout_ms, SendkitHttpResult *result, bool *woken)
{
	int64		give_up = timeout_ms < 0 ? NO_TIMER : sendkit_clock_now() + timeout_ms;
	int			capacity = sendkit_http_capacity();
	bool		latch_set = false;

	for (;;)
	{
		int64		now;

		/* an answer that is here counts, whatever else happens */
		if (take_finished(result))
			return true;

		/* before an interrupt is served, which the caller may want to prepare for */
		if (woken && latch_set)
		{
			*woken = true;
			return false;
		}
		CHECK_FOR_INTERRUPTS();

		now = sendkit_clock_now();
		if (pool->shared && !pool->warm && pool->concurrency > COLD_STREAMS)
			cap_connections(true);
		if (pool->timer <= now)
			run_timer();
		else if (give_up <= now || sendkit_http_capacity() > capacity)
			return false;
		else
		{
			int64		until = Min(pool->timer, give_up);

			latch_set = wait_for_event(until == NO_TIMER ? -1 : until - now);
		}
	}
}

void *
sendkit_http_recall(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &pool->active)
	{
		SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);

		if (transfer->sent)
			continue;
		retire_transfer(transfer, false);
		return transfer->tag;
	}
	return NULL;
}

void
sendkit_http_end(void)
{
	if (pool && giving_up_would_hang())
		abandon_pool();
	else if (pool)
	{
		cap_connections(false);
		while (!dlist_is_empty(&pool->active))
			retire_transfer(dlist_head_element(SendkitTransfer, node, &pool->active), false);
		free_transfers(&pool->failed);
		sendkit_sockets_release_unused(&pool->sockets);
	}
	batch_open = false;
	arm_idle_timeout();
}
