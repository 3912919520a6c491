/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The settings, all named sendkit.*
 *
 * What decides where a platform key is sent is for superusers (base_url,
 * ca_file) or for postgresql.conf alone (proxy, whose password everybody could
 * read in pg_db_role_setting); how long a caller is willing to wait is the
 * caller's.  The check hooks say why a value is refused.
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
 * - A value that was SET was refused.  The administrator's is known and in force,
 *   but it is not what was asked for: a test server may have been meant.  Calls
 *   are refused until that SET would have ended, had it been taken, or the
 *   setting is set anew.
 *
 * There is on purpose no setting that holds a key, since pg_db_role_setting can
 * be read by everyone, and none that turns the verification of certificates
 * off.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "compat.h"
#include "guc.h"
#include "hidden_value.h"
#include "url.h"

/* "Never endless": the longest time that a timeout can be set to */
#define MAX_TIMEOUT_MS (60 * 60 * 1000)

/* More attempts than this is a queue's business, not a call's */
#define MAX_RETRIES 100

/* As many streams as servers commonly allow on one HTTP/2 connection, and more */
#define MAX_CONCURRENCY 1000

/* Claims are short transactions: larger ones would gain nothing */
#define MAX_BATCH_SIZE 10000

/* Often enough to busy a machine with nothing, and rarely enough to forget a queue */
#define MIN_NAPTIME_MS 10
#define MAX_NAPTIME_MS (24 * 60 * 60 * 1000)

char	   *sendkit_base_url;
char	   *sendkit_ca_file;
char	   *sendkit_proxy;
char	   *sendkit_platform_key_file;
int			sendkit_connect_timeout;
int			sendkit_request_timeout;
int			sendkit_max_retries;
int			sendkit_max_concurrency;
int			sendkit_batch_size;
bool		sendkit_auto_deliver;
char	   *sendkit_worker_role;
int			sendkit_worker_naptime;

/* Returns whether all is well, else leaves the fault as the error's detail. */
static bool
no_fault(const char *fault)
{
	if (fault == NULL)
		return true;
	GUC_check_errdetail("%s", fault);
	return false;
}

/* The same, with an error that doesn't show the value. */
static bool
no_fault_of_secret(const char *name, const char *fault)
{
	if (fault)
		GUC_check_errmsg("invalid value for parameter \"%s\"", name);
	return no_fault(fault);
}

static bool
check_base_url(char **newval, void **extra pg_attribute_unused(),
			   GucSource source pg_attribute_unused())
{
	const char *fault = sendkit_url_base_fault(*newval);

	/* somebody may have put a password there, which is a fault */
	return strchr(*newval, '@') ? no_fault_of_secret("sendkit.base_url", fault) : no_fault(fault);
}

static const char *
ca_file_fault(const char *path)
{
	struct stat st;

	if (!is_absolute_path(path))
		return "The path must be absolute.";
	if (strlen(path) >= MAXPGPATH)
		return "The path is too long.";
	if (stat(path, &st) != 0)
		return "The file does not exist, or the server may not see it.";
	if (!S_ISREG(st.st_mode))
		return "The path does not name a regular file.";
	if (access(path, R_OK) != 0)
		return "The server may not read the file.";
	return NULL;
}

static bool
check_ca_file(char **newval, void **extra pg_attribute_unused(),
			  GucSource source pg_attribute_unused())
{
	return **newval == '\0' || no_fault(ca_file_fault(*newval));
}

static bool
check_proxy(char **newval, void **extra pg_attribute_unused(),
			GucSource source pg_attribute_unused())
{
	return **newval == '\0' ||
		no_fault_of_secret("sendkit.proxy", sendkit_url_proxy_fault(*newval));
}

/* What is shown of the proxy has no user name and no password. */
static const char *
show_proxy(void)
{
	const char *host = strrchr(sendkit_proxy, '@');

	if (host == NULL)
		return sendkit_proxy;
	return psprintf("%.*s***%s",
					(int) (strstr(sendkit_proxy, "://") + 3 - sendkit_proxy), sendkit_proxy,
					host);
}

