/*
 * Refilling. See refill.h.
 */
#include "refill.h"

#include "lost.h"

/* The purge unit that holds page `index`. */
static struct span unit_of(unsigned pool, const struct larder_segment *s, size_t index)
{
	struct span unit = { .pool = pool, .first = s->first, .pages = s->pages };
	size_t pages = s->unit_pages, left;

	if (pages == 0)
		return unit;
	unit.first += (index - s->first) / pages * pages;
	left = s->first + s->pages - unit.first;
	unit.pages = pages < left ? pages : left;
	return unit;
}

int refill_find(struct larder_memory *m, unsigned pool, size_t index, struct refill *refill)
{
	struct span span = { .pool = pool, .first = index, .pages = 1 };
	struct larder_shard *shard = span_lock(m, span);
	const struct larder_segment *s;
	int trapped;

	if (!shard)
		return 0;
	s = span_segment(m, index);
	trapped = s->state == SEGMENT_VOLATILE && lost_is_trapped(s) && region_bit(m->region.lost, index);
	*refill = (struct refill){
		.refill = s->on_touch == LARDER_TOUCH_REFILL ? s->refill : NULL,
		.cookie = s->cookie,
		.unit = unit_of(pool, s, index),
	};
	mutex_unlock(&shard->lock);
	return trapped;
}

/* The segment that holds the unit as it was when it was asked for, or NULL. */
static struct larder_segment *same_unit(struct larder_memory *m, const struct refill *refill)
{
	struct larder_segment *s = span_segment(m, refill->unit.first);
	struct span unit = unit_of(refill->unit.pool, s, refill->unit.first);

	if (s->state != SEGMENT_VOLATILE || s->refill != refill->refill || s->cookie != refill->cookie)
		return NULL;
	return unit.first == refill->unit.first && unit.pages == refill->unit.pages ? s : NULL;
}

/* Which of up to 32 pages are trapped, one bit each. */
static uint32_t trapped_pages(const struct larder_memory *m, size_t first, size_t pages)
{
	uint32_t trapped = 0;

	for (size_t i = 0; i < pages; i++)
		if (page_load(&m->region.pages[first + i]) & PAGE_TRAP)
			trapped |= (uint32_t)1 << i;
	return trapped;
}

/* Put content into the trapped pages of a unit, whose segment is busy. Those that got it are not lost any more. */
static void install(struct larder_memory *m, struct larder_restorer *w, struct larder_shard *shard,
		    struct larder_segment *s, struct span unit, const char *content)
{
	for (size_t i = 0; i < unit.pages; i += RESTORE_MAX_PAGES) {
		size_t first = unit.first + i, left = unit.pages - i;
		size_t pages = left < RESTORE_MAX_PAGES ? left : RESTORE_MAX_PAGES;
		uint32_t installed = trapped_pages(m, first, pages);

		restore_install(m, w, first, pages, content + i * PAGE_BYTES);
		installed &= ~trapped_pages(m, first, pages);
		mutex_lock(&shard->lock);
		for (size_t n = 0; n < pages; n++)
			if (installed >> n & 1)
				lost_clear(m, shard, s, first + n, 1);
		mutex_unlock(&shard->lock);
	}
}

void refill_install(struct larder_memory *m, struct larder_restorer *w, const struct refill *refill,
		    const char *content)
{
	struct larder_shard *shard = span_lock(m, refill->unit);
	struct larder_segment *s;

	if (!shard)
		return;
	s = same_unit(m, refill);
	if (!s || region_count_bits(m->region.lost, refill->unit.first, refill->unit.pages) == 0) {
		mutex_unlock(&shard->lock); /* another thread was first */
		return;
	}
	segment_begin(shard, s);
	mutex_unlock(&shard->lock);
	install(m, w, shard, s, refill->unit, content);
	mutex_lock(&shard->lock);
	lost_stats(shard, s)->refills++;
	segment_end(shard, s);
	mutex_unlock(&shard->lock);
}

/* The callback could not make everything again: what is lost of a pinned span reads as zeroes, as without a callback.
 */
int refill_give_up(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = span_lock(m, span);
	struct notes notes = { .words = NULL };
	int answer;

	if (!shard)
		return -EFAULT;
	answer = lost_report(m, span, &notes);
	for_each_segment (m, span, s)
		if (s->lost && s->pins)
			lost_untrap(m, s);
	mutex_unlock(&shard->lock);
	return answer;
}
