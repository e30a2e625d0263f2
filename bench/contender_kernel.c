/*
 * The kernel with one of its peers: plain memory, taken out by MADV_PAGEOUT or by the cgroup's limit.
 *
 * With a swap file the call returns when the writes have been sent, and the pages stay in the swap cache, where a fault
 * finds them without the disk, until reclaim looks at them again. So the memory is free only after another round of
 * reclaim, for which the cgroup is asked: it waits for the writes.
 */
#include "clock.h"
#include "contender.h"
#include "cgroup.h"
#include "swap.h"
#include "turn.h"

#include <err.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { MOST_SECONDS = 120, CHUNK_PAGES = 4096, PAUSE_NS = 1000000 };

static struct {
	const struct contender_setup *setup;
	char *buffer;
	uint64_t first_swapped;
} kernel;

/*
 * Nothing but the buffer is to be pushed out: the benchmark's own memory is not what is measured, and where a cgroup's
 * processes wait for memory, the kernel sends SIGSEGV to a thread whose restartable sequences (rseq(2)) it cannot bring
 * back at that moment.
 */
static char *open_kernel(const struct contender_setup *s)
{
	kernel.setup = s;
	kernel.first_swapped = swap_pages_out();
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		err(2, "mlockall");
	turn_join_cgroup();
	kernel.buffer = contender_map(s->bytes);
	munlock(kernel.buffer, s->bytes);
	return kernel.buffer;
}

/* Pages of the buffer in RAM: mapped, or in the swap cache, where mincore(2) sees them. */
static size_t pages_in_ram(void)
{
	static unsigned char present[CHUNK_PAGES];
	size_t pages = kernel.setup->bytes / CONTENDER_PAGE_BYTES, sum = 0;

	for (size_t at = 0; at < pages; at += CHUNK_PAGES) {
		size_t n = pages - at < CHUNK_PAGES ? pages - at : CHUNK_PAGES;

		if (mincore(kernel.buffer + at * CONTENDER_PAGE_BYTES, n * CONTENDER_PAGE_BYTES, present))
			err(2, "mincore");
		for (size_t i = 0; i < n; i++)
			sum += present[i] & 1;
	}
	return sum;
}

static void wait_until_free(uint64_t start)
{
	size_t pages = kernel.setup->bytes / CONTENDER_PAGE_BYTES, left;
	int err;

	while ((left = pages_in_ram()) > pages / 1000) {
		if (seconds_since(start) > MOST_SECONDS)
			errx(2, "%s: %zu of %zu pages are in RAM after %d s", kernel.setup->peer->name, left, pages,
			     MOST_SECONDS);
		err = cgroup_empty(turn_cgroup());
		if (err)
			errx(2, "cannot have %s emptied: %s", turn_cgroup(), strerror(-err));
		nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
	}
}

static double out(void)
{
	uint64_t start = clock_ns();
	double seconds;

	if (madvise(kernel.buffer, kernel.setup->bytes, MADV_PAGEOUT))
		err(2, "MADV_PAGEOUT");
	seconds = seconds_since(start);
	wait_until_free(start);
	return seconds;
}

static void stats(struct contender_stats *s)
{
	const struct peer *peer = kernel.setup->peer;
	uint64_t content = 0, occupied = 0;

	if (peer->held)
		peer->held(&content, &occupied);
	s->content_bytes = peer->held ? (double)content : (double)kernel.setup->bytes;
	s->held_bytes = (double)occupied;
	s->written_bytes =
		peer->needs_dir ? (double)(swap_pages_out() - kernel.first_swapped) * CONTENDER_PAGE_BYTES : NAN;
}

const struct contender contender_kernel = {
	.name = "kernel", /* the peer's name is shown */
	.kind = CONTENDER_PEER,
	.open = open_kernel,
	.out = out,
	.stats = stats,
};
