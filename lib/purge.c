/*
 * Purge. See purge.h.
 *
 * Marking a range must cost next to nothing, so nothing is kept sorted: a purge looks at all records of the pool and
 * keeps the best few thousand (choice.h). One look serves for many ranges. What was found is looked at again, under
 * its lock, when its turn comes.
 *
 * A range is purged run by run. First, under the shard's lock, the pages of the run become LOST and the segment busy;
 * then they are dropped without the lock; then the segment is free to be used again.
 */
#include "purge.h"

#include "discard.h"
#include "evict.h"
#include "stats.h"
#include "sys.h"

/* ---- choosing ---- */

static int is_purgeable(const struct larder_segment *s)
{
	return s->state == SEGMENT_VOLATILE && !s->busy && s->pins == 0 && s->lost < s->pages;
}

static void look_at_block(struct larder_memory *m, struct larder_choice *choice, uint32_t block,
			  struct larder_shard *shard, unsigned from, unsigned upto)
{
	pressure_lock(m, &shard->lock);
	for (uint32_t id = block * SEGMENT_BLOCK; id < (block + 1) * SEGMENT_BLOCK; id++) {
		const struct larder_segment *s = segment_at(&m->segments, id);

		if (is_purgeable(s) && s->class >= from && s->class <= upto)
			choice_show(choice, &(struct larder_candidate){
						    .rank = s->class, .key = s->key, .age = s->used, .what = id });
	}
	mutex_unlock(&shard->lock);
}

/* Visit the blocks of a pool. */
#define for_each_block(m, pool, block, shard)                                                                          \
	for (uint32_t block = 1, end_ = atomic_load(&(m)->segments.blocks); block < end_; block++)                     \
		for (struct larder_shard *shard = block_shard(m, pool, block); shard; shard = NULL)

static struct larder_shard *block_shard(const struct larder_memory *m, unsigned pool, uint32_t block)
{
	uint32_t owner = atomic_load_explicit(&m->segments.block_shard[block], memory_order_acquire);

	if (owner == 0 || (owner - 1) / SHARDS != pool)
		return NULL;
	return segments_shard(&m->segments, pool, (owner - 1) % SHARDS);
}

static void choose(struct larder_memory *m, struct larder_choice *choice, unsigned pool, unsigned from, unsigned upto)
{
	choice_begin(choice, CHOICE_MAX);
	for_each_block (m, pool, block, shard)
		look_at_block(m, choice, block, shard, from, upto);
	choice_end(choice);
}

/* ---- purging one segment ---- */

/* Does a purge of the page give anything back? Its chunk is watched. */
static int has_content(const struct larder_memory *m, size_t index)
{
	return page_state(page_load(&m->region.pages[index])) != PAGE_FRESH;
}

/* Is there something to take in the unit of `pages` pages? A unit of one page that was never touched has nothing to
 * lose. */
static int unit_is_whole(const struct larder_memory *m, size_t first, size_t pages)
{
	if (region_count_bits(m->region.lost, first, pages) == pages)
		return 0;
	return pages > 1 || has_content(m, first);
}

struct run {
	size_t first, pages;
};

/* The next units of the segment, in a row, of `want` pages or a little more. Nothing is found at the end: pages = 0. */
static struct run next_run(const struct larder_memory *m, const struct larder_segment *s, size_t from, size_t want)
{
	size_t unit = s->unit_pages ? s->unit_pages : s->pages, end = (size_t)s->first + s->pages;
	struct run run = { .first = from };

	while (run.first < end) {
		size_t pages = unit < end - run.first ? unit : end - run.first;

		if (unit_is_whole(m, run.first, pages))
			break;
		run.first += pages;
	}
	while (run.pages < want && run.first + run.pages < end) {
		size_t at = run.first + run.pages, pages = unit < end - at ? unit : end - at;

		if (!unit_is_whole(m, at, pages))
			break;
		run.pages += pages;
	}
	return run;
}

static int watch_span(struct larder_memory *m, size_t first, size_t pages)
{
	for (size_t c = first / CHUNK_PAGES; c <= (first + pages - 1) / CHUNK_PAGES; c++) {
		const struct larder_chunk *chunk = &m->region.chunks[c];
		int err = 0;

		if (!chunk_is_watched(chunk))
			err = evict_watch(m, c);
		if (err)
			return err;
	}
	return 0;
}

