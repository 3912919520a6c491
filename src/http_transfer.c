/*-------------------------------------------------------------------------
 *
 * http_transfer.c
 *	  One request and its answer, on a libcurl easy handle.
 *
 * A transfer is made for one request and freed after it: libcurl's handles
 * remember more of an earlier transfer than they should (7.83 to 8.1 a pointer
 * to its last header, freed long since, to which a folded header line is
 * appended; others a refused stream), and a new one costs a microsecond or two.
 *
 * libcurl calls back for each piece of the answer and at each turn that matters
 * here: about to resolve, to open a socket, to send.  Callbacks run inside
 * libcurl and must neither raise an error nor palloc nor serve interrupts.
 * They write to the transfer's own malloc'd memory, and note trouble, which is
 * looked at when libcurl has come home and the transfer's result is asked for.
 *
 * Sent once.  The callback that tells that a request is about to leave moves
 * the transfer to its last stage.  From then on it may not leave again:
 * whatever makes libcurl want to repeat it, it fails instead.  libcurl
 * (Curl_retry_request() in its transfer.c) repeats for three reasons.  A
 * connection that was used before ends without a byte of an answer: the
 * request may have been processed, and repeating it could revoke a key made in
 * between.  A server asks for HTTP/1.1 by HTTP_1_1_REQUIRED: the same.  A
 * stream was refused, by REFUSED_STREAM or by a number above the last one of
 * GOAWAY: then the protocol guarantees that the request was not processed (RFC
 * 9113, section 8.7).  The first reason is taken away by an option meant for
 * RTSP, a request of which that only receives is not repeated for a lost
 * connection; HTTP makes no other use of it.  The second makes libcurl speak
 * HTTP/1.1.  So with that option it is the third, if what would be repeated
 * would leave by HTTP/2 again.  (The words of the error tell as well, but newer
 * versions take them back before they connect.)
 *
 * Sent on a clean connection.  What a peer sends after an answer is taken by
 * libcurl for the answer to the next request on that connection, wherever it
 * waits: in the kernel, or decrypted inside TLS.  So right before a request
 * leaves on an HTTP/1 connection that was used before, both are looked at, and
 * the connection is given up if there is anything.  HTTP/2 tells answers apart
 * by stream.
 *
 * An old libcurl (before 7.80) does not ask before it sends.  Then each request
 * has a connection of its own, which is new, and speaks HTTP/1.1.  Both of the
 * above are true by that: there was no answer before, and none of the three
 * reasons to repeat applies.  That a request leaves is told by the callback for
 * debugging, right after its first bytes were written and before libcurl comes
 * home: what was not written, be it part of a TLS record, reaches nobody.  The
 * progress callback, called at each step of libcurl's, the one from connected to
 * sending too, stops what is too late.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "curl_compat.h"
#include "http_probe.h"
#include "http_tls.h"
#include "http_transfer.h"

/* Caps on an answer, in bytes: the API's are some hundred */
#define MAX_BODY_SIZE (64 * 1024)
#define MAX_HEADER_SIZE (64 * 1024)

/* A body's first buffer, in bytes */
#define BODY_BUFFER_SIZE 1024

/*
 * libcurl shares its own time-out out among the addresses of a host, and so
 * must know it; ours, which is looked at after what has arrived was taken, is
 * to be the first.
 */
#define CONNECT_SLACK_MS 1000

/* --- callbacks: the answer --- */

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
		transfer->trouble = SENDKIT_TROUBLE_MEMORY;
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
		transfer->trouble = SENDKIT_TROUBLE_TOO_LARGE;
		return 0;
	}
	if (!grow_body(transfer, transfer->body_len + len + 1))
		return 0;
	memcpy(transfer->body + transfer->body_len, data, len);
	transfer->body_len += len;
	transfer->body[transfer->body_len] = '\0';
	return len;
}

