/*-------------------------------------------------------------------------
 *
 * http_pool.c
 *	  The session's connections to the API.
 *
 * Who owns what: the pool is the session's, one variable, and lives in malloc'd
 * memory and libcurl's.  It owns the multi handle, with the connections kept in
 * it, and the transfers: those under way, and the last one that has ended, whose
 * strings the caller is reading.  Nothing of a statement's memory is referred to
 * between uses.
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

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timeout.h"

#include "clock.h"
#include "curl_compat.h"
#include "http_fault.h"
#include "http_pool.h"

/*
 * Servers and middleboxes commonly drop idle connections after 60 s or more:
 * be the first, or the next request goes into a void.
 */
#define IDLE_CLOSE_MS 30000

/* Setting a timer is dear next to a warm call: a second more or less is alike */
#define IDLE_ARM_MS 1000

/*
 * A libcurl older than 7.87 waits for its resolver thread when a handle is
 * removed.  Handles that hang there are abandoned instead, with their memory
 * and descriptors, but no more often than this in a session.
 */
#define MAX_ABANDONED 8

SendkitHttpPool *sendkit_pool = NULL;
static int	abandoned_pools = 0;
static TimeoutId idle_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t in_use = false;

/* --- initializing libcurl --- */

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

	sendkit_block_signals(&before);
	result = global_init_unlogged();
	sendkit_restore_signals(&before);
	if (result != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not initialize libcurl: %s", curl_easy_strerror(result)),
				 errhidestmt(true), errhidecontext(true)));
	initialized = true;
}

/* --- what the multi handle tells --- */

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
	SendkitHttpPool *owner = (SendkitHttpPool *) arg;

	owner->timer = timeout_ms < 0 ? NO_TIMER : sendkit_clock_now() + timeout_ms;
	return 0;
}

/* --- making one, and its end --- */

static void
free_ended(SendkitHttpPool *owner)
{
	if (owner->ended)
		sendkit_transfer_free(owner->ended);
	owner->ended = NULL;
}

/*
 * Takes a transfer out of the multi handle, and keeps it as the last that has
 * ended.  Cannot raise an error.
 */
void
sendkit_pool_end_transfer(SendkitHttpPool *owner, SendkitTransfer *transfer)
{
	curl_multi_remove_handle(owner->multi, transfer->easy);
	if (transfer->stage >= SENDKIT_STAGE_CONNECTING && !transfer->answered)
		owner->gave_up = true;
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
free_pool(SendkitHttpPool *old)
{
	while (!dlist_is_empty(&old->active))
		sendkit_pool_end_transfer(old, dlist_head_element(SendkitTransfer, node,
														  &old->active));
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
	SendkitHttpPool *old = sendkit_pool;
	sigset_t	before;

	if (old == NULL)
		return;
	sendkit_block_signals(&before);
	/* callbacks may still look at it */
	free_pool(old);
	sendkit_pool = NULL;
	sendkit_restore_signals(&before);
}

/* NULL: there is no memory for it */
static void
make_multi(SendkitHttpPool *owner)
{
	sigset_t	before;

	sendkit_block_signals(&before);
	owner->multi = curl_multi_init();
	sendkit_restore_signals(&before);
}

#define SET_MULTI(multi, name, value) \
	do { \
		if (curl_multi_setopt((multi), (name), (value)) != CURLM_OK) \
			return false; \
	} while (0)

static bool
set_multi_options(SendkitHttpPool *new_pool)
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

/* How many connections there may be.  Returns false if libcurl does not take that. */
bool
sendkit_pool_limit_connections(int limit)
{
	if (limit == sendkit_pool->max_connections)
		return true;
	SET_MULTI(sendkit_pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) limit);
	sendkit_pool->max_connections = limit;
	return true;
}

/*
 * ... of which may stay while they are not needed: libcurl closes one that comes
 * free when there are more.
 */
bool
sendkit_pool_limit_idle(int limit)
{
	if (limit == sendkit_pool->max_idle)
		return true;
	SET_MULTI(sendkit_pool->multi, CURLMOPT_MAXCONNECTS, (long) limit);
	sendkit_pool->max_idle = limit;
	return true;
}

/*
 * Puts another multi handle in the place of one that has failed: to go on with such
 * a one can crash (7.88 then looks for a transfer in a table of size zero).  Raises
 * 53200 when memory is still short.
 */
void
sendkit_pool_renew_multi(void)
{
	sigset_t	before;

	free_ended(sendkit_pool);
	sendkit_block_signals(&before);
	curl_multi_cleanup(sendkit_pool->multi);
	sendkit_restore_signals(&before);
	sendkit_pool->timer = NO_TIMER;
	sendkit_pool->max_connections = 0;
	sendkit_pool->max_idle = 0;
	make_multi(sendkit_pool);
	if (sendkit_pool->multi == NULL || !set_multi_options(sendkit_pool))
		sendkit_http_report_out_of_memory();
	sendkit_pool->has_failed = false;
}

