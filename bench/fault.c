/*
 * What it costs to touch a page that is out: Larder, with handler threads and inline, against the kernel's zram with
 * lz4, on the same contents.
 *
 * Each round takes every (pattern, number of threads) and, for each peer in alternating order: fills the buffer anew,
 * pushes it out, has the threads read one word of each page and times each read, then compares the whole buffer with
 * what was written. Threads have disjoint shares. A neighbour that came along with an earlier fault is read in
 * nanoseconds: that is in the mean, and is why the sequential pattern is judged by its mean.
 */
#include "latency.h"
#include "paging.h"
#include "random.h"
#include "touch.h"

#include <stdio.h>

enum { MAX_ROUNDS = 1000, MAX_THREADS = 16 };
enum figure { P50, P90, P99, MEAN, FIGURES };

static const char *const pattern_names[] = { "random", "sequential" };
static const double target = 2.0; /* larder's p50 / zram's p50: random, one thread */

static double figures[MAX_THREADS][TOUCH_PATTERNS][PEERS][FIGURES][MAX_ROUNDS];

/* What is measured now. */
struct turn {
	const struct paging_options *options;
	enum peer peer;
};

static void push_out(void *arg)
{
	const struct turn *turn = arg;

	paging_push_out(turn->options, turn->peer);
	paging_settle(turn->options, turn->peer);
	paging_check_out(turn->options, turn->peer);
}

/* ---- rounds ---- */

static void measure(const struct paging_options *o, enum touch_pattern pattern, unsigned threads, enum peer peer,
		    unsigned round)
{
	double(*f)[MAX_ROUNDS] = figures[threads - 1][pattern][peer];
	struct latency all;

	latency_open(&all, o->bytes / PAGING_PAGE_BYTES);
	paging_fill(o, peer, round);
	touch_all(paging_buffer(peer), threads, push_out, &(struct turn){ o, peer }, &all);
	latency_sort(&all);
	f[P50][round] = latency_quantile_us(&all, 0.5);
	f[P90][round] = latency_quantile_us(&all, 0.9);
	f[P99][round] = latency_quantile_us(&all, 0.99);
	f[MEAN][round] = latency_mean_us(&all);
	latency_close(&all);
	paging_check_contents(o, peer, round);
}

/* Every peer takes its turn at being first. */
static void measure_all(const struct paging_options *o, enum touch_pattern pattern, unsigned threads, unsigned round)
{
	touch_order(pattern, random_mix(o->seed) + round);
	for (unsigned i = 0; i < PEERS; i++)
		measure(o, pattern, threads, (enum peer)((round + i) % PEERS), round);
}

/* ---- the table ---- */

static double ratio_median(unsigned threads, enum touch_pattern pattern, enum peer peer, enum figure figure,
			   unsigned rounds)
{
	static double ratios[MAX_ROUNDS];

	for (unsigned i = 0; i < rounds; i++)
		ratios[i] = figures[threads - 1][pattern][peer][figure][i] /
			    figures[threads - 1][pattern][PEER_KERNEL][figure][i];
	return paging_median(ratios, rounds);
}

/* Ratios of all peers before any median: the median sorts, and a ratio needs both values of one round. */
static void print_rows(unsigned threads, enum touch_pattern pattern, unsigned rounds, double ratios[PEERS][FIGURES])
{
	for (int peer = 0; peer < PEERS; peer++)
		for (int f = 0; f < FIGURES; f++)
			ratios[peer][f] = ratio_median(threads, pattern, (enum peer)peer, (enum figure)f, rounds);
	for (int peer = 0; peer < PEERS; peer++) {
		printf("%-8u%-12s%-8s", threads, pattern_names[pattern], paging_name((enum peer)peer));
		for (int f = 0; f < FIGURES; f++)
			printf("%8.1f", paging_median(figures[threads - 1][pattern][peer][f], rounds));
		if (peer != PEER_KERNEL)
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
		for (int pattern = 0; pattern < TOUCH_PATTERNS; pattern++) {
			print_rows(threads, (enum touch_pattern)pattern, o->rounds, ratios);
			if (threads == 1 && pattern == TOUCH_RANDOM)
				judged = ratios[PEER_LARDER][P50];
		}
	putchar('\n');
	paging_print_target("handlers, random, 1 thread, p50", judged, target, 1);
}

int main(int argc, char **argv)
{
	struct paging_options o = { .bytes = 128 << 20, .rounds = 7, .max_threads = 2, .with_inline = 1, .seed = 1 };

	paging_parse(argc, argv, "Touch the same pages after Larder and after the kernel (zram) pushed them out.", &o);
	paging_begin(&o);
	touch_open(o.bytes / PAGING_PAGE_BYTES);
	for (unsigned round = 0; round < o.rounds; round++)
		for (unsigned threads = 1; threads <= o.max_threads; threads++)
			for (int pattern = 0; pattern < TOUCH_PATTERNS; pattern++)
				measure_all(&o, (enum touch_pattern)pattern, threads, round);
	print_table(&o);
	return 0;
}
