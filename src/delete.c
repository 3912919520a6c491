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
 * answers will need is looked up and loaded.  Work happens in a context whose
 * first block is large enough for an ordinary answer, so that memory that runs
 * out cannot turn a deletion that happened into an error.
 *
 * No message here has to hide the statement: run_call() hides it for whatever is
 * reported beneath.
 *
 * A statement about many workspaces that is interrupted loses its rows, and
 * with them the knowledge of which keys are gone.  So a notice to the client
 * and one line in the log count what had been done; for a handful they name
 * them.  The same is told of a single one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "fmgr.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/tuplestore.h"

#include "api.h"
#include "clock.h"
#include "credential.h"
#include "dispatch.h"
#include "extension.h"
#include "guc.h"
#include "guc_guard.h"
#include "hiding.h"

/* A call that waits reports its progress this often */
#define PROGRESS_INTERVAL_MS 5000

/* Room for this many workspaces is made at first, then for twice as many */
#define FIRST_ROOM 64

/* Up to this many workspaces are named when a statement is interrupted */
#define MAX_NAMED 20

/* The columns of sendkit_delete_api_keys() */
enum
{
	COLUMN_WORKSPACE_ID,
	COLUMN_SUCCESS,
	COLUMN_MESSAGE,
	COLUMN_OUTCOME,
	COLUMN_STATUS,
	COLUMN_ERROR_CODE,
	COLUMN_DETAILS,
	COLUMNS
};

/* What a call works with */
typedef struct Call
{
	FunctionCallInfo fcinfo;
	Datum		(*work) (struct Call *call);
	SendkitTextConverter converter;
	SendkitCredential credential;
	SendkitDispatcher *volatile dispatcher; /* NULL: none to be ended */
	int64		next_report;	/* by sendkit_clock_coarse() */
	char	   *volatile title; /* the process title to go back to, or NULL */
} Call;

/* A call about many workspaces */
typedef struct Bulk
{
	SendkitDeletion *deletions; /* one per distinct id */
	text	  **ids;			/* as they were given */
	int			count;
	Size		room;			/* for so many */
	const SendkitTally *tally;
} Bulk;

PG_FUNCTION_INFO_V1(sendkit_delete_api_key);
PG_FUNCTION_INFO_V1(sendkit_delete_api_keys);

/* --- around every call --- */

static void
end_call(Call *call)
{
	if (call->dispatcher)
		sendkit_dispatcher_end(call->dispatcher);
	sendkit_credential_wipe(&call->credential);
	if (call->title)
		set_ps_display(call->title);
}

/* In a memory context of its own, which the caller's takes along */
static Datum
do_work(void *arg)
{
	Call	   *call = (Call *) arg;
	MemoryContext old;
	Datum		result;

	old = MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext,
													  "sendkit call",
													  ALLOCSET_DEFAULT_SIZES));
	PG_TRY();
	{
		sendkit_guard_check();
		sendkit_text_init(&call->converter);
		result = call->work(call);
	}
	PG_CATCH();
	{
		end_call(call);
		PG_RE_THROW();
	}
	PG_END_TRY();
	end_call(call);
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Runs the work of a call, with no error letting the statement into the log, and
 * the key wiped in the end.
 */
static Datum
run_call(FunctionCallInfo fcinfo, Datum (*work) (Call *call))
{
	Call		call;

	call.fcinfo = fcinfo;
	call.work = work;
	call.dispatcher = NULL;
	call.title = NULL;
	return sendkit_run_hidden(do_work, &call);
}

static void
begin_dispatch(Call *call, int max_concurrency)
{
	call->dispatcher = sendkit_dispatcher_begin(&call->converter, call->credential.key,
												max_concurrency, sendkit_request_timeout);
	call->next_report = sendkit_clock_coarse() + PROGRESS_INTERVAL_MS;
}

/* --- progress --- */

static void
keep_title(Call *call)
{
	int			len;
	const char *title = get_ps_display(&len);

	call->title = pnstrdup(title, len);
}

static void
report_progress(Call *call, const char *report)
{
	if (call->title == NULL)
		keep_title(call);
	set_ps_display(psprintf("sendkit: %s", report));
	ereport(NOTICE,
			(errmsg("%s", report)));
}

/* How long to wait until there is to be a report */
static int64
until_report(const Call *call)
{
	return Max(call->next_report - sendkit_clock_coarse(), 0);
}

/* Returns whether there is to be a report now. */
static bool
is_report_due(Call *call)
{
	if (until_report(call) > 0)
		return false;
	call->next_report = sendkit_clock_coarse() + PROGRESS_INTERVAL_MS;
	return true;
}

