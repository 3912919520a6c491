/*-------------------------------------------------------------------------
 *
 * check.h
 *	  The steps of sendkit_check().
 *
 * For the check's own files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_CHECK_H
#define SENDKIT_CHECK_H

#include "lib/stringinfo.h"

#include "http_types.h"
#include "text.h"

typedef enum SendkitStepResult
{
	SENDKIT_STEP_WRONG,
	SENDKIT_STEP_RIGHT,
	SENDKIT_STEP_UNKNOWN,		/* not tried, or not to be told */
} SendkitStepResult;

/* What the steps share */
typedef struct SendkitCheck
{
	Oid			extension;
	MemoryContext context;		/* lives as long as the check */
	SendkitTextConverter converter;
	bool		settings_hold;	/* what is set is what counts */
	int64		unfinished;		/* revocations in the queue, as far as was
								 * seen */
	SendkitHttpProbe probe;		/* zeroes until the way was tried */
	const char *probe_error;	/* why it is not ready; NULL: not tried */
} SendkitCheck;

/*
 * A step returns its result, and appends the details.  An error that it raises
 * is its result, too; but it must not leave anything behind that outlives a
 * subtransaction.
 */
typedef SendkitStepResult (*SendkitStep) (SendkitCheck *check, StringInfo detail);

/* The stored key (check_credential.c) */
extern SendkitStepResult sendkit_check_credential(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_key_of(const SendkitCheck *check, Oid role, StringInfo detail);

/* The way over the network (check_way.c), in this order */
extern SendkitStepResult sendkit_check_name(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_connection(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_proxy(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_tls(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_protocol(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_round_trip(SendkitCheck *check, StringInfo detail);

/* The queue (check_queue.c) */
extern SendkitStepResult sendkit_check_queue(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_delivery(SendkitCheck *check, StringInfo detail);
extern SendkitStepResult sendkit_check_attachments(SendkitCheck *check, StringInfo detail);

#endif							/* SENDKIT_CHECK_H */
