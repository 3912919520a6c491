/*-------------------------------------------------------------------------
 *
 * api.c
 *	  The vendor's contract: what is asked of the API, what its answers mean.
 *
 * An answer is judged by one rule above all: a key is called dead only when
 * the API itself, in a form that nobody else would produce by accident, says
 * so.  Whatever could come from a proxy, a gateway or a broken connection, and
 * whatever contradicts itself, is "unknown".
 *
 * Documented errors have two shapes.  Flat: a string "error" beside a string
 * "message".  Nested: an object "error" with a string "code" and a "message".
 * Both occur; both are read.
 *
 * What the API says is a stranger's: it is made fit to be shown (text.c), and no
 * more of it is kept than a person would read, since a call may have many
 * thousand answers to keep.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "api.h"
#include "details.h"
#include "response.h"
#include "retry_after.h"
#include "sendkit.h"

/* An id's length in bytes of UTF-8 */
#define MAX_ID_LENGTH 255

#define TOO_LONG "It is longer than 255 bytes in UTF-8."

/* What is kept of the API's words, in bytes; larger details are not kept at all */
#define MAX_MESSAGE_LENGTH 1024
#define MAX_CODE_LENGTH 200
#define MAX_DETAILS_LENGTH 4096
#define DETAILS_LEFT_OUT "details of more than 4 KB were left out"

/* The length of a percent-encoded byte */
#define ESCAPED_BYTE 3

#define DELETED_WITHOUT_MESSAGE "API key deleted"
#define NOTHING_DELETED "nothing was deleted"
#define PERHAPS_DELETED "the API key may or may not have been deleted"

/* Statuses with a meaning of their own (RFC 9110, RFC 6585, RFC 8470) */
#define HTTP_NO_CONTENT 204
#define HTTP_UNAUTHORIZED 401
#define HTTP_NOT_FOUND 404
#define HTTP_REQUEST_TIMEOUT 408
#define HTTP_TOO_EARLY 425
#define HTTP_TOO_MANY_REQUESTS 429
#define HTTP_SERVICE_UNAVAILABLE 503

/* The name that users see, such as "deleted".  Cannot raise an error. */
const char *
sendkit_outcome_name(SendkitOutcome outcome)
{
	static const char *const names[SENDKIT_OUTCOMES] = {
		"unknown", "unavailable", "rejected", "absent", "deleted"
	};

	return names[outcome];
}

/* --- the request --- */

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decodes what is percent-encoded, in place.  Returns whether anything was. */
static bool
percent_decode(char *text)
{
	char	   *out = text;
	bool		changed = false;

	for (const char *p = text; *p; p++)
	{
		int			high = p[0] == '%' ? hex_value(p[1]) : -1;
		int			low = high >= 0 ? hex_value(p[2]) : -1;

		if (low >= 0)
		{
			/* a zero would end the text before its end */
			*out++ = (char) Max(high << 4 | low, 1);
			p += ESCAPED_BYTE - 1;
			changed = true;
		}
		else
			*out++ = *p;
	}
	*out = '\0';
	return changed;
}

static bool
has_dot_segment(const char *text)
{
	for (;;)
	{
		size_t		len = strcspn(text, "/\\");

		if ((len == 1 || len == 2) && strspn(text, ".") == len)
			return true;
		if (text[len] == '\0')
			return false;
		text += len + 1;
	}
}

/*
 * Would the id, in some server's reading, step out of its place in the path?
 * "x%252f%252e%252e" is the segment above to a proxy that decodes twice.
 */
static bool
leaves_its_place(const char *utf8)
{
	char	   *decoded;
	bool		found;

	if (strpbrk(utf8, ".%") == NULL)
		return false;

	decoded = pstrdup(utf8);
	do
		found = has_dot_segment(decoded);
	while (!found && percent_decode(decoded));
	pfree(decoded);
	return found;
}

