/*-------------------------------------------------------------------------
 *
 * http_fault.h
 *	  What the transport says when it cannot work at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_FAULT_H
#define SENDKIT_HTTP_FAULT_H

#include "http_setopt.h"

extern void sendkit_http_report_out_of_memory(void);
extern void sendkit_http_report_curl_fault(const SendkitCurlFault *fault);
extern void sendkit_http_report_no_descriptor(const char *limit);

#endif							/* SENDKIT_HTTP_FAULT_H */
