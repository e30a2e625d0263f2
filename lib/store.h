/*
 * The store: the tiers, in order. It decides which tier takes a page, and asks the right one for it back.
 *
 * A page of one repeated 64-bit word takes no space: its place is the word itself. Every other page goes to the first
 * tier that gains by holding it.
 *
 * Threads: any number may call at once, but one at a time for one place: its owner is whoever holds the page (page.h).
 * Nothing here allocates or touches managed memory, except for `page` as the caller gives it.
 */
#ifndef LARDER_STORE_H
#define LARDER_STORE_H

#include "codec.h"

#include "futex.h"
#include "page.h"

#include <larder/stats.h>
#include <stdatomic.h>
#include <stdint.h>

enum { STORE_TIER_SAME = 0, STORE_TIER_FIRST = 1 };

#define STORE_ALL_TIERS UINT32_MAX

struct store_place {
	uint64_t handle; /* the tier's; for STORE_TIER_SAME the repeated word */
	uint8_t tier;	 /* STORE_TIER_SAME, or STORE_TIER_FIRST + index of the tier */
};

struct store_tier {
	const struct larder_backend_ops *ops;
	void *backend;
	size_t scratch_offset;				      /* of its part of a thread's scratch */
	_Atomic uint64_t puts, gets, drops, rejected, errors; /* relaxed counters */
};

struct store_dropped;

struct larder_store {
	struct store_tier tiers[LARDER_TIERS_MAX];
	unsigned ntiers;
	struct store_tier *disk; /* the tier on disk, which is the last one; NULL = there is none */
	size_t scratch_bytes;
	_Atomic int64_t same_pages; /* live places of STORE_TIER_SAME */

	_Atomic uint32_t hurry;		  /* enum larder_hurry; the reclaim thread's */
	_Atomic uint32_t dropping;	  /* threads in store_drop(), or that recompress */
	_Atomic int recompressing;	  /* id of the thread that does, or 0 */
	struct larder_mutex dropped_lock; /* guards what follows; a leaf */
	struct store_dropped *dropped;	  /* while frozen */
};

/* Open `ntiers` tiers, fastest first. `store` is zeroed. Returns 0, or a negative errno with
 * nothing left open. */
int store_open(struct larder_store *store, const struct larder_backend_ops *const *tiers, unsigned ntiers,
	       const struct larder_backend_setup *setup);
void store_close(struct larder_store *store);

/* The place of a page that is STORED, as `word` says. */
static inline struct store_place store_place_of(const struct larder_page *page, uint64_t word)
{
	return (struct store_place){ .handle = page_handle(page, word), .tier = (uint8_t)page_tier(word) };
}

/* The tier on disk of places there. There is one. */
static inline unsigned store_disk_tier(const struct larder_store *store)
{
	return STORE_TIER_FIRST + (unsigned)(store->disk - store->tiers);
}

/* Is this place in the tier on disk? */
static inline int store_is_on_disk(const struct larder_store *store, unsigned tier)
{
	return store->disk && tier == store_disk_tier(store);
}

/* What a page on disk is. */
static inline uint64_t store_word_on_disk(const struct larder_store *store)
{
	return page_word_stored(store_disk_tier(store));
}

/* The bit of the tier on disk in a mask of tiers; 0 = there is none. */
static inline uint32_t store_disk_bit(const struct larder_store *store)
{
	return store->disk ? (uint32_t)1 << (store->disk - store->tiers) : 0;
}

/* A tier's part of a thread's scratch. */
static inline void *store_scratch_of(const struct store_tier *tier, void *scratch)
{
	return (char *)scratch + tier->scratch_offset;
}

/* Forget a place on disk: the copy that a resident or staged page has there, or one that nobody needs. */
void store_drop_copy(struct larder_store *store, uint64_t handle);

/* Internal threads: prepare scratch for a tier on disk, on the thread that is going to use it. Returns 0 or a negative
 * errno. */
int store_thread_open(const struct larder_store *store, void *scratch);

/* Map scratch memory for one calling thread. NULL when there is none. */
void *store_scratch(const struct larder_store *store);
void store_scratch_free(const struct larder_store *store, void *scratch);
/* A forked child is not to have it. */
void store_scratch_dontfork(const struct larder_store *store, void *scratch);

/* For pages with a copy on disk: the checksum of a page, 0 without a disk; and that of what is kept there. */
static inline uint64_t store_checksum(const struct larder_store *store, const char *page)
{
	return store->disk ? store->disk->ops->checksum(store->disk->backend, page) : 0;
}

static inline uint64_t store_kept_checksum(const struct larder_store *store, uint64_t handle)
{
	return store->disk->ops->kept_checksum(store->disk->backend, handle);
}

/*
 * The object of a page for a tier in RAM, by the best means there is time for; its dictionary is held until
 * dictionary_release(), put or not. `state` is zeroed or was used by this or codec_object() before; `bytes` may be
 * used.
 */
