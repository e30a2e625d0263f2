/*
 * Volatile ranges and pins. See volatile.h, and segment.h for the locks.
 */
#include "volatile.h"

#include "discard.h"
#include "order.h"
#include "sys.h"

#define PUBLISH_NS 1000000000u

enum { PINS_MAX = UINT32_MAX - 1, WRITING_SPINS = 4096 };

static uint32_t segment_id(const struct larder_memory *m, size_t index)
{
	return atomic_load_explicit(&m->region.segment_of[index], memory_order_acquire);
}

static struct larder_segment *segment_of(const struct larder_memory *m, size_t index)
{
	return segment_at(&m->segments, segment_id(m, index));
}

/* The segment behind `s` that the locked span reaches into, or NULL. */
static struct larder_segment *next_segment(const struct larder_memory *m, struct span span,
					   const struct larder_segment *s)
{
	size_t next = (size_t)s->first + s->pages;

	return next < span.first + span.pages ? segment_of(m, next) : NULL;
}

/* The segments of a locked span, one after the other. The first and the last may reach beyond it. */
#define for_each_segment(m, span, s)                                                                                   \
	for (struct larder_segment *s = segment_of(m, (span).first); s; s = next_segment(m, span, s))

/* The part of a segment that lies in the span. */
static struct span overlap(struct span span, const struct larder_segment *s)
{
	size_t from = s->first > span.first ? s->first : span.first;
	size_t end = (size_t)s->first + s->pages, span_end = span.first + span.pages;

	return (struct span){ span.pool, from, (end < span_end ? end : span_end) - from };
}

/* ---- finding and locking ---- */

static int is_range_chunk(const struct larder_memory *m, unsigned pool, size_t index)
{
	const struct region_owner *owner = &m->region.chunks[index / CHUNK_PAGES].owner;

	return owner->pool == pool && owner->kind == CHUNK_RANGES;
}

/* The shard of a page range's page, or NULL. */
static struct larder_shard *shard_of(struct larder_memory *m, unsigned pool, size_t index)
{
	uint32_t id;

	if (index >= region_used_pages(&m->region) || !is_range_chunk(m, pool, index))
		return NULL;
	id = segment_id(m, index);
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

