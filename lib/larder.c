/*
 * The public functions of liblarder.so. See larder/larder.h.
 */
#include "process.h"

#include <jemalloc/jemalloc.h>

#define LARDER_PUBLIC __attribute__((visibility("default")))

LARDER_PUBLIC int larder_start(const struct larder_options *options)
{
	static const struct arena_allocator jemalloc = { .mallctl = mallctl, .mallocx = mallocx };

	return process_start(&(struct process_setup){ .options = options, .allocator = &jemalloc });
}

LARDER_PUBLIC int64_t larder_reclaim(uint64_t bytes)
{
	return process_reclaim(bytes);
}

LARDER_PUBLIC int larder_get_stats(struct larder_stats *to)
{
	return process_get_stats(to);
}

LARDER_PUBLIC const char *larder_version(void)
{
	return LARDER_VERSION_STRING;
}
