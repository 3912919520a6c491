/*-------------------------------------------------------------------------
 *
 * lock_tags.h
 *	  The heavyweight locks by which the processes of a database know of each
 *	  other.
 *
 * They are advisory locks of classes that no SQL function can reach (those use
 * 1 and 2 as the last field of the tag), so that nobody takes or forges one.
 * They are held for the session: neither commit nor rollback lets go of them,
 * and the end of the process does, however it comes about.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_LOCK_TAGS_H
#define SENDKIT_LOCK_TAGS_H

#include "miscadmin.h"
#include "storage/lock.h"

typedef enum SendkitLockClass
{
	SENDKIT_LOCK_RUN = 0x5E01,	/* by the run's token: it lives */
	SENDKIT_LOCK_WORKER = 0x5E02,	/* by 0: this database has its worker */
	SENDKIT_LOCK_DEAF = 0x5E03, /* by 0: which need not be woken now */
} SendkitLockClass;

/* Fills in the tag of a lock in this database.  Cannot raise. */
static inline void
sendkit_lock_tag(LOCKTAG *tag, SendkitLockClass lock_class, uint64 key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key,
						 (uint16) lock_class);
}

#endif							/* SENDKIT_LOCK_TAGS_H */
