/*
 * Lets a test that may not change a file's owner see what happens with files of
 * others: an open file whose name begins with "owned-by-N-" seems to belong to
 * the user with the number N. Nothing but what fstat() says is changed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int
fstat(int fd, struct stat *st)
{
	int (*real) (int, struct stat *) = dlsym(RTLD_NEXT, "fstat");
	int result = real(fd, st);
	char link[64];
	char target[4096];
	ssize_t len;
	char *name;
	unsigned int owner;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, target, sizeof(target) - 1);
	if (len < 0)
		return result;
	target[len] = '\0';
	name = strrchr(target, '/');
	if (name && sscanf(name + 1, "owned-by-%u-", &owner) == 1)
		st->st_uid = owner;
	return result;
}
