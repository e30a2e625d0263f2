/*
 * What the fault service, reclaim and the arena share: one managed memory.
 */
#ifndef LARDER_MEMORY_H
#define LARDER_MEMORY_H

#include "pressure.h"
#include "region.h"
#include "staging.h"
#include "store.h"

struct larder_memory {
	struct larder_region region;
	struct larder_staging staging;
	struct larder_store store;
	struct larder_pressure pressure;
	int uffd; /* both are descriptors in the internal threads' table, set before any handler starts */
	int pagemap;
};

#endif
