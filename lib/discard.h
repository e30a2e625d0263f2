/*
 * Discard: drop the content of managed pages that nobody wants any more.
 */
#ifndef LARDER_DISCARD_H
#define LARDER_DISCARD_H

#include "memory.h"

/*
 * Make [addr, addr + bytes) read as zeroes and take no space, wherever its content is. addr and bytes are multiples of
 * a page, inside the region. Program threads, in allocator hooks and madvise; safe against any other call. returns  0,
 * or a negative errno from madvise(2) with part of the range discarded.
 */
int discard(struct larder_memory *m, void *addr, size_t bytes);

/* Pages that are not there any more, and maybe something else is: they are FRESH and foreign. Reclaim thread. */
void discard_unmapped(struct larder_memory *m, size_t first, size_t pages);

/* What a discard dropped, in pages that were watched. */
struct discarded {
	uint64_t ram, stored; /* from RAM; from a tier */
};

/* The same by page index; `to` is what the pages become: PAGE_FRESH, or with PAGE_TRAP in watched memory. Program
 * threads and the reclaim thread. Adds to *dropped. */
int discard_pages(struct larder_memory *m, size_t first, size_t pages, uint64_t to, struct discarded *dropped);

#endif
