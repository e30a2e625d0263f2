/*
 * Free addresses: which pages of the region are free for the program to map.
 *
 * An array of extents, sorted by address, no two of them adjacent; found by bisection, given out lowest first, so that
 * what is used stays together. Programs have hundreds of mappings, seldom thousands: moving the array's tail by memmove
 * costs less than a tree would. Page numbers are indexes into the region.
 *
 * The caller has the lock (mapping.c).
 */
#ifndef LARDER_ADDRESSES_H
#define LARDER_ADDRESSES_H

#include <stddef.h>

struct larder_extent {
	size_t first, end;
};

struct larder_addresses {
	struct larder_extent *free;
	size_t count;
};

enum { ADDRESSES_MAX = 1 << 20 }; /* extents; addresses that would need more are lost */

/* Returns 0 or -ENOMEM. */
int addresses_open(struct larder_addresses *a);

/* [first, end), none of it free, becomes free. */
void addresses_add(struct larder_addresses *a, size_t first, size_t end);

/* Take `pages` free pages, the first one a multiple of `alignment` (a power of two). Returns it, or SIZE_MAX. */
size_t addresses_take(struct larder_addresses *a, size_t pages, size_t alignment);

/* Take whatever of [first, end) is free. */
void addresses_take_range(struct larder_addresses *a, size_t first, size_t end);

/* Is all of [first, end) free? */
int addresses_are_free(const struct larder_addresses *a, size_t first, size_t end);

/*
 * The first run of pages in [first, end) that are not free: returns its length, and where it starts in *at; 0 when all
 * are free.
 */
size_t addresses_next_taken(const struct larder_addresses *a, size_t first, size_t end, size_t *at);

#endif
