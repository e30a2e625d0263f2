/*
 * Marks. A pair is a mark and its end. Every thread has ranges of its own and goes over them in random order: it marks
 * them all, then takes them all back, so that with many ranges neither call finds in the caches what the other left
 * there. With one range both do: that is the best case, of all sides.
 */
#include "clock.h"
#include "random.h"
#include "volatile.h"

#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HOT_PAIRS = 64, THREADS_MAX = 64 };

static const uint64_t least_ns = 100000000;

struct marker {
	pthread_t thread;
	pthread_barrier_t *start;
	const struct volatile_turn *v;
	larder_pool *pool;
	char **ranges; /* in the order in which they are visited */
	double ns_a_pair;
};

/* ---- the pair ---- */

static void mark(const struct marker *m, char *range)
{
	if (m->pool)
		volatile_check(larder_volatile(m->pool, range, m->v->range_bytes, NULL), "larder_volatile");
	else if (madvise(range, m->v->range_bytes, MADV_FREE))
		err(2, "MADV_FREE");
}

static void take_back(const struct marker *m, char *range)
{
	int64_t answer;

	if (!m->pool) {
		if (madvise(range, m->v->range_bytes, MADV_POPULATE_WRITE))
			err(2, "MADV_POPULATE_WRITE");
		return;
	}
	answer = larder_nonvolatile(m->pool, range, m->v->range_bytes, 0, NULL);
	if (volatile_check(answer, "larder_nonvolatile") == LARDER_PURGED)
		errx(1, "a range was purged though nothing asked for it");
}

/* ---- the threads ---- */

static void sweep(const struct marker *m)
{
	for (size_t i = 0; i < m->v->ranges; i++)
		mark(m, m->ranges[i]);
	for (size_t i = 0; i < m->v->ranges; i++)
		take_back(m, m->ranges[i]);
}

/* The clock is not looked at after each pair of a single range: it would take as long as the pair. */
static void *run_marker(void *arg)
{
	struct marker *m = arg;
	size_t sweeps = m->v->ranges == 1 ? HOT_PAIRS : 1;
	uint64_t pairs = 0, start, now;

	sweep(m);
	pthread_barrier_wait(m->start);
	start = clock_ns();
	do {
		for (size_t i = 0; i < sweeps; i++)
			sweep(m);
		pairs += sweeps * m->v->ranges;
		now = clock_ns();
	} while (now - start < least_ns);
	m->ns_a_pair = (double)(now - start) / (double)pairs;
	return NULL;
}

static void shuffle(char **ranges, size_t n, uint64_t seed)
{
	struct random r = { seed };

	for (size_t i = n; i-- > 1;) {
		size_t j = random_below(&r, (uint32_t)i + 1);
		char *swap = ranges[i];

		ranges[i] = ranges[j];
		ranges[j] = swap;
	}
}

/* Watch the memory for missing pages, as a pager would. */
static void register_memory(char *p, size_t bytes)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = {
		.range = { (uintptr_t)p, bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &r))
		err(2, "userfaultfd");
}

/* The mean of the threads' means. */
static double measure(const struct volatile_turn *v, larder_pool *pool, char **ranges)
{
	static struct marker markers[THREADS_MAX];
	pthread_barrier_t start;
	double sum = 0;

	pthread_barrier_init(&start, NULL, v->threads);
	for (unsigned i = 0; i < v->threads; i++) {
		shuffle(ranges + i * v->ranges, v->ranges, i);
		markers[i] = (struct marker){ .start = &start, .v = v, .pool = pool, .ranges = ranges + i * v->ranges };
		if (pthread_create(&markers[i].thread, NULL, run_marker, &markers[i]))
			errx(2, "cannot create a thread");
	}
	for (unsigned i = 0; i < v->threads; i++) {
		pthread_join(markers[i].thread, NULL);
		sum += markers[i].ns_a_pair;
	}
	pthread_barrier_destroy(&start);
	return sum / v->threads;
}

void volatile_marks(struct turn *t, void *turn)
{
	const struct volatile_turn *v = turn;
	size_t count = v->threads * v->ranges;
	larder_pool *pool = v->side == VOLATILE_LARDER ? volatile_pool() : NULL;
	char **ranges = volatile_ranges(v, pool, count);

	if (v->side == VOLATILE_REGISTERED)
		register_memory(ranges[0], count * v->range_bytes);
	t->figures[VOLATILE_PAIR_NS] = measure(v, pool, ranges);
	for (size_t i = 0; i < count; i++)
		if (volatile_wrong_pages(ranges[i], v->range_bytes))
			errx(1, "a range that was called intact is not as it was written");
}
