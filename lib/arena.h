/*
 * Arena: jemalloc allocates from the region.
 */
#ifndef LARDER_ARENA_H
#define LARDER_ARENA_H

#include "region.h"

struct larder_memory;
struct larder_reclaim;

/*
 * The allocator of this process: jemalloc's control functions, as its manual names them. Passed in rather than called
 * by name, because the preload object interposes mallctl itself.
 */
struct arena_allocator {
	int (*mallctl)(const char *name, void *old, size_t *old_bytes, void *new_value, size_t new_bytes);
	void *(*mallocx)(size_t bytes, int flags);
	void (*dallocx)(void *p, int flags);
	size_t (*sallocx)(const void *p, int flags);
};

/* Returns 0, or -ENOPKG when the functions are missing or the jemalloc has no extent hooks (before 5.0). */
int arena_check(const struct arena_allocator *allocator);

/*
 * Start the purging thread and put every arena into the region. Allocations made before stay where they are.
 * returns  0, or a negative errno from pthread_create or jemalloc; arenas hooked until then stay hooked and work.
 */
int arena_install(const struct arena_allocator *allocator, struct larder_memory *m, struct larder_reclaim *r);

/*
 * A mallctl() has succeeded: if it made an arena (name is "arenas.create"), manage that too.
 * index  of the arena, as mallctl() wrote it
 * hooks  those that the program gave; NULL = none
 */
void arena_created(const char *name, const unsigned *index, const void *hooks);

/*
 * Arenas of a pool: one for objects, one for page ranges (enum chunk_kind). They are made at the first allocation and
 * stay when the pool goes. What jemalloc keeps about them lies outside the region: it must not fault inline.
 */
int arena_pool_alloc(struct region_owner owner, size_t bytes, size_t alignment, void **p);
void arena_pool_free(void *p);
/* How much was allocated at p, at least. */
size_t arena_pool_size(const void *p);
/* Free everything that a pool has allocated and give its content back. */
void arena_pool_reset(unsigned pool);

/* The main thread is about to end alone (pthread_exit): end the purging thread when it is the last. */
void arena_main_thread_exits(void);

/* After a fork, in the child, when jemalloc can be used: start the purging thread. */
void arena_inherit(void);

#endif
