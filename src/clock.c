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

static int64
read_clock(clockid_t which)
{
	struct timespec ts;

	clock_gettime(which, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * Milliseconds of a clock that nobody sets.  Cannot raise an error; safe in a
 * signal handler.
 */
int64
sendkit_clock_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

/*
 * The same, late by a tick of the kernel at most (10 ms), for an eighth of the
 * cost: a warm call would ask twenty times whether something takes too long.
 */
int64
sendkit_clock_coarse(void)
{
	return read_clock(CLOCK_MONOTONIC_COARSE);
}

/* Milliseconds of CPU time that the process has used.  The same holds. */
int64
sendkit_clock_cpu(void)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}
