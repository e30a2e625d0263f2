/*
 * The region and its table. See region.h.
 */
#include "region.h"

#include "linux_userfaultfd.h"
#include "stats.h"
#include "sys.h"
#include "uffd.h"

enum { REGION_MIN_SHIFT = 30, BITMAPS = 6 };

_Static_assert(sizeof(struct larder_page) <= 16, "a page costs at most 16 bytes of metadata");

static void *reserve(size_t bytes, int prot)
{
	void *p = sys_mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	return sys_is_error(p) ? NULL : p;
}

static size_t pages_bytes(size_t bytes)
{
	return (bytes >> PAGE_SHIFT) * sizeof(struct larder_page);
}

static size_t chunks_bytes(size_t bytes)
{
	return (bytes >> CHUNK_SHIFT) * sizeof(struct larder_chunk);
}

static size_t segments_bytes(size_t bytes)
{
	return (bytes >> PAGE_SHIFT) * sizeof(uint32_t);
}

static size_t bits_bytes(size_t bytes)
{
	return (bytes >> PAGE_SHIFT) / 8;
}

/*
 * The table of pages lies directly above the pages. A fork copies mappings in the order of their addresses, and nobody
 * can change one from when it is copied until all are: so what the table says in a child was said when the pages could
 * not come or go any more (inherit.h).
 */
static char *reserve_region(size_t bytes, struct larder_page **pages)
{
	size_t slack = CHUNK_BYTES, all = bytes + pages_bytes(bytes); /* mmap aligns to pages, chunks want 2 MiB */
	char *p = reserve(all + slack, PROT_NONE);
	char *base = (char *)(((uintptr_t)p + slack - 1) & ~(uintptr_t)(slack - 1));

	if (!p)
		return NULL;
	if (base > p)
		sys_munmap(p, (size_t)(base - p));
	if (base < p + slack)
		sys_munmap(base + all, (size_t)(p + slack - base));
	if (sys_mprotect(base + bytes, pages_bytes(bytes), PROT_READ | PROT_WRITE) < 0) {
		sys_munmap(base, all);
		return NULL;
	}
	*pages = (struct larder_page *)(void *)(base + bytes);
	return base;
}

/* See sys_map(). */
static void dont_dump(const struct larder_region *r, size_t bytes)
{
	sys_madvise(r->pages, pages_bytes(bytes), MADV_DONTDUMP);
	sys_madvise(r->chunks, chunks_bytes(bytes), MADV_DONTDUMP);
	sys_madvise((void *)r->segment_of, segments_bytes(bytes), MADV_DONTDUMP);
	sys_madvise((void *)r->kept, BITMAPS * bits_bytes(bytes), MADV_DONTDUMP);
}

/* All bits of all pages, in one mapping. */
static int map_bits(struct larder_region *r, size_t bytes)
{
	_Atomic uint64_t **maps[BITMAPS] = { &r->kept, &r->lost, &r->charged, &r->foreign, &r->unforked, &r->wiped };
	char *bits = reserve(BITMAPS * bits_bytes(bytes), PROT_READ | PROT_WRITE);

	for (unsigned i = 0; bits && i < BITMAPS; i++)
		*maps[i] = (_Atomic uint64_t *)(void *)(bits + i * bits_bytes(bytes));
	return bits ? 0 : -ENOMEM;
}

static int map_region(struct larder_region *r, size_t bytes)
{
	r->base = reserve_region(bytes, &r->pages);
	r->bytes = bytes;
	r->chunks = reserve(chunks_bytes(bytes), PROT_READ | PROT_WRITE);
	r->segment_of = reserve(segments_bytes(bytes), PROT_READ | PROT_WRITE);
	if (r->pages && r->chunks && r->segment_of && map_bits(r, bytes) == 0) {
		dont_dump(r, bytes);
		/* A huge page of table would cost RAM for pages that nobody watches. */
		sys_madvise(r->pages, pages_bytes(bytes), MADV_NOHUGEPAGE);
		sys_madvise((void *)r->segment_of, segments_bytes(bytes), MADV_NOHUGEPAGE);
		return 0;
	}
	region_close(r);
	return -ENOMEM;
}

