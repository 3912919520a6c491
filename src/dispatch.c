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
 * A server that cannot be reached holds everything back in the same way, after
 * some failures in a row: one request at a time probes whether it can be.  When
 * it could not be for a whole request_timeout, all that waits is given up, with
 * or without a seat: ten thousand more would fare no better one by one.
 *
 * The key may be exchanged while requests are in flight: these keep the headers
 * that they were sent with.
 *
 * The judging of an answer leaves garbage behind, which a context of its own
 * takes; verdicts are copied out of it.  When memory runs out then, that is no
 * error, since the key may be gone: the verdict is "unknown", in words for which
 * there was memory before the request left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "dispatch.h"
#include "guc.h"
#include "guc_guard.h"
#include "http.h"

/* The pause before the first retry, doubled for each further one */
#define BACKOFF_MS 200
#define MAX_BACKOFF_MS 10000

/* A rate limit beyond this is as good as for ever, and cannot overflow */
#define MAX_HOLD_MS (INT64CONST(366) * 24 * 60 * 60 * 1000)

#define NEVER PG_INT64_MAX

/* Failures in a row to connect, after which one request at a time is tried */
#define MAX_CONNECT_FAILURES 3

/* How long to wait until a connection is chosen anew, in the place of a stale one */
#define STALE_PAUSE_MS 1

/*
 * What judging an answer may take of the stack: some 200 bytes per level of a
 * body.  Not more, since the compiler touches each page of it.
 */
#define STACK_RESERVE (16 * 1024)

#define UNKEPT "memory ran out when the answer came; the API key may or may not have been deleted"

/* A key, and the headers that hold it */
typedef struct KeyHeaders
{
	slist_node	node;			/* in the dispatcher's list */
	SendkitHeaders headers;
	char		key[FLEXIBLE_ARRAY_MEMBER];
} KeyHeaders;

struct SendkitDispatcher
{
	const SendkitTextConverter *converter;
	slist_head	keys;			/* KeyHeaders, the one in use first */
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
	int64		hold_until;		/* nothing may leave before */
	SendkitVerdict hold_verdict;	/* what imposed that, or could not be
									 * reached */
	int			connect_failures;	/* since something has left */
	int			failed_probes;	/* of these, one at a time */
	int64		unreachable_since;	/* or 0 */
	bool		hopeless;		/* to be reached in this call */
	bool		gave_up;		/* all that waited, since nothing was
								 * reachable */
};

/* --- verdicts --- */

static char *
copy_text(const char *text)
{
	return text ? pstrdup(text) : NULL;
}

/* In the place of an earlier one, which is freed: a dispatcher may live for days. */
static void
copy_verdict(SendkitDispatcher *dispatcher, SendkitVerdict *to, const SendkitVerdict *from)
{
	MemoryContext old = MemoryContextSwitchTo(dispatcher->result_context);
	SendkitVerdict copy = *from;

	copy.message = copy_text(from->message);
	copy.error_code = copy_text(from->error_code);
	copy.details = copy_text(from->details);
	MemoryContextSwitchTo(old);
	sendkit_verdict_free(to);
	*to = copy;
}

static void
finish(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	if (deletion->unkept)
		pfree(deletion->unkept);
	deletion->unkept = NULL;
	deletion->finished = true;
	dispatcher->seated--;
	dispatcher->tally.outcomes[deletion->verdict.outcome]++;
	dispatcher->tally.finished++;
	dlist_push_tail(&dispatcher->finished, &deletion->node);
}

/* --- time --- */

