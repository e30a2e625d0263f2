/*
 * Resolve. See resolve.h.
 */
#include "resolve.h"

#include "readahead.h"
#include "stats.h"

enum { AROUND_GAP_MAX = 4 };

/* Passes of the clock that a page is spared after it was: first touched, fetched from a tier, wanted back while staged
 * or soon after. */
enum { CREDIT_ZERO = 1, CREDIT_STORED = 0, CREDIT_WANTED = 7 };

/* How many pages from `index` on are wanted, according to the chunk of the page before. */
static size_t wanted_from(const struct larder_chunk *before, size_t index)
{
	uint32_t end = atomic_load_explicit(&before->wanted_end, memory_order_relaxed);

	return end > (uint32_t)index ? end - (uint32_t)index : 0;
}

/*
 * Fault-around: a fault on the page where the last one ended, or just behind it (pages in between may have been
 * resident), suggests a sequential reader; each such fault doubles the number of pages brought in. The hints lie in the
 * chunk of the last page brought in, and are racy: a wrong hint costs time only.
 */
static size_t around_window(struct larder_memory *m, size_t index, size_t *wanted)
{
	struct larder_chunk *before = region_chunk(&m->region, index ? index - 1 : 0);
	size_t window = 2 * (size_t)atomic_load_explicit(&before->around_window, memory_order_relaxed);
	size_t to_end = CHUNK_PAGES - index % CHUNK_PAGES;
	uint32_t gap = (uint32_t)index - atomic_load_explicit(&before->around_next, memory_order_relaxed);

	if (atomic_load_explicit(&region_chunk(&m->region, index)->sequential, memory_order_relaxed))
		return RESTORE_MAX_PAGES < to_end ? RESTORE_MAX_PAGES : to_end;
	if (gap > AROUND_GAP_MAX || window == 0)
		return 1;
	*wanted = wanted_from(before, index);
	if (window > RESTORE_MAX_PAGES)
		window = RESTORE_MAX_PAGES;
	return window < to_end ? window : to_end;
}

/* Zero-filling neighbours must not go beyond the page range, or the program's mappings: what lies behind it belongs to
 * others, or to nobody. */
static size_t within_range(const struct larder_memory *m, size_t index, size_t window)
{
	const _Atomic uint32_t *segment = m->region.segment_of + index;
	const struct larder_region *r = &m->region;
	size_t n = 1;

	if (r->chunks[index / CHUNK_PAGES].owner.kind == CHUNK_MAPPING)
		return region_bit(r->charged, index) ? region_run(r->charged, index, index + window) : 1;
	if (r->chunks[index / CHUNK_PAGES].owner.kind != CHUNK_RANGES)
		return window;
	while (n < window && atomic_load_explicit(&segment[n], memory_order_relaxed) ==
				     atomic_load_explicit(&segment[0], memory_order_relaxed))
		n++;
	return n;
}

/* The next fault is expected at page `next`; the last one brought `pages`; `wanted` more are wanted, lost or not. */
static void around_set(struct larder_memory *m, size_t next, size_t pages, size_t wanted)
{
	struct larder_chunk *last = region_chunk(&m->region, next ? next - 1 : 0);

	atomic_store_explicit(&last->around_next, (uint32_t)next, memory_order_relaxed);
	atomic_store_explicit(&last->around_window, (uint32_t)pages, memory_order_relaxed);
	atomic_store_explicit(&last->wanted_end, (uint32_t)(next + wanted), memory_order_relaxed);
}

void resolve_expect(struct larder_memory *m, size_t first, size_t pages)
{
	size_t half = pages < RESTORE_MAX_PAGES ? (pages + 1) / 2 : RESTORE_MAX_PAGES / 2;

	around_set(m, first, half, pages);
}

static void count_fault(enum page_state was, size_t restored)
{
	switch (was) {
	case PAGE_FRESH:
		STATS_ADD(faults_zero, 1);
		break;
	case PAGE_STAGED:
		STATS_ADD(faults_staged, 1);
		break;
	case PAGE_STORED:
		STATS_ADD(faults_stored, 1);
		break;
	default:
		STATS_ADD(faults_raced, 1);
		break;
	}
	if (restored > 1)
		STATS_ADD(fault_around, restored - 1);
}

static unsigned credit_of(const struct larder_memory *m, uint64_t word)
{
	switch (page_state(word)) {
	case PAGE_STAGED:
		return CREDIT_WANTED;
	case PAGE_STORED:
		return age_is_young(&m->age, word) ? CREDIT_WANTED : CREDIT_STORED;
	default:
		return CREDIT_ZERO;
	}
}

/* Which neighbours may come along with a page that was in state `was`. */
static unsigned company(enum page_state was)
{
	if (was == PAGE_FRESH || was == PAGE_RESIDENT)
		return 1u << was;
	return 1u << PAGE_STAGED | 1u << PAGE_STORED;
}

/* Lost pages that are touched while volatile are in RAM for nothing: the next purge looks for them. */
static void count_retouched(struct larder_memory *m, size_t first, size_t pages)
{
	const struct region_owner *owner = &region_chunk(&m->region, first)->owner;
	size_t lost;

	if (owner->kind != CHUNK_RANGES)
		return;
	lost = region_count_bits(m->region.lost, first, pages);
	if (lost)
		atomic_fetch_add_explicit(&m->pools[owner->pool].retouched, lost, memory_order_relaxed);
}

/* Pages are fetched from RAM, [index, index + n), the first as `word` says. */
static void note_age(struct larder_memory *m, size_t index, size_t n, uint64_t word)
{
	age_note(&m->age, index, n, age_is_far(&m->age, word));
	if (m->store.disk)
		split_note(&m->split, &m->age, word);
}

enum resolve_outcome resolve(struct larder_memory *m, struct larder_restorer *w, size_t index, int written)
{
	uint64_t word = page_load(&m->region.pages[index]), words[RESTORE_MAX_PAGES];
	enum page_state was = page_state(word);
	size_t window = 1, wanted = 0, n, restored;

	restore_expect(m, index, word);
	if (page_is_busy(word)) {
		STATS_ADD(faults_raced, 1);
		if (m->store.disk)
			readahead_caught_up(m, w, index);
		return RESOLVE_BUSY;
	}
	if (word & PAGE_TRAP)
		return RESOLVE_TRAPPED;
	if (was == PAGE_POISONED)
		return RESOLVE_POISONED;
	if ((was == PAGE_FRESH || was == PAGE_STORED) &&
	    pressure_should_put_off(m, region_chunk(&m->region, index)->owner.pool))
		return RESOLVE_PUT_OFF;
	if (restore_needs_disk(m, word))
		return readahead_fault(m, w, index, written);
	if (was != PAGE_RESIDENT)
		window = around_window(m, index, &wanted);
	if (was == PAGE_FRESH)
		window = within_range(m, index, window);
	n = restore_acquire(m, index, window, company(was), wanted, words);
	if (n == 0)
		return RESOLVE_AGAIN;
	if (restore_needs_disk(m, words[0])) { /* it has gone there just now */
		restore_give_up(m, w, index, words, n);
		return RESOLVE_AGAIN;
	}
	was = page_state(words[0]);
	if (was == PAGE_STORED)
		note_age(m, index, n, words[0]);
	restored = restore_pages(m, w, index, words, n, credit_of(m, words[0]));
	if (restored) {
		around_set(m, index + restored, restored, wanted > restored ? wanted - restored : 0);
		if (was == PAGE_FRESH)
			count_retouched(m, index, restored);
	}
	count_fault(was, restored);
	return RESOLVE_DONE;
}