		if (!is_range_chunk(m, span.pool, at))
			return SPAN_BROKEN;
		id = segment_id(m, at);
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

/* Lock the span's shard and wait until nobody is at work in the span. Returns NULL when it is not in one page range. */
static struct larder_shard *lock_span(struct larder_memory *m, struct span span)
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

static int is_exact(const struct larder_memory *m, struct span span)
{
	const struct larder_segment *s = segment_of(m, span.first);

	return s->first == span.first && s->pages == span.pages;
}

/* Records that splitting the span off takes, so that it cannot fail. Returns 0 or -ENOMEM. */
static int reserve_split(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	return is_exact(m, span) ? 0 : segment_reserve(&m->segments, shard, 2);
}

/* Make the span start and end with a segment. */
static void split_off(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	size_t end = span.first + span.pages;
	const struct larder_segment *last;

	if (is_exact(m, span))
		return;
	segment_split(&m->segments, shard, &m->region, span.first);
	last = segment_of(m, end - 1);
	if (last->first + last->pages > end)
		segment_split(&m->segments, shard, &m->region, end);
}

/* ---- accounts ---- */

static struct larder_volatile_stats *stats_of(struct larder_shard *shard, const struct larder_segment *s)
{
	return &shard->stats[s->class];
}

/* A volatile segment begins (sign 1) or ends (-1) to count. */
static void account(struct larder_shard *shard, const struct larder_segment *s, int sign)
{
	stats_of(shard, s)->bytes += (uint64_t)((int64_t)s->pages * PAGE_BYTES * sign);
	stats_of(shard, s)->lost_bytes += (uint64_t)((int64_t)s->lost * PAGE_BYTES * sign);
}

/* Pages of a segment are not lost any more. */
static void clear_lost(struct larder_memory *m, struct larder_shard *shard, struct larder_segment *s, size_t first,
		       size_t pages)
{
	size_t cleared = region_count_bits(m->region.lost, first, pages);

	if (cleared == 0)
		return;
	region_clear_bits(m->region.lost, first, pages);
	s->lost -= (uint32_t)cleared;
	if (s->state == SEGMENT_VOLATILE)
		stats_of(shard, s)->lost_bytes -= cleared * PAGE_BYTES;
}

/*
 * What a call tells its caller of each page is taken down under the lock and written when it is released: the caller's
 * buffer may be absent, and whoever brings it back may wait for reclaim, or in its SIGBUS handler for this very lock.
 */
enum { NOTES_FEW_WORDS = 65 };

struct notes {
	uint64_t few[NOTES_FEW_WORDS]; /* for 4096 pages, however they lie */
	uint64_t *words;	       /* the LOST bits of the words that hold the span; NULL = nobody wants to know */
};

static size_t notes_words(struct span span)
{
	return (span.first + span.pages - 1) / 64 - span.first / 64 + 1;
}

/* Returns 0 or -ENOMEM. */
static int notes_open(struct notes *notes, struct span span, int wanted)
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

static void notes_close(struct notes *notes, struct span span)
{
	if (notes->words && notes->words != notes->few)
		sys_munmap(notes->words, notes_words(span) * 8);
}

static void notes_tell(const struct notes *notes, struct span span, unsigned char *lost)
{
	for (size_t i = 0; notes->words && i < span.pages; i++) {
		size_t bit = span.first % 64 + i;

		lost[i] = notes->words[bit / 64] >> bit % 64 & 1;
	}
}

/* Which pages of a locked span are lost. Returns LARDER_INTACT or LARDER_PURGED. */
static int report(const struct larder_memory *m, struct span span, struct notes *notes)
{
	int result = LARDER_INTACT;

	for_each_segment(m, span, s)
	{
		struct span part = overlap(span, s);

		if (s->lost && region_count_bits(m->region.lost, part.first, part.pages))
			result = LARDER_PURGED;
	}
	notes_take(notes, m, span);
	return result;
}

/* ---- traps ---- */

/* Lost pages of the segment read as zeroes from now on. A handler may be about to raise SIGBUS for one. */
static void untrap(struct larder_memory *m, const struct larder_segment *s)
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

static int is_trapped(const struct larder_segment *s)
{
	return s->on_touch != LARDER_TOUCH_ZERO;
}

/* The segment is volatile again while pages of it are lost: what its owner left in them is worth nothing. */
static void trap(struct larder_memory *m, const struct larder_segment *s)
{
	struct discarded dropped = { 0 };

	if (s->lost == 0 || !is_trapped(s) || atomic_load_explicit(&m->region.detached, memory_order_relaxed))
		return;
	for (size_t i = s->first; i < (size_t)s->first + s->pages; i++)
		if (region_bit(m->region.lost, i) && !(page_load(&m->region.pages[i]) & PAGE_TRAP))
			discard_pages(m, i, 1, PAGE_FRESH | PAGE_TRAP, &dropped);
}

/* ---- page ranges ---- */

/* Ranges are spread over the shards by their address. */
static struct larder_shard *choose_shard(struct larder_memory *m, struct span span)
{
	return segments_shard(&m->segments, span.pool, (unsigned)((span.first * 0x9e3779b97f4a7c15u) >> 60) % SHARDS);
}

int volatile_add_range(struct larder_memory *m, struct span span)
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
		at += segment_of(m, at)->pages;
	while (at < region_used_pages(&m->region) && is_range_chunk(m, pool, at) && segment_id(m, at) &&
	       segment_shard(&m->segments, segment_id(m, at)) == shard && segment_of(m, at)->range == first);
	return at - first;
}

static int is_pinned(const struct larder_memory *m, struct span span)
{
	for_each_segment(m, span, s) if (s->pins) return 1;
	return 0;
}

