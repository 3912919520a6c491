/*-------------------------------------------------------------------------
 *
 * check_credential.c
 *	  The step of sendkit_check() that is about the stored key.
 *
 * A key is looked for as a call would, and what is told of it is where it was
 * and what it begins with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"

#include "check.h"
#include "credential.h"

static const char *
name_source(const SendkitCredential *credential)
{
	switch (credential->source)
	{
		case SENDKIT_KEY_OF_ARGUMENT:
			break;
		case SENDKIT_KEY_OF_ROLE:
			return "its own user mapping";
		case SENDKIT_KEY_OF_PUBLIC:
			return "PUBLIC's user mapping";
		case SENDKIT_KEY_OF_FILE:
			return "the file that sendkit.platform_key_file names";
	}
	return "an argument";
}

SendkitStepResult
sendkit_check_key_of(SendkitCheck *check, Oid role, StringInfo detail)
{
	SendkitCredential credential;
	volatile bool is_likely = false;

	PG_TRY();
	{
		sendkit_credential_find(&credential, check->extension, role);
		is_likely = sendkit_platform_key_is_likely(credential.key);
	}
	PG_FINALLY();
	{
		explicit_bzero(credential.key, sizeof(credential.key));
	}
	PG_END_TRY();

	appendStringInfo(detail, "role \"%s\" uses the key in %s",
					 GetUserNameFromId(role, false), name_source(&credential));
	if (!is_likely)
		appendStringInfoString(detail, ", which the API is likely to reject: platform keys begin with \"sk_user_\"");
	return is_likely ? SENDKIT_STEP_RIGHT : SENDKIT_STEP_WRONG;
}

SendkitStepResult
sendkit_check_credential(SendkitCheck *check, StringInfo detail)
{
	return sendkit_check_key_of(check, GetUserId(), detail);
}
