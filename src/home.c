/*-------------------------------------------------------------------------
 *
 * home.c
 *	  The clone guard: is this database the one that the extension lives in, or
 *	  a copy of it?
 *
 * The table sendkit_home remembers the cluster, by its system identifier, and
 * the database, by its OID.  CREATE EXTENSION enters the database that it is
 * run in.  The table is dumped, and a restore adds the original's row to that of
 * the copy, whether the restore creates the extension or finds it there; a copy
 * by CREATE DATABASE or pg_upgrade has the original's row alone.  So a database
 * is the home only if there are rows and all of them are its own.  A dump that
 * is restored into its very own database adds a row of the same contents, for
 * which reason the table has no key.
 *
 * What the guard cannot tell is a physical copy from a failover: they are the
 * same to the last byte.
 *
 * All functions here take the extension's OID (extension.c), need a transaction,
 * and raise what sendkit_table_open() raises.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "extension.h"
#include "home.h"

#define TABLE_NAME "sendkit_home"

/* The table's columns */
enum
{
	COLUMN_SYSTEM_IDENTIFIER,
	COLUMN_DATABASE_OID,
	COLUMNS
};

static const SendkitColumn columns[COLUMNS] = {
	[COLUMN_SYSTEM_IDENTIFIER] = {"system_identifier", INT8OID},
	[COLUMN_DATABASE_OID] = {"database_oid", OIDOID},
};

PG_FUNCTION_INFO_V1(sendkit_is_home);

static bool
is_this_database(Relation home, HeapTuple tuple)
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS];

	for (int i = 0; i < COLUMNS; i++)
		values[i] = heap_getattr(tuple, i + 1, RelationGetDescr(home), &nulls[i]);
	return !nulls[COLUMN_SYSTEM_IDENTIFIER] && !nulls[COLUMN_DATABASE_OID] &&
		DatumGetInt64(values[COLUMN_SYSTEM_IDENTIFIER]) == (int64) GetSystemIdentifier() &&
		DatumGetObjectId(values[COLUMN_DATABASE_OID]) == MyDatabaseId;
}

static bool
is_here_by(Relation home, Snapshot snapshot)
{
	SysScanDesc scan = systable_beginscan(home, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple = systable_getnext(scan);
	bool		here = HeapTupleIsValid(tuple);

	while (here && HeapTupleIsValid(tuple))
	{
		here = is_this_database(home, tuple);
		tuple = systable_getnext(scan);
	}
	systable_endscan(scan);
	return here;
}

/* What has been committed by now counts, whatever the transaction sees. */
static bool
is_here(Relation home)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		here = is_here_by(home, snapshot);

	UnregisterSnapshot(snapshot);
	return here;
}

static Relation
open_home(Oid extension, LOCKMODE mode, bool wait)
{
	return sendkit_table_open(extension, TABLE_NAME, mode, wait, columns, COLUMNS);
}

static bool
is_here_and_close(Relation home)
{
	bool		here = is_here(home);

	table_close(home, NoLock);
	return here;
}

/* Is this database the home, so that revocations may be delivered? */
bool
sendkit_home_is_here(Oid extension)
{
	return is_here_and_close(open_home(extension, AccessShareLock, true));
}

/* The same without waiting for a lock */
SendkitHome
sendkit_home_look(Oid extension)
{
	Relation	home = open_home(extension, AccessShareLock, false);

	if (home == NULL)
		return SENDKIT_HOME_LOCKED;
	return is_here_and_close(home) ? SENDKIT_HOME_HERE : SENDKIT_HOME_ELSEWHERE;
}

/*
 * Raises 55000, with a hint that names sendkit_adopt_revocations(), if this
 * database is a copy: a stored key belongs to the original.
 */
void
sendkit_home_check(Oid extension)
{
	if (!sendkit_home_is_here(extension))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is a copy: stored platform keys are not used"),
				 errdetail("Its extension \"sendkit\" comes from another database, whose keys a copy must not revoke."),
				 errhint("If the original is gone and this database takes its place, SELECT sendkit_adopt_revocations().")));
}

static void
forget_homes(Relation home)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(home, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(home, &tuple->t_self);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
}

/*
 * What others have added to the table is not ours to serve: an index that asks
 * for a function or a condition would need the executor.
 */
static void
check_indexes(Relation home)
{
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(home))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		bool		plain = heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			!index->rd_index->indisexclusion;

		index_close(index, NoLock);
		if (!plain)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation \"%s\" has an index with an expression or a condition", TABLE_NAME),
					 errhint("Drop the index.")));
	}
}

static void
enter_this_database(Relation home)
{
	int			natts = RelationGetNumberOfAttributes(home);
	Datum	   *values = palloc0(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));

	memset(nulls, true, natts * sizeof(bool));
	values[COLUMN_SYSTEM_IDENTIFIER] = Int64GetDatum((int64) GetSystemIdentifier());
	nulls[COLUMN_SYSTEM_IDENTIFIER] = false;
	values[COLUMN_DATABASE_OID] = ObjectIdGetDatum(MyDatabaseId);
	nulls[COLUMN_DATABASE_OID] = false;
	CatalogTupleInsert(home, heap_form_tuple(RelationGetDescr(home), values, nulls));
}

/* Makes this database the home.  Returns whether it was another one before. */
bool
sendkit_home_adopt(Oid extension)
{
	/* whoever adopts it at the same time finds it adopted */
	Relation	home = open_home(extension, ShareRowExclusiveLock, true);
	bool		adopted = !is_here(home);

	if (adopted)
	{
		check_indexes(home);
		forget_homes(home);
		enter_this_database(home);
		CommandCounterIncrement();
	}
	table_close(home, NoLock);
	return adopted;
}

/* For those who look: as their statement sees it, which may run in parallel. */
Datum
sendkit_is_home(PG_FUNCTION_ARGS)
{
	Relation	home = open_home(sendkit_extension_of(fcinfo->flinfo->fn_oid), AccessShareLock, true);
	bool		here = is_here_by(home, GetActiveSnapshot());

	table_close(home, NoLock);
	PG_RETURN_BOOL(here);
}
