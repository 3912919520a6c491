/*-------------------------------------------------------------------------
 *
 * workspace.c
 *	  The user's table of workspaces: is one there?
 *
 * A workspace that is deleted and inserted again in one transaction lives on, and
 * so must its key.  Only at the end of the transaction that can be told.  A row of
 * a partitioned table may come back in another partition.
 *
 * The table is read directly, by an index if there is one that begins with the id,
 * and no right on it is asked for: whoever deletes need not be able to read, and
 * policies must not hide a workspace that lives.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "workspace.h"

/* Does the index have all rows, ordered by the column first?  See plancat.c. */
static bool
finds_by(Relation index, AttrNumber column)
{
	return index->rd_rel->relam == BTREE_AM_OID &&
		index->rd_index->indisvalid &&
		index->rd_index->indkey.values[0] == column &&
		heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
		(!index->rd_index->indcheckxmin ||
		 TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							   TransactionXmin));
}

/* Returns an index by which to look, and sets the key, or InvalidOid. */
static Oid
find_index(Relation table, AttrNumber column, Datum id, ScanKey key)
{
	List	   *indexes = RelationGetIndexList(table);
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (finds_by(index, column))
		{
			Oid			type = index->rd_opcintype[0];
			Oid			equality = get_opfamily_member(index->rd_opfamily[0], type, type,
													   BTEqualStrategyNumber);

			ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
								   index->rd_indcollation[0], get_opcode(equality), id);
			found = RelationGetRelid(index);
		}
		index_close(index, NoLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

/* The same by reading all.  Returns false if values of the type cannot be compared. */
static bool
set_key(Relation table, AttrNumber column, Datum id, ScanKey key)
{
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(table), column - 1);
	TypeCacheEntry *type = lookup_type_cache(attribute->atttypid, TYPECACHE_EQ_OPR);

	if (!OidIsValid(type->eq_opr))
		return false;
	ScanKeyEntryInitialize(key, 0, column, InvalidStrategy, InvalidOid,
						   attribute->attcollation, get_opcode(type->eq_opr), id);
	return true;
}

static bool
is_in(Relation table, AttrNumber column, Datum id)
{
	ScanKeyData key;
	Oid			index = find_index(table, column, id, &key);
	SysScanDesc scan;
	bool		found;

	if (!OidIsValid(index) && !set_key(table, column, id, &key))
		return false;
	scan = systable_beginscan(table, index, OidIsValid(index), GetActiveSnapshot(), 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	return found;
}

/*
 * Returns the root of a partition's tree.  While the partition is being detached
 * concurrently, which keeps no one from changing its rows, it has a parent, but
 * no ancestors any more.
 */
static Oid
root_of(Oid partition)
{
	Oid			parent = get_partition_parent(partition, true);
	List	   *ancestors = get_partition_ancestors(parent);

	return ancestors == NIL ? parent : llast_oid(ancestors);
}

/* One that is being detached is not among them. */
static bool
is_in_any_partition(Oid root, const char *column, Datum id)
{
	List	   *tables = find_all_inheritors(root, AccessShareLock, NULL);
	bool		found = false;
	ListCell   *cell;

	foreach(cell, tables)
	{
		Relation	table = relation_open(lfirst_oid(cell), NoLock);

		if (table->rd_rel->relkind == RELKIND_RELATION)
			found = is_in(table, get_attnum(RelationGetRelid(table), column), id);
		relation_close(table, NoLock);
		if (found)
			break;
	}
	list_free(tables);
	return found;
}

/*
 * Takes an open table, or a partition of one, and the value of its column that
 * identifies a workspace.  Returns whether the table, all its partitions included,
 * has a row with this id now, after what the current command has done.  Raises
 * what reading a table raises.
 */
bool
sendkit_workspace_is_there(Relation table, AttrNumber column, Datum id)
{
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(table), column - 1);
	bool		found;

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	found = is_in(table, column, id);
	if (!found && table->rd_rel->relispartition)
		found = is_in_any_partition(root_of(RelationGetRelid(table)),
									NameStr(attribute->attname), id);
	PopActiveSnapshot();
	return found;
}