/* --- arguments --- */

static void
report_null(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", what)));
}

static char *
path_of(const SendkitTextConverter *converter, text *id)
{
	const char *fault;
	char	   *path = sendkit_api_key_path(converter, VARDATA_ANY(id),
											VARSIZE_ANY_EXHDR(id), &fault);

	if (path == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid workspace_id"),
				 errdetail("%s", fault)));
	return path;
}

static text *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n);
}

/* Both functions take a key as their second argument; else it is stored. */
static void
find_key(Call *call)
{
	text	   *argument = text_argument(call->fcinfo, 1);

	if (argument)
		sendkit_credential_take(&call->credential, argument);
	else
		sendkit_credential_find(&call->credential,
								sendkit_extension_of(call->fcinfo->flinfo->fn_oid), GetUserId());
}

/* --- the kind of key --- */

/* Tells once per statement why a key of the wrong kind was refused. */
static void
notice_wrong_kind_of_key(void)
{
	static TimestampTz told = 0;

	if (told == GetCurrentStatementStartTimestamp())
		return;
	told = GetCurrentStatementStartTimestamp();
	ereport(NOTICE,
			(errmsg("the SendKit API needs a platform key"),
			 errdetail("The key that was given does not begin with \"sk_user_\", as platform keys do.")));
}

/* --- results that are lost --- */

static const char *
outcome_so_far(const SendkitDeletion *deletion)
{
	if (deletion->finished)
		return sendkit_outcome_name(deletion->verdict.outcome);
	if (deletion->in_flight)
		return sendkit_outcome_name(SENDKIT_UNKNOWN);
	return "not sent";
}

/* --- one workspace --- */

/* Somebody may have altered the type: better found out before anything is sent. */
static void
check_columns(TupleDesc desc, int expected)
{
	if (desc->natts != expected)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the function's row type does not have the columns of this version of sendkit")));
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
	check_columns(desc, 2);
	desc = BlessTupleDesc(desc);
	MemoryContextSwitchTo(old);
	flinfo->fn_extra = desc;
	return desc;
}

