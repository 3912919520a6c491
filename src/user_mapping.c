/*-------------------------------------------------------------------------
 *
 * user_mapping.c
 *	  Platform keys in user mappings on the foreign server "sendkit".
 *
 * The server is one of sendkit_fdw, a foreign-data wrapper that has a
 * validator and nothing else.  PostgreSQL shows a mapping's options to its own
 * role and to superusers.
 *
 * CREATE USER MAPPING, written out, has the key in its text, which goes to
 * logs, statistics, auditors and event triggers.  So two functions do the same
 * with a key that is a value: they call what that command calls, with a parse
 * tree made by hand, which nobody else gets to see.
 *
 * Whoever stores or drops keys holds a lock on the wrapper until the end of the
 * transaction, so that two of them don't both make the server, or both make or
 * alter a mapping; and one on the server, so that it is not dropped or renamed
 * meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "hiding.h"
#include "text.h"
#include "user_mapping.h"

#define WRAPPER_NAME "sendkit_fdw"

PG_FUNCTION_INFO_V1(sendkit_fdw_validator);
PG_FUNCTION_INFO_V1(sendkit_store_platform_key);
PG_FUNCTION_INFO_V1(sendkit_forget_platform_key);

/* --- finding a key --- */

static bool
is_ours(const ForeignServer *server)
{
	return server->fdwid == get_foreign_data_wrapper_oid(WRAPPER_NAME, true);
}

/* Returns the server, or NULL, also if it is being dropped right now. */
static ForeignServer *
find_server(void)
{
	Oid			oid = get_foreign_server_oid(SENDKIT_SERVER_NAME, true);

	return OidIsValid(oid) ? GetForeignServerExtended(oid, FSV_MISSING_OK) : NULL;
}

/* Returns the role's own mapping, InvalidOid standing for PUBLIC, or NULL. */
static HeapTuple
mapping_of(Oid role, Oid server)
{
	return SearchSysCache2(USERMAPPINGUSERSERVER,
						   ObjectIdGetDatum(role), ObjectIdGetDatum(server));
}

/* Copies a value, or nothing of one that is too long to be a key. */
static void
copy_value(const char *value, size_t len, char key[SENDKIT_MAX_KEY_LENGTH + 1])
{
	if (len > SENDKIT_MAX_KEY_LENGTH)
		len = 0;
	memcpy(key, value, len);
	key[len] = '\0';
}

/*
 * Looks for the key among a mapping's options, which are stored as
 * "name=value".  Returns whether it is there.
 */
static bool
read_options(Datum options, char key[SENDKIT_MAX_KEY_LENGTH + 1])
{
	static const char prefix[] = SENDKIT_KEY_OPTION "=";
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

		found = len >= prefix_len &&
			memcmp(VARDATA_ANY(option), prefix, prefix_len) == 0;
		if (found)
			copy_value(VARDATA_ANY(option) + prefix_len, len - prefix_len, key);
	}

	if (PointerGetDatum(array) != options)
		explicit_bzero(array, VARSIZE(array));
	return found;
}

/* The same with a mapping, whose options may be null: a dump can bring such. */
static bool
read_mapping(HeapTuple mapping, char key[SENDKIT_MAX_KEY_LENGTH + 1])
{
	bool		isnull;
	Datum		options = SysCacheGetAttr(USERMAPPINGUSERSERVER, mapping,
										  Anum_pg_user_mapping_umoptions, &isnull);

	return !isnull && read_options(options, key);
}

static void
check_usage(Oid server, Oid role)
{
	AclResult	result = sendkit_server_aclcheck(server, role, ACL_USAGE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER, SENDKIT_SERVER_NAME);
}

/*
 * Finds the key in the role's user mapping, or, if it has none, in PUBLIC's.
 * Returns false if there is no mapping, or no usable key in it.  Raises 42501
 * if there is a mapping and the role has no USAGE on the server.
 */
bool
sendkit_user_mapping_find(Oid role, SendkitStoredKey *stored)
{
	ForeignServer *server = find_server();
	HeapTuple	mapping;
	bool		found;

	if (server == NULL || !is_ours(server))
		return false;
	mapping = mapping_of(role, server->serverid);
	stored->of_public = !HeapTupleIsValid(mapping);
	if (stored->of_public)
		mapping = mapping_of(InvalidOid, server->serverid);
	if (!HeapTupleIsValid(mapping))
		return false;

	check_usage(server->serverid, role);
	found = read_mapping(mapping, stored->key);
	ReleaseSysCache(mapping);
	/* the validator lets no unusable key in, but a superuser can take it away */
	return found &&
		sendkit_platform_key_fault(stored->key, strlen(stored->key)) == NULL;
}

/* --- storing and forgetting --- */

static void
check_not_null(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
}

/*
 * PostgreSQL would say which role there is not; but where arguments were swapped,
 * or a paste went wrong, that is a key.
 */
