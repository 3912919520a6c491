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

typedef enum SendkitHome
{
	SENDKIT_HOME_HERE,
	SENDKIT_HOME_ELSEWHERE,
	SENDKIT_HOME_LOCKED,		/* somebody holds the table: who knows? */
} SendkitHome;

extern bool sendkit_home_is_here(Oid extension);
extern SendkitHome sendkit_home_look(Oid extension);
extern void sendkit_home_check(Oid extension);
extern bool sendkit_home_adopt(Oid extension);

#endif							/* SENDKIT_HOME_H */
