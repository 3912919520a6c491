/*-------------------------------------------------------------------------
 *
 * platform_key.c
 *	  What a platform key may look like.
 *
 * Whether a key is one of SendKit's is for the API to say.  Here it is only
 * about what can be sent as a header without becoming something else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "platform_key.h"

/* Workspace keys lack the "user_" */
#define PLATFORM_KEY_PREFIX SENDKIT_KEY_PREFIX "user_"

/*
 * Returns NULL if a key can be sent, else a whole sentence that says why not,
 * without a character of the key.  Anything but visible ASCII could end the
 * header and begin another one, or be changed on its way.  Cannot raise an error.
 */
const char *
sendkit_platform_key_fault(const char *key, size_t len)
{
	if (len == 0)
		return "The key is empty.";
	if (len > SENDKIT_MAX_KEY_LENGTH)
		return "The key is longer than 512 characters.";
	for (size_t i = 0; i < len; i++)
	{
		if (key[i] < 0x21 || key[i] > 0x7e)
			return "The key contains something other than visible ASCII characters.";
	}
	return NULL;
}

/*
 * Does the key begin as platform keys do, and workspace keys don't?  Cannot
 * raise an error.
 */
bool
sendkit_platform_key_is_likely(const char *key)
{
	return strncmp(key, PLATFORM_KEY_PREFIX, strlen(PLATFORM_KEY_PREFIX)) == 0;
}