static void
check_is_role(const char *name)
{
	if (strcmp(name, "public") != 0 && !OidIsValid(get_role_oid(name, true)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("invalid role_name"),
				 errdetail("No role has that name."),
				 errhint("The role comes first, then its platform key.")));
}

/* "public" is nobody's name, so that it can stand for PUBLIC, as in GRANT. */
static RoleSpec *
role_argument(FunctionCallInfo fcinfo)
{
	RoleSpec   *role = makeNode(RoleSpec);

	check_not_null(fcinfo, 0, "role_name");
	role->rolename = pstrdup(NameStr(*PG_GETARG_NAME(0)));
	check_is_role(role->rolename);
	role->roletype = strcmp(role->rolename, "public") == 0 ?
		ROLESPEC_PUBLIC : ROLESPEC_CSTRING;
	role->location = -1;
	return role;
}

/* The OID of a mapping's role, which is InvalidOid for PUBLIC */
static Oid
mapped_role(const RoleSpec *role)
{
	return role->roletype == ROLESPEC_PUBLIC ?
		InvalidOid : get_rolespec_oid(role, false);
}

static void
lock_wrapper(void)
{
	Oid			wrapper = get_foreign_data_wrapper_oid(WRAPPER_NAME, false);

	LockDatabaseObject(ForeignDataWrapperRelationId, wrapper, 0, ShareUpdateExclusiveLock);
}

/* Creates the server in the name of the current role, which needs the right to. */
static void
create_server(void)
{
	CreateForeignServerStmt *statement = makeNode(CreateForeignServerStmt);

	statement->servername = pstrdup(SENDKIT_SERVER_NAME);
	statement->fdwname = pstrdup(WRAPPER_NAME);
	(void) CreateForeignServer(statement);
	CommandCounterIncrement();
}

static void
check_server(const ForeignServer *server)
{
	if (!is_ours(server))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not one of \"%s\"", SENDKIT_SERVER_NAME, WRAPPER_NAME)));
	if (!sendkit_server_ownercheck(server->serverid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_SERVER, SENDKIT_SERVER_NAME);
}

/*
 * Returns the server's OID, locked, if the current role owns it; raises an
 * error else.  It is created if that is asked for, and there is none.
 */
static Oid
lock_server(bool create)
{
	lock_wrapper();
	for (;;)
	{
		ForeignServer *server = find_server();
		Oid			oid;

		if (server == NULL && create)
			create_server();
		server = GetForeignServerByName(SENDKIT_SERVER_NAME, false);
		check_server(server);
		oid = server->serverid;
		LockDatabaseObject(ForeignServerRelationId, oid, 0, ShareUpdateExclusiveLock);

		/* while we waited, it may have been dropped, renamed or given away */
		server = find_server();
		if (server && server->serverid == oid)
		{
			check_server(server);
			return oid;
		}
		UnlockDatabaseObject(ForeignServerRelationId, oid, 0, ShareUpdateExclusiveLock);
	}
}

/* The option as a command's parse tree has it; the key stays where it is. */
static List *
key_option(char *key, DefElemAction action)
{
	return list_make1(makeDefElemExtended(NULL, pstrdup(SENDKIT_KEY_OPTION),
										  (Node *) makeString(key), action, -1));
}

static void
create_mapping(RoleSpec *role, char *key)
{
	CreateUserMappingStmt *statement = makeNode(CreateUserMappingStmt);

	statement->user = role;
	statement->servername = pstrdup(SENDKIT_SERVER_NAME);
	statement->options = key_option(key, DEFELEM_UNSPEC);
	(void) CreateUserMapping(statement);
}

static void
alter_mapping(RoleSpec *role, char *key, bool has_key)
{
	AlterUserMappingStmt *statement = makeNode(AlterUserMappingStmt);

	statement->user = role;
	statement->servername = pstrdup(SENDKIT_SERVER_NAME);
	statement->options = key_option(key, has_key ? DEFELEM_SET : DEFELEM_ADD);
	(void) AlterUserMapping(statement);
}

/*
 * ANALYZE, by autovacuum too, copies samples of the catalog's columns: with what
 * has been replaced or dropped the copies go as well.  The lock is ANALYZE's, so
 * that none makes them anew from what it has read before.
 */
static void
forget_statistics(void)
{
	LockRelationOid(UserMappingRelationId, ShareUpdateExclusiveLock);
	RemoveStatistics(UserMappingRelationId, Anum_pg_user_mapping_umoptions);
}

static void
store_key(Oid server, RoleSpec *role, char *key)
{
	HeapTuple	mapping = mapping_of(mapped_role(role), server);

	if (HeapTupleIsValid(mapping))
	{
		char		old_key[SENDKIT_MAX_KEY_LENGTH + 1];
		bool		has_key = read_mapping(mapping, old_key);

		explicit_bzero(old_key, sizeof(old_key));
		ReleaseSysCache(mapping);
		alter_mapping(role, key, has_key);
	}
	else
		create_mapping(role, key);
	forget_statistics();
	CommandCounterIncrement();
}

