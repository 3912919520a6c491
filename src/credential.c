/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  The platform key that a call uses.
 *
 * A key is held in one place, the caller's SendkitCredential, for as long as
 * the call takes, and wiped then.  No message here says anything about a key
 * but which rule it breaks, and no error lets the statement into the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "credential.h"

/* The hint lists the ways to give a key: keep it in line with the README. */
static void
report_no_key(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("no platform key for role \"%s\"",
					GetUserNameFromId(GetUserId(), false)),
			 errhint("Give the key as the argument \"platform_key\"."),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * Anything but visible ASCII could end the header and begin another one, or be
 * changed on its way.
 */
static const char *
key_fault(const char *key, size_t len)
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

static void
set_key(SendkitCredential *credential, const char *key, size_t len)
{
	const char *fault = key_fault(key, len);

	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid platform key"),
				 errdetail("%s", fault),
				 errhidestmt(true), errhidecontext(true)));
	memcpy(credential->key, key, len);
	credential->key[len] = '\0';
}

void
sendkit_credential_find(SendkitCredential *credential, text *argument)
{
	if (argument == NULL)
		report_no_key();
	set_key(credential, VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument));
}

void
sendkit_credential_wipe(SendkitCredential *credential)
{
	explicit_bzero(credential, sizeof(*credential));
}