static Datum
result_row(TupleDesc desc, const SendkitVerdict *verdict)
{
	Datum		values[2];
	bool		nulls[2] = {false, false};

	values[0] = BoolGetDatum(verdict->outcome == SENDKIT_DELETED);
	values[1] = CStringGetTextDatum(verdict->message);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* What a call for one workspace is about */
typedef struct Single
{
	const text *id;
	const SendkitDeletion *deletion;
} Single;

static void
report_lost_row(int level, const Single *single)
{
	const char *id = text_to_cstring(single->id);

	ereport(level,
			(errmsg("sendkit_delete_api_key was interrupted: %s",
					outcome_so_far(single->deletion)),
			 errdetail("The workspace is \"%s\".",
					   level == NOTICE ? sendkit_text_for_client(id) : id)));
}

/*
 * The row is about to be lost: say what it would have said, as for many.  An error
 * that is no interrupt, and comes before anything was sent, says all by itself.
 */
static void
tell_lost_row(int code, Datum arg)
{
	const Single *single = (const Single *) DatumGetPointer(arg);

	if (!single->deletion->finished && !single->deletion->in_flight &&
		code == 0 && geterrcode() != ERRCODE_QUERY_CANCELED)
		return;
	report_lost_row(LOG_SERVER_ONLY, single);
	if (code == 0)
		report_lost_row(NOTICE, single);
}

/* Has it carried out, and reports the progress now and then. */
static void
carry_out_one(Call *call, SendkitDeletion *deletion)
{
	sendkit_dispatcher_add(call->dispatcher, deletion);
	while (!deletion->finished)
	{
		if (is_report_due(call))
			report_progress(call, psprintf("waiting for %s",
										   sendkit_dispatcher_waits_for(call->dispatcher)));
		(void) sendkit_dispatcher_next(call->dispatcher, until_report(call));
	}
}

static Datum
delete_one(Call *call)
{
	SendkitDeletion deletion;
	TupleDesc	desc = row_type(call->fcinfo);
	text	   *id = text_argument(call->fcinfo, 0);
	Single		single = {.id = id,.deletion = &deletion};
	volatile Datum row = (Datum) 0;

	if (id == NULL)
		report_null("workspace_id");
	memset(&deletion, 0, sizeof(deletion));
	deletion.path = path_of(&call->converter, id);
	deletion.send_before = DT_NOEND;
	find_key(call);

	begin_dispatch(call, 1);
	PG_ENSURE_ERROR_CLEANUP(tell_lost_row, PointerGetDatum(&single));
	{
		carry_out_one(call, &deletion);
		if (deletion.verdict.wrong_kind_of_key)
			notice_wrong_kind_of_key();
		row = result_row(desc, &deletion.verdict);
	}
	PG_END_ENSURE_ERROR_CLEANUP(tell_lost_row, PointerGetDatum(&single));
	return row;
}

Datum
sendkit_delete_api_key(PG_FUNCTION_ARGS)
{
	return run_call(fcinfo, delete_one);
}

/* --- many workspaces: which ones --- */

/* A set of ids, told apart by their paths */
typedef struct PathEntry
{
	const char *path;
	uint32		hash;
	char		status;
} PathEntry;

#define SH_PREFIX paths
#define SH_ELEMENT_TYPE PathEntry
#define SH_KEY_TYPE const char *
#define SH_KEY path
#define SH_HASH_KEY(tb, key) hash_bytes((const unsigned char *) (key), strlen(key))
#define SH_EQUAL(tb, a, b) (strcmp((a), (b)) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static void
make_room(Bulk *bulk)
{
	if (bulk->room == 0)
	{
		bulk->room = FIRST_ROOM;
		bulk->ids = palloc(bulk->room * sizeof(text *));
		bulk->deletions = palloc(bulk->room * sizeof(SendkitDeletion));
	}
	else if ((Size) bulk->count == bulk->room)
	{
		bulk->room *= 2;
		bulk->ids = repalloc_huge(bulk->ids, bulk->room * sizeof(text *));
		bulk->deletions = repalloc_huge(bulk->deletions, bulk->room * sizeof(SendkitDeletion));
	}
}

static void
add_id(Call *call, text *id, paths_hash *seen, Bulk *bulk)
{
	char	   *path = path_of(&call->converter, id);
	bool		found;

	paths_insert(seen, path, &found);
	if (found)
	{
		pfree(path);
		return;
	}
	make_room(bulk);
	memset(&bulk->deletions[bulk->count], 0, sizeof(SendkitDeletion));
	bulk->deletions[bulk->count].path = path;
	bulk->deletions[bulk->count].send_before = DT_NOEND;
	bulk->ids[bulk->count] = id;
	bulk->count++;
}

/* Fills in the distinct ids of the array, in the order of first appearance. */
static void
collect_ids(Call *call, ArrayType *array, Bulk *bulk)
{
	ArrayIterator elements = array_create_iterator(array, 0, NULL);
	paths_hash *seen = paths_create(CurrentMemoryContext, FIRST_ROOM, NULL);
	Datum		element;
	bool		isnull;

	while (array_iterate(elements, &element, &isnull))
	{
		CHECK_FOR_INTERRUPTS();
		if (isnull)
			report_null("an element of workspace_ids");
		add_id(call, DatumGetTextPP(element), seen, bulk);
	}
	array_free_iterator(elements);
	paths_destroy(seen);
}

/* --- many workspaces: progress --- */

/* Writes a number with commas between the thousands. */
static char *
with_commas(int number)
{
	char		digits[16];
	StringInfoData out;
	int			len = snprintf(digits, sizeof(digits), "%d", number);

	initStringInfo(&out);
	for (int i = 0; i < len; i++)
	{
		if (i > 0 && (len - i) % 3 == 0)
			appendStringInfoChar(&out, ',');
		appendStringInfoChar(&out, digits[i]);
	}
	return out.data;
}

static char *
progress_of(const Bulk *bulk)
{
	const SendkitTally *tally = bulk->tally;
	int			failed = tally->finished - tally->outcomes[SENDKIT_DELETED];

	return psprintf("%s of %s done, %s failed",
					with_commas(tally->finished),
					with_commas(bulk->count),
					with_commas(failed));
}

/* --- many workspaces: interruption --- */

static char *
name_outcomes(const Bulk *bulk)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < bulk->count; i++)
		appendStringInfo(&out, "%s%s: %s", i > 0 ? ", " : "",
						 text_to_cstring(bulk->ids[i]),
						 outcome_so_far(&bulk->deletions[i]));
	return out.data;
}

static void
report_interruption(int level, const Bulk *bulk)
{
	const SendkitTally *tally = bulk->tally;
	int			left = bulk->count - tally->finished - tally->in_flight;
	const char *named = bulk->count <= MAX_NAMED ? name_outcomes(bulk) : NULL;

	if (named && level == NOTICE)
		named = sendkit_text_for_client(named);
	ereport(level,
			(errmsg("sendkit_delete_api_keys was interrupted: %d deleted, %d absent, %d rejected, %d unavailable, %d unknown, %d not sent",
					tally->outcomes[SENDKIT_DELETED],
					tally->outcomes[SENDKIT_ABSENT],
					tally->outcomes[SENDKIT_REJECTED],
					tally->outcomes[SENDKIT_UNAVAILABLE],
					tally->outcomes[SENDKIT_UNKNOWN] + tally->in_flight,
					left),
			 named ? errdetail("%s", named) : 0));
}