struct larder_object store_object(struct larder_store *store, LZ4_stream_t *state, const char *page,
				  char bytes[CODEC_MOST_BYTES]);

/* Is a page one word over and over? */
int store_is_same_filled(const char *page, uint64_t *word);

/*
 * Store a copy of an object in one of the tiers in RAM whose bit (1 << index) is in `tiers`; 0: nowhere. The object of
 * a page that is same-filled is not looked at. Returns 0 and its place; -E2BIG when no tier would gain by it; else the
 * error of the last tier that failed. On error nothing is stored.
 */
int store_put(struct larder_store *store, uint32_t tiers, const struct larder_object *object,
	      struct store_place *place);

/* Fetch a page; it stays stored. Returns 0, or a negative errno with `page` undefined. */
int store_get(struct larder_store *store, void *scratch, struct store_place place, void *page);

/* A page will be fetched in a moment: a hint, for which nobody waits. */
static inline void store_prefetch(const struct larder_store *store, struct store_place place)
{
	const struct store_tier *tier;

	if (place.tier == STORE_TIER_SAME)
		return;
	tier = &store->tiers[place.tier - STORE_TIER_FIRST];
	if (tier->ops->prefetch)
		tier->ops->prefetch(tier->backend, place.handle);
}

/* Forget pages. */
void store_drop(struct larder_store *store, const struct store_place *places, size_t n);

/*
 * Pages that are to be forgotten, some at a time: for each the tier's locks would be taken anew. Nothing but this names
 * them, so until then the tier counts some objects, fewer than LARDER_DROPS_MAX, of which no page is there. In a forked
 * child they are gone already. One thread's; zeroed, there are none.
 */
struct store_drops {
	struct store_place places[LARDER_DROPS_MAX];
	size_t n;
};

static inline void store_drop_all(struct larder_store *store, struct store_drops *drops)
{
	if (drops->n)
		store_drop(store, drops->places, drops->n);
	drops->n = 0;
}

static inline void store_drop_later(struct larder_store *store, struct store_drops *drops, struct store_place place)
{
	drops->places[drops->n++] = place;
	if (drops->n == LARDER_DROPS_MAX)
		store_drop_all(store, drops);
}

/*
 * Recompression rests while the reclaim thread is at work: every page that is moved out interrupts all CPUs that run
 * threads of the process. The reclaim thread.
 */
void store_at_work(struct larder_store *store, int is_at_work);
int store_is_at_work(const struct larder_store *store);

/*
 * While the process forks nothing that a page may be in goes away, though pages come back as ever: the child gets the
 * table of pages and the store as they were at moments that differ a little, and whatever its table names must be
 * there. Between freeze and thaw store_drop() only notes what is to be dropped; thaw does it. The reclaim thread, which
 * puts and compacts nothing meanwhile.
 */
void store_freeze(struct larder_store *store);
void store_thaw(struct larder_store *store);

/*
 * After a fork, in the child, before it has other threads: make the store usable. `named(arg, tier, handle)` says
 * whether a page is there; what no page is in is dropped. same_pages: how many are in STORE_TIER_SAME.
 */
void store_inherit(struct larder_store *store, int (*named)(void *arg, unsigned tier, uint64_t handle), void *arg,
		   int64_t same_pages);

/* Descriptors of the tier on disk for a child: see backend.h. */
int store_lend(struct larder_store *store, int fds[LARDER_LENT]);
void store_lent(struct larder_store *store, const int fds[LARDER_LENT]);
void store_attach(struct larder_store *store, const int fds[LARDER_LENT]);

/* The child has no tier on disk. */
void store_lose_disk(struct larder_store *store);

/* Give back space that drops have left; moves about budget_bytes of objects at most. Returns the RAM given back. */
uint64_t store_compact(struct larder_store *store, void *scratch, uint64_t budget_bytes);

/* Make what is stored smaller, for a few hundred microseconds. Returns in how many ns there is more to do; 0: not
 * before something has been put. */
uint64_t store_recompress(struct larder_store *store);

/* Look at what is stored, if that makes what is put from now on smaller: seldom, and then for some microseconds. Not
 * while the process forks. The reclaim thread. */
void store_learn(struct larder_store *store);

/* RAM that the tiers cost now: what they occupy, and their tables. */
uint64_t store_cost_bytes(const struct larder_store *store);

/* Pages that are compressed in RAM, and the bytes of it that they occupy. Any thread. */
struct larder_store_ram {
	uint64_t pages, bytes;
};
struct larder_store_ram store_in_ram(const struct larder_store *store);

void store_stats(const struct larder_store *store, struct larder_tier_stats tiers[LARDER_TIERS_MAX],
		 uint64_t *same_pages);

/*
 * The content of a page on disk, read by the calling thread through a descriptor of its own, and tried again where that
 * fails. Returns 0 or a negative errno.
 */
int store_read_now(struct larder_store *store, void *scratch, int fd, struct store_place place, void *page);

#endif
