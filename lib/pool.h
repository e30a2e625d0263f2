/*
 * Pools: memory with a limit, tiers and order of its own. Pool 0 is the heap, and its budget that of the whole process.
 *
 * A pool's slot keeps its chunks of the region, and its jemalloc arenas, when the pool is destroyed: the next pool in
 * the slot uses them again. So pools come and go without using up addresses.
 */
#ifndef LARDER_POOL_H
#define LARDER_POOL_H

#include "events.h"
#include "region.h"

enum pool_state { POOL_UNUSED, POOL_LIVE, POOL_FREE }; /* FREE: used before, so it has arenas */

/* A limit, and how reclaim gets on with it. */
struct larder_budget {
	/* Set before anybody looks at it, then constant. */
	uint64_t limit_bytes;	/* 0 = none, or see limit_percent */
	unsigned limit_percent; /* 0 = none; pool 0 only */

	_Atomic uint64_t attained_bytes; /* 0, or more than the limit: what stands in for it while it is unmet */

	/* Reclaim thread only. */
	size_t hand;			/* the clock: index of the page to look at next */
	uint64_t retry_ns, retry_at_ns; /* while the limit is unmet: the interval, and when it is tried for again */
};

struct larder_pool {
	_Atomic uint32_t state; /* enum pool_state; written under process.c's pool lock */
	uint32_t fault_mode;	/* enum larder_fault_mode; constant once the slot has been used */
	uint32_t tiers;		/* bit n: tier n may take pages */
	uint32_t order;		/* enum larder_order */
	struct larder_budget budget;
	_Atomic uint64_t inflation; /* LARDER_ORDER_COST: the key of the range purged last; reclaim thread writes */
	_Atomic uint64_t retouched; /* lost pages that were touched again while volatile: worthless, and in RAM */
	struct larder_events events;
};

#endif