/* A key that is stored for a role without the right to use it is of no use yet. */
static void
notice_missing_usage(Oid server, const RoleSpec *role)
{
	bool		of_public = role->roletype == ROLESPEC_PUBLIC;

	if (sendkit_server_aclcheck(server, of_public ? ACL_ID_PUBLIC : mapped_role(role),
								ACL_USAGE) == ACLCHECK_OK)
		return;
	ereport(NOTICE,
			(errmsg("role \"%s\" may not use the stored key yet",
					sendkit_text_for_client(role->rolename)),
			 errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s.", SENDKIT_SERVER_NAME,
					 of_public ? "PUBLIC" :
					 sendkit_text_for_client(quote_identifier(role->rolename)))));
}

/* Where the client has written the key out, it is too late to keep it secret. */
static void
warn_of_literal(const char *key)
{
	if (debug_query_string == NULL || strstr(debug_query_string, key) == NULL)
		return;
	ereport(WARNING,
			(errmsg("the platform key was written in the text of the statement"),
			 errdetail("PostgreSQL shows and logs statements, and psql keeps them in its history."),
			 errhint("Give the key from a table or as a bound parameter; and better replace this one.")));
}

/* Copies the argument, which is in the database's encoding, and checks it. */
static void
key_argument(FunctionCallInfo fcinfo, char key[SENDKIT_MAX_KEY_LENGTH + 1])
{
	text	   *argument;
	const char *fault;

	check_not_null(fcinfo, 1, "platform_key");
	argument = PG_GETARG_TEXT_PP(1);
	fault = sendkit_platform_key_fault(VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument));
	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid platform key"),
				 errdetail("%s", fault)));
	copy_value(VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument), key);
	if (PointerGetDatum(argument) != PG_GETARG_DATUM(1))
		explicit_bzero(argument, VARSIZE_ANY(argument));
}

static Datum
store(void *arg)
{
	FunctionCallInfo fcinfo = (FunctionCallInfo) arg;
	char		key[SENDKIT_MAX_KEY_LENGTH + 1];

	PreventCommandIfReadOnly("sendkit_store_platform_key()");
	PG_TRY();
	{
		RoleSpec   *role = role_argument(fcinfo);
		Oid			server;

		key_argument(fcinfo, key);
		server = lock_server(true);
		store_key(server, role, key);
		notice_missing_usage(server, role);
		warn_of_literal(key);
	}
	PG_FINALLY();
	{
		explicit_bzero(key, sizeof(key));
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

Datum
sendkit_store_platform_key(PG_FUNCTION_ARGS)
{
	return sendkit_run_hidden(store, fcinfo);
}

static Datum
forget(void *arg)
{
	FunctionCallInfo fcinfo = (FunctionCallInfo) arg;
	DropUserMappingStmt *statement = makeNode(DropUserMappingStmt);

	PreventCommandIfReadOnly("sendkit_forget_platform_key()");
	statement->user = role_argument(fcinfo);
	(void) lock_server(false);
	statement->servername = pstrdup(SENDKIT_SERVER_NAME);
	(void) RemoveUserMapping(statement);
	forget_statistics();
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/* Somebody may give the key that is to be forgotten. */
Datum
sendkit_forget_platform_key(PG_FUNCTION_ARGS)
{
	return sendkit_run_hidden(forget, fcinfo);
}

/* --- the validator of sendkit_fdw --- */

static void
report_bad_option(const char *name, Oid catalog)
{
	/* a name may be the key, where name and value were swapped */
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 strstr(name, "sk_") ? errmsg("invalid option") :
			 errmsg("invalid option \"%s\"", name),
			 catalog == UserMappingRelationId ?
			 errhint("Valid options in this context are: %s", SENDKIT_KEY_OPTION) :
			 errhint("There are no valid options in this context. The option \"%s\" belongs to a user mapping.", SENDKIT_KEY_OPTION)));
}

static void
validate_key(const char *key)
{
	const char *fault = sendkit_platform_key_fault(key, strlen(key));

	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\"", SENDKIT_KEY_OPTION),
				 errdetail("%s", fault)));
	if (!sendkit_platform_key_is_likely(key))
		ereport(WARNING,
				(errmsg("the SendKit API is likely to reject this platform key"),
				 errdetail("Platform keys begin with \"sk_user_\".")));
}

static Datum
validate(void *arg)
{
	FunctionCallInfo fcinfo = (FunctionCallInfo) arg;
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);
		char	   *value;

		if (catalog != UserMappingRelationId || strcmp(option->defname, SENDKIT_KEY_OPTION) != 0)
			report_bad_option(option->defname, catalog);
		value = defGetString(option);
		validate_key(value);
		explicit_bzero(value, strlen(value));
	}
	PG_RETURN_VOID();
}

Datum
sendkit_fdw_validator(PG_FUNCTION_ARGS)
{
	return sendkit_run_hidden(validate, fcinfo);
}
