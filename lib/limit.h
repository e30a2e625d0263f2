/*
 * Reading a limit, or another size, as people write it.
 */
#ifndef LARDER_LIMIT_H
#define LARDER_LIMIT_H

#include <stdint.h>

/* Below this the tables, the handlers' buffers and the pages in motion would be most of the cost. */
#define LARDER_LIMIT_MIN_BYTES ((uint64_t)16 << 20)

/* Below this a log has too few segments to be cleaned well; beyond it, places in the log have no bits left. */
#define LARDER_SWAP_MIN_BYTES ((uint64_t)64 << 20)
#define LARDER_SWAP_MAX_BYTES ((uint64_t)16 << 40)

struct larder_limit {
	uint64_t bytes;	  /* 0 when given as a percentage */
	unsigned percent; /* 1 to 100, or 0 when given in bytes */
};

/*
 * text   "SIZE" or "N%". SIZE is a decimal number, with a fraction if wanted, and one of k, M, G, T (powers of 1024, in
 * either case, with or without "B" or "iB"); without a letter it counts bytes. returns 0; -EINVAL: not such a text;
 * -ERANGE: below the minimum, above 100 %, or too large to count. On error *limit is unchanged.
 */
int limit_parse(const char *text, struct larder_limit *limit);

/* What to do about an error of limit_parse(), for a message. */
const char *limit_explain(int err);

/* The same for a SIZE alone, which has to be from `least` to `most`; -ERANGE: it is not. On error *bytes is unchanged.
 */
int size_parse(const char *text, uint64_t least, uint64_t most, uint64_t *bytes);

/* The size of swap: from LARDER_SWAP_MIN_BYTES to LARDER_SWAP_MAX_BYTES. */
int swap_size_parse(const char *text, uint64_t *bytes);
const char *swap_size_explain(int err);

#endif