/*
 * What else the file must be is checked when it is read (credential.c).  Somebody
 * may have put the key itself here, so that a bad value is not shown.
 */
static bool
check_platform_key_file(char **newval, void **extra pg_attribute_unused(),
						GucSource source pg_attribute_unused())
{
	if (**newval == '\0')
		return true;
	if (!is_absolute_path(*newval))
		return no_fault_of_secret("sendkit.platform_key_file", "The path must be absolute.");
	if (strlen(*newval) >= MAXPGPATH)
		return no_fault_of_secret("sendkit.platform_key_file", "The path is too long.");
	return true;
}

/* --- values that were given before the library was loaded, and not taken --- */

/* Until when a value that was SET would have been in force */
typedef enum Refusal
{
	NOT_REFUSED,
	REFUSED_IN_TRANSACTION,
	REFUSED_UNLESS_ABORTED,
	REFUSED_IN_SESSION,
} Refusal;

typedef struct GuardedSetting
{
	const char *name;
	bool		first_was_refused;	/* another may stand in for what it hides */
	GucSource	first_source;	/* of the refused one */
	Refusal		refusal;		/* of a value that was SET */
	int			nest_level;		/* ... in a transaction, at this level */
} GuardedSetting;

enum
{
	BASE_URL,
	CA_FILE,
	PROXY,
	PLATFORM_KEY_FILE,
	WORKER_ROLE,
	GUARDED
};

static GuardedSetting guarded[GUARDED] = {
	{.name = "sendkit.base_url"},
	{.name = "sendkit.ca_file"},
	{.name = "sendkit.proxy"},
	{.name = "sendkit.platform_key_file"},
	{.name = "sendkit.worker_role"},
};

/* Whoever sets it anew knows what is in force now. */
static void
assign_base_url(const char *newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	guarded[BASE_URL].refusal = NOT_REFUSED;
}

static void
assign_ca_file(const char *newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	guarded[CA_FILE].refusal = NOT_REFUSED;
}

static void
assign_proxy(const char *newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	guarded[PROXY].refusal = NOT_REFUSED;
}

static void
assign_platform_key_file(const char *newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	guarded[PLATFORM_KEY_FILE].refusal = NOT_REFUSED;
}

static void
assign_worker_role(const char *newval pg_attribute_unused(), void *extra pg_attribute_unused())
{
	guarded[WORKER_ROLE].refusal = NOT_REFUSED;
}

/* --- what there is --- */

static void
define_endpoint_settings(void)
{
	DefineCustomStringVariable("sendkit.base_url",
							   "Sets the root of the SendKit API.",
							   "A path prefix is kept. Plain http is accepted for loopback addresses only.",
							   &sendkit_base_url,
							   "https://api.sendkit.ai",
							   PGC_SUSET,
							   0,
							   check_base_url, assign_base_url, NULL);

	DefineCustomStringVariable("sendkit.ca_file",
							   "Sets the file of certificate authorities to trust.",
							   "An empty string means those that the system trusts.",
							   &sendkit_ca_file,
							   "",
							   PGC_SUSET,
							   0,
							   check_ca_file, assign_ca_file, NULL);

	/* A view would show its password also to those who may see all settings */
	DefineCustomStringVariable("sendkit.proxy",
							   "Sets the HTTP or SOCKS proxy to reach the SendKit API through.",
							   "An empty string means none. Not used for plain http, which stays on this machine.",
							   &sendkit_proxy,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL,
							   check_proxy, assign_proxy, show_proxy);
}

static void
define_credential_settings(void)
{
	DefineCustomStringVariable("sendkit.platform_key_file",
							   "Sets the file that holds the platform key.",
							   "It is read at each use, for roles that have no user mapping. An empty string means none.",
							   &sendkit_platform_key_file,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   check_platform_key_file, assign_platform_key_file, NULL);
}

