/*
 * Volatile ranges. See volatile.h, and segment.h for the locks.
 */
#include "volatile.h"

#include "discard.h"
#include "lost.h"
#include "order.h"
#include "sys.h"

#define PUBLISH_NS 1000000000u

enum { WRITING_SPINS = 4096 };

/* Once this returns, no page of the span is on its way into a tier: see larder_memory.writing. */
static void wait_until_not_written(struct larder_memory *m, struct span span)
{
	for (unsigned spins = 0; atomic_load(&m->writing) - 1 - span.first < span.pages; spins++)
		if (spins > WRITING_SPINS)
			sys_yield();
		else
			__builtin_ia32_pause();
}

static int may_mark(const struct larder_memory *m, struct span span, uint32_t flags)
{
	for_each_segment (m, span, s) {
		if (s->pins)
			return -EBUSY;
		if (s->state == SEGMENT_VOLATILE && !(flags & LARDER_REMARK))
			return -EEXIST;
	}
	return 0;
}

static void set_options(struct larder_segment *s, const struct larder_volatile_options *o)
{
	s->class = (uint8_t)(o->priority - LARDER_PRIORITY_OBSOLETE);
	s->on_touch = (uint8_t)o->on_touch;
	s->unit_pages = (uint32_t)(o->unit_bytes / PAGE_BYTES);
	s->page_cost_ns = o->cost_ns / s->pages;
	s->refill = o->refill;
	s->cookie = o->cookie;
}

/*
 * One segment of the whole span, which lies in one range. Traps stay set if touches of lost pages are to be trapped
 * again: other threads may touch them at any moment.
 */
static struct larder_segment *unite(struct larder_memory *m, struct larder_shard *shard, struct span span,
				    enum larder_on_touch on_touch)
{
	span_split_off(m, shard, span);
	for_each_segment (m, span, s) {
		if (s->state == SEGMENT_VOLATILE)
			lost_account(shard, s, -1);
		if (s->lost && lost_is_trapped(s) && on_touch == LARDER_TOUCH_ZERO)
			lost_untrap(m, s);
	}
	return segment_at(&m->segments, segment_join(&m->segments, shard, &m->region, span.first, span.pages));
}

/* All of a segment is lost, as if it had been purged. */
static void make_empty(struct larder_memory *m, struct larder_segment *s)
{
	struct discarded dropped = { 0 };

	region_set_bits(m->region.lost, s->first, s->pages);
	s->lost = s->pages;
	discard_pages(m, s->first, s->pages, lost_is_trapped(s) ? PAGE_FRESH | PAGE_TRAP : PAGE_FRESH, &dropped);
}

static void mark(struct larder_memory *m, struct larder_shard *shard, struct span span,
		 const struct larder_volatile_options *o)
{
	struct larder_segment *s = unite(m, shard, span, (enum larder_on_touch)o->on_touch);

	set_options(s, o);
	s->state = SEGMENT_VOLATILE;
	s->marked = s->used = sys_now_ns();
	s->key = order_key(&m->pools[span.pool], s);
	if (o->flags & LARDER_EMPTY)
		make_empty(m, s);
	lost_account(shard, s, 1);
	lost_stats(shard, s)->marks++;
	if (s->marked >= shard->publish_at_ns) {
		shard->publish_at_ns = s->marked + PUBLISH_NS;
		shard_publish(shard);
	}
	region_set_bits(m->region.kept, span.first, span.pages);
	lost_trap(m, s);
}

int volatile_mark(struct larder_memory *m, struct span span, const struct larder_volatile_options *o)
{
	struct larder_shard *shard = span_lock(m, span);
	int err;

	if (!shard)
		return -EFAULT;
	err = may_mark(m, span, o->flags);
	if (!err)
		err = span_reserve(m, shard, span);
	if (!err)
		mark(m, shard, span, o);
	mutex_unlock(&shard->lock);
	if (!err) {
		wait_until_not_written(m, span);
		pressure_marked(m, span.pool);
	}
	return err;
}

