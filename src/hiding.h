/*-------------------------------------------------------------------------
 *
 * hiding.h
 *	  Keeps a statement that may hold a key out of the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HIDING_H
#define SENDKIT_HIDING_H

extern void sendkit_forget_statement(void);
extern Datum sendkit_run_hidden(Datum (*work) (void *arg), void *arg);

#endif							/* SENDKIT_HIDING_H */
