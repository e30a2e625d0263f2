/*
 * The kernel: MADV_PAGEOUT to a swap file.
 *
 * The call returns when the writes have been sent, and the pages stay in the swap cache, where a fault finds them
 * without the disk, until reclaim looks at them again. So the memory is free only after another round of reclaim, for
 * which the cgroup is asked: it waits for the writes.
 */
#include "disk_run.h"

#include "clock.h"
#include "swap.h"

#include <err.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { MOST_SECONDS = 120, CHUNK_PAGES = 4096, PAUSE_NS = 1000000 };

/* Pages of the buffer in RAM: mapped, or in the swap cache, where mincore(2) sees them. */
static size_t pages_in_ram(char *buffer, size_t pages)
{
	static unsigned char present[CHUNK_PAGES];
	size_t sum = 0;

	for (size_t at = 0; at < pages; at += CHUNK_PAGES) {
		size_t n = pages - at < CHUNK_PAGES ? pages - at : CHUNK_PAGES;

		if (mincore(buffer + at * PAGING_PAGE_BYTES, n * PAGING_PAGE_BYTES, present))
			err(2, "mincore");
		for (size_t i = 0; i < n; i++)
			sum += present[i] & 1;
	}
	return sum;
}

static void wait_until_free(const struct disk_setup *s, char *buffer, uint64_t start)
{
	size_t pages = s->paging.bytes / PAGING_PAGE_BYTES, left;
	int err;

	while ((left = pages_in_ram(buffer, pages)) > pages / 1000) {
		if (seconds_since(start) > MOST_SECONDS)
			errx(2, "swap: %zu of %zu pages are in RAM after %d s", left, pages, MOST_SECONDS);
		err = cgroup_empty(s->cgroup);
		if (err)
			errx(2, "cannot have %s emptied: %s", s->cgroup, strerror(-err));
		nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
	}
}

static void out(const struct disk_setup *s, enum peer peer, struct disk_out *out)
{
	uint64_t pages_before = swap_pages_out(), start = clock_ns();

	paging_push_out(&s->paging, peer);
	out->call_seconds = seconds_since(start);
	wait_until_free(s, paging_buffer(peer), start);
	out->free_seconds = seconds_since(start);
	out->written_bytes = (swap_pages_out() - pages_before) * PAGING_PAGE_BYTES;
}

const struct disk_contender disk_swap = { "swap", PEER_KERNEL, out };