static void
define_patience_settings(void)
{
	DefineCustomIntVariable("sendkit.connect_timeout",
							"Sets the longest time to wait for a connection to the SendKit API.",
							"Name resolution, TCP and TLS are included.",
							&sendkit_connect_timeout,
							5000, 1, MAX_TIMEOUT_MS,
							PGC_USERSET,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sendkit.request_timeout",
							"Sets the longest time to spend on one workspace.",
							"Waiting for a rate limit, retries and the pauses between them are included.",
							&sendkit_request_timeout,
							30000, 1, MAX_TIMEOUT_MS,
							PGC_USERSET,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sendkit.max_retries",
							"Sets how often a request that certainly had no effect is tried again.",
							"Zero means never. A request that may have reached the API is never repeated.",
							&sendkit_max_retries,
							3, 0, MAX_RETRIES,
							PGC_USERSET,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sendkit.max_concurrency",
							"Sets how many requests a call may have in flight at a time.",
							NULL,
							&sendkit_max_concurrency,
							32, 1, MAX_CONCURRENCY,
							PGC_USERSET,
							0,
							NULL, NULL, NULL);
}

static void
define_queue_settings(void)
{
	DefineCustomIntVariable("sendkit.batch_size",
							"Sets how many revocations are claimed at a time.",
							NULL,
							&sendkit_batch_size,
							100, 1, MAX_BATCH_SIZE,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("sendkit.worker_naptime",
							"Sets the longest time between two looks at a queue.",
							NULL,
							&sendkit_worker_naptime,
							60000, MIN_NAPTIME_MS, MAX_NAPTIME_MS,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);
}

static void
define_worker_role(void)
{
	DefineCustomStringVariable("sendkit.worker_role",
							   "Sets the role as which background workers deliver revocations.",
							   "Its platform key is the one that they use. An empty string means the queue's owner.",
							   &sendkit_worker_role,
							   "",
							   PGC_SIGHUP,
							   0,
							   NULL, assign_worker_role, NULL);
}

/* --- the guard --- */

/* A placeholder as it was before the setting was defined */
typedef struct Placeholder
{
	char	   *value;			/* NULL: there was none */
	GucSource	source;
	GucSource	first_source;	/* of the value that RESET leads to */
	GucContext	context;		/* of who gave the value, and as which role */
	Oid			role;
	Refusal		lifetime;		/* if it is refused */
	int			nest_level;
} Placeholder;

static void
note_placeholder(const char *name, Placeholder *placeholder)
{
	const struct config_generic *option = sendkit_find_setting(name);
	const char *value = option ? GetConfigOption(name, true, false) : NULL;

	memset(placeholder, 0, sizeof(*placeholder));
	if (value == NULL)
		return;
	placeholder->value = pstrdup(value);
	placeholder->source = option->source;
	placeholder->first_source = option->reset_source;
	placeholder->context = option->scontext;
	placeholder->role = option->srole;
	placeholder->lifetime = REFUSED_IN_SESSION;
	if (option->stack)
	{
		placeholder->nest_level = option->stack->nest_level;
		placeholder->lifetime = option->stack->state == GUC_SET ?
			REFUSED_UNLESS_ABORTED : REFUSED_IN_TRANSACTION;
	}
}

static bool
was_set(const Placeholder *placeholder)
{
	return placeholder->source != placeholder->first_source ||
		placeholder->lifetime != REFUSED_IN_SESSION;
}

static bool
first_was_refused(const char *name, const Placeholder *placeholder)
{
	return placeholder->value &&
		sendkit_find_setting(name)->reset_source != placeholder->first_source;
}

/* Tells from a setting as it is now what was not taken of its placeholder. */
static void
note_refusals(GuardedSetting *setting, const Placeholder *placeholder)
{
	const struct config_generic *option = sendkit_find_setting(setting->name);

	if (placeholder->value == NULL)
		return;
	setting->first_was_refused = first_was_refused(setting->name, placeholder);
	setting->first_source = placeholder->first_source;
	if (was_set(placeholder) &&
		(option->source != placeholder->source ||
		 option->scontext != placeholder->context ||
		 option->srole != placeholder->role ||
		 strcmp(GetConfigOption(setting->name, false, false), placeholder->value) != 0))
	{
		setting->refusal = placeholder->lifetime;
		setting->nest_level = placeholder->nest_level;
	}
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
		GuardedSetting *setting = &guarded[i];

		if (setting->refusal == REFUSED_UNLESS_ABORTED && !aborted)
			setting->refusal = REFUSED_IN_SESSION;
		else if (setting->refusal != REFUSED_IN_SESSION)
			setting->refusal = NOT_REFUSED;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId self pg_attribute_unused(),
				   SubTransactionId parent pg_attribute_unused(),
				   void *arg pg_attribute_unused())
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int i = 0; i < GUARDED; i++)
	{
		GuardedSetting *setting = &guarded[i];

		if (setting->refusal != REFUSED_IN_SESSION &&
			setting->nest_level >= GetCurrentTransactionNestLevel())
			setting->refusal = NOT_REFUSED;
	}
}

