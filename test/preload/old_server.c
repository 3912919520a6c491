/*
 * Makes a server seem to have started an hour ago.
 *
 * Loaded into the postmaster (and pg_ctl, which compares) it tells a time that is
 * an hour old. The postmaster's children are forked, and know the right time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static pid_t loaded_into;

__attribute__((constructor)) static void
remember(void)
{
	loaded_into = getpid();
}

int
gettimeofday(struct timeval *tv, void *tz)
{
	static int	(*original) (struct timeval *, void *);
	int			result;

	if (original == NULL)
		original = (int (*) (struct timeval *, void *)) dlsym(RTLD_NEXT, "gettimeofday");
	result = original(tv, tz);
	if (tv != NULL && getpid() == loaded_into)
		tv->tv_sec -= 3600;
	return result;
}

time_t
time(time_t *result)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	if (result != NULL)
		*result = now.tv_sec;
	return now.tv_sec;
}
