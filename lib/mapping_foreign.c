/*
 * Mappings: memory that the program watches with a userfaultfd of its own. See mapping.h.
 *
 * A mapping can be registered with one userfaultfd only, and here the program comes first. Before it registers a range,
 * what was taken out of it comes back, Larder's own registration ends and the pages become foreign. Pages that were
 * never touched stay untouched, since those are what the program waits for.
 */
#include "mapping_parts.h"

#include <sys/mman.h>

enum { RELINQUISH_TRIES = 1000, TRY_NS = 100000 };

/* What is out comes back; the pages are kept, so it stays. Returns 0 or a negative errno. */
static long bring_back(struct page_span span)
{
	struct larder_region *r = &mappings.memory->region;
	long err = 0;

	for (size_t i = span.first; i < span.first + span.pages && !err; i++) {
		uint64_t word = page_load(&r->pages[i]);
		enum page_state state = page_holder(word);

		if (state == PAGE_STAGED || state == PAGE_STORED ||
		    word & PAGE_COPY) /* a write drops the copy on disk */
			err = sys_madvise(region_address(r, i), PAGE_BYTES,
					  state == PAGE_RESIDENT ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
	}
	return err;
}

long mappings_relinquish(struct page_span span)
{
	struct larder_region *r = &mappings.memory->region;
	const struct reclaim_request request = { .kind = REQUEST_RELINQUISH, .first = span.first, .pages = span.pages };
	long err = -EAGAIN;

	if (!mappings_have_service())
		return region_relinquish(r, span.first, span.pages, -1);
	region_set_bits(r->kept, span.first, span.pages);
	for (int i = 0; i < RELINQUISH_TRIES && err == -EAGAIN; i++) {
		err = bring_back(span);
		if (!err)
			err = reclaim_ask(mappings.reclaim, &request);
		if (err == -EAGAIN)
			sys_sleep_ns(TRY_NS); /* a page is just being brought back as another's neighbour */
	}
	region_clear_bits(r->kept, span.first, span.pages);
	return err;
}

/* The part of [addr, addr + bytes) that lies in the region. */
static struct page_span inside(const char *addr, size_t bytes)
{
	const struct larder_region *r = &mappings.memory->region;
	const char *end = addr + bytes, *region_end = r->base + r->bytes;

	addr = addr > r->base ? addr : r->base;
	end = end < region_end ? end : region_end;
	return (struct page_span){ region_index(r, addr), (size_t)(end - addr) / PAGE_BYTES };
}

long mapping_relinquish(char *addr, size_t bytes)
{
	const struct larder_region *r = &mappings.memory->region;
	struct page_span span = inside(addr, bytes);
	size_t end = span.first + span.pages;
	long err = 0;

	for (; span.first < end && !err; span.first += span.pages) {
		span.pages = region_run(r->foreign, span.first, end);
		if (!region_bit(r->foreign, span.first))
			err = mappings_relinquish(span);
	}
	return err;
}

/* Only mappings: of other memory it cannot be told whether it was ours. */
void mapping_take_back(char *addr, size_t bytes)
{
	const struct larder_region *r = &mappings.memory->region;
	struct page_span span = inside(addr, bytes);
	size_t end = span.first + span.pages;

	if (!mappings_have_service())
		return;
	for (; span.first < end; span.first += span.pages) {
		size_t charged = region_run(r->charged, span.first, end),
		       foreign = region_run(r->foreign, span.first, end);

		span.pages = charged < foreign ? charged : foreign;
		if (region_bit(r->charged, span.first) && region_bit(r->foreign, span.first))
			reclaim_ask(mappings.reclaim, &(struct reclaim_request){ .kind = REQUEST_ADOPT_PAGES,
										 .first = span.first,
										 .pages = span.pages });
	}
}
