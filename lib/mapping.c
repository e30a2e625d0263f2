/*
 * Mappings. See mapping.h. This file: map, unmap, protect, and what asks about a range.
 */
#include "mapping.h"

#include "discard.h"
#include "mapping_parts.h"
#include "stats.h"

#include <linux/mman.h>
#include <signal.h>
#include <sys/mman.h>

/* Addresses are taken from the region in pieces of this size, so that small mappings lie together. */
enum { GROWTH_BYTES = 32 << 20 };

/* No mapping may take more than this part of the addresses there are. */
enum { SHARE_DIVISOR = 4 };

enum { PLAIN_FLAGS = MAP_PRIVATE | MAP_ANONYMOUS };
/* Flags that change nothing about what is mapped, or what mappings_settle() does. */
enum {
	HARMLESS_FLAGS =
		MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | MAP_LOCKED | MAP_DENYWRITE | MAP_EXECUTABLE
};

struct larder_mappings mappings;

int mapping_open(struct larder_memory *m, struct larder_reclaim *r)
{
	int err = addresses_open(&mappings.free);

	mappings.reclaim = r;
	if (!err)
		mappings.memory = m;
	return err;
}

int mapping_is_open(void)
{
	return mappings.memory != NULL;
}

void mappings_lock(struct mappings_hold *hold)
{
	sys_block_signals(&hold->signals);
	mutex_lock(&mappings.lock);
}

void mappings_unlock(const struct mappings_hold *hold)
{
	mutex_unlock(&mappings.lock);
	sys_restore_signals(&hold->signals);
}

void mapping_lock_for_fork(void)
{
	mutex_lock(&mappings.lock);
}

void mapping_unlock_after_fork(void)
{
	mutex_unlock(&mappings.lock);
}

int mappings_have_service(void)
{
	return !atomic_load_explicit(&mappings.memory->region.detached, memory_order_relaxed);
}

int mapping_concerns(const void *addr, size_t bytes)
{
	const struct larder_region *r;
	uintptr_t start = (uintptr_t)addr, base;

	if (!mappings.memory)
		return 0;
	r = &mappings.memory->region;
	base = (uintptr_t)r->base;
	return start < base + r->bytes && (bytes > UINTPTR_MAX - start || start + bytes > base);
}

int mapping_wants(size_t bytes, int prot, int flags)
{
	if (!mappings.memory || bytes < MAPPING_MIN_BYTES || bytes > mappings.memory->region.bytes / SHARE_DIVISOR)
		return 0;
	return (flags & PLAIN_FLAGS) == PLAIN_FLAGS && !(flags & ~(PLAIN_FLAGS | HARMLESS_FLAGS)) &&
	       !(prot & ~(PROT_READ | PROT_WRITE)) && mappings_have_service();
}

int mappings_are_mapped(struct page_span span)
{
	struct mappings_hold hold;
	size_t at, n;

	mappings_lock(&hold);
	n = addresses_next_taken(&mappings.free, span.first, span.first + span.pages, &at);
	mappings_unlock(&hold);
	return n == span.pages;
}

/* ---- taking and giving back, with the lock held ---- */

/* What a huge page fits into begins where one can lie, as the kernel has it. */
static size_t alignment_for(size_t pages)
{
	return pages >= CHUNK_PAGES ? CHUNK_PAGES : 1;
}

size_t mappings_take(size_t pages)
{
	struct larder_region *r = &mappings.memory->region;
	size_t first = addresses_take(&mappings.free, pages, alignment_for(pages));
	size_t bytes = (pages * PAGE_BYTES + CHUNK_BYTES - 1) & ~(size_t)(CHUNK_BYTES - 1);
	char *more;

	if (first != SIZE_MAX)
		return first;
	bytes = bytes > GROWTH_BYTES ? bytes : GROWTH_BYTES;
	more = region_reserve(r, bytes);
	if (!more)
		return SIZE_MAX;
	addresses_add(&mappings.free, region_index(r, more), region_index(r, more) + bytes / PAGE_BYTES);
	return addresses_take(&mappings.free, pages, alignment_for(pages));
}

static int is_mapping(size_t index)
{
	return mappings.memory->region.chunks[index / CHUNK_PAGES].owner.kind == CHUNK_MAPPING;
}

/* Pages from span.first on that lie in chunks of mappings, or in none: cuts the span to them. */
static int cut_to_kind(struct page_span *span)
{
	int kind = is_mapping(span->first);
	size_t end = span->first + span->pages;
	size_t next = (span->first / CHUNK_PAGES + 1) * CHUNK_PAGES;

	while (next < end && is_mapping(next) == kind)
		next += CHUNK_PAGES;
	if (next < end)
		span->pages = next - span->first;
	return kind;
}

