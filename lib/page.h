/*
 * The page table entry: where one page's content is, in 16 bytes.
 *
 * The life of a page (DESIGN: docs/architecture.md):
 *
 *   FRESH ------zero-fill-----> RESIDENT --evict--> MOVING --moved--> STAGED --compressed--> STORED
 *     ^                           ^  ^                |                  |                     |
 *     |                           |  +--refused-------+                  |                     |
 *     |                           +--------- RESTORING <--- touched -----+---------------------+
 *     +------- DISCARDING <--- freed, purged: from FRESH, RESIDENT, STAGED, STORED, POISONED
 *
 * Invariant: at each instant exactly one holder has the newest content, and the state names it:
 *   FRESH       nobody: the page reads as zeroes
 *   RESIDENT    the program's mapping (present, or swapped by the kernel; never missing)
 *   MOVING      mapping or staging slot: a MOVE is under way, the evictor knows which
 *   STAGED      the staging slot `slot`; the mapping is missing
 *   STORED      the store, at (tier, handle); the mapping is missing
 *   RESTORING   what it was before, until the copy into the mapping is done; then the mapping
 *   DISCARDING  nobody wants it any more
 *   POISONED    lost; a touch raises SIGBUS
 *
 * FRESH and POISONED pages may carry TRAP: purged while volatile, and a touch must not read zeroes (volatile.h).
 * RESIDENT and STAGED pages may carry COPY: `handle` names what was fetched from the tier on disk, which may still be
 * the same; whoever makes the page something else drops it. A page that is STORED in RAM with COPY is the same there,
 * and has both handles.
 *
 * MOVING, RESTORING and DISCARDING are *busy*: one thread owns the page and nobody else may change its entry, except to
 * set WAITERS. A busy entry remembers which state it was, for a forked child that has the page but not its owner. A
 * fault handler never waits for a busy page: it sets WAITERS and forgets the fault; whoever ends the busy state sees
 * WAITERS and wakes the faulting threads, which fault again and find the new state.
 *
 * Concurrency: `word` changes by compare-and-swap only. `handle` belongs to the owner of a busy page, and to the
 * reclaim thread for STAGED pages without COPY, until it publishes them as STORED.
 */
#ifndef LARDER_PAGE_H
#define LARDER_PAGE_H

#include "log.h"

#include <stdatomic.h>
#include <stdint.h>

enum { PAGE_SHIFT = 12, PAGE_BYTES = 1 << PAGE_SHIFT };

enum page_state {
	PAGE_FRESH, /* zero, so that an untouched table is a table of fresh pages */
	PAGE_RESIDENT,
	PAGE_MOVING,
	PAGE_STAGED,
	PAGE_STORED,
	PAGE_RESTORING,
	PAGE_DISCARDING,
	PAGE_POISONED,
	PAGE_STATES
};

struct larder_page {
	_Atomic uint64_t word; /* state, WAITERS, tier, credit, slot: see page_word() */
	uint64_t
		handle; /* while STORED, or with COPY: see page_handle(); while RESIDENT with credit HELD: until when */
};

/*
 * The word:  bits 0-3 state | 4 WAITERS | 5-7 tier (STORED) | 8-11 credit (RESIDENT) | 12 TRAP | 13 COPY | 14-17 the
 * state it was (busy) | 18-31 tick (STORED in RAM; see age.h) | 32-63 staging slot (STAGED), or the ticket
 * of the object that takes the page to disk (STORED; see swap_out.h). Credit is how many passes of the clock the page
 * is spared: the count of a generalised second chance.
 */
#define PAGE_WAITERS ((uint64_t)1 << 4)
#define PAGE_TRAP    ((uint64_t)1 << 12)
#define PAGE_COPY    ((uint64_t)1 << 13)
enum {
	PAGE_TIER_SHIFT = 5,
	PAGE_TIER_MAX = 7,
	PAGE_CREDIT_SHIFT = 8,
	PAGE_CREDIT_MAX = 15,
	PAGE_HELD = 15,
	PAGE_WAS_SHIFT = 14,
	PAGE_TICK_SHIFT = 18,
	PAGE_TICK_MAX = (1 << 14) - 1,
	PAGE_SLOT_SHIFT = 32
};
#define PAGE_STATE_MASK ((uint64_t)15)
#define PAGE_WAS_MASK	(PAGE_STATE_MASK << PAGE_WAS_SHIFT)

static inline uint64_t page_word_resident(unsigned credit)
{
	return PAGE_RESIDENT | (uint64_t)credit << PAGE_CREDIT_SHIFT;
}

static inline uint64_t page_word_staged(uint32_t slot)
{
	return PAGE_STAGED | (uint64_t)slot << PAGE_SLOT_SHIFT;
}

static inline uint64_t page_word_stored(unsigned tier)
{
	return PAGE_STORED | (uint64_t)tier << PAGE_TIER_SHIFT;
}

static inline enum page_state page_state(uint64_t word)
{
	return (enum page_state)(word & PAGE_STATE_MASK);
}

static inline unsigned page_tier(uint64_t word)
{
	return word >> PAGE_TIER_SHIFT & PAGE_TIER_MAX;
}

static inline unsigned page_credit(uint64_t word)
{
	return word >> PAGE_CREDIT_SHIFT & PAGE_CREDIT_MAX;
}

static inline uint32_t page_slot(uint64_t word)
{
	return (uint32_t)(word >> PAGE_SLOT_SHIFT);
}

/* Is a page staged in a slot, copy on disk or not? */
static inline int page_is_staged_in(uint64_t word, uint32_t slot)
{
	return (word & ~PAGE_COPY) == page_word_staged(slot);
}

