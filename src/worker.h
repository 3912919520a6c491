/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Background workers: what delivers revocations without being called.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_WORKER_H
#define SENDKIT_WORKER_H

#include "postmaster/bgworker.h"

/* --- for everybody (worker_wake.c) --- */

/*
 * To be called by whatever makes a revocation due: when the transaction
 * commits, this database's worker is woken or, where there is none, started.
 * Raises 53200 the first time in a session, if memory is short.
 */
extern void sendkit_worker_note_enqueued(void);

/* Registers the launcher, if the library is being preloaded.  For _PG_init(). */
extern void sendkit_worker_init(void);

/* Was it registered?  Cannot raise an error. */
extern bool sendkit_worker_has_launcher(void);

extern Oid	sendkit_worker_runs_as(Oid extension);

/* --- for workers --- */

/* Why a worker was started, in the first byte of its bgw_extra */
typedef enum SendkitErrand
{
	SENDKIT_ERRAND_DELIVER,		/* something was committed */
	SENDKIT_ERRAND_VISIT,		/* to see whether anything is due */
} SendkitErrand;

/*
 * Has a worker started in a database.  Returns false if there is no room for
 * one.  The handle may be NULL, and is else in the current memory context;
 * without one this cannot raise an error.
 */
extern bool sendkit_worker_start(Oid database, SendkitErrand errand,
								 BackgroundWorkerHandle **handle);

/*
 * A database's worker is the one process that holds its place, a lock.  These
 * take it without waiting, which may fail, and let go of it.
 */
extern bool sendkit_worker_take_place(Oid database);
extern void sendkit_worker_leave_place(Oid database);

/*
 * Tells those that commit whether the worker of this database, which is the
 * caller, wants to be woken; it does at first.  Who begins to listen must look
 * at the queue then.  Returns whether that has just begun.  Needs no transaction.
 */
extern bool sendkit_worker_listen(bool listening);

/* Does any process hold the place?  Cannot raise an error. */
extern bool sendkit_worker_is_there(Oid database);

/* The processes' entry points, found by name */
extern PGDLLEXPORT void sendkit_worker_main(Datum database);
extern PGDLLEXPORT void sendkit_launcher_main(Datum unused);

#endif							/* SENDKIT_WORKER_H */
