/*
 * Page ranges: their records, from larder_pages_alloc() to larder_pages_free(), and all of them together.
 */
#ifndef LARDER_RANGE_H
#define LARDER_RANGE_H

#include "span.h"

/* Record a new page range. Returns 0 or -ENOMEM. */
int range_add(struct larder_memory *m, struct span span);

/* Forget the page range that starts at `first`. Returns its pages; -EFAULT: none starts there; -EBUSY: pinned. */
int64_t range_remove(struct larder_memory *m, unsigned pool, size_t first);

/* Is the span in one page range of the pool? Returns 0 or -EFAULT. */
int range_check(struct larder_memory *m, struct span span);

/* The pool is destroyed: forget its page ranges and its statistics. */
void ranges_forget(struct larder_memory *m, unsigned pool);

/* Sum up a pool's statistics. */
void ranges_stats(const struct larder_memory *m, unsigned pool, struct larder_pool_stats *to);

/* Bring the statistics page up to date. Program threads. */
void ranges_publish(struct larder_memory *m);

/* Around fork: take every shard's lock, with no segment busy, and let go of them; in the child too. */
void ranges_lock_all(struct larder_memory *m);
void ranges_unlock_all(struct larder_memory *m);

#endif
