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

#include "restore.h"

/* Slots written out in one step: enough to share one unmapping's TLB shootdown, small enough to overshoot little. */
enum { EVICT_BATCH = 64 };

#define EVICT_HELD_TOO UINT64_MAX

/*
 * Advance the clock over a pool (REGION_HEAP = over all memory) until `want` pages are staged or the hand has gone
 * round once. Pages with credit lose one and stay. Pages that are volatile or pinned, and pools without tiers, are left
 * alone. *hand is the index to go on from. Returns the pages staged; *turns counts how often the hand passed the end.
 */
size_t evict_sweep(struct larder_memory *m, unsigned pool, uint64_t now_ns, size_t *hand, size_t want, unsigned *turns);

/* Take [first, first + pages) out now, whatever their credit. Returns the pages that went into the store. */
size_t evict_range(struct larder_memory *m, struct larder_restorer *w, size_t first, size_t pages);

/* Write out up to EVICT_BATCH slots from the tail and empty them. Returns the pages that went into the store. */
size_t evict_write_out(struct larder_memory *m, struct larder_restorer *w);

#endif
