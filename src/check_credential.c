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

/*
 * Appends where a role's stored key is.  Returns SENDKIT_STEP_UNKNOWN if it has
 * none: whether it needs one is for the caller to say.  Raises what
 * sendkit_credential_look() raises.
 */
SendkitStepResult
sendkit_check_key_of(const SendkitCheck *check, Oid role, StringInfo detail)
{
	SendkitCredential credential;
	volatile bool is_there = false;
	volatile bool is_likely = false;

	PG_TRY();
	{
		is_there = sendkit_credential_look(&credential, check->extension, role);
		is_likely = is_there && sendkit_platform_key_is_likely(credential.key);
	}
	PG_FINALLY();
	{
		explicit_bzero(credential.key, sizeof(credential.key));
	}
	PG_END_TRY();

	appendStringInfo(detail, "role \"%s\" ", GetUserNameFromId(role, false));
	if (!is_there)
	{
		appendStringInfoString(detail, "has no stored key");
		return SENDKIT_STEP_UNKNOWN;
	}
	appendStringInfo(detail, "uses the key in %s", name_source(&credential));
	if (!is_likely)
		appendStringInfoString(detail, ", which the API is likely to reject: platform keys begin with \"sk_user_\"");
	return is_likely ? SENDKIT_STEP_RIGHT : SENDKIT_STEP_WRONG;
}

/* The key that a call of the current role would use */
SendkitStepResult
sendkit_check_credential(SendkitCheck *check, StringInfo detail)
{
	SendkitStepResult result = sendkit_check_key_of(check, GetUserId(), detail);

	if (result == SENDKIT_STEP_UNKNOWN)
		appendStringInfoString(detail, ": a call works if it is given one");
	return result;
}
