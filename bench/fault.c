/*
 * What it costs to touch a page that is out: Larder, with handler threads and inline, against the kernel's zram with
 * lz4, on the same contents.
 *
 * Each round takes every (pattern, number of threads) and, for each peer in alternating order: fills the buffer anew,
 * pushes it out, has the threads read one word of each page and times each read, then compares the whole buffer with
 * what was written. Threads have disjoint shares. A neighbour that came along with an earlier fault is read in
 * nanoseconds: that is in the mean, and is why the sequential pattern is judged by its mean.
 */
#include "clock.h"
#include "latency.h"
#include "paging.h"
#include "random.h"

#include <err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { MAX_ROUNDS = 1000, MAX_THREADS = 16 };
enum pattern { RANDOM, SEQUENTIAL, PATTERNS };
enum figure { P50, P90, P99, MEAN, FIGURES };

static const char *const pattern_names[] = { "random", "sequential" };
static const double target = 2.0; /* larder's p50 / zram's p50: random, one thread */

static double figures[MAX_THREADS][PATTERNS][PEERS][FIGURES][MAX_ROUNDS];

/* The pages in the order in which they are touched. Not from malloc: that would be pushed out too. */
static uint32_t *order;

static void make_order(const struct paging_options *o, enum pattern pattern, unsigned round)
{
	uint32_t pages = (uint32_t)(o->bytes / PAGING_PAGE_BYTES);
	struct random r = { random_mix(o->seed) + round };

	for (uint32_t i = 0; i < pages; i++)
		order[i] = i;
	for (uint32_t i = pages - 1; pattern == RANDOM && i > 0; i--) {
		uint32_t j = random_below(&r, i + 1), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
}

/* ---- the threads ---- */

struct toucher {
	pthread_t thread;
	pthread_barrier_t *start;
	const char *buffer;
	size_t first, end; /* in order[] */
	struct latency latency;
};

static struct toucher touchers[MAX_THREADS];

static void *touch(void *arg)
{
	struct toucher *t = arg;

	pthread_barrier_wait(t->start);
	for (size_t i = t->first; i < t->end; i++) {
		const volatile char *page = t->buffer + (size_t)order[i] * PAGING_PAGE_BYTES;
		uint64_t start = clock_ns();

		(void)*page;
		latency_add(&t->latency, clock_ns() - start);
	}
	return NULL;
}

/* In the sequential pattern each thread walks through its own part of the buffer. */
static void prepare(struct toucher *t, const struct paging_options *o, enum peer peer, unsigned number,
		    unsigned threads)
{
	size_t pages = o->bytes / PAGING_PAGE_BYTES;

	t->buffer = paging_buffer(peer);
	t->first = pages * number / threads;
	t->end = pages * (number + 1) / threads;
	latency_open(&t->latency, t->end - t->first);
}

/* The threads exist before the pages go, so that their start touches nothing that is out. */
static void touch_all(const struct paging_options *o, enum peer peer, unsigned threads, struct latency *all)
{
	pthread_barrier_t start;

	pthread_barrier_init(&start, NULL, threads + 1);
	for (unsigned i = 0; i < threads; i++) {
		prepare(&touchers[i], o, peer, i, threads);
		touchers[i].start = &start;
		if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]))
			errx(2, "cannot create a thread");
	}
	paging_push_out(o, peer);
	paging_check_out(o, peer);
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(touchers[i].thread, NULL);
		latency_append(all, &touchers[i].latency);
		latency_close(&touchers[i].latency);
	}
	pthread_barrier_destroy(&start);
}

/* ---- rounds ---- */

