/*
 * Larder: each object is a page range of a pool with the limit, volatile while it is not in use.
 *
 * volatile_lru, volatile_cost: a pool without tiers. An object is pinned for its use, which says whether it has been
 * purged since; the cache itself has no list and evicts nothing.
 *
 * volatile_lz4: a pool that may compress. Volatile objects are never compressed, they are purged first. So objects
 * stay plain, and are compressed when cold, until compressed objects take what --resident leaves of the limit; from
 * then on the least recently used are marked volatile. It is zram's job done by Larder.
 *
 * What Larder takes for itself - tables, records of the ranges - is measured before, and taken off the pool's limit.
 */
#include "cache.h"
#include "lru.h"

#include <larder/larder.h>

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Volatile memory kept on offer for Larder to purge, as a share of the limit: what a cycle of reclaim may ask for. */
enum { OFFER_DIVISOR = 32 };

enum state { KEPT = 1, OFFERED };

static struct {
	const struct cache_setup *setup;
	larder_pool *pool;
	void **ranges; /* [id]: NULL = never used */

	/* volatile_lz4 only */
	unsigned char *state; /* [id] */
	struct lru kept;
} cache;

static int64_t check(int64_t result, const char *call)
{
	if (result < 0)
		errx(2, "%s: %s", call, strerror((int)-result));
	return result;
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	return p;
}

static void *new_range(void)
{
	void *range;

	check(larder_pages_alloc(cache.pool, cache.setup->object_bytes, &range), "larder_pages_alloc");
	return range;
}

static void mark(uint32_t id, uint32_t flags)
{
	struct larder_volatile_options o = { .cost_ns = object_cost_ns(cache.setup, id), .flags = flags };

	check(larder_volatile(cache.pool, cache.ranges[id], cache.setup->object_bytes, &o), "larder_volatile");
}

static uint64_t metadata_bytes(void)
{
	struct larder_stats s;

	check(larder_get_stats(&s), "larder_get_stats");
	return s.metadata_bytes;
}

/* What Larder takes for a pool of all these ranges: make one, look, and destroy it. */
static uint64_t measure_metadata(const struct cache_setup *s)
{
	uint64_t bytes;
	struct larder_pool_options o = {
		.fault_mode = s->inline_faults ? LARDER_FAULT_INLINE : LARDER_FAULT_HANDLERS,
	};

	check(larder_pool_create(&cache.pool, &o), "larder_pool_create");
	for (uint32_t id = 0; id < s->objects; id++) {
		cache.ranges[id] = new_range();
		mark(id, 0);
	}
	bytes = metadata_bytes();
	check(larder_pool_destroy(cache.pool), "larder_pool_destroy");
	memset(cache.ranges, 0, s->objects * sizeof(*cache.ranges));
	return bytes;
}

static void open_pool(const struct cache_setup *s, uint32_t tiers, uint32_t order)
{
	struct larder_pool_options o = {
		.limit_bytes = s->limit_bytes,
		.tiers = tiers,
		.order = order,
		.fault_mode = s->inline_faults ? LARDER_FAULT_INLINE : LARDER_FAULT_HANDLERS,
	};
	uint64_t metadata;

	cache.setup = s;
	cache.ranges = map(s->objects * sizeof(*cache.ranges));
	/* The others know their limit only; what the rest of the machine does is no part of the comparison. */
	check(larder_start(&(struct larder_options){ .flags = LARDER_IGNORE_SYSTEM }), "larder_start");
	metadata = measure_metadata(s);
	if (metadata + s->object_bytes > s->limit_bytes)
		errx(2, "the limit is too small for the library's own tables");
	o.limit_bytes -= metadata;
	check(larder_pool_create(&cache.pool, &o), "larder_pool_create");
}

static int pin(uint32_t id)
{
	return (int)check(larder_pin(cache.pool, cache.ranges[id], cache.setup->object_bytes), "larder_pin");
}

static void refilled(uint32_t id)
{
	check(larder_refilled(cache.pool, cache.ranges[id], cache.setup->object_bytes), "larder_refilled");
}

static void unpin(uint32_t id)
{
	check(larder_unpin(cache.pool, cache.ranges[id], cache.setup->object_bytes), "larder_unpin");
}

/* ---- without tiers ---- */

