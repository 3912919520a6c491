/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The settings, all named sendkit.*
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_GUC_H
#define SENDKIT_GUC_H

/* Strings are never NULL; times are in milliseconds. */
extern char *sendkit_base_url;
extern char *sendkit_ca_file;
extern char *sendkit_proxy;
extern char *sendkit_platform_key_file;
extern int	sendkit_connect_timeout;
extern int	sendkit_request_timeout;
extern int	sendkit_max_retries;
extern int	sendkit_max_concurrency;
extern int	sendkit_batch_size;
extern bool sendkit_auto_deliver;
extern char *sendkit_worker_role;	/* empty: the queue's owner */
extern int	sendkit_worker_naptime;

extern void sendkit_guc_init(void);

#endif							/* SENDKIT_GUC_H */
