/*
 * What liblarder.so has beside api.c: it calls the jemalloc that the program is linked with.
 */
#include "api.h"
#include "process.h"

#include <jemalloc/jemalloc.h>

LARDER_PUBLIC int larder_start(const struct larder_options *options)
{
	static const struct arena_allocator jemalloc = {
		.mallctl = mallctl,
		.mallocx = mallocx,
		.dallocx = dallocx,
		.sallocx = sallocx,
	};

	return process_start(&(struct process_setup){ .options = options, .allocator = &jemalloc });
}
