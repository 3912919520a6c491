/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every gate on a version of PostgreSQL.
 *
 * Supported are PostgreSQL 15 to 19.  The rest of the code asks for an ability
 * by the name that the newest version gives it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_COMPAT_H
#define SENDKIT_COMPAT_H

#include "access/tableam.h"
#include "catalog/pg_foreign_server.h"
#include "common/jsonapi.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

#if PG_VERSION_NUM < 150000
#error "sendkit needs PostgreSQL 15 or later"
#endif

/* --- PostgreSQL 16: the semantic actions of jsonapi.h return an error code --- */

#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType SendkitJsonResult;
#define SENDKIT_JSON_CONTINUE return JSON_SUCCESS
#else
typedef void SendkitJsonResult;
#define SENDKIT_JSON_CONTINUE return
#endif

/*
 * PostgreSQL 17: makeJsonLexContextCstringLen() takes a lexer to fill, or NULL
 * for a new one.
 */
static inline JsonLexContext *
sendkit_json_lexer(char *json, int len, int encoding, bool need_escapes)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, len, encoding, need_escapes);
#else
	return makeJsonLexContextCstringLen(json, len, encoding, need_escapes);
#endif
}

/*
 * PostgreSQL 17: a WaitEventSet belongs to a resource owner, and to the
 * session without one; before, to a memory context.
 */
static inline WaitEventSet *
sendkit_session_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* PostgreSQL 16: object_aclcheck() instead of one function per kind of object */
static inline AclResult
sendkit_server_aclcheck(Oid server, Oid role, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, server, role, mode);
#else
	return pg_foreign_server_aclcheck(server, role, mode);
#endif
}

/* PostgreSQL 16: object_ownercheck(), likewise */
static inline bool
sendkit_server_ownercheck(Oid server, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(ForeignServerRelationId, server, role);
#else
	return pg_foreign_server_ownercheck(server, role);
#endif
}

/* PostgreSQL 16: find_option(), which is not static any more.  NULL: no such setting. */
static inline const struct config_generic *
sendkit_find_setting(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return find_option(name, false, true, DEBUG1);
#else
	struct config_generic **settings = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		/*
		 * as PostgreSQL does: a placeholder is called what somebody has
		 * called it first
		 */
		if (pg_strcasecmp(settings[i]->name, name) == 0)
			return settings[i];
	}
	return NULL;
#endif
}

/* PostgreSQL 18: generated columns that are stored nowhere, so that no tuple has them */
static inline bool
sendkit_is_virtual(Form_pg_attribute attribute pg_attribute_unused())
{
#if PG_VERSION_NUM >= 180000
	return attribute->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
#else
	return false;
#endif
}

/* PostgreSQL 17: wait events with names of an extension's own */
static inline uint32
sendkit_wait_event(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("SendkitRequest");
	return wait_event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

static inline uint32
sendkit_worker_wait_event(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("SendkitWorkerMain");
	return wait_event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* PostgreSQL 19: table_beginscan() takes flags */
static inline TableScanDesc
sendkit_table_beginscan(Relation relation, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 190000
	return table_beginscan(relation, snapshot, 0, NULL, 0);
#else
	return table_beginscan(relation, snapshot, 0, NULL);
#endif
}

/*
 * PostgreSQL 19: a worker can be asked to leave when its database is to be
 * dropped or copied
 */
#ifndef BGWORKER_INTERRUPTIBLE
#define BGWORKER_INTERRUPTIBLE 0
#endif

/* PostgreSQL 17: a limit for transactions, for which a delivery takes too long */
#if PG_VERSION_NUM >= 170000
#define SENDKIT_HAVE_TRANSACTION_TIMEOUT 1
#else
#define SENDKIT_HAVE_TRANSACTION_TIMEOUT 0
#endif

/* Does this entry of a process's list of locks say that it holds this one? */
static inline bool
sendkit_is_held(const PROCLOCK *held, const LOCKTAG *tag)
{
	return held->holdMask != 0 &&
		memcmp(&held->tag.myLock->tag, tag, sizeof(LOCKTAG)) == 0;
}

/*
 * Does a process hold a lock?  The caller has the lock's partition locked.
 * PostgreSQL 16: dlist_head instead of SHM_QUEUE
 */
static inline bool
sendkit_proc_holds_lock(PGPROC *proc, const LOCKTAG *tag, uint32 hash)
{
#if PG_VERSION_NUM >= 160000
	dlist_iter	iter;

	dlist_foreach(iter, &proc->myProcLocks[LockHashPartition(hash)])
	{
		if (sendkit_is_held(dlist_container(PROCLOCK, procLink, iter.cur), tag))
			return true;
	}
#else
	SHM_QUEUE  *locks = &proc->myProcLocks[LockHashPartition(hash)];
	PROCLOCK   *held;

	for (held = (PROCLOCK *) SHMQueueNext(locks, locks, offsetof(PROCLOCK, procLink));
		 held != NULL;
		 held = (PROCLOCK *) SHMQueueNext(locks, &held->procLink, offsetof(PROCLOCK, procLink)))
	{
		if (sendkit_is_held(held, tag))
			return true;
	}
#endif
	return false;
}

#endif							/* SENDKIT_COMPAT_H */
