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
 * Besides the heap, whose pool is 0, the region holds pools (pool.h). A chunk belongs to one of them for good, and is
 * for objects or for page ranges. For the pages of ranges there are three more flat tables: which segment a page
 * belongs to (segment.h), and two bits: KEPT pages are volatile or pinned, so that eviction leaves them alone; LOST
 * ones were purged and their owner has not acknowledged it.
 *
 * Chunks of mappings (mapping.h) are the program's to lay out: it maps, protects and unmaps pages of them as it likes,
 * and may put something else in their place. So each page has a few bits more: CHARGED ones have been accessible since
 * they were mapped, so they may hold something; FOREIGN ones are not ours (a file, shared memory, memory that the
 * program watches with a userfaultfd of its own): they stay FRESH and unregistered. UNFORKED and WIPED ones do not get
 * into a forked child, or not with their content.
 *
 * Locks, in order: grow_lock, then one chunk's lock. A chunk lock orders watching, eviction and discarding in that
 * chunk; fault handlers take neither, they work page by page (page.h).
 */
#ifndef LARDER_REGION_H
#define LARDER_REGION_H

#include "futex.h"
#include "page.h"

#include <larder/larder.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { CHUNK_SHIFT = 21, CHUNK_BYTES = 1 << CHUNK_SHIFT, CHUNK_PAGES = CHUNK_BYTES / PAGE_BYTES };

enum { REGION_POOLS = LARDER_POOLS_MAX + 1, REGION_HEAP = 0 };

enum chunk_kind { CHUNK_HEAP, CHUNK_OBJECTS, CHUNK_RANGES, CHUNK_MAPPING };

/* What was ever done to a page of the chunk that has to be undone, or looked at, one day. */
enum chunk_marks {
	CHUNK_HAS_FOREIGN = 1,
	CHUNK_HAS_UNFORKED = 2,
	CHUNK_HAS_WIPED = 4,
	CHUNK_HAS_UNDUMPED = 8,
	CHUNK_HAS_LOCKED = 16
};

/* Whom memory is handed out to. */
struct region_owner {
	uint16_t pool;	       /* REGION_HEAP, or 1 to LARDER_POOLS_MAX */
	uint8_t kind;	       /* enum chunk_kind */
	uint8_t inline_faults; /* faults are served by the thread that raises them (sigbus.h) */
};

struct larder_chunk {
	struct region_owner owner;   /* written before any page of it is handed out, then constant */
	_Atomic uint32_t sequential; /* advice: fault-around brings back as much as it can */
	struct larder_mutex lock;
	_Atomic uint32_t watched; /* written under lock; 0 to 1, never back */
	uint32_t allocated_pages; /* under lock: pages handed out */
	_Atomic uint32_t marks;	  /* enum chunk_marks; only ever set */
	_Atomic uint32_t used;	  /* 1: its part of the table is, or was, more than FRESH pages */
	_Atomic uint32_t
		around_next; /* fault-around: page index where a sequential reader would fault next (low 32 bits) */
	_Atomic uint32_t around_window; /* and how many pages the last fault brought back; all of these are hints */
	_Atomic uint32_t wanted_end;	/* up to this page index all is wanted, lost pages included */
};

struct larder_region {
	char *base;
	size_t bytes;
	struct larder_page *pages;
	struct larder_chunk *chunks;
	_Atomic uint32_t *segment_of;  /* [page]: see segment.h; of object chunks: how often the page is pinned */
	_Atomic uint64_t *kept, *lost; /* one bit a page */
	_Atomic uint64_t *charged, *foreign, *unforked, *wiped; /* the same; foreign: under the chunk's lock */

	struct larder_mutex grow_lock;
	_Atomic size_t top;   /* bytes handed out; written under grow_lock */
	size_t writable;      /* under grow_lock: bytes made readable and writable, whole chunks */
	_Atomic int detached; /* set in a forked child: memory works, nothing is managed */

