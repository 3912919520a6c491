/*-------------------------------------------------------------------------
 *
 * details.h
 *	  The API's "details" as JSON that can be stored.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_DETAILS_H
#define SENDKIT_DETAILS_H

#include "text.h"

extern char *sendkit_details_json(const SendkitTextConverter *converter,
								  const char *json, const char *platform_key);

#endif							/* SENDKIT_DETAILS_H */
