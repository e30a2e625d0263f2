/*
 * Mappings: mremap(2). See mapping.h.
 *
 * A mapping grows where it is when the addresses behind it are free. Else its content moves, piece by piece, each
 * within one chunk on both sides: where neither is watched the kernel moves the pages, as it would have; elsewhere they
 * are copied, and what has been copied is thrown away, so that there are never two of more than a piece.
 */
#include "discard.h"
#include "mapping_parts.h"
#include "proc_maps.h"

#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct move {
	char *from, *to;
	size_t from_pages, to_pages;
	int prot;  /* of the pages that move */
	int flags; /* mremap's */
};

static size_t index_of(const void *addr)
{
	return region_index(&mappings.memory->region, addr);
}

static struct page_span span_at(const char *addr, size_t pages)
{
	return (struct page_span){ index_of(addr), pages };
}

static int is_managed(const char *addr)
{
	return region_contains(&mappings.memory->region, addr);
}

static int is_foreign(struct page_span span)
{
	return region_bit(mappings.memory->region.foreign, span.first);
}

/* ---- the protection of what is to move ---- */

struct search {
	uintptr_t at, end;
	int prot; /* -1 = not known yet */
};

static int look(void *arg, const struct proc_map *map)
{
	struct search *s = arg;

	if (map->end <= s->at)
		return 0;
	if (map->start > s->at || (s->prot >= 0 && s->prot != map->prot))
		return -EFAULT;
	s->prot = map->prot;
	s->at = map->end;
	return s->at >= s->end;
}

/* Is it all or nothing for each thing that was said about the pages? Else they are several mappings to the kernel. */
static int is_uniform(struct page_span span)
{
	const struct larder_region *r = &mappings.memory->region;
	size_t end = span.first + span.pages;

	return region_run(r->unforked, span.first, end) == span.pages &&
	       region_run(r->wiped, span.first, end) == span.pages &&
	       region_run(r->kept, span.first, end) == span.pages &&
	       region_run(r->foreign, span.first, end) == span.pages;
}

/* The kernel moves one mapping at a time. Returns its protection, or -EFAULT when there are several. */
static int protection_of(struct page_span span)
{
	struct search s = { .at = (uintptr_t)page_span_start(span), .prot = -1 };
	int result;

	s.end = s.at + page_span_bytes(span);
	result = proc_maps_each(look, &s);
	return result < 0 ? result : result == 0 ? -EFAULT : s.prot;
}

/* ---- moving content ---- */

static int is_zero(const uint64_t *words)
{
	uint64_t any = 0;

	for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++)
		any |= words[i];
	return any == 0;
}

/* Memory that was never touched stays so: reading it costs nothing but the look. */
static void copy_piece(char *from, char *to, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		if (!is_zero((const uint64_t *)(const void *)(from + i * PAGE_BYTES)))
			__builtin_memcpy(to + i * PAGE_BYTES, from + i * PAGE_BYTES, PAGE_BYTES);
}

/* Lock the chunks of a piece, the lower first. Outside the region there is nothing to lock. */
static void lock_both(struct larder_chunk *a, struct larder_chunk *b)
{
	if (a && b && a > b) {
		lock_both(b, a);
		return;
	}
	if (a)
		mutex_lock(&a->lock);
	if (b && b != a)
		mutex_lock(&b->lock);
}

static void unlock_both(struct larder_chunk *a, struct larder_chunk *b)
{
	if (a)
		mutex_unlock(&a->lock);
	if (b && b != a)
		mutex_unlock(&b->lock);
}

static struct larder_chunk *chunk_of(const char *addr)
{
	return is_managed(addr) ? region_chunk(&mappings.memory->region, index_of(addr)) : NULL;
}

/* Have the kernel move it, if that is all there is to do. Returns 1 when it has. */
static int move_unwatched(char *from, char *to, size_t pages)
{
	struct larder_chunk *a = chunk_of(from), *b = chunk_of(to);
	long p = -1;

	lock_both(a, b);
	if (!chunk_is_watched(a) && b && !chunk_is_watched(b))
		p = sys_call6(SYS_mremap, (long)from, (long)(pages * PAGE_BYTES), (long)(pages * PAGE_BYTES),
			      MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (long)to, 0);
	unlock_both(a, b);
	return p == (long)to;
}

/* How many pages from addr on lie in one chunk. */
static size_t pages_to_chunk_end(const char *addr)
{
	return is_managed(addr) ? CHUNK_PAGES - index_of(addr) % CHUNK_PAGES : CHUNK_PAGES;
}

