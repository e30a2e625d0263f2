/*
 * Pack: variable-size objects in RAM at high density, under handles that stay valid while the objects move.
 *
 * Memory is cut into slabs of 64 KiB; a slab holds slots of one size. Slot sizes are whole fractions of a slab, about 3 % apart, so a slab has no
 * tail and an object wastes 1.7 % on average. Objects go into the fullest slab that has room. When objects leave holes, compaction moves
 * objects out of the emptiest slabs into holes of others and gives the emptied slabs back, as the kernel's zsmalloc does. A handle is an
 * index into a table of locations (8 bytes an object), so whoever holds one does not see objects move.
 *
 * Locks. `stripes[handle % STRIPES]` keeps an object in its place: held by a reader of its bytes, and by drop and compaction while they take
 * it away. `lock` guards everything else and is held for no longer than copying one object. Order: a stripe, then `lock`.
 */
#ifndef LARDER_PACK_H
#define LARDER_PACK_H

#include "futex.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PACK_SLAB_BYTES = 64 << 10,
	PACK_OBJECT_MAX_BYTES = 3584, /* the largest object that may be put */
	PACK_CLASSES_MAX = 144,
	PACK_BINS = 8, /* partly filled slabs by fullness */
	PACK_STRIPES = 64,
	PACK_CACHE_SLABS = 4, /* empty slabs kept for the next object */
};

#define PACK_NONE UINT32_MAX

struct pack_slab; /* one per slab, in the slab table */

struct pack_class {
	uint32_t slot_bytes, slots;	     /* of a slab; constant */
	uint32_t bins[PACK_BINS];	     /* heads of lists of partly filled slabs */
	uint64_t partial_slabs, partial_live; /* in those lists */
};

struct pack {
	struct larder_mutex stripes[PACK_STRIPES];

	struct larder_mutex lock; /* guards all below */
	char *memory;		  /* slabs_max slabs of address space */
	struct pack_slab *slabs;
	uint64_t *locations; /* [handle]: slab << 16 | slot while live; the next free handle while free */
	uint64_t slabs_max, handles_max;
	uint32_t slabs_used, handles_used;   /* ever */
	uint32_t free_handles;		     /* list */
	uint32_t empty_slabs, empty_count;   /* list of slabs that are empty and still resident */
	uint32_t absent_slabs;		     /* list of slabs given back to the kernel */
	uint32_t compact_class;		     /* where the next compaction starts */
	struct pack_class classes[PACK_CLASSES_MAX];
	unsigned nclasses;
	uint8_t class_of[PACK_OBJECT_MAX_BYTES / 16 + 2]; /* by size in 16-byte steps */

	/* Written under lock, read by anybody. */
	_Atomic uint64_t objects, stored_bytes, resident_slabs;
};

/* p is zeroed. Address space for max_objects is reserved; RAM is taken as objects arrive. Returns 0 or -ENOMEM. */
int pack_open(struct pack *p, uint64_t max_objects);
void pack_close(struct pack *p);

/* Store a copy of length bytes, 1 to PACK_OBJECT_MAX_BYTES. Returns 0, or -ENOSPC. */
int pack_put(struct pack *p, const void *bytes, uint32_t length, uint32_t *handle);

/* Where the object is and how long, until pack_unpin: it does not move meanwhile. Keep it short: others share the lock. */
const void *pack_pin(struct pack *p, uint32_t handle, uint32_t *length);
void pack_unpin(struct pack *p, uint32_t handle);

void pack_drop(struct pack *p, uint32_t handle);

/* Move at most about budget_bytes of objects. Returns the bytes of slabs given back. Cheap when there is nothing to gain. */
uint64_t pack_compact(struct pack *p, uint64_t budget_bytes);

/* RAM taken by the tables. */
uint64_t pack_metadata_bytes(const struct pack *p);

#endif
