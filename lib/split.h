/*
 * Split: how much of the limit is for pages that are compressed in RAM, where a disk is below them.
 *
 * What they give up would keep pages resident that come back soon after they have left; what they are given keeps pages
 * in RAM that are the next to go to disk. What the one and the other are worth shows in the ages of what is fetched
 * from RAM: so each fetch of a young page takes something from the share, each of one that would have gone on soon
 * gives it something, and it comes to rest where a little more of it costs what it saves. (ARC divides a cache between
 * two lists like that: Megiddo and Modha, FAST 2003. Its ghosts are not needed: pages that are nearly gone say as
 * much.)
 *
 * How much they give, r being how well pages compress. One more page resident, and all pages leave one page later: of
 * the young fetches that were counted, over AGE_YOUNG ticks of pages, it saves one for each page in these ticks. One
 * less resident, and r - 1 more are in RAM. Of those that are compressed about one in three ever goes on to disk, so
 * they go 3 (r - 1) pages later; old fetches are counted over four times as many ticks. One from disk takes 75 to 130
 * us of the program's time, one from RAM and the page that it drives out 10 to 20: it is dearer by about six times the
 * latter. So an old fetch is worth 6 x 3 (r - 1) / 4 young ones.
 */
#ifndef LARDER_SPLIT_H
#define LARDER_SPLIT_H

#include "age.h"

/* Of the limit. Less hardly delays what goes to disk; with more there is a fault at every step of the program. */
enum {
	SPLIT_FIRST = SHARE_ALL / 2,
	SPLIT_LEAST = SHARE_ALL / 4,
	SPLIT_MOST = SHARE_ALL * 5 / 8,
};

/* A young fetch moves it by so much: 1000 of them by 1/32 of the limit. */
enum { SPLIT_STEP = SHARE_ALL / 32768 };

/* What an old fetch is worth, for each r beyond 1: 6 x 3 / 4, in sixteenths. */
enum { SPLIT_WORTH_ONE = 16, SPLIT_OLD_WORTH = SPLIT_WORTH_ONE * 9 / 2 };

enum { SPLIT_OLD_GENERATIONS = 4 * AGE_YOUNG / AGE_GENERATION_TICKS };

struct larder_split {
	_Atomic uint32_t young, old; /* fetches from RAM, of pages that are young, or nearly on disk; any thread */

	/* Reclaim thread only. */
	uint32_t young_seen, old_seen; /* of those, what the share has followed */
	int32_t beyond_first;	       /* the share, less SPLIT_FIRST: so zeroed memory is a split */
};

/* A page is fetched that is STORED in RAM, as `word` says. Any thread. */
static inline void split_note(struct larder_split *s, const struct larder_age *a, uint64_t word)
{
	if (age_is_young(a, word))
		atomic_fetch_add_explicit(&s->young, 1, memory_order_relaxed);
	else if (age_generation(a, word) < age_oldest(a) + SPLIT_OLD_GENERATIONS)
		atomic_fetch_add_explicit(&s->old, 1, memory_order_relaxed);
}

/* What compressed pages may take of a limit. Reclaim thread. */
static inline uint64_t split_bytes(const struct larder_split *s, uint64_t limit_bytes)
{
	return limit_bytes / SHARE_ALL * (uint64_t)(SPLIT_FIRST + s->beyond_first);
}

/*
 * Follow what has been fetched since the last time, `pages` being compressed in `bytes`. Unless they take about what
 * they may, what is fetched says nothing: none of them is about to go. Reclaim thread.
 */
static inline void split_follow(struct larder_split *s, uint64_t pages, uint64_t bytes, uint64_t limit_bytes)
{
	uint32_t young = atomic_load_explicit(&s->young, memory_order_relaxed);
	uint32_t old = atomic_load_explicit(&s->old, memory_order_relaxed);
	int64_t taken = young - s->young_seen, given = old - s->old_seen;
	int64_t to, saved = (int64_t)(pages * PAGE_BYTES) - (int64_t)bytes;

	s->young_seen = young;
	s->old_seen = old;
	if (bytes <= split_bytes(s, limit_bytes) / 16 * 15)
		return;
	given = saved > 0 ? given * (SPLIT_OLD_WORTH * saved / (int64_t)bytes) / SPLIT_WORTH_ONE : 0;
	to = SPLIT_FIRST + s->beyond_first + SPLIT_STEP * (given - taken);
	to = to < SPLIT_LEAST ? SPLIT_LEAST : to > SPLIT_MOST ? SPLIT_MOST : to;
	s->beyond_first = (int32_t)(to - SPLIT_FIRST);
}

#endif
