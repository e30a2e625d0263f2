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

#include "restore.h"

/* A page range, or a part of one: the pool's pages [first, first + pages). */
struct span {
	unsigned pool;
	size_t first, pages;
};

/* Record a new page range. Returns 0 or -ENOMEM. */
int volatile_add_range(struct larder_memory *m, struct span span);

/* Forget the page range that starts at `first`. Returns its pages; -EFAULT: none starts there; -EBUSY: pinned. */
int64_t volatile_remove_range(struct larder_memory *m, unsigned pool, size_t first);

/* Is the span in one page range of the pool? Returns 0 or -EFAULT. */
int volatile_check(struct larder_memory *m, struct span span);

/* See larder_volatile(), with options that are in range. */
int volatile_mark(struct larder_memory *m, struct span span, const struct larder_volatile_options *o);
int volatile_end(struct larder_memory *m, struct span span, unsigned flags, unsigned char *lost);
int volatile_refilled(struct larder_memory *m, struct span span);
int volatile_query(struct larder_memory *m, struct span span, unsigned char *lost);
int volatile_used(struct larder_memory *m, unsigned pool, size_t index);
int volatile_discard(struct larder_memory *m, struct span span);

/* Pins only keep pages from leaving; the caller makes them resident. */
int volatile_pin(struct larder_memory *m, struct span span);
int volatile_unpin(struct larder_memory *m, struct span span);

/* The same for pages of objects. */
int objects_pin(struct larder_memory *m, struct span span);
int objects_unpin(struct larder_memory *m, struct span span);
int objects_are_pinned(struct larder_memory *m, struct span span);

/* The pool is destroyed: forget its page ranges and its statistics. */
void volatile_forget(struct larder_memory *m, unsigned pool);

/* Is anything of the pool pinned? */
int volatile_is_pinned(struct larder_memory *m, unsigned pool);

/* What to do about a touch of a trapped page. */
struct refill {
	larder_refill_fn *refill; /* NULL: the touch raises SIGBUS */
	void *cookie;
	struct span unit;
};

/* Returns 1 when the page is still trapped by a volatile range, else 0: the touch can be tried again. */
int volatile_trap(struct larder_memory *m, unsigned pool, size_t index, struct refill *refill);

/* The callback has made the unit's content: install it, unless the range is not volatile any more. */
void volatile_install(struct larder_memory *m, struct larder_restorer *w, const struct refill *refill,
		      const char *content);

/* After the callbacks of a pinned span have been called. Returns LARDER_INTACT, or LARDER_PURGED when they failed; then
 * what is lost reads as zeroes. */
int volatile_give_up_refill(struct larder_memory *m, struct span span);

/* Sum up a pool's statistics. */
void volatile_stats(const struct larder_memory *m, unsigned pool, struct larder_pool_stats *to);

/* Bring the statistics page up to date. Program threads. */
void volatile_publish(struct larder_memory *m);

/* Around fork: take every shard's lock, with no segment busy, and let go of them; in the child too. */
void volatile_lock_all(struct larder_memory *m);
void volatile_unlock_all(struct larder_memory *m);

#endif
