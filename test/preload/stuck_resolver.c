/*
 * Preloaded into a server: a name server that takes its time.
 *
 * Looking up STUCK_HOST takes STUCK_SECONDS and then fails; for all other names
 * this is the C library's getaddrinfo().
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*lookup) (const char *, const char *, const struct addrinfo *,
					   struct addrinfo **);

int
getaddrinfo(const char *node, const char *service,
			const struct addrinfo *hints, struct addrinfo **res)
{
	const char *host = getenv("STUCK_HOST");
	const char *seconds = getenv("STUCK_SECONDS");
	lookup		real = (lookup) dlsym(RTLD_NEXT, "getaddrinfo");

	if (node && host && seconds && strcmp(node, host) == 0)
	{
		unsigned int left = atoi(seconds);

		/* a signal must not shorten it */
		while (left > 0)
			left = sleep(left);
		return EAI_AGAIN;
	}
	return real(node, service, hints, res);
}