int region_open(struct larder_region *r, size_t max_bytes)
{
	int err = -ENOMEM;

	for (size_t bytes = max_bytes; err && bytes >> REGION_MIN_SHIFT; bytes /= 2)
		err = map_region(r, bytes);
	if (!err)
		STATS_SET(reserved_bytes, r->bytes);
	return err;
}

static void unmap(void *p, size_t bytes)
{
	if (p)
		sys_munmap(p, bytes);
}

void region_close(struct larder_region *r)
{
	unmap(r->base, r->bytes + pages_bytes(r->bytes));
	unmap(r->chunks, chunks_bytes(r->bytes));
	unmap((void *)r->segment_of, segments_bytes(r->bytes));
	unmap((void *)r->kept, BITMAPS * bits_bytes(r->bytes));
	*r = (struct larder_region){ 0 };
}

/* Part of [first, first + pages) that lies in one chunk: how many pages. */
static size_t in_chunk(size_t first, size_t pages)
{
	size_t n = CHUNK_PAGES - first % CHUNK_PAGES;

	return n < pages ? n : pages;
}

/* Pages [first, first + pages) have been handed out: tell their chunks. */
static void charge(struct larder_region *r, size_t first, size_t pages)
{
	/* In a forked child nothing is counted, and another thread of the parent may have held a chunk's lock. */
	if (atomic_load_explicit(&r->detached, memory_order_relaxed))
		return;
	for (size_t n; pages > 0; first += n, pages -= n) {
		struct larder_chunk *c = region_chunk(r, first);

		n = in_chunk(first, pages);
		mutex_lock(&c->lock);
		c->allocated_pages += (uint32_t)n;
		if (!chunk_is_watched(c))
			region_count(r, first, LARDER_PAGES_UNTRACKED, (int64_t)n);
		mutex_unlock(&c->lock);
	}
}

/* Charge pages of one chunk, or with sign -1 uncharge them. */
static void recharge(struct larder_region *r, size_t first, size_t pages, int sign)
{
	struct larder_chunk *c = region_chunk(r, first);
	size_t changed;

	mutex_lock(&c->lock);
	changed = region_count_bits(r->charged, first, pages);
	if (sign > 0)
		changed = pages - changed;
	if (sign > 0)
		region_set_bits(r->charged, first, pages);
	else
		region_clear_bits(r->charged, first, pages);
	c->allocated_pages += (uint32_t)(sign * (int)changed);
	if (!chunk_is_watched(c))
		region_count(r, first, LARDER_PAGES_UNTRACKED, sign * (int64_t)changed);
	mutex_unlock(&c->lock);
	STATS_ADD(allocated_bytes, sign * (int64_t)(changed * PAGE_BYTES));
}

static void recharge_all(struct larder_region *r, size_t first, size_t pages, int sign)
{
	if (atomic_load_explicit(&r->detached, memory_order_relaxed))
		return;
	for (size_t n; pages > 0; first += n, pages -= n) {
		n = in_chunk(first, pages);
		recharge(r, first, n, sign);
	}
}

void region_charge(struct larder_region *r, size_t first, size_t pages)
{
	recharge_all(r, first, pages, 1);
}

void region_uncharge(struct larder_region *r, size_t first, size_t pages)
{
	recharge_all(r, first, pages, -1);
}

static int make_writable(struct larder_region *r, size_t up_to)
{
	size_t end = (up_to + CHUNK_BYTES - 1) & ~(size_t)(CHUNK_BYTES - 1);

	if (end <= r->writable)
		return 0;
	if (sys_mprotect(r->base + r->writable, end - r->writable, PROT_READ | PROT_WRITE) < 0)
		return -ENOMEM;
	r->writable = end;
	return 0;
}

