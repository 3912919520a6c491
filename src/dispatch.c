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

#include "dispatch.h"
#include "guc.h"
#include "url.h"

/* The pause before the first retry, doubled for each further one */
#define BACKOFF_MS 200
#define MAX_BACKOFF_MS 10000

/* A rate limit beyond this is as good as for ever, and cannot overflow */
#define MAX_HOLD_MS (INT64CONST(366) * 24 * 60 * 60 * 1000)

#define NEVER PG_INT64_MAX

typedef struct Dispatcher
{
	SendkitDispatch *job;
	SendkitHttpEndpoint endpoint;
	struct curl_slist *headers;
	MemoryContext result_context;
	MemoryContext judge_context;
	int			next;			/* the first deletion without a seat yet */
	int			seated;
	int			most_in_flight; /* what max_concurrency and descriptors allow */
	int			allowed_in_flight;	/* now, while ramping up again */
	dlist_head	waiting;		/* seated, but not in flight */
	int64		hold_until;		/* the rate limit's end */
	SendkitVerdict hold_verdict;	/* what imposed it */
} Dispatcher;

/* --- verdicts --- */

static char *
copy_text(const char *text)
{
	return text ? pstrdup(text) : NULL;
}

static void
copy_verdict(Dispatcher *dispatcher, SendkitVerdict *to, const SendkitVerdict *from)
{
	MemoryContext old = MemoryContextSwitchTo(dispatcher->result_context);

	*to = *from;
	to->message = copy_text(from->message);
	to->error_code = copy_text(from->error_code);
	to->details = copy_text(from->details);
	MemoryContextSwitchTo(old);
}

