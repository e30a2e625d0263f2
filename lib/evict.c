/*
 * Evict. See evict.h.
 *
 * The hand walks the page table in address order. It is a FIFO with second chances (CLOCK, Corbato 1968), generalised
 * by the page's credit. Pages that stand next to each other in memory move together: one UFFDIO_MOVE is one TLB
 * shootdown, whatever its length.
 */
#include "evict.h"

#include "stats.h"
#include "sys.h"
#include "uffd.h"

/* Credit for pages that go back: a tier that failed may recover soon; the others can be tried at once. */
enum { CREDIT_TIER_FAILED = 4, CREDIT_KEPT = 0, CREDIT_UNSHARED = 0 };

/*
 * Pages that cannot leave - incompressible, or in memory that cannot be moved - are held for a time, not for a number
 * of turns: the less there is that can leave, the faster the clock turns. The time doubles with each refusal in a row.
 */
#define HOLD_MIN_NS ((uint64_t)1 << 30)
enum { HOLD_REFUSALS_MAX = 6 };

enum { MOVE_RETRY_LIMIT = 1000 };

/* A disk that does nothing for so long is not waited for. */
#define STALL_NS 500000000u
#define POLL_NS	 2000000u

/* End a page's move. Its copy on disk stays what it was, unless it is forgotten before. */
static void release(struct larder_memory *m, size_t index, uint64_t to)
{
	if (page_state(to) != PAGE_FRESH)
		to |= page_load(&m->region.pages[index]) & PAGE_COPY;
	if (page_release(&m->region.pages[index], to))
		restore_wake(m, index);
}

/* The caller owns the page. */
static void forget_copy(struct larder_memory *m, size_t index)
{
	struct larder_page *page = &m->region.pages[index];

	if (page_load(page) & PAGE_COPY) {
		swap_out_forget_copy(m, index);
		atomic_fetch_and(&page->word, ~PAGE_COPY);
	}
}

/* While a page is held, its handle has the time until when, and in its low byte how often it was refused. */
static void hold(struct larder_page *page, unsigned refusals)
{
	page->handle = ((sys_now_ns() + (HOLD_MIN_NS << refusals)) & ~(uint64_t)255) | refusals;
}

static int is_held(const struct larder_page *page, uint64_t word, uint64_t now)
{
	return page_credit(word) == PAGE_HELD && now < page->handle;
}

/* How often in a row an owned page had been refused when it was chosen. */
static unsigned refusals_of(const struct larder_page *page)
{
	return page_credit(page_load(page)) == PAGE_HELD ? (unsigned)(page->handle & 255) + 1 : 0;
}

/* Pages [first, first + n) are now in the slots at the head. */
static void moved_out(struct larder_memory *m, size_t first, size_t n)
{
	struct larder_staging *s = &m->staging;

	for (size_t i = 0; i < n; i++) {
		const struct larder_page *page = &m->region.pages[first + i];
		uint32_t slot = staging_slot(s->head++);

		s->owner[slot] = (uint32_t)(first + i);
		s->refusals[slot] = (uint8_t)refusals_of(page);
		s->writing[slot] = 0;
		if (page_load(page) & PAGE_COPY)
			s->checksum[slot] = store_kept_checksum(&m->store, page->handle);
		release(m, first + i, page_word_staged(slot));
	}
	staging_publish(s);
	region_count(&m->region, first, LARDER_PAGES_RESIDENT, -(int64_t)n);
	region_count(&m->region, first, LARDER_PAGES_STAGED, (int64_t)n);
	STATS_ADD(staged, n);
}

/*
 * EBUSY after a fork means that the kernel still takes the pages for shared, even when the child is gone. Populating
 * them for writing gives the process its own copies without changing a byte; the next turn of the clock can move them.
 * Pages pinned for DMA are their own copies already and stay busy.
 */
static void unshare(struct larder_memory *m, size_t first, size_t n)
{
	if (!atomic_load_explicit(&m->has_forked, memory_order_relaxed))
		return;
	if (sys_madvise(region_address(&m->region, first), n * PAGE_BYTES, MADV_POPULATE_WRITE) == 0)
		STATS_ADD(unshared, n);
}

