/*-------------------------------------------------------------------------
 *
 * http_transfer.c
 *	  One request and its answer, on a libcurl easy handle.
 *
 * What never changes is set when a transfer is made, what is the request's own
 * when it is prepared.  From then on libcurl calls back, for each piece of the
 * answer and at each turn that matters here: about to resolve, to connect, to
 * send.  Callbacks run inside libcurl and must neither raise an error nor
 * palloc nor serve interrupts.  They write to the transfer's own malloc'd
 * memory, and set a flag for trouble, which is looked at when libcurl has come
 * home and the transfer's result is asked for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "curl_compat.h"
#include "http_transfer.h"

/* Caps on an answer, in bytes: the API's are some hundred */
#define MAX_BODY_SIZE (64 * 1024)
#define MAX_HEADER_SIZE (64 * 1024)

/* A body's first buffer, and the largest that is kept for the next answer */
#define BODY_BUFFER_SIZE 1024
#define KEPT_BODY_SIZE 8192

/* --- callbacks --- */

static bool
grow_body(SendkitTransfer *transfer, size_t needed)
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
	SendkitTransfer *transfer = (SendkitTransfer *) arg;
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
keep_retry_after(SendkitTransfer *transfer, const char *line, size_t len)
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
 * http_sockets.c, must not be used again: they would be taken for the answer to the
 * next request.  The status line is the first that tells the protocol.
 */
static void
forbid_unsafe_reuse(SendkitTransfer *transfer, const char *status_line)
{
	if (transfer->common->route->plain || status_line[5] != '1' ||
		!sendkit_curl_reads_ahead())
		return;
	if (curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK)
		transfer->forbid_reuse = true;
}

/* CURLOPT_HEADERFUNCTION: called once per line */
static size_t
on_header(char *data, size_t size, size_t nmemb, void *arg)
{
	SendkitTransfer *transfer = (SendkitTransfer *) arg;
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

/* CURLOPT_RESOLVER_START_FUNCTION */
static int
on_resolve(void *resolver pg_attribute_unused(), void *reserved pg_attribute_unused(),
		   void *arg)
{
	((SendkitTransfer *) arg)->common->about_to_resolve();
	return 0;
}

/* CURLOPT_OPENSOCKETFUNCTION */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose pg_attribute_unused(),
			   struct curl_sockaddr *address)
{
	SendkitTransfer *transfer = (SendkitTransfer *) arg;
	SendkitSockets *sockets = transfer->common->sockets;
	curl_socket_t fd = sendkit_sockets_open(sockets, address);

	if (fd == CURL_SOCKET_BAD)
		transfer->no_descriptor = sockets->refused;
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
	SendkitTransfer *transfer = (SendkitTransfer *) arg;

