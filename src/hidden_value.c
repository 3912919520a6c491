/*-------------------------------------------------------------------------
 *
 * hidden_value.c
 *	  Values of settings that a session cannot see any more.
 *
 * A session reads what is set for its role and its database, and on the
 * postmaster's command line, once, when it begins.  A value that was refused
 * later had taken the place of those, and a reload brings back the file's alone.
 * So they are looked for where they are kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "hidden_value.h"

/* Where the postmaster writes how it was started, in the data directory */
#define COMMAND_LINE_FILE "postmaster.opts"

/* Is there an entry "setting=value" among those of pg_db_role_setting's row? */
static bool
names_setting(HeapTuple tuple, Relation settings, const char *setting)
{
	size_t		len = strlen(setting);
	bool		isnull;
	Datum		config = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
									  RelationGetDescr(settings), &isnull);
	Datum	   *entries;
	int			count;

	if (isnull)
		return false;
	deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false, TYPALIGN_INT,
					  &entries, NULL, &count);
	for (int i = 0; i < count; i++)
	{
		const char *entry = TextDatumGetCString(entries[i]);

		if (pg_strncasecmp(entry, setting, len) == 0 && entry[len] == '=')
			return true;
	}
	return false;
}

/* InvalidOid stands for all databases, and for all roles. */
static bool
is_set_for(Relation settings, Oid database, Oid role, const char *setting)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(database));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(role));
	scan = systable_beginscan(settings, DbRoleSettingDatidRolidIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = names_setting(tuple, settings, setting);
	systable_endscan(scan);
	return found;
}

static bool
is_set_for_session(const char *setting)
{
	Relation	settings = table_open(DbRoleSettingRelationId, AccessShareLock);
	Oid			role = GetAuthenticatedUserId();
	bool		found = is_set_for(settings, MyDatabaseId, role, setting) ||
		is_set_for(settings, InvalidOid, role, setting) ||
		is_set_for(settings, MyDatabaseId, InvalidOid, setting) ||
		is_set_for(settings, InvalidOid, InvalidOid, setting);

	table_close(settings, AccessShareLock);
	return found;
}

/* Does an option begin with a setting, in whatever spelling? */
static bool
begins_with_setting(const char *option, const char *setting)
{
	for (; *setting != '\0'; option++, setting++)
	{
		char		c = *option == '-' ? '_' : pg_tolower((unsigned char) *option);

		if (c != *setting)
			return false;
	}
	return true;
}

/* Does the postmaster's command line name it?  Yes, if that cannot be told. */
static bool
is_on_command_line(const char *setting)
{
	FILE	   *file = AllocateFile(COMMAND_LINE_FILE, "r");
	char		line[MAXPGPATH * 8];
	bool		found;

	if (file == NULL)
		return true;
	/* it is one line, if nobody has put another into an argument */
	found = fgets(line, sizeof(line), file) == NULL || fgetc(file) != EOF;
	FreeFile(file);
	for (const char *p = line; !found && *p != '\0'; p++)
		found = begins_with_setting(p, setting);
	return found;
}

/*
 * May there be a value for the session's role or database, or on the postmaster's
 * command line, beneath one that the session was given when it began?  Raises what
 * reading a catalog raises.
 */
bool
sendkit_may_have_hidden_value(const char *setting)
{
	return is_set_for_session(setting) || is_on_command_line(setting);
}
