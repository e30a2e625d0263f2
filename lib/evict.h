/*
 * Evict: the two batched steps by which pages leave the program's mapping.
 *
 *   sweep      clock hand over resident pages -> staging   (UFFDIO_MOVE, no copy)
 *   write out  tail of staging -> store                    (compress, then free the slots)
 *
 * Reclaim thread only, but for a sweep that it has a handler do (direct.h).
 */
#ifndef LARDER_EVICT_H
#define LARDER_EVICT_H

#include "swap_out.h"

/* Slots written out in one step: enough to share one unmapping's TLB shootdown, small enough to overshoot little. */
enum { EVICT_BATCH = 64 };

#define EVICT_HELD_TOO UINT64_MAX

struct evict_sweep {
	unsigned pool;	 /* REGION_HEAP: all memory */
	size_t *hand;	 /* the page to look at next */
	size_t want;	 /* pages to stage */
	size_t look_at;	 /* pages to look at, at most; 0: all of them, once */
	uint64_t now_ns; /* pages that are held until then may go; EVICT_HELD_TOO: all may */
	int at_once;	 /* credit does not count, and none is taken */
	int never_waits; /* not for a lock, nor for the address space: it ends, and `is_stuck` */

	/* What has come of it: 0 before. */
	size_t staged;
	unsigned turns; /* how often the hand passed the end */
	int is_stuck;
};

/*
 * Advance the clock until `want` pages are staged or `look_at` have been looked at. Pages with credit lose one and
 * stay. Pages that are volatile or pinned, and pools without tiers, are left alone.
 */
void evict_sweep(struct larder_memory *m, struct evict_sweep *s);

/* Put one chunk under watch: see region_watch(). Returns 0 or its error. */
int evict_watch(struct larder_memory *m, size_t chunk);

/* Take [first, first + pages) out now, whatever their credit, and wait until they are, unless the disk does nothing for
 * half a second. Returns the pages that went into the store. */
size_t evict_range(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t first,
		   size_t pages);

/*
 * Settle what is on disk by now; put the pages of up to EVICT_BATCH slots into the store, or on their way to disk;
 * empty the slots that nobody needs any more. Returns the pages that went into the store.
 */
size_t evict_write_out(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so);

/* Only settle what is on disk by now, and empty slots. Returns the pages that went into the store. */
size_t evict_settle(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so);

#endif
