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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "hiding.h"

static void
hide(void *arg pg_attribute_unused())
{
	errhidestmt(true);
	errhidecontext(true);
}

/*
 * Hides statement and context for all that is reported from now on, until
 * sendkit_show_statement(), or the end of an error.  What is passed must live
 * as long.  Cannot raise an error.
 */
void
sendkit_hide_statement(ErrorContextCallback *hiding)
{
	hiding->callback = hide;
	hiding->arg = NULL;
	hiding->previous = error_context_stack;
	error_context_stack = hiding;
}

void
sendkit_show_statement(const ErrorContextCallback *hiding)
{
	error_context_stack = hiding->previous;
}
