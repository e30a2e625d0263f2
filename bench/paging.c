#include "paging.h"

#include "zram.h"

#include <larder/larder.h>

#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)

enum { ALIGN_BYTES = 2 << 20 };

/* Nothing has changed for so long: more than two sweeps of recompression. */
enum { SETTLED_SECONDS = 6 };

static const char *names[] = { "zram", "larder", "inline" };
static char *buffers[PEERS];
static larder_pool *pools[PEERS];

/* ---- options ---- */

static uint64_t parse_number(const char *text, const char *what, uint64_t most)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	if (*end || end == text || n < 1 || n > most)
		errx(2, "%s must be a number from 1 to %llu, not '%s'", what, (unsigned long long)most, text);
	return n;
}

static void print_usage(const char *program, const char *what, int threads)
{
	printf("Usage: %s [OPTION...]\n%s\n\n", program, what);
	puts("  --contents KIND   mixed (default), text, json, random or zero");
	puts("  --megabytes N     MiB of each buffer (default 128)");
	puts("  --rounds N        each runs both sides; medians are printed (default 7)");
	puts("  --seed N          of the contents and the order (default 1)");
	puts("  --settle          wait until Larder has recompressed what is out");
	if (threads)
		puts("  --threads N       measure with 1 to N threads (default 2)");
}

