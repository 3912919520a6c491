/*
 * Another user of the descriptors that PostgreSQL grants to extensions.
 *
 * Not preloaded, but made into SQL functions: take_descriptors(int) asks fd.c for
 * up to so many and says how many it got, give_back_descriptors(int) gives so many
 * back. None is opened: it is the right to do so that there are few of.
 */
#include "postgres.h"

#include "fmgr.h"
#include "storage/fd.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(take_descriptors);
PG_FUNCTION_INFO_V1(give_back_descriptors);

Datum
take_descriptors(PG_FUNCTION_ARGS)
{
	int32		most = PG_GETARG_INT32(0);
	int32		taken = 0;

	while (taken < most && AcquireExternalFD())
		taken++;
	PG_RETURN_INT32(taken);
}

Datum
give_back_descriptors(PG_FUNCTION_ARGS)
{
	int32		count = PG_GETARG_INT32(0);

	for (int32 i = 0; i < count; i++)
		ReleaseExternalFD();
	PG_RETURN_INT32(count);
}
