/*-------------------------------------------------------------------------
 *
 * id.c
 *	  Fuzzes ids and platform keys: what is accepted, and what goes on the wire.
 *
 * An input is: a byte for the database's encoding, and the id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "api.h"
#include "fuzz.h"
#include "platform_key.h"

#define BEFORE "/v1/workspaces/"
#define BEHIND "/api-key"

/* Decodes what is percent-encoded, once, in place.  Returns the new length. */
static size_t
decode(char *text, size_t len)
{
	size_t		out = 0;

	for (size_t i = 0; i < len; i++)
	{
		char		hex[3] = {0};

		if (text[i] == '%' && len - i > 2 &&
			isxdigit((unsigned char) text[i + 1]) && isxdigit((unsigned char) text[i + 2]))
		{
			memcpy(hex, text + i + 1, 2);
			text[out++] = (char) strtol(hex, NULL, 16);
			i += 2;
		}
		else
			text[out++] = text[i];
	}
	return out;
}

static bool
has_dot_segment(const char *text, size_t len)
{
	size_t		start = 0;

	for (size_t i = 0; i <= len; i++)
	{
		if (i < len && text[i] != '/' && text[i] != '\\')
			continue;
		if ((i - start == 1 && text[start] == '.') ||
			(i - start == 2 && text[start] == '.' && text[start + 1] == '.'))
			return true;
		start = i + 1;
	}
	return false;
}

/* Whoever reads the id, decoding it as often as they like, stays in its place. */
static void
check_place(const char *id, size_t len)
{
	char	   *text = pnstrdup(id, len);
	size_t		before;

	do
	{
		MUST(!has_dot_segment(text, len));
		before = len;
		len = decode(text, len);
	} while (len != before);
}

/* One segment, in which nothing has a meaning but the percent sign. */
static void
check_path(const char *path, const char *utf8_id, size_t len)
{
	size_t		path_len = strlen(path);
	char	   *segment;
	size_t		segment_len;

	MUST(path_len > strlen(BEFORE BEHIND));
	MUST(strncmp(path, BEFORE, strlen(BEFORE)) == 0);
	MUST(strcmp(path + path_len - strlen(BEHIND), BEHIND) == 0);

	segment_len = path_len - strlen(BEFORE BEHIND);
	segment = pnstrdup(path + strlen(BEFORE), segment_len);
	for (size_t i = 0; i < segment_len; i++)
		MUST(isalnum((unsigned char) segment[i]) || strchr("-._~%", segment[i]));
	segment_len = decode(segment, segment_len);
	if (utf8_id)
		MUST(segment_len == len && memcmp(segment, utf8_id, len) == 0);
	MUST(segment_len <= 255);
	MUST(pg_encoding_verifymbstr(PG_UTF8, segment, segment_len) == (int) segment_len);
	check_place(segment, segment_len);
	for (size_t i = 0; i < segment_len; i++)
		MUST((unsigned char) segment[i] >= ' ' && segment[i] != 0x7f);
	MUST(segment[0] != ' ' && segment[segment_len - 1] != ' ');
	MUST(strncmp(segment, "sk_", 3) != 0);
}

static void
check_key(const char *key, size_t len)
{
	if (sendkit_platform_key_fault(key, len) != NULL)
		return;
	MUST(len >= 1 && len <= SENDKIT_MAX_KEY_LENGTH);
	for (size_t i = 0; i < len; i++)
		MUST(key[i] > ' ' && key[i] < 0x7f);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	SendkitTextConverter converter;
	const char *id = (const char *) data + 1;
	const char *fault;
	char	   *path;

	if (size == 0)
		return 0;
	converter = fuzz_converter(data[0]);
	size--;

	path = sendkit_api_key_path(&converter, id, size, &fault);
	MUST((path == NULL) == (fault != NULL));
	MUST((sendkit_api_id_fault(&converter, id, size) == NULL) == (path != NULL));
	if (path)
		check_path(path, converter.encoding == PG_LATIN1 ? NULL : id, size);
	check_key(id, size);

	fuzz_free_all();
	return 0;
}
