/*-------------------------------------------------------------------------
 *
 * http_setopt.h
 *	  How the transport's own files set libcurl's options.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_SETOPT_H
#define SENDKIT_HTTP_SETOPT_H

#include <curl/curl.h>

/* Why libcurl could not be made ready */
typedef struct SendkitCurlFault
{
	const char *option;			/* as libcurl calls it; NULL: no option's
								 * fault */
	CURLcode	code;
} SendkitCurlFault;

/*
 * Sets an option within a function that returns whether it could, and has a
 * SendkitCurlFault *fault to tell what it could not.
 */
#define SETOPT(easy, name, value) \
	do { \
		fault->option = #name; \
		fault->code = curl_easy_setopt((easy), (name), (value)); \
		if (fault->code != CURLE_OK) \
			return false; \
	} while (0)

#endif							/* SENDKIT_HTTP_SETOPT_H */
