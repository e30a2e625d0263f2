/*
 * Purges. All of the memory is written and marked, range by range, and purged by one call. The kernel's side lets go of
 * the same ranges by MADV_DONTNEED, which does nothing but free pages: what it takes is the least that anybody could.
 */
#include "clock.h"
#include "volatile.h"

#include <err.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096 };

/* Every range must say that it is gone: else less was done than was timed. */
static void take_back(const struct volatile_turn *v, larder_pool *pool, char *range)
{
	int64_t answer = larder_nonvolatile(pool, range, v->range_bytes, LARDER_ACKNOWLEDGE, NULL);

	if (volatile_check(answer, "larder_nonvolatile") != LARDER_PURGED)
		errx(1, "a range was not purged");
}

static double purge(const struct volatile_turn *v, larder_pool *pool, char **ranges)
{
	size_t bytes = v->ranges * v->range_bytes;
	uint64_t start;
	double seconds;
	int64_t purged;

	for (size_t i = 0; i < v->ranges; i++)
		volatile_check(larder_volatile(pool, ranges[i], v->range_bytes, NULL), "larder_volatile");
	start = clock_ns();
	purged = larder_purge(pool, LARDER_PRIORITY_MAX, bytes);
	seconds = seconds_since(start);
	volatile_check(purged, "larder_purge");
	if ((size_t)purged != bytes)
		errx(1, "larder_purge gave back %lld of %zu bytes", (long long)purged, bytes);
	for (size_t i = 0; i < v->ranges; i++)
		take_back(v, pool, ranges[i]);
	return seconds;
}

static double drop(const struct volatile_turn *v, char **ranges)
{
	uint64_t start = clock_ns();

	for (size_t i = 0; i < v->ranges; i++)
		if (madvise(ranges[i], v->range_bytes, MADV_DONTNEED))
			err(2, "MADV_DONTNEED");
	return seconds_since(start);
}

void volatile_purges(struct turn *t, void *turn)
{
	const struct volatile_turn *v = turn;
	larder_pool *pool = v->side == VOLATILE_LARDER ? volatile_pool() : NULL;
	char **ranges = volatile_ranges(v, pool, v->ranges);
	double seconds = pool ? purge(v, pool, ranges) : drop(v, ranges);

	for (size_t i = 0; i < v->ranges; i++)
		if (volatile_wrong_pages(ranges[i], v->range_bytes) != v->range_bytes / PAGE_BYTES)
			errx(1, "a purged range still has content");
	t->figures[VOLATILE_PURGE_GB_S] = (double)(v->ranges * v->range_bytes) / seconds / 1e9;
}
