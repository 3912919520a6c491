/*-------------------------------------------------------------------------
 *
 * hiding.h
 *	  Keeps a statement that may hold a key out of the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HIDING_H
#define SENDKIT_HIDING_H

extern void sendkit_hide_statement(ErrorContextCallback *hiding);
extern void sendkit_show_statement(const ErrorContextCallback *hiding);

#endif							/* SENDKIT_HIDING_H */
