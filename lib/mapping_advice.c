/*
 * Mappings: madvise(2), and locking of ranges. See mapping.h.
 *
 * What concerns content is done to the table first, or the table would bring back what the kernel has thrown away. What
 * concerns a fork is told to the kernel and noted in the region's bits, so that a child knows what it has (inherit.c).
 * The rest is the kernel's.
 */
#include "discard.h"
#include "mapping_parts.h"
#include "resolve.h"

#include <sys/mman.h>

/* Newer than Debian 12's headers. */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* For each chunk that has a part of the span. */
typedef void each_chunk(struct larder_region *r, struct larder_chunk *c, struct page_span part, int arg);

static void for_each_chunk(struct page_span span, each_chunk *function, int arg)
{
	struct larder_region *r = &mappings.memory->region;
	size_t end = span.first + span.pages;

	for (size_t n; span.first < end; span.first += n) {
		size_t to_chunk = CHUNK_PAGES - span.first % CHUNK_PAGES;

		n = end - span.first < to_chunk ? end - span.first : to_chunk;
		function(r, region_chunk(r, span.first), (struct page_span){ span.first, n }, arg);
	}
}

/* Pools pin pages by the same bits, so there locking is the kernel's affair alone. */
static int keeps_for_locks(const struct larder_chunk *c)
{
	return c->owner.pool == REGION_HEAP;
}

static void keep(struct larder_region *r, struct larder_chunk *c, struct page_span part, int on)
{
	if (!keeps_for_locks(c))
		return;
	if (on) {
		atomic_fetch_or(&c->marks, CHUNK_HAS_LOCKED);
		region_set_bits(r->kept, part.first, part.pages);
	} else if (chunk_is_marked(c, CHUNK_HAS_LOCKED)) {
		region_clear_bits(r->kept, part.first, part.pages);
	}
}

/* Is a page of it locked? */
static int is_locked(struct page_span span)
{
	const struct larder_region *r = &mappings.memory->region;

	for (size_t i = span.first; i < span.first + span.pages; i += CHUNK_PAGES - i % CHUNK_PAGES) {
		const struct larder_chunk *c = &r->chunks[i / CHUNK_PAGES];
		size_t to_chunk = CHUNK_PAGES - i % CHUNK_PAGES, left = span.first + span.pages - i;

		if (keeps_for_locks(c) && chunk_is_marked(c, CHUNK_HAS_LOCKED) &&
		    region_count_bits(r->kept, i, left < to_chunk ? left : to_chunk))
			return 1;
	}
	return 0;
}

long lock_pages(struct page_span span, long number, long flags)
{
	long err = sys_call3(number, (long)page_span_start(span), (long)page_span_bytes(span), flags);

	if (!err)
		for_each_chunk(span, keep, 1);
	return err;
}

long unlock_pages(struct page_span span)
{
	for_each_chunk(span, keep, 0);
	return sys_call3(SYS_munlock, (long)page_span_start(span), (long)page_span_bytes(span), 0);
}

static void set_sequential(struct larder_region *r, struct larder_chunk *c, struct page_span part, int on)
{
	(void)r;
	if (part.pages == CHUNK_PAGES || on) /* a part that is read at random does not speak for its chunk */
		atomic_store_explicit(&c->sequential, (uint32_t)on, memory_order_relaxed);
}

/* The clock may take these pages at its next turn. */
static void cool(struct larder_region *r, struct larder_chunk *c, struct page_span part, int arg)
{
	(void)arg;
	if (!chunk_is_watched(c) || !chunk_is_used(c))
		return;
	for (size_t i = part.first; i < part.first + part.pages; i++) {
		uint64_t word = page_load(&r->pages[i]);

		if (page_state(word) == PAGE_RESIDENT && page_credit(word) && page_credit(word) != PAGE_HELD)
			page_change(&r->pages[i], &word, page_word_resident(0) | (word & PAGE_COPY));
	}
}

static long raw(struct page_span span, int advice)
{
	return sys_madvise(page_span_start(span), page_span_bytes(span), advice);
}

static long throw_away(struct page_span span)
{
	struct discarded dropped = { 0 };
	uint64_t signals;
	long err;

	sys_block_signals(&signals); /* a chunk is locked, pages are busy */
	err = discard_pages(mappings.memory, span.first, span.pages, PAGE_FRESH, &dropped);
	sys_restore_signals(&signals);
	return err;
}

static void mark(struct larder_region *r, struct larder_chunk *c, struct page_span part, int mark)
{
	_Atomic uint64_t *bits = mark == CHUNK_HAS_UNFORKED ? r->unforked : r->wiped;

	atomic_fetch_or(&c->marks, (uint32_t)mark);
	if (mark != CHUNK_HAS_UNDUMPED)
		region_set_bits(bits, part.first, part.pages);
}

