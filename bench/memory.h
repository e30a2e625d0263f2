/*
 * What `bench fault` and `bench reclaim` have in common: who takes part, and a buffer that is filled, and compared at
 * the end.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include "contender.h"
#include "options.h"
#include "table.h"

#include <stdatomic.h>

struct memory {
	const struct options *options;
	struct contender_setup setup;
	const struct contender *contender;
	char *buffer;
};

/* Who takes part: the peer, Larder in both modes, and bounds. The table's columns are in this order. */
struct memory_entrants {
	const struct contender *contenders[COLUMNS_MAX];
};

/* Begin (see turns_begin()) and add a column for each contender that is wanted: the peer, Larder, the bounds (NULL at
 * the end). */
void memory_begin(struct memory_entrants *e, struct table *t, const struct options *o,
		  const struct contender *const *bounds);

/* For a case with `pages` pages and this limit. */
void memory_set_up(struct memory *m, const struct options *o, const struct contender *c, uint64_t pages,
		   const struct limit *limit);

/* Does it use the kernel's peer? */
const struct peer *memory_peer(const struct memory *m);

/* In the contender's process: open it and fill the buffer, saying how far it has come. */
void memory_open(struct memory *m, struct turn *t);

/* From now on the memory that it takes counts: while the buffer was filled, the limit had to be found first. */
void memory_look(struct turn *t);

/* With --settle: wait until Larder has made what it holds as small as it becomes by itself. */
void memory_settle(const struct memory *m);

/* See that free memory, from which so many bytes are about to be touched, is the machine's: no host has to find it. */
void memory_take_from_host(uint64_t bytes);

/* Exits with 2 unless at least 99 % of the buffer's pages are out of RAM. */
void memory_check_out(const struct memory *m);

/* Exits with 1 unless every byte is as it was filled. */
void memory_verify(const struct memory *m, const struct turn *t);

#endif
