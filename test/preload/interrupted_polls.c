/*
 * For LD_PRELOAD: of the looks at sockets that do not wait, about every second one
 * is interrupted by a signal.  The kernel does that when one happens to come then.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>

static int
is_interrupted(int timeout)
{
	static __thread unsigned int seed = 1;

	if (timeout != 0)
		return 0;
	/* in no order that the callers could fall in step with */
	seed = seed * 1664525 + 1013904223;
	if (seed >> 31)
		return 0;
	errno = EINTR;
	return 1;
}

int
poll(struct pollfd *fds, nfds_t count, int timeout)
{
	int			(*real) (struct pollfd *, nfds_t, int) = dlsym(RTLD_NEXT, "poll");

	return is_interrupted(timeout) ? -1 : real(fds, count, timeout);
}

int
epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	int			(*real) (int, struct epoll_event *, int, int) = dlsym(RTLD_NEXT, "epoll_wait");

	return is_interrupted(timeout) ? -1 : real(epfd, events, max, timeout);
}
