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

#endif
