/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  The platform key that a call uses.
 *
 * A key is held in one place, the caller's SendkitCredential, for as long as
 * the call takes, and wiped then; so is every copy made on the way there.  No
 * message here says anything about a key but which rule it breaks, and no
 * error lets the statement into the log.
 *
 * Stored keys are either in a user mapping on the server "sendkit" of
 * sendkit_fdw, a foreign-data wrapper that has a validator and nothing else;
 * or in a file that the setting sendkit.platform_key_file names.  The file is
 * read at each use, so that replacing it replaces the key.  All rules about it
 * are checked on the open file, not on its name, which could be pointed
 * elsewhere in between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "api.h"
#include "credential.h"
#include "guc.h"

/* The names that users write in CREATE SERVER and CREATE USER MAPPING */
#define SERVER_NAME "sendkit"
#define WRAPPER_NAME "sendkit_fdw"
#define KEY_OPTION "platform_key"

/* A file that holds more than this holds something else than a key */
#define MAX_KEY_FILE_SIZE 4096

PG_FUNCTION_INFO_V1(sendkit_fdw_validator);

/* --- what a key may look like --- */

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

/* Stores a key that may be used; else returns what is wrong with it. */
static const char *
set_key(SendkitCredential *credential, const char *key, size_t len)
{
	const char *fault = key_fault(key, len);

	if (fault == NULL)
	{
		memcpy(credential->key, key, len);
		credential->key[len] = '\0';
	}
	return fault;
}

static void
find_in_argument(SendkitCredential *credential, text *argument)
{
	const char *fault = set_key(credential, VARDATA_ANY(argument),
								VARSIZE_ANY_EXHDR(argument));

	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid platform key"),
				 errdetail("%s", fault),
				 errhidestmt(true), errhidecontext(true)));
}

/* --- in a user mapping --- */

/* Returns the server's OID if it exists and is of our wrapper, else InvalidOid. */
static Oid
find_server(void)
{
	ForeignServer *server = GetForeignServerByName(SERVER_NAME, true);

	if (server == NULL || server->fdwid != get_foreign_data_wrapper_oid(WRAPPER_NAME, true))
		return InvalidOid;
	return server->serverid;
}

/*
 * Looks for the option among a mapping's, which are stored as "name=value".
 * Returns whether it is there.
 */
static bool
find_in_options(SendkitCredential *credential, Datum options)
{
	static const char prefix[] = KEY_OPTION "=";
	const size_t prefix_len = sizeof(prefix) - 1;
	ArrayType  *array = DatumGetArrayTypeP(options);
	Datum	   *elements;
	int			nelements;
	bool		found = false;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &nelements);
	for (int i = 0; i < nelements && !found; i++)
	{
		text	   *option = DatumGetTextPP(elements[i]);
		size_t		len = VARSIZE_ANY_EXHDR(option);

		if (len < prefix_len || memcmp(VARDATA_ANY(option), prefix, prefix_len) != 0)
			continue;
		/* the validator has let no unusable key in */
		found = set_key(credential, VARDATA_ANY(option) + prefix_len,
						len - prefix_len) == NULL;
	}

	if (PointerGetDatum(array) != options)
		explicit_bzero(array, VARSIZE(array));
	return found;
}

/* Returns the mapping of the role, or else of PUBLIC, or NULL. */
static HeapTuple
find_mapping(Oid role, Oid server)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
										ObjectIdGetDatum(role),
										ObjectIdGetDatum(server));

	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
								ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server));
	return tuple;
}

static void
check_usage(Oid server)
{
	AclResult	result = sendkit_server_aclcheck(server, GetUserId(), ACL_USAGE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER, SERVER_NAME);
}

static bool
find_in_mapping(SendkitCredential *credential)
{
	Oid			server = find_server();
	HeapTuple	tuple;
	Datum		options;
	bool		isnull;
	bool		found = false;

	if (!OidIsValid(server))
		return false;
	tuple = find_mapping(GetUserId(), server);
	if (!HeapTupleIsValid(tuple))
		return false;

	check_usage(server);
	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							  Anum_pg_user_mapping_umoptions, &isnull);
	/* pg_dump by an ordinary role leaves a mapping without its options */
	if (!isnull)
		found = find_in_options(credential, options);
	ReleaseSysCache(tuple);
	return found;
}

/* --- in a file --- */

static void
report_bad_file(const char *fault)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("cannot use the file that \"sendkit.platform_key_file\" names"),
			 errdetail("%s", fault),
			 errhidestmt(true), errhidecontext(true)));
}

static void
report_unreadable_file(void)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not read the file that \"sendkit.platform_key_file\" names: %m"),
			 errhidestmt(true), errhidecontext(true)));
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

	fault = set_key(credential, content, without_newline(content, len));
	explicit_bzero(content, sizeof(content));
	if (fault)
		report_bad_file(fault);
}

/* --- the door --- */

/* The hint lists the ways to give a key: keep it in line with the README. */
static void
report_no_key(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("no platform key found for role \"%s\"",
					GetUserNameFromId(GetUserId(), false)),
			 errhint("Create a user mapping with the option \"" KEY_OPTION "\" on server \"" SERVER_NAME "\", "
					 "set \"sendkit.platform_key_file\" in postgresql.conf, "
					 "or give the key as the argument \"platform_key\"."),
			 errhidestmt(true), errhidecontext(true)));
}

void
sendkit_credential_find(SendkitCredential *credential, text *argument)
{
	if (argument)
		find_in_argument(credential, argument);
	else if (find_in_mapping(credential))
		return;
	else if (sendkit_platform_key_file[0] != '\0')
		find_in_file(credential);
	else
		report_no_key();
}

void
sendkit_credential_wipe(SendkitCredential *credential)
{
	explicit_bzero(credential, sizeof(*credential));
}

/* --- the validator of sendkit_fdw --- */

static void
report_bad_option(const char *name, Oid catalog)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 catalog == UserMappingRelationId ?
			 errhint("Valid options in this context are: %s", KEY_OPTION) :
			 errhint("There are no valid options in this context. The option \"%s\" belongs to a user mapping.", KEY_OPTION),
			 errhidestmt(true), errhidecontext(true)));
}

static void
validate_key(const char *key)
{
	const char *fault = key_fault(key, strlen(key));

	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\"", KEY_OPTION),
				 errdetail("%s", fault),
				 errhidestmt(true), errhidecontext(true)));
	if (!sendkit_api_is_platform_key(key))
		ereport(WARNING,
				(errmsg("the SendKit API is likely to reject this platform key"),
				 errdetail("Platform keys begin with \"sk_user_\"."),
				 errhidestmt(true), errhidecontext(true)));
}

Datum
sendkit_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);
		char	   *value;

		if (catalog != UserMappingRelationId || strcmp(option->defname, KEY_OPTION) != 0)
			report_bad_option(option->defname, catalog);
		value = defGetString(option);
		validate_key(value);
		explicit_bzero(value, strlen(value));
	}
	PG_RETURN_VOID();
}
