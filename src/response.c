/*-------------------------------------------------------------------------
 *
 * response.c
 *	  The body of an answer as typed fields.
 *
 * PostgreSQL's own parser, pg_parse_json(), does the work.  It reports what is
 * wrong by a return code, but three things in it can still raise an error, and
 * they are taken care of before it sees a stranger's bytes:
 *
 * - deep nesting exhausts the stack: the depth is measured first;
 * - escapes such as \u00e9 are converted to the database's encoding, which
 *   raises an error on PostgreSQL 14 and 15, and mixes two encodings in one
 *   text on all: they are written out as UTF-8 first;
 * - \u0000 cannot be in a text: it becomes another control character, which is
 *   replaced along with the rest of its kind where the text is shown.
 *
 * Which fields matter is said by a table.  A field of the table that comes
 * twice makes the whole answer unusable, because two readers could then take
 * the same answer for two different ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "response.h"

/* Documented answers are four levels deep; hostile ones a hundred thousand */
#define MAX_DEPTH 64

/* Where a field stands: at the top, or in an object at the top */
typedef struct FieldRule
{
	const char *parent;			/* NULL: at the top */
	const char *name;
	size_t		offset;			/* in SendkitResponse */
} FieldRule;

static const FieldRule field_rules[] = {
	{NULL, "success", offsetof(SendkitResponse, success)},
	{NULL, "message", offsetof(SendkitResponse, message)},
	{NULL, "error", offsetof(SendkitResponse, error)},
	{NULL, "data", offsetof(SendkitResponse, data)},
	{"data", "message", offsetof(SendkitResponse, data_message)},
	{"error", "code", offsetof(SendkitResponse, error_code)},
	{"error", "message", offsetof(SendkitResponse, error_message)},
	{"error", "details", offsetof(SendkitResponse, error_details)},
};

typedef struct ResponseParser
{
	JsonLexContext *lex;
	SendkitResponse *response;
	int			depth;			/* of objects and arrays around us */
	const char *parent;			/* the last name at the top */
	SendkitJsonField *awaited;	/* gets the value that comes next */
	SendkitJsonField *open_array;	/* is an array, not yet closed */
	int			open_array_depth;
	const char *open_array_start;
	bool		top_is_object;
	bool		doubled;
} ResponseParser;

/* --- before the parser: depth and escapes --- */

/*
 * Reads the four hexadecimal digits at p.  Returns -1 if that is not what is
 * there.
 */