void paging_parse(int argc, char **argv, const char *what, struct paging_options *o)
{
	static const struct option known[] = {
		{ "contents", required_argument, NULL, 'c' }, { "megabytes", required_argument, NULL, 'm' },
		{ "rounds", required_argument, NULL, 'r' },   { "seed", required_argument, NULL, 's' },
		{ "threads", required_argument, NULL, 't' },  { "settle", no_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },	      { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1)
		switch (c) {
		case 'c':
			o->contents = contents_parse(optarg);
			break;
		case 'm':
			o->bytes = parse_number(optarg, "--megabytes", 8192) * MIB;
			break;
		case 'r':
			o->rounds = (unsigned)parse_number(optarg, "--rounds", 1000);
			break;
		case 's':
			o->seed = parse_number(optarg, "--seed", UINT64_MAX);
			break;
		case 'w':
			o->settle = 1;
			break;
		case 't':
			if (!o->max_threads)
				errx(2, "there is no option --threads here; try --help");
			o->max_threads = (unsigned)parse_number(optarg, "--threads", 16);
			break;
		case 'h':
			print_usage(argv[0], what, o->max_threads != 0);
			exit(0);
		default:
			exit(2);
		}
	if (optind < argc)
		errx(2, "unexpected argument '%s'; try --help", argv[optind]);
}

/* ---- buffers ---- */

char *paging_buffer(enum peer peer)
{
	return buffers[peer];
}

const char *paging_name(enum peer peer)
{
	return names[peer];
}

static char *map_plain_buffer(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	madvise(p, bytes, MADV_NOHUGEPAGE); /* else a fault would bring more than its page */
	return p;
}

static void start_larder(const struct paging_options *o)
{
	int err = larder_start(&(struct larder_options){ .swap_dir = o->swap_dir,
							 .swap_bytes = o->swap_bytes,
							 .flags = o->swap_encrypt ? LARDER_SWAP_ENCRYPT : 0 });

	if (err)
		errx(2, "larder_start: %s", strerror(-err));
}

static void make_pool_buffer(const struct paging_options *o, enum peer peer)
{
	const struct larder_pool_options options = {
		.fault_mode = peer == PEER_INLINE ? LARDER_FAULT_INLINE : LARDER_FAULT_HANDLERS,
		.tiers = o->swap_dir ? LARDER_TIER_FILE : 0,
	};
	void *pages;
	int err = larder_pool_create(&pools[peer], &options);

	if (!err)
		err = larder_pages_alloc(pools[peer], o->bytes, &pages);
	if (err)
		errx(2, "a pool for %s: %s", names[peer], strerror(-err));
	buffers[peer] = pages;
}

static void make_heap_buffer(size_t bytes)
{
	buffers[PEER_LARDER] = aligned_alloc(ALIGN_BYTES, (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES);
	if (!buffers[PEER_LARDER])
		err(2, "no memory");
}

static void make_buffer(const struct paging_options *o, enum peer peer)
{
	if (peer == PEER_KERNEL)
		buffers[peer] = map_plain_buffer(o->bytes);
	else if (peer == PEER_LARDER && !o->swap_dir)
		make_heap_buffer(o->bytes);
	else
		make_pool_buffer(o, peer);
}

void paging_open(const struct paging_options *o, enum peer peer, const char *name)
{
	names[peer] = name;
	if (peer != PEER_KERNEL)
		start_larder(o);
	make_buffer(o, peer);
}

void paging_begin(const struct paging_options *o)
{
	zram_begin(4 * (uint64_t)o->bytes + 64 * MIB);
	start_larder(o);
	make_buffer(o, PEER_KERNEL);
	make_buffer(o, PEER_LARDER);
	if (o->with_inline)
		make_buffer(o, PEER_INLINE);
	printf("%s contents, LZ4 ratio %.2f; %llu MiB, %u rounds, seed %llu\n\n", contents_name(o->contents),
	       contents_lz4_ratio(o->contents, o->seed), (unsigned long long)(o->bytes / MIB), o->rounds,
	       (unsigned long long)o->seed);
}

void paging_fill(const struct paging_options *o, enum peer peer, uint64_t generation)
{
	contents_fill(o->contents, buffers[peer], o->bytes, o->seed + generation);
}

void paging_check_contents(const struct paging_options *o, enum peer peer, uint64_t generation)
{
	size_t wrong = contents_wrong_pages(o->contents, buffers[peer], o->bytes, o->seed + generation);

	if (wrong)
		errx(1, "%s: %zu pages are not as they were written", paging_name(peer), wrong);
}

/* ---- out ---- */

/* Pages of the buffer that are in this process's mapping, from /proc/self/pagemap (bit 63), which knows both peers. */
static size_t present_pages(const char *buffer, size_t bytes)
{
	static uint64_t entries[4096];
	size_t pages = bytes / PAGING_PAGE_BYTES, present = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (size_t at = 0; at < pages;) {
		off_t offset = (off_t)(((uintptr_t)buffer / PAGING_PAGE_BYTES + at) * sizeof(entries[0]));
		size_t want = pages - at < 4096 ? pages - at : 4096;
		ssize_t n = pread(fd, entries, want * sizeof(entries[0]), offset);

		if (n <= 0)
			err(2, "cannot read /proc/self/pagemap");
		for (size_t i = 0; i < (size_t)n / sizeof(entries[0]); i++)
			present += entries[i] >> 63;
		at += (size_t)n / sizeof(entries[0]);
	}
	close(fd);
	return present;
}

/* The other managed pages (libc's, ours) are few; what they displace from the request is asked for again. */
static void reclaim_all(const struct paging_options *o)
{
	uint64_t missing = o->bytes;
	int64_t done;

	while (missing) {
		done = larder_reclaim(missing);
		if (done <= 0)
			return;
		missing = present_pages(buffers[PEER_LARDER], o->bytes) * PAGING_PAGE_BYTES;
	}
}

void paging_push_out(const struct paging_options *o, enum peer peer)
{
	int done;

	if (peer == PEER_KERNEL) {
		if (madvise(buffers[peer], o->bytes, MADV_PAGEOUT))
			err(2, "MADV_PAGEOUT");
	} else if (pools[peer]) {
		done = larder_advise(pools[peer], buffers[peer], o->bytes, LARDER_ADVICE_COLD);
		if (done < 0)
			errx(2, "larder_advise: %s", strerror(-done));
	} else {
		reclaim_all(o);
	}
}

static void check_stored(const struct paging_options *o)
{
	struct larder_stats s;
	uint64_t stored = larder_get_stats(&s) ? 0 : s.pages[LARDER_PAGES_STORED] + s.pages[LARDER_PAGES_SAME];

	if (stored < o->bytes / PAGING_PAGE_BYTES / 100 * 99)
		errx(2, "larder has stored only %llu of %zu pages", (unsigned long long)stored,
		     o->bytes / PAGING_PAGE_BYTES);
}

size_t paging_check_out(const struct paging_options *o, enum peer peer)
{
	size_t pages = o->bytes / PAGING_PAGE_BYTES, present = present_pages(buffers[peer], o->bytes);

	if (present > pages / 100)
		errx(2, "%s has left %zu of %zu pages in RAM: with these contents there is nothing to compare",
		     paging_name(peer), present, pages);
	if (peer != PEER_KERNEL)
		check_stored(o);
	return (pages - present) * PAGING_PAGE_BYTES;
}

static uint64_t tier_bytes(void)
{
	struct larder_stats s;

	if (larder_get_stats(&s))
		errx(2, "larder has no stats");
	return s.tiers[0].stored_bytes;
}

void paging_settle(const struct paging_options *o, enum peer peer)
{
	uint64_t before = 0;

	if (!o->settle || peer == PEER_KERNEL)
		return;
	for (uint64_t now = tier_bytes(); now != before; now = tier_bytes()) {
		before = now;
		sleep(SETTLED_SECONDS);
	}
}

uint64_t paging_held_bytes(enum peer peer)
{
	struct larder_stats s;
	uint64_t sum;

	if (peer == PEER_KERNEL)
		return zram_used_bytes();
	if (larder_get_stats(&s))
		return 0;
	sum = s.metadata_bytes;
	for (int i = 0; i < LARDER_TIERS_MAX; i++)
		sum += s.tiers[i].occupied_bytes + s.tiers[i].metadata_bytes;
	return sum;
}

/* ---- results ---- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double paging_median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), compare);
	return n ? (values[(n - 1) / 2] + values[n / 2]) / 2 : 0;
}

void paging_print_target(const char *what, double ratio, double target, int smaller_is_better)
{
	int met = smaller_is_better ? ratio <= target : ratio >= target;

	printf("target: %s %s %.2f x zram: %.2f, %s\n", what, smaller_is_better ? "<=" : ">=", target, ratio,
	       met ? "met" : "MISSED");
}
