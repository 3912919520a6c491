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
 * the latch, the postmaster's death and the sockets (sockets.c); enter libcurl
 * for each socket that has something.
 *
 * libcurl resolves names in threads, which inherit the signal mask of whoever
 * starts them: a handler of PostgreSQL's must not run in one.  So every signal
 * is blocked from the moment at which libcurl is about to resolve, which it
 * tells by a callback, until it has come home.  A warm call resolves nothing
 * and pays nothing.
 *
 * Callbacks run inside libcurl and must neither raise an error nor palloc nor
 * serve interrupts.  They write to preallocated places or to malloc'd buffers,
 * and set a flag for trouble, which is looked at when libcurl has come home.
 *
 * Who owns what: the pool is the session's, one static variable, and lives in
 * malloc'd memory and libcurl's.  It owns the multi handle, with the
 * connections kept in it, and the transfers.  A transfer is one easy handle
 * with its buffers; it is under way (in pool->active) or spare, and used over
 * and over until it fails.  Nothing of a statement's memory is referred to between batches.
 * Headers belong to the caller, who must not free them during a batch.
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
#include <time.h>
#include <unistd.h>

#include "access/xact.h"
#include "compat.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timeout.h"

#include "http.h"
#include "sockets.h"
#include "url.h"

/* Caps on an answer, in bytes: the API's are some hundred */
#define MAX_BODY_SIZE (64 * 1024)
#define MAX_HEADER_SIZE (64 * 1024)

/* A body's first buffer, and the largest that is kept for the next answer */
#define BODY_BUFFER_SIZE 1024
#define KEPT_BODY_SIZE 8192

/* Enough for any number of seconds and any HTTP date */
#define MAX_RETRY_AFTER_SIZE 64

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

typedef struct Transfer
{
	dlist_node	node;			/* in pool->active or pool->spare */
	CURL	   *easy;
	void	   *tag;
	char	   *body;			/* malloc'd */
	size_t		body_len;
	size_t		body_size;
	size_t		header_len;
	bool		headers_complete;	/* an empty line ended them */
	bool		too_large;
	bool		no_memory;
	bool		no_descriptor;
	long		timeout_ms;		/* as the easy handle has it */
	long		connect_timeout_ms;
	bool		fresh_connect;	/* as the easy handle has it */
	bool		forbid_reuse;	/* as the easy handle has it */
	bool		begun;			/* libcurl has been entered since it was added */
	bool		sent;			/* or about to be: it may have reached the server */
	bool		resend_refused;
	bool		has_retry_after;
	char		retry_after[MAX_RETRY_AFTER_SIZE];
	char		error[CURL_ERROR_SIZE];
} Transfer;

typedef struct HttpPool
{
	CURLM	   *multi;
	SendkitSockets sockets;
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
	bool		signals_blocked;	/* by on_resolve(), until libcurl returns */
	sigset_t	signals_before;
	bool		plain;			/* HTTP without TLS */
	CURLU	   *url;			/* the base URL, taken apart */
	char	   *base_path;		/* its path, malloc'd, without a slash at the end */
	char	   *base_url;		/* the endpoint, malloc'd */
	char	   *ca_file;
	char	   *proxy;
} HttpPool;

/* The session's connections: the module's only state */
static HttpPool *pool = NULL;
static int	abandoned_pools = 0;
static TimeoutId idle_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t batch_open = false;

/* The version that is there at run time; asking libcurl for it is dear. */
static unsigned int
curl_version_found(void)
{
	static unsigned int version = 0;

	if (version == 0)
		version = curl_version_info(CURLVERSION_NOW)->version_num;
	return version;
}

int64
sendkit_http_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

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

/* CURLOPT_RESOLVER_START_FUNCTION: a thread may be started next */
static int
on_resolve(void *resolver pg_attribute_unused(), void *reserved pg_attribute_unused(),
		   void *unused pg_attribute_unused())
{
	if (!pool->signals_blocked)
	{
		block_signals(&pool->signals_before);
		pool->signals_blocked = true;
	}
	return 0;
}

/* --- callbacks of a transfer --- */

