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

/* Where a key was found */
typedef enum SendkitKeySource
{
	SENDKIT_KEY_OF_ARGUMENT,
	SENDKIT_KEY_OF_ROLE,		/* the role's own user mapping */
	SENDKIT_KEY_OF_PUBLIC,		/* PUBLIC's user mapping */
	SENDKIT_KEY_OF_FILE,
} SendkitKeySource;

typedef struct SendkitCredential
{
	SendkitKeySource source;
	char		key[SENDKIT_MAX_KEY_LENGTH + 1];
} SendkitCredential;

/*
 * A credential is to be wiped by its owner when it has been used, and also when
 * one of these has raised an error.
 */

/* Takes a key that was given.  Raises 22023 if it cannot be sent. */
extern void sendkit_credential_take(SendkitCredential *credential, text *argument);

/*
 * Finds a role's stored key: in its user mapping on server "sendkit", or else in
 * the file that a setting names.  Takes the extension's OID (extension.h).  Raises 28000 if there is none, 55000 if this database is
 * a copy, 42501 if there is a mapping but the role has no USAGE on the server,
 * F0000 or a file access error for a file that may not or cannot be used, and
 * what home.h says.  Never shows a key.
 */
extern void sendkit_credential_find(SendkitCredential *credential, Oid extension, Oid role);

/* Overwrites the key.  Cannot raise an error. */
extern void sendkit_credential_wipe(SendkitCredential *credential);

#endif							/* SENDKIT_CREDENTIAL_H */
