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
 * libcurl for each socket that has something (http_entry.c).  What libcurl is
 * entered with is the session's (http_pool.c).
 *
 * Room.  A request is handed to libcurl only when it can leave at once, and
 * libcurl is entered for it on the spot.  What libcurl does nothing about then
 * would wait inside it, out of reach of our looks and deadlines: that is taken
 * back.  Until it is known what the server speaks, one request is under way, and
 * it tells as soon as TLS is established.  Then there may be one per connection
 * (HTTP/1), or STREAMS per connection and no more connections than that
 * takes (HTTP/2).
 *
 * Deadlines are ours.  They are looked at after what has arrived was taken: a
 * backend that was stopped for a while must not throw away the answers that
 * came meanwhile.
 *
 * Callbacks run inside libcurl and must neither raise an error nor palloc nor
 * serve interrupts (http_transfer.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"

#include "clock.h"
#include "http.h"
#include "http_entry.h"
#include "http_fault.h"
#include "http_pool.h"

/*
 * A new HTTP/2 connection carries one request until the server has told how many
 * it takes at a time.  That is not waited for any longer than this, which is more
 * than a round trip: a libcurl from 8.0 on may have been told, by a peer that is
 * near, before we could see it.
 */
#define SETTLE_PATIENCE_MS 300

/* Connections made at a time: more than a server's backlog would be dropped */
#define MAX_CONNECTING 64

/* What arrives counts before a deadline that has passed, but not for longer than this */
#define LONGEST_OVERDUE_MS 100

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

	dlist_foreach(iter, &sendkit_pool->active)
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
	int			sent = sendkit_pool->nactive - connecting->transfers;

	if (sendkit_pool->sockets.opened > sent + connecting->opened)
		return true;
	return connecting->transfers < MAX_CONNECTING &&
		sendkit_pool->sockets.opened + connecting->to_open + SOCKETS_PER_CONNECT <=
		sendkit_pool->sockets.reserved;
}

/* The connections that HTTP/2 needs for what may be under way */
static int
http2_connections(void)
{
	return Min((sendkit_pool->concurrency + STREAMS - 1) / STREAMS,
			   sendkit_pool->connections);
}

/* Has the server told of each HTTP/2 connection how many requests it takes? */
static bool
is_settled(void)
{
	return sendkit_pool->sockets.unsettled == 0 ||
		sendkit_clock_now() >= sendkit_pool->settle_by;
}

/* Could another request leave at once? */
static bool
has_room(void)
{
	Connecting	connecting;

	if (sendkit_pool->nactive == 0)
		return true;
	if (sendkit_pool->failure ||
		sendkit_pool->nactive >= sendkit_pool->concurrency ||
		sendkit_pool->nactive >= sendkit_pool->full_at)
		return false;

	connecting = count_connecting();
	switch (sendkit_pool->server)
	{
		case SERVER_UNKNOWN:

			/*
			 * when the first could not connect, the next need not wait for
			 * each other
			 */
			if (sendkit_pool->connect_failures == 0)
				return false;
			break;
		case SERVER_HTTP1:
			break;
		case SERVER_HTTP2:
			if (!is_settled())
				return false;
			return sendkit_pool->nactive - connecting.transfers <
				sendkit_pool->sockets.http2 * STREAMS ||
				sendkit_pool->sockets.http2 + connecting.transfers < http2_connections();
	}
	return sendkit_pool->nactive < sendkit_pool->connections && has_connection(&connecting);
}

/*
 * Tells libcurl how many connections there may be.  With HTTP/2 it is one more
 * than needed: one that the server is about to end takes no more requests, and
 * may yet be kept open for long by a single one.
 */
static bool
set_connection_limit(void)
{
	int			limit = sendkit_pool->connections;

	if (sendkit_pool->server == SERVER_HTTP2)
		limit = Min(http2_connections() + 1, limit);
	return sendkit_pool_limit_connections(limit);
}

/*
 * A request is about to leave.  This is the moment at which it is known what
 * the server speaks.
 */
