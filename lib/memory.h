/*
 * What the fault service, reclaim and the arena share: one managed memory.
 */
#ifndef LARDER_MEMORY_H
#define LARDER_MEMORY_H

#include "compress.h"
#include "neighbours.h"
#include "pool.h"
#include "pressure.h"
#include "region.h"
#include "segment.h"
#include "split.h"
#include "staging.h"
#include "store.h"
#include "swap_in.h"

/* What handlers have been told that the reclaim thread has to see to: see unseen.h. */
enum { UNSEEN_MAX = 64 };

struct larder_unseen_event {
	uintptr_t start, to; /* to = 0: what was there is gone; else: it is there now */
	size_t bytes;
};

struct larder_unseen {
	struct larder_mutex lock; /* guards the events; `count` may be read without it */
	struct larder_unseen_event events[UNSEEN_MAX];
	_Atomic uint32_t count;
};

/* A sweep that the reclaim thread leaves to a handler: see direct.h. */
enum larder_direct_state { DIRECT_NOT_WANTED, DIRECT_WANTED, DIRECT_TAKEN, DIRECT_DONE };

struct evict_sweep;

struct larder_direct {
	_Atomic uint32_t state;	   /* whose `sweep` and `took_ns` are */
	struct larder_event done;  /* posted by the handler */
	struct evict_sweep *sweep; /* on the reclaim thread's stack */
	uint64_t took_ns;
	_Atomic uint64_t asked_ns; /* when it was WANTED last; the reclaim thread's to write */
	uint64_t not_before_ns;	   /* the reclaim thread's: nobody is asked before */
	unsigned dear;		   /* the reclaim thread's: so many in a row were */
};

struct larder_memory {
	struct larder_region region;
	struct larder_segments segments;
	struct larder_staging staging;
	struct larder_compress compress;
	struct larder_age age;
	struct larder_split split;
	struct larder_store store;
	struct larder_swap_in swap_in;
	struct larder_neighbours neighbours;
	struct larder_pressure pressure;
	struct larder_pool pools[REGION_POOLS]; /* [REGION_HEAP] is the process */
	struct larder_unseen unseen;
	struct larder_direct direct;
	int uffd; /* both are descriptors in the internal threads' table, set before any handler starts */
	int pagemap;
	int inline_uffd; /* for chunks with inline faults; reclaim thread, -1 until there are such pools */

	/*
	 * The page that is being put into the store, plus one, or 0. Reclaim says it before it looks at the page's KEPT
	 * bit; whoever marks a page volatile sets the bit and then waits until the page is not named here. So no tier
	 * ever gets to see a volatile page.
	 */
	_Atomic uint64_t writing;

	_Atomic uint32_t has_forked; /* 1: pages may be shared with a child, or a parent */

	_Atomic uint64_t
		lost_report; /* index << 16 | errno: a page that a program thread could not restore, for the log */
};

#endif