/* Hand out [start, start + bytes) of the region; what is used ends at `end` then. */
static void *take(struct larder_region *r, size_t start, size_t bytes, size_t end)
{
	if (start > r->bytes || bytes > r->bytes - start || make_writable(r, start + bytes) < 0)
		return NULL;
	charge(r, start >> PAGE_SHIFT, bytes >> PAGE_SHIFT);
	atomic_store_explicit(&r->top, end, memory_order_release);
	STATS_ADD(allocated_bytes, bytes);
	return r->base + start;
}

/* The first offset at or above `from` whose address is aligned. The base is aligned to 2 MiB. */
static size_t align_offset(const struct larder_region *r, size_t from, size_t alignment)
{
	if (alignment <= CHUNK_BYTES)
		return (from + alignment - 1) & ~(alignment - 1);
	return (((uintptr_t)r->base + from + alignment - 1) & ~(alignment - 1)) - (uintptr_t)r->base;
}

void *region_alloc(struct larder_region *r, size_t bytes, size_t alignment, void *at)
{
	void *p = NULL;
	size_t start;

	mutex_lock(&r->grow_lock);
	start = align_offset(r, atomic_load_explicit(&r->top, memory_order_relaxed), alignment);
	if (!at || r->base + start == (char *)at)
		p = take(r, start, bytes, start + bytes);
	mutex_unlock(&r->grow_lock);
	return p;
}

void *region_alloc_chunks(struct larder_region *r, struct region_owner owner, size_t bytes, size_t alignment)
{
	size_t start, end;
	void *p = NULL;

	mutex_lock(&r->grow_lock);
	start = align_offset(r, atomic_load_explicit(&r->top, memory_order_relaxed),
			     alignment > CHUNK_BYTES ? alignment : CHUNK_BYTES);
	end = align_offset(r, start + bytes, CHUNK_BYTES);
	if (start <= r->bytes && end <= r->bytes && start <= end) {
		for (size_t c = start >> CHUNK_SHIFT; c < end >> CHUNK_SHIFT; c++)
			r->chunks[c].owner = owner;
		p = take(r, start, bytes, end);
		if (owner.kind == CHUNK_RANGES)
			atomic_fetch_add(&r->range_chunks, (uint32_t)((end - start) >> CHUNK_SHIFT));
	}
	mutex_unlock(&r->grow_lock);
	return p;
}

void *region_reserve(struct larder_region *r, size_t bytes)
{
	const struct region_owner owner = { .pool = REGION_HEAP, .kind = CHUNK_MAPPING };
	size_t start, end;
	void *p = NULL;

	mutex_lock(&r->grow_lock);
	start = align_offset(r, atomic_load_explicit(&r->top, memory_order_relaxed), CHUNK_BYTES);
	end = start + bytes;
	if (start <= r->bytes && bytes <= r->bytes - start && make_writable(r, start) == 0) {
		for (size_t c = start >> CHUNK_SHIFT; c < end >> CHUNK_SHIFT; c++)
			r->chunks[c].owner = owner;
		if (r->writable < end)
			r->writable = end; /* what lies there is made accessible as the program wants it */
		atomic_store_explicit(&r->top, end, memory_order_release);
		p = r->base + start;
	}
	mutex_unlock(&r->grow_lock);
	return p;
}

/* The bits of the word that holds page `first`: those of pages [first, first + pages) that lie in it; *n is how many.
 */
static uint64_t mask_of(size_t first, size_t pages, size_t *n)
{
	size_t shift = first % 64;

	*n = 64 - shift < pages ? 64 - shift : pages;
	return (*n == 64 ? ~(uint64_t)0 : ((uint64_t)1 << *n) - 1) << shift;
}

void region_set_bits(_Atomic uint64_t *bits, size_t first, size_t pages)
{
	for (size_t n; pages > 0; first += n, pages -= n) {
		uint64_t mask = mask_of(first, pages, &n);

		atomic_fetch_or(&bits[first / 64], mask);
	}
}