static bool
grow_body(Transfer *transfer, size_t needed)
{
	size_t		size = transfer->body_size;
	char	   *grown;

	while (size < needed)
		size = size ? size * 2 : BODY_BUFFER_SIZE;
	if (size == transfer->body_size)
		return true;
	grown = realloc(transfer->body, size);
	if (grown == NULL)
	{
		transfer->no_memory = true;
		return false;
	}
	transfer->body = grown;
	transfer->body_size = size;
	return true;
}

/* CURLOPT_WRITEFUNCTION: anything but the full count ends the transfer */
static size_t
on_body(char *data, size_t size, size_t nmemb, void *arg)
{
	Transfer   *transfer = (Transfer *) arg;
	size_t		len = size * nmemb;

	if (len > MAX_BODY_SIZE - transfer->body_len)
	{
		transfer->too_large = true;
		return 0;
	}
	if (!grow_body(transfer, transfer->body_len + len + 1))
		return 0;
	memcpy(transfer->body + transfer->body_len, data, len);
	transfer->body_len += len;
	transfer->body[transfer->body_len] = '\0';
	return len;
}

/*
 * Keeps the value of a Retry-After header.  CURLINFO_RETRY_AFTER will not do:
 * it takes a number that overflows for none at all.
 */
static void
keep_retry_after(Transfer *transfer, const char *line, size_t len)
{
	static const char name[] = "retry-after:";
	size_t		name_len = sizeof(name) - 1;

	if (len < name_len || pg_strncasecmp(line, name, name_len) != 0)
		return;
	line += name_len;
	len -= name_len;
	while (len > 0 && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len > 0 && (unsigned char) line[len - 1] <= ' ')
		len--;
	if (len >= MAX_RETRY_AFTER_SIZE)
		len = MAX_RETRY_AFTER_SIZE - 1;
	memcpy(transfer->retry_after, line, len);
	transfer->retry_after[len] = '\0';
	transfer->has_retry_after = true;
}

/*
 * An HTTP/1 connection whose unread bytes might wait inside TLS, unseen by
 * sockets.c, must not be used again: they would be taken for the answer to the
 * next request.  The status line is the first that tells the protocol.
 */
static void
forbid_unsafe_reuse(Transfer *transfer, const char *status_line)
{
	if (pool->plain || status_line[5] != '1' ||
		!sendkit_curl_reads_ahead(curl_version_found()))
		return;
	if (curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK)
		transfer->forbid_reuse = true;
}

/* CURLOPT_HEADERFUNCTION: called once per line */
static size_t
on_header(char *data, size_t size, size_t nmemb, void *arg)
{
	Transfer   *transfer = (Transfer *) arg;
	size_t		len = size * nmemb;

	transfer->header_len += len;
	if (transfer->header_len > MAX_HEADER_SIZE)
	{
		transfer->too_large = true;
		return 0;
	}
	/* a status line: what came before belonged to an interim answer */
	if (len > 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		transfer->has_retry_after = false;
		transfer->headers_complete = false;
		forbid_unsafe_reuse(transfer, data);
	}
	else if (len > 0 && (data[0] == '\r' || data[0] == '\n'))
		transfer->headers_complete = true;
	keep_retry_after(transfer, data, len);
	return len;
}

/* CURLOPT_OPENSOCKETFUNCTION */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose pg_attribute_unused(),
			   struct curl_sockaddr *address)
{
	Transfer   *transfer = (Transfer *) arg;
	curl_socket_t fd = sendkit_sockets_open(&pool->sockets, address);

	if (fd == CURL_SOCKET_BAD)
		transfer->no_descriptor = pool->sockets.refused;
	return fd;
}

/* CURLOPT_CLOSESOCKETFUNCTION: may be called long after its transfer is gone */
static int
on_close_socket(void *arg, curl_socket_t fd)
{
	return sendkit_sockets_close((SendkitSockets *) arg, fd);
}

/*
 * CURLOPT_PREREQFUNCTION: connected, and about to send.  Called once more
 * before libcurl sends a request again, which the option CURLOPT_RTSP_REQUEST
 * (set_resend_options()) leaves to it for refused HTTP/2 streams only.  As a
 * second guard, it must have been silent: it words every other trouble.
 */
