/*
 * Sweep. See evict.h.
 *
 * The hand walks the page table in address order. It is a FIFO with second chances (CLOCK, Corbato 1968), generalised
 * by the page's credit. Pages that stand next to each other in memory move together: one UFFDIO_MOVE is one TLB
 * shootdown, whatever its length.
 */
#include "evict_parts.h"

#include "stats.h"
#include "sys.h"
#include "uffd.h"

/* Credit for pages that a fork had left shared: they can be tried at once. */
enum { CREDIT_UNSHARED = 0 };

/*
 * Pages that cannot leave - incompressible, or in memory that cannot be moved - are held for a time, not for a number
 * of turns: the less there is that can leave, the faster the clock turns. The time doubles with each refusal in a row.
 */
#define HOLD_MIN_NS ((uint64_t)1 << 30)
enum { HOLD_REFUSALS_MAX = 6 };

enum { MOVE_RETRY_LIMIT = 1000 };

void evict_release(struct larder_memory *m, size_t index, uint64_t to)
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
void evict_hold(struct larder_page *page, unsigned refusals)
{
	if (refusals > HOLD_REFUSALS_MAX)
		refusals = HOLD_REFUSALS_MAX;
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
		evict_release(m, first + i, page_word_staged(slot));
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
			evict_release(m, first + i, page_word_resident(CREDIT_UNSHARED));
		unshare(m, first, n);
		return n;
	case -ENOENT: /* the program threw the page away without telling us: it reads as zeroes */
		region_count(&m->region, first, LARDER_PAGES_RESIDENT, -1);
		forget_copy(m, first);
		evict_release(m, first, PAGE_FRESH);
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
		evict_hold(&m->region.pages[first], 0);
		evict_release(m, first, page_word_resident(PAGE_HELD));
		return 1;
	}
}

/* Owned pages go back as they were: the reclaim thread will see to them. */
static void leave(struct larder_memory *m, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++)
		evict_release(m, i, page_word_resident(page_credit(page_load(&m->region.pages[i]))));
}

/* Move the owned (MOVING) pages [first, first + n) into staging; there is room. */
static void move_run(struct larder_memory *m, struct evict_sweep *sweep, size_t first, size_t n)
{
	size_t batch = n;
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
			sweep->staged += settled;
		} else if (sweep->never_waits && done != -EEXIST) {
			leave(m, first, n);
			sweep->is_stuck = 1;
			return;
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
}

/*
 * Own the page if it is to leave on this turn; else take one credit from it. A page that is pinned or volatile stays:
 * its KEPT bit is looked at when the page is owned, so that whoever sets it after that finds the page MOVING
 * (volatile.c).
 */
static int choose(struct larder_memory *m, size_t index, const struct evict_sweep *sweep)
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
	evict_release(m, index, page_word_resident(0));
	return 0;
}

void evict_sweep_chunk(struct larder_memory *m, struct evict_sweep *s, size_t end)
{
	while (*s->hand < end && s->staged < s->want && !s->is_stuck) {
		size_t first = *s->hand, n = 0, room = staging_room(&m->staging);

		if (room > EVICT_BATCH)
			room = EVICT_BATCH;
		if (room == 0)
			break;
		while (n < room && first + n < end && choose(m, first + n, s))
			n++;
		if (n)
			move_run(m, s, first, n);
		*s->hand = s->is_stuck ? first : first + (n ? n : 1);
	}
}

int evict_may_take(const struct larder_memory *m, const struct larder_chunk *c, unsigned pool)
{
	if (!chunk_is_watched(c) || !chunk_is_used(c) || (pool != REGION_HEAP && c->owner.pool != pool))
		return 0;
	return pressure_tiers(m, c->owner.pool) != 0;
}

/* Returns 0 when that would mean to wait. */
static int lock(struct larder_memory *m, const struct evict_sweep *s, struct larder_chunk *c)
{
	if (s->never_waits)
		return mutex_trylock(&c->lock);
	pressure_lock(m, &c->lock);
	return 1;
}

void evict_sweep(struct larder_memory *m, struct evict_sweep *s)
{
	size_t used = region_used_pages(&m->region), look_at = s->look_at ? s->look_at : used, looked_at = 0;

	while (s->staged < s->want && looked_at < look_at && !s->is_stuck && staging_room(&m->staging) > 0) {
		size_t start, end;
		struct larder_chunk *c;

		if (*s->hand >= used) {
			*s->hand = 0;
			s->turns++;
		}
		start = *s->hand;
		c = region_chunk(&m->region, start);
		end = start - start % CHUNK_PAGES + CHUNK_PAGES;
		if (!evict_may_take(m, c, s->pool)) {
			*s->hand = end;
		} else if (lock(m, s, c)) {
			evict_sweep_chunk(m, s, end);
			mutex_unlock(&c->lock);
		} else {
			s->is_stuck = 1;
		}
		looked_at += *s->hand - start;
	}
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
