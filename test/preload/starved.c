/*
 * Preloaded into a server, and made into SQL functions: memory that runs out.
 *
 * starve(kind, n) lets the session's nth allocation from then on fail that is made
 * beneath the extension's code: kind 1 counts what is asked of the C library (by
 * us, by libcurl, by its TLS library, and by PostgreSQL for its memory contexts),
 * kind 2 what is asked of memory contexts.  starved() ends that, and tells whether
 * so many were made.
 *
 * What runs beneath is told by the stack.  An allocation that PostgreSQL makes for
 * the end of a transaction does not fail, whoever ends it: that is not our code,
 * and an error there can be PostgreSQL's ruin.
 *
 * Data of the server's is looked up by name, since its clients have none and are
 * preloaded with this, too.
 */
#define _GNU_SOURCE
#include "postgres.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fmgr.h"
#include "nodes/memnodes.h"
#if PG_VERSION_NUM >= 170000
#include "utils/memutils_internal.h"
#endif

#define MAX_FRAMES 200

/* glibc's own names for its functions */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(starve);
PG_FUNCTION_INFO_V1(starved);

enum
{
	NOTHING,
	MALLOC,
	PALLOC
};

static int	kind = NOTHING;
static int	left;				/* until one fails */
static __thread bool looking = false;
static char *code_begin;		/* where the extension's code is */
static char *code_end;
static MemoryContextMethods *methods;
static MemoryContextMethods real;

/* --- whose allocation it is --- */

static int
find_code(struct dl_phdr_info *library, size_t size, void *arg)
{
	if (strstr(library->dlpi_name, "/sendkit.so") == NULL)
		return 0;
	for (int i = 0; i < library->dlpi_phnum; i++)
	{
		const ElfW(Phdr) *segment = &library->dlpi_phdr[i];

		if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X))
		{
			code_begin = (char *) library->dlpi_addr + segment->p_vaddr;
			code_end = code_begin + segment->p_memsz;
		}
	}
	return 1;
}

static bool
ends_transaction(void *address)
{
	Dl_info		info;

	return dladdr(address, &info) && info.dli_sname &&
		(strcmp(info.dli_sname, "CommitTransactionCommand") == 0 ||
		 strcmp(info.dli_sname, "AbortCurrentTransaction") == 0 ||
		 strcmp(info.dli_sname, "StartTransactionCommand") == 0);
}

/*
 * Returns how many of these frames are beneath the extension's code, or -1 if they
 * are not made by it, nor by anything that it has called.
 */
static int
frames_beneath(void **frames, int n)
{
	for (int i = 0; i < n; i++)
	{
		if ((char *) frames[i] >= code_begin && (char *) frames[i] < code_end)
			return i;
	}
	return -1;
}

static bool
is_nth(void)
{
	void	   *frames[MAX_FRAMES];
	int			beneath = frames_beneath(frames, backtrace(frames, MAX_FRAMES));

	if (beneath < 0 || --left > 0)
		return false;
	for (int i = 0; i < beneath; i++)
	{
		if (ends_transaction(frames[i]))
			return false;
	}
	return true;
}

static bool
fails(int which)
{
	bool		result;

	if (kind != which || left <= 0 || looking)
		return false;
	looking = true;
	result = is_nth();
	looking = false;
	return result;
}

/* --- the C library --- */

static void *
none(void)
{
	errno = ENOMEM;
	return NULL;
}

void *
malloc(size_t size)
{
	return fails(MALLOC) ? none() : __libc_malloc(size);
}

void *
calloc(size_t n, size_t size)
{
	return fails(MALLOC) ? none() : __libc_calloc(n, size);
}

void *
realloc(void *old, size_t size)
{
	return fails(MALLOC) ? none() : __libc_realloc(old, size);
}

/* --- memory contexts --- */

#if PG_VERSION_NUM >= 170000

static void *
starving_alloc(MemoryContext context, Size size, int flags)
{
	return fails(PALLOC) ? MemoryContextAllocationFailure(context, size, flags) :
		real.alloc(context, size, flags);
}

static void *
starving_realloc(void *pointer, Size size, int flags)
{
	return fails(PALLOC) ?
		MemoryContextAllocationFailure(real.get_chunk_context(pointer), size, flags) :
		real.realloc(pointer, size, flags);
}

#else

static void *
starving_alloc(MemoryContext context, Size size)
{
	return fails(PALLOC) ? NULL : real.alloc(context, size);
}

#if PG_VERSION_NUM >= 160000

static void *
starving_realloc(void *pointer, Size size)
{
	return fails(PALLOC) ? NULL : real.realloc(pointer, size);
}

#else

static void *
starving_realloc(MemoryContext context, void *pointer, Size size)
{
	return fails(PALLOC) ? NULL : real.realloc(context, pointer, size);
}

#endif
#endif

/* All contexts share one table, which is made writable for this. */
static void
take_over_methods(void)
{
	MemoryContext *top = dlsym(RTLD_DEFAULT, "TopMemoryContext");
	uintptr_t	page = sysconf(_SC_PAGESIZE);
	uintptr_t	begin;

	if (methods)
		return;
	methods = (MemoryContextMethods *) (*top)->methods;
	real = *methods;
	begin = (uintptr_t) methods / page * page;
	mprotect((void *) begin, (uintptr_t) (methods + 1) - begin, PROT_READ | PROT_WRITE);
	methods->alloc = starving_alloc;
	methods->realloc = starving_realloc;
}

/* --- from SQL --- */

Datum
starve(PG_FUNCTION_ARGS)
{
	void	   *frame;

	/* the first time it loads a library */
	(void) backtrace(&frame, 1);
	(void) dl_iterate_phdr(find_code, NULL);
	take_over_methods();
	left = PG_GETARG_INT32(1);
	kind = PG_GETARG_INT32(0);
	PG_RETURN_VOID();
}

Datum
starved(PG_FUNCTION_ARGS)
{
	bool		reached = kind != NOTHING && left <= 0;

	kind = NOTHING;
	PG_RETURN_BOOL(reached);
}
