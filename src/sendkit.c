/*-------------------------------------------------------------------------
 *
 * sendkit.c
 *	  Module entry: the table of contents.
 *
 * Loading the library defines its settings and nothing else.  Connections are
 * made by the first call that needs one, in the backend that makes the call
 * (http.c), so that preloading the library into the postmaster costs nothing
 * and starts no thread there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "guc.h"
#include "sendkit.h"
#include "worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	sendkit_guc_init();
	sendkit_worker_init();
}