/*
 * Pages that the kernel moved without counting them. From Linux 6.18 on, when UFFDIO_MOVE has to try a page again
 * (EAGAIN inside), the batch that then succeeds is not counted; it is tried a third time and found in its place:
 * EEXIST. (mm/userfaultfd.c, move_pages(): `err` keeps its old value when move_pages_ptes() succeeds.) Slots at the
 * head were empty, so those that are not any more hold our pages. Returns how many of the n slots at the head are
 * filled.
 */
static size_t moved_uncounted(const struct larder_memory *m, size_t n)
{
	const uint64_t present_or_swapped = (uint64_t)3 << 62;
	uint64_t entries[EVICT_BATCH];
	uintptr_t slot = (uintptr_t)staging_address(&m->staging, staging_slot(m->staging.head));
	long bytes = sys_call6(SYS_pread64, m->pagemap, (long)entries, (long)(n * sizeof(*entries)),
			       (long)(slot / PAGE_BYTES * sizeof(*entries)), 0, 0);
	size_t read = bytes > 0 ? (size_t)bytes / sizeof(*entries) : 0, filled = 0;

	while (filled < read && entries[filled] & present_or_swapped)
		filled++;
	return filled;
}

/* UFFDIO_MOVE refused the first of n owned pages. Releases at least that one; returns how many. */
static size_t move_refused(struct larder_memory *m, size_t first, size_t n, long err)
{
	size_t settled;

	switch (err) {
	case -EBUSY:
		STATS_ADD(move_busy, n);
		for (size_t i = 0; i < n; i++)
			release(m, first + i, page_word_resident(CREDIT_UNSHARED));
		unshare(m, first, n);
		return n;
	case -ENOENT: /* the program threw the page away without telling us: it reads as zeroes */
		region_count(&m->region, first, LARDER_PAGES_RESIDENT, -1);
		forget_copy(m, first);
		release(m, first, PAGE_FRESH);
		return 1;
	case -ESRCH: /* the process is exiting */
		for (;;)
			sys_sleep_ns(1000000000);
	case -EEXIST:
		settled = moved_uncounted(m, n);
		if (settled == 0)
			log_panic("the kernel says that an empty staging slot is not empty",
				  staging_slot(m->staging.head));
		STATS_ADD(move_uncounted, settled);
		moved_out(m, first, settled);
		return settled;
	default: /* EINVAL: mlocked or protected memory; ENOMEM: no page tables; EFAULT */
		forget_copy(m, first);
		hold(&m->region.pages[first], 0);
		release(m, first, page_word_resident(PAGE_HELD));
		return 1;
	}
}

/* Move the owned (MOVING) pages [first, first + n) into staging; there is room. Returns the pages staged. */
static size_t move_run(struct larder_memory *m, size_t first, size_t n)
{
	size_t staged = 0, batch = n;
	unsigned retries = 0;

	while (n > 0) {
		char *slot = staging_address(&m->staging, staging_slot(m->staging.head));
		size_t settled;
		long done;

		STATS_ADD(moves, 1);
		batch = batch < n ? batch : n;
		done = uffd_move(m->uffd, slot, region_address(&m->region, first), batch * PAGE_BYTES);
		if (done > 0) {
			settled = (size_t)done / PAGE_BYTES;
			moved_out(m, first, settled);
			staged += settled;
		} else if (done == -EAGAIN && ++retries < MOVE_RETRY_LIMIT) {
			sys_yield();
			continue;
		} else if (done == -EINVAL && batch > 1) {
			batch = 1; /* a batch may not span mappings (mprotect and madvise split them) */
			continue;
		} else {
			settled = move_refused(m, first, batch, done);
		}
		first += settled;
		n -= settled;
	}
	return staged;
}

/* What a sweep looks for. */
struct sweep {
	unsigned pool; /* REGION_HEAP = every pool */
	int at_once;   /* credit does not count, and none is taken */
	uint64_t now_ns;
};

/*
 * Own the page if it is to leave on this turn; else take one credit from it. A page that is pinned or volatile stays:
 * its KEPT bit is looked at when the page is owned, so that whoever sets it after that finds the page MOVING
 * (volatile.c).
 */
