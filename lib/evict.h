/*
 * Evict: the two batched steps by which pages leave the program's mapping.
 *
 *   sweep      clock hand over resident pages -> staging   (UFFDIO_MOVE, no copy)
 *   write out  tail of staging -> store                    (compress, then free the slots)
 *
 * Reclaim thread only.
 */
#ifndef LARDER_EVICT_H
#define LARDER_EVICT_H

#include "swap_out.h"

/* Slots written out in one step: enough to share one unmapping's TLB shootdown, small enough to overshoot little. */
enum { EVICT_BATCH = 64 };

#define EVICT_HELD_TOO UINT64_MAX

/*
 * Advance the clock over a pool (REGION_HEAP = over all memory) until `want` pages are staged or the hand has gone
 * round once. Pages with credit lose one and stay. Pages that are volatile or pinned, and pools without tiers, are left
 * alone. *hand is the index to go on from. Returns the pages staged; *turns counts how often the hand passed the end.
 */
size_t evict_sweep(struct larder_memory *m, unsigned pool, uint64_t now_ns, size_t *hand, size_t want, unsigned *turns);

/* Put one chunk under watch: see region_watch(). Returns 0 or its error. */
int evict_watch(struct larder_memory *m, size_t chunk);

/* Take [first, first + pages) out now, whatever their credit. Returns the pages that went into the store. */
size_t evict_range(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t first,
		   size_t pages);

/*
 * Settle what is on disk by now; put the pages of up to EVICT_BATCH slots into the store, or on their way to disk;
 * empty the slots that nobody needs any more. Returns the pages that went into the store.
 */
size_t evict_write_out(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so);

/* Only settle what is on disk by now, and empty slots. Returns the pages that went into the store. */
size_t evict_settle(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so);

/* evict_write_out() until staging is empty, waiting for the disk unless it does nothing for half a second. */
size_t evict_write_all(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so);

#endif