/*
 * The rows are about to be lost: say what they would have said.  A session that
 * ends (its code is not zero) has nobody to tell it to but the log.
 */
static void
tell_interruption(int code, Datum arg)
{
	const Bulk *bulk = (const Bulk *) DatumGetPointer(arg);

	report_interruption(LOG_SERVER_ONLY, bulk);
	if (code == 0)
		report_interruption(NOTICE, bulk);
}

/* --- many workspaces: rows --- */

static void
set_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = (text == NULL);
	if (text)
		*value = CStringGetTextDatum(text);
}

static void
put_row(ReturnSetInfo *rows, text *id, const SendkitVerdict *verdict)
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {false};

	values[COLUMN_WORKSPACE_ID] = PointerGetDatum(id);
	values[COLUMN_SUCCESS] = BoolGetDatum(verdict->outcome == SENDKIT_DELETED);
	values[COLUMN_MESSAGE] = CStringGetTextDatum(verdict->message);
	values[COLUMN_OUTCOME] = CStringGetTextDatum(sendkit_outcome_name(verdict->outcome));
	values[COLUMN_STATUS] = Int32GetDatum(verdict->status);
	nulls[COLUMN_STATUS] = (verdict->status == 0);
	set_text(&values[COLUMN_ERROR_CODE], &nulls[COLUMN_ERROR_CODE], verdict->error_code);
	nulls[COLUMN_DETAILS] = (verdict->details == NULL);
	if (verdict->details)
		values[COLUMN_DETAILS] = DirectFunctionCall1(jsonb_in,
													 CStringGetDatum(verdict->details));
	tuplestore_putvalues(rows->setResult, rows->setDesc, values, nulls);
}

/* Returns whether a key of the wrong kind was refused. */
static bool
put_rows(const Bulk *bulk, ReturnSetInfo *rows)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "sendkit row",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_context);
	bool		wrong_kind_of_key = false;

	for (int i = 0; i < bulk->count; i++)
	{
		const SendkitVerdict *verdict = &bulk->deletions[i].verdict;

		CHECK_FOR_INTERRUPTS();
		put_row(rows, bulk->ids[i], verdict);
		wrong_kind_of_key |= verdict->wrong_kind_of_key;
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old);
	return wrong_kind_of_key;
}

/* Has everything carried out, and reports the progress now and then. */
static void
carry_out(Call *call, Bulk *bulk)
{
	for (int i = 0; i < bulk->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		sendkit_dispatcher_add(call->dispatcher, &bulk->deletions[i]);
	}

	while (bulk->tally->finished < bulk->count)
	{
		if (is_report_due(call))
			report_progress(call, progress_of(bulk));
		(void) sendkit_dispatcher_next(call->dispatcher, until_report(call));
	}
}

static Datum
delete_many(Call *call)
{
	FunctionCallInfo fcinfo = call->fcinfo;
	ReturnSetInfo *rows = (ReturnSetInfo *) fcinfo->resultinfo;
	Bulk		bulk;
	bool		wrong_kind_of_key;

	InitMaterializedSRF(fcinfo, 0);
	check_columns(rows->setDesc, COLUMNS);
	if (PG_ARGISNULL(0))
		report_null("workspace_ids");

	memset(&bulk, 0, sizeof(bulk));
	collect_ids(call, PG_GETARG_ARRAYTYPE_P(0), &bulk);
	find_key(call);
	if (bulk.count == 0)
		return (Datum) 0;

	begin_dispatch(call, Min(sendkit_max_concurrency, bulk.count));
	bulk.tally = sendkit_dispatcher_tally(call->dispatcher);

	/* also for a session that is terminated, which unwinds no stack */
	PG_ENSURE_ERROR_CLEANUP(tell_interruption, PointerGetDatum(&bulk));
	{
		carry_out(call, &bulk);
		wrong_kind_of_key = put_rows(&bulk, rows);
	}
	PG_END_ENSURE_ERROR_CLEANUP(tell_interruption, PointerGetDatum(&bulk));

	if (wrong_kind_of_key)
		notice_wrong_kind_of_key();
	return (Datum) 0;
}

Datum
sendkit_delete_api_keys(PG_FUNCTION_ARGS)
{
	return run_call(fcinfo, delete_many);
}