static int choose(struct larder_memory *m, size_t index, const struct sweep *sweep)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page);

	if (page_state(word) != PAGE_RESIDENT || region_bit(m->region.kept, index))
		return 0;
	if (page_credit(word) == PAGE_HELD) {
		if (is_held(page, word, sweep->now_ns))
			return 0;
	} else if (page_credit(word) > 0 && !sweep->at_once) {
		page_change(page, &word, word - ((uint64_t)1 << PAGE_CREDIT_SHIFT));
		return 0;
	}
	if (!page_acquire(page, &word, PAGE_MOVING))
		return 0;
	if (!region_bit(m->region.kept, index))
		return 1;
	release(m, index, page_word_resident(0));
	return 0;
}

/* Sweep pages [*hand, end), all in one chunk whose lock is held. Stops when `want` pages are staged. */
static size_t sweep_chunk(struct larder_memory *m, size_t *hand, size_t end, size_t want, const struct sweep *sweep)
{
	size_t staged = 0;

	while (*hand < end && staged < want) {
		size_t first = *hand, n = 0, room = staging_room(&m->staging);

		if (room > EVICT_BATCH)
			room = EVICT_BATCH;
		if (room == 0)
			break;
		while (n < room && first + n < end && choose(m, first + n, sweep))
			n++;
		*hand = first + n;
		if (n)
			staged += move_run(m, first, n);
		else
			++*hand;
	}
	return staged;
}

/* May pages of this chunk leave for a tier? */
static int is_swappable(const struct larder_memory *m, const struct larder_chunk *c, unsigned pool)
{
	if (!chunk_is_watched(c) || !chunk_is_used(c) || (pool != REGION_HEAP && c->owner.pool != pool))
		return 0;
	return pressure_tiers(m, c->owner.pool) != 0;
}

size_t evict_sweep(struct larder_memory *m, unsigned pool, uint64_t now_ns, size_t *hand, size_t want, unsigned *turns)
{
	const struct sweep sweep = { .pool = pool, .now_ns = now_ns };
	size_t used = region_used_pages(&m->region), staged = 0, examined = 0;

	while (staged < want && examined < used && staging_room(&m->staging) > 0) {
		size_t start, end;
		struct larder_chunk *c;

		if (*hand >= used) {
			*hand = 0;
			++*turns;
		}
		start = *hand;
		c = region_chunk(&m->region, start);
		end = start - start % CHUNK_PAGES + CHUNK_PAGES;
		if (!is_swappable(m, c, pool)) {
			*hand = end;
		} else {
			pressure_lock(m, &c->lock);
			staged += sweep_chunk(m, hand, end, want - staged, &sweep);
			mutex_unlock(&c->lock);
		}
		examined += *hand - start;
	}
	return staged;
}

int evict_watch(struct larder_memory *m, size_t chunk)
{
	struct larder_chunk *c = &m->region.chunks[chunk];
	int err;

	pressure_lock(m, &c->lock);
	err = region_watch(&m->region, chunk, c->owner.inline_faults ? m->inline_uffd : m->uffd, m->pagemap);
	mutex_unlock(&c->lock);
	return err;
}

size_t evict_range(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t first,
		   size_t pages)
{
	const struct sweep sweep = { .at_once = 1, .now_ns = EVICT_HELD_TOO };
	size_t hand = first, evicted = 0;

	while (hand < first + pages) {
		size_t end = hand - hand % CHUNK_PAGES + CHUNK_PAGES;
		struct larder_chunk *c = region_chunk(&m->region, hand);

		end = end < first + pages ? end : first + pages;
		if (!is_swappable(m, c, REGION_HEAP)) {
			hand = end;
			continue;
		}
		pressure_lock(m, &c->lock);
		sweep_chunk(m, &hand, end, CHUNK_PAGES, &sweep);
		mutex_unlock(&c->lock);
		evicted += evict_write_all(m, w, so);
	}
	return evicted;
}

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
	release(m, index, PAGE_FRESH);
}

/* No tier takes a page: it goes back to where it came from. */
static void put_back(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t word, unsigned credit)
{
	uint32_t slot = page_slot(word);

	if (!page_acquire(&m->region.pages[index], &word, PAGE_RESTORING))
		return;
	if (credit == PAGE_HELD) {
		unsigned refusals = m->staging.refusals[slot];

		hold(&m->region.pages[index], refusals < HOLD_REFUSALS_MAX ? refusals : HOLD_REFUSALS_MAX);
	}
	if (restore_pages(m, w, index, &word, 1, credit) == 0)
		forget_unmapped(m, index, slot);
}

