/*
 * Spans: parts of page ranges, found and locked. Whoever changes segments goes through here.
 */
#ifndef LARDER_SPAN_H
#define LARDER_SPAN_H

#include "memory.h"

/* A page range, or a part of one: the pool's pages [first, first + pages). */
struct span {
	unsigned pool;
	size_t first, pages;
};

static inline uint32_t span_segment_id(const struct larder_memory *m, size_t index)
{
	return atomic_load_explicit(&m->region.segment_of[index], memory_order_acquire);
}

static inline struct larder_segment *span_segment(const struct larder_memory *m, size_t index)
{
	return segment_at(&m->segments, span_segment_id(m, index));
}

/* The segment behind `s` that the locked span reaches into, or NULL. */
static inline struct larder_segment *span_next(const struct larder_memory *m, struct span span,
					       const struct larder_segment *s)
{
	size_t next = (size_t)s->first + s->pages;

	return next < span.first + span.pages ? span_segment(m, next) : NULL;
}

/* The segments of a locked span, one after the other. The first and the last may reach beyond it. */
#define for_each_segment(m, span, s)                                                                                   \
	for (struct larder_segment *s = span_segment(m, (span).first); s; s = span_next(m, span, s))

/* The part of a segment that lies in the span. */
static inline struct span span_overlap(struct span span, const struct larder_segment *s)
{
	size_t from = s->first > span.first ? s->first : span.first;
	size_t end = (size_t)s->first + s->pages, span_end = span.first + span.pages;

	return (struct span){ span.pool, from, (end < span_end ? end : span_end) - from };
}

int span_is_range_chunk(const struct larder_memory *m, unsigned pool, size_t index);

/* Lock the span's shard and wait until nobody is at work in the span. Returns NULL when it is not in one page range.
 * Not on the reclaim thread. */
struct larder_shard *span_lock(struct larder_memory *m, struct span span);

/* Of a locked span: the records that splitting it off takes, so that it cannot fail. Returns 0 or -ENOMEM. */
int span_reserve(struct larder_memory *m, struct larder_shard *shard, struct span span);

/* Make a locked span start and end with a segment. */
void span_split_off(struct larder_memory *m, struct larder_shard *shard, struct span span);

/* Is some page of a locked span pinned? */
int span_is_pinned(const struct larder_memory *m, struct span span);

#endif