static void
finish(Dispatcher *dispatcher, SendkitDeletion *deletion)
{
	SendkitTally *tally = &dispatcher->job->tally;

	deletion->finished = true;
	dispatcher->seated--;
	tally->outcomes[deletion->verdict.outcome]++;
	tally->finished++;
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
	return (int64) (longest * (0.5 + 0.5 * sendkit_random()));
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
earliest_start(const Dispatcher *dispatcher, const SendkitDeletion *deletion)
{
	return Max(deletion->due, dispatcher->hold_until);
}

/* --- answers --- */

static void
enter_flight(Dispatcher *dispatcher, SendkitDeletion *deletion)
{
	deletion->in_flight = true;
	dispatcher->job->tally.in_flight++;
}

static void
leave_flight(Dispatcher *dispatcher, SendkitDeletion *deletion)
{
	deletion->in_flight = false;
	dispatcher->job->tally.in_flight--;
}

/* What has not left yet, although it was handed over, must not leave now. */
static void
recall_unsent(Dispatcher *dispatcher)
{
	SendkitDeletion *deletion;

	while ((deletion = sendkit_http_recall()) != NULL)
	{
		deletion->attempts--;
		leave_flight(dispatcher, deletion);
		dlist_push_tail(&dispatcher->waiting, &deletion->node);
	}
}

static void
impose_hold(Dispatcher *dispatcher, const SendkitVerdict *verdict, int64 until)
{
	dispatcher->allowed_in_flight = 1;
	recall_unsent(dispatcher);
	if (until <= dispatcher->hold_until)
		return;
	dispatcher->hold_until = until;
	copy_verdict(dispatcher, &dispatcher->hold_verdict, verdict);
}

static void
settle(Dispatcher *dispatcher, SendkitDeletion *deletion, const SendkitVerdict *verdict)
{
	int64		now = sendkit_http_now();

	copy_verdict(dispatcher, &deletion->verdict, verdict);
	if (verdict->outcome == SENDKIT_UNAVAILABLE)
		deletion->due = now + pause_ms(deletion, verdict);
	else
		dispatcher->allowed_in_flight = Min(dispatcher->allowed_in_flight + 1,
											dispatcher->most_in_flight);
	if (verdict->limits_all)
		impose_hold(dispatcher, verdict, deletion->due);

	if (verdict->retryable && deletion->attempts <= sendkit_max_retries &&
		earliest_start(dispatcher, deletion) < deletion->deadline)
		dlist_push_tail(&dispatcher->waiting, &deletion->node);
	else
		finish(dispatcher, deletion);
}

static void
handle_result(Dispatcher *dispatcher, const SendkitHttpResult *result)
{
	SendkitDeletion *deletion = (SendkitDeletion *) result->tag;
	SendkitVerdict verdict;
	MemoryContext old = MemoryContextSwitchTo(dispatcher->judge_context);

	leave_flight(dispatcher, deletion);
	sendkit_api_judge(dispatcher->job->converter, result,
					  dispatcher->job->platform_key, &verdict);
	settle(dispatcher, deletion, &verdict);
	MemoryContextSwitchTo(old);
	MemoryContextReset(dispatcher->judge_context);
}

/* --- requests --- */

static void
send_deletion(Dispatcher *dispatcher, SendkitDeletion *deletion, int64 now)
{
	SendkitHttpRequest request;
	char	   *url;
	int64		left = Max(deletion->deadline - now, 1);

	url = sendkit_api_url(dispatcher->endpoint.base_url, deletion->segment);
	memset(&request, 0, sizeof(request));
	request.method = "DELETE";
	request.url = url;
	request.headers = dispatcher->headers;
	request.connect_timeout_ms = (long) Min(left, sendkit_connect_timeout);
	request.timeout_ms = (long) left;
	request.tag = deletion;
	sendkit_http_send(&request);
	pfree(url);

	deletion->attempts++;
	enter_flight(dispatcher, deletion);
}

static void
take_seats(Dispatcher *dispatcher, int64 now)
{
	SendkitDispatch *job = dispatcher->job;

	while (dispatcher->next < job->ndeletions &&
		   dispatcher->seated < job->max_concurrency)
	{
		SendkitDeletion *deletion = &job->deletions[dispatcher->next++];

		deletion->attempts = 0;
		deletion->due = now;
		deletion->deadline = now + sendkit_request_timeout;
		dlist_push_tail(&dispatcher->waiting, &deletion->node);
		dispatcher->seated++;
	}
}

/* It cannot leave in time: its own last verdict stands, or the rate limit's. */
static void
give_up(Dispatcher *dispatcher, SendkitDeletion *deletion)
{
	if (deletion->attempts == 0)
		copy_verdict(dispatcher, &deletion->verdict, &dispatcher->hold_verdict);
	finish(dispatcher, deletion);
}

/*
 * Sends what may leave now and gives up what cannot leave in time.  Returns
 * when the next of those that wait may leave, or NEVER.
 */
static int64
send_waiting(Dispatcher *dispatcher, int64 now)
{
	dlist_mutable_iter iter;
	int64		wake = NEVER;

	dlist_foreach_modify(iter, &dispatcher->waiting)
	{
		SendkitDeletion *deletion = dlist_container(SendkitDeletion, node, iter.cur);
		int64		earliest = earliest_start(dispatcher, deletion);

		if (earliest >= deletion->deadline)
		{
			dlist_delete(iter.cur);
			give_up(dispatcher, deletion);
		}
		else if (earliest > now)
			wake = Min(wake, earliest);
		else if (dispatcher->job->tally.in_flight < dispatcher->allowed_in_flight)
		{
			dlist_delete(iter.cur);
			send_deletion(dispatcher, deletion, now);
		}
	}
	return wake;
}

/* Fills the seats and sends, until no seat becomes free by that. */
static int64
start_deletions(Dispatcher *dispatcher, int64 now)
{
	int64		wake;

	do
	{
		CHECK_FOR_INTERRUPTS();
		take_seats(dispatcher, now);
		wake = send_waiting(dispatcher, now);
	} while (dispatcher->next < dispatcher->job->ndeletions &&
			 dispatcher->seated < dispatcher->job->max_concurrency);
	return wake;
}

static void
run(Dispatcher *dispatcher)
{
	SendkitDispatch *job = dispatcher->job;
	int			connections = sendkit_http_begin(&dispatcher->endpoint,
												 job->max_concurrency);

	/* without HTTP/2, more requests than connections would only queue up */
	dispatcher->most_in_flight = sendkit_url_is_plain(dispatcher->endpoint.base_url) ?
		connections : job->max_concurrency;
	dispatcher->allowed_in_flight = dispatcher->most_in_flight;

	for (;;)
	{
		int64		now = sendkit_http_now();
		int64		wake = start_deletions(dispatcher, now);
		SendkitHttpResult result;

		if (dispatcher->seated == 0)
			break;
		if (sendkit_http_receive(wake == NEVER ? -1 : wake - now, &result))
			handle_result(dispatcher, &result);
		if (job->on_progress)
			job->on_progress(job);
	}
}

void
sendkit_dispatch(SendkitDispatch *job)
{
	Dispatcher	dispatcher;

	memset(&dispatcher, 0, sizeof(dispatcher));
	dispatcher.job = job;
	memset(&job->tally, 0, sizeof(job->tally));
	dispatcher.endpoint.base_url = sendkit_base_url;
	dispatcher.endpoint.ca_file = sendkit_ca_file;
	dispatcher.endpoint.proxy = sendkit_proxy;
	dispatcher.result_context = CurrentMemoryContext;
	dlist_init(&dispatcher.waiting);
	dispatcher.judge_context = AllocSetContextCreate(CurrentMemoryContext,
													 "sendkit answer",
													 ALLOCSET_DEFAULT_SIZES);
	dispatcher.headers = sendkit_api_headers(job->platform_key);
	if (dispatcher.headers == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errhidestmt(true), errhidecontext(true)));

	PG_TRY();
	{
		run(&dispatcher);
	}
	PG_FINALLY();
	{
		sendkit_http_end();
		sendkit_api_free_headers(dispatcher.headers);
	}
	PG_END_TRY();

	MemoryContextDelete(dispatcher.judge_context);
}
