/*
 * Neighbours: do pages that lie next to one that is read from disk pay, when they come along?
 *
 * They cost no read, but where memory is short each takes the room of a page in use, and leaves again when nobody
 * wanted it. Whether they are wanted cannot be seen once they are resident. So of every eighth group of pages none
 * comes along, and when another page of such a group is read soon after, a neighbour would have been of use. (Judging
 * all by a sample that is treated otherwise is set dueling: Qureshi et al., "Adaptive Insertion Policies for High
 * Performance Caching", 2007.)
 *
 * Racy on purpose: a count that is lost costs nothing.
 */
#ifndef LARDER_NEIGHBOURS_H
#define LARDER_NEIGHBOURS_H

#include "share.h"

#include <stddef.h>

enum { NEIGHBOURS_LATELY = 256 };

struct larder_neighbours {
	_Atomic uint64_t lately[NEIGHBOURS_LATELY]; /* pages of the sample that were read, plus one */
	_Atomic uint32_t useless; /* how many of the sample would have come along for nothing: see neighbours.c */
};

/* A page is to be read from disk, and memory is short. May its neighbours come along? Any thread. */
int neighbours_pay(struct larder_neighbours *n, size_t index);

#endif
