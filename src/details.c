/*-------------------------------------------------------------------------
 *
 * details.c
 *	  The API's "details" as JSON that can be stored.
 *
 * The input function of jsonb raises errors, and not only for bad syntax: for
 * a number that numeric cannot hold, for an escape that the database's
 * encoding cannot express.  So it never sees a stranger's bytes.  The details
 * are parsed once more and written anew: texts cleaned and converted like a
 * message, numbers beyond any reason, or with a key in them, as texts,
 * everything else as it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/json.h"

#include "details.h"

/* Within these, numeric can hold any number */
#define MAX_NUMBER_LENGTH 100
#define MAX_EXPONENT_DIGITS 3

typedef struct Writer
{
	const SendkitTextConverter *converter;
	const char *platform_key;
	StringInfoData out;
	bool		follows;		/* a value stands before, at this level */
} Writer;

static void
begin_item(Writer *writer)
{
	if (writer->follows)
		appendStringInfoChar(&writer->out, ',');
	writer->follows = true;
}

static char *
to_show(const Writer *writer, const char *utf8)
{
	return sendkit_text_to_show(writer->converter, utf8, writer->platform_key, SIZE_MAX);
}

static bool
is_reasonable_number(const char *token)
{
	const char *exponent = strpbrk(token, "eE");

	if (strlen(token) > MAX_NUMBER_LENGTH)
		return false;
	if (exponent == NULL)
		return true;
	exponent++;
	if (*exponent == '+' || *exponent == '-')
		exponent++;
	return strlen(exponent) <= MAX_EXPONENT_DIGITS;
}

static SendkitJsonResult
on_object_start(void *arg)
{
	Writer	   *writer = (Writer *) arg;

	begin_item(writer);
	appendStringInfoChar(&writer->out, '{');
	writer->follows = false;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_object_end(void *arg)
{
	Writer	   *writer = (Writer *) arg;

	appendStringInfoChar(&writer->out, '}');
	writer->follows = true;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_array_start(void *arg)
{
	Writer	   *writer = (Writer *) arg;

	begin_item(writer);
	appendStringInfoChar(&writer->out, '[');
	writer->follows = false;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_array_end(void *arg)
{
	Writer	   *writer = (Writer *) arg;

	appendStringInfoChar(&writer->out, ']');
	writer->follows = true;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_field_start(void *arg, char *name, bool isnull pg_attribute_unused())
{
	Writer	   *writer = (Writer *) arg;

	begin_item(writer);
	escape_json(&writer->out, to_show(writer, name));
	appendStringInfoChar(&writer->out, ':');
	/* its value is no further item */
	writer->follows = false;
	SENDKIT_JSON_CONTINUE;
}

static SendkitJsonResult
on_scalar(void *arg, char *token, JsonTokenType type)
{
	Writer	   *writer = (Writer *) arg;

	char	   *shown = to_show(writer, token);

	begin_item(writer);
	/* a number, too, may hold a key: with asterisks it is none any more */
	if (type == JSON_TOKEN_STRING ||
		(type == JSON_TOKEN_NUMBER &&
		 (!is_reasonable_number(token) || strcmp(shown, token) != 0)))
		escape_json(&writer->out, shown);
	else
		appendStringInfoString(&writer->out, token);
	SENDKIT_JSON_CONTINUE;
}

/*
 * Takes JSON that sendkit_response_parse() has accepted, in UTF-8.  Returns
 * palloc'd JSON in the database's encoding that jsonb's input function accepts
 * whatever it was made from, with no control characters and no keys in its
 * texts.  Returns NULL if it is no JSON after all.  Raises nothing but out of
 * memory.
 */
char *
sendkit_details_json(const SendkitTextConverter *converter,
					 const char *json, const char *platform_key)
{
	Writer		writer;
	JsonSemAction actions;
	JsonLexContext *lexer;

	memset(&writer, 0, sizeof(writer));
	writer.converter = converter;
	writer.platform_key = platform_key;
	initStringInfo(&writer.out);

	memset(&actions, 0, sizeof(actions));
	actions.semstate = &writer;
	actions.object_start = on_object_start;
	actions.object_end = on_object_end;
	actions.array_start = on_array_start;
	actions.array_end = on_array_end;
	actions.object_field_start = on_field_start;
	actions.scalar = on_scalar;

	lexer = sendkit_json_lexer(unconstify(char *, json), strlen(json), PG_UTF8, true);
	if (pg_parse_json(lexer, &actions) != JSON_SUCCESS)
		return NULL;
	return writer.out.data;
}
