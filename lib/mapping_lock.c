/*
 * Mappings: mlockall(2). See mapping.h.
 *
 * Handing mlockall() to the kernel would fill every reservation of ours. So what the program has been given is locked
 * piece by piece; of the rest of the process what has a name is locked as the kernel would, and what has none - stacks,
 * what the allocator keeps about its memory, small mappings of the program, and tables of ours - as far as it is, or
 * will be, touched (MLOCK_ONFAULT). The staging area is left out: pages cannot be moved between memory that is locked
 * and memory that is not.
 */
#include "mapping_parts.h"
#include "proc_maps.h"

#include <sys/mman.h>

/* Lock what the program has of the region. */
static long lock_managed(long flags)
{
	struct larder_region *r = &mappings.memory->region;
	size_t end = region_used_pages(r);
	long err = 0;

	for (size_t i = 0, n; i < end && !err; i += n) {
		size_t chunk_end = i - i % CHUNK_PAGES + CHUNK_PAGES, to = chunk_end < end ? chunk_end : end;

		if (region_chunk(r, i)->owner.kind != CHUNK_MAPPING) {
			n = to - i;
			err = lock_pages((struct page_span){ i, n }, SYS_mlock2, flags);
			continue;
		}
		n = region_run(r->charged, i, to);
		if (region_bit(r->charged, i)) /* what is inaccessible now cannot be locked, and that is no error */
			lock_pages((struct page_span){ i, n }, SYS_mlock2, flags);
	}
	return err;
}

static int overlaps(const struct proc_map *map, const void *start, size_t bytes)
{
	return map->start < (uintptr_t)start + bytes && map->end > (uintptr_t)start;
}

/* Not everything can be locked (the kernel's own pages cannot), and mlockall() does not mind. */
static int lock_other(void *arg, const struct proc_map *map)
{
	const struct larder_memory *m = mappings.memory;
	int flags = map->has_name ? *(const int *)arg : (int)MLOCK_ONFAULT;

	if (overlaps(map, m->region.base, m->region.bytes) ||
	    overlaps(map, m->staging.base, (size_t)STAGING_MAX_SLOTS * PAGE_BYTES))
		return 0;
	if (map->prot & PROT_READ)
		sys_call3(SYS_mlock2, (long)map->start, (long)(map->end - map->start), flags);
	return 0;
}

long mapping_mlockall(int flags)
{
	int lock_flags = flags & MCL_ONFAULT ? MLOCK_ONFAULT : 0;
	long err;

	if (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) || !(flags & (MCL_CURRENT | MCL_FUTURE)))
		return -EINVAL;
	err = flags & MCL_FUTURE ? sys_call3(SYS_mlockall, flags & ~MCL_CURRENT, 0, 0) : 0;
	if (err)
		return err;
	atomic_store(&mappings.locks_future, flags & MCL_FUTURE ? (uint32_t)flags : 0);
	if (!(flags & MCL_CURRENT))
		return 0;
	err = lock_managed(lock_flags);
	if (err) {
		mapping_munlockall();
		return err;
	}
	proc_maps_each(lock_other, &lock_flags);
	return 0;
}

long mapping_munlockall(void)
{
	struct larder_region *r = &mappings.memory->region;
	size_t chunks = region_used_chunks(r);

	atomic_store(&mappings.locks_future, 0);
	for (size_t c = 0; c < chunks; c++)
		if (r->chunks[c].owner.pool == REGION_HEAP && chunk_is_marked(&r->chunks[c], CHUNK_HAS_LOCKED))
			region_clear_bits(r->kept, c * CHUNK_PAGES, CHUNK_PAGES);
	return sys_call3(SYS_munlockall, 0, 0, 0);
}

void mapping_inherit(void)
{
	atomic_store(&mappings.locks_future, 0);
	if (mapping_is_open())
		release_unforked();
}

void mapping_handed_out(const void *addr, size_t bytes)
{
	uint32_t flags = atomic_load_explicit(&mappings.locks_future, memory_order_relaxed);

	if (flags)
		lock_pages((struct page_span){ region_index(&mappings.memory->region, addr), bytes / PAGE_BYTES },
			   SYS_mlock2, flags & MCL_ONFAULT ? MLOCK_ONFAULT : 0);
}
