/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *	  Carries out any number of deletions: window, retries, rate limits.
 *
 * A deletion takes a seat when one of max_concurrency is free, and from then
 * on has request_timeout to come to an end.  On its seat it is either in
 * flight or waits: for its backoff, for the account's rate limit, or for its
 * turn while sending ramps up again.  Its seat is free for the next one as
 * soon as it has its verdict, so a slow answer delays nobody else.
 *
 * Only what certainly had no effect is tried again, which the verdict says
 * (api.c).  A rate limit is the account's: it holds back everything that has
 * not left yet.  When it is over, one request leaves, and with each answer one
 * more at a time may be in flight, so that a thousand that were held back do
 * not run into the limit again at once.  What cannot leave within its time is
 * given up as soon as that is certain.
 *
 * The judging of an answer leaves garbage behind, which a context of its own
 * takes; verdicts are copied out of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "clock.h"
#include "dispatch.h"
#include "guc.h"
#include "http.h"

/* The pause before the first retry, doubled for each further one */
#define BACKOFF_MS 200
#define MAX_BACKOFF_MS 10000

/* A rate limit beyond this is as good as for ever, and cannot overflow */
#define MAX_HOLD_MS (INT64CONST(366) * 24 * 60 * 60 * 1000)

#define NEVER PG_INT64_MAX

/*
 * What judging an answer may take of the stack: some 200 bytes per level of a
 * body.  Not more, since the compiler touches each page of it.
 */
#define STACK_RESERVE (16 * 1024)

struct SendkitDispatcher
{
	const SendkitTextConverter *converter;
	const char *platform_key;
	SendkitHeaders headers;
	MemoryContext result_context;
	MemoryContext judge_context;
	SendkitTally tally;
	dlist_head	queued;			/* without a seat yet */
	int			nqueued;
	int			request_timeout;	/* in milliseconds */
	int			seats;			/* max_concurrency */
	int			seated;
	int			allowed_in_flight;	/* now, while ramping up again */
	dlist_head	waiting;		/* seated, but not in flight */
	int			nwaiting;
	dlist_head	finished;		/* with a verdict, not yet returned */
	int64		hold_until;		/* the rate limit's end */
	SendkitVerdict hold_verdict;	/* what imposed it */
};

/* --- verdicts --- */

static char *
copy_text(const char *text)
{
	return text ? pstrdup(text) : NULL;
}

static void
copy_verdict(SendkitDispatcher *dispatcher, SendkitVerdict *to, const SendkitVerdict *from)
{
	MemoryContext old = MemoryContextSwitchTo(dispatcher->result_context);
	SendkitVerdict copy = *from;

	copy.message = copy_text(from->message);
	copy.error_code = copy_text(from->error_code);
	copy.details = copy_text(from->details);
	MemoryContextSwitchTo(old);
	*to = copy;
}

static void
finish(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	deletion->finished = true;
	dispatcher->seated--;
	dispatcher->tally.outcomes[deletion->verdict.outcome]++;
	dispatcher->tally.finished++;
	dlist_push_tail(&dispatcher->finished, &deletion->node);
}

/* --- time --- */

