/*
 * Stress: threads write, verify, grow, shrink and free blocks with known contents, over a heap of a given size. Every
 * byte is checked against what was written. Run it plain, under `larder run`, or built with IN_PROCESS, where it starts
 * Larder itself (so that sanitizers, which bring their own malloc, can be used) and allocates through jemalloc's
 * extended interface.
 *
 *   stress [--heap MIB] [--seconds N] [--threads N] [--seed N] [--limit MIB|N%] [--expect-evictions]
 *          [--incompressible N%] [--swap-dir DIR] [--swap-size MIB] [--swap-encrypt] [--flaky] [--expect-swap]
 *
 * --flaky: the disk fails in every way that can be got over (IN_PROCESS only).
 *
 * Exit status: 0 no mismatch, 1 a mismatch or a broken expectation, 2 usage. The seed is printed; the same seed does
 * the same operations in each thread.
 */
#include "mix.h"

#include <larder/larder.h>

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef IN_PROCESS
#include "start.h"
#include "flaky_disk.h"

#include <jemalloc/jemalloc.h>

static void *block_alloc(size_t bytes)
{
	return mallocx(bytes, 0);
}

static void *block_grow(void *p, size_t bytes)
{
	return rallocx(p, bytes, 0);
}

static void block_free(void *p)
{
	dallocx(p, 0);
}
#else
static void *block_alloc(size_t bytes)
{
	return malloc(bytes);
}

static void *block_grow(void *p, size_t bytes)
{
	return realloc(p, bytes);
}

static void block_free(void *p)
{
	free(p);
}

/* Present when the preload object is. */
__attribute__((weak)) int larder_get_stats(struct larder_stats *stats);
#endif

enum { MIB = 1 << 20, BLOCKS_MAX = 1 << 16 };

static struct {
	size_t heap_mib;
	unsigned seconds, threads, limit_mib, limit_percent, expect_evictions;
	uint64_t seed;
	const char *swap_dir;
	size_t swap_mib;
	unsigned swap_encrypt, expect_swap, flaky;
	unsigned incompressible; /* percent of the blocks */
} options = { .heap_mib = 256, .seconds = 10, .threads = 4, .incompressible = 3 };

/* What a block must contain follows from its seed and size. Blocks are lists of their own: this table is the only other
 * copy. */
struct block {
	uint64_t *data;
	size_t words;
	uint64_t seed;
};

struct worker {
	pthread_t thread;
	unsigned id;
	uint64_t random;
	size_t budget, used; /* bytes */
	size_t nblocks;
	struct block *blocks;
	uint64_t operations, mismatches;
};

static _Atomic int stop;	 /* 1: come to rest; 2: free everything and end */
static _Atomic unsigned at_rest; /* workers that did */

static uint64_t next_random(struct worker *w)
{
	return mix(w->random++);
}

/*
 * Word i of a block. Some blocks are incompressible; of the others one in eight is one repeated word, the rest compress
 * well (about 12 to 1), so that small limits can be met.
 */
static uint64_t expected(uint64_t seed, size_t i)
{
	if (seed % 100 < options.incompressible)
		return mix(seed + i);
	if (seed / 100 % 8 == 0)
		return seed;
	return i % 64 == 0 ? mix(seed + i) : seed + i % 4;
}

static void fill(const struct block *b, size_t from)
{
	for (size_t i = from; i < b->words; i++)
		b->data[i] = expected(b->seed, i);
}

static void verify(struct worker *w, const struct block *b, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		uint64_t want = expected(b->seed, i);

		if (b->data[i] == want)
			continue;
		if (w->mismatches++ < 5)
			fprintf(stderr,
				"stress: thread %u: %p word %zu of %zu: got %016" PRIx64 ", want %016" PRIx64 "\n",
				w->id, (void *)b->data, i, b->words, b->data[i], want);
	}
}