/* Lock the shard of the whole range that starts at `first`. */
static struct larder_shard *lock_range(struct larder_memory *m, struct span *range)
{
	for (;;) {
		struct larder_shard *shard = lock_span(m, *range);
		size_t pages;

		if (!shard)
			return NULL;
		if (segment_of(m, range->first)->range != range->first) {
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

int64_t volatile_remove_range(struct larder_memory *m, unsigned pool, size_t first)
{
	struct span range = { .pool = pool, .first = first, .pages = 1 };
	struct larder_shard *shard = lock_range(m, &range);

	if (!shard)
		return -EFAULT;
	if (is_pinned(m, range)) {
		mutex_unlock(&shard->lock);
		return -EBUSY;
	}
	for (size_t at = first; at < first + range.pages;) {
		uint32_t id = segment_id(m, at);
		struct larder_segment *s = segment_at(&m->segments, id);

		at += s->pages;
		if (s->state == SEGMENT_VOLATILE)
			account(shard, s, -1);
		if (s->lost)
			untrap(m, s);
		segment_remove(&m->segments, shard, &m->region, id);
	}
	region_clear_bits(m->region.lost, first, range.pages);
	region_clear_bits(m->region.kept, first, range.pages);
	mutex_unlock(&shard->lock);
	return (int64_t)range.pages;
}

int volatile_check(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_span(m, span);

	if (!shard)
		return -EFAULT;
	mutex_unlock(&shard->lock);
	return 0;
}

/* ---- volatile and back ---- */

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
	for_each_segment(m, span, s)
	{
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
	split_off(m, shard, span);
	for_each_segment(m, span, s)
	{
		if (s->state == SEGMENT_VOLATILE)
			account(shard, s, -1);
		if (s->lost && is_trapped(s) && on_touch == LARDER_TOUCH_ZERO)
			untrap(m, s);
	}
	return segment_at(&m->segments, segment_join(&m->segments, shard, &m->region, span.first, span.pages));
}

/* All of a segment is lost, as if it had been purged. */
static void make_empty(struct larder_memory *m, struct larder_segment *s)
{
	struct discarded dropped = { 0 };

	region_set_bits(m->region.lost, s->first, s->pages);
	s->lost = s->pages;
	discard_pages(m, s->first, s->pages, is_trapped(s) ? PAGE_FRESH | PAGE_TRAP : PAGE_FRESH, &dropped);
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
	account(shard, s, 1);
	stats_of(shard, s)->marks++;
	if (s->marked >= shard->publish_at_ns) {
		shard->publish_at_ns = s->marked + PUBLISH_NS;
		shard_publish(shard);
	}
	region_set_bits(m->region.kept, span.first, span.pages);
	trap(m, s);
}

int volatile_mark(struct larder_memory *m, struct span span, const struct larder_volatile_options *o)
{
	struct larder_shard *shard = lock_span(m, span);
	int err;

	if (!shard)
		return -EFAULT;
	err = may_mark(m, span, o->flags);
	if (!err)
		err = reserve_split(m, shard, span);
	if (!err)
		mark(m, shard, span, o);
	mutex_unlock(&shard->lock);
	if (!err)
		wait_until_not_written(m, span);
	return err;
}

static int may_end(const struct larder_memory *m, struct span span)
{
	for_each_segment(m, span, s)
	{
		if (s->state != SEGMENT_VOLATILE)
			return -ENOENT;
		if (s->pins)
			return -EBUSY;
	}
	return 0;
}

static void count_answer(struct larder_shard *shard, const struct larder_segment *s, int answer)
{
	if (answer == LARDER_INTACT)
		stats_of(shard, s)->hits++;
	else
		stats_of(shard, s)->losses++;
}

static int end(struct larder_memory *m, struct larder_shard *shard, struct span span, unsigned flags,
	       struct notes *notes)
{
	int answer;

	split_off(m, shard, span);
	answer = report(m, span, notes);
	count_answer(shard, segment_of(m, span.first), answer);
	for_each_segment(m, span, s)
	{
		account(shard, s, -1);
		s->state = SEGMENT_PLAIN;
		if (s->lost == 0)
			continue;
		untrap(m, s);
		if (flags & LARDER_ACKNOWLEDGE)
			clear_lost(m, shard, s, s->first, s->pages);
	}
	region_clear_bits(m->region.kept, span.first, span.pages);
	return answer;
}

int volatile_end(struct larder_memory *m, struct span span, unsigned flags, unsigned char *lost)
{
	struct larder_shard *shard = lock_span(m, span);
	struct notes notes;
	int result;

	if (!shard)
		return -EFAULT;
	result = may_end(m, span);
	if (!result)
		result = reserve_split(m, shard, span);
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
	for_each_segment(m, span, s) if (s->state == SEGMENT_VOLATILE && s->pins == 0) return 0;
	return 1;
}

int volatile_refilled(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_span(m, span);
	int result = 0;

	if (!shard)
		return -EFAULT;
	if (!is_in_use(m, span))
		result = -ENOENT;
	for_each_segment(m, span, s)
	{
		struct span part = overlap(span, s);

		if (!result && s->lost)
			clear_lost(m, shard, s, part.first, part.pages);
	}
	mutex_unlock(&shard->lock);
	return result;
}

int volatile_query(struct larder_memory *m, struct span span, unsigned char *lost)
{
	struct larder_shard *shard = lock_span(m, span);
	struct notes notes;
	int result;

	if (!shard)
		return -EFAULT;
	result = notes_open(&notes, span, lost != NULL);
	if (!result)
		result = report(m, span, &notes);
	mutex_unlock(&shard->lock);
	if (result >= 0) {
		notes_tell(&notes, span, lost);
		notes_close(&notes, span);
	}
	return result;
}

static void use(struct larder_memory *m, unsigned pool, struct larder_segment *s)
{
	s->used = sys_now_ns();
	s->key = order_key(&m->pools[pool], s);
}

int volatile_used(struct larder_memory *m, unsigned pool, size_t index)
{
	struct span span = { .pool = pool, .first = index, .pages = 1 };
	struct larder_shard *shard = lock_span(m, span);
	struct larder_segment *s;
	int result = -ENOENT;

	if (!shard)
		return -EFAULT;
	s = segment_of(m, index);
	if (s->state == SEGMENT_VOLATILE) {
		use(m, pool, s);
		result = 0;
	}
	mutex_unlock(&shard->lock);
	return result;
}

int volatile_discard(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_span(m, span);
	struct discarded dropped = { 0 };
	int err;

	if (!shard)
		return -EFAULT;
	err = is_pinned(m, span) ? -EBUSY : discard_pages(m, span.first, span.pages, PAGE_FRESH, &dropped);
	if (!err)
		for_each_segment(m, span, s) if (s->state == SEGMENT_VOLATILE) trap(m, s);
	mutex_unlock(&shard->lock);
	return err;
}

/* ---- pins ---- */

static int may_pin(const struct larder_memory *m, struct span span)
{
	for_each_segment(m, span, s) if (s->pins >= PINS_MAX) return -EBUSY;
	return 0;
}

static int pin(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	int answer = LARDER_INTACT, was_volatile = 0;

	split_off(m, shard, span);
	for_each_segment(m, span, s)
	{
		if (s->pins++ == 0) {
			shard->pinned_pages += s->pages;
			if (s->state == SEGMENT_VOLATILE && s->lost && !s->refill)
				untrap(m, s); /* with a callback, touches still call it */
		}
		was_volatile |= s->state == SEGMENT_VOLATILE;
		if (s->lost)
			answer = LARDER_PURGED;
	}
	region_set_bits(m->region.kept, span.first, span.pages);
	if (was_volatile)
		count_answer(shard, segment_of(m, span.first), answer);
	return answer;
}

int volatile_pin(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_span(m, span);
	int result;

	if (!shard)
		return -EFAULT;
	result = may_pin(m, span);
	if (!result)
		result = reserve_split(m, shard, span);
	if (!result)
		result = pin(m, shard, span);
	mutex_unlock(&shard->lock);
	return result;
}

static int may_unpin(const struct larder_memory *m, struct span span)
{
	for_each_segment(m, span, s) if (s->pins == 0) return -ENOENT;
	return 0;
}

static void unpin(struct larder_memory *m, struct larder_shard *shard, struct span span)
{
	split_off(m, shard, span);
	for_each_segment(m, span, s)
	{
		if (--s->pins > 0)
			continue;
		shard->pinned_pages -= s->pages;
		if (s->state == SEGMENT_VOLATILE) {
			use(m, span.pool, s);
			trap(m, s);
		} else {
			region_clear_bits(m->region.kept, s->first, s->pages);
		}
	}
}

int volatile_unpin(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_span(m, span);
	int result;

	if (!shard)
		return -EFAULT;
	result = may_unpin(m, span);
	if (!result)
		result = reserve_split(m, shard, span);
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

int objects_pin(struct larder_memory *m, struct span span)
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
		if (segment_id(m, i) == 0)
			return 0;
	return 1;
}

int objects_unpin(struct larder_memory *m, struct span span)
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
		if (segment_id(m, i) != 0)
			return 1;
	return 0;
}

int volatile_is_pinned(struct larder_memory *m, unsigned pool)
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

/* ---- refilling ---- */

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

int volatile_trap(struct larder_memory *m, unsigned pool, size_t index, struct refill *refill)
{
	struct span span = { .pool = pool, .first = index, .pages = 1 };
	struct larder_shard *shard = lock_span(m, span);
	const struct larder_segment *s;
	int trapped;

	if (!shard)
		return 0;
	s = segment_of(m, index);
	trapped = s->state == SEGMENT_VOLATILE && is_trapped(s) && region_bit(m->region.lost, index);
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
	struct larder_segment *s = segment_of(m, refill->unit.first);
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
				clear_lost(m, shard, s, first + n, 1);
		mutex_unlock(&shard->lock);
	}
}

void volatile_install(struct larder_memory *m, struct larder_restorer *w, const struct refill *refill,
		      const char *content)
{
	struct larder_shard *shard = lock_span(m, refill->unit);
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
	stats_of(shard, s)->refills++;
	segment_end(shard, s);
	mutex_unlock(&shard->lock);
}

/* The callback could not make everything again: what is lost of a pinned span reads as zeroes, as without a callback.
 */
int volatile_give_up_refill(struct larder_memory *m, struct span span)
{
	struct larder_shard *shard = lock_span(m, span);
	struct notes notes = { .words = NULL };
	int answer;

	if (!shard)
		return -EFAULT;
	answer = report(m, span, &notes);
	for_each_segment(m, span, s) if (s->lost && s->pins) untrap(m, s);
	mutex_unlock(&shard->lock);
	return answer;
}

/* ---- statistics, destruction and fork ---- */

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

void volatile_stats(const struct larder_memory *m, unsigned pool, struct larder_pool_stats *to)
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

void volatile_publish(struct larder_memory *m)
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

void volatile_forget(struct larder_memory *m, unsigned pool)
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

void volatile_lock_all(struct larder_memory *m)
{
	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		if (atomic_load(&m->segments.pool_shards[pool]))
			for (unsigned n = 0; n < SHARDS; n++)
				lock_idle(segments_shard(&m->segments, pool, n));
}

void volatile_unlock_all(struct larder_memory *m)
{
	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		if (atomic_load(&m->segments.pool_shards[pool]))
			for (unsigned n = 0; n < SHARDS; n++)
				mutex_unlock(&segments_shard(&m->segments, pool, n)->lock);
}
