/*
 * Discard. See discard.h.
 *
 * Under the chunk's lock, so that neither eviction nor watching is under way in it: own every page of the range, drop
 * what the store holds, empty the mapping in one madvise, then release all as FRESH. A handler may be restoring a page
 * (fault-around does not ask whether a page is still wanted); it never waits for program threads, so waiting for it
 * here ends.
 */
#include "discard.h"

#include "stats.h"
#include "sys.h"

static uint64_t acquire(struct larder_memory *m, size_t index)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page);
	struct larder_wait wait = { 0 };

	while (page_is_busy(word) || !page_acquire(page, &word, PAGE_DISCARDING))
		if (page_is_busy(word)) {
			pressure_wait_turn(m, &wait);
			word = page_load(page);
		}
	pressure_wait_end(m, &wait);
	return word;
}

/* Let the holder of an owned page go; the mapping is emptied for the whole range at once. */
static void drop(struct larder_memory *m, size_t index, uint64_t word, struct store_drops *drops,
		 struct discarded *dropped)
{
	struct larder_region *r = &m->region;

	if (word & PAGE_COPY) {
		store_drop_copy(&m->store, page_copy_handle(&r->pages[index]));
		STATS_ADD(copies, -1);
	}
	switch (page_state(word)) {
	case PAGE_RESIDENT:
		region_count(r, index, LARDER_PAGES_RESIDENT, -1);
		dropped->ram++;
		break;
	case PAGE_STAGED: /* the slot's copy is stale from now on */
		region_count(r, index, LARDER_PAGES_STAGED, -1);
		dropped->ram++;
		break;
	case PAGE_STORED:
		region_count(r, index, page_tier(word) ? LARDER_PAGES_STORED : LARDER_PAGES_SAME, -1);
		store_drop_later(&m->store, drops, store_place_of(&r->pages[index], word));
		dropped->stored += page_tier(word) != STORE_TIER_SAME;
		break;
	case PAGE_POISONED:
		if (!(word & PAGE_TRAP))
			region_count(r, index, LARDER_PAGES_POISONED, -1);
		break;
	default:
		return;
	}
	STATS_ADD(discarded, 1);
}

static long discard_watched(struct larder_memory *m, size_t first, size_t pages, uint64_t to, struct discarded *dropped)
{
	struct store_drops drops = { 0 };
	int awaited = 0;
	long err;

	if (!chunk_is_used(region_chunk(&m->region, first)) && to == PAGE_FRESH)
		return sys_madvise(region_address(&m->region, first), pages * PAGE_BYTES, MADV_DONTNEED);
	region_use(&m->region, region_chunk(&m->region, first));
	for (size_t i = first; i < first + pages; i++)
		drop(m, i, acquire(m, i), &drops, dropped);
	store_drop_all(&m->store, &drops);
	err = sys_madvise(region_address(&m->region, first), pages * PAGE_BYTES, MADV_DONTNEED);
	for (size_t i = first; i < first + pages; i++)
		awaited |= page_release(&m->region.pages[i], to);
	if (awaited) /* happens when memory is touched that nobody wants any more */
		pressure_ask_to_wake(m);
	return err;
}

void discard_unmapped(struct larder_memory *m, size_t first, size_t pages)
{
	struct discarded dropped = { 0 };
	struct store_drops drops = { 0 };
	int awaited = 0;

	region_uncharge(&m->region, first, pages);
	for (size_t n, end = first + pages; first < end; first += n) {
		struct larder_chunk *c = region_chunk(&m->region, first);

		n = CHUNK_PAGES - first % CHUNK_PAGES < end - first ? CHUNK_PAGES - first % CHUNK_PAGES : end - first;
		pressure_lock(m, &c->lock);
		for (size_t i = first; i < first + n && chunk_is_watched(c); i++)
			drop(m, i, acquire(m, i), &drops, &dropped);
		store_drop_all(&m->store, &drops);
		atomic_fetch_or(&c->marks, CHUNK_HAS_FOREIGN);
		region_set_bits(m->region.foreign, first, n);
		for (size_t i = first; i < first + n && chunk_is_watched(c); i++)
			awaited |= page_release(&m->region.pages[i], PAGE_FRESH);
		mutex_unlock(&c->lock);
	}
	if (awaited)
		pressure_ask_to_wake(m);
}

static long discard_in_chunk(struct larder_memory *m, size_t first, size_t pages, uint64_t to,
			     struct discarded *dropped)
{
	struct larder_chunk *c = region_chunk(&m->region, first);
	long err;

	pressure_lock(m, &c->lock);
	if (chunk_is_watched(c))
		err = discard_watched(m, first, pages, to, dropped);
	else
		err = sys_madvise(region_address(&m->region, first), pages * PAGE_BYTES, MADV_DONTNEED);
	mutex_unlock(&c->lock);
	return err;
}

int discard_pages(struct larder_memory *m, size_t first, size_t pages, uint64_t to, struct discarded *dropped)
{
	size_t end = first + pages;
	long err = 0;

	if (atomic_load_explicit(&m->region.detached, memory_order_relaxed))
		return (int)sys_madvise(region_address(&m->region, first), pages * PAGE_BYTES, MADV_DONTNEED);
	while (first < end && !err) {
		size_t n = CHUNK_PAGES - first % CHUNK_PAGES;

		if (n > end - first)
			n = end - first;
		err = discard_in_chunk(m, first, n, to, dropped);
		first += n;
	}
	return (int)err;
}

int discard(struct larder_memory *m, void *addr, size_t bytes)
{
	struct discarded dropped = { 0 };

	return discard_pages(m, region_index(&m->region, addr), bytes / PAGE_BYTES, PAGE_FRESH, &dropped);
}
