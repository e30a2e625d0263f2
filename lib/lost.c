/*
 * Lost pages. See lost.h.
 */
#include "lost.h"

#include "discard.h"
#include "order.h"
#include "sys.h"

struct larder_volatile_stats *lost_stats(struct larder_shard *shard, const struct larder_segment *s)
{
	return &shard->stats[s->class];
}

void lost_account(struct larder_shard *shard, const struct larder_segment *s, int sign)
{
	lost_stats(shard, s)->bytes += (uint64_t)((int64_t)s->pages * PAGE_BYTES * sign);
	lost_stats(shard, s)->lost_bytes += (uint64_t)((int64_t)s->lost * PAGE_BYTES * sign);
}

void lost_clear(struct larder_memory *m, struct larder_shard *shard, struct larder_segment *s, size_t first,
		size_t pages)
{
	size_t cleared = region_count_bits(m->region.lost, first, pages);

	if (cleared == 0)
		return;
	region_clear_bits(m->region.lost, first, pages);
	s->lost -= (uint32_t)cleared;
	if (s->state == SEGMENT_VOLATILE)
		lost_stats(shard, s)->lost_bytes -= cleared * PAGE_BYTES;
}

static size_t notes_words(struct span span)
{
	return (span.first + span.pages - 1) / 64 - span.first / 64 + 1;
}

int notes_open(struct notes *notes, struct span span, int wanted)
{
	notes->words = NULL;
	if (wanted)
		notes->words = notes_words(span) <= NOTES_FEW_WORDS ? notes->few : sys_map(notes_words(span) * 8);
	return wanted && !notes->words ? -ENOMEM : 0;
}

static void notes_take(struct notes *notes, const struct larder_memory *m, struct span span)
{
	for (size_t i = 0; notes->words && i < notes_words(span); i++)
		notes->words[i] = atomic_load(&m->region.lost[span.first / 64 + i]);
}

void notes_close(struct notes *notes, struct span span)
{
	if (notes->words && notes->words != notes->few)
		sys_munmap(notes->words, notes_words(span) * 8);
}

void notes_tell(const struct notes *notes, struct span span, unsigned char *lost)
{
	for (size_t i = 0; notes->words && i < span.pages; i++) {
		size_t bit = span.first % 64 + i;

		lost[i] = notes->words[bit / 64] >> bit % 64 & 1;
	}
}

int lost_report(const struct larder_memory *m, struct span span, struct notes *notes)
{
	int result = LARDER_INTACT;

	for_each_segment (m, span, s) {
		struct span part = span_overlap(span, s);

		if (s->lost && region_count_bits(m->region.lost, part.first, part.pages))
			result = LARDER_PURGED;
	}
	notes_take(notes, m, span);
	return result;
}

void lost_untrap(struct larder_memory *m, const struct larder_segment *s)
{
	struct discarded dropped = { 0 };

	for (size_t i = s->first; i < (size_t)s->first + s->pages; i++) {
		struct larder_page *page = &m->region.pages[i];
		uint64_t word = page_load(page);

		if (!region_bit(m->region.lost, i))
			continue;
		while (page_is_busy(word) ||
		       (word == (PAGE_FRESH | PAGE_TRAP) && !page_change(page, &word, PAGE_FRESH))) {
			sys_yield();
			word = page_load(page);
		}
		if (word & PAGE_TRAP && page_state(word) == PAGE_POISONED)
			discard_pages(m, i, 1, PAGE_FRESH, &dropped);
	}
}

int lost_is_trapped(const struct larder_segment *s)
{
	return s->on_touch != LARDER_TOUCH_ZERO;
}

void lost_trap(struct larder_memory *m, const struct larder_segment *s)
{
	struct discarded dropped = { 0 };

	if (s->lost == 0 || !lost_is_trapped(s) || atomic_load_explicit(&m->region.detached, memory_order_relaxed))
		return;
	for (size_t i = s->first; i < (size_t)s->first + s->pages; i++)
		if (region_bit(m->region.lost, i) && !(page_load(&m->region.pages[i]) & PAGE_TRAP))
			discard_pages(m, i, 1, PAGE_FRESH | PAGE_TRAP, &dropped);
}

void lost_count_answer(struct larder_shard *shard, const struct larder_segment *s, int answer)
{
	if (answer == LARDER_INTACT)
		lost_stats(shard, s)->hits++;
	else
		lost_stats(shard, s)->losses++;
}

void lost_use(struct larder_memory *m, unsigned pool, struct larder_segment *s)
{
	s->used = sys_now_ns();
	s->key = order_key(&m->pools[pool], s);
}