/* `pages` pages of content move, and `from` is empty then. */
static void move_content(const struct move *m, size_t pages)
{
	struct discarded dropped = { 0 };

	for (size_t done = 0, n; done < pages; done += n) {
		char *from = m->from + done * PAGE_BYTES, *to = m->to + done * PAGE_BYTES;
		uint64_t signals;

		n = pages - done;
		n = n < pages_to_chunk_end(from) ? n : pages_to_chunk_end(from);
		n = n < pages_to_chunk_end(to) ? n : pages_to_chunk_end(to);
		sys_block_signals(&signals); /* chunks are locked, pages are busy */
		if (!move_unwatched(from, to, n)) {
			copy_piece(from, to, n);
			discard_pages(mappings.memory, index_of(from), n, PAGE_FRESH, &dropped);
		}
		sys_restore_signals(&signals);
	}
}

/* By mapping_call(), since it may have left the region. */
static void tell(char *at, size_t pages, long number, int advice)
{
	if (mapping_concerns(at, pages * PAGE_BYTES))
		mapping_call(number, at, pages * PAGE_BYTES, advice, 0);
	else
		sys_call3(number, (long)at, (long)(pages * PAGE_BYTES), advice);
}

/* What was told about the page at `from` is true of these, too. */
static void copy_advice(const char *from, char *to, size_t pages)
{
	const struct larder_region *r = &mappings.memory->region;
	size_t index = index_of(from);
	const struct larder_chunk *c = &r->chunks[index / CHUNK_PAGES];

	if (chunk_is_marked(c, CHUNK_HAS_UNFORKED) && region_bit(r->unforked, index))
		tell(to, pages, SYS_madvise, MADV_DONTFORK);
	if (chunk_is_marked(c, CHUNK_HAS_WIPED) && region_bit(r->wiped, index))
		tell(to, pages, SYS_madvise, MADV_WIPEONFORK);
	if (chunk_is_marked(c, CHUNK_HAS_LOCKED) && region_bit(r->kept, index))
		tell(to, pages, SYS_mlock, 0);
}

/* ---- where to ---- */

