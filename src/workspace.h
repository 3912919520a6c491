/*-------------------------------------------------------------------------
 *
 * workspace.h
 *	  The user's table of workspaces: is one there?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_WORKSPACE_H
#define SENDKIT_WORKSPACE_H

#include "access/attnum.h"
#include "utils/relcache.h"

extern bool sendkit_workspace_is_there(Relation table, AttrNumber column, Datum id);

#endif							/* SENDKIT_WORKSPACE_H */
