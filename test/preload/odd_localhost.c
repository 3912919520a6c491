/*
 * Preloaded into a server: a resolver that takes "localhost" for another address
 * than loopback.  That 0.0.0.0 leads to this machine all the same is what tells
 * whether it was tried.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>

typedef int (*lookup) (const char *, const char *, const struct addrinfo *,
					   struct addrinfo **);

int
getaddrinfo(const char *node, const char *service,
			const struct addrinfo *hints, struct addrinfo **res)
{
	lookup		real = (lookup) dlsym(RTLD_NEXT, "getaddrinfo");

	if (node && strcmp(node, "localhost") == 0)
		node = "0.0.0.0";
	return real(node, service, hints, res);
}
