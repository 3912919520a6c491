/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  The platform key that a call uses.
 *
 * A key is held in one place, the caller's SendkitCredential, for as long as
 * the call takes, and wiped then; so is every copy made on the way there.  No
 * message here says anything about a key but which rule it breaks.  That the
 * statement stays out of the log, which may hold one, is the callers' concern
 * (hiding.c).
 *
 * Stored keys are either in a user mapping (user_mapping.c), or in a file that
 * the setting sendkit.platform_key_file names.  The file is read at each use, so
 * that replacing it replaces the key.  All rules about it are checked on the
 * open file, not on its name, which could be pointed elsewhere in between.
 *
 * In a copy of the database, stored keys are refused (home.c): they belong to
 * the original's workspaces.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compat.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "credential.h"
#include "guc.h"
#include "home.h"
#include "user_mapping.h"

/* A file that holds more than this holds something else than a key */
#define MAX_KEY_FILE_SIZE 4096

/* --- as an argument --- */

/* Stores a key that may be used; else returns what is wrong with it. */
static const char *
set_key(SendkitCredential *credential, const char *key, size_t len)
{
	const char *fault = sendkit_platform_key_fault(key, len);

	if (fault == NULL)
	{
		memcpy(credential->key, key, len);
		credential->key[len] = '\0';
	}
	return fault;
}

/* Takes a key that was given.  Raises 22023 if it cannot be sent. */
void
sendkit_credential_take(SendkitCredential *credential, text *argument)
{
	const char *fault = set_key(credential, VARDATA_ANY(argument),
								VARSIZE_ANY_EXHDR(argument));

	credential->source = SENDKIT_KEY_OF_ARGUMENT;
	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid platform key"),
				 errdetail("%s", fault)));
}

/* --- in a user mapping --- */

static bool
find_in_mapping(SendkitCredential *credential, Oid role)
{
	SendkitStoredKey stored;
	bool		found = sendkit_user_mapping_find(role, &stored);

	if (found)
	{
		strcpy(credential->key, stored.key);
		credential->source = stored.of_public ? SENDKIT_KEY_OF_PUBLIC : SENDKIT_KEY_OF_ROLE;
	}
	explicit_bzero(&stored, sizeof(stored));
	return found;
}

/* --- in a file --- */

static void
report_bad_file(const char *fault)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("cannot use the file that \"sendkit.platform_key_file\" names"),
			 errdetail("%s", fault)));
}

static void
report_unreadable_file(void)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not read the file that \"sendkit.platform_key_file\" names: %m")));
}

/*
 * The rules that libpq has for private keys (fe-secure-openssl.c), since this
 * is one: a root-owned file may be readable by the server's group.
 */
static const char *
file_fault(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "It is not a regular file.";
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "It must be owned by the database server's user or by root.";
	if (st->st_uid != 0 && (st->st_mode & (S_IRWXG | S_IRWXO)))
		return "It has group or world access: its permissions must be u=rw (0600) or less.";
	if (st->st_uid == 0 && (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)))
		return "It has group or world access: the permissions of a file that root owns must be u=rw,g=r (0640) or less.";
	if (st->st_size > MAX_KEY_FILE_SIZE)
		return "It is too large for a file that holds nothing but a key.";
	return NULL;
}

/* Reads the whole file.  Returns the number of bytes, or -1 with errno set. */
static ssize_t
read_all(int fd, char *buffer, size_t size)
{
	size_t		len = 0;

	while (len < size)
	{
		ssize_t		n = read(fd, buffer + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		len += n;
	}
	return len;
}

static size_t
without_newline(const char *text, size_t len)
{
	if (len > 0 && text[len - 1] == '\n')
		len--;
	if (len > 0 && text[len - 1] == '\r')
		len--;
	return len;
}

static void
find_in_file(SendkitCredential *credential)
{
	char		content[MAX_KEY_FILE_SIZE];
	struct stat st;
	ssize_t		len;
	const char *fault;

	/* not to hang where the name is that of a pipe */
	int			fd = OpenTransientFile(sendkit_platform_key_file,
									   O_RDONLY | O_NONBLOCK | O_CLOEXEC | PG_BINARY);

	if (fd < 0 || fstat(fd, &st) != 0)
		report_unreadable_file();
	fault = file_fault(&st);
	if (fault)
		report_bad_file(fault);

	len = read_all(fd, content, sizeof(content));
	if (len < 0)
		report_unreadable_file();
	CloseTransientFile(fd);

	credential->source = SENDKIT_KEY_OF_FILE;
	fault = set_key(credential, content, without_newline(content, len));
	explicit_bzero(content, sizeof(content));
	if (fault)
		report_bad_file(fault);
}

/* --- the door --- */

/* The hint lists the ways to give a key: keep it in line with the README. */
static void
report_no_key(Oid role)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("no platform key found for role \"%s\"",
					GetUserNameFromId(role, false)),
			 errhint("Store one for the role with sendkit_store_platform_key(), "
					 "set \"sendkit.platform_key_file\" in postgresql.conf, "
					 "or give the key as the argument \"platform_key\".")));
}

/*
 * Looks for a role's stored key: in its user mapping on server "sendkit", or else
 * in the file that a setting names.  Takes the extension's OID (extension.c).
 * Returns false if there is none.  Raises 55000 if this database is a copy,
 * 42501 if there is a mapping but the role has no USAGE on the server, F0000 or a
 * file access error for a file that may not or cannot be used, and what
 * sendkit_home_check() does.  Never shows a key.
 */
bool
sendkit_credential_look(SendkitCredential *credential, Oid extension, Oid role)
{
	bool		in_mapping = find_in_mapping(credential, role);

	if (!in_mapping && sendkit_platform_key_file[0] == '\0')
		return false;
	sendkit_home_check(extension);
	if (!in_mapping)
		find_in_file(credential);
	return true;
}

/* The same, but raises 28000 if there is none. */
void
sendkit_credential_find(SendkitCredential *credential, Oid extension, Oid role)
{
	if (!sendkit_credential_look(credential, extension, role))
		report_no_key(role);
}

/* Overwrites the key.  Cannot raise an error. */
void
sendkit_credential_wipe(SendkitCredential *credential)
{
	explicit_bzero(credential, sizeof(*credential));
}