/* Where nobody knows whether the administrator has switched it off, it is off. */
static void
define_auto_deliver(void)
{
	Placeholder placeholder;

	note_placeholder("sendkit.auto_deliver", &placeholder);
	DefineCustomBoolVariable("sendkit.auto_deliver",
							 "Delivers revocations by background workers.",
							 "Off means that only a call of sendkit_process_revocations() delivers them.",
							 &sendkit_auto_deliver,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);
	if (first_was_refused("sendkit.auto_deliver", &placeholder))
		sendkit_auto_deliver = false;
}

static void
define_guarded_settings(void)
{
	Placeholder placeholders[GUARDED];
	bool		undecided = false;

	for (int i = 0; i < GUARDED; i++)
		note_placeholder(guarded[i].name, &placeholders[i]);

	define_endpoint_settings();
	define_credential_settings();
	define_worker_role();

	for (int i = 0; i < GUARDED; i++)
	{
		note_refusals(&guarded[i], &placeholders[i]);
		undecided |= guarded[i].nest_level > 0;
	}
	if (undecided)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
	}
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
first_is_known(const GuardedSetting *setting)
{
	if (sendkit_find_setting(setting->name)->reset_source == PGC_S_DEFAULT)
		return false;
	return setting->first_source <= PGC_S_FILE ||
		!sendkit_may_have_hidden_value(setting->name);
}

/* Does another value stand in for one that nobody knows? */
static bool
another_stands_in(GuardedSetting *setting)
{
	const struct config_generic *option;

	if (!setting->first_was_refused)
		return false;
	option = sendkit_find_setting(setting->name);
	/* somebody who may has SET it */
	if (option->source != option->reset_source)
		return false;
	setting->first_was_refused = !first_is_known(setting);
	return setting->first_was_refused;
}

/*
 * Raises 22023 if a setting that decides where keys come from or go to was
 * given a value that could not be taken, and another one stands in for it; and
 * 25000 in a parallel operation: a worker gets the leader's values without the
 * knowledge of what was refused.
 */
void
sendkit_guc_check(void)
{
	PreventCommandIfParallelMode("a call of the SendKit API");
	for (int i = 0; i < GUARDED; i++)
	{
		if (another_stands_in(&guarded[i]))
			report_refusal(guarded[i].name,
						   "It hides the value in postgresql.conf, or of the role or the database, if there is one, and another stands in for it.",
						   "Correct it where it was given: in postgresql.conf, by a reload, or in the connection's, role's or database's options, by connecting anew.");
		if (guarded[i].refusal != NOT_REFUSED)
			report_refusal(guarded[i].name,
						   "The value in force is another than was asked for.",
						   "RESET or SET it if you may, roll the transaction back that has set it, or connect anew.");
	}
}

/* Defines the settings and reserves their prefix.  Called once, by _PG_init(). */
void
sendkit_guc_init(void)
{
	define_guarded_settings();
	define_auto_deliver();
	define_patience_settings();
	define_queue_settings();
	MarkGUCPrefixReserved("sendkit");
}
