/*
 * Inherit. See inherit.h.
 */
#include "inherit.h"

#include "stats.h"
#include "sys.h"
#include "thread.h"

/* One bit for each object of a tier: some page names it. */
struct named {
	_Atomic uint64_t *bits[STORE_TIER_FIRST + LARDER_TIERS_MAX];
	int64_t same_pages, copies;
};

static size_t bits_bytes(const struct larder_memory *m)
{
	return m->region.bytes / PAGE_BYTES / 8;
}

static void close_named(const struct larder_memory *m, struct named *n)
{
	for (unsigned tier = 0; tier < STORE_TIER_FIRST + LARDER_TIERS_MAX; tier++)
		if (n->bits[tier])
			sys_munmap((void *)n->bits[tier], bits_bytes(m));
}

/* Where there is no memory for it, everything counts as named. */
static void open_named(const struct larder_memory *m, struct named *n)
{
	for (unsigned i = 0; i < m->store.ntiers; i++)
		n->bits[STORE_TIER_FIRST + i] = sys_map(bits_bytes(m));
}

static int is_named(void *arg, unsigned tier, uint64_t handle)
{
	const struct named *n = arg;

	return !n->bits[tier] || region_bit(n->bits[tier], handle);
}

static void name(const struct named *n, unsigned tier, uint64_t handle)
{
	if (n->bits[tier])
		region_set_bits(n->bits[tier], handle, 1);
}

/* What an absent page is. */
static uint64_t absent(const struct larder_memory *m, uint64_t word)
{
	switch (page_state(word)) {
	case PAGE_POISONED: /* the poison is gone, so it was discarded */
		return PAGE_FRESH | (word & PAGE_TRAP);
	case PAGE_STORED: /* where the child has no tier, the page could not be brought back from it before the fork */
		return page_tier(word) < STORE_TIER_FIRST + m->store.ntiers ? page_with_ticket(word, 0)
									    : PAGE_FRESH | PAGE_TRAP;
	default:
		return word;
	}
}

/* What a page is that is present. */
static uint64_t present(uint64_t word)
{
	switch (page_state(word)) {
	case PAGE_RESIDENT:
	case PAGE_POISONED:
		return word;
	default:
		return page_word_resident(0) | (word & PAGE_COPY);
	}
}

static void settle_page(struct larder_memory *m, size_t index, int is_present, struct named *n)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page), to = page_is_busy(word) ? page_word_before(word) : word;

	if (word == PAGE_FRESH && !is_present) /* most of an unused chunk: not written to, so not copied */
		return;
	if (is_present && to & PAGE_COPY)
		page->handle = page_copy_handle(page); /* it may have been coming back */
	to = is_present ? present(to) : absent(m, to);
	if (to & PAGE_COPY && !m->store.disk) {
		page->handle = page_handle(page, to);
		to &= ~PAGE_COPY;
	}
	if (page_state(to) == PAGE_STORED && page_tier(to) != STORE_TIER_SAME)
		name(n, page_tier(to), page_handle(page, to));
	if (to & PAGE_COPY)
		name(n, store_disk_tier(&m->store), page_copy_handle(page));
	n->copies += (to & PAGE_COPY) != 0;
	n->same_pages += page_state(to) == PAGE_STORED && page_tier(to) == STORE_TIER_SAME;
	if (to != word)
		atomic_store_explicit(&page->word, to, memory_order_relaxed);
}

/* ---- what the program has said about forks, and what no child inherits ---- */

static void forget_content(struct larder_memory *m, size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++)
		atomic_store_explicit(&m->region.pages[i].word, PAGE_FRESH, memory_order_relaxed);
}

/* For each run of pages of a chunk that have the bit. */
static void for_each_run(struct larder_memory *m, const _Atomic uint64_t *bits, size_t chunk,
			 void (*function)(struct larder_memory *m, size_t first, size_t pages))
{
	size_t first = chunk * CHUNK_PAGES, end = first + CHUNK_PAGES;

	for (size_t n; first < end; first += n) {
		n = region_run(bits, first, end);
		if (region_bit(bits, first))
			function(m, first, n);
	}
}

/*
 * MADV_DONTFORK has left a hole, which nothing else may get into: the child's memory there is empty and inaccessible.
 * This is before the child has other threads, so nothing has.
 */
static void plug(struct larder_memory *m, size_t first, size_t pages)
{
	sys_mmap(region_address(&m->region, first), pages * PAGE_BYTES, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1);
	if (!region_bit(m->region.foreign, first))
		forget_content(m, first, pages);
	region_clear_bits(m->region.unforked, first, pages);
	region_clear_bits(m->region.foreign, first, pages);
	m->region.chunks[first / CHUNK_PAGES].allocated_pages -=
		(uint32_t)region_count_bits(m->region.charged, first, pages);
	region_clear_bits(m->region.charged, first, pages);
}