/* Exponential, with half of it left to chance, so that callers drift apart. */
static int64
backoff_ms(int tries)
{
	int64		longest = BACKOFF_MS;

	for (int i = 1; i < tries && longest < MAX_BACKOFF_MS; i++)
		longest *= 2;
	longest = Min(longest, MAX_BACKOFF_MS);
	return (int64) (longest * (0.5 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

/*
 * How long to wait after a try that had no effect: what the API asks for, but
 * never less than of our own accord.
 */
static int64
pause_ms(const SendkitDeletion *deletion, const SendkitVerdict *verdict)
{
	return Max(Min(verdict->retry_after_ms, MAX_HOLD_MS), backoff_ms(deletion->tries));
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
		deletion->tries--;
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
note_reachable(SendkitDispatcher *dispatcher)
{
	dispatcher->connect_failures = 0;
	dispatcher->failed_probes = 0;
	dispatcher->unreachable_since = 0;
}

/*
 * The server could not be reached, as so often before that it concerns
 * everything: what is tried from now on is a probe, one at a time.
 */
static void
hold_for_probe(SendkitDispatcher *dispatcher, const SendkitDeletion *deletion)
{
	/* one of several that were tried together */
	if (deletion->tried_at < dispatcher->hold_until)
		return;
	dispatcher->failed_probes++;
	dispatcher->allowed_in_flight = 1;
	dispatcher->hold_until = Max(dispatcher->hold_until,
								 sendkit_clock_now() + backoff_ms(dispatcher->failed_probes));
}

static void
note_unreachable(SendkitDispatcher *dispatcher, const SendkitDeletion *deletion)
{
	if (dispatcher->unreachable_since == 0)
		dispatcher->unreachable_since = deletion->tried_at;
	copy_verdict(dispatcher, &dispatcher->hold_verdict, &deletion->verdict);
	dispatcher->connect_failures++;
	if (dispatcher->connect_failures < MAX_CONNECT_FAILURES)
		return;
	/* trust does not come back by itself */
	if (!deletion->verdict.retryable)
		dispatcher->hopeless = true;
	else
		hold_for_probe(dispatcher, deletion);
}

/* Decides what follows from a verdict: another try, or the end. */
static void
conclude(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	const SendkitVerdict *verdict = &deletion->verdict;
	int64		now = sendkit_clock_now();

	if (verdict->outcome == SENDKIT_UNAVAILABLE)
		deletion->due = now + pause_ms(deletion, verdict);
	else
		dispatcher->allowed_in_flight = Min(dispatcher->allowed_in_flight + 1,
											dispatcher->seats);
	if (verdict->limits_all)
		impose_hold(dispatcher, verdict, deletion->due);
	if (verdict->unreachable)
		note_unreachable(dispatcher, deletion);
	else
		note_reachable(dispatcher);

	if (verdict->retryable && deletion->tries <= sendkit_max_retries &&
		earliest_start(dispatcher, deletion) < deletion->deadline)
		begin_waiting(dispatcher, deletion);
	else
		finish(dispatcher, deletion);
}

/* It has not left, and not for any fault of the server's. */
static void
come_back(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	deletion->tries--;
	deletion->due = sendkit_clock_now() + STALE_PAUSE_MS;
	begin_waiting(dispatcher, deletion);
}

static void
set_unkept(SendkitDeletion *deletion)
{
	SendkitVerdict *verdict = &deletion->verdict;

	sendkit_verdict_free(verdict);
	memset(verdict, 0, sizeof(*verdict));
	verdict->outcome = SENDKIT_UNKNOWN;
	verdict->message = deletion->unkept;
	verdict->retry_after_ms = -1;
	deletion->unkept = NULL;
}

static void
judge(SendkitDispatcher *dispatcher, SendkitDeletion *deletion, const SendkitHttpResult *result)
{
	MemoryContext old = MemoryContextSwitchTo(dispatcher->judge_context);

	PG_TRY();
	{
		SendkitVerdict verdict;

		sendkit_api_judge(dispatcher->converter, result, deletion->key, &verdict);
		copy_verdict(dispatcher, &deletion->verdict, &verdict);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		FlushErrorState();
		set_unkept(deletion);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextReset(dispatcher->judge_context);
}

static void
handle_result(SendkitDispatcher *dispatcher, const SendkitHttpResult *result)
{
	SendkitDeletion *deletion = (SendkitDeletion *) result->tag;

	leave_flight(dispatcher, deletion);
	if (result->failure == SENDKIT_HTTP_STALE || result->failure == SENDKIT_HTTP_TOO_LATE)
	{
		/* what is too late is given up when its turn comes again */
		come_back(dispatcher, deletion);
		return;
	}

	judge(dispatcher, deletion, result);
	conclude(dispatcher, deletion);
}

/* --- requests --- */

/* Returns whether the request could leave now. */
static bool
send_deletion(SendkitDispatcher *dispatcher, SendkitDeletion *deletion, int64 now)
{
	const KeyHeaders *key = slist_head_element(KeyHeaders, node, &dispatcher->keys);
	SendkitHttpRequest request;
	int64		left = deletion->deadline - now;

	/* nor waited for any longer than it may be sent */
	if (deletion->send_before != DT_NOEND)
		left = Min(left, (deletion->send_before - GetCurrentTimestamp()) / 1000);
	left = Max(left, 1);

	memset(&request, 0, sizeof(request));
	request.path = deletion->path;
	request.headers = key->headers.lines;
	request.connect_timeout_ms = Min(left, sendkit_connect_timeout);
	request.timeout_ms = left;
	request.send_before = deletion->send_before;
	request.tag = deletion;
	deletion->key = key->key;
	if (deletion->unkept == NULL)
		deletion->unkept = MemoryContextStrdup(dispatcher->result_context, UNKEPT);
	if (!sendkit_http_send(&request))
		return false;

	deletion->tries++;
	deletion->tried_at = now;
	stop_waiting(dispatcher, deletion);
	enter_flight(dispatcher, deletion);
	return true;
}

static void
take_seats(SendkitDispatcher *dispatcher, int64 now)
{
	while (dispatcher->nqueued > 0 && dispatcher->seated < dispatcher->seats)
	{
		SendkitDeletion *deletion = dlist_container(SendkitDeletion, node,
													dlist_pop_head_node(&dispatcher->queued));

		dispatcher->nqueued--;
		deletion->tries = 0;
		deletion->due = now;
		deletion->deadline = now + dispatcher->request_timeout;
		begin_waiting(dispatcher, deletion);
		dispatcher->seated++;
	}
}

/* Has the time passed, by the clock on the wall, up to which it may be sent? */
static bool
is_too_late(const SendkitDeletion *deletion)
{
	return deletion->send_before != DT_NOEND &&
		deletion->send_before <= GetCurrentTimestamp();
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
	if (deletion->tries == 0 && dispatcher->hold_verdict.message && !is_too_late(deletion))
		copy_verdict(dispatcher, &deletion->verdict, &dispatcher->hold_verdict);
	else if (deletion->tries == 0 || is_too_late(deletion))
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
	bool		room = true;

	dlist_foreach_modify(iter, &dispatcher->waiting)
	{
		SendkitDeletion *deletion = dlist_container(SendkitDeletion, node, iter.cur);
		int64		earliest = earliest_start(dispatcher, deletion);

		if (Max(earliest, now) >= deletion->deadline || is_too_late(deletion))
		{
			stop_waiting(dispatcher, deletion);
			give_up(dispatcher, deletion);
		}
		else if (earliest > now)
			wake = Min(wake, earliest);
		else
		{
			room = room && dispatcher->tally.in_flight < dispatcher->allowed_in_flight &&
				send_deletion(dispatcher, deletion, now);
			if (!room)
				wake = Min(wake, deletion->deadline);
		}
	}
	return wake;
}

/* Gives all up that waits, with or without a seat: nothing could be reached for so long. */
static void
give_up_all(SendkitDispatcher *dispatcher, int64 now)
{
	recall_unsent(dispatcher);
	while (!dlist_is_empty(&dispatcher->queued) || !dlist_is_empty(&dispatcher->waiting))
	{
		take_seats(dispatcher, now);
		while (!dlist_is_empty(&dispatcher->waiting))
		{
			SendkitDeletion *deletion = dlist_head_element(SendkitDeletion, node,
														   &dispatcher->waiting);

			CHECK_FOR_INTERRUPTS();
			stop_waiting(dispatcher, deletion);
			give_up(dispatcher, deletion);
		}
	}
	dispatcher->gave_up = true;
	dispatcher->hopeless = false;
	note_reachable(dispatcher);
}

/* When to give everything up, as it stands; or NEVER */
static int64
give_up_all_at(const SendkitDispatcher *dispatcher)
{
	if (dispatcher->hopeless)
		return 0;
	if (dispatcher->unreachable_since == 0)
		return NEVER;
	return dispatcher->unreachable_since + dispatcher->request_timeout;
}

/* Fills the seats and sends, until no seat becomes free by that. */
static int64
start_deletions(SendkitDispatcher *dispatcher, int64 now)
{
	int64		wake;

	if (now >= give_up_all_at(dispatcher))
		give_up_all(dispatcher, now);
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

/* Forgets keys, all of them or all but the one in use. */
static void
wipe_keys(SendkitDispatcher *dispatcher, bool all)
{
	slist_mutable_iter iter;
	bool		in_use = !all;

	slist_foreach_modify(iter, &dispatcher->keys)
	{
		KeyHeaders *key = slist_container(KeyHeaders, node, iter.cur);

		if (in_use)
		{
			in_use = false;
			continue;
		}
		slist_delete_current(&iter);
		sendkit_api_wipe_headers(&key->headers);
		explicit_bzero(key->key, strlen(key->key));
		pfree(key);
	}
}

/*
 * Has what is sent from now on carry this key, of which a copy is taken, and
 * wiped in the end.  Raises nothing but out of memory.
 */
void
sendkit_dispatcher_set_key(SendkitDispatcher *dispatcher, const char *platform_key)
{
	KeyHeaders *key;

	if (!slist_is_empty(&dispatcher->keys) &&
		strcmp(slist_head_element(KeyHeaders, node, &dispatcher->keys)->key, platform_key) == 0)
		return;
	key = MemoryContextAlloc(dispatcher->result_context,
							 offsetof(KeyHeaders, key) + strlen(platform_key) + 1);
	strcpy(key->key, platform_key);
	sendkit_api_set_headers(&key->headers, key->key);
	slist_push_head(&dispatcher->keys, &key->node);
	/* requests in flight refer to the others */
	if (dispatcher->tally.in_flight == 0)
		wipe_keys(dispatcher, false);
}

/*
 * Returns a dispatcher of the current settings, in the current memory context,
 * where the verdicts' texts will be, too.  The converter must live as long.
 * Raises what sendkit_guard_check(), sendkit_http_check_not_busy() and
 * sendkit_http_begin() raise, and 54001 when the stack is nearly used up.  There
 * is one at a time; it must be ended by sendkit_dispatcher_end(), also after an
 * error.
 */
SendkitDispatcher *
sendkit_dispatcher_begin(const SendkitTextConverter *converter,
						 const char *platform_key, int max_concurrency,
						 int request_timeout_ms)
{
	SendkitDispatcher *dispatcher = palloc0(sizeof(SendkitDispatcher));
	SendkitHttpEndpoint endpoint;

	sendkit_guard_check();
	check_room_on_stack();
	sendkit_http_check_not_busy();
	dispatcher->converter = converter;
	slist_init(&dispatcher->keys);
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
		sendkit_dispatcher_set_key(dispatcher, platform_key);
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

/* Hands a deletion over, which must stay where it is until it is finished. */
void
sendkit_dispatcher_add(SendkitDispatcher *dispatcher, SendkitDeletion *deletion)
{
	/* what is to come is not judged by what was long ago */
	if (dispatcher->seated == 0 && dispatcher->nqueued == 0)
		note_reachable(dispatcher);
	dlist_push_tail(&dispatcher->queued, &deletion->node);
	dispatcher->nqueued++;
	dispatcher->tally.added++;
	dispatcher->gave_up = false;
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
		int64		wake;
		SendkitDeletion *deletion;
		SendkitHttpResult result;

		/* the caller's to prepare for: it would be served on the way */
		if (woken && InterruptPending)
		{
			*woken = true;
			return take_finished(dispatcher);
		}
		wake = start_deletions(dispatcher, now);
		deletion = take_finished(dispatcher);
		if (deletion || dispatcher->seated == 0 || now >= give_up_at)
			return deletion;
		wake = Min(wake, Min(give_up_at, give_up_all_at(dispatcher)));
		if (sendkit_http_receive(wake == NEVER ? -1 : Max(wake - now, 0), &result, woken))
			handle_result(dispatcher, &result);
		else if (woken && *woken)
			return NULL;
	}
}

/*
 * Returns a deletion that has its verdict, each one once; NULL if timeout_ms
 * (-1: no limit) is over first, or none is left.  Raises what sending and
 * receiving raise, interrupts above all.
 */
SendkitDeletion *
sendkit_dispatcher_next(SendkitDispatcher *dispatcher, int64 timeout_ms)
{
	return next_deletion(dispatcher, timeout_ms, NULL);
}

/*
 * The same, but returns NULL, with *woken set to true, as soon as the session's
 * latch is set: the caller looks to whatever has set it and comes back.  If it
 * was an interrupt, that has not been served yet.
 */
SendkitDeletion *
sendkit_dispatcher_next_unless_woken(SendkitDispatcher *dispatcher, int64 timeout_ms,
									 bool *woken)
{
	*woken = false;
	return next_deletion(dispatcher, timeout_ms, woken);
}

/* How many were added and have not been sent yet.  Cannot raise an error. */
int
sendkit_dispatcher_backlog(const SendkitDispatcher *dispatcher)
{
	return dispatcher->nqueued + dispatcher->nwaiting;
}

/*
 * Has all that was added been given up, since the API could not be reached for
 * a whole request_timeout?  Cannot raise an error.
 */
bool
sendkit_dispatcher_gave_up(const SendkitDispatcher *dispatcher)
{
	return dispatcher->gave_up;
}

/* In a few words, what it is that takes so long.  Cannot raise an error. */
const char *
sendkit_dispatcher_waits_for(const SendkitDispatcher *dispatcher)
{
	if (dispatcher->tally.in_flight > 0)
		return sendkit_http_is_connecting() ? "a connection" : "an answer";
	if (dispatcher->hold_until > sendkit_clock_now())
		return dispatcher->unreachable_since > 0 ?
			"the API to be reachable" : "the end of a rate limit";
	return "the next try";
}

/* How far it has come.  Cannot raise an error. */
const SendkitTally *
sendkit_dispatcher_tally(const SendkitDispatcher *dispatcher)
{
	return &dispatcher->tally;
}

/* Gives up whatever is under way.  Cannot raise an error. */
void
sendkit_dispatcher_end(SendkitDispatcher *dispatcher)
{
	sendkit_http_end();
	wipe_keys(dispatcher, true);
}
