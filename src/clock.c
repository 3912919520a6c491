/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The clock that timeouts are measured by.
 *
 * Pauses and timeouts are spans of time, which a clock that is set, or stepped,
 * must not stretch or cut.  What is said of a point in time that people know
 * ("not_after") is measured by PostgreSQL's GetCurrentTimestamp() instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "clock.h"

/* Milliseconds of a clock that nobody sets.  Cannot raise an error. */
int64
sendkit_clock_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