static int may_end(const struct larder_memory *m, struct span span)
{
	for_each_segment (m, span, s) {
		if (s->state != SEGMENT_VOLATILE)
			return -ENOENT;
		if (s->pins)
			return -EBUSY;
	}
	return 0;
}

static int end(struct larder_memory *m, struct larder_shard *shard, struct span span, unsigned flags,
	       struct notes *notes)
{
	int answer;

	span_split_off(m, shard, span);
	answer = lost_report(m, span, notes);
	lost_count_answer(shard, span_segment(m, span.first), answer);
	for_each_segment (m, span, s) {
		lost_account(shard, s, -1);
		s->state = SEGMENT_PLAIN;
		if (s->lost == 0)
			continue;
		lost_untrap(m, s);
		if (flags & LARDER_ACKNOWLEDGE)
			lost_clear(m, shard, s, s->first, s->pages);
	}
	region_clear_bits(m->region.kept, span.first, span.pages);
	return answer;
}

int volatile_end(struct larder_memory *m, struct span span, unsigned flags, unsigned char *lost)
{
	struct larder_shard *shard = span_lock(m, span);
	struct notes notes;
	int result;

	if (!shard)
		return -EFAULT;
	result = may_end(m, span);
	if (!result)
		result = span_reserve(m, shard, span);
	if (!result)
		result = notes_open(&notes, span, lost != NULL);
	if (result) {
		mutex_unlock(&shard->lock);
		return result;
	}
	result = end(m, shard, span, flags, &notes);
	mutex_unlock(&shard->lock);
	notes_tell(&notes, span, lost);
	notes_close(&notes, span);
	return result;
}

static int is_in_use(const struct larder_memory *m, struct span span)
{
	for_each_segment (m, span, s)
		if (s->state == SEGMENT_VOLATILE && s->pins == 0)
			return 0;
	return 1;
}

int volatile_refilled(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = span_lock(m, span);
	int result = 0;

	if (!shard)
		return -EFAULT;
	if (!is_in_use(m, span))
		result = -ENOENT;
	for_each_segment (m, span, s) {
		struct span part = span_overlap(span, s);

		if (!result && s->lost)
			lost_clear(m, shard, s, part.first, part.pages);
	}
	mutex_unlock(&shard->lock);
	return result;
}

int volatile_query(struct larder_memory *m, struct span span, unsigned char *lost)
{
	struct larder_shard *shard = span_lock(m, span);
	struct notes notes;
	int result;

	if (!shard)
		return -EFAULT;
	result = notes_open(&notes, span, lost != NULL);
	if (!result)
		result = lost_report(m, span, &notes);
	mutex_unlock(&shard->lock);
	if (result >= 0) {
		notes_tell(&notes, span, lost);
		notes_close(&notes, span);
	}
	return result;
}

int volatile_used(struct larder_memory *m, unsigned pool, size_t index)
{
	struct span span = { .pool = pool, .first = index, .pages = 1 };
	struct larder_shard *shard = span_lock(m, span);
	struct larder_segment *s;
	int result = -ENOENT;

	if (!shard)
		return -EFAULT;
	s = span_segment(m, index);
	if (s->state == SEGMENT_VOLATILE) {
		lost_use(m, pool, s);
		result = 0;
	}
	mutex_unlock(&shard->lock);
	return result;
}

int volatile_discard(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = span_lock(m, span);
	struct discarded dropped = { 0 };
	int err;

	if (!shard)
		return -EFAULT;
	err = span_is_pinned(m, span) ? -EBUSY : discard_pages(m, span.first, span.pages, PAGE_FRESH, &dropped);
	if (!err)
		for_each_segment (m, span, s)
			if (s->state == SEGMENT_VOLATILE)
				lost_trap(m, s);
	mutex_unlock(&shard->lock);
	return err;
}