static int
on_about_to_send(void *arg, char *peer_ip pg_attribute_unused(),
				 char *local_ip pg_attribute_unused(),
				 int peer_port pg_attribute_unused(),
				 int local_port pg_attribute_unused())
{
	Transfer   *transfer = (Transfer *) arg;

	if (transfer->sent &&
		(transfer->error[0] != '\0' || pool->plain))
	{
		transfer->resend_refused = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (!transfer->sent && pool->sent && !pool->warm && pool->sockets.opened == 1)
		pool->shared = true;
	transfer->sent = true;
	pool->sent = true;
	return CURL_PREREQFUNC_OK;
}

/* --- callbacks of the multi handle --- */

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

	owner->timer = timeout_ms < 0 ? NO_TIMER : sendkit_http_now() + timeout_ms;
	return 0;
}

/* --- transfers --- */

static void
free_transfer(Transfer *transfer)
{
	if (transfer->easy)
		curl_easy_cleanup(transfer->easy);
	free(transfer->body);
	free(transfer);
}

/* A setopt can only fail for want of memory or of a feature: give up then. */
#define SETOPT(easy, option, value) \
	do { \
		if (curl_easy_setopt((easy), (option), (value)) != CURLE_OK) \
			return false; \
	} while (0)

/* Whatever the environment or a server may suggest, libcurl is to do this only. */
static bool
set_safety_options(CURL *easy, bool plain)
{
	SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	SETOPT(easy, SENDKIT_CURLOPT_PROTOCOLS,
		   plain ? SENDKIT_PROTOCOL_HTTP : SENDKIT_PROTOCOL_HTTPS);
	SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SETOPT(easy, CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE);
	SETOPT(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	return true;
}

/*
 * With OpenSSL and a hashed folder of certificates, only the one that is asked
 * for is read; the bundle in one file would have to be parsed as a whole, for
 * some 40 ms.  libcurl caches a parsed bundle between connections, but not
 * while a folder is set as well, so it is either the one or the other.
 */
static const char *
system_ca_folder(void)
{
	curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

	if (info->age < CURLVERSION_SEVENTH || info->capath == NULL ||
		info->ssl_version == NULL ||
		strncmp(info->ssl_version, "OpenSSL/", 8) != 0)
		return NULL;
	/* a folder that was never hashed would make every certificate unknown */
	if (access(info->capath, R_OK | X_OK) != 0)
		return NULL;
	return info->capath;
}

static bool
set_tls_options(CURL *easy, const char *ca_file)
{
	const char *folder = system_ca_folder();

	SETOPT(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SETOPT(easy, CURLOPT_PROXY_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SETOPT(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	SETOPT(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	if (ca_file[0] != '\0')
	{
		SETOPT(easy, CURLOPT_CAINFO, ca_file);
		SETOPT(easy, CURLOPT_CAPATH, NULL);
		SETOPT(easy, CURLOPT_PROXY_CAINFO, ca_file);
		SETOPT(easy, CURLOPT_PROXY_CAPATH, NULL);
	}
	else if (folder)
	{
		SETOPT(easy, CURLOPT_CAINFO, NULL);
		SETOPT(easy, CURLOPT_CAPATH, folder);
		SETOPT(easy, CURLOPT_PROXY_CAINFO, NULL);
		SETOPT(easy, CURLOPT_PROXY_CAPATH, folder);
	}
	return true;
}

/*
 * An empty proxy is set, too: it keeps libcurl from asking the environment.
 * Plain HTTP is for loopback and stays there: a proxy would see the key.
 */
static bool
set_route_options(CURL *easy, const char *proxy, bool plain)
{
	SETOPT(easy, CURLOPT_PROXY, plain ? "" : proxy);
	SETOPT(easy, CURLOPT_NOPROXY, "");
	SETOPT(easy, CURLOPT_HTTP_VERSION,
		   (long) (plain ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS));
	/* rather share the first connection than open one per request */
	SETOPT(easy, CURLOPT_PIPEWAIT, plain ? 0L : 1L);
	SETOPT(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	SETOPT(easy, CURLOPT_MAXAGE_CONN, (long) (IDLE_CLOSE_MS / 1000));
	return true;
}

/*
 * libcurl silently repeats a request in two cases (Curl_retry_request() in its
 * transfer.c): when a connection that was used before ends without a byte of
 * an answer; and when an HTTP/2 stream was refused, by RST_STREAM with
 * REFUSED_STREAM or by a number above the last one of GOAWAY.  In the second
 * case the protocol guarantees that the request was not processed (RFC 9113,
 * section 8.7).  In the first it may have been, and repeating it could revoke
 * a key made in between.  The one switch that takes the first case away, and
 * leaves the second (and, in newer versions, HTTP_1_1_REQUIRED, by which a
 * server asks to be sent the request again), is meant for RTSP: a request that only receives is not
 * repeated for a lost connection.  HTTP makes no other use of it.  A libcurl
 * built without RTSP knows no such option: then nothing can be sent.
 */
static bool
set_resend_options(CURL *easy)
{
	SETOPT(easy, CURLOPT_RTSP_REQUEST, (long) CURL_RTSPREQ_RECEIVE);
	return true;
}

static bool
set_callbacks(CURL *easy, Transfer *transfer)
{
	SETOPT(easy, CURLOPT_PRIVATE, transfer);
	SETOPT(easy, CURLOPT_ERRORBUFFER, transfer->error);
	SETOPT(easy, CURLOPT_WRITEFUNCTION, on_body);
	SETOPT(easy, CURLOPT_WRITEDATA, transfer);
	SETOPT(easy, CURLOPT_HEADERFUNCTION, on_header);
	SETOPT(easy, CURLOPT_HEADERDATA, transfer);
	SETOPT(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SETOPT(easy, CURLOPT_OPENSOCKETDATA, transfer);
	SETOPT(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
	SETOPT(easy, CURLOPT_CLOSESOCKETDATA, &pool->sockets);
	SETOPT(easy, CURLOPT_RESOLVER_START_FUNCTION, on_resolve);
	SETOPT(easy, CURLOPT_PREREQFUNCTION, on_about_to_send);
	SETOPT(easy, CURLOPT_PREREQDATA, transfer);
	return true;
}

/*
 * DELETE is all that is ever asked for, and all of one host.  The URL is handed
 * over in parts, and each request's path as its target: parsing a URL anew for
 * each request, and putting it together again, is a tenth of what a warm call
 * costs libcurl.
 */
static bool
set_base_request(CURL *easy)
{
	SETOPT(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
	SETOPT(easy, CURLOPT_CURLU, pool->url);
	return true;
}

static bool
set_options(CURL *easy, Transfer *transfer)
{
	bool		plain = pool->plain;

	if (sendkit_curl_easy_can_quick_exit(curl_version_found()) &&
		sendkit_curl_easy_quick_exit(easy) != CURLE_OK)
		return false;
	return set_base_request(easy) &&
		set_safety_options(easy, plain) &&
		set_resend_options(easy) &&
		set_tls_options(easy, pool->ca_file) &&
		set_route_options(easy, pool->proxy, plain) &&
		set_callbacks(easy, transfer);
}

/* Returns a transfer with all set that doesn't change, or NULL. */
static Transfer *
new_transfer(void)
{
	Transfer   *transfer = calloc(1, sizeof(Transfer));

	if (transfer == NULL)
		return NULL;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL || !grow_body(transfer, 1) ||
		!set_options(transfer->easy, transfer))
	{
		free_transfer(transfer);
		return NULL;
	}
	return transfer;
}

/* Gives back what a large answer took. */
static void
shrink_body(Transfer *transfer)
{
	char	   *small;

	if (transfer->body_size <= KEPT_BODY_SIZE)
		return;
	small = realloc(transfer->body, BODY_BUFFER_SIZE);
	if (small == NULL)
		return;
	transfer->body = small;
	transfer->body_size = BODY_BUFFER_SIZE;
}

/* Makes a transfer ready for its next request. */
static void
reset_transfer(Transfer *transfer)
{
	transfer->tag = NULL;
	shrink_body(transfer);
	transfer->body_len = 0;
	transfer->body[0] = '\0';
	transfer->header_len = 0;
	transfer->headers_complete = false;
	transfer->too_large = false;
	transfer->no_memory = false;
	transfer->no_descriptor = false;
	transfer->begun = false;
	transfer->sent = false;
	transfer->resend_refused = false;
	transfer->has_retry_after = false;
	transfer->error[0] = '\0';
}

/* Sets what is the request's own; options that stay the same are not set again. */
static bool
set_request(Transfer *transfer, const SendkitHttpRequest *request, const char *target)
{
	CURL	   *easy = transfer->easy;

	SETOPT(easy, CURLOPT_REQUEST_TARGET, target);
	SETOPT(easy, CURLOPT_HTTPHEADER, request->headers);
	if (transfer->connect_timeout_ms != request->connect_timeout_ms)
		SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS, request->connect_timeout_ms);
	if (transfer->timeout_ms != request->timeout_ms)
		SETOPT(easy, CURLOPT_TIMEOUT_MS, request->timeout_ms);
	if (transfer->fresh_connect)
		SETOPT(easy, CURLOPT_FRESH_CONNECT, 0L);
	if (transfer->forbid_reuse)
		SETOPT(easy, CURLOPT_FORBID_REUSE, 0L);
	transfer->forbid_reuse = false;
	transfer->connect_timeout_ms = request->connect_timeout_ms;
	transfer->timeout_ms = request->timeout_ms;
	transfer->fresh_connect = false;
	return true;
}

/*
 * Takes a transfer out of the multi handle.  Only one that succeeded is used
 * again: a handle keeps more from a failure than can be told (a refused stream
 * would let its next request be repeated).  Its strings live on until the
 * next request.
 */
static void
retire_transfer(Transfer *transfer, bool succeeded)
{
	curl_multi_remove_handle(pool->multi, transfer->easy);
	/* the headers are the caller's, and hold the key */
	curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
	dlist_delete(&transfer->node);
	dlist_push_head(succeeded ? &pool->spare : &pool->failed, &transfer->node);
}

/* --- the pool --- */

static void
free_transfers(dlist_head *transfers)
{
	while (!dlist_is_empty(transfers))
	{
		dlist_node *node = dlist_pop_head_node(transfers);

		free_transfer(dlist_container(Transfer, node, node));
	}
}

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
	curl_url_cleanup(old->url);
	free(old->base_path);
	free(old->base_url);
	free(old->ca_file);
	free(old->proxy);
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

	if (sendkit_curl_multi_can_quick_exit(curl_version_found()) &&
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
	if (curl_version_found() < SENDKIT_MIN_LIBCURL)
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
report_no_descriptor(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not connect to the SendKit API: too many open files"),
			 errdetail("Nothing was sent to the SendKit API."),
			 errhint("Raise the server's \"max_files_per_process\" and/or \"ulimit -n\" limits."),
			 errhidestmt(true), errhidecontext(true)));
}

/* Returns the path of a URL without slashes at its end, malloc'd, or NULL. */
static char *
copy_base_path(CURLU *url)
{
	char	   *path = NULL;
	char	   *copy;
	size_t		len;

	if (curl_url_get(url, CURLUPART_PATH, &path, 0) != CURLUE_OK)
		return NULL;
	len = strlen(path);
	while (len > 0 && path[len - 1] == '/')
		len--;
	copy = strndup(path, len);
	curl_free(path);
	return copy;
}

static bool
copy_endpoint(HttpPool *new_pool, const SendkitHttpEndpoint *endpoint)
{
	new_pool->url = sendkit_url_base_parts(endpoint->base_url);
	if (new_pool->url)
		new_pool->base_path = copy_base_path(new_pool->url);
	new_pool->plain = sendkit_url_is_plain(endpoint->base_url);
	new_pool->base_url = strdup(endpoint->base_url);
	new_pool->ca_file = strdup(endpoint->ca_file);
	new_pool->proxy = strdup(endpoint->proxy);
	return new_pool->base_path && new_pool->base_url && new_pool->ca_file && new_pool->proxy;
}

static void
build_wait_set(HttpPool *new_pool)
{
	/* it takes a descriptor, and has no good words for want of one */
	if (!AcquireExternalFD())
		report_no_descriptor();
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
	dlist_init(&new_pool->active);
	dlist_init(&new_pool->spare);
	dlist_init(&new_pool->failed);

	block_signals(&before);
	new_pool->multi = curl_multi_init();
	restore_signals(&before);

	if (new_pool->multi == NULL || !set_multi_options(new_pool) ||
		!copy_endpoint(new_pool, endpoint))
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

	if (new_pool == NULL)
		report_out_of_memory();

	if (!sendkit_sockets_init(&new_pool->sockets))
	{
		new_pool->sockets.epoll_fd = -1;
		free_pool(new_pool);
		report_no_descriptor();
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

static bool
pool_fits(const SendkitHttpEndpoint *endpoint)
{
	return strcmp(pool->base_url, endpoint->base_url) == 0 &&
		strcmp(pool->ca_file, endpoint->ca_file) == 0 &&
		strcmp(pool->proxy, endpoint->proxy) == 0;
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
	now = sendkit_http_now();
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
	left = pool->idle_since + IDLE_CLOSE_MS - sendkit_http_now();
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

static bool
is_resolving(const Transfer *transfer)
{
	curl_off_t	lookup_us = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_NAMELOOKUP_TIME_T, &lookup_us);
	return !transfer->sent && lookup_us == 0;
}

/* Would giving up what is under way wait for a resolver thread? */
static bool
giving_up_would_hang(void)
{
	dlist_iter	iter;

	if (sendkit_curl_easy_can_quick_exit(curl_version_found()) ||
		sendkit_curl_multi_can_quick_exit(curl_version_found()))
		return false;
	if (abandoned_pools >= MAX_ABANDONED)
		return false;
	dlist_foreach(iter, &pool->active)
	{
		if (is_resolving(dlist_container(Transfer, node, iter.cur)))
			return true;
	}
	return false;
}

/* Leaves libcurl's part of the pool alone for ever, and frees the rest. */
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

	if (pool && !pool_fits(endpoint))
		drop_pool();
	if (pool == NULL)
		build_pool(endpoint);

	/* one more, because two addresses of a host may be tried at a time */
	granted = sendkit_sockets_reserve(&pool->sockets, concurrency + 1);
	if (granted == 0)
		report_no_descriptor();
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
	if (pool->plain)
		return pool->connections;
	return pool->warm || pool->capped ?
		pool->concurrency : Min(pool->concurrency, COLD_STREAMS);
}

static Transfer *
take_spare_transfer(void)
{
	Transfer   *transfer;

	free_transfers(&pool->failed);
	if (dlist_is_empty(&pool->spare))
	{
		transfer = new_transfer();
		if (transfer == NULL)
			report_out_of_memory();
		return transfer;
	}
	transfer = dlist_container(Transfer, node, dlist_pop_head_node(&pool->spare));
	return transfer;
}

void
sendkit_http_send(const SendkitHttpRequest *request)
{
	char	   *target = psprintf("%s%s", pool->base_path, request->path);
	Transfer   *transfer = take_spare_transfer();

	reset_transfer(transfer);
	transfer->tag = request->tag;
	if (!set_request(transfer, request, target) ||
		curl_multi_add_handle(pool->multi, transfer->easy) != CURLM_OK)
	{
		free_transfer(transfer);
		report_out_of_memory();
	}
	pfree(target);
	dlist_push_tail(&pool->active, &transfer->node);
	pool->started = true;
}

static bool
is_tls_failure(CURLcode code)
{
	switch (code)
	{
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_CRL_BADFILE:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
		case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_USE_SSL_FAILED:
			return true;
		default:
			return false;
	}
}

static SendkitHttpFailure
failure_of(const Transfer *transfer, CURLcode code)
{
	/* libcurl lets an HTTP/1 answer pass that ends within its headers */
	if (code == CURLE_OK)
		return transfer->headers_complete ? SENDKIT_HTTP_OK : SENDKIT_HTTP_NO_ANSWER;
	if (!transfer->sent)
	{
		if (transfer->no_descriptor)
			return SENDKIT_HTTP_NO_DESCRIPTOR;
		return is_tls_failure(code) ?
			SENDKIT_HTTP_NOT_TRUSTED : SENDKIT_HTTP_NOT_CONNECTED;
	}
	if (transfer->too_large)
		return SENDKIT_HTTP_TOO_LARGE;
	return code == CURLE_OPERATION_TIMEDOUT ?
		SENDKIT_HTTP_TIMED_OUT : SENDKIT_HTTP_NO_ANSWER;
}

static const char *
error_words(const Transfer *transfer, CURLcode code)
{
	if (transfer->no_memory)
		return "out of memory";
	if (transfer->resend_refused || code == CURLE_OK)
		return "The connection ended before a whole answer came";
	if (transfer->error[0] != '\0')
		return transfer->error;
	return curl_easy_strerror(code);
}

static void
fill_result(Transfer *transfer, CURLcode code, SendkitHttpResult *result)
{
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	result->tag = transfer->tag;
	result->failure = failure_of(transfer, code);
	/* an interim answer is none */
	result->status = status >= 200 ? (int) status : 0;
	result->body = transfer->body;
	result->body_len = transfer->body_len;
	result->retry_after = transfer->has_retry_after ? transfer->retry_after : NULL;
	result->error = error_words(transfer, code);
}

/* Learns from an answer whether its connection speaks HTTP/2. */
static void
note_protocol(Transfer *transfer)
{
	long		version = 0;
	curl_socket_t fd = CURL_SOCKET_BAD;

	curl_easy_getinfo(transfer->easy, CURLINFO_HTTP_VERSION, &version);
	if (version == CURL_HTTP_VERSION_2_0 &&
		curl_easy_getinfo(transfer->easy, CURLINFO_ACTIVESOCKET, &fd) == CURLE_OK)
		sendkit_sockets_set_multiplexed(&pool->sockets, fd);
}

/* Returns whether a request has ended, with its result. */
static bool
take_finished(SendkitHttpResult *result)
{
	CURLMsg    *msg;
	int			left;
	Transfer   *transfer;
	CURLcode	code;

	do
	{
		msg = curl_multi_info_read(pool->multi, &left);
		if (msg == NULL)
			return false;
	} while (msg->msg != CURLMSG_DONE);

	/* the message goes with its handle */
	code = msg->data.result;
	curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);

	if (code == CURLE_OK)
		note_protocol(transfer);
	fill_result(transfer, code, result);
	retire_transfer(transfer, code == CURLE_OK);
	return true;
}

/* Enters libcurl for a socket, or for its timer (CURL_SOCKET_TIMEOUT). */
static void
enter_curl(curl_socket_t fd, int action)
{
	int			running;
	CURLMcode	result;

	if (sendkit_curl_starts_threads_unannounced(curl_version_found()))
		on_resolve(NULL, NULL, NULL);
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
		!sendkit_curl_looks_before_reuse(curl_version_found());

	dlist_reverse_foreach(iter, &pool->active)
	{
		Transfer   *transfer = dlist_container(Transfer, node, iter.cur);

		if (transfer->begun)
			break;
		transfer->begun = true;
		if (fresh)
			curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 1L);
		transfer->fresh_connect = fresh;
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

/* Waits until something happens, or the time is up.  Serves no interrupt. */
static void
wait_for_event(int64 timeout_ms)
{
	WaitEvent	events[3];
	int			nevents;
	long		timeout = timeout_ms > INT_MAX ? INT_MAX : (long) timeout_ms;

	nevents = WaitEventSetWait(pool->wait_set, timeout, events, lengthof(events),
							   sendkit_wait_event());
	for (int i = 0; i < nevents; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (events[i].events & WL_SOCKET_READABLE)
			run_sockets();
	}
}

bool
sendkit_http_receive(int64 timeout_ms, SendkitHttpResult *result)
{
	int64		give_up = timeout_ms < 0 ? NO_TIMER : sendkit_http_now() + timeout_ms;
	int			capacity = sendkit_http_capacity();

	for (;;)
	{
		int64		now;

		/* an answer that is here counts, whatever else happens */
		if (take_finished(result))
			return true;

		CHECK_FOR_INTERRUPTS();

		now = sendkit_http_now();
		if (pool->shared && !pool->warm && pool->concurrency > COLD_STREAMS)
			cap_connections(true);
		if (pool->timer <= now)
			run_timer();
		else if (give_up <= now || sendkit_http_capacity() > capacity)
			return false;
		else
		{
			int64		until = Min(pool->timer, give_up);

			wait_for_event(until == NO_TIMER ? -1 : until - now);
		}
	}
}

void *
sendkit_http_recall(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &pool->active)
	{
		Transfer   *transfer = dlist_container(Transfer, node, iter.cur);

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
			retire_transfer(dlist_head_element(Transfer, node, &pool->active), false);
		free_transfers(&pool->failed);
		sendkit_sockets_release_unused(&pool->sockets);
	}
	batch_open = false;
	arm_idle_timeout();
}
