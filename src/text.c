/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Text between the database's encoding and the API's UTF-8.
 *
 * On the wire everything is UTF-8, in the database it is whatever the database
 * was created with.  The usual conversion routines raise an error for what
 * they cannot convert.  That will not do on the way in, because an error would
 * hide that a key is gone; nor on the way out, because the error would log the
 * statement, which may hold a platform key.  So everything here goes through
 * pg_do_encoding_conversion_buf(), which can be told not to raise.
 *
 * A database in SQL_ASCII says nothing about its bytes: they are passed on as
 * they are, and outgoing ones have to be valid UTF-8 by themselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "text.h"

/* Stands for what the database's encoding cannot hold; ASCII is in all of them */
#define REPLACEMENT '?'

/*
 * A platform key shorter than this is not masked: no real key is, and a text
 * with every "a" overwritten would help nobody.
 */
#define MIN_MASKED_KEY 6

/* What the vendor's keys begin with, and how long such a word must be to be one */
#define KEY_PREFIX "sk_"
#define MIN_KEY_WORD 11

/* --- conversion functions --- */

static bool
is_ascii_only(const char *text, int len)
{
	for (int i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(text[i]))
			return false;
	}
	return true;
}

/*
 * Converts as much as can be converted, into a buffer of len *
 * MAX_CONVERSION_GROWTH + 1 bytes.  Returns the number of bytes consumed.
 */
static int
convert(Oid proc, int from, int to, const char *text, int len, char *out)
{
	return pg_do_encoding_conversion_buf(proc, from, to,
										 (unsigned char *) unconstify(char *, text), len,
										 (unsigned char *) out,
										 len * MAX_CONVERSION_GROWTH + 1,
										 true);
}

/* The first call of a conversion function loads its library: have that done. */
static void
load_conversion(Oid proc, int from, int to)
{
	char		out[MAX_CONVERSION_GROWTH + 1];

	if (OidIsValid(proc))
		(void) convert(proc, from, to, " ", 1, out);
}

void
sendkit_text_init(SendkitTextConverter *converter)
{
	converter->encoding = GetDatabaseEncoding();
	converter->to_utf8 = InvalidOid;
	converter->from_utf8 = InvalidOid;

	if (converter->encoding == PG_UTF8 || converter->encoding == PG_SQL_ASCII)
		return;

	converter->to_utf8 = FindDefaultConversionProc(converter->encoding, PG_UTF8);
	converter->from_utf8 = FindDefaultConversionProc(PG_UTF8, converter->encoding);
	load_conversion(converter->to_utf8, converter->encoding, PG_UTF8);
	load_conversion(converter->from_utf8, PG_UTF8, converter->encoding);
}

/* --- to the API --- */

static bool
is_valid_utf8(const char *text, int len)
{
	return pg_encoding_verifymbstr(PG_UTF8, text, len) == len;
}

char *
sendkit_text_to_utf8(const SendkitTextConverter *converter,
					 const char *text, int len)
{
	char	   *out;

	if (converter->encoding == PG_UTF8 || converter->encoding == PG_SQL_ASCII ||
		is_ascii_only(text, len))
		return is_valid_utf8(text, len) ? pnstrdup(text, len) : NULL;

	if (!OidIsValid(converter->to_utf8))
		return NULL;

	out = palloc(len * MAX_CONVERSION_GROWTH + 1);
	if (convert(converter->to_utf8, converter->encoding, PG_UTF8, text, len, out) != len)
		return NULL;
	return out;
}

/* --- from the API --- */

/*
 * Is this the beginning of a control character?  C1 controls are two bytes in
 * UTF-8, 0xC2 0x80 to 0xC2 0x9F.
 */
static bool
is_control(const char *p)
{
	unsigned char c = (unsigned char) p[0];

	if (c < 0x20 || c == 0x7f)
		return true;
	return c == 0xc2 &&
		(unsigned char) p[1] >= 0x80 && (unsigned char) p[1] <= 0x9f;
}

bool
sendkit_text_has_control(const char *utf8)
{
	for (const char *p = utf8; *p; p++)
	{
		if (is_control(p))
			return true;
	}
	return false;
}

/*
 * Returns a palloc'd copy that is valid UTF-8 and has no control characters.
 */
static char *
clean_utf8(const char *text, int len)
{
	StringInfoData out;
	const char *end = text + len;

	initStringInfo(&out);
	for (const char *p = text; p < end;)
	{
		int			n = pg_encoding_mblen(PG_UTF8, p);
		bool		whole = n <= end - p;

		/* a zero byte is a control character here, but malformed elsewhere */
		if (*p == '\0' || (whole && is_control(p)))
			appendStringInfoChar(&out, ' ');
		else if (whole && is_valid_utf8(p, n))
		{
			appendBinaryStringInfo(&out, p, n);
			p += n;
			continue;
		}
		else
		{
			appendStringInfoChar(&out, REPLACEMENT);
			n = 1;
		}
		p += n;
	}
	return out.data;
}

/* Converts clean UTF-8, character by character where one does not translate. */
static char *
translate(const SendkitTextConverter *converter, const char *text)
{
	StringInfoData out;
	int			len = strlen(text);
	char	   *piece = palloc(len * MAX_CONVERSION_GROWTH + 1);

	initStringInfo(&out);
	while (len > 0)
	{
		int			done = 0;

		if (OidIsValid(converter->from_utf8))
			done = convert(converter->from_utf8, PG_UTF8, converter->encoding,
						   text, len, piece);
		if (done > 0)
			appendStringInfoString(&out, piece);
		if (done < len)
		{
			appendStringInfoChar(&out, REPLACEMENT);
			done += pg_encoding_mblen(PG_UTF8, text + done);
		}
		text += done;
		len -= done;
	}
	pfree(piece);
	return out.data;
}

/* Ordinary text needs neither cleaning nor converting. */
static bool
is_printable_ascii(const char *text, int len)
{
	for (int i = 0; i < len; i++)
	{
		if (text[i] < 0x20 || text[i] > 0x7e)
			return false;
	}
	return true;
}

char *
sendkit_text_from_utf8(const SendkitTextConverter *converter,
					   const char *text, int len)
{
	char	   *clean;

	if (is_printable_ascii(text, len))
		return pnstrdup(text, len);

	clean = clean_utf8(text, len);

	if (converter->encoding == PG_UTF8 || converter->encoding == PG_SQL_ASCII ||
		is_ascii_only(clean, strlen(clean)))
		return clean;
	return translate(converter, clean);
}

/* --- keys --- */

static bool
is_key_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		(c >= '0' && c <= '9') || c == '_' || c == '-';
}

static void
mask_every(char *text, const char *key)
{
	size_t		len = strlen(key);

	for (char *p = strstr(text, key); p; p = strstr(p + len, key))
		memset(p, '*', len);
}

/*
 * Overwrites words such as sk_user_abc... and sk_abc...: the API might echo
 * the workspace's own key, which is as secret as ours.
 */
static void
mask_key_words(char *text)
{
	for (char *p = strstr(text, KEY_PREFIX); p; p = strstr(p, KEY_PREFIX))
	{
		size_t		len = 0;

		while (is_key_char(p[len]))
			len++;
		/* "task_" and its like only end like the beginning of a key */
		if (len >= MIN_KEY_WORD && !(p > text && isalnum((unsigned char) p[-1])))
			memset(p, '*', len);
		p += len;
	}
}

void
sendkit_text_mask_keys(char *text, const char *platform_key)
{
	if (strlen(platform_key) >= MIN_MASKED_KEY)
		mask_every(text, platform_key);
	mask_key_words(text);
}
