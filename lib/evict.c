/*
 * Evict: the way out of staging. See evict.h; sweep.c is the way in.
 */
#include "evict_parts.h"

#include "stats.h"
#include "sys.h"

/* Credit for pages that go back: a tier that failed may recover soon; what was wanted back can be tried at once. */
enum { CREDIT_TIER_FAILED = 4, CREDIT_KEPT = 0 };

/* A disk that does nothing for so long is not waited for. */
#define STALL_NS 500000000u
#define POLL_NS	 2000000u

/* A page that no tier takes and that has no mapping any more: the program unmapped it, so nobody can ask for its
 * content. */
static void forget_unmapped(struct larder_memory *m, size_t index, uint32_t slot)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page);

	if (!page_is_staged_in(word, slot) || !page_acquire(page, &word, PAGE_RESTORING))
		return;
	if (word & PAGE_COPY)
		swap_out_forget_copy(m, index);
	region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
	evict_release(m, index, PAGE_FRESH);
}

/* No tier takes a page: it goes back to where it came from. */
static void put_back(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t word, unsigned credit)
{
	uint32_t slot = page_slot(word);

	if (!page_acquire(&m->region.pages[index], &word, PAGE_RESTORING))
		return;
	if (credit == PAGE_HELD)
		evict_hold(&m->region.pages[index], m->staging.refusals[slot]);
	if (restore_pages(m, w, index, &word, 1, credit) == 0)
		forget_unmapped(m, index, slot);
}

/* The store has the page: say so, unless the program has taken it back meanwhile. Returns the pages evicted. */
static size_t commit(struct larder_memory *m, size_t index, uint64_t word, struct store_place place)
{
	struct larder_page *page = &m->region.pages[index];

	if (!page_acquire(page, &word, PAGE_RESTORING)) {
		store_drop(&m->store, &place, 1);
		return 0;
	}
	larder_assert(!(word & PAGE_COPY) || (place.handle < LARDER_HANDLES_MAX && page->handle < LARDER_HANDLES_MAX));
	page->handle = word & PAGE_COPY ? page_both_handles(place.handle, page->handle) : place.handle;
	evict_release(m, index, age_stamp(&m->age, region_used_pages(&m->region), place.tier));
	region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
	region_count(&m->region, index, place.tier ? LARDER_PAGES_STORED : LARDER_PAGES_SAME, 1);
	STATS_ADD(evictions, 1);
	if (place.tier == STORE_TIER_SAME)
		STATS_ADD(same_filled, 1);
	return 1;
}

/*
 * Is a page still the same as its copy on disk? Else the copy is of no use any more. The bytes decide, by their
 * checksum: no flag could say whether the page was written to just before it was moved. Returns -ECANCELED when the
 * page has been taken back, copy and all, or discarded.
 */
static int is_same_as_copy(struct larder_memory *m, size_t index, uint64_t position, uint64_t *word)
{
	if (compress_checksum(m, position) == m->staging.checksum[staging_slot(position)])
		return 1;
	if (!page_change(&m->region.pages[index], word, *word & ~PAGE_COPY))
		return -ECANCELED;
	*word &= ~PAGE_COPY;
	swap_out_forget_copy(m, index);
	return 0;
}

/* Its copy on disk is all that a page needs. Returns the pages evicted. */
static size_t evict_by_copy(struct larder_memory *m, size_t index, uint64_t word)
{
	if (!page_change(&m->region.pages[index], &word, store_word_on_disk(&m->store)))
		return 0;
	region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
	region_count(&m->region, index, LARDER_PAGES_STORED, 1);
	STATS_ADD(copies, -1);
	STATS_ADD(evictions, 1);
	STATS_ADD(clean_evictions, 1);
	return 1;
}

/* Put a staged page into the store, or, if no tier in RAM gains by it and it has no copy on disk, on its way there
 * (-EINPROGRESS); -ECANCELED when it has become volatile or pinned. See memory.h: writing. */
