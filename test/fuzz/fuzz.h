/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the targets share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_FUZZ_H
#define SENDKIT_FUZZ_H

#include "text.h"

/* The target: takes one input, aborts if a rule is broken. */
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Frees all that was palloc'd. */
extern void fuzz_free_all(void);

/* Aborts, naming the rule, when it is broken. */
#define MUST(rule) \
	do { \
		if (!(rule)) \
		{ \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #rule); \
			abort(); \
		} \
	} while (0)

/* One of the databases that a byte of the input chooses */
static inline SendkitTextConverter
fuzz_converter(uint8_t choice)
{
	static const SendkitTextConverter converters[] = {
		{PG_UTF8, InvalidOid, InvalidOid},
		{PG_SQL_ASCII, InvalidOid, InvalidOid},
		{PG_LATIN1, 1, 2},
		{PG_LATIN1, InvalidOid, InvalidOid},
	};

	return converters[choice % lengthof(converters)];
}

#endif							/* SENDKIT_FUZZ_H */
