/*-------------------------------------------------------------------------
 *
 * backend.c
 *	  What the sources under test need of a server, without one.
 *
 * PostgreSQL's own code does what it does in a server as far as its library
 * for programs has it: the JSON parser, encodings, string buffers.  Here is the
 * rest.
 *
 * Memory.  Each palloc is a malloc, so that AddressSanitizer sees the bounds of
 * every chunk; all of them are freed when an input is done, as a memory context
 * would be.
 *
 * Encodings.  The only one to be converted is LATIN1.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "common/fe_memutils.h"
#include "mb/pg_wchar.h"
#include "utils/datetime.h"
#include "utils/json.h"

#include "fuzz.h"

/* --- memory --- */

typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk *previous;
} Chunk;

static Chunk chunks = {&chunks, &chunks};

static Chunk *
chunk_of(void *pointer)
{
	return (Chunk *) pointer - 1;
}

static void *
link_chunk(Chunk *chunk)
{
	if (chunk == NULL)
		abort();
	chunk->next = chunks.next;
	chunk->previous = &chunks;
	chunk->next->previous = chunk;
	chunks.next = chunk;
	return chunk + 1;
}

static Chunk *
unlink_chunk(void *pointer)
{
	Chunk	   *chunk = chunk_of(pointer);

	chunk->previous->next = chunk->next;
	chunk->next->previous = chunk->previous;
	return chunk;
}

void *
palloc(Size size)
{
	return link_chunk(malloc(sizeof(Chunk) + size));
}

void *
palloc0(Size size)
{
	return link_chunk(calloc(1, sizeof(Chunk) + size));
}

void *
palloc_extended(Size size, int flags)
{
	return flags & MCXT_ALLOC_ZERO ? palloc0(size) : palloc(size);
}

void *
repalloc(void *pointer, Size size)
{
	return link_chunk(realloc(unlink_chunk(pointer), sizeof(Chunk) + size));
}

void
pfree(void *pointer)
{
	free(unlink_chunk(pointer));
}

char *
pnstrdup(const char *in, Size len)
{
	char	   *out;

	len = strnlen(in, len);
	out = palloc(len + 1);
	memcpy(out, in, len);
	out[len] = '\0';
	return out;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

void
fuzz_free_all(void)
{
	while (chunks.next != &chunks)
		pfree(chunks.next + 1);
}

/* --- encodings --- */

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

Oid
FindDefaultConversionProc(int32 from pg_attribute_unused(), int32 to pg_attribute_unused())
{
	return InvalidOid;
}

static int
latin1_to_utf8(const unsigned char *src, int len, unsigned char *dest)
{
	for (int i = 0; i < len; i++)
	{
		unicode_to_utf8(src[i], dest);
		dest += pg_utf_mblen(dest);
	}
	*dest = '\0';
	return len;
}

/* Stops at the first character that is not in LATIN1. */
static int
utf8_to_latin1(const unsigned char *src, int len, unsigned char *dest)
{
	int			done = 0;

	while (done < len)
	{
		int			n = pg_utf_mblen(src + done);
		pg_wchar	code = n > 0 && n <= len - done ? utf8_to_unicode(src + done) : 0;

		if (code == 0 || code > 0xff)
			break;
		*dest++ = (unsigned char) code;
		done += n;
	}
	*dest = '\0';
	return done;
}

int
pg_do_encoding_conversion_buf(Oid proc pg_attribute_unused(), int from, int to,
							  unsigned char *src, int srclen,
							  unsigned char *dest, int destlen, bool noError)
{
	Assert(noError && destlen >= srclen * MAX_CONVERSION_GROWTH + 1);
	if (from == PG_LATIN1 && to == PG_UTF8)
		return latin1_to_utf8(src, srclen, dest);
	if (from == PG_UTF8 && to == PG_LATIN1)
		return utf8_to_latin1(src, srclen, dest);
	abort();
}

/* As in mbutils.c: the length of the whole characters in the first limit bytes */
int
pg_encoding_mbcliplen(int encoding, const char *mbstr, int len, int limit)
{
	int			clipped = 0;

	while (clipped < len && mbstr[clipped])
	{
		int			n = pg_encoding_mblen(encoding, mbstr + clipped);

		if (clipped + n > limit)
			break;
		clipped += n;
	}
	return clipped;
}

/* --- dates, as in datetime.c --- */

const char *const months[] = {
	"Jan", "Feb", "Mar", "Apr", "May", "Jun",
	"Jul", "Aug", "Sep", "Oct", "Nov", "Dec", NULL
};

const int	day_tab[2][13] = {
	{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0},
	{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0}
};

/* The Julian day of a date after the year 0, counted in years that begin in March */
int
date2j(int year, int month, int day)
{
	int			y = month > 2 ? year : year - 1;
	int			m = month > 2 ? month - 3 : month + 9;

	return day + (153 * m + 2) / 5 + 365 * y + y / 4 - y / 100 + y / 400 + 1721119;
}

/* --- JSON --- */

/* As in json.c: quotes, backslashes and control characters are escaped. */
void
escape_json(StringInfo buf, const char *str)
{
	appendStringInfoChar(buf, '"');
	for (const char *p = str; *p; p++)
	{
		if (*p == '"' || *p == '\\')
			appendStringInfo(buf, "\\%c", *p);
		else if ((unsigned char) *p < ' ')
			appendStringInfo(buf, "\\u%04x", *p);
		else
			appendStringInfoChar(buf, *p);
	}
	appendStringInfoChar(buf, '"');
}

/* --- without libFuzzer: the inputs are files --- */

#ifdef FUZZ_REPLAY
int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
	{
		FILE	   *file = fopen(argv[i], "rb");
		uint8_t    *data = malloc(1 << 20);
		size_t		size;

		if (file == NULL || data == NULL)
			return 1;
		size = fread(data, 1, 1 << 20, file);
		fclose(file);
		LLVMFuzzerTestOneInput(data, size);
		free(data);
	}
	return 0;
}
#endif