/* Locks on memory are not inherited. */
static void leave_out(struct larder_memory *m, size_t chunk)
{
	const struct larder_chunk *c = &m->region.chunks[chunk];

	if (chunk_is_marked(c, CHUNK_HAS_UNFORKED))
		for_each_run(m, m->region.unforked, chunk, plug);
	if (chunk_is_marked(c, CHUNK_HAS_WIPED))
		for_each_run(m, m->region.wiped, chunk, forget_content);
	if (chunk_is_marked(c, CHUNK_HAS_LOCKED) && c->owner.pool == REGION_HEAP)
		region_clear_bits(m->region.kept, chunk * CHUNK_PAGES, CHUNK_PAGES);
}

static long present_pages(const struct larder_memory *m, size_t first, size_t pages, unsigned char *is_present)
{
	return sys_call3(SYS_mincore, (long)region_address(&m->region, first), (long)(pages * PAGE_BYTES),
			 (long)is_present);
}

/* Something foreign was not to be in the child, and came here from elsewhere with that mark. */
static void plug_holes(struct larder_memory *m, size_t first)
{
	unsigned char is_present;

	for (size_t i = first; i < first + CHUNK_PAGES; i++)
		if (present_pages(m, i, 1, &is_present) == -ENOMEM)
			plug(m, i, 1);
}

/*
 * mincore(2) says for memory like this which pages are there, poisoned ones included. One that the kernel has swapped
 * out counts as absent; that is no harm: its word says RESIDENT, since what came back a moment ago is not swapped out.
 */
static void settle_chunk(struct larder_memory *m, size_t chunk, struct named *n)
{
	unsigned char is_present[CHUNK_PAGES];
	size_t first = chunk * CHUNK_PAGES;
	long err = present_pages(m, first, CHUNK_PAGES, is_present);

	if (err == -ENOMEM) { /* a hole */
		plug_holes(m, first);
		err = present_pages(m, first, CHUNK_PAGES, is_present);
	}
	if (err) /* EAGAIN: none that could be waited for */
		log_panic("a forked child cannot tell which pages it has (errno)", -err);
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		if (!region_bit(m->region.foreign, first + i))
			settle_page(m, first + i, is_present[i] & 1, n);
}

/* Locks and requests of threads that are not here. */
static void forget_threads(struct larder_memory *m)
{
	struct larder_pressure p = {
		.fixed_bytes = m->pressure.fixed_bytes,
		.shared_bytes = m->pressure.shared_bytes,
		.other_bytes = m->pressure.other_bytes,
	};
	size_t chunks = region_used_chunks(&m->region);

	thread_inherit();
	m->region.grow_lock = (struct larder_mutex){ 0 };
	for (size_t c = 0; c < chunks; c++)
		if (atomic_load(&m->region.chunks[c].lock.word))
			m->region.chunks[c].lock = (struct larder_mutex){ 0 };
	__builtin_memcpy(&m->pressure, &p, sizeof(p));
	m->swap_in = (struct larder_swap_in){ 0 };
	m->unseen.lock = (struct larder_mutex){ 0 };
	m->writing = m->lost_report = 0;
	for (uint64_t at = m->staging.tail; at < m->staging.head; at++)
		m->staging.writing[staging_slot(at)] = 0;
	compress_inherit(&m->compress, m->staging.cursor);
}

void inherit(struct larder_memory *m, int keep_disk)
{
	struct named named = { 0 };
	size_t chunks = region_used_chunks(&m->region);

	forget_threads(m);
	if (!keep_disk)
		store_lose_disk(&m->store);
	open_named(m, &named);
	for (size_t c = 0; c < chunks; c++) {
		leave_out(m, c);
		if (chunk_is_watched(&m->region.chunks[c]) && chunk_is_used(&m->region.chunks[c]))
			settle_chunk(m, c, &named);
	}
	region_recount(&m->region);
	STATS_SET(copies, (uint64_t)named.copies);
	store_inherit(&m->store, is_named, &named, named.same_pages);
	close_named(m, &named);
}

/* ---- without internal threads ---- */

static void lose(const struct larder_memory *m, size_t index)
{
	sys_mprotect(region_address(&m->region, index), PAGE_BYTES, PROT_NONE);
}

static int fetch(struct larder_memory *m, int disk_fd, void *scratch, struct store_place place, char *page)
{
	if (store_is_on_disk(&m->store, place.tier))
		return store_read_now(&m->store, scratch, disk_fd, place, page);
	return store_get(&m->store, scratch, place, page);
}

static void restore_page(struct larder_memory *m, int disk_fd, size_t index, void *scratch)
{
	uint64_t word = page_load(&m->region.pages[index]);
	char *page = region_address(&m->region, index);
	struct store_place place = store_place_of(&m->region.pages[index], word);

	if (word & PAGE_TRAP)
		lose(m, index);
	else if (page_state(word) == PAGE_STAGED)
		__builtin_memcpy(page, staging_address(&m->staging, page_slot(word)), PAGE_BYTES);
	else if (page_state(word) == PAGE_STORED && fetch(m, disk_fd, scratch, place, page))
		lose(m, index);
}

void inherit_restore(struct larder_memory *m, int disk_fd)
{
	size_t used = region_used_pages(&m->region);
	void *scratch = store_scratch(&m->store);

	for (size_t i = 0; i < used; i++)
		if (chunk_is_watched(region_chunk(&m->region, i)))
			restore_page(m, disk_fd, i, scratch);
	store_scratch_free(&m->store, scratch);
}
