/*-------------------------------------------------------------------------
 *
 * extension.c
 *	  The extension's own relations, found by membership and not by name alone.
 *
 * A name is only where the search begins: who owns the schema, or may create
 * things in it, can have another relation of the same name there, now or while
 * we wait for a lock.  So the relation is opened by its OID, and what it is gets
 * checked when the lock is held, under which it cannot change any more: that
 * the extension's script has made it, as the catalog's dependencies tell.
 *
 * Any look-up may find nothing, since the extension may be dropped at any time
 * by somebody else, also while a function of it runs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "extension.h"

/*
 * Returns the OID of the extension that a function belongs to: with
 * fcinfo->flinfo->fn_oid, of the one that was called.  Raises 55000 if it
 * belongs to none.
 */
Oid
sendkit_extension_of(Oid function)
{
	Oid			extension = getExtensionOfObject(ProcedureRelationId, function);

	if (!OidIsValid(extension))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the called function does not belong to extension \"sendkit\""),
				 errhint("The extension may have been dropped; CREATE EXTENSION sendkit creates its functions.")));
	return extension;
}

/*
 * Reads what is asked for: pointers may be NULL.  Returns false if there is no
 * such extension any more.
 */
static bool
read_extension(Oid extension, Oid *schema, Oid *owner, char **version)
{
	Relation	catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(catalog, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);
		bool		isnull;

		if (schema)
			*schema = form->extnamespace;
		*owner = form->extowner;
		if (version)
			*version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion,
														RelationGetDescr(catalog), &isnull));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

static void
report_no_extension(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("extension \"sendkit\" does not exist")));
}

/* Returns who owns an extension.  Raises 42704 if there is none any more. */
Oid
sendkit_extension_owner(Oid extension)
{
	Oid			owner;

	if (!read_extension(extension, NULL, &owner, NULL))
		report_no_extension();
	return owner;
}

/*
 * Returns the version of an extension, in the current memory context.  Raises
 * 42704 if there is none any more.
 */
char *
sendkit_extension_version(Oid extension)
{
	Oid			owner;
	char	   *version;

	if (!read_extension(extension, NULL, &owner, &version))
		report_no_extension();
	return version;
}

/* Returns the OID of a member, or InvalidOid, and who ought to own it. */
static Oid
find_member(Oid extension, const char *name, Oid *owner)
{
	Oid			schema;
	Oid			relation;

	if (!read_extension(extension, &schema, owner, NULL))
		return InvalidOid;
	relation = get_relname_relid(name, schema);
	if (OidIsValid(relation) &&
		getExtensionOfObject(RelationRelationId, relation) != extension)
		return InvalidOid;
	return relation;
}

static void
report_missing(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("extension \"sendkit\" has no relation \"%s\"", name),
			 errhint("It may have been dropped or renamed; CREATE EXTENSION sendkit creates it.")));
}

static void
report_altered(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" is not as extension \"sendkit\" made it", name),
			 errdetail("%s", detail),
			 errhint("Undo what has been altered, or run ALTER EXTENSION sendkit UPDATE.")));
}

/* Others may have added columns behind ours. */
static void
check_columns(Relation relation, const SendkitColumn *columns, int ncolumns)
{
	TupleDesc	desc = RelationGetDescr(relation);

	for (int i = 0; i < ncolumns; i++)
	{
		Form_pg_attribute attribute = i < desc->natts ? TupleDescAttr(desc, i) : NULL;

		if (attribute == NULL || attribute->attisdropped ||
			attribute->atttypid != columns[i].type ||
			attribute->attgenerated != '\0' ||
			strcmp(NameStr(attribute->attname), columns[i].name) != 0)
			report_altered(RelationGetRelationName(relation),
						   psprintf("Column \"%s\" is missing or altered.", columns[i].name));
	}
}

static void
check_kind(Relation relation, Oid owner)
{
	Form_pg_class class = relation->rd_rel;

	if (class->relkind != RELKIND_RELATION ||
		class->relpersistence != RELPERSISTENCE_PERMANENT ||
		class->relam != HEAP_TABLE_AM_OID)
		report_altered(NameStr(class->relname), "It must be an ordinary permanent table.");
	if (class->relowner != owner)
		report_altered(NameStr(class->relname), "It must belong to the extension's owner.");
}

/*
 * Opens a table of the extension, and locks it until the end of the
 * transaction; close it with table_close(relation, NoLock).  It is checked
 * after it was locked: it is a plain, permanent table, a member of the
 * extension, belongs to the extension's owner and begins with these columns.
 * Returns NULL if wait is false and somebody holds a lock that is in the way.
 * Raises 42P01 if there is no such table (or no such extension any more), 55000
 * if it has been altered, and what waiting for a lock raises.
 */
Relation
sendkit_table_open(Oid extension, const char *name, LOCKMODE mode, bool wait,
				   const SendkitColumn *columns, int ncolumns)
{
	Oid			owner;
	Oid			found = find_member(extension, name, &owner);
	Relation	relation;

	if (!OidIsValid(found))
		report_missing(name);
	if (wait)
		LockRelationOid(found, mode);
	else if (!ConditionalLockRelationOid(found, mode))
		return NULL;

	/* only now it can be trusted */
	relation = try_relation_open(found, NoLock);
	if (relation == NULL || find_member(extension, name, &owner) != found)
		report_missing(name);
	check_kind(relation, owner);
	check_columns(relation, columns, ncolumns);
	return relation;
}

/* Returns the OID of a sequence of the extension.  Raises 42P01 if there is none. */
Oid
sendkit_sequence_of(Oid extension, const char *name)
{
	Oid			owner;
	Oid			found = find_member(extension, name, &owner);

	if (!OidIsValid(found) || get_rel_relkind(found) != RELKIND_SEQUENCE)
		report_missing(name);
	return found;
}
