/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The settings, all named sendkit.*
 *
 * What decides where a platform key is sent (base_url, ca_file, proxy) is for
 * superusers; how long a caller is willing to wait is the caller's.  The check
 * hooks say why a value is refused.
 *
 * Until the library is loaded, PostgreSQL keeps whatever value it is given for
 * a setting of ours.  If it then turns out that the value is not acceptable, or
 * was given by a role that may not set it, the built-in default takes its
 * place, and even the administrator's value is lost.  A call would then go to
 * the real API where a test server was meant, or past a proxy.  So calls are
 * refused as long as such a default stands.
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

#include "compat.h"
#include "guc.h"
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

static bool
check_base_url(char **newval, void **extra pg_attribute_unused(),
			   GucSource source pg_attribute_unused())
{
	return no_fault(sendkit_url_base_fault(*newval));
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
	return **newval == '\0' || no_fault(sendkit_url_proxy_fault(*newval));
}

/* What else the file must be is checked when it is read (credential.c). */
static bool
check_platform_key_file(char **newval, void **extra pg_attribute_unused(),
						GucSource source pg_attribute_unused())
{
	if (**newval == '\0')
		return true;
	if (!is_absolute_path(*newval))
		return no_fault("The path must be absolute.");
	if (strlen(*newval) >= MAXPGPATH)
		return no_fault("The path is too long.");
	return true;
}

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

	/* It may hold the proxy's password: only superusers see the value */
	DefineCustomStringVariable("sendkit.proxy",
							   "Sets the HTTP or SOCKS proxy to reach the SendKit API through.",
							   "An empty string means none. Not used for plain http, which stays on this machine.",
							   &sendkit_proxy,
							   "",
							   PGC_SUSET,
							   GUC_SUPERUSER_ONLY,
							   check_proxy, NULL, NULL);
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

	DefineCustomBoolVariable("sendkit.auto_deliver",
							 "Delivers revocations by background workers.",
							 "Off means that only a call of sendkit_process_revocations() delivers them.",
							 &sendkit_auto_deliver,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("sendkit.worker_role",
							   "Sets the role as which background workers deliver revocations.",
							   "Its platform key is the one that they use. An empty string means the queue's owner.",
							   &sendkit_worker_role,
							   "",
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

/* --- values that were given before the library was loaded, and not taken --- */

typedef struct EarlyValue
{
	const char *name;
	char	  **variable;
	char	   *stand_in;		/* the default in place of a refused value */
} EarlyValue;

static EarlyValue early_values[] = {
	{"sendkit.base_url", &sendkit_base_url, NULL},
	{"sendkit.ca_file", &sendkit_ca_file, NULL},
	{"sendkit.proxy", &sendkit_proxy, NULL},
	{"sendkit.platform_key_file", &sendkit_platform_key_file, NULL},
};

/* Defines the settings that matter, and notes which early values were lost. */
static void
define_guarded_settings(void)
{
	char	   *early[lengthof(early_values)];

	for (size_t i = 0; i < lengthof(early_values); i++)
	{
		const char *value = GetConfigOption(early_values[i].name, true, false);

		early[i] = value ? pstrdup(value) : NULL;
	}

	define_endpoint_settings();
	define_credential_settings();

	for (size_t i = 0; i < lengthof(early_values); i++)
	{
		const char *value = *early_values[i].variable;

		if (early[i] && strcmp(early[i], value) != 0)
			early_values[i].stand_in = MemoryContextStrdup(TopMemoryContext, value);
	}
}

void
sendkit_guc_check(void)
{
	for (size_t i = 0; i < lengthof(early_values); i++)
	{
		const EarlyValue *early = &early_values[i];

		/* another value: somebody has set it properly since */
		if (early->stand_in == NULL || strcmp(*early->variable, early->stand_in) != 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the value given for \"%s\" was refused when sendkit was loaded", early->name),
				 errdetail("Its default stands in for it, which is not what was asked for. Nothing was sent to the SendKit API."),
				 errhint("Correct the setting, or connect without it if only superusers may set it. With sendkit in shared_preload_libraries, it is refused at once.")));
	}
}

void
sendkit_guc_init(void)
{
	define_guarded_settings();
	define_patience_settings();
	define_queue_settings();
	MarkGUCPrefixReserved("sendkit");
}