static void
build_wait_set(SendkitHttpPool *new_pool)
{
	/* it takes a descriptor, and has no good words for want of one */
	if (!AcquireExternalFD())
		sendkit_http_report_no_descriptor(SENDKIT_SESSION_FULL);
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
static SendkitHttpPool *
allocate_pool(const SendkitHttpEndpoint *endpoint,
			  const SendkitTransferCommon *callbacks)
{
	SendkitHttpPool *new_pool = calloc(1, sizeof(SendkitHttpPool));

	if (new_pool == NULL)
		return NULL;
	dlist_init(&new_pool->active);
	new_pool->sockets.epoll_fd = -1;
	new_pool->timer = NO_TIMER;
	new_pool->next_deadline = NO_TIMER;
	new_pool->common = *callbacks;
	new_pool->common.route = &new_pool->route;
	new_pool->common.sockets = &new_pool->sockets;
	new_pool->common.max_idle_s = IDLE_CLOSE_MS / 1000;

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
build_pool(const SendkitHttpEndpoint *endpoint, const SendkitTransferCommon *callbacks)
{
	const char *limit;

	sendkit_pool = allocate_pool(endpoint, callbacks);
	if (sendkit_pool == NULL)
		sendkit_http_report_out_of_memory();

	limit = sendkit_sockets_init(&sendkit_pool->sockets);
	if (limit)
	{
		drop_pool();
		sendkit_http_report_no_descriptor(limit);
	}

	PG_TRY();
	{
		build_wait_set(sendkit_pool);
	}
	PG_CATCH();
	{
		drop_pool();
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* --- idleness --- */

/* Runs in a signal handler: nothing but shutdown(2). */
static void
on_idle_timeout(void)
{
	int			save_errno = errno;

	if (!in_use && sendkit_pool)
		sendkit_sockets_shutdown(&sendkit_pool->sockets);
	errno = save_errno;
}

/* To be called when the transport is left. */
static void
arm_idle_timeout(void)
{
	int64		now;

	if (sendkit_pool == NULL || sendkit_pool->sockets.opened == 0)
		return;
	now = sendkit_clock_now();
	if (get_timeout_active(idle_timeout) && now < sendkit_pool->idle_since + IDLE_ARM_MS)
		return;
	enable_timeout_after(idle_timeout, IDLE_CLOSE_MS);
	sendkit_pool->idle_since = now;
}

/* To be called when the timeout was disabled: sets it for the time that is left. */
static void
rearm_idle_timeout(void)
{
	int64		left;

	if (sendkit_pool == NULL || sendkit_pool->sockets.opened == 0 ||
		get_timeout_active(idle_timeout))
		return;
	left = sendkit_pool->idle_since + IDLE_CLOSE_MS - sendkit_clock_now();
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
initialize_idle_timeout(void)
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
	dlist_foreach(iter, &sendkit_pool->active)
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
	dlist_init(&sendkit_pool->active);
	sendkit_pool->multi = NULL;
	drop_pool();
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
 * Does libcurl still have a connection to end, for which it would have to be
 * entered?  It may tell so by waiting for the peer's part, but not always.
 */
static bool
may_be_ending(void)
{
	return (sendkit_pool->gave_up && sendkit_curl_takes_time_to_end()) ||
		sendkit_sockets_any_wanted(&sendkit_pool->sockets);
}

/*
 * Keeps the pool for the next use, if that is not too much to keep, and nothing
 * in it waits for us.
 */
static void
leave_pool(void)
{
	bool		was_large = sendkit_pool->concurrency > MAX_IDLE;

	if (sendkit_pool->nactive > 0 || sendkit_pool->sockets.opened > MAX_IDLE ||
		sendkit_pool->has_failed || may_be_ending())
		drop_pool();
	else
	{
		free_ended(sendkit_pool);
		sendkit_sockets_release_unused(&sendkit_pool->sockets);
	}
	/* hundreds of requests leave the heap large and empty */
	if (was_large)
		give_memory_back();
}

/* Asks for room for as many connections as are wanted.  Raises 53000 if there is none. */
static void
reserve_connections(int wanted)
{
	int			granted = sendkit_sockets_reserve(&sendkit_pool->sockets,
												  sendkit_pool->sockets.opened +
												  SOCKETS_PER_CONNECT * wanted);

	if (granted == 0)
		sendkit_http_report_no_descriptor(SENDKIT_SESSION_FULL);
	sendkit_pool->connections = Min(Max(granted - 1, 1), wanted);
}

/* Is a call under way? */
bool
sendkit_pool_is_in_use(void)
{
	return in_use;
}

/*
 * Makes the session's connections ready for up to concurrency requests at a
 * time; with few descriptors left, for fewer.  Takes copies of what it needs of
 * the endpoint, and of the callbacks among what transfers have in common.  Raises
 * 53000 when there is no descriptor for even one, 53200 when memory is short, and
 * 0A000 when the libcurl found at run time is too old.
 */
void
sendkit_pool_begin(const SendkitHttpEndpoint *endpoint, int concurrency,
				   const SendkitTransferCommon *callbacks)
{
	initialize_curl();
	initialize_idle_timeout();
	in_use = true;

	if (sendkit_pool && !sendkit_route_fits(&sendkit_pool->route, endpoint))
		drop_pool();
	if (sendkit_pool == NULL)
		build_pool(endpoint, callbacks);

	reserve_connections(concurrency);
	sendkit_pool->concurrency = concurrency;
	sendkit_pool->gave_up = false;
}

/*
 * Gives up whatever is under way, and keeps the idle connections warm for a
 * while, if they are not too many.  Cannot raise an error.
 */
void
sendkit_pool_end(void)
{
	if (sendkit_pool && giving_up_would_hang())
		abandon_pool();
	else if (sendkit_pool)
		leave_pool();
	in_use = false;
	arm_idle_timeout();
}
