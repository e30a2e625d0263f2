/*
 * The peers of the paging benchmarks behind one interface: a buffer of the same size and content for each, pushed out
 * by the kernel (MADV_PAGEOUT, to zram or to a swap file) or by Larder: the program's heap (larder_reclaim), or a page
 * range of a pool (larder_advise): one whose faults are served inline, and with a tier on disk always one that has no
 * other tier.
 */
#ifndef BENCH_PAGING_H
#define BENCH_PAGING_H

#include "contents.h"

#include <stddef.h>
#include <stdint.h>

enum { PAGING_PAGE_BYTES = 4096 };

enum peer { PEER_KERNEL, PEER_LARDER, PEER_INLINE, PEERS };

struct paging_options {
	enum contents contents;
	size_t bytes; /* of each buffer */
	unsigned rounds;
	unsigned max_threads;
	int with_inline; /* PEER_INLINE takes part */
	int settle;	 /* see paging_settle() */
	uint64_t seed;
	const char *swap_dir; /* Larder's tier on disk; NULL = none */
	uint64_t swap_bytes;  /* how large it may become */
	int swap_encrypt;
};

/* --contents, --megabytes, --rounds, --seed, --settle, and --threads when max_threads was not 0. `what` says what the
 * program does. */
void paging_parse(int argc, char **argv, const char *what, struct paging_options *o);

/* Switch zram on (see zram_begin()), start Larder without a limit, make the buffers. Exits with 2 when one is
 * impossible. */
void paging_begin(const struct paging_options *o);

/* For a process with one peer only: start it and make its buffer. Where the kernel swaps to is the caller's business;
 * `name` is what the peer is called from now on. Exits with 2 when it is impossible. */
void paging_open(const struct paging_options *o, enum peer peer, const char *name);

char *paging_buffer(enum peer peer);
const char *paging_name(enum peer peer);

/* Write contents of a new generation, so that every page is dirty. */
void paging_fill(const struct paging_options *o, enum peer peer, uint64_t generation);

/* Push the whole buffer out. Returns when the peer says it is done. */
void paging_push_out(const struct paging_options *o, enum peer peer);

/* Exits with 2 unless at least 99 % of the buffer's pages are out of RAM; returns the bytes that are. */
size_t paging_check_out(const struct paging_options *o, enum peer peer);

/* Exits with 1 unless every page is as it was filled. */
void paging_check_contents(const struct paging_options *o, enum peer peer, uint64_t generation);

/* With --settle: wait until Larder has made what it holds as small as it becomes by itself. */
void paging_settle(const struct paging_options *o, enum peer peer);

/* RAM that the peer takes to hold what is out, tables included. */
uint64_t paging_held_bytes(enum peer peer);

/* The middle value of n; the mean of the two middle values when n is even. Sorts. */
double paging_median(double *values, size_t n);

/* One line saying whether a median ratio is as good as it should be. */
void paging_print_target(const char *what, double ratio, double target, int smaller_is_better);

#endif
