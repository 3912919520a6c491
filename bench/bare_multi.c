/*-------------------------------------------------------------------------
 *
 * bare_multi.c
 *	  The cheapest way to make many calls at a time: libcurl's multi interface.
 *
 * usage: bare_multi BASE_URL KEY CALLS CONCURRENCY CONNECTIONS [CA_FILE]
 *
 * A sliding window: as many handles as there may be calls in flight, each of
 * them used over and over.  Driven by curl_multi_socket_action() from epoll,
 * because curl_multi_poll() looks at every socket each time, and stalls at
 * times on a shared HTTP/2 connection.  Over TLS the first connection is waited
 * for (PIPEWAIT).  For HTTP/2, say that there is to be one connection: libcurl
 * takes a new one for full at 100 requests until the server's settings have
 * come, and then opens connections for all others.
 *
 * Prints what it took, all from the start of main(): nanoseconds of wall time,
 * and of CPU time.
 *
 *-------------------------------------------------------------------------
 */
#include "caller.h"

#include <errno.h>
#include <sys/epoll.h>

#define EVENTS 256

typedef struct Call
{
	CURL	   *easy;
	Answer		answer;
} Call;

static int	epoll_fd;
static int64_t deadline = -1;	/* libcurl's timer */

static int
on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	(void) multi;
	(void) arg;
	deadline = timeout_ms < 0 ? -1 : read_clock(CLOCK_MONOTONIC) + timeout_ms * 1000000;
	return 0;
}

/* The socket's pointer says whether it is in the epoll set. */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct epoll_event event;

	(void) easy;
	memset(&event, 0, sizeof(event));
	event.data.fd = fd;
	if (what == CURL_POLL_REMOVE)
	{
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	event.events = ((what & CURL_POLL_IN) ? EPOLLIN : 0) | ((what & CURL_POLL_OUT) ? EPOLLOUT : 0);
	if (epoll_ctl(epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) != 0)
		die("epoll_ctl");
	if (!known)
		curl_multi_assign((CURLM *) arg, fd, &epoll_fd);
	return 0;
}

static CURLM *
make_multi(long connections)
{
	CURLM	   *multi = curl_multi_init();

	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, multi);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX);
	curl_multi_setopt(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, 1000L);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, connections);
	curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, connections);
	return multi;
}

static void
wait_and_act(CURLM *multi)
{
	struct epoll_event events[EVENTS];
	int64_t		left = deadline < 0 ? -1 : deadline - read_clock(CLOCK_MONOTONIC);
	int			timeout = left < 0 && deadline < 0 ? -1 : left <= 0 ? 0 : (int) (left / 1000000) + 1;
	int			running;
	int			n = timeout == 0 ? 0 : epoll_wait(epoll_fd, events, EVENTS, timeout);

	if (n < 0 && errno != EINTR)
		die("epoll_wait");
	for (int i = 0; i < n; i++)
		curl_multi_socket_action(multi, events[i].data.fd,
								 ((events[i].events & (EPOLLIN | EPOLLHUP)) ? CURL_CSELECT_IN : 0) |
								 ((events[i].events & EPOLLOUT) ? CURL_CSELECT_OUT : 0) |
								 ((events[i].events & EPOLLERR) ? CURL_CSELECT_ERR : 0),
								 &running);
	if (deadline >= 0 && deadline <= read_clock(CLOCK_MONOTONIC))
	{
		deadline = -1;
		curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
}

int
main(int argc, char **argv)
{
	int64_t		wall = read_clock(CLOCK_MONOTONIC);
	struct curl_slist *headers;
	const char *ca_file;
	CURLM	   *multi;
	CURLMsg    *message;
	Call	   *calls;
	long		count,
				concurrency,
				sent = 0,
				done = 0;
	int			left;

	if (argc < 6)
		die("usage: bare_multi BASE_URL KEY CALLS CONCURRENCY CONNECTIONS [CA_FILE]");
	count = atol(argv[3]);
	concurrency = atol(argv[4]) < count ? atol(argv[4]) : count;
	ca_file = argc > 6 ? argv[6] : NULL;

	curl_global_init(CURL_GLOBAL_DEFAULT);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	multi = make_multi(atol(argv[5]));
	headers = make_headers(argv[2]);
	calls = calloc(concurrency, sizeof(Call));

	while (sent < concurrency)
	{
		Call	   *call = &calls[sent];

		call->easy = make_handle(headers, ca_file, &call->answer);
		curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
		if (strncmp(argv[1], "https", 5) == 0)
			curl_easy_setopt(call->easy, CURLOPT_PIPEWAIT, 1L);
		set_id(call->easy, argv[1], "w", ++sent);
		curl_multi_add_handle(multi, call->easy);
	}

	while (done < count)
	{
		wait_and_act(multi);
		while ((message = curl_multi_info_read(multi, &left)) != NULL)
		{
			CURLcode	code = message->data.result;
			CURL	   *easy = message->easy_handle;
			Call	   *call;

			curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &call);
			if (code != CURLE_OK)
				die(curl_easy_strerror(code));
			if (!is_deleted(easy, &call->answer))
				die("unexpected answer");
			done++;
			curl_multi_remove_handle(multi, easy);
			call->answer.len = 0;
			if (sent < count)
			{
				set_id(easy, argv[1], "w", ++sent);
				curl_multi_add_handle(multi, easy);
			}
		}
	}

	printf("%lld %lld\n",
		   (long long) (read_clock(CLOCK_MONOTONIC) - wall),
		   (long long) read_clock(CLOCK_PROCESS_CPUTIME_ID));
	return 0;
}