void region_clear_bits(_Atomic uint64_t *bits, size_t first, size_t pages)
{
	for (size_t n; pages > 0; first += n, pages -= n) {
		uint64_t mask = mask_of(first, pages, &n);

		atomic_fetch_and(&bits[first / 64], ~mask);
	}
}

/* The compiler's own would call a function of libgcc, which internal threads do not (tests/internal_objects.sh). */
static size_t count_ones(uint64_t word)
{
	size_t ones = 0;

	for (; word; word &= word - 1)
		ones++;
	return ones;
}

size_t region_count_bits(const _Atomic uint64_t *bits, size_t first, size_t pages)
{
	size_t count = 0;

	for (size_t n; pages > 0; first += n, pages -= n)
		count += count_ones(atomic_load(&bits[first / 64]) & mask_of(first, pages, &n));
	return count;
}

size_t region_run(const _Atomic uint64_t *bits, size_t first, size_t end)
{
	size_t i = first;
	int bit = first < end && region_bit(bits, first);

	while (i < end) {
		uint64_t word = atomic_load(&bits[i / 64]) ^ (bit ? ~(uint64_t)0 : 0); /* now 0 = the same */
		uint64_t rest = word >> i % 64;

		if (rest) {
			i += (size_t)__builtin_ctzll(rest);
			break;
		}
		i += 64 - i % 64;
	}
	return (i < end ? i : end) - first;
}

static void mark_resident(struct larder_region *r, size_t first, size_t end)
{
	int64_t marked = 0;

	region_use(r, region_chunk(r, first));
	for (size_t i = first; i < end; i++) {
		uint64_t word = page_load(&r->pages[i]);

		/* A handler may have zero-filled the page since it was registered: then it is counted already. */
		if (word == PAGE_FRESH && !region_bit(r->foreign, i) &&
		    page_change(&r->pages[i], &word, page_word_resident(0)))
			marked++;
	}
	region_count(r, first, LARDER_PAGES_RESIDENT, marked);
}

/* Mark what PAGEMAP_SCAN finds present, or swapped out by the kernel, among pages of one chunk. */
static int scan_present(struct larder_region *r, size_t first, size_t pages, int pagemap)
{
	struct page_region found[64];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)region_address(r, first),
		.end = (uintptr_t)region_address(r, first + pages),
		.vec = (uintptr_t)found,
		.vec_len = sizeof(found) / sizeof(found[0]),
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};

	while (arg.start < arg.end) {
		long n = sys_ioctl(pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			return (int)n;
		for (long i = 0; i < n; i++)
			mark_resident(r, region_index(r, (void *)found[i].start),
				      region_index(r, (void *)found[i].end));
		arg.start = arg.walk_end;
	}
	return 0;
}

/* Register those pages of a chunk that are ours. */
static int register_chunk(const struct larder_region *r, size_t chunk, int uffd)
{
	size_t first = chunk * CHUNK_PAGES, end = first + CHUNK_PAGES;
	long err = 0;

	if (!chunk_is_marked(&r->chunks[chunk], CHUNK_HAS_FOREIGN))
		return (int)uffd_register(uffd, region_address(r, first), CHUNK_BYTES);
	for (size_t n; first < end && !err; first += n) {
		n = region_run(r->foreign, first, end);
		if (!region_bit(r->foreign, first))
			err = uffd_register(uffd, region_address(r, first), n * PAGE_BYTES);
	}
	return (int)err;
}

int region_watch(struct larder_region *r, size_t chunk, int uffd, int pagemap)
{
	struct larder_chunk *c = &r->chunks[chunk];
	size_t first = chunk * CHUNK_PAGES;
	long err = 0;

	if (!chunk_is_watched(c))
		err = register_chunk(r, chunk, uffd);
	if (!err && !chunk_is_watched(c)) {
		/*
		 * Registered, so what is missing from here on faults to us, and the handlers find it FRESH. A scan that
		 * fails would leave present pages FRESH for ever: they would only never be evicted, so it loses
		 * nothing.
		 */
		err = scan_present(r, first, CHUNK_PAGES, pagemap);
		atomic_store_explicit(&c->watched, 1, memory_order_release);
		atomic_fetch_add_explicit(&r->watched_chunks, 1, memory_order_relaxed);
		region_count(r, first, LARDER_PAGES_UNTRACKED, -(int64_t)c->allocated_pages);
		STATS_ADD(adopted, 1);
	}
	return (int)err;
}