static const char *
utf8_fault(const char *utf8)
{
	if (utf8 == NULL)
		return "It has no valid form in UTF-8.";
	if (utf8[0] == '\0')
		return "It is empty.";
	if (strlen(utf8) > MAX_ID_LENGTH)
		return TOO_LONG;
	if (sendkit_text_has_control(utf8))
		return "It contains a control character.";
	if (sendkit_text_has_blank_end(utf8))
		return "It begins or ends with a blank.";
	/* sent, it would be in URLs, tables and logs */
	if (strncmp(utf8, SENDKIT_KEY_PREFIX, strlen(SENDKIT_KEY_PREFIX)) == 0 ||
		strstr(utf8, " " SENDKIT_KEY_PREFIX) != NULL)
		return "It looks like a key: were the arguments swapped?";
	if (leaves_its_place(utf8))
		return "It has, or decodes to, a path segment \".\" or \"..\", which would address another resource.";
	return NULL;
}

/* The characters that a path segment may have as they are (RFC 3986, section 2.3) */
static bool
is_unreserved(unsigned char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		(c >= '0' && c <= '9') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

/* Writes the text percent-encoded to out.  Returns where that ends. */
static char *
percent_encode(const char *text, char *out)
{
	static const char digits[] = "0123456789ABCDEF";

	for (const char *p = text; *p; p++)
	{
		unsigned char c = (unsigned char) *p;

		if (is_unreserved(c))
			*out++ = c;
		else
		{
			*out++ = '%';
			*out++ = digits[c >> 4];
			*out++ = digits[c & 0xf];
		}
	}
	return out;
}

static size_t
encoded_length(const char *text)
{
	size_t		len = 0;

	for (const char *p = text; *p; p++)
		len += is_unreserved((unsigned char) *p) ? 1 : ESCAPED_BYTE;
	return len;
}

/* Bulk calls keep one of these per id: it takes no more memory than it needs. */
static char *
key_path(const char *utf8_id)
{
	static const char before[] = "/v1/workspaces/";
	static const char behind[] = "/api-key";
	char	   *path = palloc(sizeof(before) - 1 + encoded_length(utf8_id) + sizeof(behind));
	char	   *end;

	memcpy(path, before, sizeof(before) - 1);
	end = percent_encode(utf8_id, path + sizeof(before) - 1);
	memcpy(end, behind, sizeof(behind));
	return path;
}

/* Returns the id in UTF-8, or NULL with *fault set. */
static char *
id_to_utf8(const SendkitTextConverter *converter, const char *id, int len,
		   const char **fault)
{
	char	   *utf8;

	/* no encoding takes more bytes than this for what fits */
	if (len > MAX_ID_LENGTH * MAX_CONVERSION_GROWTH)
	{
		*fault = TOO_LONG;
		return NULL;
	}
	utf8 = sendkit_text_to_utf8(converter, id, len);
	*fault = utf8_fault(utf8);
	return *fault ? NULL : utf8;
}

/*
 * Takes an id in the database's encoding, len bytes of it.  Returns NULL if
 * the API can be asked about it, else a whole sentence that says why not.
 * Raises nothing but out of memory.
 */
const char *
sendkit_api_id_fault(const SendkitTextConverter *converter, const char *id, int len)
{
	const char *fault;
	char	   *utf8 = id_to_utf8(converter, id, len, &fault);

	if (utf8)
		pfree(utf8);
	return fault;
}

/*
 * Takes the same.  Returns the palloc'd path below the API's root where the
 * workspace's key is, the id percent-encoded (RFC 3986, section 2.1); or NULL
 * with *fault set to what is wrong with the id, for the message's detail.
 * Raises nothing but out of memory.
 */
char *
sendkit_api_key_path(const SendkitTextConverter *converter,
					 const char *id, int len, const char **fault)
{
	char	   *utf8 = id_to_utf8(converter, id, len, fault);
	char	   *path;

	if (utf8 == NULL)
		return NULL;
	path = key_path(utf8);
	pfree(utf8);
	return path;
}

/* Fills the headers in, which must stay where they are.  Cannot raise. */
void
sendkit_api_set_headers(SendkitHeaders *headers, const char *platform_key)
{
	static const char *const fixed[SENDKIT_HEADERS - 1] = {
		"Content-Type: application/json",
		"Accept: application/json",
		"User-Agent: sendkit/" SENDKIT_VERSION " (PostgreSQL " PG_MAJORVERSION ")",
	};

	snprintf(headers->key_header, sizeof(headers->key_header),
			 "X-Api-Key: %s", platform_key);
	headers->lines[0] = headers->key_header;
	for (int i = 1; i < SENDKIT_HEADERS; i++)
		headers->lines[i] = fixed[i - 1];
	headers->lines[SENDKIT_HEADERS] = NULL;
}

/* Overwrites them, since they hold the key.  Cannot raise an error. */
void
sendkit_api_wipe_headers(SendkitHeaders *headers)
{
	explicit_bzero(headers, sizeof(*headers));
}

/* --- the answer --- */

/* What a judgement is made from */
typedef struct Evidence
{
	const SendkitTextConverter *converter;
	const SendkitHttpResult *result;
	const char *platform_key;
	bool		is_json;		/* the body is a usable JSON object */
	SendkitResponse response;
} Evidence;

/* What may be shown, and is kept, of a stranger's text in UTF-8 */
static char *
to_show(const Evidence *evidence, const char *text, size_t max_len)
{
	return sendkit_text_to_show(evidence->converter, text, evidence->platform_key, max_len);
}

static bool
is_kind(const SendkitJsonField *field, SendkitJsonKind kind)
{
	return field->kind == kind;
}

/* Is there an error in the documented flat shape? */
static bool
is_flat_error(const SendkitResponse *response)
{
	return is_kind(&response->error, SENDKIT_JSON_STRING) &&
		is_kind(&response->message, SENDKIT_JSON_STRING);
}

/*
 * ... in the nested one?  Its "code" is a string.  Common gateways answer with
 * an object "error", too, whose "code" is a number: that is not the API.
 */
static bool
is_nested_error(const SendkitResponse *response)
{
	return is_kind(&response->error, SENDKIT_JSON_OBJECT) &&
		(is_kind(&response->error_code, SENDKIT_JSON_STRING) ||
		 (is_kind(&response->error_code, SENDKIT_JSON_NONE) &&
		  is_kind(&response->error_message, SENDKIT_JSON_STRING)));
}

/* The API's own message in an answer that is no success, or NULL. */
static const char *
error_message(const SendkitResponse *response)
{
	if (is_kind(&response->error, SENDKIT_JSON_OBJECT) &&
		is_kind(&response->error_message, SENDKIT_JSON_STRING))
		return response->error_message.text;
	if (is_kind(&response->message, SENDKIT_JSON_STRING))
		return response->message.text;
	return NULL;
}

/* The flat shape's "error", or the nested one's "code"; else NULL. */
static const char *
error_code(const SendkitResponse *response)
{
	if (is_kind(&response->error, SENDKIT_JSON_STRING))
		return response->error.text;
	if (is_kind(&response->error_code, SENDKIT_JSON_STRING))
		return response->error_code.text;
	return NULL;
}

static void
set_message(const Evidence *evidence, SendkitVerdict *verdict,
			const char *text, const char *otherwise)
{
	verdict->message = text ? to_show(evidence, text, MAX_MESSAGE_LENGTH) : pstrdup(otherwise);
}

static void
judge_deleted(const Evidence *evidence, SendkitVerdict *verdict)
{
	const SendkitJsonField *message = &evidence->response.data_message;

	verdict->outcome = SENDKIT_DELETED;
	set_message(evidence, verdict,
				is_kind(message, SENDKIT_JSON_STRING) ? message->text : NULL,
				DELETED_WITHOUT_MESSAGE);
}

static void
judge_refused(const Evidence *evidence, SendkitVerdict *verdict, SendkitOutcome outcome)
{
	verdict->outcome = outcome;
	set_message(evidence, verdict, error_message(&evidence->response),
				psprintf("the SendKit API refused the request with status %d and no message",
						 evidence->result->status));
}

static void
judge_unknown(SendkitVerdict *verdict, const char *what)
{
	verdict->outcome = SENDKIT_UNKNOWN;
	verdict->message = psprintf("%s; " PERHAPS_DELETED, what);
}

static void
judge_unusable(const Evidence *evidence, SendkitVerdict *verdict)
{
	judge_unknown(verdict,
				  psprintf("the answer with status %d is none of the SendKit API's documented ones",
						   evidence->result->status));
}

/*
 * 2xx.  "success" has to be literally true, and no error beside it: an answer
 * that says both is not believed.
 */
static void
judge_success(const Evidence *evidence, SendkitVerdict *verdict)
{
	const SendkitResponse *response = &evidence->response;
	bool		has_error = !is_kind(&response->error, SENDKIT_JSON_NONE) &&
		!is_kind(&response->error, SENDKIT_JSON_NULL);

	if (evidence->result->status == HTTP_NO_CONTENT && evidence->result->body_len == 0)
		judge_deleted(evidence, verdict);
	else if (!evidence->is_json)
		judge_unusable(evidence, verdict);
	else if (is_kind(&response->success, SENDKIT_JSON_FALSE))
		judge_refused(evidence, verdict, SENDKIT_REJECTED);
	else if (is_kind(&response->success, SENDKIT_JSON_TRUE) && !has_error)
		judge_deleted(evidence, verdict);
	else
		judge_unusable(evidence, verdict);
}

/*
 * 404.  A gateway's own does not prove that there is no key, so only the
 * documented shapes count.
 */
static void
judge_not_found(const Evidence *evidence, SendkitVerdict *verdict)
{
	const SendkitResponse *response = &evidence->response;

	if (evidence->is_json &&
		!is_kind(&response->success, SENDKIT_JSON_TRUE) &&
		(is_flat_error(response) || is_nested_error(response)))
		judge_refused(evidence, verdict, SENDKIT_ABSENT);
	else
		judge_unusable(evidence, verdict);
}

/* Any other 4xx: a refusal, if it comes from something that speaks JSON. */
static void
judge_client_error(const Evidence *evidence, SendkitVerdict *verdict)
{
	const SendkitResponse *response = &evidence->response;

	if (evidence->is_json &&
		!is_kind(&response->success, SENDKIT_JSON_TRUE) &&
		(is_kind(&response->message, SENDKIT_JSON_STRING) ||
		 is_kind(&response->error, SENDKIT_JSON_STRING) ||
		 is_nested_error(response)))
		judge_refused(evidence, verdict, SENDKIT_REJECTED);
	else
		judge_unusable(evidence, verdict);
}

/* 429, and 503 with Retry-After: the API says that it did nothing, for now. */
static void
judge_rate_limit(const Evidence *evidence, SendkitVerdict *verdict)
{
	const char *retry_after = evidence->result->retry_after;

	verdict->outcome = SENDKIT_UNAVAILABLE;
	verdict->retryable = true;
	verdict->limits_all = true;
	if (retry_after)
		verdict->retry_after_ms = sendkit_retry_after_ms(retry_after, evidence->result->date);
	if (verdict->retry_after_ms >= 0)
		verdict->message =
			psprintf("the SendKit API takes no requests for now (status %d) and asks to wait "
					 INT64_FORMAT " s; " NOTHING_DELETED,
					 evidence->result->status, verdict->retry_after_ms / 1000);
	else
		verdict->message =
			psprintf("the SendKit API takes no requests for now (status %d); " NOTHING_DELETED,
					 evidence->result->status);
}

static bool
is_rate_limit(const SendkitHttpResult *result)
{
	return result->status == HTTP_TOO_MANY_REQUESTS ||
		(result->status == HTTP_SERVICE_UNAVAILABLE && result->retry_after != NULL);
}

static void
judge_answer(const Evidence *evidence, SendkitVerdict *verdict)
{
	int			status = evidence->result->status;

	if (status >= 200 && status < 300)
		judge_success(evidence, verdict);
	else if (status == HTTP_NOT_FOUND)
		judge_not_found(evidence, verdict);
	else if (status == HTTP_REQUEST_TIMEOUT || status == HTTP_TOO_EARLY)
		judge_unknown(verdict, psprintf("the request was answered with status %d", status));
	else if (status >= 400 && status < 500)
		judge_client_error(evidence, verdict);
	else if (status >= 300 && status < 400)
		judge_unknown(verdict,
					  psprintf("the request was answered with a redirect (status %d), which is never followed",
							   status));
	else
		judge_unknown(verdict, psprintf("the request was answered with status %d", status));
}

static void
judge_failure(const Evidence *evidence, SendkitVerdict *verdict)
{
	char	   *words = to_show(evidence, evidence->result->error, MAX_MESSAGE_LENGTH);

	/* what has not been sent the dispatcher sends later */
	Assert(evidence->result->failure != SENDKIT_HTTP_STALE &&
		   evidence->result->failure != SENDKIT_HTTP_TOO_LATE);
	switch (evidence->result->failure)
	{
		case SENDKIT_HTTP_NOT_CONNECTED:
			verdict->outcome = SENDKIT_UNAVAILABLE;
			verdict->retryable = true;
			verdict->unreachable = true;
			verdict->message =
				psprintf("could not connect to the SendKit API: %s; " NOTHING_DELETED, words);
			break;
		case SENDKIT_HTTP_NOT_TRUSTED:
			verdict->outcome = SENDKIT_UNAVAILABLE;
			verdict->unreachable = true;
			verdict->message =
				psprintf("could not establish a trusted connection to the SendKit API: %s; " NOTHING_DELETED, words);
			break;
		case SENDKIT_HTTP_REFUSED:
			verdict->outcome = SENDKIT_UNAVAILABLE;
			verdict->retryable = true;
			verdict->message =
				psprintf("the SendKit API refused to process the request; " NOTHING_DELETED);
			break;
		case SENDKIT_HTTP_TIMED_OUT:
			judge_unknown(verdict, "the request was sent and no complete answer came in time");
			break;
		case SENDKIT_HTTP_TOO_LARGE:
			judge_unknown(verdict, "the answer is larger than any of the SendKit API's");
			break;
		case SENDKIT_HTTP_STALE:
		case SENDKIT_HTTP_TOO_LATE:
			/* not for judgement */
		case SENDKIT_HTTP_NO_ANSWER:
		case SENDKIT_HTTP_OK:
			judge_unknown(verdict,
						  psprintf("the request was sent and no complete answer came: %s", words));
			break;
	}
}

/* The API's code and details, wherever it gave them along with a refusal. */
static void
add_error_fields(const Evidence *evidence, SendkitVerdict *verdict)
{
	const SendkitResponse *response = &evidence->response;
	const char *code = error_code(response);

	if (code)
		verdict->error_code = to_show(evidence, code, MAX_CODE_LENGTH);
	if (is_kind(&response->error_details, SENDKIT_JSON_ARRAY))
		verdict->details = sendkit_details_json(evidence->converter,
												response->error_details.text,
												evidence->platform_key);
	if (verdict->details && strlen(verdict->details) > MAX_DETAILS_LENGTH)
	{
		verdict->details = NULL;
		verdict->message = psprintf("%s (" DETAILS_LEFT_OUT ")", verdict->message);
	}
}

/* What is to be known of the key that was refused */
static void
judge_key(const Evidence *evidence, SendkitVerdict *verdict)
{
	verdict->key_refused = (evidence->result->status == HTTP_UNAUTHORIZED);
	verdict->wrong_kind_of_key = !sendkit_platform_key_is_likely(evidence->platform_key);
}

/*
 * The only place that turns an answer, or the lack of one, into an outcome.
 * Raises nothing but out of memory.
 */
void
sendkit_api_judge(const SendkitTextConverter *converter,
				  const SendkitHttpResult *result,
				  const char *platform_key,
				  SendkitVerdict *verdict)
{
	Evidence	evidence;

	memset(verdict, 0, sizeof(*verdict));
	verdict->status = result->status;
	verdict->retry_after_ms = -1;

	memset(&evidence, 0, sizeof(evidence));
	evidence.converter = converter;
	evidence.result = result;
	evidence.platform_key = platform_key;
	if (result->failure == SENDKIT_HTTP_OK)
		evidence.is_json = sendkit_response_parse(result->body, result->body_len,
												  &evidence.response);

	/* these two count by their status alone, whatever became of the body */
	if (is_rate_limit(result))
		judge_rate_limit(&evidence, verdict);
	else if (result->failure != SENDKIT_HTTP_OK)
		judge_failure(&evidence, verdict);
	else
		judge_answer(&evidence, verdict);

	if (evidence.is_json && verdict->outcome != SENDKIT_DELETED)
		add_error_fields(&evidence, verdict);
	if (verdict->outcome == SENDKIT_REJECTED)
		judge_key(&evidence, verdict);
}

static void
free_text(char *text)
{
	if (text)
		pfree(text);
}

/* Frees a verdict's texts.  Cannot raise an error. */
void
sendkit_verdict_free(SendkitVerdict *verdict)
{
	free_text(verdict->message);
	free_text(verdict->error_code);
	free_text(verdict->details);
}
