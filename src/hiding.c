/*-------------------------------------------------------------------------
 *
 * hiding.c
 *	  Keeps a statement that may hold a key out of the log.
 *
 * PostgreSQL logs the statement of an error, and of a notice if it is asked to,
 * with whatever literals it has; and the lines of context show those of the
 * statements around.  An error context callback sees every report that is made
 * beneath it, by whomever, interrupts included, and hides both.
 *
 * An error that leaves is sent to the client later, where the callback is gone.
 * If the client's encoding has no words for it, PostgreSQL raises one of its own
 * instead, and logs the statement with that.  So the statement is forgotten until
 * it is known that the error was caught: with a subtransaction, as PL/pgSQL does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"

#include "hiding.h"

static void
hide(void *arg pg_attribute_unused())
{
	errhidestmt(true);
	errhidecontext(true);
}

static const char *forgotten;
static TimestampTz forgotten_in;

/*
 * The end of a subtransaction in a statement that goes on: one that doesn't has no
 * portal any more.
 */
static void
remember_statement(SubXactEvent event, SubTransactionId self pg_attribute_unused(),
				   SubTransactionId parent pg_attribute_unused(),
				   void *arg pg_attribute_unused())
{
	if (event == SUBXACT_EVENT_ABORT_SUB && forgotten && debug_query_string == NULL &&
		ActivePortal && forgotten_in == GetCurrentStatementStartTimestamp())
		debug_query_string = forgotten;
	forgotten = NULL;
}

/*
 * Keeps the statement out of the log until the error that is raised next, or again,
 * has been caught.
 */
void
sendkit_forget_statement(void)
{
	static bool registered = false;

	if (debug_query_string == NULL)
		return;
	forgotten = debug_query_string;
	forgotten_in = GetCurrentStatementStartTimestamp();
	debug_query_string = NULL;
	if (!registered)
		RegisterSubXactCallback(remember_statement, NULL);
	registered = true;
}

/*
 * Returns what the work returns, or raises its error, with statement and context
 * hidden from the log for all that is reported beneath.
 */
Datum
sendkit_run_hidden(Datum (*work) (void *arg), void *arg)
{
	ErrorContextCallback hiding = {
		.previous = error_context_stack,
		.callback = hide,
	};
	volatile Datum result = (Datum) 0;

	error_context_stack = &hiding;
	PG_TRY();
	{
		result = work(arg);
	}
	PG_CATCH();
	{
		sendkit_forget_statement();
		PG_RE_THROW();
	}
	PG_END_TRY();
	error_context_stack = hiding.previous;
	return result;
}
