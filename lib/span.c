/*
 * Spans. See span.h, and segment.h for the locks.
 */
#include "span.h"

int span_is_range_chunk(const struct larder_memory *m, unsigned pool, size_t index)
{
	const struct region_owner *owner = &m->region.chunks[index / CHUNK_PAGES].owner;

	return owner->pool == pool && owner->kind == CHUNK_RANGES;
}

/* The shard of a page range's page, or NULL. */
static struct larder_shard *shard_of(struct larder_memory *m, unsigned pool, size_t index)
{
	uint32_t id;

	if (index >= region_used_pages(&m->region) || !span_is_range_chunk(m, pool, index))
		return NULL;
	id = span_segment_id(m, index);
	return id ? segment_shard(&m->segments, id) : NULL;
}

enum span_state { SPAN_WHOLE, SPAN_BUSY, SPAN_BROKEN };

/* With the shard of its first page locked: does the span lie in one page range, and is nobody at work in it? */
static enum span_state look_at_span(struct larder_memory *m, struct span span, const struct larder_shard *shard)
{
	size_t at = span.first, end = span.first + span.pages, range = 0;

	while (at < end) {
		const struct larder_segment *s;
		uint32_t id;

		if (!span_is_range_chunk(m, span.pool, at))
			return SPAN_BROKEN;
		id = span_segment_id(m, at);
		if (!id || segment_shard(&m->segments, id) != shard)
			return SPAN_BROKEN;
		s = segment_at(&m->segments, id);
		if (at == span.first)
			range = s->range;
		if (s->range != range)
			return SPAN_BROKEN;
		if (s->busy)
			return SPAN_BUSY;
		at = s->first + s->pages;
	}
	return SPAN_WHOLE;
}

struct larder_shard *span_lock(struct larder_memory *m, struct span span)
{
	for (;;) {
		struct larder_shard *shard = shard_of(m, span.pool, span.first);
		enum span_state state;
		uint32_t seen;

		if (!shard || span.pages > region_used_pages(&m->region) - span.first)
			return NULL;
		mutex_lock(&shard->lock);
		state = look_at_span(m, span, shard);
		if (state == SPAN_WHOLE)
			return shard;
		seen = event_count(&shard->changed);
		mutex_unlock(&shard->lock);
		if (state == SPAN_BUSY)
			event_wait(&shard->changed, seen, 0);
		else if (shard == shard_of(m, span.pool, span.first))
			return NULL; /* else the page was freed and handed out again between the two looks */
	}
}

static int span_is_exact(const struct larder_memory *m, struct span span)
{
	const struct larder_segment *s = span_segment(m, span.first);

	return s->first == span.first && s->pages == span.pages;
}

int span_reserve(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	return span_is_exact(m, span) ? 0 : segment_reserve(&m->segments, shard, 2);
}

void span_split_off(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	size_t end = span.first + span.pages;
	const struct larder_segment *last;

	if (span_is_exact(m, span))
		return;
	segment_split(&m->segments, shard, &m->region, span.first);
	last = span_segment(m, end - 1);
	if (last->first + last->pages > end)
		segment_split(&m->segments, shard, &m->region, end);
}

int span_is_pinned(const struct larder_memory *m, struct span span)
{
	for_each_segment (m, span, s)
		if (s->pins)
			return 1;
	return 0;
}