static size_t random_words(struct worker *w)
{
	uint64_t r = next_random(w);
	size_t bytes;

	switch (r % 64) {
	case 0:
		bytes = MIB + r / 64 % (9u * MIB);
		break;
	case 1 ... 8:
		bytes = 16384 + r / 64 % 262144;
		break;
	case 9 ... 40:
		bytes = 512 + r / 64 % 8192;
		break;
	default:
		bytes = 16 + r / 64 % 512;
		break;
	}
	return bytes / 8 + 1;
}

static void out_of_memory(void)
{
	fprintf(stderr, "stress: allocation failed\n");
	_exit(1);
}

static void drop_block(struct worker *w, struct block *b)
{
	verify(w, b, 0, b->words);
	w->used -= b->words * 8;
	block_free(b->data);
	*b = w->blocks[--w->nblocks];
}

static void new_block(struct worker *w)
{
	struct block b = { .words = random_words(w), .seed = next_random(w) };

	while (w->nblocks && (w->used + b.words * 8 > w->budget || w->nblocks == BLOCKS_MAX))
		drop_block(w, &w->blocks[next_random(w) % w->nblocks]);
	b.data = block_alloc(b.words * 8);
	if (!b.data)
		out_of_memory();
	fill(&b, 0);
	w->used += b.words * 8;
	w->blocks[w->nblocks++] = b;
}

static void resize_block(struct worker *w, struct block *b)
{
	size_t words = b->words / 2 + next_random(w) % (b->words + 1) + 1, old = b->words;

	if (w->used + words * 8 > w->budget)
		words = b->words / 2 + 1;
	b->data = block_grow(b->data, words * 8);
	if (!b->data)
		out_of_memory();
	b->words = words;
	w->used = w->used - old * 8 + words * 8;
	verify(w, b, 0, old < words ? old : words);
	fill(b, old < words ? old : words);
}

/* Look at a few words, as programs do, or at all. */
static void read_block(struct worker *w, const struct block *b)
{
	size_t at = next_random(w) % b->words;

	verify(w, b, at, at + 1);
	if (next_random(w) % 8 == 0)
		verify(w, b, 0, b->words);
}

static void rewrite_block(struct worker *w, struct block *b)
{
	verify(w, b, 0, b->words);
	b->seed = next_random(w);
	fill(b, 0);
}

static void operate(struct worker *w)
{
	struct block *b = w->nblocks ? &w->blocks[next_random(w) % w->nblocks] : NULL;
	uint64_t r = next_random(w) % 100;

	w->operations++;
	if (!b || r < 15)
		new_block(w);
	else if (r < 25)
		resize_block(w, b);
	else if (r < 30)
		drop_block(w, b);
	else if (r < 40)
		rewrite_block(w, b);
	else
		read_block(w, b);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (w->used < w->budget - w->budget / 8)
		new_block(w);
	while (!atomic_load(&stop))
		operate(w);
	for (size_t i = 0; i < w->nblocks; i++)
		verify(w, &w->blocks[i], 0, w->blocks[i].words);
	atomic_fetch_add(&at_rest, 1);
	while (atomic_load(&stop) == 1) /* the heap stays for check_service() to look at */
		usleep(10000);
	while (w->nblocks)
		drop_block(w, &w->blocks[0]);
	return NULL;
}

#ifdef IN_PROCESS
static struct flaky_disk flaky = { .on = 1, .one_in = 50 };

/* Has the disk failed in every way? */
static int check_flaky(void)
{
	int failed = 0;

	if (!options.flaky)
		return 0;
	printf("stress: the disk failed:");
	for (int i = 0; i < FLAKY_BAD_PLACE; i++) {
		printf(" %s %" PRIu64 "%s", flaky_names[i], flaky.count[i], i + 1 < FLAKY_BAD_PLACE ? "," : "\n");
		failed |= flaky.count[i] == 0;
	}
	if (failed)
		fprintf(stderr, "stress: some failures did not happen, so they were not tested\n");
	return failed;
}
#else
static int check_flaky(void)
{
	return 0;
}
#endif

