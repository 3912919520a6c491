/*-------------------------------------------------------------------------
 *
 * home.h
 *	  The clone guard: is this database the one that the extension lives in, or
 *	  a copy of it?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HOME_H
#define SENDKIT_HOME_H

/*
 * These take the extension's OID (extension.h).  They need a transaction, and
 * raise what sendkit_table_open() raises.
 */

/* Is this database its home, so that revocations may be delivered? */
extern bool sendkit_home_is_here(Oid extension);

/* The same without waiting for a lock */
typedef enum SendkitHome
{
	SENDKIT_HOME_HERE,
	SENDKIT_HOME_ELSEWHERE,
	SENDKIT_HOME_LOCKED,		/* somebody holds the table: who knows? */
} SendkitHome;

extern SendkitHome sendkit_home_look(Oid extension);

/*
 * Raises 55000, with a hint that names sendkit_adopt_revocations(), if this
 * database is a copy: a stored key belongs to the original.
 */
extern void sendkit_home_check(Oid extension);

/* Makes this database the home.  Returns whether it was another one before. */
extern bool sendkit_home_adopt(Oid extension);

#endif							/* SENDKIT_HOME_H */
