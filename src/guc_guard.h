/*-------------------------------------------------------------------------
 *
 * guc_guard.h
 *	  Values of settings that were given before the library was loaded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_GUC_GUARD_H
#define SENDKIT_GUC_GUARD_H

extern void sendkit_guard_note_given(void);
extern void sendkit_guard_note_refused(void);
extern bool sendkit_guard_first_was_refused(const char *name);
extern void sendkit_guard_check(void);

#endif							/* SENDKIT_GUC_GUARD_H */