static int put(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t index,
	       uint64_t position, int has_copy, struct store_place *place)
{
	uint32_t tiers = pressure_tiers(m, region_chunk(&m->region, index)->owner.pool);
	struct larder_object object = compress_object(m, position);
	int err;

	atomic_store(&m->writing, index + 1);
	if (region_bit(m->region.kept, index))
		err = -ECANCELED;
	else
		err = store_put(&m->store, tiers, &object, place);
	if (err == -E2BIG && !has_copy && tiers & store_disk_bit(&m->store)) {
		larder_assert(!object.dictionary);
		object.checksum = compress_checksum(m, position);
		err = swap_out_staged(m, so, w->scratch, index, staging_slot(position), &object);
		if (!err)
			err = -EINPROGRESS;
	}
	atomic_store_explicit(&m->writing, 0, memory_order_release);
	return err;
}

/* Write out a slot. *err: -EBUSY when it has to wait for the disk. Returns the pages evicted. */
static size_t write_slot(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so,
			 uint64_t position, int *err)
{
	uint32_t slot = staging_slot(position);
	size_t index = m->staging.owner[slot];
	uint64_t word = page_load(&m->region.pages[index]);
	struct store_place place;
	int has_copy = 0;

	*err = 0;
	if (!page_is_staged_in(word, slot) || m->staging.writing[slot]) /* taken back or discarded; or on its way */
		return 0;
	if (word & PAGE_COPY && (has_copy = is_same_as_copy(m, index, position, &word)) < 0)
		return 0;
	*err = put(m, w, so, index, position, has_copy, &place);
	if (!*err)
		return commit(m, index, word, place);
	if (has_copy && *err != -ECANCELED) {
		*err = 0;
		return evict_by_copy(m, index, word);
	}
	if (*err == -EBUSY || *err == -EINPROGRESS)
		return 0;
	if (*err == -E2BIG)
		STATS_ADD(incompressible, 1);
	else if (*err != -ECANCELED && m->store.disk)
		STATS_ADD(disk.refused, 1);
	put_back(m, w, index, word,
		 *err == -ECANCELED		   ? CREDIT_KEPT
		 : *err == -E2BIG || m->store.disk ? PAGE_HELD
						   : CREDIT_TIER_FAILED);
	return 0;
}

/*
 * Can a slot be emptied? Not while its page is on its way to disk; one whose write has failed is written once more. A
 * handler may be copying out of it; one that does not succeed leaves the page staged (restore.h), and then it is
 * written after all.
 */
static int is_done(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, uint64_t position,
		   size_t *evicted)
{
	uint32_t slot = staging_slot(position);
	const struct larder_page *page = &m->region.pages[m->staging.owner[slot]];
	struct larder_wait wait = { 0 };
	int err, done = 1;
	uint64_t word;

	for (;;) {
		word = page_load(page);
		if (page_is_staged_in(word, slot)) {
			done = !m->staging.writing[slot];
			if (done)
				*evicted += write_slot(m, w, so, position, &err);
			done = done && err != -EBUSY && !m->staging.writing[slot];
			if (!done)
				break;
		} else if (page_state(word) == PAGE_RESTORING && page_slot(word) == slot) {
			pressure_wait_turn(m, &wait);
		} else {
			break;
		}
	}
	pressure_wait_end(m, &wait);
	return done;
}

/* Give back the memory of n slots, which do not go round the end of the ring. */
static void empty(const struct larder_staging *s, uint64_t from, uint64_t n)
{
	if (n)
		sys_madvise(staging_address(s, staging_slot(from)), n * PAGE_BYTES, MADV_DONTNEED);
}

/* Empty up to EVICT_BATCH slots at the tail whose pages are elsewhere. Returns 0 when there are no more of them. */
static int advance_tail(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t *evicted)
{
	struct larder_staging *s = &m->staging;
	uint64_t most = s->cursor - s->tail, to_end = STAGING_MAX_SLOTS - staging_slot(s->tail), n, vacant = 0;

	most = most < EVICT_BATCH ? most : EVICT_BATCH;
	most = most < to_end ? most : to_end;
	for (n = 0; n < most; n++)
		if (s->owner[staging_slot(s->tail + n)] == STAGING_NOBODY)
			vacant++;
		else if (!is_done(m, w, so, s->tail + n, evicted))
			break;
	if (vacant < n)
		empty(s, s->tail, n);
	s->tail += n;
	s->vacant -= vacant;
	s->passed = s->passed < s->tail ? s->tail : s->passed;
	return n == most;
}

