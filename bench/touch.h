/*
 * Touch every page of a buffer once, in a random or in ascending order, with one thread or several, and time each
 * touch. Threads have disjoint shares; in ascending order each walks through its own part of the buffer.
 */
#ifndef BENCH_TOUCH_H
#define BENCH_TOUCH_H

#include "latency.h"

#include <stddef.h>
#include <stdint.h>

enum { TOUCH_MAX_THREADS = 64 };

enum touch_pattern { TOUCH_RANDOM, TOUCH_SEQUENTIAL, TOUCH_PATTERNS };

/* Make room for the order. Exits when there is no memory. */
void touch_open(size_t pages);

/* The order of all later touches. */
void touch_order(enum touch_pattern pattern, uint64_t seed);

/*
 * Create the threads, then call push_out(arg), then let the threads go: so their start touches nothing that is out.
 * Adds each touch to `all`, and returns the seconds from the first to the last.
 */
double touch_all(const char *buffer, unsigned threads, void (*push_out)(void *arg), void *arg, struct latency *all);

#endif