static void unmark(struct larder_region *r, struct larder_chunk *c, struct page_span part, int mark)
{
	if (chunk_is_marked(c, (unsigned)mark))
		region_clear_bits(mark == CHUNK_HAS_UNFORKED ? r->unforked : r->wiped, part.first, part.pages);
}

/* What the kernel accepts, and has to be known here, too. */
static long note(struct page_span span, int advice)
{
	long err = raw(span, advice);

	if (err)
		return err;
	switch (advice) {
	case MADV_DONTFORK:
		for_each_chunk(span, mark, CHUNK_HAS_UNFORKED);
		break;
	case MADV_DOFORK:
		for_each_chunk(span, unmark, CHUNK_HAS_UNFORKED);
		break;
	case MADV_WIPEONFORK:
		for_each_chunk(span, mark, CHUNK_HAS_WIPED);
		break;
	case MADV_KEEPONFORK:
		for_each_chunk(span, unmark, CHUNK_HAS_WIPED);
		break;
	default:
		for_each_chunk(span, mark, CHUNK_HAS_UNDUMPED);
		break;
	}
	return 0;
}

/* Hints about what is Larder's affair here: what to take out, and what to bring back. */
static long hint(struct page_span span, int advice)
{
	struct reclaim_request out = { .kind = REQUEST_EVICT_RANGE, .first = span.first, .pages = span.pages };

	switch (advice) {
	case MADV_PAGEOUT:
		if (mappings_have_service())
			reclaim_ask(mappings.reclaim, &out);
		return 0;
	case MADV_COLD:
		for_each_chunk(span, cool, 0);
		return 0;
	case MADV_WILLNEED:
		resolve_expect(mappings.memory, span.first, span.pages);
		return 0;
	default: /* the kernel keeps these with its mapping */
		for_each_chunk(span, set_sequential, advice == MADV_SEQUENTIAL);
		return raw(span, advice);
	}
}

long advise(struct page_span span, int advice)
{
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_FREE:
		return is_locked(span) ? -EINVAL : throw_away(span);
	case MADV_DONTNEED_LOCKED:
		return throw_away(span);
	case MADV_GUARD_INSTALL: {
		long err = is_locked(span) ? -EINVAL : throw_away(span);

		return err ? err : raw(span, advice);
	}
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
	case MADV_DONTDUMP:
		return note(span, advice);
	case MADV_PAGEOUT:
	case MADV_COLD:
	case MADV_WILLNEED:
	case MADV_NORMAL:
	case MADV_SEQUENTIAL:
	case MADV_RANDOM:
		return hint(span, advice);
	default:
		return raw(span, advice);
	}
}

static void forget(struct larder_region *r, struct larder_chunk *c, struct page_span part, int arg)
{
	(void)arg;
	if (chunk_is_marked(c, CHUNK_HAS_UNFORKED)) {
		raw(part, MADV_DOFORK);
		region_clear_bits(r->unforked, part.first, part.pages);
	}
	if (chunk_is_marked(c, CHUNK_HAS_WIPED)) {
		raw(part, MADV_KEEPONFORK);
		region_clear_bits(r->wiped, part.first, part.pages);
	}
	if (chunk_is_marked(c, CHUNK_HAS_UNDUMPED))
		raw(part, MADV_DODUMP);
	if (keeps_for_locks(c) && chunk_is_marked(c, CHUNK_HAS_LOCKED)) {
		region_clear_bits(r->kept, part.first, part.pages);
		sys_call3(SYS_munlock, (long)page_span_start(part), (long)page_span_bytes(part), 0);
	}
}

/* Plugging the holes is left to inherit(). */
static void release_part(struct larder_region *r, struct larder_chunk *c, struct page_span part, int arg)
{
	size_t end = part.first + part.pages;

	(void)arg;
	if (c->owner.kind != CHUNK_MAPPING || !chunk_is_marked(c, CHUNK_HAS_UNFORKED))
		return;
	for (size_t n; part.first < end; part.first += n) {
		n = region_run(r->unforked, part.first, end);
		if (region_bit(r->unforked, part.first))
			mappings_release((struct page_span){ part.first, n });
	}
}

void release_unforked(void)
{
	const struct page_span all = { 0, region_used_chunks(&mappings.memory->region) * CHUNK_PAGES };

	for_each_chunk(all, release_part, 0);
}

void forget_advice(struct page_span span)
{
	for_each_chunk(span, forget, 0);
}
