/*-------------------------------------------------------------------------
 *
 * credential.h
 *	  The platform key that a call uses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_CREDENTIAL_H
#define SENDKIT_CREDENTIAL_H

/* The longest platform key that is accepted, in bytes */
#define SENDKIT_MAX_KEY_LENGTH 512

typedef struct SendkitCredential
{
	char		key[SENDKIT_MAX_KEY_LENGTH + 1];
} SendkitCredential;

/*
 * Finds the key to use, which may be given as an argument or be NULL.  Raises
 * 22023 for a key that cannot be sent and 28000 if there is none; never shows
 * a key.
 */
extern void sendkit_credential_find(SendkitCredential *credential, text *argument);

/* Overwrites the key.  Cannot raise an error. */
extern void sendkit_credential_wipe(SendkitCredential *credential);

#endif							/* SENDKIT_CREDENTIAL_H */
