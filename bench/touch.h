/*
 * Touch the pages of a buffer in a planned order, with one thread or several, and time each touch. Threads have
 * disjoint shares of the plan; in ascending order each walks through its own part of the buffer.
 */
#ifndef BENCH_TOUCH_H
#define BENCH_TOUCH_H

#include "latency.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { TOUCH_MAX_THREADS = 64, TOUCH_PAGE_BYTES = 4096 };

enum touch_pattern {
	TOUCH_RANDOM,	  /* every page once, in random order */
	TOUCH_SEQUENTIAL, /* every page once, in ascending order */
	TOUCH_STRIDE,	  /* every page once: every n-th, then those after them, and so on */
	TOUCH_ZIPF,	  /* as many touches as there are pages, some pages much more often than others */
	TOUCH_PATTERNS
};

/* The pattern called `name`; exits with 2 and a message when there is none. */
enum touch_pattern touch_parse(const char *name);
const char *touch_name(enum touch_pattern pattern);

struct touch_plan {
	enum touch_pattern pattern;
	size_t pages;
	size_t touches; /* only the first so many of the order; 0 = all */
	unsigned stride;
	uint64_t seed;
};

/* Make the order. It is not in malloc's memory, and stays in RAM: notes of the benchmark are not part of what it
 * measures. */
void touch_prepare(const struct touch_plan *plan);

struct touch_run {
	char *buffer;
	void (*touch)(size_t page); /* NULL: read a word of the page in the buffer */
	unsigned threads;
	unsigned write_percent; /* of the touches write the byte that is there: the page is dirty then, and the same */
	void (*before)(
		void *); /* NULL, or called when the threads are there and wait: their start touches nothing then */
	void *arg;
	_Atomic double *done; /* NULL, or where to say how far it has come, up to 1 */
	double done_before;   /* how far things were before */
};

/* Go through the order once. Adds each touch to `latency` (NULL: to nothing), and returns the seconds from the first to
 * the last. */
double touch_all(const struct touch_run *run, struct latency *latency);

/* How many touches touch_all() makes. */
size_t touch_count(void);

#endif
