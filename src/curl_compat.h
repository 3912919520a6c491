/*-------------------------------------------------------------------------
 *
 * curl_compat.h
 *	  Every gate on a version of libcurl.
 *
 * Supported is libcurl from 7.76.  The library met at run time may be another one
 * than the headers: abilities are asked of both.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_CURL_COMPAT_H
#define SENDKIT_CURL_COMPAT_H

#include <curl/curl.h>

#if LIBCURL_VERSION_NUM < 0x074c00
#error "sendkit needs libcurl 7.76.0 or later"
#endif

/* The oldest libcurl that the library may meet at run time, as curl_version_info() counts */
#define SENDKIT_MIN_LIBCURL 0x074c00

/* The version that is there at run time.  To ask libcurl is dear: a tenth of a warm call. */
static inline unsigned int
sendkit_curl_version(void)
{
	static unsigned int version = 0;

	if (version == 0)
		version = curl_version_info(CURLVERSION_NOW)->version_num;
	return version;
}

/*
 * Does libcurl call back when a request is about to leave, and let it be stopped
 * then?  From 7.80 on, by CURLOPT_PREREQFUNCTION.
 */
static inline bool
sendkit_curl_asks_before_sending(void)
{
#if LIBCURL_VERSION_NUM >= 0x075000
	return sendkit_curl_version() >= 0x075000;
#else
	return false;
#endif
}

#if LIBCURL_VERSION_NUM < 0x075000
#define CURL_PREREQFUNC_OK 0
#define CURL_PREREQFUNC_ABORT 1
#endif

typedef int (*sendkit_curl_prereq) (void *arg, char *peer_ip, char *local_ip,
									int peer_port, int local_port);

static inline CURLcode
sendkit_curl_ask_before_sending(CURL *easy pg_attribute_unused(),
								sendkit_curl_prereq ask pg_attribute_unused(),
								void *arg pg_attribute_unused())
{
#if LIBCURL_VERSION_NUM >= 0x075000
	CURLcode	result = curl_easy_setopt(easy, CURLOPT_PREREQDATA, arg);

	return result == CURLE_OK ? curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, ask) : result;
#else
	return CURLE_UNKNOWN_OPTION;
#endif
}

/* Using an option that newer headers call deprecated, for the sake of older libraries */
#ifdef CURL_IGNORE_DEPRECATION
#define SENDKIT_CURL_DEPRECATED(expression) CURL_IGNORE_DEPRECATION(expression;)
#else
#define SENDKIT_CURL_DEPRECATED(expression) expression
#endif

/*
 * Restricts a handle to plain HTTP, or to HTTPS.  7.85 takes protocols by name;
 * the library met at run time may be older than the headers.
 */
static inline CURLcode
sendkit_curl_set_protocol(CURL *easy, bool plain)
{
	CURLcode	result;

#if LIBCURL_VERSION_NUM >= 0x075500
	if (sendkit_curl_version() >= 0x075500)
		return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, plain ? "http" : "https");
#endif
	SENDKIT_CURL_DEPRECATED(result = curl_easy_setopt(easy, CURLOPT_PROTOCOLS,
													  (long) (plain ? CURLPROTO_HTTP : CURLPROTO_HTTPS)));
	return result;
}

/*
 * May a handle be removed while getaddrinfo() hangs in its resolver thread,
 * without waiting for that thread?  From 7.87 on an easy handle can be told
 * so, from 8.20 on the multi handle; before, a deadline comes no sooner than
 * the thread ends, and a cancel abandons the handle.  The library met at run
 * time decides, not only the headers.
 */
static inline bool
sendkit_curl_easy_can_quick_exit(void)
{
#if LIBCURL_VERSION_NUM >= 0x075700
	return sendkit_curl_version() >= 0x075700 && sendkit_curl_version() < 0x081400;
#else
	return false;
#endif
}

/*
 * Does the handle's new connection go past the proxy that is set?  No, if it
 * cannot be told: 8.7 and later tell.
 */
static inline bool
sendkit_curl_bypasses_proxy(CURL *easy pg_attribute_unused())
{
#if LIBCURL_VERSION_NUM >= 0x080700
	long		used = 0;

	return curl_easy_getinfo(easy, CURLINFO_USED_PROXY, &used) == CURLE_OK && used == 0;
#else
	return false;
#endif
}

/*
 * Does the kernel have what libcurl counts as sent by HTTP/2?  8.0 and later may
 * still hold it back.
 */
static inline bool
sendkit_curl_sends_at_once(void)
{
	return sendkit_curl_version() < 0x080000;
}

/*
 * Does libcurl take its time to end a connection in good order, bit by bit when it
 * is entered?  From 8.10 on.
 */
static inline bool
sendkit_curl_takes_time_to_end(void)
{
	return sendkit_curl_version() >= 0x080a00;
}

/*
 * Was libcurl built with RTSP?  Some distributions' minimal one was not, and
 * does not know its options.
 */
static inline bool
sendkit_curl_has_rtsp(void)
{
	static int	answer = -1;

	if (answer < 0)
	{
		const char *const *protocol = curl_version_info(CURLVERSION_NOW)->protocols;

		while (*protocol && strcmp(*protocol, "rtsp") != 0)
			protocol++;
		answer = (*protocol != NULL);
	}
	return answer;
}

/* ... with HTTP/2? */
static inline bool
sendkit_curl_has_http2(void)
{
	static int	answer = -1;

	if (answer < 0)
		answer = (curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_HTTP2) != 0;
	return answer;
}

/*
 * May libcurl start a resolver thread later than it says that it is about to
 * resolve?  From 8.20 on it queues what a thread is to do.
 */
static inline bool
sendkit_curl_starts_threads_unannounced(void)
{
	return sendkit_curl_version() >= 0x081400;
}

/*
 * Does libcurl put a built-in default back in the place of an option that was
 * set to NULL?  8.22 does so for where certificates are; the change came with
 * 8.17, and 8.23 is without it.
 */
static inline bool
sendkit_curl_restores_defaults(void)
{
	return sendkit_curl_version() >= 0x081100 && sendkit_curl_version() < 0x081700;
}

/*
 * 7.87: certificates that were read are kept, by some TLS backends.  What does
 * not keep them needs no limit.
 */
static inline void
sendkit_curl_limit_ca_cache(CURL *easy pg_attribute_unused(), long seconds pg_attribute_unused())
{
#if LIBCURL_VERSION_NUM >= 0x075700
	if (sendkit_curl_version() >= 0x075700)
		(void) curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, seconds);
#endif
}

static inline CURLcode
sendkit_curl_easy_quick_exit(CURL *easy pg_attribute_unused())
{
#if LIBCURL_VERSION_NUM >= 0x075700
	return curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#else
	return CURLE_UNKNOWN_OPTION;
#endif
}

static inline bool
sendkit_curl_multi_can_quick_exit(void)
{
#if LIBCURL_VERSION_NUM >= 0x081400
	return sendkit_curl_version() >= 0x081400;
#else
	return false;
#endif
}

static inline CURLMcode
sendkit_curl_multi_quick_exit(CURLM *multi pg_attribute_unused())
{
#if LIBCURL_VERSION_NUM >= 0x081400
	return curl_multi_setopt(multi, CURLMOPT_QUICK_EXIT, 1L);
#else
	return CURLM_UNKNOWN_OPTION;
#endif
}

#endif							/* SENDKIT_CURL_COMPAT_H */
