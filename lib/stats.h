/*
 * The process's statistics page: one struct larder_stats in a mapping that `larder stat` can find.
 * Every field is written with relaxed atomics, by any thread.
 */
#ifndef LARDER_STATS_INTERNAL_H
#define LARDER_STATS_INTERNAL_H

#include <larder/stats.h>

/* Where the numbers go. Never NULL: before stats_open() it is a private struct that nobody reads. */
extern struct larder_stats *stats;

/* Map the page. Returns 0 or a negative errno. Called once, before internal threads exist. */
int stats_open(void);

/* Unmap the page, when the service could not be started. */
void stats_close(void);

/* After a fork, in the child: have a page of its own, with the parent's gauges, and counters that begin at 0. */
void stats_inherit(void);

#define STATS_ADD(field, n) ((void)__atomic_fetch_add(&stats->field, (uint64_t)(n), __ATOMIC_RELAXED))
#define STATS_SET(field, n) __atomic_store_n(&stats->field, (n), __ATOMIC_RELAXED)
#define STATS_GET(field)    __atomic_load_n(&stats->field, __ATOMIC_RELAXED)

/* The bucket of stats->fault_latency that `ns` belongs to. See larder_latency_floor_ns(). */
static inline unsigned stats_latency_bucket(uint64_t ns)
{
	unsigned sub_bits = LARDER_LATENCY_SUB_BITS, shift, bucket;

	if (ns < 1u << sub_bits)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - sub_bits;
	bucket = ((shift + 1) << sub_bits) + (unsigned)(ns >> shift) - (1u << sub_bits);
	return bucket < LARDER_LATENCY_BUCKETS ? bucket : LARDER_LATENCY_BUCKETS - 1;
}

#endif
