/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  The clock that timeouts are measured by.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_CLOCK_H
#define SENDKIT_CLOCK_H

extern int64 sendkit_clock_now(void);
extern int64 sendkit_clock_coarse(void);

extern int64 sendkit_clock_cpu(void);

#endif							/* SENDKIT_CLOCK_H */
