/*
 * The parts of `bench volatile`: marks (volatile and back) and purges, by Larder and by madvise(2).
 */
#ifndef BENCH_VOLATILE_H
#define BENCH_VOLATILE_H

#include "turn.h"

#include <larder/larder.h>
#include <stddef.h>
#include <stdint.h>

enum volatile_side {
	VOLATILE_MADVISE,    /* plain memory */
	VOLATILE_LARDER,     /* page ranges of a pool without a limit */
	VOLATILE_REGISTERED, /* madvise on memory that is registered with userfaultfd, as a pager's would be */
	VOLATILE_SIDES
};

enum { VOLATILE_PAIR_NS, VOLATILE_PURGE_GB_S, VOLATILE_FIGURES };

/* One turn of one side. */
struct volatile_turn {
	enum volatile_side side;
	size_t range_bytes, ranges; /* of each thread */
	unsigned threads;
};

/* The bodies of turns. They exit with 1 when contents or answers are wrong, with 2 when a call fails. */
void volatile_marks(struct turn *t, void *turn);
void volatile_purges(struct turn *t, void *turn);

/* Starts Larder and makes a pool. */
larder_pool *volatile_pool(void);

/* Exits with 2, naming the call, when a result of Larder is negative. Returns the result. */
int64_t volatile_check(int64_t result, const char *call);

/* `count` ranges of the side's memory, every byte of them written; the array is the caller's. */
char **volatile_ranges(const struct volatile_turn *v, larder_pool *pool, size_t count);

/* Write every byte. */
void volatile_write(char *p, size_t bytes);

/* Pages of [p, p + bytes) that do not hold what volatile_write() wrote. */
size_t volatile_wrong_pages(const char *p, size_t bytes);

#endif
