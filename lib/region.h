/*
 * The region: one reserved range of addresses, all that Larder manages, and the table of its pages.
 *
 * The range is PROT_NONE until memory is handed out, so a reservation costs neither RAM nor commit charge. Memory is
 * handed out from the bottom (`top` grows) and never taken back as addresses: jemalloc keeps what it frees and uses it
 * again. The page index of an address is a subtraction. The page table is a flat array in a lazily populated mapping:
 * 16 bytes a page, touched only where memory is watched.
 *
 * A chunk is 2 MiB. A chunk is *unwatched* from birth: the kernel zero-fills it at full speed and its entries all read
 * FRESH, whatever is in its pages. Pressure makes the reclaim thread *watch* it: register it with userfaultfd and mark
 * what is present RESIDENT. From then on the table is exact: pages appear only through restore.c and vanish only
 * through reclaim.c and discard.c.
 *
 * Locks, in order: grow_lock, then one chunk's lock. A chunk lock orders watching, eviction and discarding in that
 * chunk; fault handlers take neither, they work page by page (page.h).
 */
#ifndef LARDER_REGION_H
#define LARDER_REGION_H

#include "futex.h"
#include "page.h"

#include <larder/stats.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { CHUNK_SHIFT = 21, CHUNK_BYTES = 1 << CHUNK_SHIFT, CHUNK_PAGES = CHUNK_BYTES / PAGE_BYTES };

struct larder_chunk {
	struct larder_mutex lock;
	_Atomic uint32_t watched; /* written under lock; 0 to 1, never back */
	uint32_t allocated_pages; /* under lock: pages handed out */
	_Atomic uint32_t
		around_next; /* fault-around: page index where a sequential reader would fault next (low 32 bits) */
	_Atomic uint32_t around_window; /* and how many pages the last fault brought back; both are hints */
};

struct larder_region {
	char *base;
	size_t bytes;
	struct larder_page *pages;
	struct larder_chunk *chunks;

	struct larder_mutex grow_lock;
	_Atomic size_t top;   /* bytes handed out; written under grow_lock */
	size_t writable;      /* under grow_lock: bytes made readable and writable, whole chunks */
	_Atomic int detached; /* set in a forked child: memory works, nothing is managed */

	_Atomic int64_t count[LARDER_PAGES_KINDS]; /* pages of each kind; relaxed */
	_Atomic uint32_t watched_chunks;
};

/*
 * Reserve the region: at most max_bytes, halved until the address space has room, at least 1 GiB.
 * Returns 0 or -ENOMEM.
 */
int region_open(struct larder_region *r, size_t max_bytes);
void region_close(struct larder_region *r);

/*
 * Hand out zeroed memory. bytes and alignment: multiples of a page, alignment a power of two. `at`: NULL, or the only
 * address that will do. Returns NULL when there is none.
 */
void *region_alloc(struct larder_region *r, size_t bytes, size_t alignment, void *at);

/*
 * Watch one chunk: register it with userfaultfd `uffd` and mark what is present RESIDENT. Reclaim thread only.
 * Returns 0, or a negative errno with the chunk left unwatched.
 */
int region_watch(struct larder_region *r, size_t chunk, int uffd, int pagemap);

static inline int region_contains(const struct larder_region *r, const void *addr)
{
	return (size_t)((const char *)addr - r->base) < r->bytes;
}

static inline size_t region_index(const struct larder_region *r, const void *addr)
{
	return (size_t)((const char *)addr - r->base) >> PAGE_SHIFT;
}

static inline char *region_address(const struct larder_region *r, size_t index)
{
	return r->base + (index << PAGE_SHIFT);
}

static inline struct larder_chunk *region_chunk(struct larder_region *r, size_t index)
{
	return &r->chunks[index / CHUNK_PAGES];
}

static inline int chunk_is_watched(const struct larder_chunk *c)
{
	return atomic_load_explicit(&c->watched, memory_order_acquire) != 0;
}

/* Pages and chunks that have been handed out, at least in part. */
static inline size_t region_used_pages(const struct larder_region *r)
{
	return atomic_load_explicit(&r->top, memory_order_acquire) >> PAGE_SHIFT;
}

static inline size_t region_used_chunks(const struct larder_region *r)
{
	return (atomic_load_explicit(&r->top, memory_order_acquire) + CHUNK_BYTES - 1) >> CHUNK_SHIFT;
}

static inline void region_count(struct larder_region *r, enum larder_page_kind kind, int64_t pages)
{
	atomic_fetch_add_explicit(&r->count[kind], pages, memory_order_relaxed);
}

static inline int64_t region_counted(const struct larder_region *r, enum larder_page_kind kind)
{
	int64_t n = atomic_load_explicit(&r->count[kind], memory_order_relaxed);

	return n > 0 ? n : 0; /* a reader between two updates may see a sum below zero */
}

/* RAM that the tables take. */
static inline uint64_t region_metadata_bytes(const struct larder_region *r)
{
	return (uint64_t)atomic_load_explicit(&r->watched_chunks, memory_order_relaxed) *
	       (CHUNK_PAGES * sizeof(struct larder_page) + sizeof(struct larder_chunk));
}

/*
 * Check the whole table against its invariants and the counters; no eviction, fault or discard may be under way.
 * Panics on a violation. For tests and debug builds.
 */
void region_check(const struct larder_region *r);

#endif