/* The ticket with which a stored page is on its way to disk; 0 = it is not. */
static inline uint32_t page_ticket(uint64_t word)
{
	return (uint32_t)(word >> PAGE_SLOT_SHIFT);
}

static inline uint64_t page_with_ticket(uint64_t word, uint32_t ticket)
{
	return (word & UINT32_MAX) | (uint64_t)ticket << PAGE_SLOT_SHIFT;
}

/* The last bits of the time at which a page was stored in RAM. */
static inline uint64_t page_tick(uint64_t word)
{
	return word >> PAGE_TICK_SHIFT & PAGE_TICK_MAX;
}

static inline uint64_t page_with_tick(uint64_t word, uint64_t tick)
{
	return (word & ~((uint64_t)PAGE_TICK_MAX << PAGE_TICK_SHIFT)) | (tick & PAGE_TICK_MAX) << PAGE_TICK_SHIFT;
}

/*
 * Where in its tier a page is, STORED as `word` says, and where the copy on disk is of a page that has one. Stored in
 * RAM with COPY it has both in one: so that whoever looks at the handle of a busy page, which may be the one or the
 * other, can tell, that of the copy has one added to it.
 */
static inline uint64_t page_handle(const struct larder_page *page, uint64_t word)
{
	return word & PAGE_COPY ? page->handle & UINT32_MAX : page->handle;
}

static inline uint64_t page_copy_handle(const struct larder_page *page)
{
	return page->handle >> 32 ? (page->handle >> 32) - 1 : page->handle;
}

static inline uint64_t page_both_handles(uint64_t in_ram, uint64_t copy)
{
	return in_ram | (copy + 1) << 32;
}

static inline int page_is_busy(uint64_t word)
{
	return (1u << page_state(word) & (1u << PAGE_MOVING | 1u << PAGE_RESTORING | 1u << PAGE_DISCARDING)) != 0;
}

/* Which states may follow which: the picture above, as a table that debug builds check on every change. */
static inline int page_may_become(enum page_state from, enum page_state to)
{
	static const uint16_t next[PAGE_STATES] = {
		[PAGE_FRESH] = 1 << PAGE_FRESH | 1 << PAGE_RESTORING | 1 << PAGE_RESIDENT | 1 << PAGE_DISCARDING,
		[PAGE_RESIDENT] = 1 << PAGE_RESIDENT | 1 << PAGE_MOVING | 1 << PAGE_RESTORING | 1 << PAGE_DISCARDING,
		[PAGE_MOVING] = 1 << PAGE_STAGED | 1 << PAGE_RESIDENT | 1 << PAGE_FRESH,
		[PAGE_STAGED] = 1 << PAGE_STAGED | 1 << PAGE_STORED | 1 << PAGE_RESTORING | 1 << PAGE_DISCARDING,
		[PAGE_STORED] = 1 << PAGE_RESTORING | 1 << PAGE_DISCARDING,
		[PAGE_RESTORING] =
			1 << PAGE_RESIDENT | 1 << PAGE_FRESH | 1 << PAGE_STAGED | 1 << PAGE_STORED | 1 << PAGE_POISONED,
		[PAGE_DISCARDING] = 1 << PAGE_FRESH,
		[PAGE_POISONED] = 1 << PAGE_DISCARDING | 1 << PAGE_RESTORING,
	};

	return next[from] >> to & 1;
}

static inline uint64_t page_load(const struct larder_page *page)
{
	return atomic_load_explicit(&page->word, memory_order_acquire);
}

/* Change the word if it still is *word; else *word is what it is now. Acquire and release, so that content follows the
 * state. */
static inline int page_change(struct larder_page *page, uint64_t *word, uint64_t to)
{
	larder_assert(page_may_become(page_state(*word), page_state(to)));
	return atomic_compare_exchange_strong_explicit(&page->word, word, to, memory_order_acq_rel,
						       memory_order_acquire);
}

/* Become the owner of a page that is not busy, keeping tier, credit and slot in the word for the owner to read. */
static inline int page_acquire(struct larder_page *page, uint64_t *word, enum page_state busy)
{
	return page_change(page, word, (*word & ~PAGE_STATE_MASK) | (*word & PAGE_STATE_MASK) << PAGE_WAS_SHIFT | busy);
}

/* What a busy page was before it was acquired, without WAITERS. */
static inline uint64_t page_word_before(uint64_t word)
{
	return (word & ~(PAGE_STATE_MASK | PAGE_WAS_MASK | PAGE_WAITERS)) | (word & PAGE_WAS_MASK) >> PAGE_WAS_SHIFT;
}

/* Who has the newest content of a page, whether somebody owns it at the moment or not. */
static inline enum page_state page_holder(uint64_t word)
{
	return page_state(page_is_busy(word) ? page_word_before(word) : word);
}

/* End a busy state. Returns true when threads wait for the page and must be woken. */
static inline int page_release(struct larder_page *page, uint64_t to)
{
	uint64_t old = atomic_exchange_explicit(&page->word, to, memory_order_acq_rel);

	larder_assert(page_is_busy(old));
	larder_assert(page_may_become(page_state(old), page_state(to)));
	return (old & PAGE_WAITERS) != 0;
}

/* Ask the owner of a busy page to wake the threads that fault on it. False when the page is not busy any more. */
static inline int page_await(struct larder_page *page, uint64_t word)
{
	while (page_is_busy(word))
		if (atomic_compare_exchange_weak_explicit(&page->word, &word, word | PAGE_WAITERS, memory_order_acq_rel,
							  memory_order_acquire))
			return 1;
	return 0;
}

#endif
