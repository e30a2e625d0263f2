/*
 * What bench_ratio compares: pages, and ways to keep them compressed. See ratio.c.
 */
#ifndef BENCH_RATIO_H
#define BENCH_RATIO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { RATIO_PAGE_BYTES = 4096, RATIO_CHUNK_PAGES = 512 };

/* ---- pages (ratio_pages.c): neighbours in memory are neighbours here; pages of one repeated word are left out ---- */

struct ratio_pages {
	char *bytes;
	size_t n, max;
};

/* Room for as many pages as `megabytes` are. */
void ratio_pages_open(struct ratio_pages *pages, size_t megabytes);

/* Each adds pages until there is no more room, and exits with 2 when it cannot. */
void ratio_pages_of_process(struct ratio_pages *pages, pid_t pid); /* its private anonymous memory */
void ratio_pages_of_file(struct ratio_pages *pages, const char *path);
void ratio_pages_of_redis(struct ratio_pages *pages, uint64_t seed); /* records.h, in a server of our own */
void ratio_pages_of_contents(struct ratio_pages *pages, const char *name, uint64_t seed); /* contents.h */

static inline const char *ratio_page(const struct ratio_pages *pages, size_t i)
{
	return pages->bytes + i * RATIO_PAGE_BYTES;
}

/* ---- ways (ratio_ways.c) ---- */

enum ratio_dictionary {
	RATIO_NONE,
	RATIO_SAMPLE,  /* whole pages, evenly spread over what the dictionary is for */
	RATIO_TRAINED, /* the lines of a sample whose strings occur in most of its pages */
	RATIO_LEADER,  /* the first page of a group, itself kept compressed without a dictionary */
};

struct ratio_way {
	const char *name;
	enum ratio_dictionary dictionary;
	unsigned dictionary_bytes;
	unsigned scope_pages;	/* for how many neighbours one dictionary is; 0: all pages */
	int hc_level;		/* of LZ4HC; 0: LZ4 at acceleration 1 */
	unsigned cluster_pages; /* neighbours compressed as one object; 0 = 1 */
	int partial;		/* of a cluster, expand no more than up to the page */
};

struct ratio_result {
	double compressed_bytes;       /* of all objects, and of the dictionaries */
	double stored_bytes;	       /* slots that they take in our slabs, and the dictionaries */
	double zram_bytes;	       /* slots that they would take in zsmalloc; no dictionaries, no clusters */
	double compress_us, expand_us; /* a page; a page chosen at random */
};

/* Compress all pages, expand as many in random order, and compare each. */
struct ratio_result ratio_measure(const struct ratio_way *way, const struct ratio_pages *pages);

#endif
