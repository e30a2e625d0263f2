/*
 * Age: for how long a page has been stored in RAM, measured by how many pages have been put there since.
 *
 * Every 1/1024 of all pages that is put there is a tick, and a page's word has the last bits of the tick at which it
 * was (page.h). What is wanted back when it is young is in use: memory that is a little larger would have kept it. That
 * is what Linux calls the refault distance (mm/workingset.c). What is oldest is the first to go on to disk.
 *
 * The ages of what is fetched also say what more room would be worth: a little denser, and what came back within a
 * sixteenth of all pages would not have left; and what comes back from disk has left long ago. Where pages go round, as
 * in a heap that is read from end to end, nothing comes back so soon, and only speed counts.
 *
 * A page that is older than 16 times all pages is taken for a younger one: it may get credit that it has not earned, or
 * go on later.
 */
#ifndef LARDER_AGE_H
#define LARDER_AGE_H

#include "page.h"
#include "share.h"

enum { AGE_TICKS = 1024, AGE_TICK_LEAST_PAGES = 8 };

/* So many ticks count as young: twice as many pages as staging holds at a limit of half of all. */
enum { AGE_YOUNG = AGE_TICKS / 64 };

/*
 * So many ticks are what one gains by compressing with a dictionary: 1.16 to 1.26 times denser (docs/compression.md),
 * with half to nine tenths of all pages stored. It takes 2.4 us more for a page, out and in, where a fault and what it
 * drives out cost about 20 on all CPUs: so it pays when one fetch in eight is of a page that would have stayed. With a
 * disk, less of it has to be read, at about 75 us a page: then one in 32 is enough.
 */
enum {
	AGE_NEAR = AGE_TICKS / 16,
	AGE_NEAR_ENOUGH = SHARE_ALL / 8,
	AGE_NEAR_ENOUGH_WITH_DISK = SHARE_ALL / 32,
};

/* Pages that were put within so many ticks are a generation: they go on to disk together (swap_out.h). */
enum { AGE_GENERATION_TICKS = AGE_TICKS / 32 };

/* One single page in so many is looked at, and the share is of about the last 256 looks. */
enum { AGE_LOOK_EVERY = 8, AGE_WEIGHT_SHIFT = 8 };

struct larder_age {
	_Atomic uint64_t now;	 /* ticks; the reclaim thread's to change */
	size_t pages;		 /* put since the last tick; reclaim thread only */
	_Atomic uint64_t oldest; /* the generation that goes on to disk now; the reclaim thread's to change */
	_Atomic uint32_t far;	 /* the share of fetches of pages older than AGE_NEAR, or from disk; any thread */
};

static inline uint64_t age_now(const struct larder_age *a)
{
	return atomic_load_explicit(&a->now, memory_order_relaxed);
}

/* The word of a page that is put into a tier in RAM now, of `used` pages in all. */
static inline uint64_t age_stamp(struct larder_age *a, size_t used, unsigned tier)
{
	size_t tick = used / AGE_TICKS;

	if (++a->pages > (tick > AGE_TICK_LEAST_PAGES ? tick : AGE_TICK_LEAST_PAGES)) {
		a->pages = 1;
		atomic_store_explicit(&a->now, age_now(a) + 1, memory_order_relaxed);
	}
	return page_with_tick(page_word_stored(tier), age_now(a));
}

/* How many ticks ago a page was put that is STORED in RAM. */
static inline uint64_t age_of(const struct larder_age *a, uint64_t word)
{
	return (age_now(a) - page_tick(word)) & PAGE_TICK_MAX;
}

static inline int age_is_young(const struct larder_age *a, uint64_t word)
{
	return age_of(a, word) <= AGE_YOUNG;
}

static inline int age_is_far(const struct larder_age *a, uint64_t word)
{
	return age_of(a, word) > AGE_NEAR;
}

/*
 * Pages [index, index + n) are fetched, from RAM or from disk. A single one counts if it is one of those that are
 * looked at: by Knuth's multiplicative hash, since faults come at intervals. Any thread.
 */
static inline void age_note(struct larder_age *a, size_t index, size_t n, int is_far)
{
	if (n > 1 || (uint32_t)index * 2654435761u < UINT32_MAX / AGE_LOOK_EVERY)
		share_count(&a->far, is_far, AGE_WEIGHT_SHIFT);
}

/* Is denser worth more than faster, while memory is short? At first it is. */
static inline int age_room_pays(const struct larder_age *a, int has_disk)
{
	return share_of(&a->far) <= SHARE_ALL - (has_disk ? AGE_NEAR_ENOUGH_WITH_DISK : AGE_NEAR_ENOUGH);
}

/* The tick at which it was put. */
static inline uint64_t age_put_at(const struct larder_age *a, uint64_t word)
{
	return age_now(a) - age_of(a, word);
}

static inline uint64_t age_generation(const struct larder_age *a, uint64_t word)
{
	return age_put_at(a, word) / AGE_GENERATION_TICKS;
}

static inline uint64_t age_oldest(const struct larder_age *a)
{
	return atomic_load_explicit(&a->oldest, memory_order_relaxed);
}

#endif