static void measure(const struct paging_options *o, enum pattern pattern, unsigned threads, enum peer peer,
		    unsigned round)
{
	double(*f)[MAX_ROUNDS] = figures[threads - 1][pattern][peer];
	struct latency all;

	latency_open(&all, o->bytes / PAGING_PAGE_BYTES);
	paging_fill(o, peer, round);
	touch_all(o, peer, threads, &all);
	latency_sort(&all);
	f[P50][round] = latency_quantile_us(&all, 0.5);
	f[P90][round] = latency_quantile_us(&all, 0.9);
	f[P99][round] = latency_quantile_us(&all, 0.99);
	f[MEAN][round] = latency_mean_us(&all);
	latency_close(&all);
	paging_check_contents(o, peer, round);
}

/* Every peer takes its turn at being first. */
static void measure_all(const struct paging_options *o, enum pattern pattern, unsigned threads, unsigned round)
{
	make_order(o, pattern, round);
	for (unsigned i = 0; i < PEERS; i++)
		measure(o, pattern, threads, (enum peer)((round + i) % PEERS), round);
}

/* ---- the table ---- */

static double ratio_median(unsigned threads, enum pattern pattern, enum peer peer, enum figure figure, unsigned rounds)
{
	static double ratios[MAX_ROUNDS];

	for (unsigned i = 0; i < rounds; i++)
		ratios[i] = figures[threads - 1][pattern][peer][figure][i] /
			    figures[threads - 1][pattern][PEER_ZRAM][figure][i];
	return paging_median(ratios, rounds);
}

/* Ratios of all peers before any median: the median sorts, and a ratio needs both values of one round. */
static void print_rows(unsigned threads, enum pattern pattern, unsigned rounds, double ratios[PEERS][FIGURES])
{
	for (int peer = 0; peer < PEERS; peer++)
		for (int f = 0; f < FIGURES; f++)
			ratios[peer][f] = ratio_median(threads, pattern, (enum peer)peer, (enum figure)f, rounds);
	for (int peer = 0; peer < PEERS; peer++) {
		printf("%-8u%-12s%-8s", threads, pattern_names[pattern], paging_name((enum peer)peer));
		for (int f = 0; f < FIGURES; f++)
			printf("%8.1f", paging_median(figures[threads - 1][pattern][peer][f], rounds));
		if (peer != PEER_ZRAM)
			printf("%12.2f%8.2f", ratios[peer][P50], ratios[peer][MEAN]);
		putchar('\n');
	}
}

static void print_table(const struct paging_options *o)
{
	double ratios[PEERS][FIGURES], judged = 0;

	printf("%-28s%32s%20s\n", "us a touch", "", "/ zram's");
	printf("%-8s%-12s%-8s%8s%8s%8s%8s%12s%8s\n", "threads", "pattern", "peer", "p50", "p90", "p99", "mean", "p50",
	       "mean");
	for (unsigned threads = 1; threads <= o->max_threads; threads++)
		for (int pattern = 0; pattern < PATTERNS; pattern++) {
			print_rows(threads, (enum pattern)pattern, o->rounds, ratios);
			if (threads == 1 && pattern == RANDOM)
				judged = ratios[PEER_LARDER][P50];
		}
	putchar('\n');
	paging_print_target("handlers, random, 1 thread, p50", judged, target, 1);
}

int main(int argc, char **argv)
{
	struct paging_options o = { .bytes = 128 << 20, .rounds = 7, .max_threads = 2, .with_inline = 1, .seed = 1 };
	size_t order_bytes;

	paging_parse(argc, argv, "Touch the same pages after Larder and after the kernel (zram) pushed them out.", &o);
	paging_begin(&o);
	order_bytes = o.bytes / PAGING_PAGE_BYTES * sizeof(*order);
	order = mmap(NULL, order_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (order == MAP_FAILED)
		err(2, "no memory");
	for (unsigned round = 0; round < o.rounds; round++)
		for (unsigned threads = 1; threads <= o.max_threads; threads++)
			for (int pattern = 0; pattern < PATTERNS; pattern++)
				measure_all(&o, (enum pattern)pattern, threads, round);
	print_table(&o);
	return 0;
}
