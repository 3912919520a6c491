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

#include "catalog/namespace.h"
#include "common/string.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "platform_key.h"
#include "text.h"

/* Stands for what the database's encoding cannot hold; ASCII is in all of them */
#define REPLACEMENT '?'

/* Stands for a control character until keys are masked */
#define CONTROL '\001'

/*
 * A platform key shorter than this is not masked: no real key is, and a text
 * with every "a" overwritten would help nobody.
 */
#define MIN_MASKED_KEY 6

/* How long a word must be to be a key of the vendor's, its beginning included */
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

/*
 * Looks the conversion functions up and loads them, so that nothing of the
 * kind is left to do when an answer is here.  Reads the catalogs; may raise
 * their errors.
 */
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

/*
 * Takes len bytes of text in the database's encoding.  Returns them as a
 * palloc'd UTF-8 string, or NULL if they have no valid form in UTF-8.  Raises
 * nothing but out of memory.
 */
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

/* Has the UTF-8 text a C0 or C1 control character, or DEL?  Cannot raise. */
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

/* White_Space of Unicode, and the two that are as invisible: U+200B and U+FEFF */
static bool
is_blank(const char *p)
{
	pg_wchar	code = utf8_to_unicode((const unsigned char *) p);

	return code == ' ' || code == 0xa0 || code == 0x1680 ||
		(code >= 0x2000 && code <= 0x200b) ||
		code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
		code == 0x3000 || code == 0xfeff;
}

/* Begins or ends the UTF-8 text, which is not empty, with a blank?  Cannot raise. */
bool
sendkit_text_has_blank_end(const char *utf8)
{
	const char *last = utf8 + strlen(utf8) - 1;

	while (last > utf8 && ((unsigned char) *last & 0xc0) == 0x80)
		last--;
	return is_blank(utf8) || is_blank(last);
}

/* Returns a palloc'd copy that is valid UTF-8, with no control character but CONTROL. */
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
			appendStringInfoChar(&out, CONTROL);
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

/* Returns valid text of the database's encoding, with CONTROL for each control character. */
static char *
from_utf8(const SendkitTextConverter *converter, const char *utf8)
{
	int			len = strlen(utf8);
	char	   *clean;

	if (is_printable_ascii(utf8, len))
		return pnstrdup(utf8, len);

	clean = clean_utf8(utf8, len);

	if (converter->encoding == PG_UTF8 || converter->encoding == PG_SQL_ASCII ||
		is_ascii_only(clean, strlen(clean)))
		return clean;
	return translate(converter, clean);
}

/* --- keys --- */

/*
 * A text without its control characters, so that a key which they break in
 * pieces stands there whole, and where its characters are in the text.
 */
typedef struct Joined
{
	char	   *chars;
	char	  **places;
} Joined;

static void
join(char *text, Joined *joined)
{
	size_t		len = strlen(text);
	size_t		n = 0;

	joined->chars = palloc(len + 1);
	joined->places = palloc_extended((len + 1) * sizeof(char *), MCXT_ALLOC_HUGE);
	for (char *p = text; *p; p++)
	{
		if (*p == CONTROL)
			continue;
		joined->chars[n] = *p;
		joined->places[n++] = p;
	}
	joined->chars[n] = '\0';
}

/* Overwrites len characters from p on, here and in the text. */
static void
mask(Joined *joined, char *p, size_t len)
{
	for (size_t i = p - joined->chars; len > 0; i++, len--)
	{
		joined->chars[i] = '*';
		*joined->places[i] = '*';
	}
}

static void
mask_every(Joined *joined, const char *key)
{
	size_t		len = strlen(key);

	for (char *p = strstr(joined->chars, key); p; p = strstr(p + len, key))
		mask(joined, p, len);
}

/*
 * Overwrites what begins as the vendor's keys do, up to a blank or a quote:
 * the API might echo the workspace's own key, which is as secret as ours.  What
 * stands before it, and which characters it has, doesn't matter.
 */
static void
mask_key_words(Joined *joined)
{
	for (char *p = strstr(joined->chars, SENDKIT_KEY_PREFIX); p; p = strstr(p, SENDKIT_KEY_PREFIX))
	{
		size_t		len = strcspn(p, " \"'");

		if (len >= MIN_KEY_WORD)
			mask(joined, p, len);
		p += len;
	}
}

static void
mask_keys(char *text, const char *platform_key)
{
	Joined		joined;

	join(text, &joined);
	if (strlen(platform_key) >= MIN_MASKED_KEY)
		mask_every(&joined, platform_key);
	mask_key_words(&joined);
	pfree(joined.chars);
	pfree(joined.places);
}

/* --- the door --- */

/* Returns how much of a text is at most max_len bytes, and whole characters. */
static size_t
clipped_len(int encoding, const char *text, size_t max_len)
{
	size_t		len = strlen(text);

	if (len <= max_len)
		return len;
	/* what is passed on in SQL_ASCII was UTF-8, too */
	return pg_encoding_mbcliplen(encoding == PG_SQL_ASCII ? PG_UTF8 : encoding,
								 text, (int) len, (int) max_len);
}

/*
 * Makes a stranger's text fit to be shown: returns a palloc'd string of at most
 * max_len bytes that is valid in the database's encoding.  What is malformed or has
 * no place in that encoding becomes a question mark, a control character a
 * blank; the platform key, and whatever else looks like a key of the
 * vendor's, asterisks; then it is cut, between two characters.  Takes time in
 * proportion to the text.  Raises nothing but out of memory.
 */
char *
sendkit_text_to_show(const SendkitTextConverter *converter, const char *utf8,
					 const char *platform_key, size_t max_len)
{
	char	   *shown = from_utf8(converter, utf8);

	mask_keys(shown, platform_key);
	for (char *p = strchr(shown, CONTROL); p; p = strchr(p, CONTROL))
		*p = ' ';
	shown[clipped_len(converter->encoding, shown, max_len)] = '\0';
	return shown;
}

/*
 * Returns a text of the database that may be put into a notice without risk: where
 * the client's encoding is another one and has no words for it, the notice would
 * become an error, and take the place of the one that is on its way.
 */
const char *
sendkit_text_for_client(const char *text)
{
	char	   *copy;

	if (pg_get_client_encoding() == GetDatabaseEncoding() || pg_is_ascii(text))
		return text;
	copy = pstrdup(text);
	for (char *p = copy; *p != '\0'; p++)
	{
		if (IS_HIGHBIT_SET(*p))
			*p = '?';
	}
	return copy;
}

/*
 * Copies as much of a text as fits into size bytes with its end, in the database's
 * encoding, and no half of a character.  Cannot raise an error.
 */
void
sendkit_text_clip(char *copy, const char *text, size_t size)
{
	size_t		len = clipped_len(GetDatabaseEncoding(), text, size - 1);

	memcpy(copy, text, len);
	copy[len] = '\0';
}
