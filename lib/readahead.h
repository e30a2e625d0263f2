/*
 * Readahead: what comes from disk with a fault, and before one.
 *
 * Neighbours whose objects lie in the blocks that are read for a fault cost no I/O, so they come along where that pays
 * (neighbours.h). Behind a fault where the last one's pages ended, more is read, twice as much each time, by another
 * thread; what is there when it is touched costs no fault. It takes three in order: two are what crosses the end of a
 * page. A touch of a page that is still being read says that the program has caught up: the next window is asked for at
 * once. So how much is read ahead follows how much of it was used, and a program that does not go on in order gets
 * nothing but what it touched. (The idea is that of on-demand readahead: Fengguang et al., "On the Design of a New
 * Linux Readahead Framework", 2008.)
 */
#ifndef LARDER_READAHEAD_H
#define LARDER_READAHEAD_H

#include "resolve.h"

enum { READAHEAD_MAX_PAGES = 128 };

/* A fault on a page on disk. Returns RESOLVE_READING, RESOLVE_FULL, or RESOLVE_AGAIN. */
enum resolve_outcome readahead_fault(struct larder_memory *m, struct larder_restorer *w, size_t index, int written);

/* A fault on a page that somebody is bringing back. */
void readahead_caught_up(struct larder_memory *m, struct larder_restorer *w, size_t index);

#endif
