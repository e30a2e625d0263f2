/*
 * Segments. See segment.h.
 */
#include "segment.h"

#include "stats.h"

static size_t records_bytes(void)
{
	return (size_t)SEGMENT_BLOCKS_MAX * SEGMENT_BLOCK * sizeof(struct larder_segment);
}

static size_t blocks_bytes(void)
{
	return (size_t)SEGMENT_BLOCKS_MAX * sizeof(uint32_t);
}

int segments_open(struct larder_segments *t)
{
	t->records = sys_map(records_bytes());
	t->block_shard = sys_map(blocks_bytes());
	atomic_store(&t->blocks, 1); /* segment 0 is none, so block 0 is nobody's */
	return t->records && t->block_shard ? 0 : -ENOMEM;
}

void segments_close(struct larder_segments *t)
{
	if (t->records)
		sys_munmap(t->records, records_bytes());
	if (t->block_shard)
		sys_munmap((void *)t->block_shard, blocks_bytes());
	for (unsigned pool = 0; pool < REGION_POOLS; pool++)
		if (atomic_load(&t->pool_shards[pool]))
			sys_munmap(atomic_load(&t->pool_shards[pool]), SHARDS * sizeof(struct larder_shard));
	*t = (struct larder_segments){ 0 };
}

int segments_add_pool(struct larder_segments *t, unsigned pool)
{
	struct larder_shard *shards;

	if (atomic_load(&t->pool_shards[pool]))
		return 0;
	shards = sys_map(SHARDS * sizeof(*shards));
	if (!shards)
		return -ENOMEM;
	for (unsigned n = 0; n < SHARDS; n++)
		shards[n].id = pool * SHARDS + n;
	atomic_store_explicit(&t->pool_shards[pool], shards, memory_order_release);
	return 0;
}

uint64_t segments_metadata_bytes(const struct larder_segments *t)
{
	uint64_t blocks = atomic_load_explicit(&t->blocks, memory_order_relaxed) - 1;

	return blocks * SEGMENT_BLOCK * sizeof(struct larder_segment);
}

static uint32_t take_block(struct larder_segments *t)
{
	uint32_t block = atomic_load(&t->blocks);

	while (block < SEGMENT_BLOCKS_MAX && !atomic_compare_exchange_weak(&t->blocks, &block, block + 1))
		;
	return block < SEGMENT_BLOCKS_MAX ? block : 0;
}

static void put_free(struct larder_segments *t, struct larder_shard *shard, uint32_t id)
{
	struct larder_segment *s = segment_at(t, id);

	s->state = SEGMENT_FREE;
	s->next_free = shard->free_head;
	shard->free_head = id;
	shard->free_records++;
}

static uint32_t take_free(struct larder_segments *t, struct larder_shard *shard)
{
	uint32_t id = shard->free_head;

	larder_assert(shard->free_records > 0);
	shard->free_head = segment_at(t, id)->next_free;
	shard->free_records--;
	return id;
}

int segment_reserve(struct larder_segments *t, struct larder_shard *shard, uint32_t records)
{
	uint32_t block;

	if (shard->free_records >= records)
		return 0;
	block = take_block(t);
	if (block == 0)
		return -ENOMEM;
	for (uint32_t i = SEGMENT_BLOCK; i-- > 0;)
		put_free(t, shard, block * SEGMENT_BLOCK + i);
	atomic_store_explicit(&t->block_shard[block], 1 + shard->id, memory_order_release);
	return 0;
}

static void name_pages(struct larder_region *r, size_t first, size_t pages, uint32_t id)
{
	for (size_t i = first; i < first + pages; i++)
		atomic_store_explicit(&r->segment_of[i], id, memory_order_release);
}

uint32_t segment_add(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, size_t first,
		     size_t pages, size_t range)
{
	uint32_t id = take_free(t, shard);

	*segment_at(t, id) = (struct larder_segment){
		.first = (uint32_t)first,
		.pages = (uint32_t)pages,
		.range = (uint32_t)range,
		.state = SEGMENT_PLAIN,
	};
	name_pages(r, first, pages, id);
	return id;
}

void segment_remove(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, uint32_t id)
{
	struct larder_segment *s = segment_at(t, id);

	name_pages(r, s->first, s->pages, 0);
	put_free(t, shard, id);
}

/* Give [first, first + pages) of a segment to a new one that is like it. */
static void give(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r,
		 struct larder_segment *from, size_t first, size_t pages)
{
	uint32_t id = take_free(t, shard);
	struct larder_segment *s = segment_at(t, id);

	*s = *from;
	s->first = (uint32_t)first;
	s->pages = (uint32_t)pages;
	s->lost = from->lost ? (uint32_t)region_count_bits(r->lost, first, pages) : 0;
	from->pages -= (uint32_t)pages;
	from->lost -= s->lost;
	name_pages(r, first, pages, id);
}

void segment_split(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, size_t at)
{
	struct larder_segment *s = segment_at(t, atomic_load_explicit(&r->segment_of[at], memory_order_relaxed));
	size_t left = at - s->first;

	if (left == 0)
		return;
	if (left > s->pages / 2) {
		give(t, shard, r, s, at, s->pages - left);
	} else {
		give(t, shard, r, s, s->first, left);
		s->first = (uint32_t)at;
	}
}

uint32_t segment_join(struct larder_segments *t, struct larder_shard *shard, struct larder_region *r, size_t first,
		      size_t pages)
{
	uint32_t id = atomic_load_explicit(&r->segment_of[first], memory_order_relaxed);
	struct larder_segment *s = segment_at(t, id);

	while (s->pages < pages) {
		uint32_t other = atomic_load_explicit(&r->segment_of[s->first + s->pages], memory_order_relaxed);
		struct larder_segment *o = segment_at(t, other);

		name_pages(r, o->first, o->pages, id);
		s->pages += o->pages;
		s->lost += o->lost;
		put_free(t, shard, other);
	}
	return id;
}

void segment_begin(struct larder_shard *shard, struct larder_segment *s)
{
	larder_assert(!s->busy);
	s->busy = 1;
	shard->busy++;
}

void segment_end(struct larder_shard *shard, struct larder_segment *s)
{
	s->busy = 0;
	shard->busy--;
	event_post(&shard->changed);
}

void shard_publish(struct larder_shard *shard)
{
	enum { FIELDS = sizeof(struct larder_volatile_stats) / sizeof(uint64_t) };

	for (unsigned class = 0; class < LARDER_PRIORITIES; class ++) {
		const uint64_t *now = (const uint64_t *)&shard->stats[class];
		uint64_t *before = (uint64_t *)&shard->published[class];
		uint64_t *page = (uint64_t *)&stats->volatiles[class];

		for (unsigned i = 0; i < FIELDS; i++)
			if (now[i] != before[i]) {
				__atomic_fetch_add(&page[i], now[i] - before[i], __ATOMIC_RELAXED);
				before[i] = now[i];
			}
	}
}