/* The store has the page: say so, unless the program has taken it back meanwhile. Returns the pages evicted. */
static size_t commit(struct larder_memory *m, struct larder_swap_out *so, size_t index, uint64_t word,
		     struct store_place place)
{
	struct larder_page *page = &m->region.pages[index];

	page->handle = place.handle;
	if (!page_change(page, &word, swap_out_word_stored(m, so, place.tier))) {
		store_drop(&m->store, place);
		return 0;
	}
	region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
	region_count(&m->region, index, place.tier ? LARDER_PAGES_STORED : LARDER_PAGES_SAME, 1);
	STATS_ADD(evictions, 1);
	if (place.tier == STORE_TIER_SAME)
		STATS_ADD(same_filled, 1);
	return 1;
}

/*
 * A page with a copy on disk: if it is still the same, it is evicted. Else the copy is of no use any more. The bytes
 * decide, by their checksum: no flag could say whether the page was written to just before it was moved.
 */
static int is_evicted_by_copy(struct larder_memory *m, size_t index, uint64_t position, uint64_t *word)
{
	struct larder_page *page = &m->region.pages[index];
	const struct store_tier *disk = m->store.disk;
	int same = compress_checksum(m, position) == m->staging.checksum[staging_slot(position)];
	uint64_t to =
		same ? page_word_stored(STORE_TIER_FIRST + (unsigned)(disk - m->store.tiers)) : *word & ~PAGE_COPY;

	if (!page_change(page, word, to))
		return 0; /* taken back, copy and all, or discarded */
	if (!same) {
		*word = to;
		swap_out_forget_copy(m, index);
		return 0;
	}
	region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
	region_count(&m->region, index, LARDER_PAGES_STORED, 1);
	STATS_ADD(copies, -1);
	STATS_ADD(evictions, 1);
	STATS_ADD(clean_evictions, 1);
	return 1;
}

/* Put a staged page into the store, or, if no tier in RAM gains by it, on its way to disk (-EINPROGRESS); -ECANCELED
 * when it has become volatile or pinned. See memory.h: writing. */
static int put(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so, size_t index,
	       uint64_t position, struct store_place *place)
{
	uint32_t tiers = pressure_tiers(m, region_chunk(&m->region, index)->owner.pool);
	struct larder_object object = compress_object(m, position);
	int err;

	atomic_store(&m->writing, index + 1);
	if (region_bit(m->region.kept, index))
		err = -ECANCELED;
	else
		err = store_put(&m->store, tiers, &object, place);
	if (err == -E2BIG && tiers & store_disk_bit(&m->store)) {
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

	*err = 0;
	if (!page_is_staged_in(word, slot) || m->staging.writing[slot]) /* taken back or discarded; or on its way */
		return 0;
	if (word & PAGE_COPY && is_evicted_by_copy(m, index, position, &word))
		return 1;
	if (word != page_word_staged(slot))
		return 0;
	*err = put(m, w, so, index, position, &place);
	if (!*err)
		return commit(m, so, index, word, place);
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

/* Empty the slots at the tail whose pages are elsewhere. */
static size_t empty_slots(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so)
{
	struct larder_staging *s = &m->staging;
	size_t evicted = 0;
	uint64_t n = 0;

	while (s->tail < s->cursor) {
		uint32_t first = staging_slot(s->tail);
		uint64_t most = s->cursor - s->tail, to_end = STAGING_MAX_SLOTS - first;

		most = most < EVICT_BATCH ? most : EVICT_BATCH;
		most = most < to_end ? most : to_end;
		for (n = 0; n < most && is_done(m, w, so, s->tail + n, &evicted); n++)
			;
		if (n)
			sys_madvise(staging_address(s, first), n * PAGE_BYTES, MADV_DONTNEED);
		s->tail += n;
		staging_publish(s);
		if (n < most)
			break;
	}
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
		compress_ahead(m);
		evicted += write_slot(m, w, so, s->cursor, &err);
		if (err == -EBUSY)
			break;
	}
	return evicted + empty_slots(m, w, so);
}

size_t evict_write_all(struct larder_memory *m, struct larder_restorer *w, struct larder_swap_out *so)
{
	struct larder_staging *s = &m->staging;
	uint64_t since = sys_now_ns();
	size_t evicted = 0;

	for (;;) {
		uint64_t tail = s->tail, cursor = s->cursor;

		evicted += evict_write_out(m, w, so);
		if (s->tail == s->head)
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
