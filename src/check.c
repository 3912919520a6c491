/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Does everything work?  The whole way to a deletion, without deleting.
 *
 * sendkit_check() returns a row for each step of a fixed list.  A step runs in
 * a subtransaction: an error becomes its row, and the steps that follow are
 * taken all the same; only an interrupt ends it all.  A step that could not be
 * tried, because of one that failed before it, is neither right nor wrong.
 *
 * Details are for people: words, and no secrets.  Whoever may run it need be no
 * superuser, so where a value is one that only some may see, it says no more
 * than that there is one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc_tables.h"
#include "utils/resowner.h"

#include "check.h"
#include "extension.h"
#include "guc_guard.h"
#include "home.h"

/* The columns of sendkit_check() */
enum
{
	COLUMN_STEP,
	COLUMN_OK,
	COLUMN_DETAIL,
	COLUMNS
};

PG_FUNCTION_INFO_V1(sendkit_check);

/* --- settings --- */

/* Settings whose values not everybody may see */
static bool
is_secret(const struct config_generic *setting)
{
	return (setting->flags & GUC_SUPERUSER_ONLY) != 0;
}

static void
append_setting(StringInfo detail, const char *name)
{
	const struct config_generic *setting = sendkit_find_setting(name);

	if (setting == NULL || setting->source == PGC_S_DEFAULT)
		return;
	if (detail->len > 0)
		appendStringInfoString(detail, ", ");
	if (is_secret(setting))
		appendStringInfo(detail, "%s is set", name);
	else
		appendStringInfo(detail, "%s = %s", name, GetConfigOptionByName(name, NULL, false));
	appendStringInfo(detail, " (%s)", GucSource_Names[setting->source]);
}

static SendkitStepResult
check_settings(SendkitCheck *check, StringInfo detail)
{
	static const char *const names[] = {
		"sendkit.base_url", "sendkit.ca_file", "sendkit.proxy", "sendkit.platform_key_file",
		"sendkit.connect_timeout", "sendkit.request_timeout", "sendkit.max_retries",
		"sendkit.max_concurrency", "sendkit.auto_deliver", "sendkit.worker_role",
		"sendkit.worker_naptime", "sendkit.batch_size",
	};

	sendkit_guard_check();
	check->settings_hold = true;
	for (size_t i = 0; i < lengthof(names); i++)
		append_setting(detail, names[i]);
	appendStringInfoString(detail, detail->len > 0 ?
						   "; all others have their defaults" : "all have their defaults");
	return SENDKIT_STEP_RIGHT;
}

/* --- is this the original? --- */

static SendkitStepResult
check_home(SendkitCheck *check, StringInfo detail)
{
	if (sendkit_home_is_here(check->extension))
	{
		appendStringInfoString(detail, "this database is the one that revocations and keys belong to");
		return SENDKIT_STEP_RIGHT;
	}
	appendStringInfoString(detail, "this database is a copy: nothing is delivered, and stored keys are not used;"
						   " if it takes the original's place, SELECT sendkit_adopt_revocations()");
	return SENDKIT_STEP_WRONG;
}

/* --- taking the steps --- */

typedef struct Step
{
	const char *name;
	SendkitStep work;
} Step;

/* Names and order are documented: see the README. */
static const Step steps[] = {
	{"settings", check_settings},
	{"credential", sendkit_check_credential},
	{"home", check_home},
	{"name", sendkit_check_name},
	{"connection", sendkit_check_connection},
	{"proxy", sendkit_check_proxy},
	{"tls", sendkit_check_tls},
	{"protocol", sendkit_check_protocol},
	{"round trip", sendkit_check_round_trip},
	{"queue", sendkit_check_queue},
	{"delivery", sendkit_check_delivery},
	{"attachments", sendkit_check_attachments},
};

static bool
is_interrupt(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION;
}

/* Puts an error into words. */
static void
describe_error(const ErrorData *error, StringInfo detail)
{
	resetStringInfo(detail);
	appendStringInfoString(detail, error->message);
	if (error->detail)
		appendStringInfo(detail, ". %s", error->detail);
	if (error->hint)
		appendStringInfo(detail, "%s %s", error->detail ? "" : ".", error->hint);
}

/* Takes a step in a subtransaction.  An error is a result, an interrupt is not. */
static SendkitStepResult
take_step(const Step *step, SendkitCheck *check, StringInfo detail)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile SendkitStepResult result = SENDKIT_STEP_WRONG;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = step->work(check, detail);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (is_interrupt(error->sqlerrcode))
			ReThrowError(error);
		describe_error(error, detail);
		result = SENDKIT_STEP_WRONG;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return result;
}

static void
put_row(ReturnSetInfo *rows, const char *step, SendkitStepResult result, const char *detail)
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {false};

	values[COLUMN_STEP] = CStringGetTextDatum(step);
	values[COLUMN_OK] = BoolGetDatum(result == SENDKIT_STEP_RIGHT);
	nulls[COLUMN_OK] = (result == SENDKIT_STEP_UNKNOWN);
	values[COLUMN_DETAIL] = CStringGetTextDatum(detail);
	tuplestore_putvalues(rows->setResult, rows->setDesc, values, nulls);
}

Datum
sendkit_check(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rows = (ReturnSetInfo *) fcinfo->resultinfo;
	SendkitCheck check;
	StringInfoData detail;

	InitMaterializedSRF(fcinfo, 0);
	memset(&check, 0, sizeof(check));
	check.extension = sendkit_extension_of(fcinfo->flinfo->fn_oid);
	check.context = CurrentMemoryContext;
	sendkit_text_init(&check.converter);
	initStringInfo(&detail);

	for (size_t i = 0; i < lengthof(steps); i++)
	{
		SendkitStepResult result;

		resetStringInfo(&detail);
		result = take_step(&steps[i], &check, &detail);
		put_row(rows, steps[i].name, result, detail.data);
	}
	return (Datum) 0;
}
