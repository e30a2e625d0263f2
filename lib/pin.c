/*
 * Pins. See pin.h.
 */
#include "pin.h"

#include "lost.h"

enum { PINS_MAX = UINT32_MAX - 1 };

static int may_pin(const struct larder_memory *m, struct span span)
{
	for_each_segment (m, span, s)
		if (s->pins >= PINS_MAX)
			return -EBUSY;
	return 0;
}

static int pin(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	int answer = LARDER_INTACT, was_volatile = 0;

	span_split_off(m, shard, span);
	for_each_segment (m, span, s) {
		if (s->pins++ == 0) {
			shard->pinned_pages += s->pages;
			if (s->state == SEGMENT_VOLATILE && s->lost && !s->refill)
				lost_untrap(m, s); /* with a callback, touches still call it */
		}
		was_volatile |= s->state == SEGMENT_VOLATILE;
		if (s->lost)
			answer = LARDER_PURGED;
	}
	region_set_bits(m->region.kept, span.first, span.pages);
	if (was_volatile)
		lost_count_answer(shard, span_segment(m, span.first), answer);
	return answer;
}

int pin_pages(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = span_lock(m, span);
	int result;

	if (!shard)
		return -EFAULT;
	result = may_pin(m, span);
	if (!result)
		result = span_reserve(m, shard, span);
	if (!result)
		result = pin(m, shard, span);
	mutex_unlock(&shard->lock);
	return result;
}

static int may_unpin(const struct larder_memory *m, struct span span)
{
	for_each_segment (m, span, s)
		if (s->pins == 0)
			return -ENOENT;
	return 0;
}

static void unpin(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	span_split_off(m, shard, span);
	for_each_segment (m, span, s) {
		if (--s->pins > 0)
			continue;
		shard->pinned_pages -= s->pages;
		if (s->state == SEGMENT_VOLATILE) {
			lost_use(m, span.pool, s);
			lost_trap(m, s);
		} else {
			region_clear_bits(m->region.kept, s->first, s->pages);
		}
	}
}

int unpin_pages(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = span_lock(m, span);
	int result;

	if (!shard)
		return -EFAULT;
	result = may_unpin(m, span);
	if (!result)
		result = span_reserve(m, shard, span);
	if (!result)
		unpin(m, shard, span);
	mutex_unlock(&shard->lock);
	return result;
}

/* ---- pins of objects: their pages have no segments, and segment_of counts the pins. Guarded by the first shard. ----
 */

static struct larder_shard *lock_objects(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = segments_shard(&m->segments, span.pool, 0);

	if (span.first >= region_used_pages(&m->region) || span.pages > region_used_pages(&m->region) - span.first)
		return NULL;
	for (size_t c = span.first / CHUNK_PAGES; c <= (span.first + span.pages - 1) / CHUNK_PAGES; c++)
		if (m->region.chunks[c].owner.pool != span.pool || m->region.chunks[c].owner.kind != CHUNK_OBJECTS)
			return NULL;
	mutex_lock(&shard->lock);
	return shard;
}

int pin_objects(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_objects(m, span);

	if (!shard)
		return -EFAULT;
	for (size_t i = span.first; i < span.first + span.pages; i++)
		if (atomic_fetch_add_explicit(&m->region.segment_of[i], 1, memory_order_relaxed) == 0)
			shard->pinned_pages++;
	region_set_bits(m->region.kept, span.first, span.pages);
	mutex_unlock(&shard->lock);
	return LARDER_INTACT;
}

static int all_pinned(const struct larder_memory *m, struct span span)
{
	for (size_t i = span.first; i < span.first + span.pages; i++)
		if (span_segment_id(m, i) == 0)
			return 0;
	return 1;
}

int unpin_objects(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_objects(m, span);
	int result = 0;

	if (!shard)
		return -EFAULT;
	if (!all_pinned(m, span))
		result = -ENOENT;
	for (size_t i = span.first; !result && i < span.first + span.pages; i++)
		if (atomic_fetch_sub_explicit(&m->region.segment_of[i], 1, memory_order_relaxed) == 1) {
			shard->pinned_pages--;
			region_clear_bits(m->region.kept, i, 1);
		}
	mutex_unlock(&shard->lock);
	return result;
}

int objects_are_pinned(struct larder_memory *m, struct span span)
{
	for (size_t i = span.first; i < span.first + span.pages; i++)
		if (span_segment_id(m, i) != 0)
			return 1;
	return 0;
}

int pool_is_pinned(struct larder_memory *m, unsigned pool)
{
	uint64_t pinned = 0;

	for (unsigned n = 0; n < SHARDS; n++) {
		struct larder_shard *shard = segments_shard(&m->segments, pool, n);

		mutex_lock(&shard->lock);
		pinned += shard->pinned_pages;
		mutex_unlock(&shard->lock);
	}
	return pinned != 0;
}