static size_t rss_kib(void)
{
	char line[256];
	size_t kib = 0;
	FILE *f = fopen("/proc/self/smaps_rollup", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Rss: %zu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/* Does the process stay within its limit once it has come to rest? The RSS of the program before it allocated is not
 * Larder's. */
static int check_limit(const struct larder_stats *s, size_t rss_before_kib)
{
	size_t rss = rss_kib(), managed = rss > rss_before_kib ? rss - rss_before_kib : 0;
	size_t allowed = s->limit_bytes / 1024 + s->limit_bytes / 1024 / 20;

	printf("stress: limit %" PRIu64 " MiB, usage %" PRIu64
	       " MiB, RSS %zu MiB of which %zu MiB before the heap; %s\n",
	       s->limit_bytes / MIB, s->usage_bytes / MIB, rss / 1024, rss_before_kib / 1024,
	       s->limit_unmet ? "limit unmet" : "limit met");
	if (s->limit_bytes == 0 || s->limit_unmet || managed <= allowed)
		return 0;
	fprintf(stderr, "stress: %zu KiB is more than 105 %% of the limit (%zu KiB)\n", managed, allowed);
	return 1;
}

/* Was the disk used, and has it lost nothing? */
static int check_disk(const struct larder_stats *s)
{
	const struct larder_disk_stats *d = &s->disk;
	int failed = 0;

	if (d->limit_bytes == 0)
		return options.expect_swap;
	printf("stress: disk: holds %" PRIu64 " MiB; demoted %" PRIu64 ", direct %" PRIu64 ", clean %" PRIu64
	       ", reads %" PRIu64 ", writes %" PRIu64 ", written %" PRIu64 " MiB, cleaned %" PRIu64
	       " MiB, errors %" PRIu64 " + %" PRIu64 ", retries %" PRIu64 ", refused %" PRIu64 ", poisoned %" PRIu64
	       "\n",
	       s->tiers[1].stored_bytes / MIB, s->demoted, s->direct, s->clean_evictions, d->reads, d->writes,
	       d->write_bytes / MIB, d->cleaned_bytes / MIB, d->read_errors, d->write_errors, d->retries, d->refused,
	       s->pages[LARDER_PAGES_POISONED]);
	if (options.expect_swap && (d->reads == 0 || d->writes == 0)) {
		fprintf(stderr, "stress: the disk was not used, so it was not tested\n");
		failed = 1;
	}
	if (s->pages[LARDER_PAGES_POISONED]) {
		fprintf(stderr, "stress: pages were lost\n");
		failed = 1;
	}
	return failed | check_flaky();
}

static int check_service(size_t rss_before_kib)
{
	struct larder_stats s;
	int failed = 0;

#ifndef IN_PROCESS
	if (!larder_get_stats)
		return options.expect_evictions;
#endif
	sleep(1);
	if (larder_get_stats(&s) < 0)
		return options.expect_evictions;
	printf("stress: faults %" PRIu64 " (zero %" PRIu64 ", staged %" PRIu64 ", stored %" PRIu64 "), around %" PRIu64
	       ", evictions %" PRIu64 ", refaults %" PRIu64 ", put off %" PRIu64 "\n",
	       s.faults, s.faults_zero, s.faults_staged, s.faults_stored, s.fault_around, s.evictions, s.refaults,
	       s.faults_throttled);
	if (options.expect_evictions && (s.evictions == 0 || s.faults_stored == 0)) {
		fprintf(stderr, "stress: nothing was evicted, so nothing was tested\n");
		failed = 1;
	}
	return failed | check_disk(&s) | check_limit(&s, rss_before_kib);
}

static void parse_limit(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end == '%')
		options.limit_percent = (unsigned)n;
	else
		options.limit_mib = (unsigned)n;
}

static int parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "heap", required_argument, NULL, 'h' },
		{ "seconds", required_argument, NULL, 's' },
		{ "threads", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 'r' },
		{ "limit", required_argument, NULL, 'l' },
		{ "expect-evictions", no_argument, NULL, 'e' },
		{ "swap-dir", required_argument, NULL, 'd' },
		{ "swap-size", required_argument, NULL, 'z' },
		{ "swap-encrypt", no_argument, NULL, 'c' },
		{ "expect-swap", no_argument, NULL, 'w' },
		{ "flaky", no_argument, NULL, 'f' },
		{ "incompressible", required_argument, NULL, 'i' },
		{ 0 },
	};
	int c;

	options.seed = (uint64_t)time(NULL);
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		switch (c) {
		case 'h':
			options.heap_mib = strtoul(optarg, NULL, 10);
			break;
		case 's':
			options.seconds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 't':
			options.threads = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'r':
			options.seed = strtoull(optarg, NULL, 0);
			break;
		case 'l':
			parse_limit(optarg);
			break;
		case 'e':
			options.expect_evictions = 1;
			break;
		case 'd':
			options.swap_dir = optarg;
			break;
		case 'z':
			options.swap_mib = strtoul(optarg, NULL, 10);
			break;
		case 'c':
			options.swap_encrypt = 1;
			break;
		case 'w':
			options.expect_swap = 1;
			break;
		case 'f':
			options.flaky = 1;
			break;
		case 'i':
			options.incompressible = (unsigned)strtoul(optarg, NULL, 10);
			break;
		default:
			return -1;
		}
	return options.threads && options.heap_mib >= options.threads * 16 ? 0 : -1;
}

