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

extern void sendkit_worker_note_enqueued(void);

extern void sendkit_worker_init(void);

extern bool sendkit_worker_has_launcher(void);

extern Oid	sendkit_worker_runs_as(Oid extension);

/* --- for workers, and those who start them (worker_wake.c) --- */

/* Why a worker was started, in the first byte of its bgw_extra */
typedef enum SendkitErrand
{
	SENDKIT_ERRAND_DELIVER,		/* something was committed */
	SENDKIT_ERRAND_VISIT,		/* to see whether anything is due */
} SendkitErrand;

extern bool sendkit_worker_start(Oid database, SendkitErrand errand,
								 BackgroundWorkerHandle **handle);

extern bool sendkit_worker_take_place(Oid database);
extern void sendkit_worker_leave_place(Oid database);

extern bool sendkit_worker_listen(bool listening);

extern bool sendkit_worker_is_there(Oid database);

/* --- its database (worker_database.c) --- */

extern bool sendkit_worker_is_in_the_way(Oid database);

extern bool sendkit_worker_has_database(Oid database);

/* --- entry points --- */

extern PGDLLEXPORT void sendkit_worker_main(Datum database);
extern PGDLLEXPORT void sendkit_launcher_main(Datum unused);

#endif							/* SENDKIT_WORKER_H */