static void
about_to_send(SendkitTransfer *transfer, bool http2)
{
	sendkit_pool->server = http2 ? SERVER_HTTP2 : SERVER_HTTP1;
	sendkit_pool->connect_failures = 0;
	/* another connection has room of its own */
	sendkit_pool->full_at = INT_MAX;
	if (transfer->sockets_opened > 0)
		sendkit_pool->settle_by = sendkit_clock_now() + SETTLE_PATIENCE_MS;
}

/* --- deadlines --- */

/* Finds the next deadline anew.  Returns the transfer that it is of, or NULL. */
static SendkitTransfer *
find_next_deadline(void)
{
	SendkitTransfer *first = NULL;
	dlist_iter	iter;

	sendkit_pool->next_deadline = NO_TIMER;
	dlist_foreach(iter, &sendkit_pool->active)
	{
		SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);
		int64		deadline = sendkit_transfer_deadline(transfer);

		if (deadline < sendkit_pool->next_deadline)
		{
			sendkit_pool->next_deadline = deadline;
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
	if (now < sendkit_pool->next_deadline)
		sendkit_pool->overdue_since = 0;
	else if (sendkit_pool->overdue_since == 0)
		sendkit_pool->overdue_since = now;
	return sendkit_pool->overdue_since > 0 &&
		now >= sendkit_pool->overdue_since + LONGEST_OVERDUE_MS;
}

/* Gives a transfer up whose deadline has passed, if there is one. */
static bool
take_expired(int64 now, SendkitHttpResult *result)
{
	SendkitTransfer *transfer = find_next_deadline();

	if (now < sendkit_pool->next_deadline)
		return false;
	Assert(transfer != NULL);
	sendkit_transfer_expire(transfer, result);
	if (result->failure == SENDKIT_HTTP_NOT_CONNECTED)
		sendkit_pool->connect_failures++;
	sendkit_pool_end_transfer(sendkit_pool, transfer);
	return true;
}

/* --- the door --- */

/*
 * Raises 55000 while the transport is in use: a function that its user calls,
 * a trigger for instance, cannot use it, too.
 */
void
sendkit_http_check_not_busy(void)
{
	if (sendkit_pool_is_in_use())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot call the SendKit API while another call of the same session is under way"),
				 errhidestmt(true), errhidecontext(true)));
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
	static const SendkitTransferCommon callbacks = {
		.about_to_resolve = sendkit_entry_about_to_resolve,
		.about_to_send = about_to_send,
		.must_come_home = sendkit_entry_must_come_home,
	};

	/* its first call may raise an error */
	(void) sendkit_wait_event();
	sendkit_entry_begin();
	sendkit_pool_begin(endpoint, concurrency, &callbacks);

	sendkit_pool->full_at = INT_MAX;
	sendkit_pool->connect_failures = 0;
	sendkit_pool->next_deadline = NO_TIMER;
	sendkit_pool->overdue_since = 0;
	sendkit_pool->settle_by = 0;
	if (sendkit_pool->route.plain || !sendkit_route_speaks_http2(&sendkit_pool->route))
		sendkit_pool->server = SERVER_HTTP1;
	else if (sendkit_pool->sockets.opened == 0)
		sendkit_pool->server = SERVER_UNKNOWN;
	if (!set_connection_limit())
		sendkit_http_report_out_of_memory();
}

static SendkitTransfer *
new_transfer(const SendkitHttpRequest *request)
{
	char	   *target = sendkit_route_target(&sendkit_pool->route, request->path);
	SendkitCurlFault fault;
	SendkitTransfer *transfer = sendkit_transfer_new(&sendkit_pool->common, request,
													 target, &fault);

	if (transfer == NULL)
		sendkit_http_report_curl_fault(&fault);
	pfree(target);
	return transfer;
}

