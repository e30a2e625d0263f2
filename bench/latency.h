/*
 * Latencies as a high dynamic range histogram (Gil Tene's HdrHistogram): log-linear bins of one size in memory whatever
 * comes, three significant digits, so a percentile is at most 0.1 % off, and one addition takes a few ns.
 *
 * The bins are a plain array, without pointers: a histogram may lie in memory that processes share, and outside of
 * malloc's, because a benchmark that pushes its heap out must not page in its own notes. (No C library in Debian 12 has
 * such a histogram.) One thread adds to one histogram; latency_append() puts them together.
 */
#ifndef BENCH_LATENCY_H
#define BENCH_LATENCY_H

#include <stdint.h>

/* Below 2^11 ns a bin is 1 ns wide; above, each power of two has 2^10 bins. The last ends at 2^36 ns: 69 s. */
enum { LATENCY_HALF_BITS = 10, LATENCY_MAX_BITS = 36 };
enum { LATENCY_BINS = (LATENCY_MAX_BITS - LATENCY_HALF_BITS + 1) << LATENCY_HALF_BITS };

/* Zeroed memory is an empty histogram. */
struct latency {
	uint64_t count, sum_ns, max_ns;
	uint64_t bins[LATENCY_BINS];
};

/* An empty one in a mapping of its own, in RAM and kept there where that is permitted. Exits when there is no memory.
 */
struct latency *latency_create(void);
void latency_destroy(struct latency *l);

/* How often a value is halved until it is below 2^11. */
static inline unsigned latency_shift(uint64_t ns)
{
	unsigned bits = 64 - (unsigned)__builtin_clzll(ns | 1);

	return bits > LATENCY_HALF_BITS + 1 ? bits - (LATENCY_HALF_BITS + 1) : 0;
}

static inline void latency_add(struct latency *l, uint64_t ns)
{
	uint64_t value = ns >> LATENCY_MAX_BITS ? (1ull << LATENCY_MAX_BITS) - 1 : ns;
	unsigned shift = latency_shift(value);

	l->bins[(shift << LATENCY_HALF_BITS) + (value >> shift)]++;
	l->count++;
	l->sum_ns += ns;
	if (ns > l->max_ns)
		l->max_ns = ns;
}

void latency_append(struct latency *to, const struct latency *from);

/* All are 0 when there are no samples. The quantile 1 is the largest value, exactly. */
double latency_quantile_us(const struct latency *l, double quantile);
double latency_mean_us(const struct latency *l);

#endif
