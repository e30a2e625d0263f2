/*
 * A table that computes itself: volatile memory, optimistic use.
 *
 * Entry i is how many steps the Collatz sequence takes from i to 1: a value that anybody can
 * compute, but not quickly. All pages of the table are volatile all the time. Threads read
 * entries with plain loads; nobody asks whether they are still there. When a page has been
 * purged, the first touch calls refill(), which computes that page alone.
 *
 * What is handed to the kernel is another matter, since the kernel cannot call refill(): it is
 * pinned for the time of the system call, and pinning makes what is lost again.
 *
 *   refill_table [TABLE_MIB [LIMIT_MIB [THREADS [READS]]]]
 *
 * Exit status: 0; 1 when a value was wrong, nothing was ever refilled, or something failed;
 * 2: usage.
 */
#include <larder/larder.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1 << 20, SLICE_BYTES = MIB, THREADS_MAX = 64 };

static uint64_t table_mib, threads, reads;
static larder_pool *pool;
static uint32_t *table;
static _Atomic uint64_t refills, wrong;

static void die(const char *what, int err)
{
	fprintf(stderr, "refill_table: %s: %s\n", what, strerror(-err));
	exit(1);
}

static uint32_t collatz_steps(uint64_t n)
{
	uint32_t steps = 0;

	for (; n > 1; steps++)
		n = n % 2 ? 3 * n + 1 : n / 2;
	return steps;
}

static void compute(size_t first, uint32_t *values, size_t count)
{
	for (size_t i = 0; i < count; i++)
		values[i] = collatz_steps(first + i);
}

/*
 * Runs on the thread that touched a purged page, in the middle of its load: takes no locks,
 * allocates nothing, and writes to `buffer`, not to the table.
 */
static int refill(void *cookie, void *addr, void *buffer, size_t bytes)
{
	uint32_t *base = cookie;

	compute((uint32_t *)addr - base, buffer, bytes / sizeof(*base));
	refills++;
	return 0;
}

/* Nothing is computed yet: the table is empty, and pages are made when they are first touched.
 */
static void table_make(size_t bytes)
{
	struct larder_volatile_options options = {
		.on_touch = LARDER_TOUCH_REFILL,
		.unit_bytes = LARDER_UNIT_PAGE,
		.refill = refill,
		.flags = LARDER_EMPTY,
	};
	void *pages;
	int err = larder_pages_alloc(pool, bytes, &pages);

	if (err)
		die("larder_pages_alloc", err);
	table = options.cookie = pages;
	err = larder_volatile(pool, table, bytes, &options);
	if (err)
		die("larder_volatile", err);
}

static void *read_some(void *seed)
{
	uint64_t random = (uintptr_t)seed, entries = table_mib * MIB / sizeof(*table);

	for (uint64_t i = 0; i < reads; i++) {
		size_t at;

		random = random * 6364136223846793005u +
			 1442695040888963407u; /* Knuth's MMIX generator */
		at = (random >> 32) % entries;
		if (table[at] != collatz_steps(at))
			wrong++;
	}
	return NULL;
}

static void read_with_threads(void)
{
	pthread_t thread[THREADS_MAX];

	for (uintptr_t i = 0; i < threads; i++) {
		int err = pthread_create(&thread[i], NULL, read_some, (void *)(i + 1));

		if (err)
			die("pthread_create", -err);
	}
	for (uint64_t i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
}

/* Let the kernel read a slice of the table, as if to send it somewhere, and look at what
 * arrived. */
static void write_slice(size_t first)
{
	static uint32_t arrived[SLICE_BYTES / sizeof(*table)];
	int err, fd = memfd_create("slice", MFD_CLOEXEC);

	err = larder_pin(pool, table + first, SLICE_BYTES);
	if (err) /* LARDER_PURGED: refill() has failed, which ours never does */
		die("larder_pin", err);
	if (fd < 0 || write(fd, table + first, SLICE_BYTES) != SLICE_BYTES)
		die("write", -errno);
	err = larder_unpin(pool, table + first, SLICE_BYTES);
	if (err)
		die("larder_unpin", err);
	if (pread(fd, arrived, SLICE_BYTES, 0) != SLICE_BYTES)
		die("pread", -errno);
	for (size_t i = 0; i < SLICE_BYTES / sizeof(*table); i++)
		wrong += arrived[i] != collatz_steps(first + i);
	close(fd);
}

static void pool_open(uint64_t limit_bytes)
{
	struct larder_pool_options options = { .limit_bytes = limit_bytes };
	int err = larder_start(NULL);

	if (err && err != -EALREADY) /* already: under `larder run` */
		die("larder_start (`larder doctor` says more)", err);
	err = larder_pool_create(&pool, &options);
	if (err)
		die("larder_pool_create", err);
}

/* --help, and whatever is not a number from 1 to `max`, gives the usage. */
static uint64_t argument(int argc, char **argv, int at, uint64_t otherwise, uint64_t max)
{
	uint64_t value = at < argc ? strtoull(argv[at], NULL, 10) : otherwise;
	int help = argc > 1 && !strcmp(argv[1], "--help");

	if (value && value <= max && argc <= 5 && !help)
		return value;
	fprintf(help ? stdout : stderr,
		"usage: refill_table [TABLE_MIB [LIMIT_MIB [THREADS [READS]]]]\n"
		"Each of THREADS threads reads READS random values of a table, with LIMIT_MIB to keep it in (16 4 4 5000).\n");
	exit(help ? 0 : 2);
}

int main(int argc, char **argv)
{
	uint64_t limit_mib = argument(argc, argv, 2, 4, 1 << 14);
	int err;

	table_mib = argument(argc, argv, 1, 16, 1 << 14);
	threads = argument(argc, argv, 3, 4, THREADS_MAX);
	reads = argument(argc, argv, 4, 5000, UINT32_MAX);

	pool_open(limit_mib * MIB);
	table_make(table_mib * MIB);
	read_with_threads();
	for (uint64_t mib = 0; mib < table_mib; mib++)
		write_slice(mib * MIB / sizeof(*table));
	err = larder_pool_destroy(pool);
	if (err)
		die("larder_pool_destroy", err);
	printf("%" PRIu64 " MiB table in %" PRIu64 " MiB: %" PRIu64 " refills, wrong = %" PRIu64
	       "\n",
	       table_mib, limit_mib, refills, wrong);
	return wrong || !refills;
}
