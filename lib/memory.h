/*
 * What the fault service, reclaim and the arena share: one managed memory.
 */
#ifndef LARDER_MEMORY_H
#define LARDER_MEMORY_H

#include "compress.h"
#include "pool.h"
#include "pressure.h"
#include "region.h"
#include "segment.h"
#include "staging.h"
#include "store.h"
#include "swap_in.h"

struct larder_memory {
	struct larder_region region;
	struct larder_segments segments;
	struct larder_staging staging;
	struct larder_compress compress;
	struct larder_store store;
	struct larder_swap_in swap_in;
	struct larder_pressure pressure;
	struct larder_pool pools[REGION_POOLS]; /* [REGION_HEAP] is the process */
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
