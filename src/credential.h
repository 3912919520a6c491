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
extern void sendkit_credential_take(SendkitCredential *credential, text *argument);
extern bool sendkit_credential_look(SendkitCredential *credential, Oid extension, Oid role);
extern void sendkit_credential_find(SendkitCredential *credential, Oid extension, Oid role);
extern void sendkit_credential_wipe(SendkitCredential *credential);

#endif							/* SENDKIT_CREDENTIAL_H */