static void open_lru(const struct cache_setup *s)
{
	open_pool(s, LARDER_TIERS_NONE, LARDER_ORDER_LRU);
}

static void open_cost(const struct cache_setup *s)
{
	open_pool(s, LARDER_TIERS_NONE, LARDER_ORDER_COST);
}

static void *get(uint32_t id, int *hit)
{
	if (!cache.ranges[id]) {
		cache.ranges[id] = new_range();
		mark(id, LARDER_EMPTY);
	}
	*hit = pin(id) == LARDER_INTACT;
	return cache.ranges[id];
}

static void put(uint32_t id, int was_hit)
{
	if (!was_hit)
		refilled(id);
	unpin(id);
}

/* ---- with the lz4 tier ---- */

static void open_lz4(const struct cache_setup *s)
{
	cache.state = map(s->objects);
	lru_open(&cache.kept, s->objects);
	open_pool(s, LARDER_TIER_LZ4, LARDER_ORDER_LRU);
}

/* Returns 1 when the content of an offered object is still there. */
static int withdraw_offer(uint32_t id)
{
	int answer = larder_nonvolatile(cache.pool, cache.ranges[id], cache.setup->object_bytes, 0, NULL);

	return check(answer, "larder_nonvolatile") == LARDER_INTACT;
}

static void *get_lz4(uint32_t id, int *hit)
{
	*hit = cache.state[id] == KEPT;
	if (!cache.ranges[id])
		cache.ranges[id] = new_range();
	else if (cache.state[id] == OFFERED)
		*hit = withdraw_offer(id);
	if (cache.state[id] == KEPT)
		lru_use(&cache.kept, id);
	else
		lru_add(&cache.kept, id);
	cache.state[id] = KEPT;
	pin(id);
	return cache.ranges[id];
}

static void offer_oldest(void)
{
	uint32_t id = cache.kept.oldest;

	lru_remove(&cache.kept, id);
	cache.state[id] = OFFERED;
	mark(id, 0);
}

static uint64_t pages_bytes(const struct larder_pool_stats *s, enum larder_page_kind kind)
{
	return s->pages[kind] * CACHE_PAGE_BYTES;
}

static uint64_t compressed_of(const struct larder_pool_stats *s)
{
	uint64_t plain = pages_bytes(s, LARDER_PAGES_UNTRACKED) + pages_bytes(s, LARDER_PAGES_RESIDENT) +
			 pages_bytes(s, LARDER_PAGES_STAGED);

	return s->usage_bytes > plain ? s->usage_bytes - plain : 0;
}

static void tick_lz4(void)
{
	const struct cache_setup *setup = cache.setup;
	const uint64_t most = setup->limit_bytes / 100 * (100 - setup->resident_percent);
	const struct larder_volatile_stats *v;
	struct larder_pool_stats s;
	uint64_t offered;

	check(larder_pool_get_stats(cache.pool, &s), "larder_pool_get_stats");
	if (compressed_of(&s) <= most)
		return;
	v = &s.priority[LARDER_PRIORITY_MIN - LARDER_PRIORITY_OBSOLETE];
	offered = v->bytes - v->lost_bytes;
	for (; offered < setup->limit_bytes / OFFER_DIVISOR && cache.kept.count > 1; offered += setup->object_bytes)
		offer_oldest();
}

static uint64_t compressed_bytes(void)
{
	struct larder_pool_stats s;

	check(larder_pool_get_stats(cache.pool, &s), "larder_pool_get_stats");
	return compressed_of(&s);
}

const struct cache_contender cache_volatile_lru = {
	.name = "volatile_lru",
	.what = "a pool without tiers; objects volatile when not in use, the least recently used go",
	.open = open_lru,
	.get = get,
	.put = put,
};

const struct cache_contender cache_volatile_cost = {
	.name = "volatile_cost",
	.what = "the same, those that are cheap to make again go sooner",
	.open = open_cost,
	.get = get,
	.put = put,
};

const struct cache_contender cache_volatile_lz4 = {
	.name = "volatile_lz4",
	.what = "a pool with the lz4 tier; cold objects are compressed, the coldest volatile",
	.open = open_lz4,
	.get = get_lz4,
	.put = put,
	.tick = tick_lz4,
	.compressed_bytes = compressed_bytes,
	.compressed_in_process = 1,
};
