/*
 * What the files that make up mapping.h share.
 */
#ifndef LARDER_MAPPING_PARTS_H
#define LARDER_MAPPING_PARTS_H

#include "addresses.h"
#include "mapping.h"
#include "memory.h"
#include "reclaim.h"

struct larder_mappings {
	struct larder_memory *memory; /* NULL until open */
	struct larder_reclaim *reclaim;
	struct larder_mutex lock;      /* guards `free` */
	struct larder_addresses free;  /* of chunks of mappings: pages that are not mapped */
	_Atomic uint32_t locks_future; /* mlockall(MCL_FUTURE): the flags with which what is mapped is locked, or 0 */
};

extern struct larder_mappings mappings;

struct mappings_hold {
	uint64_t signals;
};

void mappings_lock(struct mappings_hold *hold);
void mappings_unlock(const struct mappings_hold *hold);

/* Pages [first, first + pages). */
struct page_span {
	size_t first, pages;
};

static inline char *page_span_start(struct page_span span)
{
	return region_address(&mappings.memory->region, span.first);
}

static inline size_t page_span_bytes(struct page_span span)
{
	return span.pages * PAGE_BYTES;
}

/* Is all of it mapped? */
int mappings_are_mapped(struct page_span span);

/* Is the reclaim thread there? Not in a forked child that could have no threads. */
int mappings_have_service(void);

/*
 * With the lock held:
 * take     free addresses for a mapping, without anything there: the first page, or SIZE_MAX
 * dress    make what was taken accessible
 * retire   undo all that was done to mapped pages: nothing is in them and nobody can access them
 * clear    whatever was there, mapped or not, is now taken and retired
 * release  retired pages are free
 * Return 0 or a negative errno.
 */
size_t mappings_take(size_t pages);
long mappings_dress(struct page_span span, int prot);
long mappings_retire(struct page_span span);
long mappings_clear(struct page_span span);
void mappings_release(struct page_span span);

/* Mapped pages become foreign, with what is in them. With the lock held, or without. */
long mappings_relinquish(struct page_span span);

/* Without the lock, when something was mapped: wait for room, and populate and lock it if that was asked for. */
void mappings_settle(struct page_span span, int prot, int flags);

/* madvise(2) and the like on mapped pages of the region; without the lock. */
long advise(struct page_span span, int advice);
long lock_pages(struct page_span span, long number, long flags);
long unlock_pages(struct page_span span);

/* In a forked child: addresses of what was not to be in it are free. */
void release_unforked(void);

/* Forget what advise() and lock_pages() left behind. */
void forget_advice(struct page_span span);

#endif
