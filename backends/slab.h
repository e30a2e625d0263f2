/*
 * Slots of many sizes, cut from slabs that waste little. The lower half of the packing allocator (pack.h).
 *
 * Compressed pages have every size between a few dozen bytes and 7/8 of a page, and the mix changes as the program
 * does. A slab holds slots of one *class*, and a hole in it fits every later object of that class, so that steady churn
 * moves nothing. Two wastes remain, and they pull in opposite directions: the finer the classes, the less a slot
 * exceeds its object, but the more classes have a slab that is not full yet. What resolves it is the idea of zsmalloc's
 * "zspages" (Gupta, 2010): a slab is 1 to 8 pages long, whatever lets its slots fill it best. m pages divided by k
 * slots gives classes 3 % apart with slabs of 23 KiB on average. With slabs of 64 KiB for all, three times as much
 * would lie in half-empty slabs, which a store of 16 MiB cannot afford.
 *
 * Slab i owns SLAB_SPAN_BYTES of *address space* at base + i * SLAB_SPAN_BYTES and uses the first pages of it. The rest
 * is never touched and costs nothing, so slabs of different lengths need no allocator of their own. A free slab keeps
 * its pages for the next slab of the same length; slabs_trim() gives them back to the kernel when there are too many.
 * Nothing else calls madvise: dropping an object, which happens while a program thread waits for its page, never does.
 *
 * Slots are taken from the fullest slab of the class, so that the emptiest have a chance to run empty. Holes that stay
 * (the mix has changed, or most objects were dropped) are removed by draining: slabs_drain() takes the emptiest slab of
 * the class with the largest share of holes out of use, the caller moves its objects to slabs_take_hole()'s slots, and
 * slabs_drained() frees it.
 *
 * Threads: any, at once; one mutex guards the tables and is held for tens of nanoseconds, or, to give sixteen slots
 * back, hundreds. Slot contents are the caller's business.
 */
#ifndef LARDER_SLAB_H
#define LARDER_SLAB_H

#include "futex.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
	SLAB_PAGE_BYTES = 4096,
	SLAB_MAX_PAGES = 8,
	SLAB_SPAN_BYTES = SLAB_MAX_PAGES * SLAB_PAGE_BYTES,
	SLAB_MAX_SLOTS = 64, /* one word tells which are taken */
	SLAB_SLOT_MIN_BYTES = 64,
	SLAB_SLOT_MAX_BYTES = 3584, /* 7/8 of a page; 7 pages are 8 slots */
	SLAB_SLOT_ALIGN = 8,
	SLAB_CLASSES_MAX = 128,
	SLAB_BINS = 8, /* slabs of a class that are neither full nor empty, by how full they are */
};

#define SLAB_NONE UINT32_MAX

/* The class is that of the slab, so that the slot's address is known without a look at the table. */
struct larder_slot {
	uint32_t slab;
	uint8_t class;
	uint8_t slot; /* < SLAB_MAX_SLOTS */
};

struct larder_slab {
	uint64_t taken;	     /* bit i: slot i is in use */
	uint32_t next, prev; /* in a bin of the class, or in a list of free slabs */
	uint8_t class;
	uint8_t used; /* bits set in `taken` */
	uint8_t bin;  /* < SLAB_BINS, or one of the states in slab.c */
};

struct slab_class {
	uint32_t slot_bytes;
	uint8_t slots, pages;	     /* of a slab */
	uint32_t partial[SLAB_BINS]; /* lists of slabs, emptiest bin first */
	uint64_t slabs;		     /* full, partial and draining */
	uint64_t used;		     /* slots in use */
};

struct larder_slabs {
	char *base;		   /* constant after open, like `table`, `max_slabs` and the classes' geometry */
	struct larder_slab *table; /* [max_slabs] */
	uint64_t max_slabs;
	uint32_t classes_used;					     /* classes[0, classes_used), smallest slot first */
	uint8_t class_of[SLAB_SLOT_MAX_BYTES / SLAB_SLOT_ALIGN + 1]; /* [bytes rounded up / SLAB_SLOT_ALIGN] */

	struct larder_mutex lock; /* guards everything below; a leaf: nothing is locked inside it */
	struct slab_class classes[SLAB_CLASSES_MAX];
	uint32_t free[SLAB_MAX_PAGES + 1]; /* [n]: free slabs with n resident pages */
	uint64_t cached_bytes;		   /* resident pages of free slabs */
	uint64_t hole_bytes;		   /* free slots in the slabs of all classes */
	_Atomic uint64_t
		occupied_bytes;	     /* pages of all slabs, free ones included; written under the lock, read without */
	_Atomic uint32_t slabs_used; /* slabs ever used: table[0, slabs_used) is resident; likewise */
};

/*
 * Prepare zeroed `s` for at least max_objects slots. Reserves address space for all of them in any one class, or as
 * much of it as the process's limits grant. returns  0 or -ENOMEM, in which case nothing is left mapped.
 */
int slabs_open(struct larder_slabs *s, uint64_t max_objects);
void slabs_close(struct larder_slabs *s);

/* Take a slot of at least `bytes` (1 to SLAB_SLOT_MAX_BYTES). Returns 0 or -ENOSPC. */
int slabs_take(struct larder_slabs *s, size_t bytes, struct larder_slot *slot);

/* Give slots back. */
void slabs_give(struct larder_slabs *s, const struct larder_slot *slots, size_t n);

/*
 * Choose a slab to empty, unless holes are few. Until slabs_drained() no slot of it is handed out.
 * returns  the slab, or SLAB_NONE; *taken: the slots in use. One thread at a time.
 */
uint32_t slabs_drain(struct larder_slabs *s, uint64_t *taken);

/* Take a slot in another slab of the same class. Returns -ENOSPC rather than begin a new slab. */
int slabs_take_hole(struct larder_slabs *s, uint32_t draining, struct larder_slot *slot);

/* End the draining: the slab is free if it is empty, else in use again. */
void slabs_drained(struct larder_slabs *s, uint32_t draining);

/* Return the pages of free slabs to the kernel, but for a few. Returns the bytes given back. */
uint64_t slabs_trim(struct larder_slabs *s);

/* After a fork, in the child: another thread of the parent may have held the lock, though it changed nothing. */
static inline void slabs_inherit(struct larder_slabs *s)
{
	s->lock = (struct larder_mutex){ 0 };
}

/* RAM that the tables take. */
uint64_t slabs_metadata_bytes(const struct larder_slabs *s);

/* Private zeroed memory without huge pages, which would make untouched neighbours resident. NULL when there is none. */
void *slabs_map(size_t bytes);

/* A slot of a slab in use. Its class is stable while the caller owns a slot of it or drains it. */
static inline struct larder_slot slabs_slot(const struct larder_slabs *s, uint32_t slab, unsigned slot)
{
	return (struct larder_slot){ .slab = slab, .class = s->table[slab].class, .slot = (uint8_t)slot };
}

/* For the numbers that anybody may read without a lock. */
static inline void gauge_add(_Atomic uint64_t *gauge, uint64_t delta)
{
	atomic_fetch_add_explicit(gauge, delta, memory_order_relaxed);
}

static inline char *slabs_address(const struct larder_slabs *s, struct larder_slot slot)
{
	return s->base + (size_t)slot.slab * SLAB_SPAN_BYTES + (size_t)slot.slot * s->classes[slot.class].slot_bytes;
}

#endif
