/*-------------------------------------------------------------------------
 *
 * guc_guard.c
 *	  Values of settings that were given before the library was loaded.
 *
 * Until the library is loaded, PostgreSQL keeps whatever value it is given for
 * a setting of ours, by whomever: a placeholder.  When it turns out that the
 * value is not acceptable, or was given by a role that may not set it,
 * PostgreSQL falls back on the value beneath.  There are two cases, told apart
 * by where values came from, since a value may well equal a default:
 *
 * - The session's first value was refused, as that of PGOPTIONS.  It had taken
 *   the place of the one in postgresql.conf, which this session cannot know any
 *   more: the built-in default stands in for it.  Calls are refused for as long
 *   as it does.  A superuser's SET ends that, and so does a reload, which brings
 *   the file's value, if there is none of a higher rank (hidden_value.c).
 * - A value that was SET was refused, be it the one in force or one that another
 *   SET had covered for a while.  The administrator's is known and in force, but
 *   it is not what was asked for: a test server may have been meant.  Calls are
 *   refused until that SET would have ended, had it been taken; and not while a
 *   value is in force that somebody who may has SET since, nor after a RESET that
 *   was committed.  A reload is no answer to a SET.
 *
 * What PostgreSQL would have done with a SET that was refused is not told apart
 * to the last: where several were, the longest lifetime counts for all of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "guc_guard.h"
#include "hidden_value.h"

/* Until when a value that was SET would have been in force; a later one is longer. */
typedef enum Lifetime
{
	NOT_SET,					/* it is the session's first */
	IN_TRANSACTION,
	UNLESS_ABORTED,
	IN_SESSION,
} Lifetime;

/* A value, and who gave it */
typedef struct Given
{
	const char *value;
	GucContext	context;
	Oid			role;
	Lifetime	lifetime;
	int			guc_level;		/* if it was SET in a transaction */
} Given;

typedef struct Guarded
{
	const char *name;
	const struct config_generic *option;	/* once it is defined */
	List	   *given;			/* the values of a placeholder, until then */
	List	   *beneath;		/* SET values that were taken, beneath others */

	GucSource	first_source;	/* of the first value, as it was given */
	Lifetime	refused;		/* the longest of the values that were SET */
	int			nest_level;		/* ... in a transaction, here or further in */

	bool		first_was_refused;	/* another may stand in for what it hides */
	bool		harmless;		/* no call is refused for it */
} Guarded;

static Guarded guarded[] = {
	{.name = "sendkit.base_url"},
	{.name = "sendkit.ca_file"},
	{.name = "sendkit.proxy"},
	{.name = "sendkit.platform_key_file"},
	{.name = "sendkit.worker_role"},
	{.name = "sendkit.auto_deliver",.harmless = true},
};

#define GUARDED ((int) lengthof(guarded))

/* --- what was given --- */

static List *
add_given(List *values, const char *value, GucContext context, Oid role,
		  Lifetime lifetime, int guc_level)
{
	Given	   *given;

	if (value == NULL)
		return values;
	given = (Given *) palloc(sizeof(Given));
	given->value = pstrdup(value);
	given->context = context;
	given->role = role;
	given->lifetime = lifetime;
	given->guc_level = guc_level;
	return lappend(values, given);
}

/* How long the value above an entry of the stack lives, or without one the session's. */
static Lifetime
lifetime_above(const GucStack *entry, GucSource source, GucSource first_source)
{
	if (entry)
		return entry->state == GUC_SET ? UNLESS_ABORTED : IN_TRANSACTION;
	return source == first_source ? NOT_SET : IN_SESSION;
}

/* Returns all values of a setting that is a string, the one in force first. */
static List *
given_values(const struct config_generic *option)
{
	const GucStack *entry = option->stack;
	List	   *values = add_given(NIL, GetConfigOption(option->name, true, false),
								   option->scontext, option->srole,
								   lifetime_above(entry, option->source, option->reset_source),
								   entry ? entry->nest_level : 0);

	for (; entry; entry = entry->prev)
	{
		if (entry->state == GUC_SET_LOCAL)
			values = add_given(values, entry->masked.val.stringval,
							   entry->masked_scontext, entry->masked_srole,
							   UNLESS_ABORTED, entry->nest_level);
		values = add_given(values, entry->prior.val.stringval,
						   entry->scontext, entry->srole,
						   lifetime_above(entry->prev, entry->source, option->reset_source),
						   entry->prev ? entry->prev->nest_level : 0);
	}
	return values;
}

/* Notes what placeholders there are.  Called before the settings are defined. */
void
sendkit_guard_note_given(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	for (int i = 0; i < GUARDED; i++)
	{
		Guarded    *setting = &guarded[i];
		const struct config_generic *option = sendkit_find_setting(setting->name);

		if (option == NULL || (option->flags & GUC_CUSTOM_PLACEHOLDER) == 0)
			continue;
		setting->given = given_values(option);
		setting->first_source = option->reset_source;
	}
	MemoryContextSwitchTo(old);
}

/* --- what of it was not taken --- */

/*
 * Functions with settings of their own have levels like those of subtransactions.
 * How many of them are there?
 */
static int
levels_of_functions(void)
{
	int			guc_level = NewGUCNestLevel();

	AtEOXact_GUC(true, guc_level);
	return guc_level - 1 - GetCurrentTransactionNestLevel();
}

static bool
has_value(const List *values, GucContext context, Oid role, const char *value)
{
	ListCell   *cell;

	foreach(cell, values)
	{
		const Given *given = (const Given *) lfirst(cell);

		if (given->context == context && given->role == role &&
			strcmp(given->value, value) == 0)
			return true;
	}
	return false;
}

