/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every gate on a version of PostgreSQL or libcurl.
 *
 * Supported are PostgreSQL 14 to 19 and libcurl from 7.80, the first whose
 * CURLOPT_PREREQFUNCTION tells when a request is about to leave.  The rest of
 * the code asks for an ability by the name that the newest version gives it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_COMPAT_H
#define SENDKIT_COMPAT_H

#include <curl/curl.h>

#include "catalog/pg_foreign_server.h"
#include "common/jsonapi.h"
#if PG_VERSION_NUM >= 150000
#include "common/pg_prng.h"
#endif
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

#if PG_VERSION_NUM < 140000
#error "sendkit needs PostgreSQL 14 or later"
#endif

#if LIBCURL_VERSION_NUM < 0x075000
#error "sendkit needs libcurl 7.80.0 or later"
#endif

/* The oldest libcurl that the library may meet at run time, as curl_version_info() counts */
#define SENDKIT_MIN_LIBCURL 0x075000

/* --- PostgreSQL 15: guc.h --- */

#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/*
 * PostgreSQL 15: InitMaterializedSRF().  Raises an error if the caller cannot
 * take a set that way.
 */
static inline void
sendkit_begin_rows(FunctionCallInfo fcinfo)
{
#if PG_VERSION_NUM >= 150000
	InitMaterializedSRF(fcinfo, 0);
#else
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;
	TupleDesc	desc;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));

	old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setDesc = desc;
	rsinfo->setResult =
		tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0,
							  false, work_mem);
	MemoryContextSwitchTo(old);
#endif
}

/* PostgreSQL 15: pg_prng.h.  Returns a number from 0 to below 1. */
static inline double
sendkit_random(void)
{
#if PG_VERSION_NUM >= 150000
	return pg_prng_double(&pg_global_prng_state);
#else
	return random() / ((double) MAX_RANDOM_VALUE + 1);
#endif
}

/* --- PostgreSQL 16: the semantic actions of jsonapi.h return an error code --- */

#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType SendkitJsonResult;
#define SENDKIT_JSON_CONTINUE return JSON_SUCCESS
#else
typedef void SendkitJsonResult;
#define SENDKIT_JSON_CONTINUE return
#endif

/*
 * PostgreSQL 17: makeJsonLexContextCstringLen() takes a lexer to fill, or NULL
 * for a new one.
 */
static inline JsonLexContext *
sendkit_json_lexer(char *json, int len, int encoding, bool need_escapes)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, encoding, need_escapes);
#else
	return makeJsonLexContextCstringLen(json, len, encoding, need_escapes);
#endif
}

/*
 * PostgreSQL 17: a WaitEventSet belongs to a resource owner, and to the
 * session without one; before, to a memory context.
 */
static inline WaitEventSet *
sendkit_session_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* PostgreSQL 16: object_aclcheck() instead of one function per kind of object */
static inline AclResult
sendkit_server_aclcheck(Oid server, Oid role, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, server, role, mode);
#else
	return pg_foreign_server_aclcheck(server, role, mode);
#endif
}

/* PostgreSQL 17: wait events with names of an extension's own */
static inline uint32
sendkit_wait_event(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("SendkitRequest");
	return wait_event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* --- libcurl --- */

/* The version that is there at run time; asking libcurl for it is dear. */
static inline unsigned int
sendkit_curl_version(void)
{
	static unsigned int version = 0;

	if (version == 0)
		version = curl_version_info(CURLVERSION_NOW)->version_num;
	return version;
}

/* 7.85: protocols by name */
#if LIBCURL_VERSION_NUM >= 0x075500
#define SENDKIT_CURLOPT_PROTOCOLS CURLOPT_PROTOCOLS_STR
#define SENDKIT_PROTOCOL_HTTP "http"
#define SENDKIT_PROTOCOL_HTTPS "https"
#else
#define SENDKIT_CURLOPT_PROTOCOLS CURLOPT_PROTOCOLS
#define SENDKIT_PROTOCOL_HTTP ((long) CURLPROTO_HTTP)
#define SENDKIT_PROTOCOL_HTTPS ((long) CURLPROTO_HTTPS)
#endif

/*
 * May a handle be removed while getaddrinfo() hangs in its resolver thread,
 * without waiting for that thread?  From 7.87 on an easy handle can be told
 * so, from 8.20 on the multi handle.  The library met at run time decides,
 * not only the headers.
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
 * Does libcurl look whether a connection is alive whenever it is about to use
 * it again?  Newer versions (8.22 does, 8.14 not) skip that for a second after
 * the last look.
 */
static inline bool
sendkit_curl_looks_before_reuse(void)
{
	return sendkit_curl_version() < 0x080f00;
}

/*
 * Does libcurl let TLS read ahead of the answer?  Newer versions do (8.22, but
 * not 8.14): bytes behind an answer then wait where no socket shows them.
 */
static inline bool
sendkit_curl_reads_ahead(void)
{
	return sendkit_curl_version() >= 0x080f00;
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

#endif							/* SENDKIT_COMPAT_H */
