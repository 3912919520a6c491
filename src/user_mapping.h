/*-------------------------------------------------------------------------
 *
 * user_mapping.h
 *	  Platform keys in user mappings on the foreign server "sendkit".
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_USER_MAPPING_H
#define SENDKIT_USER_MAPPING_H

#include "platform_key.h"

/* The names that users write in CREATE SERVER and CREATE USER MAPPING */
#define SENDKIT_SERVER_NAME "sendkit"
#define SENDKIT_KEY_OPTION "platform_key"

/* A stored key; to be wiped by who has it */
typedef struct SendkitStoredKey
{
	bool		of_public;		/* it is PUBLIC's, not the role's own */
	char		key[SENDKIT_MAX_KEY_LENGTH + 1];
} SendkitStoredKey;

extern bool sendkit_user_mapping_find(Oid role, SendkitStoredKey *stored);

#endif							/* SENDKIT_USER_MAPPING_H */