/* Keeps a header's value if the line is one of that name, which ends in a colon. */
static void
keep_value(const char *name, const char *line, size_t len, char *value)
{
	size_t		name_len = strlen(name);

	if (len < name_len || pg_strncasecmp(line, name, name_len) != 0)
		return;
	line += name_len;
	len -= name_len;
	while (len > 0 && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len > 0 && (unsigned char) line[len - 1] <= ' ')
		len--;
	len = Min(len, SENDKIT_HEADER_VALUE_SIZE - 1);
	memcpy(value, line, len);
	value[len] = '\0';
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
		transfer->trouble = SENDKIT_TROUBLE_TOO_LARGE;
		return 0;
	}
	/* a status line: what came before belonged to an interim answer */
	if (len > 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		transfer->retry_after[0] = transfer->date[0] = '\0';
		transfer->headers_complete = false;
	}
	else if (len > 0 && (data[0] == '\r' || data[0] == '\n'))
		transfer->headers_complete = true;
	/* CURLINFO_RETRY_AFTER takes a number that overflows for none at all */
	keep_value("retry-after:", data, len, transfer->retry_after);
	keep_value("date:", data, len, transfer->date);
	return len;
}

/* --- callbacks: on the way --- */

/* CURLOPT_RESOLVER_START_FUNCTION */
static int
on_resolve(void *resolver pg_attribute_unused(), void *reserved pg_attribute_unused(),
		   void *arg)
{
	SendkitTransfer *transfer = (SendkitTransfer *) arg;

	transfer->stage = Max(transfer->stage, SENDKIT_STAGE_RESOLVING);
	transfer->common->about_to_resolve();
	return 0;
}

static bool
is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr) >> 24 == 127;
	return address->sa_family == AF_INET6 &&
		IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *) address)->sin6_addr);
}

/* CURLOPT_OPENSOCKETFUNCTION */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose pg_attribute_unused(),
			   struct curl_sockaddr *address)
{
	SendkitTransfer *transfer = (SendkitTransfer *) arg;
	curl_socket_t fd;

	transfer->stage = Max(transfer->stage, SENDKIT_STAGE_CONNECTING);
	/* plain HTTP stays on this machine, wherever "localhost" is said to be */
	if (transfer->common->route->plain && !is_loopback(&address->addr))
		return CURL_SOCKET_BAD;
	fd = sendkit_sockets_open(transfer->common->sockets, address);
	if (fd != CURL_SOCKET_BAD)
		transfer->sockets_opened++;
	else if (transfer->common->sockets->refused)
		transfer->trouble = SENDKIT_TROUBLE_DESCRIPTOR;
	return fd;
}

/* CURLOPT_CLOSESOCKETFUNCTION: may be called long after its transfer is gone */
static int
on_close_socket(void *arg, curl_socket_t fd)
{
	return sendkit_sockets_close((SendkitSockets *) arg, fd);
}

static bool
is_too_late(const SendkitTransfer *transfer)
{
	return transfer->send_before != DT_NOEND &&
		transfer->send_before <= GetCurrentTimestamp();
}

static void
note_sent(SendkitTransfer *transfer, bool http2)
{
	/* connected: whatever went wrong on the way there does not matter now */
	transfer->trouble = SENDKIT_TROUBLE_NONE;
	transfer->stage = SENDKIT_STAGE_SENT;
	transfer->common->about_to_send(transfer, http2);
}

/* Has libcurl written the request? */
static bool
has_sent(CURL *easy)
{
	long		size = 0;

	return curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &size) == CURLE_OK && size > 0;
}

/* CURLOPT_XFERINFOFUNCTION: anything but 0 ends the transfer */
static int
on_progress(void *arg, curl_off_t dltotal pg_attribute_unused(),
			curl_off_t dlnow pg_attribute_unused(), curl_off_t ultotal pg_attribute_unused(),
			curl_off_t ulnow pg_attribute_unused())
{
	SendkitTransfer *transfer = (SendkitTransfer *) arg;

	/* an old libcurl calls before it reads what may have come meanwhile */
	if (transfer->is_first && sendkit_curl_sends_at_once() && has_sent(transfer->easy))
	{
		sendkit_sockets_note_first(transfer->common->sockets, transfer->local_port);
		transfer->is_first = false;
	}

	if (transfer->common->must_come_home(sendkit_transfer_deadline(transfer)))
		transfer->trouble = SENDKIT_TROUBLE_INTERRUPTED;
	else if (transfer->stage < SENDKIT_STAGE_SENT &&
			 !sendkit_curl_asks_before_sending() && is_too_late(transfer))
		transfer->trouble = SENDKIT_TROUBLE_TOO_LATE;
	else
		return 0;
	return 1;
}