static void
add_transfer(SendkitTransfer *transfer)
{
	if (!set_connection_limit() ||
		!sendkit_pool_limit_idle(Max(sendkit_pool->connections, MAX_IDLE)) ||
		curl_multi_add_handle(sendkit_pool->multi, transfer->easy) != CURLM_OK)
	{
		sendkit_transfer_free(transfer);
		sendkit_http_report_out_of_memory();
	}
	dlist_push_tail(&sendkit_pool->active, &transfer->node);
	sendkit_pool->nactive++;
	sendkit_pool->next_deadline = Min(sendkit_pool->next_deadline,
									  sendkit_transfer_deadline(transfer));
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
	if (sendkit_pool->has_failed)
		sendkit_pool_renew_multi();
	transfer = new_transfer(request);
	add_transfer(transfer);
	sendkit_entry_run_timer();
	/* the only one has nothing to wait for but its own end */
	if (transfer->stage > SENDKIT_STAGE_ADDED ||
		transfer->trouble != SENDKIT_TROUBLE_NONE || sendkit_pool->failure ||
		sendkit_pool->nactive == 1)
		return true;

	/* it would wait inside libcurl */
	sendkit_pool_end_transfer(sendkit_pool, transfer);
	sendkit_pool->full_at = sendkit_pool->nactive;
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
		msg = curl_multi_info_read(sendkit_pool->multi, &left);
		if (msg == NULL)
			return false;
	} while (msg->msg != CURLMSG_DONE);

	transfer = sendkit_transfer_of(msg->easy_handle);
	sendkit_transfer_finish(transfer, msg->data.result, result);
	if (result->failure == SENDKIT_HTTP_NOT_CONNECTED)
		sendkit_pool->connect_failures++;
	if (result->failure == SENDKIT_HTTP_OK)
		sendkit_sockets_note_answer(&sendkit_pool->sockets, transfer->local_port);
	/* the message goes with its handle */
	sendkit_pool_end_transfer(sendkit_pool, transfer);
	return true;
}

/* Gives a transfer up, if libcurl has failed as a whole: for want of memory, that is. */
static bool
take_failed(SendkitHttpResult *result)
{
	SendkitTransfer *transfer;

	if (sendkit_pool->failure == NULL)
		return false;
	transfer = dlist_head_element(SendkitTransfer, node, &sendkit_pool->active);
	strlcpy(transfer->error, sendkit_pool->failure, sizeof(transfer->error));
	sendkit_transfer_finish(transfer, CURLE_FAILED_INIT, result);
	sendkit_pool_end_transfer(sendkit_pool, transfer);
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
		(void) sendkit_pool_limit_idle(MAX_IDLE);

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
		else if (sendkit_pool->timer <= now)
		{
			sendkit_entry_run_timer();
			/* for a flood it is always due: the others have their turn, too */
			(void) sendkit_entry_run_sockets();
		}
		else if (sendkit_pool->next_deadline <= now)
		{
			/* what has arrived comes first */
			if (!sendkit_entry_run_sockets() && take_expired(now, result))
				return true;
		}
		else if (give_up <= now || (!had_room && has_room()))
			return false;
		else
		{
			int64		until = Min(Min(sendkit_pool->timer, sendkit_pool->next_deadline), give_up);

			if (!had_room && !is_settled())
				until = Min(until, sendkit_pool->settle_by);
			latch_set = sendkit_entry_wait(until == NO_TIMER ? -1 : until - now);
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

	dlist_foreach(iter, &sendkit_pool->active)
	{
		SendkitTransfer *transfer = dlist_container(SendkitTransfer, node, iter.cur);

		if (transfer->stage == SENDKIT_STAGE_SENT)
			continue;
		sendkit_pool_end_transfer(sendkit_pool, transfer);
		return transfer->tag;
	}
	return NULL;
}

/* Has nothing of what is under way left yet?  Cannot raise an error. */
bool
sendkit_http_is_connecting(void)
{
	return sendkit_pool->nactive > 0 && count_connecting().transfers == sendkit_pool->nactive;
}

/*
 * Gives up whatever is under way, and keeps the idle connections warm for a
 * while, if they are not too many.  Cannot raise an error.
 */
void
sendkit_http_end(void)
{
	sendkit_entry_end();
	sendkit_pool_end();
}