static int
read_hex4(const char *p, const char *end)
{
	int			value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char		c = p[i];

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if (c >= 'a' && c <= 'f')
			value |= c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value |= c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/*
 * Reads one \u escape at p, or the two of a surrogate pair.  Returns how many
 * bytes it takes, 0 if it is malformed, and its code point.
 */
static int
read_escape(const char *p, const char *end, pg_wchar *code)
{
	int			high = read_hex4(p + 2, end);
	int			low;

	if (high < 0)
		return 0;
	*code = high;
	if (!is_utf16_surrogate_first(high))
		return is_utf16_surrogate_second(high) ? 0 : 6;

	if (end - p < 12 || p[6] != '\\' || p[7] != 'u')
		return 0;
	low = read_hex4(p + 8, end);
	if (low < 0 || !is_utf16_surrogate_second(low))
		return 0;
	*code = surrogate_pair_to_codepoint(high, low);
	return 12;
}

/*
 * Copies one escape from p to out.  Returns how many bytes of the body that
 * took, or 0 if it is malformed.
 */
static int
copy_escape(const char *p, const char *end, StringInfo out)
{
	unsigned char utf8[4];
	pg_wchar	code;
	int			taken;

	if (end - p < 2)
		return 0;
	if (p[1] != 'u')
	{
		appendBinaryStringInfo(out, p, 2);
		return 2;
	}

	taken = read_escape(p, end, &code);
	if (taken == 0)
		return 0;
	if (code == 0)
		appendStringInfoString(out, "\\u0001");
	else if (code < 0x80)
		appendBinaryStringInfo(out, p, taken);
	else
	{
		unicode_to_utf8(code, utf8);
		appendBinaryStringInfo(out, (char *) utf8, pg_utf_mblen(utf8));
	}
	return taken;
}

/* Is the nesting, outside of strings, within bounds? */
static bool
is_shallow(const char *text, size_t len)
{
	bool		in_string = false;
	int			depth = 0;

	for (const char *p = text; p < text + len; p++)
	{
		if (in_string)
		{
			if (*p == '\\')
				p++;
			else if (*p == '"')
				in_string = false;
		}
		else if (*p == '"')
			in_string = true;
		else if (*p == '{' || *p == '[')
		{
			if (++depth > MAX_DEPTH)
				return false;
		}
		else if (*p == '}' || *p == ']')
			depth--;
	}
	return true;
}

/*
 * Copies the body to out, escapes beyond ASCII written as UTF-8.  Returns
 * false if an escape is malformed.  A backslash outside of a string is left to
 * the parser to refuse.
 */
static bool
copy_unescaped(const char *body, size_t len, StringInfo out)
{
	const char *end = body + len;

	for (const char *p = body; p < end;)
	{
		const char *backslash = memchr(p, '\\', end - p);
		int			taken;

		if (backslash == NULL)
			backslash = end;
		appendBinaryStringInfo(out, p, backslash - p);
		if (backslash == end)
			break;
		taken = copy_escape(backslash, end, out);
		if (taken == 0)
			return false;
		p = backslash + taken;
	}
	return true;
}

/* --- the parser's semantic actions --- */

static SendkitJsonField *
find_field(SendkitResponse *response, const char *parent, const char *name)
{
	for (size_t i = 0; i < lengthof(field_rules); i++)
	{
		const FieldRule *rule = &field_rules[i];
		bool		same_parent = rule->parent == NULL ? parent == NULL :
			parent != NULL && strcmp(rule->parent, parent) == 0;

		if (same_parent && strcmp(rule->name, name) == 0)
			return (SendkitJsonField *) ((char *) response + rule->offset);
	}
	return NULL;
}

static SendkitJsonResult
on_field_start(void *arg, char *name, bool isnull pg_attribute_unused())
{
	ResponseParser *state = (ResponseParser *) arg;

	state->awaited = NULL;
	if (state->depth == 1)
	{
		state->awaited = find_field(state->response, NULL, name);
		state->parent = name;
	}
	else if (state->depth == 2 && state->parent)
		state->awaited = find_field(state->response, state->parent, name);

	if (state->awaited && state->awaited->kind != SENDKIT_JSON_NONE)
		state->doubled = true;
	SENDKIT_JSON_CONTINUE;
}

/* A value begins: returns the field that it belongs to, if any. */
static SendkitJsonField *
take_awaited(ResponseParser *state, SendkitJsonKind kind)
{
	SendkitJsonField *field = state->awaited;

	state->awaited = NULL;
	if (field)
		field->kind = kind;
	return field;
}

static SendkitJsonResult
on_object_start(void *arg)
{
	ResponseParser *state = (ResponseParser *) arg;

	if (state->depth == 0)
		state->top_is_object = true;
	take_awaited(state, SENDKIT_JSON_OBJECT);
	state->depth++;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_object_end(void *arg)
{
	((ResponseParser *) arg)->depth--;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_array_start(void *arg)
{
	ResponseParser *state = (ResponseParser *) arg;
	SendkitJsonField *field = take_awaited(state, SENDKIT_JSON_ARRAY);

	if (field)
	{
		state->open_array = field;
		state->open_array_depth = state->depth;
		state->open_array_start = state->lex->token_start;
	}
	state->depth++;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_array_end(void *arg)
{
	ResponseParser *state = (ResponseParser *) arg;

	state->depth--;
	if (state->open_array && state->depth == state->open_array_depth)
	{
		/* the parser has already read on to the token behind the bracket */
		state->open_array->text =
			pnstrdup(state->open_array_start,
					 state->lex->prev_token_terminator - state->open_array_start);
		state->open_array = NULL;
	}
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonKind
scalar_kind(JsonTokenType type)
{
	switch (type)
	{
		case JSON_TOKEN_STRING:
			return SENDKIT_JSON_STRING;
		case JSON_TOKEN_NUMBER:
			return SENDKIT_JSON_NUMBER;
		case JSON_TOKEN_TRUE:
			return SENDKIT_JSON_TRUE;
		case JSON_TOKEN_FALSE:
			return SENDKIT_JSON_FALSE;
		default:
			return SENDKIT_JSON_NULL;
	}
}

static SendkitJsonResult
on_scalar(void *arg, char *token, JsonTokenType type)
{
	SendkitJsonField *field = take_awaited((ResponseParser *) arg, scalar_kind(type));

	if (field && (field->kind == SENDKIT_JSON_STRING ||
				  field->kind == SENDKIT_JSON_NUMBER))
		field->text = token;
	SENDKIT_JSON_CONTINUE;
}

/* --- the door --- */

/*
 * Reads len bytes of body into *response.  Returns true if they are one JSON
 * object in strictly valid UTF-8 that gives none of the fields above twice.
 * Texts are palloc'd.  Raises nothing but out of memory, whatever the bytes.
 */
bool
sendkit_response_parse(const char *body, size_t len, SendkitResponse *response)
{
	StringInfoData text;
	JsonSemAction actions;
	ResponseParser state;

	memset(response, 0, sizeof(*response));
	if (len == 0 || pg_encoding_verifymbstr(PG_UTF8, body, len) != (int) len)
		return false;

	if (!is_shallow(body, len))
		return false;
	/* most answers have no escapes */
	if (memchr(body, '\\', len))
	{
		initStringInfo(&text);
		if (!copy_unescaped(body, len, &text))
			return false;
		body = text.data;
		len = text.len;
	}

	memset(&state, 0, sizeof(state));
	state.response = response;
	state.lex = sendkit_json_lexer(unconstify(char *, body), len, PG_UTF8, true);

	memset(&actions, 0, sizeof(actions));
	actions.semstate = &state;
	actions.object_start = on_object_start;
	actions.object_end = on_object_end;
	actions.array_start = on_array_start;
	actions.array_end = on_array_end;
	actions.object_field_start = on_field_start;
	actions.scalar = on_scalar;

	return pg_parse_json(state.lex, &actions) == JSON_SUCCESS &&
		state.top_is_object && !state.doubled;
}
