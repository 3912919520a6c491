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

/*
 * Takes JSON that sendkit_response_parse() has accepted, in UTF-8.  Returns
 * palloc'd JSON in the database's encoding that jsonb's input function accepts
 * whatever it was made from, with no control characters and no keys in its
 * texts.  Returns NULL if it is no JSON after all.  Raises nothing but out of
 * memory.
 */
extern char *sendkit_details_json(const SendkitTextConverter *converter,
								  const char *json, const char *platform_key);

#endif							/* SENDKIT_DETAILS_H */
