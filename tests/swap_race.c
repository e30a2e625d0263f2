/*
 * Threads use a range of several times the limit on a disk that has bad places and fails at random besides. What the
 * disk loses must raise SIGBUS, on exactly that page, until it is discarded; everything else must be right; and the
 * pages that are counted as poisoned must be those that are.
 *
 *   swap_race [--seconds N] [--threads N] [--seed N] [--inline]
 *
 * Exit status: 0, 1 wrong contents or counts, 2 usage. The seed is printed.
 */
#include "start.h"
#include "content.h"
#include "flaky_disk.h"

#include <jemalloc/jemalloc.h>
#include <larder/larder.h>

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

enum { PAGES = 96 * PAGES_PER_MIB, LIMIT_MIB = 16, SWAP_MIB = 128, THREADS_MAX = 16 };

static struct flaky_disk disk = { .on = 1, .one_in = 100, .bad_one_in = 2000 };

/* Page i belongs to thread i % threads, as does what is known of it. */
static char *base;
static larder_pool *pool;
static uint64_t generation[PAGES];
static uint8_t lost[PAGES]; /* it raised SIGBUS and was not discarded since */
static unsigned nthreads = 4;
static int is_inline;
static _Atomic int stop;
static pthread_barrier_t filled;
static _Atomic uint64_t wrong, losses, reads, rewrites;

/* ---- touching a page that may be lost ---- */

static __thread sigjmp_buf bus_return;
static __thread uintptr_t bus_address;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	static const char elsewhere[] = "swap_race: SIGBUS outside the range\n";

	(void)context;
	bus_address = (uintptr_t)info->si_addr;
	if (bus_address - (uintptr_t)base < (uintptr_t)PAGES * PAGE)
		siglongjmp(bus_return, 1);
	if (write(STDERR_FILENO, elsewhere, sizeof(elsewhere) - 1) > 0)
		signal(sig, SIG_DFL);
}

/* Half the pages do not compress. */
static uint64_t word_at(size_t page, size_t i)
{
	return page % 2 ? mix(page << 40 ^ generation[page] << 12 ^ i) : word_of(page, generation[page], i);
}

/* Returns 1 when the page is there, right or wrong, and 0 when it raised SIGBUS. */
static int look_at(size_t page)
{
	const volatile uint64_t *words = (const volatile uint64_t *)(base + page * PAGE);

	if (sigsetjmp(bus_return, 1)) {
		if (bus_address / PAGE != (uintptr_t)words / PAGE && wrong++ < 5)
			fprintf(stderr, "swap_race: page %zu: SIGBUS at another address\n", page);
		return 0;
	}
	for (size_t i = 0; i < WORDS; i++)
		if (words[i] != word_at(page, i)) {
			if (wrong++ < 5)
				fprintf(stderr,
					"swap_race: page %zu, generation %" PRIu64 ", word %zu is %016" PRIx64 "\n",
					page, generation[page], i, words[i]);
			break;
		}
	return 1;
}

static void check_page(size_t page)
{
	int is_there = look_at(page);

	reads++;
	if (lost[page] && is_there && wrong++ < 5)
		fprintf(stderr, "swap_race: page %zu was lost, and is back\n", page);
	if (!lost[page] && !is_there) {
		lost[page] = 1;
		losses++;
	}
}

static void fill(size_t page)
{
	generation[page]++;
	for (size_t i = 0; i < WORDS; i++)
		((uint64_t *)(base + page * PAGE))[i] = word_at(page, i);
}

/* A lost page can be had anew by discarding it. */
static void rewrite(size_t page)
{
	if (lost[page]) {
		if (larder_discard(pool, base + page * PAGE, PAGE) && wrong++ < 5)
			fprintf(stderr, "swap_race: page %zu cannot be discarded\n", page);
		lost[page] = 0;
	}
	if (sigsetjmp(bus_return, 1)) { /* it is lost, and nobody has looked */
		lost[page] = 1;
		losses++;
		return;
	}
	fill(page);
	rewrites++;
}

static void *work(void *arg)
{
	size_t id = (size_t)(uintptr_t)arg;
	uint64_t random = disk.random ^ id << 32;

	pthread_barrier_wait(&filled);
	while (!stop) {
		size_t page = page_random(&random, PAGES / nthreads) * nthreads + id, what = page_random(&random, 100);

		if (what < 70)
			check_page(page);
		else if (what < 99)
			rewrite(page);
		else /* of whoever they are */
			larder_advise(pool, base + page * PAGE, (PAGES - page < 64 ? PAGES - page : 64) * PAGE,
				      LARDER_ADVICE_COLD);
	}
	return NULL;
}