int region_adopt(struct larder_region *r, size_t first, size_t pages, int uffd, int pagemap)
{
	long err = 0;

	for (size_t n; pages > 0 && !err; first += n, pages -= n) {
		struct larder_chunk *c = region_chunk(r, first);
		int watched;

		n = in_chunk(first, pages);
		mutex_lock(&c->lock);
		watched = chunk_is_watched(c) && uffd >= 0;
		if (watched)
			err = uffd_register(uffd, region_address(r, first), n * PAGE_BYTES);
		if (!err) {
			region_clear_bits(r->foreign, first, n);
			err = watched ? scan_present(r, first, n, pagemap) : 0;
		}
		mutex_unlock(&c->lock);
	}
	return (int)err;
}

/* Own pages of one chunk that are in the mapping, or nowhere: how many, from the first on. */
static size_t acquire_present(struct larder_region *r, size_t first, size_t pages, uint64_t *words)
{
	size_t n = 0;

	for (; n < pages; n++) {
		struct larder_page *page = &r->pages[first + n];

		words[n] = page_load(page);
		if ((page_state(words[n]) != PAGE_RESIDENT && words[n] != PAGE_FRESH) || words[n] & PAGE_COPY ||
		    !page_acquire(page, &words[n], PAGE_DISCARDING))
			break;
	}
	return n;
}

/* Release pages as what they were, or as FRESH; without waking whoever waits, since nobody but their owner can. */
static void release_present(struct larder_region *r, size_t first, size_t pages, const uint64_t *words, int gone)
{
	int64_t resident = 0;

	for (size_t i = 0; i < pages; i++) {
		struct larder_page *page = &r->pages[first + i];

		resident += page_state(words[i]) == PAGE_RESIDENT;
		if (gone)
			page_release(page, PAGE_FRESH);
		else
			atomic_store(&page->word, words[i]);
	}
	if (gone)
		region_count(r, first, LARDER_PAGES_RESIDENT, -resident);
}

static long relinquish_watched(struct larder_region *r, size_t first, size_t pages, int uffd)
{
	uint64_t words[CHUNK_PAGES];
	size_t owned = acquire_present(r, first, pages, words);
	long err = owned < pages ? -EAGAIN : uffd_unregister(uffd, region_address(r, first), pages * PAGE_BYTES);

	release_present(r, first, owned, words, !err);
	return err;
}

int region_relinquish(struct larder_region *r, size_t first, size_t pages, int uffd)
{
	long err = 0;

	for (size_t n; pages > 0 && !err; first += n, pages -= n) {
		struct larder_chunk *c = region_chunk(r, first);

		n = in_chunk(first, pages);
		mutex_lock(&c->lock);
		if (chunk_is_watched(c) && uffd >= 0)
			err = relinquish_watched(r, first, n, uffd);
		if (!err) {
			atomic_fetch_or(&c->marks, CHUNK_HAS_FOREIGN);
			region_set_bits(r->foreign, first, n);
		}
		mutex_unlock(&c->lock);
	}
	return (int)err;
}

/* Register [first, end) of the chunks, which have the same kind of faults. */
static int register_again(const struct larder_region *r, size_t first, size_t end, int uffd)
{
	return (int)uffd_register(uffd, region_address(r, first * CHUNK_PAGES), (end - first) * CHUNK_BYTES);
}

