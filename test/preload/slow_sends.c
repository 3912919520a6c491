/*
 * For LD_PRELOAD: whoever has sent something is away for a moment, in which a peer
 * on the same machine answers.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>
#include <time.h>

ssize_t
send(int fd, const void *data, size_t len, int flags)
{
	ssize_t		(*real) (int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
	struct timespec moment = {.tv_nsec = 100000};
	struct sockaddr address;
	socklen_t	size = sizeof(address);
	ssize_t		sent = real(fd, data, len, flags);

	/* the database's own clients have what they want at once */
	if (sent > 0 && getsockname(fd, &address, &size) == 0 && address.sa_family != AF_UNIX)
		nanosleep(&moment, NULL);
	return sent;
}
