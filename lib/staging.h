/*
 * The staging area: a ring of page slots that hold pages which left the program's mapping but are still in RAM.
 *
 * userfaultfd gives no accessed bit, so a page's time here is its reference test (Levy and Lipman, "Virtual Memory
 * Management in the VAX/VMS Operating System", 1982): UFFDIO_MOVE takes it out of the mapping without copying; touched
 * here, it comes back for a soft fault; untouched at the tail of the ring, it is compressed.
 *
 * The reclaim thread alone moves `head` and `tail`. Slots are emptied in batches, because every unmapping costs a TLB
 * shootdown; until then a slot whose page was taken back still holds a stale copy, which nobody reads. Fault handlers
 * read slot contents while they own (RESTORING) a page whose word names the slot; whoever empties it waits for them. A
 * page on its way to disk keeps its slot until it is there, and the tail waits for it; those behind it are emptied.
 */
#ifndef LARDER_STAGING_H
#define LARDER_STAGING_H

#include "page.h"
#include "sys.h"

#include <stdatomic.h>
#include <stdint.h>

enum { STAGING_MAX_SLOTS = 1 << 16 }; /* 256 MiB of address space; how much is filled is reclaim's choice */

#define STAGING_NOBODY UINT32_MAX

struct larder_staging {
	char *base;
	uint32_t *owner;    /* [slot]: index of the page that was moved here, STAGING_NOBODY: it has been emptied before
			       the tail came; reclaim thread, and who compresses it */
	uint8_t *refusals;  /* [slot]: how often in a row no tier took that page; reclaim thread only */
	uint32_t *writing;  /* [slot]: ticket of the object that takes that page to disk (swap_out.h), 0 = none; reclaim
			       thread only */
	uint64_t *checksum; /* [slot]: of the copy on disk that the page has, if it has one; as owner */
	/* Slots in use are [tail, head) modulo STAGING_MAX_SLOTS, and pages in [tail, cursor) are on their way into the
	 * store. In [tail, passed) only slots are filled whose pages are on their way to disk; `vacant` are not. tail
	 * <= passed <= cursor <= head; reclaim thread only. */
	uint64_t head, cursor, passed, tail, vacant;
	_Atomic uint64_t filled; /* slots, for readers of the usage */
};

static inline int staging_open(struct larder_staging *s)
{
	s->base = sys_map((size_t)STAGING_MAX_SLOTS * PAGE_BYTES);
	s->owner = sys_map(STAGING_MAX_SLOTS * sizeof(*s->owner));
	s->refusals = sys_map(STAGING_MAX_SLOTS);
	s->writing = sys_map(STAGING_MAX_SLOTS * sizeof(*s->writing));
	s->checksum = sys_map(STAGING_MAX_SLOTS * sizeof(*s->checksum));
	return s->base && s->owner && s->refusals && s->writing && s->checksum ? 0 : -ENOMEM;
}

static inline void staging_close(struct larder_staging *s)
{
	if (s->base)
		sys_munmap(s->base, (size_t)STAGING_MAX_SLOTS * PAGE_BYTES);
	if (s->owner)
		sys_munmap(s->owner, STAGING_MAX_SLOTS * sizeof(*s->owner));
	if (s->refusals)
		sys_munmap(s->refusals, STAGING_MAX_SLOTS);
	if (s->writing)
		sys_munmap(s->writing, STAGING_MAX_SLOTS * sizeof(*s->writing));
	if (s->checksum)
		sys_munmap(s->checksum, STAGING_MAX_SLOTS * sizeof(*s->checksum));
	*s = (struct larder_staging){ 0 };
}

static inline char *staging_address(const struct larder_staging *s, uint32_t slot)
{
	return s->base + (size_t)slot * PAGE_BYTES;
}

static inline int staging_contains(const struct larder_staging *s, const void *addr)
{
	return (size_t)((const char *)addr - s->base) < (size_t)STAGING_MAX_SLOTS * PAGE_BYTES;
}

static inline uint32_t staging_slot(uint64_t position)
{
	return (uint32_t)(position % STAGING_MAX_SLOTS);
}

/* Slots that can be filled in one run at the head: up to the end of the ring or to the tail. */
static inline uint64_t staging_room(const struct larder_staging *s)
{
	uint64_t free_slots = STAGING_MAX_SLOTS - (s->head - s->tail);
	uint64_t to_end = STAGING_MAX_SLOTS - staging_slot(s->head);

	return free_slots < to_end ? free_slots : to_end;
}

static inline void staging_publish(struct larder_staging *s)
{
	atomic_store_explicit(&s->filled, s->head - s->tail - s->vacant, memory_order_relaxed);
}

#endif