/* May the connection that the transfer is about to use carry its request? */
static bool
connection_is_usable(const SendkitTransfer *transfer, const SendkitTls *tls, int local_port)
{
	const SendkitTransferCommon *common = transfer->common;

	/* just made for it: there was no answer before */
	if (transfer->sockets_opened > 0)
		return true;
	if (tls && sendkit_tls_speaks_http2(tls))
		return !sendkit_sockets_have_ended(common->sockets, local_port);
	/* bytes could wait inside the TLS to the proxy, where nobody can look */
	if (common->route->tls_to_proxy)
		return false;
	if (!common->route->plain && (tls == NULL || sendkit_tls_holds_bytes(tls)))
		return false;
	return sendkit_sockets_are_quiet(common->sockets, local_port);
}

/* Does a new connection go past the proxy that there is for it? */
static bool
bypasses_proxy(const SendkitTransfer *transfer)
{
	const SendkitRoute *route = transfer->common->route;

	return transfer->sockets_opened > 0 && !route->plain && route->proxy[0] != '\0' &&
		sendkit_curl_bypasses_proxy(transfer->easy);
}

/* CURLOPT_PREREQFUNCTION: connected, and about to send */
static int
on_about_to_send(void *arg, char *peer_ip pg_attribute_unused(),
				 char *local_ip pg_attribute_unused(),
				 int peer_port pg_attribute_unused(), int local_port)
{
	SendkitTransfer *transfer = (SendkitTransfer *) arg;
	const SendkitTls *tls;
	bool		http2;

	tls = sendkit_tls_of(transfer->easy);
	http2 = tls && sendkit_tls_speaks_http2(tls);
	if (http2 && transfer->sockets_opened > 0)
		sendkit_sockets_note_http2(transfer->common->sockets, local_port);
	if (transfer->stage == SENDKIT_STAGE_SENT)
	{
		/* libcurl would send it again: see above for what that proves */
		transfer->trouble = http2 && sendkit_curl_has_rtsp() ?
			SENDKIT_TROUBLE_REFUSED : SENDKIT_TROUBLE_LOST;
		return CURL_PREREQFUNC_ABORT;
	}

	if (bypasses_proxy(transfer))
		transfer->trouble = SENDKIT_TROUBLE_BYPASS;
	else if (!connection_is_usable(transfer, tls, local_port))
		transfer->trouble = SENDKIT_TROUBLE_STALE;
	else if (is_too_late(transfer))
		transfer->trouble = SENDKIT_TROUBLE_TOO_LATE;
	else if (transfer->probe)
		sendkit_probe_ready(transfer->easy, http2, transfer->probe);
	else
	{
		transfer->local_port = local_port;
		transfer->is_first = http2 && transfer->sockets_opened > 0;
		note_sent(transfer, http2);
		return CURL_PREREQFUNC_OK;
	}
	/* else libcurl keeps the connection, for the next to meet */
	(void) curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L);
	return CURL_PREREQFUNC_ABORT;
}

/* CURLOPT_DEBUGFUNCTION, of a libcurl that does not ask before it sends */
static int
on_debug(CURL *easy pg_attribute_unused(), curl_infotype type, char *data, size_t size,
		 void *arg)
{
	static const char to_proxy[] = "CONNECT ";
	SendkitTransfer *transfer = (SendkitTransfer *) arg;

	if (type == CURLINFO_HEADER_OUT && transfer->stage < SENDKIT_STAGE_SENT &&
		(size < sizeof(to_proxy) - 1 || memcmp(data, to_proxy, sizeof(to_proxy) - 1) != 0))
		note_sent(transfer, false);
	return 0;
}

/* --- options --- */

/*
 * DELETE is all that is ever asked for.  Whatever the environment or a server
 * may suggest, libcurl is to do this only.
 */