/* Readable and writable memory at m->to, or wherever there is room. */
static long make_room(struct move *m)
{
	struct page_span span = { .pages = m->to_pages };
	size_t bytes = m->to_pages * PAGE_BYTES;
	int fixed = m->flags & MREMAP_FIXED;
	struct mappings_hold hold;
	long err;

	if (fixed && !mapping_concerns(m->to, bytes))
		return sys_call6(SYS_mmap, (long)m->to, (long)bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	mappings_lock(&hold);
	span.first = fixed ? index_of(m->to) : mappings_take(m->to_pages);
	err = span.first == SIZE_MAX ? -ENOMEM : 0;
	if (!err && fixed)
		err = mappings_clear(span);
	if (!err)
		err = mappings_dress(span, PROT_READ | PROT_WRITE);
	mappings_unlock(&hold);
	return err ? err : (long)page_span_start(span);
}

static void leave(const struct move *m)
{
	if (m->flags & MREMAP_DONTUNMAP)
		sys_mprotect(m->from, m->from_pages * PAGE_BYTES, m->prot);
	else
		mapping_call(SYS_munmap, m->from, m->from_pages * PAGE_BYTES, 0, 0);
}

static long move(struct move *m)
{
	size_t pages = m->from_pages < m->to_pages ? m->from_pages : m->to_pages;
	int readable = (m->prot & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE);
	long to = make_room(m);

	if (to < 0 && to > -4096)
		return to;
	m->to = (char *)to;
	if (mappings_have_service())
		pressure_admit(mappings.memory, REGION_HEAP);
	if (!readable)
		sys_mprotect(m->from, m->from_pages * PAGE_BYTES, PROT_READ | PROT_WRITE);
	copy_advice(m->from, m->to, m->to_pages);
	move_content(m, pages);
	sys_mprotect(m->to, m->to_pages * PAGE_BYTES, m->prot);
	leave(m);
	return to;
}

/* ---- growing ---- */

/* Take the addresses behind the mapping, if they are free. */
static long grow_in_place(const struct move *m)
{
	struct page_span more = span_at(m->from + m->from_pages * PAGE_BYTES, m->to_pages - m->from_pages);
	struct mappings_hold hold;
	long err = -ENOMEM;

	mappings_lock(&hold);
	if (addresses_are_free(&mappings.free, more.first, more.first + more.pages)) {
		addresses_take_range(&mappings.free, more.first, more.first + more.pages);
		err = mappings_dress(more, m->prot);
		if (err)
			mappings_release(more);
	}
	mappings_unlock(&hold);
	if (err)
		return err;
	mappings_settle(more, m->prot, 0);
	copy_advice(m->from, page_span_start(more), more.pages);
	return (long)m->from;
}

static long resize(struct move *m)
{
	long p;

	if (m->to_pages < m->from_pages) {
		mapping_call(SYS_munmap, m->from + m->to_pages * PAGE_BYTES, (m->from_pages - m->to_pages) * PAGE_BYTES,
			     0, 0);
		return (long)m->from;
	}
	if (m->to_pages == m->from_pages)
		return (long)m->from;
	p = grow_in_place(m);
	return p == -ENOMEM && m->flags & MREMAP_MAYMOVE ? move(m) : p;
}

/* ---- what is foreign ---- */

/* Addresses of the region that the kernel has given up become ours again, unless it has used them meanwhile. */
static void plug(struct page_span span)
{
	struct mappings_hold hold;
	void *p;

	mappings_lock(&hold);
	p = sys_mmap(page_span_start(span), page_span_bytes(span), PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1);
	mappings_unlock(&hold);
	if (p == page_span_start(span))
		mapping_call(SYS_munmap, page_span_start(span), page_span_bytes(span), 0, 0);
}

/* The kernel moves it. Where it was is a hole in the region, and where it comes to lie, too, until then. */
static long move_foreign(struct move *m)
{
	size_t bytes = m->to_pages * PAGE_BYTES;
	int into = m->flags & MREMAP_FIXED && mapping_concerns(m->to, bytes);
	struct mappings_hold hold;
	long p = 0;

	if (into) {
		mappings_lock(&hold);
		p = mappings_clear(span_at(m->to, m->to_pages));
		if (!p)
			p = mappings_relinquish(span_at(m->to, m->to_pages));
		mappings_unlock(&hold);
	}
	if (!p)
		p = sys_call6(SYS_mremap, (long)m->from, (long)(m->from_pages * PAGE_BYTES), (long)bytes, m->flags,
			      (long)m->to, 0);
	if (p < 0 && p > -4096) {
		if (into)
			mapping_call(SYS_munmap, m->to, bytes, 0, 0);
		return p;
	}
	if (is_managed(m->from) && !(m->flags & MREMAP_DONTUNMAP)) {
		if (p != (long)m->from)
			plug(span_at(m->from, m->from_pages));
		else if (m->to_pages < m->from_pages)
			plug(span_at(m->from + bytes, m->from_pages - m->to_pages));
	}
	return p;
}

/* ---- mremap ---- */

static int overlaps(const struct move *m)
{
	return m->to < m->from + m->from_pages * PAGE_BYTES && m->from < m->to + m->to_pages * PAGE_BYTES;
}

static int is_invalid(const struct move *m)
{
	const int known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;

	if ((uintptr_t)m->from % PAGE_BYTES || m->flags & ~known || m->to_pages == 0)
		return 1;
	if (m->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(m->flags & MREMAP_MAYMOVE))
		return 1;
	if (m->flags & MREMAP_DONTUNMAP && m->from_pages != m->to_pages)
		return 1;
	if (m->flags & MREMAP_FIXED && ((uintptr_t)m->to % PAGE_BYTES || overlaps(m)))
		return 1;
	return m->from_pages == 0 && is_managed(m->from); /* to double shared memory */
}

long mapping_mremap(char *from, size_t bytes, size_t new_bytes, int flags, char *to)
{
	struct move m = { .from = from, .to = to, .flags = flags };
	struct page_span span;
	long err;

	m.from_pages = bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0);
	m.to_pages = new_bytes / PAGE_BYTES + (new_bytes % PAGE_BYTES != 0);
	if (is_invalid(&m))
		return -EINVAL;
	if (m.to_pages > mappings.memory->region.bytes / PAGE_BYTES)
		return -ENOMEM;
	if (!is_managed(from))
		return move_foreign(&m);
	span = span_at(from, m.from_pages);
	if (span.first + span.pages > mappings.memory->region.bytes / PAGE_BYTES || !mappings_are_mapped(span))
		return -EFAULT;
	if (!is_uniform(span))
		return -EFAULT;
	if (is_foreign(span))
		return move_foreign(&m);
	m.prot = protection_of(span);
	if (m.prot < 0)
		return m.prot;
	err = sys_mprotect(from, m.from_pages * PAGE_BYTES, m.prot); /* what is sealed (mseal) stays where it is */
	if (err)
		return err;
	return flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) ? move(&m) : resize(&m);
}
