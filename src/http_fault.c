/*-------------------------------------------------------------------------
 *
 * http_fault.c
 *	  What the transport says when it cannot work at all.
 *
 * These are raised before anything was sent, outside of libcurl.  None of them
 * shows the statement, which may hold a key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "curl_compat.h"
#include "http_fault.h"

/* Raises 53200. */
void
sendkit_http_report_out_of_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errhidestmt(true), errhidecontext(true)));
}

/* Raises 0A000 for an option that libcurl does not take, 53200 if it wants memory. */
void
sendkit_http_report_curl_fault(const SendkitCurlFault *fault)
{
	if (fault->code == CURLE_OUT_OF_MEMORY || fault->option == NULL)
		sendkit_http_report_out_of_memory();
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("libcurl %s cannot be used: it does not take the option %s: %s",
					curl_version_info(CURLVERSION_NOW)->version,
					fault->option, curl_easy_strerror(fault->code)),
			 errdetail("Nothing was sent to the SendKit API."),
			 errhidestmt(true), errhidecontext(true)));
}

/* Raises 53000.  The limit is said in words. */
void
sendkit_http_report_no_descriptor(const char *limit)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not connect to the SendKit API: %s", limit),
			 errdetail("Nothing was sent to the SendKit API."),
			 errhint("Raise the limit, or close what else the session holds open, such as connections to other servers."),
			 errhidestmt(true), errhidecontext(true)));
}
