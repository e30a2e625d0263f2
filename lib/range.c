/*
 * Page ranges. See range.h.
 */
#include "range.h"

#include "lost.h"

/* Ranges are spread over the shards by their address. */
static struct larder_shard *choose_shard(struct larder_memory *m, struct span span)
{
	return segments_shard(&m->segments, span.pool, (unsigned)((span.first * 0x9e3779b97f4a7c15u) >> 60) % SHARDS);
}

int range_add(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = choose_shard(m, span);
	int err;

	mutex_lock(&shard->lock);
	err = segment_reserve(&m->segments, shard, 1);
	if (!err)
		segment_add(&m->segments, shard, &m->region, span.first, span.pages, span.first);
	mutex_unlock(&shard->lock);
	return err;
}

/* The pages of the range that starts at `first`, whose shard is locked. */
static size_t range_pages(struct larder_memory *m, unsigned pool, const struct larder_shard *shard, size_t first)
{
	size_t at = first;

	do
		at += span_segment(m, at)->pages;
	while (at < region_used_pages(&m->region) && span_is_range_chunk(m, pool, at) && span_segment_id(m, at) &&
	       segment_shard(&m->segments, span_segment_id(m, at)) == shard && span_segment(m, at)->range == first);
	return at - first;
}

/* Lock the shard of the whole range that starts at `first`. */
static struct larder_shard *lock_range(struct larder_memory *m, struct span *range)
{
	for (;;) {
		struct larder_shard *shard = span_lock(m, *range);
		size_t pages;

		if (!shard)
			return NULL;
		if (span_segment(m, range->first)->range != range->first) {
			mutex_unlock(&shard->lock);
			return NULL;
		}
		pages = range_pages(m, range->pool, shard, range->first);
		if (pages == range->pages)
			return shard;
		mutex_unlock(&shard->lock);
		range->pages = pages;
	}
}

int64_t range_remove(struct larder_memory *m, unsigned pool, size_t first)
{
	struct span range = { .pool = pool, .first = first, .pages = 1 };
	struct larder_shard *shard = lock_range(m, &range);

	if (!shard)
		return -EFAULT;
	if (span_is_pinned(m, range)) {
		mutex_unlock(&shard->lock);
		return -EBUSY;
	}
	for (size_t at = first; at < first + range.pages;) {
		uint32_t id = span_segment_id(m, at);
		struct larder_segment *s = segment_at(&m->segments, id);

		at += s->pages;
		if (s->state == SEGMENT_VOLATILE)
			lost_account(shard, s, -1);
		if (s->lost)
			lost_untrap(m, s);
		segment_remove(&m->segments, shard, &m->region, id);
	}
	region_clear_bits(m->region.lost, first, range.pages);
	region_clear_bits(m->region.kept, first, range.pages);
	mutex_unlock(&shard->lock);
	return (int64_t)range.pages;
}

int range_check(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = span_lock(m, span);

	if (!shard)
		return -EFAULT;
	mutex_unlock(&shard->lock);
	return 0;
}

/* ---- all ranges of a pool, and of the process ---- */

static void add_stats(struct larder_volatile_stats *to, const struct larder_volatile_stats *from)
{
	to->bytes += from->bytes;
	to->lost_bytes += from->lost_bytes;
	to->marks += from->marks;
	to->hits += from->hits;
	to->losses += from->losses;
	to->refills += from->refills;
	to->purges += from->purges;
	to->purged_bytes += from->purged_bytes;
}

void ranges_stats(const struct larder_memory *m, unsigned pool, struct larder_pool_stats *to)
{
	for (unsigned n = 0; n < SHARDS; n++) {
		struct larder_shard *shard = segments_shard(&m->segments, pool, n);

		mutex_lock(&shard->lock);
		to->pinned_bytes += shard->pinned_pages * PAGE_BYTES;
		for (unsigned class = 0; class < LARDER_PRIORITIES; class ++)
			add_stats(&to->priority[class], &shard->stats[class]);
		mutex_unlock(&shard->lock);
	}
}

static void lock_idle(struct larder_shard *shard)
{
	mutex_lock(&shard->lock);
	while (shard->busy) {
		uint32_t seen = event_count(&shard->changed);

		mutex_unlock(&shard->lock);
		event_wait(&shard->changed, seen, 0);
		mutex_lock(&shard->lock);
	}
}

void ranges_publish(struct larder_memory *m)
{
	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		for (unsigned n = 0; n < SHARDS && atomic_load(&m->segments.pool_shards[pool]); n++) {
			struct larder_shard *shard = segments_shard(&m->segments, pool, n);

			mutex_lock(&shard->lock);
			shard_publish(shard);
			mutex_unlock(&shard->lock);
		}
}

static int is_of_shard(const struct larder_memory *m, uint32_t block, const struct larder_shard *shard)
{
	return atomic_load(&m->segments.block_shard[block]) == 1 + shard->id;
}

static void forget_block(struct larder_memory *m, struct larder_shard *shard, uint32_t block)
{
	for (uint32_t id = block * SEGMENT_BLOCK; id < (block + 1) * SEGMENT_BLOCK; id++) {
		const struct larder_segment *s = segment_at(&m->segments, id);

		if (s->state == SEGMENT_FREE)
			continue;
		region_clear_bits(m->region.lost, s->first, s->pages);
		region_clear_bits(m->region.kept, s->first, s->pages);
		segment_remove(&m->segments, shard, &m->region, id);
	}
}

void ranges_forget(struct larder_memory *m, unsigned pool)
{
	uint32_t blocks = atomic_load(&m->segments.blocks);

	for (unsigned n = 0; n < SHARDS; n++) {
		struct larder_shard *shard = segments_shard(&m->segments, pool, n);

		lock_idle(shard);
		for (uint32_t block = 1; block < blocks; block++)
			if (is_of_shard(m, block, shard))
				forget_block(m, shard, block);
		for (unsigned class = 0; class < LARDER_PRIORITIES; class ++)
			shard->stats[class].bytes = shard->stats[class].lost_bytes = 0;
		shard_publish(shard);
		__builtin_memset(shard->stats, 0, sizeof(shard->stats));
		__builtin_memset(shard->published, 0, sizeof(shard->published));
		mutex_unlock(&shard->lock);
	}
}

void ranges_lock_all(struct larder_memory *m)
{
	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		if (atomic_load(&m->segments.pool_shards[pool]))
			for (unsigned n = 0; n < SHARDS; n++)
				lock_idle(segments_shard(&m->segments, pool, n));
}

void ranges_unlock_all(struct larder_memory *m)
{
	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		if (atomic_load(&m->segments.pool_shards[pool]))
			for (unsigned n = 0; n < SHARDS; n++)
				mutex_unlock(&segments_shard(&m->segments, pool, n)->lock);
}
