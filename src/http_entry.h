/*-------------------------------------------------------------------------
 *
 * http_entry.h
 *	  Entering libcurl, and waiting outside of it.
 *
 * For the transport's own files.  Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_ENTRY_H
#define SENDKIT_HTTP_ENTRY_H

extern void sendkit_entry_about_to_resolve(void);
extern bool sendkit_entry_must_come_home(int64 deadline);

extern void sendkit_entry_begin(void);

extern void sendkit_entry_run_timer(void);
extern bool sendkit_entry_run_sockets(void);

extern bool sendkit_entry_wait(int64 timeout_ms);

extern void sendkit_entry_end(void);

#endif							/* SENDKIT_HTTP_ENTRY_H */