void mappings_release(struct page_span span)
{
	addresses_add(&mappings.free, span.first, span.first + span.pages);
}

static void charge(struct page_span span)
{
	for (struct page_span part = span; part.pages > 0;
	     part.first += part.pages, part.pages = span.first + span.pages - part.first)
		if (cut_to_kind(&part)) /* the heap's pages are charged when the allocator gets them */
			region_charge(&mappings.memory->region, part.first, part.pages);
}

static void uncharge(struct page_span span)
{
	for (struct page_span part = span; part.pages > 0;
	     part.first += part.pages, part.pages = span.first + span.pages - part.first)
		if (cut_to_kind(&part))
			region_uncharge(&mappings.memory->region, part.first, part.pages);
}

long mappings_dress(struct page_span span, int prot)
{
	long err = 0;

	if (prot == PROT_NONE)
		return 0;
	err = sys_mprotect(page_span_start(span), page_span_bytes(span), prot);
	if (!err)
		charge(span);
	return err;
}

/* Where something foreign was there is empty memory of ours again. */
static long replace_foreign(struct page_span span)
{
	struct larder_region *r = &mappings.memory->region;
	void *p;

	forget_advice(span);
	p = sys_mmap(page_span_start(span), page_span_bytes(span), PROT_NONE, PLAIN_FLAGS | MAP_NORESERVE | MAP_FIXED,
		     -1);

	if (sys_is_error(p))
		return (long)p;
	if (!mappings_have_service())
		return region_adopt(r, span.first, span.pages, -1, -1);
	return reclaim_ask(
		mappings.reclaim,
		&(struct reclaim_request){ .kind = REQUEST_ADOPT_PAGES, .first = span.first, .pages = span.pages });
}

static long retire_own(struct page_span span)
{
	struct discarded dropped = { 0 };
	long err = sys_mprotect(page_span_start(span), page_span_bytes(span), PROT_NONE);

	if (err)
		return err;
	uncharge(span); /* so that no fault brings neighbours in from now on */
	forget_advice(span);
	return discard_pages(mappings.memory, span.first, span.pages, PAGE_FRESH, &dropped);
}

long mappings_retire(struct page_span span)
{
	const _Atomic uint64_t *foreign = mappings.memory->region.foreign;
	size_t end = span.first + span.pages;
	long err = 0;

	for (size_t n; span.first < end && !err; span.first += n) {
		n = region_run(foreign, span.first, end);
		span.pages = n;
		err = region_bit(foreign, span.first) ? replace_foreign(span) : retire_own(span);
	}
	return err;
}

/* Retire what is mapped of a span; with `frees` its addresses are free then. */
static long retire_mapped(struct page_span span, int frees)
{
	size_t end = span.first + span.pages;
	long err = 0;

	while (!err) {
		struct page_span part;

		part.pages = addresses_next_taken(&mappings.free, span.first, end, &part.first);
		if (part.pages == 0)
			break;
		if (!cut_to_kind(&part) &&
		    frees) { /* the allocator's: gone for the program, but not to be mapped anew */
			span.first = part.first + part.pages;
			err = mappings_retire(part);
			continue;
		}
		err = mappings_retire(part);
		if (!err && frees)
			mappings_release(part);
		span.first = part.first + part.pages;
	}
	return err;
}

long mappings_clear(struct page_span span)
{
	long err = retire_mapped(span, 0);

	if (!err)
		addresses_take_range(&mappings.free, span.first, span.first + span.pages);
	return err;
}

/* ---- mmap ---- */

void mappings_settle(struct page_span span, int prot, int flags)
{
	int advice = prot & PROT_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
	uint32_t locks = atomic_load(&mappings.locks_future);

	if (!mappings_have_service())
		return;
	pressure_admit(mappings.memory, REGION_HEAP);
	if (flags & MAP_LOCKED || locks)
		lock_pages(span, SYS_mlock2, locks & MCL_ONFAULT ? MLOCK_ONFAULT : 0);
	else if (flags & MAP_POPULATE && !(flags & MAP_NONBLOCK) && prot != PROT_NONE)
		sys_madvise(page_span_start(span), page_span_bytes(span), advice);
}

static struct page_span span_of(const char *addr, size_t bytes)
{
	return (struct page_span){ region_index(&mappings.memory->region, addr), bytes / PAGE_BYTES };
}

