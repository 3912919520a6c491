/*-------------------------------------------------------------------------
 *
 * sendkit.h
 *	  Names that the whole module shares.
 *
 * Includes nothing of ours.  Every exported symbol begins with "sendkit_".
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_H
#define SENDKIT_H

/*
 * SENDKIT_VERSION comes from the Makefile, which reads it in sendkit.control:
 * the version is written there and nowhere else.
 */
#ifndef SENDKIT_VERSION
#error "SENDKIT_VERSION is not defined: build with the project's Makefile"
#endif

#endif							/* SENDKIT_H */
