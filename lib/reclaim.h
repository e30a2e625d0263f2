/*
 * Reclaim: one thread that takes cold pages out of the program's mapping and puts them into the store.
 */
#ifndef LARDER_RECLAIM_H
#define LARDER_RECLAIM_H

#include "restore.h"

/* Set by the reclaim thread when everything is resident; cleared by it, in one step with seeing no thread in fork. */
#define RECLAIM_FROZEN ((uint32_t)1 << 31)

struct larder_reclaim {
	struct larder_memory *memory;
	struct larder_restorer restorer;

	/* Reclaim thread only. */
	size_t hand;			/* the clock: index of the page to look at next */
	unsigned idle_turns;		/* turns of the clock in a row that evicted next to nothing */
	size_t turn_evicted;		/* pages evicted in the turn under way */
	uint64_t last_purge_ns;		/* when the allocator was last asked to give back what it holds free */
	uint64_t purge_interval_ns;	/* grows while asking brings nothing */
	uint64_t retry_ns, retry_at_ns; /* while the limit is unmet: the interval, and when it is tried for again */

	/* Requests by program threads. */
	_Atomic uint32_t freeze; /* threads in fork, plus RECLAIM_FROZEN once everything is resident and stays so */
	struct larder_mutex evict_lock; /* one explicit reclaim at a time */
	_Atomic uint64_t evict_pages;	/* explicit reclaim: pages still to evict; 0 = no request */
	_Atomic uint64_t evict_done;	/* pages evicted for it */
	struct larder_event answered;	/* posted when a request is done */

	/* The allocator's side (arena.c): a program thread purges when `purge_wanted` is posted, and posts
	 * `purge_done`. */
	struct larder_event purge_wanted, purge_done;
	_Atomic uint32_t purger_ready; /* 1: there is such a thread */
};

/* The reclaim thread's life; does not return. Everything in memory is open and the fault service runs. */
void reclaim_run(struct larder_reclaim *r);

/*
 * Program threads. freeze: bring every page back and evict nothing until thaw, so that a fork copies a plain memory.
 * Nests.
 */
void reclaim_freeze(struct larder_reclaim *r);
void reclaim_thaw(struct larder_reclaim *r);

/* After fork, in the child, where there is no reclaim thread: memory works as plain memory from now on. */
void reclaim_detach(struct larder_reclaim *r);

/* Evict about `bytes` now. Returns the bytes evicted, fewer when there are no more to take. Program threads. */
uint64_t reclaim_now(struct larder_reclaim *r, uint64_t bytes);

#endif
