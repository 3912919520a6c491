/*-------------------------------------------------------------------------
 *
 * extension.h
 *	  The extension's own relations, found by membership and not by name alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_EXTENSION_H
#define SENDKIT_EXTENSION_H

#include "storage/lockdefs.h"
#include "utils/relcache.h"

/*
 * Returns the OID of the extension that a function belongs to: with
 * fcinfo->flinfo->fn_oid, of the one that was called.  Raises 55000 if it
 * belongs to none.
 */
extern Oid	sendkit_extension_of(Oid function);

/*
 * Returns who owns an extension.  Raises 42704 if there is none any more.
 */
extern Oid	sendkit_extension_owner(Oid extension);

/* A column that a relation must have, in its place */
typedef struct SendkitColumn
{
	const char *name;
	Oid			type;
} SendkitColumn;

/*
 * Opens a table of the extension, and locks it until the end of the
 * transaction; close it with table_close(relation, NoLock).  It is checked
 * after it was locked: it is a plain, permanent table, a member of the
 * extension, belongs to the extension's owner and begins with these columns.
 * Returns NULL if wait is false and somebody holds a lock that is in the way.
 * Raises 42P01 if there is no such table (or no such extension any more), 55000
 * if it has been altered, and what waiting for a lock raises.
 */
extern Relation sendkit_table_open(Oid extension, const char *name, LOCKMODE mode, bool wait,
								   const SendkitColumn *columns, int ncolumns);

/*
 * Returns the OID of a sequence that belongs to the extension, too.  Raises
 * 42P01 if there is none.
 */
extern Oid	sendkit_sequence_of(Oid extension, const char *name);

#endif							/* SENDKIT_EXTENSION_H */