	if (transfer->sent &&
		(transfer->error[0] != '\0' || transfer->common->route->plain))
	{
		transfer->resend_refused = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (!transfer->sent)
		transfer->common->about_to_send();
	transfer->sent = true;
	return CURL_PREREQFUNC_OK;
}

/* --- options --- */

/*
 * DELETE is all that is ever asked for.  Whatever the environment or a server
 * may suggest, libcurl is to do this only.
 */
static bool
set_request_options(CURL *easy)
{
	SETOPT(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
	SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SETOPT(easy, CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE);
	return true;
}

/*
 * libcurl silently repeats a request in two cases (Curl_retry_request() in its
 * http_transfer.c): when a connection that was used before ends without a byte of
 * an answer; and when an HTTP/2 stream was refused, by RST_STREAM with
 * REFUSED_STREAM or by a number above the last one of GOAWAY.  In the second
 * case the protocol guarantees that the request was not processed (RFC 9113,
 * section 8.7).  In the first it may have been, and repeating it could revoke
 * a key made in between.  The one switch that takes the first case away is
 * meant for RTSP: a request that only receives is not repeated for a lost
 * connection.  HTTP makes no other use of it.  It leaves the second case (and,
 * in newer versions, HTTP_1_1_REQUIRED, by which a server asks to be sent the
 * request again).  A libcurl built without RTSP knows no such option: then
 * nothing can be sent.
 */
static bool
set_resend_options(CURL *easy)
{
	SETOPT(easy, CURLOPT_RTSP_REQUEST, (long) CURL_RTSPREQ_RECEIVE);
	return true;
}

static bool
set_callbacks(CURL *easy, SendkitTransfer *transfer)
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
	SETOPT(easy, CURLOPT_CLOSESOCKETDATA, transfer->common->sockets);
	SETOPT(easy, CURLOPT_RESOLVER_START_FUNCTION, on_resolve);
	SETOPT(easy, CURLOPT_RESOLVER_START_DATA, transfer);
	SETOPT(easy, CURLOPT_PREREQFUNCTION, on_about_to_send);
	SETOPT(easy, CURLOPT_PREREQDATA, transfer);
	return true;
}

static bool
set_options(CURL *easy, SendkitTransfer *transfer)
{
	if (sendkit_curl_easy_can_quick_exit() &&
		sendkit_curl_easy_quick_exit(easy) != CURLE_OK)
		return false;
	SETOPT(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	SETOPT(easy, CURLOPT_MAXAGE_CONN, transfer->common->max_idle_s);
	return set_request_options(easy) &&
		set_resend_options(easy) &&
		sendkit_route_set_options(transfer->common->route, easy) &&
		set_callbacks(easy, transfer);
}

/* --- a transfer's life --- */

SendkitTransfer *
sendkit_transfer_new(const SendkitTransferCommon *common)
{
	SendkitTransfer *transfer = calloc(1, sizeof(SendkitTransfer));

	if (transfer == NULL)
		return NULL;
	transfer->common = common;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL || !grow_body(transfer, 1) ||
		!set_options(transfer->easy, transfer))
	{
		sendkit_transfer_free(transfer);
		return NULL;
	}
	return transfer;
}

void
sendkit_transfer_free(SendkitTransfer *transfer)
{
	if (transfer->easy)
		curl_easy_cleanup(transfer->easy);
	free(transfer->body);
	free(transfer);
}

/* Gives back what a large answer took. */
static void
shrink_body(SendkitTransfer *transfer)
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
reset_transfer(SendkitTransfer *transfer)
{
	shrink_body(transfer);
	transfer->body_len = 0;
	transfer->body[0] = '\0';
	transfer->header_len = 0;
	transfer->headers_complete = false;
	transfer->too_large = false;
	transfer->no_memory = false;
	transfer->no_descriptor = NULL;
	transfer->begun = false;
	transfer->sent = false;
	transfer->resend_refused = false;
	transfer->has_retry_after = false;
	transfer->error[0] = '\0';
}

/* In the form that libcurl takes; the texts stay the caller's. */
static void
link_headers(struct curl_slist *list, const char *const *headers)
{
	Assert(headers[0] != NULL);
	for (int i = 0; headers[i]; i++)
	{
		Assert(i < SENDKIT_HTTP_MAX_HEADERS);
		list[i].data = unconstify(char *, headers[i]);
		list[i].next = headers[i + 1] ? &list[i + 1] : NULL;
	}
}

bool
sendkit_transfer_prepare(SendkitTransfer *transfer, const SendkitHttpRequest *request,
						 const char *target)
{
	CURL	   *easy = transfer->easy;

	reset_transfer(transfer);
	transfer->tag = request->tag;
	SETOPT(easy, CURLOPT_REQUEST_TARGET, target);
	link_headers(transfer->headers, request->headers);
	SETOPT(easy, CURLOPT_HTTPHEADER, transfer->headers);
	/* the rest mostly stays as it is, and setting it again is not free */
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

void
sendkit_transfer_begin(SendkitTransfer *transfer, bool fresh)
{
	transfer->begun = true;
	if (fresh && curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK)
		transfer->fresh_connect = true;
}

void
sendkit_transfer_forget_headers(SendkitTransfer *transfer)
{
	curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, NULL);
}

SendkitTransfer *
sendkit_transfer_of(CURL *easy)
{
	SendkitTransfer *transfer = NULL;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &transfer);
	return transfer;
}

bool
sendkit_transfer_is_resolving(const SendkitTransfer *transfer)
{
	curl_off_t	lookup_us = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_NAMELOOKUP_TIME_T, &lookup_us);
	return !transfer->sent && lookup_us == 0;
}

/* --- how it ended --- */

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
failure_of(const SendkitTransfer *transfer, CURLcode code)
{
	/* libcurl lets an HTTP/1 answer pass that ends within its headers */
	if (code == CURLE_OK)
		return transfer->headers_complete ? SENDKIT_HTTP_OK : SENDKIT_HTTP_NO_ANSWER;
	if (!transfer->sent)
		return is_tls_failure(code) ?
			SENDKIT_HTTP_NOT_TRUSTED : SENDKIT_HTTP_NOT_CONNECTED;
	if (transfer->too_large)
		return SENDKIT_HTTP_TOO_LARGE;
	return code == CURLE_OPERATION_TIMEDOUT ?
		SENDKIT_HTTP_TIMED_OUT : SENDKIT_HTTP_NO_ANSWER;
}

static const char *
error_words(const SendkitTransfer *transfer, CURLcode code)
{
	if (transfer->no_memory)
		return "out of memory";
	if (transfer->no_descriptor && !transfer->sent)
		return transfer->no_descriptor;
	if (transfer->resend_refused || code == CURLE_OK)
		return "The connection ended before a whole answer came";
	if (transfer->error[0] != '\0')
		return transfer->error;
	return curl_easy_strerror(code);
}

/* Learns from an answer whether its connection speaks HTTP/2. */
static void
note_protocol(SendkitTransfer *transfer)
{
	long		version = 0;
	curl_socket_t fd = CURL_SOCKET_BAD;

	curl_easy_getinfo(transfer->easy, CURLINFO_HTTP_VERSION, &version);
	if (version == CURL_HTTP_VERSION_2_0 &&
		curl_easy_getinfo(transfer->easy, CURLINFO_ACTIVESOCKET, &fd) == CURLE_OK)
		sendkit_sockets_set_multiplexed(transfer->common->sockets, fd);
}

void
sendkit_transfer_finish(SendkitTransfer *transfer, CURLcode code,
						SendkitHttpResult *result)
{
	long		status = 0;

	if (code == CURLE_OK)
		note_protocol(transfer);
	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	result->tag = transfer->tag;
	result->failure = failure_of(transfer, code);
	/* an interim answer is none */
	result->status = status >= 200 ? (int) status : 0;
	result->body = transfer->body;
	result->body_len = transfer->body_len;
	result->retry_after = transfer->has_retry_after ? transfer->retry_after : NULL;
	result->date = NULL;
	result->error = error_words(transfer, code);
}
