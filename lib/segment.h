/*
 * Segments: what is known of page ranges, and who may change it.
 *
 * A page range (larder_pages_alloc) is cut into segments: neighbouring pages that were marked and pinned alike. A new
 * range is one segment. Marking or pinning a part of a segment splits it; marking over several makes them one. So a
 * range that is always marked with the same bounds is one record, whatever its size, and marking it changes that record
 * alone.
 *
 * region.segment_of[page] is the number of the page's segment, 0 = none. Splitting rewrites it for the smaller part.
 *
 * Locking. A pool has SHARDS shards; the segments of one range all belong to one shard, whose lock guards them, their
 * entries in segment_of, their pages' KEPT and LOST bits, and the shard's statistics. The number of a segment tells its
 * shard for ever (records come in blocks, each of one shard), so a page's shard is found without a lock, and what was
 * found is looked at again under it.
 *
 * A segment is *busy* while its owner - the reclaim thread that purges it, or a program thread that installs what a
 * refill callback made - works on its pages without the lock. Others wait for `changed`. An owner of a busy segment may
 * wait for pages (page.h); an owner of a page never waits for a segment.
 *
 * Lock order: shard, then chunk. The reclaim thread takes no shard lock while it holds a chunk's. A fork takes all
 * shard locks after reclaim is frozen.
 */
#ifndef LARDER_SEGMENT_H
#define LARDER_SEGMENT_H

#include "futex.h"
#include "region.h"

#include <larder/larder.h>

enum { SHARDS = 16, SEGMENT_BLOCK = 64, SEGMENT_BLOCKS_MAX = 1 << 20 };

enum segment_state { SEGMENT_FREE, SEGMENT_PLAIN, SEGMENT_VOLATILE };

struct larder_segment {
	uint32_t first, pages; /* page indexes */
	uint32_t range;	       /* where its page range starts; the same for all of a range's segments */
	uint32_t lost;	       /* pages of it that are lost */
	uint32_t pins;
	uint32_t unit_pages; /* 0 = the whole segment */
	uint32_t next_free;
	uint8_t state;
	uint8_t busy;
	uint8_t class;	       /* priority + 1 */
	uint8_t on_touch;      /* enum larder_on_touch */
	uint64_t marked;       /* when, in ns */
	uint64_t used;	       /* last use, in ns */
	uint64_t key;	       /* its place in the order: smaller goes first */
	uint64_t page_cost_ns; /* cost_ns / pages when it was marked */
	larder_refill_fn *refill;
	void *cookie;
};

struct larder_shard {
	struct larder_mutex lock;
	struct larder_event changed; /* posted when a segment stops being busy */
	uint32_t id;		     /* pool * SHARDS + number of the shard; constant */
	uint32_t free_head, free_records;
	uint32_t busy; /* segments that are */
	uint64_t pinned_pages;
	struct larder_volatile_stats stats[LARDER_PRIORITIES];	   /* [class] */
	struct larder_volatile_stats published[LARDER_PRIORITIES]; /* what the statistics page has of them */
	uint64_t publish_at_ns;
} __attribute__((aligned(64)));

/* All segments of the process, in blocks. */
struct larder_segments {
	struct larder_segment *records;
	_Atomic uint32_t *block_shard;				/* [block]: 1 + the shard's id, once handed out */
	_Atomic uint32_t blocks;				/* handed out */
	struct larder_shard *_Atomic pool_shards[REGION_POOLS]; /* SHARDS each; NULL until the first such pool */
};

/* Returns 0 or -ENOMEM. */
int segments_open(struct larder_segments *t);
void segments_close(struct larder_segments *t);

/* Make the shards of a pool, if there are none. Returns 0 or -ENOMEM. Callers take turns. */
int segments_add_pool(struct larder_segments *t, unsigned pool);

/* RAM that records and the flat tables take, roughly. */
uint64_t segments_metadata_bytes(const struct larder_segments *t);

static inline struct larder_segment *segment_at(const struct larder_segments *t, uint32_t id)
{
	return &t->records[id];
}

static inline struct larder_shard *segments_shard(const struct larder_segments *t, unsigned pool, unsigned n)
{
	return atomic_load_explicit(&t->pool_shards[pool], memory_order_acquire) + n;
}

/* The shard of segment `id`, which may be free by now. */
static inline struct larder_shard *segment_shard(const struct larder_segments *t, uint32_t id)
{
	uint32_t shard = atomic_load_explicit(&t->block_shard[id / SEGMENT_BLOCK], memory_order_acquire) - 1;

	return segments_shard(t, shard / SHARDS, shard % SHARDS);
}

static inline unsigned shard_pool(const struct larder_shard *shard)
{
	return shard->id / SHARDS;
}

/* Make sure that `records` segments can be made without failing. Shard locked. Returns 0 or -ENOMEM. */
int segment_reserve(struct larder_segments *t, struct larder_shard *shard, uint32_t records);

/* Make a segment of the reserved records; it is PLAIN, and its pages name it. Shard locked. */
uint32_t segment_add(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, size_t first,
		     size_t pages, size_t range);

/* The segment's pages belong to none any more; the record is free. Shard locked. */
void segment_remove(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, uint32_t id);

/* Make page `at` the first of a segment; takes a reserved record. Shard locked. */
void segment_split(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, size_t at);

/* Make the segments of [first, first + pages), which start and end there, one. Returns its number. The first one's
 * properties count. Shard locked. */
uint32_t segment_join(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, size_t first,
		      size_t pages);

/* Add what the shard has counted to the statistics page. Shard locked. */
void shard_publish(struct larder_shard *shard);

/* Begin and end being busy. Shard locked. */
void segment_begin(struct larder_shard *shard, struct larder_segment *s);
void segment_end(struct larder_shard *shard, struct larder_segment *s);

#endif
