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

/* A column that a relation must have, in its place */
typedef struct SendkitColumn
{
	const char *name;
	Oid			type;
} SendkitColumn;

extern Oid	sendkit_extension_of(Oid function);
extern Oid	sendkit_extension_owner(Oid extension);
extern char *sendkit_extension_version(Oid extension);
extern Relation sendkit_table_open(Oid extension, const char *name, LOCKMODE mode, bool wait,
								   const SendkitColumn *columns, int ncolumns);
extern Oid	sendkit_sequence_of(Oid extension, const char *name);

#endif							/* SENDKIT_EXTENSION_H */
