/*
 * Preloaded into a server: another trust store in the place of the system's.
 *
 * The bundle named CA_BUNDLE, and all that is below the folder CA_FOLDER (both by
 * the very names that libcurl was built with), are looked for in the folder
 * CA_INSTEAD, whatever way a library may open, examine or list them: open64() and
 * its like are functions of their own, and so is __xstat(), which until glibc 2.32
 * was what a call of stat() came to.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* The C library's function, or the next preloaded library's */
#define REAL(type, name) ((type) dlsym(RTLD_NEXT, name))

/* Returns where to look for this path. */
static const char *
moved(const char *path)
{
	static __thread char buffer[4096];
	const char *bundle = getenv("CA_BUNDLE");
	const char *folder = getenv("CA_FOLDER");
	const char *instead = getenv("CA_INSTEAD");
	const char *rest;

	if (path == NULL || instead == NULL)
		return path;
	if (bundle && strcmp(path, bundle) == 0)
		rest = strrchr(path, '/');
	else if (folder && folder[0] && strncmp(path, folder, strlen(folder)) == 0)
		rest = path + strlen(folder);
	else
		return path;
	if (rest[0] != '\0' && rest[0] != '/')
		return path;
	snprintf(buffer, sizeof(buffer), "%s%s", instead, rest);
	return buffer;
}

/* --- open --- */

typedef int (*open_function) (const char *, int, ...);
typedef int (*openat_function) (int, const char *, int, ...);
typedef FILE *(*fopen_function) (const char *, const char *);

/* The argument that is there only when a file may be made */
#define GET_MODE(mode, flags) \
	mode_t		mode = 0; \
	if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) \
	{ \
		va_list		args; \
		va_start(args, flags); \
		mode = va_arg(args, mode_t); \
		va_end(args); \
	}

#define DEFINE_OPEN(name) \
int \
name(const char *path, int flags, ...) \
{ \
	GET_MODE(mode, flags) \
	return REAL(open_function, #name) (moved(path), flags, mode); \
}

#define DEFINE_OPENAT(name) \
int \
name(int dir, const char *path, int flags, ...) \
{ \
	GET_MODE(mode, flags) \
	return REAL(openat_function, #name) (dir, moved(path), flags, mode); \
}

#define DEFINE_FOPEN(name) \
FILE * \
name(const char *path, const char *mode) \
{ \
	return REAL(fopen_function, #name) (moved(path), mode); \
}

/* what open() and openat() are to code that was built with _FORTIFY_SOURCE */
#define DEFINE_OPEN_2(name) \
int \
name(const char *path, int flags) \
{ \
	return REAL(open_function, #name) (moved(path), flags); \
}

#define DEFINE_OPENAT_2(name) \
int \
name(int dir, const char *path, int flags) \
{ \
	return REAL(openat_function, #name) (dir, moved(path), flags); \
}

DEFINE_OPEN(open)
DEFINE_OPEN(open64)
DEFINE_OPEN_2(__open_2)
DEFINE_OPEN_2(__open64_2)
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)
DEFINE_OPENAT_2(__openat_2)
DEFINE_OPENAT_2(__openat64_2)
DEFINE_FOPEN(fopen)
DEFINE_FOPEN(fopen64)

/* --- stat and access --- */

/* struct stat or struct stat64: only handed on */
typedef int (*stat_function) (const char *, void *);
typedef int (*xstat_function) (int, const char *, void *);
typedef int (*fstatat_function) (int, const char *, void *, int);
typedef int (*fxstatat_function) (int, int, const char *, void *, int);
typedef int (*access_function) (const char *, int);
typedef int (*faccessat_function) (int, const char *, int, int);

#define DEFINE_STAT(name, buffer) \
int \
name(const char *path, struct buffer *st) \
{ \
	return REAL(stat_function, #name) (moved(path), st); \
}

#define DEFINE_FSTATAT(name, buffer) \
int \
name(int dir, const char *path, struct buffer *st, int flags) \
{ \
	return REAL(fstatat_function, #name) (dir, moved(path), st, flags); \
}

#define DEFINE_XSTAT(name, buffer) \
int \
name(int version, const char *path, struct buffer *st) \
{ \
	return REAL(xstat_function, #name) (version, moved(path), st); \
}

#define DEFINE_FXSTATAT(name, buffer) \
int \
name(int version, int dir, const char *path, struct buffer *st, int flags) \
{ \
	return REAL(fxstatat_function, #name) (version, dir, moved(path), st, flags); \
}

DEFINE_STAT(stat, stat)
DEFINE_STAT(stat64, stat64)
DEFINE_STAT(lstat, stat)
DEFINE_STAT(lstat64, stat64)
DEFINE_FSTATAT(fstatat, stat)
DEFINE_FSTATAT(fstatat64, stat64)
DEFINE_XSTAT(__xstat, stat)
DEFINE_XSTAT(__xstat64, stat64)
DEFINE_XSTAT(__lxstat, stat)
DEFINE_XSTAT(__lxstat64, stat64)
DEFINE_FXSTATAT(__fxstatat, stat)
DEFINE_FXSTATAT(__fxstatat64, stat64)

int
access(const char *path, int mode)
{
	return REAL(access_function, "access") (moved(path), mode);
}

int
faccessat(int dir, const char *path, int mode, int flags)
{
	return REAL(faccessat_function, "faccessat") (dir, moved(path), mode, flags);
}

/* --- folders --- */

typedef DIR *(*opendir_function) (const char *);
typedef int (*scandir_function) (const char *, void *, void *, void *);

DIR *
opendir(const char *path)
{
	return REAL(opendir_function, "opendir") (moved(path));
}

#define DEFINE_SCANDIR(name, entry) \
int \
name(const char *path, struct entry ***list, \
	 int (*filter) (const struct entry *), \
	 int (*compare) (const struct entry **, const struct entry **)) \
{ \
	return REAL(scandir_function, #name) (moved(path), list, filter, compare); \
}

DEFINE_SCANDIR(scandir, dirent)
DEFINE_SCANDIR(scandir64, dirent64)
