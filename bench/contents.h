/*
 * Page contents for the benchmarks: every contender gets the same bytes, of a kind whose compressibility is printed.
 */
#ifndef BENCH_CONTENTS_H
#define BENCH_CONTENTS_H

#include <stddef.h>
#include <stdint.h>

enum contents {
	CONTENTS_MIXED, /* what a heap looks like: text, objects, small numbers, zeroes, some noise; LZ4 ratio about 2.2
			 */
	CONTENTS_TEXT,	/* prose; 1.4 */
	CONTENTS_JSON,	/* documents of 100 bytes to 4 KiB, one after the other; 3.0 */
	CONTENTS_BINARY, /* objects and numbers, no text; 1.4 */
	CONTENTS_RANDOM, /* incompressible */
	CONTENTS_ZERO,	 /* one repeated word */
	CONTENTS_FILE,	 /* the pages of a file, again and again */
};

/* The kind called `name`, or the file of that name; exits with 2 and a message when there is neither. One file in a
 * process. */
enum contents contents_parse(const char *name);
const char *contents_name(enum contents kind);

/* Write page `index`. */
void contents_fill_page(enum contents kind, char *page, uint64_t seed, uint64_t index);

/* Fill `bytes` (whole pages) at buffer: page i is a function of (kind, seed, i). */
void contents_fill(enum contents kind, void *buffer, size_t bytes, uint64_t seed);

/* How many pages differ from what contents_fill() wrote. */
size_t contents_wrong_pages(enum contents kind, const void *buffer, size_t bytes, uint64_t seed);

/* Bytes of content for each byte of LZ4 blocks, one block a page, over a sample of pages. */
double contents_lz4_ratio(enum contents kind, uint64_t seed);

#endif
