/*
 * Volatile ranges and pins, on program threads: what larder/larder.h says of larder_volatile() and its family, by page
 * index. None of it makes a system call unless something is lost, a page is absent, or a lock is contended.
 *
 * How no call says "intact" after a loss: LOST bits are set under the shard's lock, with the segment busy, before the
 * first page is dropped, and a call that meets a busy segment waits. How nothing volatile reaches a tier: see
 * larder_memory.writing. How no touch reads zeroes that must not: purged pages of such ranges carry TRAP (page.h),
 * which is taken off when the range is pinned or made nonvolatile, and put back on lost pages when it is volatile
 * again.
 */
#ifndef LARDER_VOLATILE_H
#define LARDER_VOLATILE_H

#include "span.h"

/* See larder_volatile() and its like, with options that are in range. */
int volatile_mark(struct larder_memory *m, struct span span, const struct larder_volatile_options *o);
int volatile_end(struct larder_memory *m, struct span span, unsigned flags, unsigned char *lost);
int volatile_refilled(struct larder_memory *m, struct span span);
int volatile_query(struct larder_memory *m, struct span span, unsigned char *lost);
int volatile_used(struct larder_memory *m, unsigned pool, size_t index);
int volatile_discard(struct larder_memory *m, struct span span);

#endif
