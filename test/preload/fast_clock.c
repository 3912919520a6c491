/*
 * Preloaded into a server: clocks that run faster.
 *
 * All processes agree on the time of day: from CLOCK_START on, in seconds since
 * 1970, it runs CLOCK_SPEED times as fast. So do the other clocks that count time
 * and not the use of the processor. What the system waits for by itself, as in
 * poll(), takes as long as ever.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#define NS 1000000000LL

typedef int (*clock_function) (clockid_t, struct timespec *);

static long long
number(const char *name, long long otherwise)
{
	const char *value = getenv(name);

	return value ? atoll(value) : otherwise;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	static clock_function real;
	static long long speed;
	static long long start;
	long long	ns;

	if (real == NULL)
	{
		speed = number("CLOCK_SPEED", 1);
		start = number("CLOCK_START", 0) * NS;
		real = (clock_function) dlsym(RTLD_NEXT, "clock_gettime");
	}
	if (real(clock, now) != 0)
		return -1;
	if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID)
		return 0;
	ns = now->tv_sec * NS + now->tv_nsec;
	if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
		ns = start + (ns - start) * speed;
	else
		ns *= speed;
	now->tv_sec = ns / NS;
	now->tv_nsec = ns % NS;
	return 0;
}

int
gettimeofday(struct timeval *now, void *zone)
{
	struct timespec spec;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &spec) != 0)
		return -1;
	now->tv_sec = spec.tv_sec;
	now->tv_usec = spec.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *now)
{
	struct timespec spec;

	clock_gettime(CLOCK_REALTIME, &spec);
	if (now)
		*now = spec.tv_sec;
	return spec.tv_sec;
}