/* ---- */

static int start(void)
{
	static struct disk_seam seam;
	struct larder_options o = { .limit_bytes = (uint64_t)LIMIT_MIB * MIB,
				    .flags = LARDER_IGNORE_SYSTEM,
				    .swap_dir = swap_dir(),
				    .swap_bytes = (uint64_t)SWAP_MIB * MIB };
	void *p = NULL;
	int err;

	seam = flaky_seam(&disk);
	err = start_process((struct process_setup){ .options = &o, .seam = &seam });
	if (!err)
		err = larder_pool_create(
			&pool, &(struct larder_pool_options){ .fault_mode = is_inline ? LARDER_FAULT_INLINE
										      : LARDER_FAULT_HANDLERS });
	if (!err)
		err = larder_pages_alloc(pool, (size_t)PAGES * PAGE, &p);
	base = p;
	return err;
}

static uint64_t pages_poisoned(void)
{
	struct larder_stats s;

	larder_get_stats(&s);
	return s.pages[LARDER_PAGES_POISONED];
}

/* A read for one page may find its neighbour lost after that was looked at, so look until nothing more is lost. */
static void find_the_lost(void)
{
	uint64_t before;

	do {
		before = pages_poisoned();
		for (size_t page = 0; page < PAGES; page++)
			check_page(page);
	} while (pages_poisoned() != before);
}

static int report(void)
{
	struct larder_stats s;
	uint64_t poisoned = 0;

	larder_get_stats(&s);
	for (size_t i = 0; i < PAGES; i++)
		poisoned += lost[i];
	printf("swap_race: %" PRIu64 " reads, %" PRIu64 " rewrites, %" PRIu64 " pages lost, %" PRIu64
	       " of them still; %" PRIu64 " wrong\n",
	       (uint64_t)reads, (uint64_t)rewrites, (uint64_t)losses, poisoned, (uint64_t)wrong);
	printf("swap_race: %" PRIu64 " poisoned, %" PRIu64 " disk reads, %" PRIu64 " writes, %" PRIu64 " MiB cleaned;",
	       s.pages[LARDER_PAGES_POISONED], s.disk.reads, s.disk.writes, s.disk.cleaned_bytes / MIB);
	for (int i = 0; i < FLAKY_KINDS; i++)
		printf(" %s %" PRIu64 "%s", flaky_names[i], disk.count[i], i + 1 < FLAKY_KINDS ? "," : "\n");
	if (poisoned != s.pages[LARDER_PAGES_POISONED]) {
		fprintf(stderr, "swap_race: pages that raise SIGBUS and pages counted as poisoned differ\n");
		return 1;
	}
	if (losses == 0 || s.disk.reads == 0) {
		fprintf(stderr, "swap_race: nothing was lost, so nothing was tested\n");
		return 1;
	}
	return wrong != 0;
}

int main(int argc, char **argv)
{
	static const struct option known[] = { { "seconds", required_argument, NULL, 's' },
					       { "threads", required_argument, NULL, 't' },
					       { "seed", required_argument, NULL, 'r' },
					       { "inline", no_argument, NULL, 'i' },
					       { 0 } };
	static const struct sigaction bus = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	pthread_t threads[THREADS_MAX];
	unsigned seconds = 8;
	int c, err;

	disk.random = test_seed();
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 's')
			seconds = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 't')
			nthreads = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'r')
			disk.random = strtoull(optarg, NULL, 0);
		else if (c == 'i')
			is_inline = 1;
		else
			return 2;
	if (nthreads == 0 || nthreads > THREADS_MAX)
		return 2;
	printf("swap_race: seed 0x%" PRIx64 "\n", (uint64_t)disk.random);
	fflush(stdout);
	sigaction(SIGBUS, &bus, NULL); /* Larder's handler, if there is one, calls it */
	pthread_barrier_init(&filled, NULL, nthreads + 1);
	for (unsigned i = 0; i < nthreads; i++) /* now, because what libc allocates for them could be lost, too */
		pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i);
	err = start();
	if (err) {
		fprintf(stderr, "swap_race: cannot start (%d)\n", err);
		return 2;
	}
	for (size_t i = 0; i < PAGES; i++)
		rewrite(i); /* it may go, and be lost, while it is being written to */
	pthread_barrier_wait(&filled);
	sleep(seconds);
	stop = 1;
	for (unsigned i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	find_the_lost();
	err = report();
	process_check();
	return err;
}
