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
 * instead, and logs the statement with that.  So it forgets what it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "tcop/tcopprot.h"

#include "hiding.h"

static void
hide(void *arg pg_attribute_unused())
{
	errhidestmt(true);
	errhidecontext(true);
}

/*
 * Keeps the statement out of the log for as long as it still runs.  Called right
 * before an error is raised; cannot raise one.
 */
void
sendkit_forget_statement(void)
{
	debug_query_string = NULL;
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