int region_watch_again(const struct larder_region *r, int uffd, int inline_uffd)
{
	size_t chunks = region_used_chunks(r), first = 0, end;
	int err = 0;

	for (; first < chunks && !err; first = end) {
		const struct larder_chunk *c = &r->chunks[first];

		end = first + 1;
		if (!chunk_is_watched(c))
			continue;
		if (chunk_is_marked(c, CHUNK_HAS_FOREIGN)) {
			err = register_chunk(r, first, uffd);
			continue;
		}
		while (end < chunks && chunk_is_watched(&r->chunks[end]) &&
		       !chunk_is_marked(&r->chunks[end], CHUNK_HAS_FOREIGN) &&
		       r->chunks[end].owner.inline_faults == c->owner.inline_faults)
			end++;
		err = register_again(r, first, end, c->owner.inline_faults ? inline_uffd : uffd);
	}
	return err;
}

enum { CHECK_TRIES = 200, CHECK_PAUSE_NS = 5000000 };

static enum larder_page_kind kind_of(uint64_t word)
{
	switch (page_state(word)) {
	case PAGE_RESIDENT:
		return LARDER_PAGES_RESIDENT;
	case PAGE_STAGED:
		return LARDER_PAGES_STAGED;
	case PAGE_STORED:
		return page_tier(word) ? LARDER_PAGES_STORED : LARDER_PAGES_SAME;
	case PAGE_POISONED:
		return word & PAGE_TRAP ? LARDER_PAGES_UNTRACKED : LARDER_PAGES_POISONED;
	case PAGE_FRESH:
		return LARDER_PAGES_UNTRACKED;
	default:
		log_panic("page busy during a check of the table", (int64_t)word);
	}
}

/* What is wrong with the table, or NULL. */
static const char *find_violation(const struct larder_region *r, int64_t *detail)
{
	int64_t count[LARDER_PAGES_KINDS] = { 0 };
	size_t chunks = region_used_chunks(r), watched = 0;

	for (size_t c = 0; c < chunks; c++) {
		if (!chunk_is_watched(&r->chunks[c]))
			continue;
		watched++;
		for (size_t i = c * CHUNK_PAGES; i < (c + 1) * CHUNK_PAGES; i++) {
			uint64_t word = page_load(&r->pages[i]);

			*detail = (int64_t)word;
			if (page_is_busy(word))
				return "page busy during a check of the table";
			count[kind_of(word)]++;
		}
	}
	for (int kind = LARDER_PAGES_RESIDENT; kind < LARDER_PAGES_KINDS; kind++) {
		*detail = kind;
		if (count[kind] != atomic_load(&r->count[kind]))
			return "page counter does not match the table";
	}
	*detail = (int64_t)watched;
	return watched == atomic_load(&r->watched_chunks) ? NULL : "watched chunks do not match the table";
}

/* A handler may not have finished when the thread that it has served is here already. */
void region_check(const struct larder_region *r)
{
	const char *violation = "";
	int64_t detail = 0;

	for (int tries = 0; tries < CHECK_TRIES && violation; tries++) {
		if (tries)
			sys_sleep_ns(CHECK_PAUSE_NS);
		violation = find_violation(r, &detail);
	}
	if (violation)
		log_panic(violation, detail);
}

void region_recount(struct larder_region *r)
{
	size_t chunks = region_used_chunks(r);

	for (int kind = 0; kind < LARDER_PAGES_KINDS; kind++) {
		atomic_store(&r->count[kind], 0);
		for (unsigned pool = 0; pool < REGION_POOLS; pool++)
			atomic_store(&r->pool_count[pool][kind], 0);
	}
	for (size_t c = 0; c < chunks; c++) {
		int64_t count[LARDER_PAGES_KINDS] = { 0 };
		size_t first = c * CHUNK_PAGES;

		if (!chunk_is_watched(&r->chunks[c])) {
			region_count(r, first, LARDER_PAGES_UNTRACKED, r->chunks[c].allocated_pages);
			continue;
		}
		for (size_t i = first; i < first + CHUNK_PAGES; i++)
			count[kind_of(page_load(&r->pages[i]))]++;
		for (int kind = LARDER_PAGES_RESIDENT; kind < LARDER_PAGES_KINDS; kind++)
			if (count[kind])
				region_count(r, first, (enum larder_page_kind)kind, count[kind]);
	}
}
