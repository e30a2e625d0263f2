/*
 * Order: which volatile range goes first.
 */
#ifndef LARDER_ORDER_H
#define LARDER_ORDER_H

#include "pool.h"
#include "segment.h"

/* A segment's place among those of its priority: the smallest goes first. Called when it is marked and when it is used.
 */
static inline uint64_t order_key(const struct larder_pool *pool, const struct larder_segment *s)
{
	switch (pool->order) {
	case LARDER_ORDER_FIFO:
		return s->marked;
	case LARDER_ORDER_LIFO:
		return ~s->marked;
	case LARDER_ORDER_COST: /* GreedyDual-Size: H = L + cost / size. A part of what was marked costs its share. */
		return atomic_load_explicit(&pool->inflation, memory_order_relaxed) + s->page_cost_ns;
	default:
		return s->used;
	}
}

#endif