/* A new mapping, at `hint` if that is free. */
static long map_anywhere(const char *hint, size_t bytes, int prot, int flags)
{
	struct page_span span = { .pages = bytes / PAGE_BYTES };
	struct mappings_hold hold;
	long err = -ENOMEM;

	mappings_lock(&hold);
	span.first = hint ? region_index(&mappings.memory->region, hint) : 0;
	if (hint && addresses_are_free(&mappings.free, span.first, span.first + span.pages))
		addresses_take_range(&mappings.free, span.first, span.first + span.pages);
	else
		span.first = mappings_take(span.pages);
	if (span.first != SIZE_MAX) {
		err = mappings_dress(span, prot);
		if (err)
			mappings_release(span);
	}
	mappings_unlock(&hold);
	if (err)
		return err;
	mappings_settle(span, prot, flags);
	return (long)page_span_start(span);
}

/* May something be mapped there? With the lock held. */
static long may_clear(struct page_span span, int flags)
{
	if (flags & MAP_FIXED_NOREPLACE && !addresses_are_free(&mappings.free, span.first, span.first + span.pages))
		return -EEXIST;
	return 0;
}

/* Private anonymous memory in the place of what is there. */
static long map_over(struct page_span span, int prot, int flags)
{
	struct mappings_hold hold;
	long err;

	mappings_lock(&hold);
	err = may_clear(span, flags);
	if (!err)
		err = mappings_clear(span);
	if (!err)
		err = mappings_dress(span, prot);
	mappings_unlock(&hold);
	if (err)
		return err;
	mappings_settle(span, prot, flags);
	return (long)page_span_start(span);
}

/*
 * Something foreign in the place of what is there. It is mapped elsewhere first: if it cannot be had, nothing has
 * happened.
 */
static long map_foreign(struct page_span span, int prot, int flags, int fd, off_t offset)
{
	size_t bytes = page_span_bytes(span);
	struct mappings_hold hold;
	long p = sys_call6(SYS_mmap, 0, (long)bytes, prot, flags & ~(MAP_FIXED | MAP_FIXED_NOREPLACE), fd, offset), err;

	if (p < 0 && p > -4096)
		return p;
	mappings_lock(&hold);
	err = may_clear(span, flags);
	if (!err)
		err = mappings_clear(span);
	if (!err)
		err = mappings_relinquish(span);
	if (!err) {
		err = sys_call6(SYS_mremap, p, (long)bytes, (long)bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
				(long)page_span_start(span), 0);
		if (err > 0 || err < -4095)
			err = 0;
		else
			replace_foreign(span);
	}
	mappings_unlock(&hold);
	if (err)
		sys_munmap((void *)p, bytes);
	return err ? err : (long)page_span_start(span);
}

static int is_inside(const char *addr, size_t bytes)
{
	const struct larder_region *r = &mappings.memory->region;

	return region_contains(r, addr) && bytes <= (size_t)(r->base + r->bytes - addr);
}