	_Atomic int64_t count[LARDER_PAGES_KINDS];		      /* pages of each kind; relaxed */
	_Atomic int64_t pool_count[REGION_POOLS][LARDER_PAGES_KINDS]; /* the same, pool by pool; not of the heap */
	_Atomic uint32_t watched_chunks, range_chunks, used_chunks;
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

/* The same for a pool, in chunks of its own. */
void *region_alloc_chunks(struct larder_region *r, struct region_owner owner, size_t bytes, size_t alignment);

/*
 * Addresses for the program's mappings: whole chunks, inaccessible, of which nothing is handed out yet. bytes: a
 * multiple of CHUNK_BYTES. Returns NULL when there are none.
 */
void *region_reserve(struct larder_region *r, size_t bytes);

/*
 * Pages [first, first + pages) of mappings can hold something from now on, or cannot any more. Pages that are charged,
 * or not charged, already stay so. Program threads.
 */
void region_charge(struct larder_region *r, size_t first, size_t pages);
void region_uncharge(struct larder_region *r, size_t first, size_t pages);

/*
 * Pages [first, first + pages) become foreign, with what is in them, and nothing is registered there. Reclaim thread,
 * or, with uffd < 0, where there is none. Returns 0; -EAGAIN, with some of them still ours, when the content of one is
 * not in the mapping; or an error of userfaultfd.
 */
int region_relinquish(struct larder_region *r, size_t first, size_t pages, int uffd);

/*
 * And ours again, private anonymous memory: where their chunk is watched they are registered, and what is present is
 * RESIDENT. Reclaim thread, or, with uffd < 0, where there is none. Returns 0 or a negative errno, with them still
 * foreign.
 */
int region_adopt(struct larder_region *r, size_t first, size_t pages, int uffd, int pagemap);

/*
 * Watch one chunk: register it with userfaultfd `uffd` and mark what is present RESIDENT. Reclaim thread
 * only, with the chunk locked.
 * (A chunk with inline faults wants the userfaultfd that raises SIGBUS.)
 * Returns 0, or a negative errno with the chunk left unwatched.
 */
int region_watch(struct larder_region *r, size_t chunk, int uffd, int pagemap);

/* In a forked child, whose mappings are registered with nothing: register every watched chunk. Returns 0 or a negative
 * errno. */
int region_watch_again(const struct larder_region *r, int uffd, int inline_uffd);

/* Count the pages of each kind anew; no page is busy, nobody else changes any. */
void region_recount(struct larder_region *r);

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

static inline int chunk_is_used(const struct larder_chunk *c)
{
	return atomic_load_explicit(&c->used, memory_order_acquire) != 0;
}

/* A page of the chunk is about to be more than FRESH. */
static inline void region_use(struct larder_region *r, struct larder_chunk *c)
{
	if (!chunk_is_used(c) && !atomic_exchange(&c->used, 1))
		atomic_fetch_add_explicit(&r->used_chunks, 1, memory_order_relaxed);
}

static inline int chunk_is_marked(const struct larder_chunk *c, unsigned marks)
{
	return (atomic_load_explicit(&c->marks, memory_order_acquire) & marks) != 0;
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

/* `pages` pages around page `index`, all in one chunk, are now of this kind; or, below zero, no longer. */
static inline void region_count(struct larder_region *r, size_t index, enum larder_page_kind kind, int64_t pages)
{
	unsigned pool = region_chunk(r, index)->owner.pool;

	atomic_fetch_add_explicit(&r->count[kind], pages, memory_order_relaxed);
	if (pool != REGION_HEAP)
		atomic_fetch_add_explicit(&r->pool_count[pool][kind], pages, memory_order_relaxed);
}

/* A reader between two updates may see a sum below zero. */
static inline int64_t region_not_negative(const _Atomic int64_t *count)
{
	int64_t n = atomic_load_explicit(count, memory_order_relaxed);

	return n > 0 ? n : 0;
}

static inline int64_t region_counted(const struct larder_region *r, enum larder_page_kind kind)
{
	return region_not_negative(&r->count[kind]);
}

static inline int64_t region_pool_counted(const struct larder_region *r, unsigned pool, enum larder_page_kind kind)
{
	return region_not_negative(pool == REGION_HEAP ? &r->count[kind] : &r->pool_count[pool][kind]);
}

/* One bit of `bits` for each page. */
static inline int region_bit(const _Atomic uint64_t *bits, size_t index)
{
	return atomic_load(&bits[index / 64]) >> index % 64 & 1;
}

/* Set or clear the bits of pages [first, first + pages). A full barrier: what follows is seen after it. */
void region_set_bits(_Atomic uint64_t *bits, size_t first, size_t pages);
void region_clear_bits(_Atomic uint64_t *bits, size_t first, size_t pages);
size_t region_count_bits(const _Atomic uint64_t *bits, size_t first, size_t pages);

/* Pages from `first` on, up to `end`, whose bit is the same as its: how many. */
size_t region_run(const _Atomic uint64_t *bits, size_t first, size_t end);

/* RAM that the tables take. */
static inline uint64_t region_metadata_bytes(const struct larder_region *r)
{
	uint64_t watched = atomic_load_explicit(&r->used_chunks, memory_order_relaxed);
	uint64_t ranges = atomic_load_explicit(&r->range_chunks, memory_order_relaxed);

	return watched * (CHUNK_PAGES * sizeof(struct larder_page) + sizeof(struct larder_chunk)) +
	       ranges * CHUNK_PAGES * sizeof(*r->segment_of);
}

/*
 * Check the whole table against its invariants and the counters; no eviction or discard may be under way, and no
 * fault but one that is being finished. Panics on a violation that stays. For tests and debug builds.
 */
void region_check(const struct larder_region *r);

#endif
