/*-------------------------------------------------------------------------
 *
 * check_way.c
 *	  The steps of sendkit_check() that are about the way to the API.
 *
 * The way is gone once, by a request that is ended when it is about to leave
 * (http_probe.c).  The steps then look at how far it came, and what it has
 * found.  No key goes with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "check.h"
#include "guc.h"
#include "http.h"
#include "url.h"

/* More of what libcurl or a certificate says is not shown, in bytes */
#define MAX_WORDS 500

/* Words of libcurl's, or of the certificate's */
static char *
to_show(const SendkitCheck *check, const char *words)
{
	return sendkit_text_to_show(&check->converter, words, "", MAX_WORDS);
}

/* Tries the way, and keeps what was found. */
static void
probe(SendkitCheck *check)
{
	static const char *const headers[] = {"Accept: application/json", NULL};
	SendkitHttpEndpoint endpoint = {sendkit_base_url, sendkit_ca_file, sendkit_proxy};
	SendkitHttpRequest request = {
		.path = "/",
		.headers = headers,
		.connect_timeout_ms = Min(sendkit_connect_timeout, sendkit_request_timeout),
		.timeout_ms = sendkit_request_timeout,
		.send_before = DT_NOEND,
		.probe = &check->probe,
	};
	SendkitHttpResult result;

	sendkit_http_check_not_busy();
	PG_TRY();
	{
		sendkit_http_begin(&endpoint, 1);
		(void) sendkit_http_send(&request);
		while (!sendkit_http_receive(-1, &result, NULL))
			;
		check->probe_error = MemoryContextStrdup(check->context, to_show(check, result.error));
	}
	PG_FINALLY();
	{
		sendkit_http_end();
	}
	PG_END_TRY();
}

static bool
has_proxy(void)
{
	return sendkit_proxy[0] != '\0' && !sendkit_url_is_plain(sendkit_base_url);
}

/*
 * Judges a step of the way.  Returns SENDKIT_STEP_WRONG, and why, if it was begun but
 * not done.
 */
static SendkitStepResult
judge_leg(const SendkitCheck *check, bool begun, bool done, StringInfo detail)
{
	if (check->probe_error == NULL || !begun)
	{
		appendStringInfoString(detail, "not tried");
		return SENDKIT_STEP_UNKNOWN;
	}
	if (!done)
	{
		appendStringInfoString(detail, check->probe_error);
		return SENDKIT_STEP_WRONG;
	}
	return SENDKIT_STEP_RIGHT;
}

static double
in_ms(int64 us)
{
	return us / 1000.0;
}

/* Is the name known, the proxy's if there is one?  Tries the way for all that follow. */
SendkitStepResult
sendkit_check_name(SendkitCheck *check, StringInfo detail)
{
	SendkitStepResult result;

	if (check->settings_hold)
		probe(check);
	result = judge_leg(check, true, check->probe.resolved_us > 0, detail);
	if (result == SENDKIT_STEP_RIGHT)
		appendStringInfo(detail, "the %s's, resolved after %.1f ms",
						 has_proxy() ? "proxy" : "API", in_ms(check->probe.resolved_us));
	return result;
}

/* Is there a TCP connection? */
SendkitStepResult
sendkit_check_connection(SendkitCheck *check, StringInfo detail)
{
	const SendkitHttpProbe *found = &check->probe;
	SendkitStepResult result = judge_leg(check, found->resolved_us > 0, found->connected, detail);

	if (result == SENDKIT_STEP_RIGHT)
		appendStringInfo(detail, "to %s port %d", found->address, found->port);
	return result;
}

/* Has the proxy, if there is one, let us through? */
static bool
is_past_proxy(const SendkitHttpProbe *found)
{
	if (!found->connected)
		return false;
	if (!has_proxy() || found->ready)
		return true;
	/* a SOCKS proxy has no status, and no TLS of its own */
	return found->proxy_status == 0 ? found->shaking_hands : found->proxy_status / 100 == 2;
}

/* Does the proxy let us through, if there is one? */
SendkitStepResult
sendkit_check_proxy(SendkitCheck *check, StringInfo detail)
{
	const SendkitHttpProbe *found = &check->probe;
	SendkitStepResult result = judge_leg(check, found->connected, is_past_proxy(found), detail);

	if (result == SENDKIT_STEP_RIGHT)
		appendStringInfoString(detail, has_proxy() ? "it lets us through" : "there is none");
	return result;
}

/* Is the certificate one that is trusted? */
SendkitStepResult
sendkit_check_tls(SendkitCheck *check, StringInfo detail)
{
	const SendkitHttpProbe *found = &check->probe;
	SendkitStepResult result = judge_leg(check, is_past_proxy(found), found->ready, detail);

	if (result == SENDKIT_STEP_WRONG)
		appendStringInfo(detail, "; trusted are the authorities in %s", found->trust);
	else if (result == SENDKIT_STEP_RIGHT && sendkit_url_is_plain(sendkit_base_url))
		appendStringInfoString(detail, "none: plain HTTP stays on this machine");
	else if (result == SENDKIT_STEP_RIGHT)
		appendStringInfo(detail, "%s; certificate expires %s, is issued by %s, trusted by %s",
						 found->tls, found->expires,
						 to_show(check, found->issuer), found->trust);
	return result;
}

/* Which HTTP does the server speak? */
SendkitStepResult
sendkit_check_protocol(SendkitCheck *check, StringInfo detail)
{
	SendkitStepResult result = judge_leg(check, check->probe.ready, true, detail);

	if (result == SENDKIT_STEP_RIGHT)
		appendStringInfoString(detail, check->probe.http2 ? "HTTP/2" : "HTTP/1.1");
	return result;
}

/* How long does it take? */
SendkitStepResult
sendkit_check_round_trip(SendkitCheck *check, StringInfo detail)
{
	const SendkitHttpProbe *found = &check->probe;
	SendkitStepResult result = judge_leg(check, found->ready, true, detail);

	if (result == SENDKIT_STEP_RIGHT)
		appendStringInfo(detail, "%.1f ms to the %s and back; connected, and ready to send, after %.1f ms",
						 in_ms(found->round_trip_us), has_proxy() ? "proxy" : "API",
						 in_ms(found->ready_us));
	return result;
}