/* RAM that dropping pages gave back; a compressed page counts as the average one. */
static uint64_t freed_bytes(const struct larder_memory *m, const struct discarded *dropped)
{
	uint64_t bytes = dropped->ram * PAGE_BYTES;

	if (dropped->stored)
		bytes += dropped->stored *
			 (store_cost_bytes(&m->store) /
			  ((uint64_t)region_counted(&m->region, LARDER_PAGES_STORED) + dropped->stored));
	return bytes;
}

static void tell(struct larder_memory *m, unsigned pool, const struct larder_segment *s, struct run run,
		 enum larder_purge_reason reason)
{
	const struct larder_purge_event event = {
		.addr = region_address(&m->region, run.first),
		.bytes = run.pages * PAGE_BYTES,
		.time_ns = sys_now_ns(),
		.priority = (int32_t)s->class + LARDER_PRIORITY_OBSOLETE,
		.reason = (uint32_t)reason,
	};

	events_push(&m->pools[pool].events, &event);
}

/* Set the run's pages lost. Shard locked. */
static void lose(struct larder_memory *m, struct larder_shard *shard, struct larder_segment *s, struct run run)
{
	size_t newly = run.pages - region_count_bits(m->region.lost, run.first, run.pages);
	size_t unit = s->unit_pages ? s->unit_pages : s->pages;
	struct larder_volatile_stats *stats = &shard->stats[s->class];

	region_set_bits(m->region.lost, run.first, run.pages);
	s->lost += (uint32_t)newly;
	stats->lost_bytes += newly * PAGE_BYTES;
	stats->purges += (run.pages + unit - 1) / unit;
	stats->purged_bytes += newly * PAGE_BYTES;
}

/* Drop a run whose segment is busy. */
static uint64_t drop(struct larder_memory *m, const struct larder_segment *s, struct run run)
{
	uint64_t to = s->on_touch == LARDER_TOUCH_ZERO ? PAGE_FRESH : PAGE_FRESH | PAGE_TRAP;
	struct discarded dropped = { 0 };

	discard_pages(m, run.first, run.pages, to, &dropped);
	return freed_bytes(m, &dropped);
}

/* Purge a candidate until `bytes` are given back. Returns how many are. */
static uint64_t purge_segment(struct larder_memory *m, const struct larder_candidate *c, uint64_t bytes,
			      enum larder_purge_reason reason)
{
	struct larder_shard *shard = segment_shard(&m->segments, (uint32_t)c->what);
	struct larder_segment *s = segment_at(&m->segments, (uint32_t)c->what);
	size_t from = 0;
	uint64_t freed = 0;

	pressure_lock(m, &shard->lock);
	if (is_purgeable(s) && watch_span(m, s->first, s->pages))
		goto out; /* it cannot be watched: reclaim.c reports that */
	while (freed < bytes && is_purgeable(s) && s->class == c->rank && s->key == c->key) {
		struct run run =
			next_run(m, s, from > s->first ? from : s->first, (bytes - freed - 1) / PAGE_BYTES + 1);

		if (run.pages == 0)
			break;
		lose(m, shard, s, run);
		segment_begin(shard, s);
		mutex_unlock(&shard->lock);
		freed += drop(m, s, run);
		pressure_lock(m, &shard->lock);
		if (events_are_wanted(&m->pools[shard_pool(shard)].events))
			tell(m, shard_pool(shard), s, run, reason);
		from = run.first + run.pages;
		segment_end(shard, s);
		atomic_store_explicit(&m->pools[shard_pool(shard)].inflation, c->key, memory_order_relaxed);
	}
	shard_publish(shard);
out:
	mutex_unlock(&shard->lock);
	return freed;
}

/* ---- pools ---- */