static void
note_refused_sets(Guarded *setting)
{
	const List *taken = given_values(setting->option);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	int			guc_level = INT_MAX;
	ListCell   *cell;

	foreach(cell, setting->given)
	{
		Given	   *given = (Given *) lfirst(cell);

		if (has_value(taken, given->context, given->role, given->value))
		{
			if (setting->refused != NOT_SET)
				setting->beneath = lappend(setting->beneath, given);
		}
		else if (given->lifetime != NOT_SET)
		{
			setting->refused = Max(setting->refused, given->lifetime);
			guc_level = Min(guc_level, given->guc_level);
		}
	}
	MemoryContextSwitchTo(old);
	if (setting->refused != NOT_SET)
		setting->nest_level = guc_level - levels_of_functions();
}

/* Does a RESET end with the transaction, to last?  PostgreSQL looks at its stack later. */
static bool
is_reset(const struct config_generic *option)
{
	return option->stack && option->stack->state == GUC_SET &&
		option->source == option->reset_source;
}

/* A transaction ends, and with it what was SET in it, or its being undecided. */
static void
end_transaction(XactEvent event, void *arg pg_attribute_unused())
{
	bool		aborted = (event == XACT_EVENT_ABORT);

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE && !aborted)
		return;
	for (int i = 0; i < GUARDED; i++)
	{
		Guarded    *setting = &guarded[i];

		if (setting->refused == NOT_SET)
			continue;
		if (!aborted && is_reset(setting->option))
			setting->refused = NOT_SET;
		else if (setting->refused == UNLESS_ABORTED && !aborted)
			setting->refused = IN_SESSION;
		else if (setting->refused != IN_SESSION)
			setting->refused = NOT_SET;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId self pg_attribute_unused(),
				   SubTransactionId parent pg_attribute_unused(),
				   void *arg pg_attribute_unused())
{
	int			nest_level = GetCurrentTransactionNestLevel();

	for (int i = 0; i < GUARDED; i++)
	{
		Guarded    *setting = &guarded[i];

		if (setting->refused == IN_SESSION || setting->nest_level < nest_level)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			setting->refused = NOT_SET;
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			setting->nest_level = nest_level - 1;
	}
}

/* Notes what placeholders were refused.  Called after the settings were defined. */
void
sendkit_guard_note_refused(void)
{
	bool		any_refused = false;

	for (int i = 0; i < GUARDED; i++)
	{
		Guarded    *setting = &guarded[i];

		setting->option = sendkit_find_setting(setting->name);
		if (setting->given == NIL || setting->option == NULL)
			continue;
		setting->first_was_refused = (setting->option->reset_source != setting->first_source);
		if (!setting->harmless)
			note_refused_sets(setting);
		setting->given = NIL;
		any_refused |= setting->refused != NOT_SET;
	}
	if (any_refused)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
	}
}

/* --- what follows from it --- */

/*
 * Was the session's first value of a setting refused?  The name must be one of
 * those above.  Cannot raise an error.
 */
bool
sendkit_guard_first_was_refused(const char *name)
{
	const Guarded *setting = guarded;

	while (strcmp(setting->name, name) != 0)
		setting++;
	return setting->first_was_refused;
}

static void
report_refusal(const char *name, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the value given for \"%s\" was refused when sendkit was loaded", name),
			 errdetail("%s Nothing was sent to the SendKit API.", detail),
			 errhint("%s With sendkit in shared_preload_libraries, it is refused at once.", hint)));
}

/*
 * Is the value to which RESET leads known by now?  A reload brings the file's, which
 * is not it if there is one for the role, the database or the server.
 */
static bool
first_is_known(const Guarded *setting)
{
	if (setting->option->reset_source == PGC_S_DEFAULT)
		return false;
	return setting->first_source <= PGC_S_FILE ||
		!sendkit_may_have_hidden_value(setting->name);
}

/* Does another value stand in for one that nobody knows? */
static bool
another_stands_in(Guarded *setting)
{
	if (!setting->first_was_refused)
		return false;
	/* somebody who may has SET it */
	if (setting->option->source != setting->option->reset_source)
		return false;
	setting->first_was_refused = !first_is_known(setting);
	return setting->first_was_refused;
}

/* Is a value in force that was there already, instead of the one that was SET? */
static bool
set_is_missing(const Guarded *setting)
{
	const struct config_generic *option = setting->option;

	return setting->refused != NOT_SET &&
		(option->source <= PGC_S_OVERRIDE ||
		 has_value(setting->beneath, option->scontext, option->srole,
				   GetConfigOption(setting->name, false, false)));
}

static void
check_setting(Guarded *setting)
{
	if (another_stands_in(setting))
		report_refusal(setting->name,
					   "It hides the value in postgresql.conf, or of the role or the database, if there is one, and another stands in for it.",
					   "Correct it where it was given: in postgresql.conf, by a reload, or in the connection's, role's or database's options, by connecting anew.");
	if (set_is_missing(setting))
		report_refusal(setting->name,
					   "The value in force is another than was asked for.",
					   "SET it if you may, or RESET it and commit, roll the transaction back that has set it, or connect anew.");
}

/*
 * Raises 22023 if a setting that decides where keys come from or go to was
 * given a value that could not be taken, and another one stands in for it; and
 * 25000 in a parallel operation: a worker gets the leader's values without the
 * knowledge of what was refused.
 */
void
sendkit_guard_check(void)
{
	PreventCommandIfParallelMode("a call of the SendKit API");
	for (int i = 0; i < GUARDED; i++)
	{
		if (!guarded[i].harmless)
			check_setting(&guarded[i]);
	}
}
