/*-------------------------------------------------------------------------
 *
 * retry_after.h
 *	  How long an answer asks to wait.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_RETRY_AFTER_H
#define SENDKIT_RETRY_AFTER_H

extern int64 sendkit_retry_after_ms(const char *retry_after, const char *date);

#endif							/* SENDKIT_RETRY_AFTER_H */