/* Exponential, with half of it left to chance, so that callers drift apart. */
static int64
backoff_ms(int attempts)
{
	int64		longest = BACKOFF_MS;

	for (int i = 1; i < attempts && longest < MAX_BACKOFF_MS; i++)
		longest *= 2;
	longest = Min(longest, MAX_BACKOFF_MS);
	return (int64) (longest * (0.5 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

/* How long to wait after an attempt that had no effect */
static int64
pause_ms(const SendkitDeletion *deletion, const SendkitVerdict *verdict)
{
	if (verdict->retry_after_ms >= 0)
		return Min(verdict->retry_after_ms, MAX_HOLD_MS);
	return backoff_ms(deletion->attempts);
}

static int64
earliest_start(const SendkitDispatcher *dispatcher, const SendkitDeletion *deletion)
{
	return Max(deletion->due, dispatcher->hold_until);
}

/* --- answers --- */

static void
enter_flight(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	deletion->in_flight = true;
	dispatcher->tally.in_flight++;
}

static void
leave_flight(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	deletion->in_flight = false;
	dispatcher->tally.in_flight--;
}

static void
begin_waiting(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	dlist_push_tail(&dispatcher->waiting, &deletion->node);
	dispatcher->nwaiting++;
}

static void
stop_waiting(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	dlist_delete(&deletion->node);
	dispatcher->nwaiting--;
}

/* What has not left yet, although it was handed over, must not leave now. */
static void
recall_unsent(SendkitDispatcher *dispatcher)
{
	SendkitDeletion *deletion;

	while ((deletion = sendkit_http_recall()) != NULL)
	{
		deletion->attempts--;
		leave_flight(dispatcher, deletion);
		begin_waiting(dispatcher, deletion);
	}
}

static void
impose_hold(SendkitDispatcher *dispatcher, const SendkitVerdict *verdict, int64 until)
{
	dispatcher->allowed_in_flight = 1;
	recall_unsent(dispatcher);
	if (until <= dispatcher->hold_until)
		return;
	dispatcher->hold_until = until;
	copy_verdict(dispatcher, &dispatcher->hold_verdict, verdict);
}

static void
settle(SendkitDispatcher *dispatcher, SendkitDeletion *deletion, const SendkitVerdict *verdict)
{
	int64		now = sendkit_clock_now();

	copy_verdict(dispatcher, &deletion->verdict, verdict);
	leave_flight(dispatcher, deletion);
	if (verdict->outcome == SENDKIT_UNAVAILABLE)
		deletion->due = now + pause_ms(deletion, verdict);
	else
		dispatcher->allowed_in_flight = Min(dispatcher->allowed_in_flight + 1,
											dispatcher->seats);
	if (verdict->limits_all)
		impose_hold(dispatcher, verdict, deletion->due);

	if (verdict->retryable && deletion->attempts <= sendkit_max_retries &&
		earliest_start(dispatcher, deletion) < deletion->deadline)
		begin_waiting(dispatcher, deletion);
	else
		finish(dispatcher, deletion);
}

static void
handle_result(SendkitDispatcher *dispatcher, const SendkitHttpResult *result)
{
	SendkitDeletion *deletion = (SendkitDeletion *) result->tag;
	SendkitVerdict verdict;
	MemoryContext old = MemoryContextSwitchTo(dispatcher->judge_context);

	sendkit_api_judge(dispatcher->converter, result, dispatcher->platform_key, &verdict);
	settle(dispatcher, deletion, &verdict);
	MemoryContextSwitchTo(old);
	MemoryContextReset(dispatcher->judge_context);
}

/* --- requests --- */

static void
send_deletion(SendkitDispatcher *dispatcher, SendkitDeletion *deletion, int64 now)
{
	SendkitHttpRequest request;
	int64		left = Max(deletion->deadline - now, 1);

	memset(&request, 0, sizeof(request));
	request.path = deletion->path;
	request.headers = dispatcher->headers.lines;
	request.connect_timeout_ms = (long) Min(left, sendkit_connect_timeout);
	request.timeout_ms = (long) left;
	request.tag = deletion;
	sendkit_http_send(&request);

	deletion->attempts++;
	enter_flight(dispatcher, deletion);
}

static void
take_seats(SendkitDispatcher *dispatcher, int64 now)
{
	while (dispatcher->nqueued > 0 && dispatcher->seated < dispatcher->seats)
	{
		SendkitDeletion *deletion = dlist_container(SendkitDeletion, node,
													dlist_pop_head_node(&dispatcher->queued));

		dispatcher->nqueued--;
		deletion->attempts = 0;
		deletion->due = now;
		deletion->deadline = now + dispatcher->request_timeout;
		if (deletion->not_after > 0)
			deletion->deadline = Min(deletion->deadline, deletion->not_after);
		begin_waiting(dispatcher, deletion);
		dispatcher->seated++;
	}
}

/* It never left, and no rate limit kept it: it was too late from the start. */
static void
set_too_late(SendkitDispatcher *dispatcher, SendkitVerdict *verdict)
{
	static char message[] = "its turn came too late; nothing was deleted";
	SendkitVerdict too_late;

	memset(&too_late, 0, sizeof(too_late));
	too_late.outcome = SENDKIT_UNAVAILABLE;
	too_late.message = message;
	too_late.retry_after_ms = -1;
	copy_verdict(dispatcher, verdict, &too_late);
}

/* It cannot leave in time: its own last verdict stands, or the rate limit's. */
static void
give_up(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	if (deletion->attempts == 0 && dispatcher->hold_until > 0)
		copy_verdict(dispatcher, &deletion->verdict, &dispatcher->hold_verdict);
	else if (deletion->attempts == 0)
		set_too_late(dispatcher, &deletion->verdict);
	finish(dispatcher, deletion);
}

/*
 * Sends what may leave now and gives up what cannot leave in time.  Returns
 * when the next of those that wait may leave, or NEVER.
 */
static int64
send_waiting(SendkitDispatcher *dispatcher, int64 now)
{
	dlist_mutable_iter iter;
	int64		wake = NEVER;
	int			most_in_flight = Min(dispatcher->allowed_in_flight, sendkit_http_capacity());

	dlist_foreach_modify(iter, &dispatcher->waiting)
	{
		SendkitDeletion *deletion = dlist_container(SendkitDeletion, node, iter.cur);
		int64		earliest = earliest_start(dispatcher, deletion);

		if (Max(earliest, now) >= deletion->deadline)
		{
			stop_waiting(dispatcher, deletion);
			give_up(dispatcher, deletion);
		}
		else if (earliest > now)
			wake = Min(wake, earliest);
		else if (dispatcher->tally.in_flight < most_in_flight)
		{
			stop_waiting(dispatcher, deletion);
			send_deletion(dispatcher, deletion, now);
		}
		else
			wake = Min(wake, deletion->deadline);
	}
	return wake;
}

/* Fills the seats and sends, until no seat becomes free by that. */
static int64
start_deletions(SendkitDispatcher *dispatcher, int64 now)
{
	int64		wake;

	do
	{
		CHECK_FOR_INTERRUPTS();
		take_seats(dispatcher, now);
		wake = send_waiting(dispatcher, now);
	} while (dispatcher->nqueued > 0 && dispatcher->seated < dispatcher->seats);
	return wake;
}

/* --- the door --- */

/*
 * Raises 54001 now rather than when an answer is here: the parser of answers
 * checks the stack's depth.
 */
static pg_noinline void
check_room_on_stack(void)
{
	volatile char room[STACK_RESERVE];

	room[0] = room[STACK_RESERVE - 1] = 0;
	(void) room[0];
	check_stack_depth();
}

SendkitDispatcher *
sendkit_dispatcher_begin(const SendkitTextConverter *converter,
						 const char *platform_key, int max_concurrency,
						 int request_timeout_ms)
{
	SendkitDispatcher *dispatcher = palloc0(sizeof(SendkitDispatcher));
	SendkitHttpEndpoint endpoint;

	sendkit_guc_check();
	check_room_on_stack();
	sendkit_http_check_idle();
	dispatcher->converter = converter;
	dispatcher->platform_key = platform_key;
	endpoint.base_url = sendkit_base_url;
	endpoint.ca_file = sendkit_ca_file;
	endpoint.proxy = sendkit_proxy;
	dispatcher->seats = max_concurrency;
	dispatcher->allowed_in_flight = max_concurrency;
	dispatcher->request_timeout = request_timeout_ms;
	dispatcher->result_context = CurrentMemoryContext;
	dispatcher->judge_context = AllocSetContextCreate(CurrentMemoryContext,
													  "sendkit answer",
													  ALLOCSET_DEFAULT_SIZES);
	dlist_init(&dispatcher->queued);
	dlist_init(&dispatcher->waiting);
	dlist_init(&dispatcher->finished);

	PG_TRY();
	{
		sendkit_api_set_headers(&dispatcher->headers, platform_key);
		sendkit_http_begin(&endpoint, max_concurrency);
	}
	PG_CATCH();
	{
		sendkit_dispatcher_end(dispatcher);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return dispatcher;
}

void
sendkit_dispatcher_add(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	dlist_push_tail(&dispatcher->queued, &deletion->node);
	dispatcher->nqueued++;
	dispatcher->tally.added++;
}

static SendkitDeletion *
take_finished(SendkitDispatcher *dispatcher)
{
	if (dlist_is_empty(&dispatcher->finished))
		return NULL;
	return dlist_container(SendkitDeletion, node,
						   dlist_pop_head_node(&dispatcher->finished));
}

static SendkitDeletion *
next_deletion(SendkitDispatcher *dispatcher, int64 timeout_ms, bool *woken)
{
	int64		give_up_at = timeout_ms < 0 ? NEVER : sendkit_clock_now() + timeout_ms;

	for (;;)
	{
		int64		now = sendkit_clock_now();
		int64		wake = start_deletions(dispatcher, now);
		SendkitDeletion *deletion = take_finished(dispatcher);
		SendkitHttpResult result;

		if (deletion || dispatcher->seated == 0 || now >= give_up_at)
			return deletion;
		wake = Min(wake, give_up_at);
		if (sendkit_http_receive(wake == NEVER ? -1 : Max(wake - now, 0), &result, woken))
			handle_result(dispatcher, &result);
		else if (woken && *woken)
			return NULL;
	}
}

SendkitDeletion *
sendkit_dispatcher_next(SendkitDispatcher *dispatcher, int64 timeout_ms)
{
	return next_deletion(dispatcher, timeout_ms, NULL);
}

SendkitDeletion *
sendkit_dispatcher_next_unless_woken(SendkitDispatcher *dispatcher, int64 timeout_ms,
									 bool *woken)
{
	*woken = false;
	return next_deletion(dispatcher, timeout_ms, woken);
}

int
sendkit_dispatcher_backlog(const SendkitDispatcher *dispatcher)
{
	return dispatcher->nqueued + dispatcher->nwaiting;
}

const SendkitTally *
sendkit_dispatcher_tally(const SendkitDispatcher *dispatcher)
{
	return &dispatcher->tally;
}

void
sendkit_dispatcher_end(SendkitDispatcher *dispatcher)
{
	sendkit_http_end();
	sendkit_api_wipe_headers(&dispatcher->headers);
}