/* Lost pages that were touched again are worth nothing: they go first. */
static uint64_t purge_retouched(struct larder_memory *m, unsigned pool)
{
	struct discarded dropped = { 0 };

	if (atomic_exchange(&m->pools[pool].retouched, 0) == 0)
		return 0;
	for_each_block (m, pool, block, shard) {
		pressure_lock(m, &shard->lock);
		for (uint32_t id = block * SEGMENT_BLOCK; id < (block + 1) * SEGMENT_BLOCK; id++) {
			const struct larder_segment *s = segment_at(&m->segments, id);

			if (s->state != SEGMENT_VOLATILE || s->busy || s->pins || !s->lost ||
			    s->on_touch != LARDER_TOUCH_ZERO)
				continue;
			for (size_t i = s->first; i < (size_t)s->first + s->pages; i++)
				if (region_bit(m->region.lost, i) && has_content(m, i))
					discard_pages(m, i, 1, PAGE_FRESH, &dropped);
		}
		mutex_unlock(&shard->lock);
	}
	return freed_bytes(m, &dropped);
}

static uint64_t purge_pool(struct larder_memory *m, struct larder_choice *choice, unsigned pool, unsigned from,
			   unsigned upto, uint64_t bytes, enum larder_purge_reason reason)
{
	uint64_t freed = purge_retouched(m, pool), before;

	do {
		before = freed;
		choose(m, choice, pool, from, upto);
		for (uint32_t i = 0; i < choice->count && freed < bytes; i++)
			freed += purge_segment(m, &choice->kept[i], bytes - freed, reason);
	} while (choice->more && freed < bytes && freed > before);
	return freed;
}

static int is_live(const struct larder_memory *m, unsigned pool)
{
	return atomic_load_explicit(&m->pools[pool].state, memory_order_acquire) == POOL_LIVE;
}

static uint64_t class_bytes(const struct larder_memory *m, unsigned pool, unsigned class)
{
	uint64_t bytes = 0;

	for (unsigned n = 0; n < SHARDS; n++) {
		const struct larder_volatile_stats *s = &segments_shard(&m->segments, pool, n)->stats[class];
		uint64_t all = __atomic_load_n(&s->bytes, __ATOMIC_RELAXED),
			 lost = __atomic_load_n(&s->lost_bytes, __ATOMIC_RELAXED);

		bytes += all > lost ? all - lost : 0;
	}
	return bytes;
}

uint64_t purge_available(const struct larder_memory *m, unsigned pool, unsigned upto)
{
	uint64_t bytes = 0;

	for (unsigned i = pool ? pool : 1; i < (pool ? pool + 1 : REGION_POOLS); i++)
		if (is_live(m, i))
			for (unsigned class = 0; class <= upto; class ++)
				bytes += class_bytes(m, i, class);
	return bytes;
}

static uint64_t pages_of(uint64_t bytes)
{
	return bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0);
}

/* What a pool that has `has` of `total` bytes is to give of `bytes`: its share, rounded up to pages. Below 2^44 bytes.
 */
static uint64_t share(uint64_t bytes, uint64_t has, uint64_t total)
{
	if (bytes >= total)
		return UINT64_MAX;
	return (pages_of(bytes) * pages_of(has) + pages_of(total) - 1) / pages_of(total) * PAGE_BYTES;
}

/* One class of all pools, from each in proportion to what it has. */
static uint64_t purge_class(struct larder_memory *m, struct larder_choice *choice, unsigned class, uint64_t bytes,
			    enum larder_purge_reason reason)
{
	uint64_t total = 0, freed = 0;

	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		if (is_live(m, pool))
			total += class_bytes(m, pool, class);
	for (unsigned pool = 1; pool < REGION_POOLS && freed < bytes && total > 0; pool++) {
		uint64_t has = is_live(m, pool) ? class_bytes(m, pool, class) : 0;

		if (has)
			freed += purge_pool(m, choice, pool, class, class, share(bytes, has, total), reason);
	}
	return freed;
}

uint64_t purge(struct larder_memory *m, struct larder_choice *choice, unsigned pool, unsigned upto, uint64_t bytes,
	       enum larder_purge_reason reason)
{
	uint64_t freed = 0;

	if (pool != REGION_HEAP)
		return is_live(m, pool) ? purge_pool(m, choice, pool, 0, upto, bytes, reason) : 0;
	for (unsigned class = 0; class <= upto && freed < bytes; class ++)
		freed += purge_class(m, choice, class, bytes - freed, reason);
	return freed;
}
