/*-------------------------------------------------------------------------
 *
 * worker_database.c
 *	  The database of a worker: does somebody want it alone, is it still there?
 *
 * Both can be told without being connected to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_database.h"
#include "common/relpath.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "storage/lock.h"

#include "worker.h"

/*
 * Returns whether no new session could lock the database.  That is
 * RowExclusiveLock (postinit.c), which all commands that want to be alone there
 * conflict with.  Needs no transaction.
 */
bool
sendkit_worker_is_in_the_way(Oid database)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	/* for the session, since there may be no transaction; not for long */
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

static bool
is_database_folder(const char *parent, Oid database)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%u/PG_VERSION", parent, database);
	return access(path, F_OK) == 0;
}

/*
 * Returns whether the database has not been dropped.  Connecting to it would
 * tell, but with an error in the log for what is none.
 */
bool
sendkit_worker_has_database(Oid database)
{
	bool		exists = is_database_folder("base", database);
	DIR		   *folder = AllocateDir("pg_tblspc");
	struct dirent *entry;

	while (!exists && (entry = ReadDir(folder, "pg_tblspc")) != NULL)
	{
		char		parent[MAXPGPATH];

		snprintf(parent, sizeof(parent), "pg_tblspc/%s/%s", entry->d_name,
				 TABLESPACE_VERSION_DIRECTORY);
		exists = is_database_folder(parent, database);
	}
	FreeDir(folder);
	return exists;
}
