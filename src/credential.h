/*-------------------------------------------------------------------------
 *
 * credential.h
 *	  The platform key that a call uses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_CREDENTIAL_H
#define SENDKIT_CREDENTIAL_H

#include "platform_key.h"

typedef struct SendkitCredential
{
	char		key[SENDKIT_MAX_KEY_LENGTH + 1];
} SendkitCredential;

/*
 * Finds the key to use: the one given as an argument or, if that is the null
 * pointer, the current role's user mapping on server "sendkit", or the file
 * that a setting names.  Raises 22023 for an argument that cannot be sent,
 * 42501 if a mapping exists but the role has no USAGE on the server, F0000 or
 * a file access error for a file that may not or cannot be used, and 28000 if
 * there is no key at all.  Never shows a key.
 */
extern void sendkit_credential_find(SendkitCredential *credential, text *argument);

/* Overwrites the key.  Cannot raise an error. */
extern void sendkit_credential_wipe(SendkitCredential *credential);

#endif							/* SENDKIT_CREDENTIAL_H */