/*
 * The tail waits for the disk: empty those slots beyond whose pages are elsewhere. Else all that is evicted meanwhile
 * would still count, and as much again would be evicted for nothing. An unmapping for each run, but between two runs is
 * a page that goes to disk.
 */
static void pass_tail(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t *evicted)
{
	struct larder_staging *s = &m->staging;
	uint64_t run = 0;

	for (; s->passed < s->cursor; s->passed++) {
		uint32_t slot = staging_slot(s->passed);
		int done = is_done(m, w, so, s->passed, evicted);

		if (!done || slot == 0) {
			empty(s, s->passed - run, run);
			run = 0;
		}
		if (done) {
			s->owner[slot] = STAGING_NOBODY;
			s->vacant++;
			run++;
		}
	}
	empty(s, s->passed - run, run);
}

static size_t empty_slots(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so)
{
	struct larder_staging *s = &m->staging;
	size_t evicted = 0;

	while (s->tail < s->cursor && advance_tail(m, w, so, &evicted))
		;
	if (s->cursor - s->passed >= EVICT_BATCH)
		pass_tail(m, w, so, &evicted);
	staging_publish(s);
	return evicted;
}

size_t evict_settle(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so)
{
	size_t settled = swap_out_settle(m, w->scratch);

	return settled + empty_slots(m, w, so);
}

size_t evict_write_out(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so)
{
	struct larder_staging *s = &m->staging;
	size_t evicted = swap_out_settle(m, w->scratch);
	int err = 0;

	for (unsigned n = 0; n < EVICT_BATCH && s->cursor < s->head; n++, s->cursor++) {
		if (n % COMPRESS_YIELD_PAGES == 0)
			sys_yield();
		compress_ahead(m);
		evicted += write_slot(m, w, so, s->cursor, &err);
		if (err == -EBUSY)
			break;
	}
	return evicted + empty_slots(m, w, so);
}

/* Until every slot has been written out, on its way to disk or not; or, to `settle`, until it is empty. */
static size_t write_all(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, int settle)
{
	struct larder_staging *s = &m->staging;
	uint64_t since = sys_now_ns();
	size_t evicted = 0;

	for (;;) {
		uint64_t tail = s->tail, cursor = s->cursor;

		evicted += evict_write_out(m, w, so);
		if ((settle ? s->tail : s->cursor) == s->head)
			return evicted;
		if (s->tail != tail || s->cursor != cursor) {
			since = sys_now_ns();
			continue;
		}
		if (sys_now_ns() - since > STALL_NS)
			return evicted;
		swap_out_flush(m, so, w->scratch);
		swap_out_wait(m, w->scratch, NULL, 0, POLL_NS);
	}
}

size_t evict_range(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t first,
		   size_t pages)
{
	size_t hand = first, evicted = 0, written;
	int is_full;

	while (hand < first + pages) {
		size_t end = hand - hand % CHUNK_PAGES + CHUNK_PAGES;
		struct larder_chunk *c = region_chunk(&m->region, hand);

		end = end < first + pages ? end : first + pages;
		if (!evict_may_take(m, c, REGION_HEAP)) {
			hand = end;
			continue;
		}
		pressure_lock(m, &c->lock);
		evict_sweep_chunk(m,
				  &(struct evict_sweep){
					  .at_once = 1, .now_ns = EVICT_HELD_TOO, .hand = &hand, .want = CHUNK_PAGES },
				  end);
		mutex_unlock(&c->lock);
		is_full = staging_room(&m->staging) == 0;
		written = write_all(m, w, so, is_full); /* else the next chunk need not wait for the disk */
		evicted += written;
		if (is_full && written == 0)
			break;
	}
	return evicted + write_all(m, w, so, 1);
}