static bool
set_request_options(CURL *easy, SendkitCurlFault *fault)
{
	SETOPT(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
	SETOPT(easy, CURLOPT_NOSIGNAL, 1L);
	SETOPT(easy, CURLOPT_FOLLOWLOCATION, 0L);
	SETOPT(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SETOPT(easy, CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE);
	/* not repeated for a lost connection: see above */
	if (sendkit_curl_has_rtsp())
		SETOPT(easy, CURLOPT_RTSP_REQUEST, (long) CURL_RTSPREQ_RECEIVE);
	return true;
}

static bool
set_sending_callback(CURL *easy, SendkitTransfer *transfer, SendkitCurlFault *fault)
{
	if (sendkit_curl_asks_before_sending())
	{
		fault->option = "CURLOPT_PREREQFUNCTION";
		fault->code = sendkit_curl_ask_before_sending(easy, on_about_to_send, transfer);
		return fault->code == CURLE_OK;
	}
	SETOPT(easy, CURLOPT_DEBUGFUNCTION, on_debug);
	SETOPT(easy, CURLOPT_DEBUGDATA, transfer);
	SETOPT(easy, CURLOPT_VERBOSE, 1L);
	/* a probe ends when it is connected, and with CURLE_OK */
	SETOPT(easy, CURLOPT_CONNECT_ONLY, transfer->probe ? 1L : 0L);
	return true;
}

static bool
set_callbacks(CURL *easy, SendkitTransfer *transfer, SendkitCurlFault *fault)
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
	SETOPT(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
	SETOPT(easy, CURLOPT_XFERINFODATA, transfer);
	SETOPT(easy, CURLOPT_NOPROGRESS, 0L);
	return set_sending_callback(easy, transfer, fault);
}

static bool
set_connection_options(CURL *easy, const SendkitTransfer *transfer, SendkitCurlFault *fault)
{
	int64		timeout_ms = transfer->connect_timeout_ms + CONNECT_SLACK_MS;

	fault->option = "CURLOPT_QUICK_EXIT";
	fault->code = sendkit_curl_easy_can_quick_exit() ?
		sendkit_curl_easy_quick_exit(easy) : CURLE_OK;
	if (fault->code != CURLE_OK)
		return false;
	SETOPT(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) timeout_ms);
	SETOPT(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	SETOPT(easy, CURLOPT_MAXAGE_CONN, transfer->common->max_idle_s);
	if (!sendkit_route_keeps_connections(transfer->common->route))
	{
		SETOPT(easy, CURLOPT_FRESH_CONNECT, 1L);
		SETOPT(easy, CURLOPT_FORBID_REUSE, 1L);
	}
	return true;
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

static bool
set_options(SendkitTransfer *transfer, const SendkitHttpRequest *request,
			const char *target, SendkitCurlFault *fault)
{
	CURL	   *easy = transfer->easy;

	link_headers(transfer->headers, request->headers);
	SETOPT(easy, CURLOPT_HTTPHEADER, transfer->headers);
	SETOPT(easy, CURLOPT_REQUEST_TARGET, target);
	return set_request_options(easy, fault) &&
		set_connection_options(easy, transfer, fault) &&
		sendkit_route_set_options(transfer->common->route, easy, fault) &&
		set_callbacks(easy, transfer, fault) &&
		(transfer->probe == NULL ||
		 sendkit_probe_set_options(easy, transfer->probe, fault));
}

/* --- a transfer's life --- */

/*
 * Returns a transfer for a request whose target is given in full, to be freed;
 * or NULL, with *fault telling why.
 */
SendkitTransfer *
sendkit_transfer_new(const SendkitTransferCommon *common, const SendkitHttpRequest *request,
					 const char *target, SendkitCurlFault *fault)
{
	SendkitTransfer *transfer = calloc(1, sizeof(SendkitTransfer));
	int64		now = sendkit_clock_now();

	fault->option = NULL;
	fault->code = CURLE_OUT_OF_MEMORY;
	if (transfer == NULL)
		return NULL;
	transfer->common = common;
	transfer->tag = request->tag;
	transfer->probe = request->probe;
	transfer->send_before = request->send_before;
	transfer->connect_timeout_ms = request->connect_timeout_ms;
	transfer->leave_by = now + request->connect_timeout_ms;
	transfer->answer_by = now + request->timeout_ms;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL || !grow_body(transfer, 1) ||
		!set_options(transfer, request, target, fault))
	{
		sendkit_transfer_free(transfer);
		return NULL;
	}
	transfer->body[0] = '\0';
	return transfer;
}

/* Frees a transfer that is in no multi handle, also one half built. */
void
sendkit_transfer_free(SendkitTransfer *transfer)
{
	if (transfer->easy)
		curl_easy_cleanup(transfer->easy);
	free(transfer->body);
	free(transfer);
}

/* The transfer that an easy handle belongs to */
SendkitTransfer *
sendkit_transfer_of(CURL *easy)
{
	SendkitTransfer *transfer = NULL;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &transfer);
	Assert(transfer != NULL);
	return transfer;
}

/* When it is to be given up as it stands, by sendkit_clock_now() */
int64
sendkit_transfer_deadline(const SendkitTransfer *transfer)
{
	return transfer->stage == SENDKIT_STAGE_SENT ?
		transfer->answer_by : Min(transfer->leave_by, transfer->answer_by);
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

/* What became of a request that has left */
static SendkitHttpFailure
failure_of_sent(const SendkitTransfer *transfer, CURLcode code)
{
	if (transfer->trouble == SENDKIT_TROUBLE_REFUSED)
		return SENDKIT_HTTP_REFUSED;
	if (transfer->trouble == SENDKIT_TROUBLE_TOO_LARGE)
		return SENDKIT_HTTP_TOO_LARGE;
	/* libcurl lets an HTTP/1 answer pass that ends within its headers */
	if (code == CURLE_OK && transfer->headers_complete)
		return SENDKIT_HTTP_OK;
	return SENDKIT_HTTP_NO_ANSWER;
}

static SendkitHttpFailure
failure_of(const SendkitTransfer *transfer, CURLcode code)
{
	if (transfer->stage == SENDKIT_STAGE_SENT)
		return failure_of_sent(transfer, code);
	if (transfer->trouble == SENDKIT_TROUBLE_STALE)
		return SENDKIT_HTTP_STALE;
	if (transfer->trouble == SENDKIT_TROUBLE_TOO_LATE)
		return SENDKIT_HTTP_TOO_LATE;
	return is_tls_failure(code) ? SENDKIT_HTTP_NOT_TRUSTED : SENDKIT_HTTP_NOT_CONNECTED;
}

static const char *
error_words(const SendkitTransfer *transfer, CURLcode code)
{
	switch (transfer->trouble)
	{
		case SENDKIT_TROUBLE_MEMORY:
			return "out of memory";
		case SENDKIT_TROUBLE_DESCRIPTOR:
			return transfer->common->sockets->refused;
		case SENDKIT_TROUBLE_BYPASS:
			return "libcurl does not use the proxy";
		case SENDKIT_TROUBLE_REFUSED:
			return "The server refused to process the request";
		case SENDKIT_TROUBLE_INTERRUPTED:
			return "The peer sent endlessly without answering";
		default:
			break;
	}
	if (transfer->trouble == SENDKIT_TROUBLE_LOST || code == CURLE_OK)
		return "The connection ended before a whole answer came";
	if (transfer->error[0] != '\0')
		return transfer->error;
	return curl_easy_strerror(code);
}

static void
fill_result(SendkitTransfer *transfer, SendkitHttpResult *result)
{
	long		status = 0;

	if (transfer->probe)
		sendkit_probe_end(transfer->easy, transfer->common->route, transfer->probe);
	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	result->tag = transfer->tag;
	/* an interim answer is none */
	result->status = status >= 200 ? (int) status : 0;
	result->body = transfer->body;
	result->body_len = transfer->body_len;
	result->retry_after = transfer->retry_after[0] != '\0' ? transfer->retry_after : NULL;
	result->date = transfer->date[0] != '\0' ? transfer->date : NULL;
}

/*
 * Fills in how a transfer ended that libcurl is done with, by libcurl's code for
 * it.  Strings belong to the transfer.
 */
void
sendkit_transfer_finish(SendkitTransfer *transfer, CURLcode code,
						SendkitHttpResult *result)
{
	if (transfer->probe && code == CURLE_OK)
		sendkit_probe_ready(transfer->easy, false, transfer->probe);
	fill_result(transfer, result);
	result->failure = failure_of(transfer, code);
	transfer->answered = result->failure == SENDKIT_HTTP_OK;
	result->error = error_words(transfer, code);
}

/* The same for one that is given up, since its deadline has passed. */
void
sendkit_transfer_expire(SendkitTransfer *transfer, SendkitHttpResult *result)
{
	const char *what = transfer->stage <= SENDKIT_STAGE_RESOLVING ?
		"The host's name was not resolved" : "No connection was established";

	fill_result(transfer, result);
	result->failure = transfer->stage == SENDKIT_STAGE_SENT ?
		SENDKIT_HTTP_TIMED_OUT : SENDKIT_HTTP_NOT_CONNECTED;
	snprintf(transfer->error, sizeof(transfer->error), "%s within " INT64_FORMAT " ms",
			 what, transfer->connect_timeout_ms);
	result->error = transfer->error;
}