static int start_larder(void)
{
#ifdef IN_PROCESS
	struct larder_options o = { .limit_bytes = (uint64_t)options.limit_mib * MIB,
				    .limit_percent = options.limit_percent,
				    .swap_dir = options.swap_dir,
				    .swap_bytes = (uint64_t)options.swap_mib * MIB,
				    .flags = options.swap_encrypt ? LARDER_SWAP_ENCRYPT : 0 };
	static struct disk_seam seam;

	seam = flaky_seam(&flaky);
	return start_process((struct process_setup){ .options = &o, .seam = options.flaky ? &seam : NULL });
#else
	/* `larder run` has these */
	return options.limit_mib || options.limit_percent || options.swap_dir || options.flaky ? -1 : 0;
#endif
}

int main(int argc, char **argv)
{
	struct worker workers[64] = { 0 };
	uint64_t operations = 0, mismatches = 0;
	size_t rss_before;
	int err;

	if (parse(argc, argv) < 0 || options.threads > 64) {
		fprintf(stderr,
			"usage: stress [--heap MIB] [--seconds N] [--threads N<=64] [--seed N] [--limit MIB|N%%] [--expect-evictions]\n"
			"              [--incompressible N] [--swap-dir DIR] [--swap-size MIB] [--swap-encrypt] [--flaky] [--expect-swap]\n");
		return 2;
	}
	err = start_larder();
	if (err) {
		fprintf(stderr, "stress: cannot start (%d)\n", err);
		return 2;
	}
	printf("stress: heap %zu MiB, %u threads, %u s, seed %" PRIu64 "\n", options.heap_mib, options.threads,
	       options.seconds, options.seed);
	fflush(stdout);
	rss_before = rss_kib();
	for (unsigned i = 0; i < options.threads; i++) {
		struct worker *w = &workers[i];

		w->id = i;
		w->random = mix(options.seed + i);
		w->budget = options.heap_mib * MIB / options.threads;
		w->blocks = calloc(BLOCKS_MAX, sizeof(struct block));
		pthread_create(&w->thread, NULL, work, w);
	}
	sleep(options.seconds);
	atomic_store(&stop, 1);
	while (atomic_load(&at_rest) < options.threads)
		usleep(10000);
	err = check_service(rss_before);
	atomic_store(&stop, 2);
	for (unsigned i = 0; i < options.threads; i++) {
		pthread_join(workers[i].thread, NULL);
		operations += workers[i].operations;
		mismatches += workers[i].mismatches;
		free(workers[i].blocks);
	}
	printf("stress: %" PRIu64 " operations, %" PRIu64 " mismatches\n", operations, mismatches);
#ifdef IN_PROCESS
	process_check();
#endif
	return mismatches || err ? 1 : 0;
}