long mapping_mmap(char *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	size_t rounded = (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
	int fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	long p;

	if (!fixed) {
		p = map_anywhere(is_inside(addr, rounded) ? addr : NULL, rounded, prot, flags);
		/* When there are no more addresses in the region, there are others. */
		return p == -ENOMEM ? sys_call6(SYS_mmap, (long)addr, (long)bytes, prot, flags, fd, offset) : p;
	}
	if ((uintptr_t)addr % PAGE_BYTES || rounded == 0 || rounded < bytes)
		return -EINVAL;
	if (!is_inside(addr,
		       rounded)) /* across the region's edge, where there is nothing of the program's to replace */
		return flags & MAP_FIXED_NOREPLACE ? -EEXIST : -ENOMEM;
	if ((flags & PLAIN_FLAGS) == PLAIN_FLAGS && !(flags & ~(PLAIN_FLAGS | HARMLESS_FLAGS | fixed)))
		return map_over(span_of(addr, rounded), prot, flags);
	return map_foreign(span_of(addr, rounded), prot, flags, fd, offset);
}

/* ---- calls on a range ---- */

static long unmap(struct page_span span)
{
	struct mappings_hold hold;
	long err;

	mappings_lock(&hold);
	err = retire_mapped(span, 1);
	mappings_unlock(&hold);
	return err;
}

/* The first pages in [first, end) that are mapped. */
static struct page_span next_mapped(size_t first, size_t end)
{
	struct mappings_hold hold;
	struct page_span span;

	mappings_lock(&hold);
	span.pages = addresses_next_taken(&mappings.free, first, end, &span.first);
	mappings_unlock(&hold);
	return span;
}

static long protect_mapped(struct page_span span, long number, int prot, long key)
{
	long err = sys_call6(number, (long)page_span_start(span), (long)page_span_bytes(span), prot, key, 0, 0);

	if (!err && prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) {
		uint64_t signals;

		sys_block_signals(&signals);
		charge(span);
		sys_restore_signals(&signals);
	}
	return err;
}

/* mprotect(2) stops at a hole. */
static long protect(struct page_span span, long number, int prot, long key)
{
	struct page_span mapped = next_mapped(span.first, span.first + span.pages);
	long err;

	if (mapped.pages == 0 || mapped.first != span.first)
		return -ENOMEM;
	err = protect_mapped(mapped, number, prot, key);
	return err || mapped.pages == span.pages ? err : -ENOMEM;
}

/* madvise(2) goes on behind it, and says so at the end. */
static long advise_mapped(struct page_span span, int advice)
{
	size_t end = span.first + span.pages;
	int holes = 0;
	long err = 0;

	while (span.first < end && !err) {
		struct page_span mapped = next_mapped(span.first, end);

		holes |= mapped.pages == 0 || mapped.first != span.first;
		if (mapped.pages == 0)
			break;
		err = advise(mapped, advice);
		span.first = mapped.first + mapped.pages;
		holes |= span.first < end;
	}
	return err || !holes ? err : -ENOMEM;
}

/* Has a page of watched memory been touched, and not been thrown away since? */
static int holds_something(const struct larder_page *page)
{
	uint64_t word = page_load(page);
	enum page_state state = page_holder(word);

	return state == PAGE_RESIDENT || state == PAGE_STAGED || state == PAGE_STORED;
}

/* To the program, what was taken out is in core. */
static long in_core(struct page_span span, unsigned char *answers)
{
	struct larder_region *r = &mappings.memory->region;
	long err;

	if (!mappings_are_mapped(span))
		return -ENOMEM;
	err = sys_call3(SYS_mincore, (long)page_span_start(span), (long)page_span_bytes(span), (long)answers);
	for (size_t i = 0; i < span.pages && !err; i++)
		if (chunk_is_watched(region_chunk(r, span.first + i)) && holds_something(&r->pages[span.first + i]))
			answers[i] |= 1;
	return err;
}

static long synchronise(struct page_span span, long number, int flags)
{
	if (!mappings_are_mapped(span))
		return -ENOMEM;
	return sys_call3(number, (long)page_span_start(span), (long)page_span_bytes(span), flags);
}

static long call_inside(long number, struct page_span span, long a, long b)
{
	switch (number) {
	case SYS_munmap:
		return unmap(span);
	case SYS_mprotect:
	case SYS_pkey_mprotect:
		return protect(span, number, (int)a, b);
	case SYS_madvise:
		return advise_mapped(span, (int)a);
	case SYS_mlock:
	case SYS_mlock2:
		return mappings_are_mapped(span) ? lock_pages(span, number, a) : -ENOMEM;
	case SYS_munlock:
		return mappings_are_mapped(span) ? unlock_pages(span) : -ENOMEM;
	case SYS_mincore:
		return in_core(span, (unsigned char *)a);
	default:
		return synchronise(span, number, (int)a);
	}
}

/* As the kernel takes it: these calls accept any address and round, the others want pages. */
static int rounds_down(long number)
{
	return number == SYS_mlock || number == SYS_mlock2 || number == SYS_munlock;
}

long mapping_call(long number, char *addr, size_t bytes, long a, long b)
{
	const struct larder_region *r = &mappings.memory->region;
	size_t skew = (uintptr_t)addr % PAGE_BYTES,
	       rounded = (bytes + skew + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
	char *start = addr - skew, *end = start + rounded, *inside, *inside_end;
	long err = 0;

	if (bytes == 0 || rounded < bytes || end < start || (skew && !rounds_down(number)))
		return sys_call6(number, (long)addr, (long)bytes, a, b, 0, 0);
	inside = start > r->base ? start : r->base;
	inside_end = end < r->base + r->bytes ? end : r->base + r->bytes;
	if (start < inside)
		err = sys_call6(number, (long)start, inside - start, a, b, 0, 0);
	if (!err)
		err = call_inside(number, span_of(inside, (size_t)(inside_end - inside)),
				  number == SYS_mincore ? a + (inside - start) / PAGE_BYTES : a, b);
	if (!err && inside_end < end)
		err = sys_call6(number, (long)inside_end, end - inside_end,
				number == SYS_mincore ? a + (inside_end - start) / PAGE_BYTES : a, b, 0, 0);
	return err;
}
