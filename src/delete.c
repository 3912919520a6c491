/*-------------------------------------------------------------------------
 *
 * delete.c
 *	  The SQL functions that call the API now.
 *
 * What the remote side does is a row, never an error: an error would throw
 * away the rows already there for keys that are irrevocably gone, and
 * PostgreSQL logs the failing statement, key included.  Errors are for the
 * caller's mistakes and raised before anything is sent; and for interrupts,
 * which an error context callback keeps from logging the statement.
 *
 * All arguments are detoasted, checked and converted first, and what the
 * answer will need is looked up and loaded.  Work happens in a context whose
 * first block is large enough for an ordinary answer, so that memory that runs
 * out cannot turn a deletion that happened into an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "api.h"
#include "credential.h"
#include "dispatch.h"

/* Enough for an answer of the usual kind, the row included */
#define CALL_CONTEXT_SIZE (32 * 1024)

PG_FUNCTION_INFO_V1(sendkit_delete_api_key);

/* --- keeping the key out of the log --- */

static void
hide_statement(void *arg pg_attribute_unused())
{
	errhidestmt(true);
	errhidecontext(true);
}

/* --- arguments --- */

static void
report_null_id(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("workspace_id must not be null"),
			 errhidestmt(true), errhidecontext(true)));
}

static char *
segment_of(const SendkitTextConverter *converter, text *id)
{
	const char *fault;
	char	   *segment = sendkit_api_segment(converter, VARDATA_ANY(id),
											  VARSIZE_ANY_EXHDR(id), &fault);

	if (segment == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid workspace_id"),
				 errdetail("%s", fault),
				 errhidestmt(true), errhidecontext(true)));
	return segment;
}

static text *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n);
}

/* --- the kind of key --- */

/* Tells once per statement why a key of the wrong kind was refused. */
static void
notice_kind_of_key(void)
{
	static TimestampTz told = 0;

	if (told == GetCurrentStatementStartTimestamp())
		return;
	told = GetCurrentStatementStartTimestamp();
	ereport(NOTICE,
			(errmsg("the SendKit API needs a platform key"),
			 errdetail("The key that was given does not begin with \"sk_user_\", as platform keys do."),
			 errhidestmt(true), errhidecontext(true)));
}

/* --- the row --- */

static Datum
result_row(TupleDesc desc, const SendkitVerdict *verdict)
{
	Datum		values[2];
	bool		nulls[2] = {false, false};

	values[0] = BoolGetDatum(verdict->outcome == SENDKIT_DELETED);
	values[1] = CStringGetTextDatum(verdict->message);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* The row type's descriptor, looked up once per query */
static TupleDesc
row_type(FunctionCallInfo fcinfo)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	MemoryContext old;
	TupleDesc	desc;

	if (flinfo->fn_extra)
		return (TupleDesc) flinfo->fn_extra;

	old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	MemoryContextSwitchTo(old);
	flinfo->fn_extra = desc;
	return desc;
}

static Datum
delete_one(FunctionCallInfo fcinfo, SendkitCredential *credential)
{
	SendkitTextConverter converter;
	SendkitDeletion deletion;
	SendkitDispatch dispatch;
	text	   *id = text_argument(fcinfo, 0);
	TupleDesc	desc = row_type(fcinfo);

	if (id == NULL)
		report_null_id();
	sendkit_text_init(&converter);
	memset(&deletion, 0, sizeof(deletion));
	deletion.segment = segment_of(&converter, id);
	sendkit_credential_find(credential, text_argument(fcinfo, 1));

	memset(&dispatch, 0, sizeof(dispatch));
	dispatch.deletions = &deletion;
	dispatch.ndeletions = 1;
	dispatch.platform_key = credential->key;
	dispatch.converter = &converter;
	dispatch.max_concurrency = 1;
	sendkit_dispatch(&dispatch);

	if (deletion.verdict.outcome == SENDKIT_REJECTED &&
		!sendkit_api_is_platform_key(credential->key))
		notice_kind_of_key();
	return result_row(desc, &deletion.verdict);
}

Datum
sendkit_delete_api_key(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hiding;
	SendkitCredential credential;
	MemoryContext old;
	volatile Datum row = (Datum) 0;

	hiding.callback = hide_statement;
	hiding.arg = NULL;
	hiding.previous = error_context_stack;
	error_context_stack = &hiding;

	/* the row is in it, too: the caller's context takes it along */
	old = MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext,
													  "sendkit call",
													  0,
													  CALL_CONTEXT_SIZE,
													  ALLOCSET_DEFAULT_MAXSIZE));
	PG_TRY();
	{
		row = delete_one(fcinfo, &credential);
	}
	PG_FINALLY();
	{
		sendkit_credential_wipe(&credential);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(old);
	error_context_stack = hiding.previous;
	PG_RETURN_DATUM(row);
}
