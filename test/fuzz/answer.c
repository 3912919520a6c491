/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  Fuzzes what an answer is made into: parser, judgement, texts, details.
 *
 * An input is: a byte for the status, one for the database's encoding, one for
 * how the request failed; lines that are the headers Retry-After and Date, if
 * they are not empty; a line with libcurl's words; and the body.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "mb/pg_wchar.h"

#include "api.h"
#include "fuzz.h"

#define KEY "sk_user_0123456789abcdef"

static const int statuses[] = {
	200, 201, 204, 299, 301, 304, 400, 401, 403, 404, 408, 409, 410, 422, 425, 429,
	499, 500, 502, 503, 504, 0, 100, 600
};

/* Those that are judged, in an order that stays, for the corpus's sake */
static const SendkitHttpFailure failures[] = {
	SENDKIT_HTTP_OK, SENDKIT_HTTP_NOT_CONNECTED, SENDKIT_HTTP_NOT_TRUSTED,
	SENDKIT_HTTP_NO_ANSWER, SENDKIT_HTTP_TIMED_OUT, SENDKIT_HTTP_TOO_LARGE,
	SENDKIT_HTTP_REFUSED
};

typedef struct Input
{
	const uint8_t *data;
	size_t		size;
} Input;

static uint8_t
next_byte(Input *input)
{
	if (input->size == 0)
		return 0;
	input->size--;
	return *input->data++;
}

/* Without the newline; what is behind a zero byte is dropped, as in a header. */
static char *
next_line(Input *input)
{
	const uint8_t *newline = memchr(input->data, '\n', input->size);
	size_t		len = newline ? newline - input->data : input->size;
	char	   *line = pnstrdup((const char *) input->data, len);

	input->data += len;
	input->size -= len;
	(void) next_byte(input);
	return line;
}

/* NULL: there is no such header. */
static char *
next_header(Input *input)
{
	char	   *line = next_line(input);

	return line[0] ? line : NULL;
}

/* The body is followed by a zero byte that is not its own. */
static char *
rest(Input *input, size_t *len)
{
	char	   *body = palloc(input->size + 1);

	*len = input->size;
	memcpy(body, input->data, input->size);
	body[input->size] = '\0';
	return body;
}

static bool
has_control(const SendkitTextConverter *converter, const char *text)
{
	bool		is_latin1 = converter->encoding == PG_LATIN1;

	for (const unsigned char *p = (const unsigned char *) text; *p; p++)
	{
		if (*p < 0x20 || *p == 0x7f)
			return true;
		if (is_latin1 && *p >= 0x80 && *p <= 0x9f)
			return true;
		if (!is_latin1 && p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f)
			return true;
	}
	return false;
}

static void
check_text(const SendkitTextConverter *converter, const char *text, int max_len)
{
	int			len = strlen(text);
	int			encoding = converter->encoding == PG_SQL_ASCII ? PG_UTF8 : converter->encoding;

	MUST(len <= max_len);
	MUST(pg_encoding_verifymbstr(encoding, text, len) == len);
	MUST(!has_control(converter, text));
	MUST(strstr(text, KEY) == NULL);
}

static void
check_details(const SendkitTextConverter *converter, const char *details)
{
	JsonSemAction nothing;

	check_text(converter, details, 4096);
	memset(&nothing, 0, sizeof(nothing));
	MUST(pg_parse_json(sendkit_json_lexer(pstrdup(details), strlen(details),
										  PG_UTF8, true), &nothing) == JSON_SUCCESS);
}

static bool
ends_with(const char *text, const char *end)
{
	size_t		len = strlen(text);

	return len >= strlen(end) && strcmp(text + len - strlen(end), end) == 0;
}

static bool
contains(const SendkitHttpResult *result, const char *what)
{
	return memmem(result->body, result->body_len, what, strlen(what)) != NULL;
}

/* An outcome claims something: so what it takes has to be there. */
static void
check_outcome(const SendkitHttpResult *result, const SendkitVerdict *verdict)
{
	int			status = result->status;
	bool		answered = result->failure == SENDKIT_HTTP_OK;
	/* whatever became of the body */
	bool		limited = status == 429 || (status == 503 && result->retry_after);

	switch (verdict->outcome)
	{
		case SENDKIT_DELETED:
			MUST(answered && status >= 200 && status < 300);
			MUST((status == 204 && result->body_len == 0) ||
				 (contains(result, "true") && result->body[strspn(result->body, " \t\r\n")] == '{'));
			break;
		case SENDKIT_ABSENT:
			MUST(answered && status == 404 && contains(result, "\""));
			break;
		case SENDKIT_REJECTED:
			MUST(answered && status != 404 && status != 408 && status != 425 && status != 429);
			MUST((status >= 400 && status < 500) ||
				 (status >= 200 && status < 300 && contains(result, "false")));
			break;
		case SENDKIT_UNAVAILABLE:
			MUST(limited || result->failure == SENDKIT_HTTP_NOT_CONNECTED ||
				 result->failure == SENDKIT_HTTP_NOT_TRUSTED ||
				 result->failure == SENDKIT_HTTP_REFUSED);
			MUST(ends_with(verdict->message, "nothing was deleted"));
			break;
		case SENDKIT_UNKNOWN:
			MUST(!limited);
			MUST(ends_with(verdict->message, "may or may not have been deleted"));
			break;
	}
	MUST(!verdict->retryable || verdict->outcome == SENDKIT_UNAVAILABLE);
	MUST(verdict->retry_after_ms >= -1);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		input = {data, size};
	SendkitHttpResult result;
	SendkitVerdict verdict;
	SendkitTextConverter converter;

	memset(&result, 0, sizeof(result));
	result.status = statuses[next_byte(&input) % lengthof(statuses)];
	converter = fuzz_converter(next_byte(&input));
	result.failure = failures[next_byte(&input) % lengthof(failures)];
	result.retry_after = next_header(&input);
	result.date = next_header(&input);
	result.error = next_line(&input);
	result.body = rest(&input, &result.body_len);

	sendkit_api_judge(&converter, &result, KEY, &verdict);

	check_outcome(&result, &verdict);
	/* the API's words, and perhaps ours around them */
	check_text(&converter, verdict.message, 1024 + 200);
	if (verdict.error_code)
		check_text(&converter, verdict.error_code, 200);
	if (verdict.details)
		check_details(&converter, verdict.details);

	sendkit_verdict_free(&verdict);
	fuzz_free_all();
	return 0;
}
