/*
 * Page contents for the benchmarks that compare Larder with zram: both sides get the same bytes in one run.
 */
#ifndef BENCH_CONTENTS_H
#define BENCH_CONTENTS_H

#include <stddef.h>
#include <stdint.h>

enum contents {
	CONTENTS_MIXED, /* what a heap looks like: text, objects, small numbers, zeroes, some noise; LZ4 ratio about 2.2
			 */
	CONTENTS_TEXT,	/* prose */
	CONTENTS_JSON,	/* the documents of records.h, one after the other */
	CONTENTS_RANDOM, /* incompressible */
	CONTENTS_ZERO,	 /* one repeated word */
};

/* The kind called `name`; exits with a message when there is none. */
enum contents contents_parse(const char *name);
const char *contents_name(enum contents kind);

/* Fill `bytes` (whole pages) at buffer: page i is a function of (kind, seed, i). */
void contents_fill(enum contents kind, void *buffer, size_t bytes, uint64_t seed);

/* How many pages differ from what contents_fill() wrote. */
size_t contents_wrong_pages(enum contents kind, const void *buffer, size_t bytes, uint64_t seed);

/* Bytes of content for each byte of LZ4 blocks, one block a page, over a sample of pages. */
double contents_lz4_ratio(enum contents kind, uint64_t seed);

#endif
