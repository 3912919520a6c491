/*-------------------------------------------------------------------------
 *
 * hidden_value.h
 *	  Values of settings that a session cannot see any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HIDDEN_VALUE_H
#define SENDKIT_HIDDEN_VALUE_H

extern bool sendkit_may_have_hidden_value(const char *setting);

#endif							/* SENDKIT_HIDDEN_VALUE_H */
