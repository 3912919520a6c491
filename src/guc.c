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
 * Until the library is loaded, a setting may have been given a value by anybody:
 * guc_guard.c looks at what became of it.
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

#include "access/parallel.h"
#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "guc.h"
#include "guc_guard.h"
#include "hiding.h"
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
							   check_base_url, NULL, NULL);

	DefineCustomStringVariable("sendkit.ca_file",
							   "Sets the file of certificate authorities to trust.",
							   "An empty string means those that the system trusts.",
							   &sendkit_ca_file,
							   "",
							   PGC_SUSET,
							   0,
							   check_ca_file, NULL, NULL);

	/* A view would show its password also to those who may see all settings */
	DefineCustomStringVariable("sendkit.proxy",
							   "Sets the HTTP or SOCKS proxy to reach the SendKit API through.",
							   "An empty string means none. Not used for plain http, which stays on this machine.",
							   &sendkit_proxy,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL,
							   check_proxy, NULL, show_proxy);
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
							   check_platform_key_file, NULL, NULL);
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
							   NULL, NULL, NULL);
}

static void
define_auto_deliver(void)
{
	DefineCustomBoolVariable("sendkit.auto_deliver",
							 "Delivers revocations by background workers.",
							 "Off means that only a call of sendkit_process_revocations() delivers them.",
							 &sendkit_auto_deliver,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);
}

/* --- all of them --- */

static void
define_all(void)
{
	sendkit_guard_note_given();
	define_endpoint_settings();
	define_credential_settings();
	define_worker_role();
	define_auto_deliver();
	define_patience_settings();
	define_queue_settings();
	sendkit_guard_note_refused();

	/* where nobody knows whether it was switched off, it is off */
	if (sendkit_guard_first_was_refused("sendkit.auto_deliver"))
		sendkit_auto_deliver = false;
	MarkGUCPrefixReserved("sendkit");
}

/*
 * Defines the settings and reserves their prefix.  Called once, by _PG_init().
 *
 * An error on the way would leave half of them defined, and the session without
 * the library for good: so there is none but before the first.  A warning of a refused value becomes one when the client
 * cannot be shown that value, or has cancelled: it is for the log alone then, and
 * interrupts wait.
 */
void
sendkit_guc_init(void)
{
	CommandDest dest = whereToSendOutput;

	/* there, PostgreSQL takes no value that was SET, and forgets who did */
	if (IsInParallelMode() && !IsParallelWorker())
	{
		sendkit_forget_statement();
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot load sendkit during a parallel operation"),
				 errhidestmt(true), errhidecontext(true)));
	}
	HOLD_INTERRUPTS();
	if (pg_get_client_encoding() != GetDatabaseEncoding())
		whereToSendOutput = DestNone;
	PG_TRY();
	{
		define_all();
	}
	PG_FINALLY();
	{
		whereToSendOutput = dest;
	}
	PG_END_TRY();
	RESUME_INTERRUPTS();
}
