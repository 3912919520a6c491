/*
 * early_malloc.c
 *		Preloaded next to the AddressSanitizer's runtime into a server that is
 *		not built with it.
 *
 * The first malloc makes the runtime initialize itself, which takes locks of
 * the dynamic loader's. Among the libraries that a packaged server loads, some
 * allocate memory in a constructor while glibc holds such a lock, and the server
 * hangs. With -z initfirst this constructor comes before all others and gets
 * it over with.
 */
#include <stdlib.h>

__attribute__((constructor)) static void
allocate_early(void)
{
	void	   *volatile memory = malloc(1);

	free(memory);
}
