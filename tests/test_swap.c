/*
 * Pages on disk: what is written comes back, and no failure of the disk loses or changes a byte. A small workload is
 * run again and again with its n-th write or read failing, in every way, for every n, as SQLite's tests do it. Needs
 * userfaultfd and io_uring.
 */
#include "disk.h"
#include "thread.h"

#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "pools.h"

enum { PAGES = 1024, SWAP_MIB = 64, ALWAYS = 1 << 30 };

/* Rounds over all pages after which each has been on disk, at the latest: two or three, twelve where others have the
 * CPUs. */
enum { SETTLE_ROUNDS = 100 };

/* A batch that is not full waits 0.1 s for more before it is written; its objects are counted all the while. */
enum { WRITTEN_US = 300000 };

#define SECOND_NS ((uint64_t)1000000000u)

/* ---- a disk that fails as it is told to ---- */

enum fault { FAULT_NONE, FAULT_ERROR, FAULT_SHORT, FAULT_DAMAGE, FAULT_DELAY };

static struct {
	_Atomic int kind; /* enum disk_kind that is hit */
	_Atomic int fault;
	_Atomic int after, times; /* transfers of that kind to let pass, and to hit then */
	_Atomic int error;
	_Atomic uint64_t delay_ns;
	_Atomic uint64_t from, to;    /* only transfers that touch this part of the disk */
	_Atomic uint64_t first_write; /* where the first write since fail_on() went */
	_Atomic int hits;
	_Atomic int seen[3];
} plan;

static int is_hit(const struct disk_transfer *t)
{
	if (atomic_fetch_add(&plan.seen[t->kind], 1) == 0 && t->kind == DISK_WRITE)
		plan.first_write = t->offset;
	if (plan.fault == FAULT_NONE || t->kind != plan.kind || t->offset >= plan.to ||
	    t->offset + t->bytes <= plan.from)
		return 0;
	if (atomic_fetch_sub(&plan.after, 1) > 0)
		return 0;
	if (atomic_fetch_sub(&plan.times, 1) <= 0)
		return 0;
	atomic_fetch_add(&plan.hits, 1);
	return 1;
}

static int32_t on_submit(void *arg, const struct disk_transfer *t, uint64_t *delay_ns)
{
	(void)arg;
	if ((plan.fault == FAULT_DAMAGE && t->kind == DISK_READ) || !is_hit(t))
		return 0;
	if (plan.fault == FAULT_ERROR)
		return plan.error;
	if (plan.fault == FAULT_SHORT && t->bytes > 512)
		return 512;
	if (plan.fault == FAULT_DELAY)
		*delay_ns = plan.delay_ns;
	return 0;
}

/* Damage everything that was read: one bit of each 64 bytes. */
static void on_complete(void *arg, struct disk_transfer *t)
{
	(void)arg;
	if (plan.fault != FAULT_DAMAGE || t->kind != DISK_READ || !is_hit(t))
		return;
	for (uint32_t i = 0; i < t->bytes; i += 64)
		((char *)t->buffer)[i] ^= 4;
}

static void fail_on(enum disk_kind kind, enum fault fault, int after, int times, int error)
{
	plan.fault = FAULT_NONE;
	plan.kind = kind;
	plan.after = after;
	plan.times = times;
	plan.error = error;
	plan.from = 0;
	plan.to = UINT64_MAX;
	plan.hits = 0;
	plan.seen[DISK_READ] = plan.seen[DISK_WRITE] = plan.seen[DISK_PUNCH] = 0;
	plan.fault = (int)fault;
}

static void fail_no_more(void)
{
	plan.fault = FAULT_NONE;
}

/* ---- contents: two pages in three compress, one does not ---- */

static uint64_t word_at(size_t page, uint64_t generation, size_t i)
{
	uint64_t random = mix(page << 20 ^ generation << 44 ^ i);

	return page % 3 == 0 || i % 4 == 0 ? random : page + generation;
}

static void fill(char *base, size_t page, uint64_t generation)
{
	uint64_t *words = (uint64_t *)(base + page * PAGE);

	for (size_t i = 0; i < WORDS; i++)
		words[i] = word_at(page, generation, i);
}

static sigjmp_buf bus_return;
static volatile uintptr_t bus_address;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	bus_address = (uintptr_t)info->si_addr;
	siglongjmp(bus_return, 1);
}

/* Returns 1 when the page is right, 0 when it raised SIGBUS. A wrong one fails the test. */
static int is_right(const char *base, size_t page, uint64_t generation)
{
	const volatile uint64_t *words = (const volatile uint64_t *)(base + page * PAGE);

	if (sigsetjmp(bus_return, 1)) {
		assert_int_equal(bus_address / PAGE, (uintptr_t)words / PAGE);
		return 0;
	}
	for (size_t i = 0; i < WORDS; i++)
		if (words[i] != word_at(page, generation, i))
			fail_msg("word %zu of page %zu is %016lx, not %016lx", i, page, words[i],
				 word_at(page, generation, i));
	return 1;
}

static size_t count_wrong(const char *base, size_t pages, uint64_t generation)
{
	size_t lost = 0;

	for (size_t i = 0; i < pages; i++)
		lost += !is_right(base, i, generation);
	return lost;
}

/* The same in an order in which nothing is read ahead; `pages` is a power of two. */
static size_t count_wrong_scattered(const char *base, size_t pages, uint64_t generation)
{
	size_t lost = 0;

	for (size_t i = 0; i < pages; i++)
		lost += !is_right(base, i * 37 % pages, generation);
	return lost;
}

/* ---- a pool whose pages go to disk and nowhere else ---- */

static struct sigaction our_bus = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

/* What a test before has left would be taken for its successor's: a batch that is not written yet for a moment, all of
 * its pages if it has failed. */
static void assert_empty_disk(void)
{
	uint64_t since = now_ns();

	while (all_stats().tiers[1].objects && now_ns() - since < 2 * SECOND_NS)
		usleep(1000);
	assert_int_equal(all_stats().tiers[1].objects, 0);
}

static larder_pool *disk_pool(enum larder_fault_mode mode)
{
	larder_pool *pool = NULL;

	assert_empty_disk();
	assert_int_equal(larder_pool_create(
				 &pool, &(struct larder_pool_options){ .tiers = LARDER_TIER_FILE, .fault_mode = mode }),
			 0);
	if (mode == LARDER_FAULT_INLINE)
		sigaction(SIGBUS, &larders_sigbus, NULL);
	else
		sigaction(SIGBUS, &our_bus, NULL);
	return pool;
}

static char *filled(larder_pool *pool, size_t pages)
{
	void *p = NULL;

	assert_int_equal(larder_pages_alloc(pool, pages * PAGE, &p), 0);
	for (size_t i = 0; i < pages; i++)
		fill(p, i, 0);
	return p;
}

static int send_out(larder_pool *pool, char *base, size_t pages)
{
	int bytes = larder_advise(pool, base, pages * PAGE, LARDER_ADVICE_COLD);

	assert_true(bytes >= 0);
	return bytes / PAGE;
}

static uint64_t on_disk(void)
{
	struct larder_stats s = all_stats();

	assert_string_equal(s.tiers[1].name, "file");
	return s.tiers[1].objects - s.copies;
}

/* A page that somebody is just bringing back, or that waits for a second chance, stays behind at first. */
static void all_out(larder_pool *pool, char *base, size_t pages)
{
	uint64_t since = now_ns();

	while (on_disk() < pages) {
		send_out(pool, base, pages);
		assert_true(now_ns() - since < 10 * SECOND_NS);
	}
}

/* ---- without failures ---- */

static void comes_back(enum larder_fault_mode mode)
{
	larder_pool *pool = disk_pool(mode);
	char *base = filled(pool, PAGES);
	struct larder_stats before = all_stats(), after;

	all_out(pool, base, PAGES);
	assert_int_equal(on_disk(), PAGES);
	assert_int_equal(count_wrong(base, PAGES, 0), 0);
	after = all_stats();
	assert_true(after.disk.write_bytes - before.disk.write_bytes <
		    PAGES * PAGE * 7 / 10);						   /* they were compressed */
	assert_true(after.disk.writes - before.disk.writes <= PAGES * PAGE / (128 << 10)); /* and written together */
	pool_end(pool);
	assert_int_equal(all_stats().tiers[1].objects, 0);
}

static void what_goes_to_disk_comes_back(void **state)
{
	(void)state;
	comes_back(LARDER_FAULT_HANDLERS);
	comes_back(LARDER_FAULT_INLINE);
}

static void evicting_clean_pages_again_writes_nothing(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);
	struct larder_stats before, after;

	(void)state;
	all_out(pool, base, PAGES);
	assert_int_equal(count_wrong(base, PAGES, 0), 0);
	for (int i = 0; i < 1000 && all_stats().copies < PAGES; i++) /* a page is counted a moment after it is there */
		usleep(1000);
	before = all_stats();
	assert_int_equal(before.copies, PAGES);
	for (size_t i = 0; i < PAGES; i += 4)
		fill(base, i, 1);
	all_out(pool, base, PAGES);
	after = all_stats();
	assert_int_equal(after.clean_evictions - before.clean_evictions, PAGES - PAGES / 4);
	assert_int_equal(after.direct - before.direct, PAGES / 4);
	assert_int_equal(after.copies, 0);
	assert_int_equal(on_disk(), PAGES);
	for (size_t i = 0; i < PAGES; i++)
		assert_true(is_right(base, i, i % 4 == 0));
	pool_end(pool);
}

static uint64_t what_is_left(void)
{
	struct larder_stats s = all_stats();

	return s.copies + s.tiers[0].objects + s.tiers[1].objects;
}

static int right_in_child(const char *base, const uint64_t *generation)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		for (size_t i = 0; i < PAGES; i++)
			if (!is_right(base, i * 37 % PAGES, generation[i * 37 % PAGES]))
				_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status == 0;
}

/* Pages that have been on disk are compressed in RAM first when they leave again, and go on without being written. */
static void pages_keep_their_copy_while_they_are_compressed(enum larder_fault_mode mode)
{
	const struct larder_pool_options options = { .limit_bytes = PAGES / 4 * PAGE, .fault_mode = mode };
	static uint64_t generation[PAGES];
	struct larder_stats before, after;
	uint64_t random = test_seed();
	int rounds = 0;
	larder_pool *pool;
	char *base;

	assert_int_equal(larder_pool_create(&pool, &options), 0);
	sigaction(SIGBUS, mode == LARDER_FAULT_INLINE ? &larders_sigbus : &our_bus, NULL);
	base = filled(pool, PAGES);
	memset(generation, 0, sizeof(generation));
	do { /* at first pages go there that have never been */
		assert_true(rounds++ < SETTLE_ROUNDS);
		before = all_stats();
		assert_int_equal(count_wrong_scattered(base, PAGES, 0), 0);
		usleep(WRITTEN_US);
		after = all_stats();
	} while (after.tiers[1].objects < PAGES || after.disk.write_bytes > before.disk.write_bytes);
	before = after;
	for (int round = 0; round < 4; round++)
		assert_int_equal(count_wrong_scattered(base, PAGES, 0), 0);
	after = all_stats();
	assert_int_equal(after.disk.write_bytes, before.disk.write_bytes);
	assert_true(after.tiers[0].puts - before.tiers[0].puts > PAGES / 2);
	assert_true(after.clean_evictions - before.clean_evictions > PAGES / 2);
	assert_true(after.copies <= PAGES);
	for (int round = 0; round < 4; round++) {
		for (size_t n = 0; n < PAGES / 4; n++) {
			size_t i = page_random(&random, PAGES);

			assert_true(is_right(base, i, generation[i]));
			fill(base, i, ++generation[i]);
		}
		assert_true(right_in_child(base, generation));
		for (size_t i = 0; i < PAGES; i++)
			assert_true(is_right(base, i, generation[i]));
	}
	pool_end(pool);
	for (uint64_t since = now_ns(); what_is_left(); usleep(1000)) /* some may be in a batch that is not full */
		assert_true(now_ns() - since < 10 * SECOND_NS);
}

static void pages_keep_their_copy_by_handlers(void **state)
{
	(void)state;
	pages_keep_their_copy_while_they_are_compressed(LARDER_FAULT_HANDLERS);
}

static void pages_keep_their_copy_inline(void **state)
{
	(void)state;
	pages_keep_their_copy_while_they_are_compressed(LARDER_FAULT_INLINE);
}

/* A write fault says beforehand that the copy is of no use. */
static void pages_that_are_written_to_keep_no_copy(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);

	(void)state;
	all_out(pool, base, PAGES);
	for (size_t i = 0; i < PAGES; i += 64)
		((volatile uint64_t *)(base + i * PAGE))[5] = 1;
	assert_true(all_stats().copies <= PAGES / 64 * 8); /* neighbours in the same blocks came along */
	pool_end(pool);
}

static void a_fork_sees_what_is_on_disk(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);
	pid_t pid;
	int status;

	(void)state;
	all_out(pool, base, PAGES);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(count_wrong(base, PAGES, 0) != 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(count_wrong(base, PAGES, 0), 0);
	pool_end(pool);
}

static void volatile_pages_are_never_written(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);

	(void)state;
	send_out(pool, base, PAGES / 2);
	mark(pool, base, 0, PAGES, NULL);
	assert_int_equal(send_out(pool, base, PAGES), 0);
	assert_int_equal(on_disk(), PAGES / 2); /* from before; it goes with the purge */
	purge_all(pool);
	assert_int_equal(all_stats().tiers[1].objects, 0);
	pool_end(pool);
}

/* ---- every write fails once ---- */

/* Returns the writes that the workload makes. */
static int write_workload(enum fault fault, int n, int error)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES / 2);
	int writes;

	fail_on(DISK_WRITE, fault, n, 1, error);
	send_out(pool, base, PAGES / 2);
	assert_int_equal(count_wrong(base, PAGES / 2, 0), 0);
	for (size_t i = 0; i < PAGES / 2; i++)
		fill(base, i, 1);
	send_out(pool, base, PAGES / 2);
	assert_int_equal(count_wrong(base, PAGES / 2, 1), 0);
	writes = plan.seen[DISK_WRITE];
	fail_no_more();
	assert_int_equal(all_stats().pages[LARDER_PAGES_POISONED], 0);
	all_out(pool, base, PAGES / 2);
	assert_int_equal(count_wrong(base, PAGES / 2, 1), 0);
	assert_int_equal(all_stats().disk.refusing, 0);
	pool_end(pool);
	return writes;
}

static void every_write_fails(enum fault fault, int error)
{
	int n = 0, writes;

	do {
		writes = write_workload(fault, n, error);
		assert_int_equal(plan.hits, n < writes);
	} while (++n <= writes);
	assert_true(n > 4);
}

static void a_write_that_fails_costs_nothing(void **state)
{
	(void)state;
	every_write_fails(FAULT_ERROR, -EIO);
	every_write_fails(FAULT_ERROR, -ENOSPC);
	every_write_fails(FAULT_ERROR, -EFBIG);
	every_write_fails(FAULT_SHORT, 0);
}

/* ---- every read fails ---- */

/* Returns the reads that the workload makes; *lost: pages that raised SIGBUS. */
static int read_workload(enum fault fault, int n, int times, enum larder_fault_mode mode, size_t *lost)
{
	larder_pool *pool = disk_pool(mode);
	char *base = filled(pool, PAGES / 16);
	int reads;

	all_out(pool, base, PAGES / 16);
	fail_on(DISK_READ, fault, n, times, -EIO);
	*lost = count_wrong_scattered(base, PAGES / 16, 0);
	reads = plan.seen[DISK_READ];
	fail_no_more();
	assert_int_equal(count_wrong_scattered(base, PAGES / 16, 0),
			 *lost); /* what is lost stays lost, and nothing else goes */
	assert_int_equal(all_stats().pages[LARDER_PAGES_POISONED], *lost);
	pool_end(pool);
	assert_int_equal(all_stats().pages[LARDER_PAGES_POISONED], 0);
	return reads;
}

static void every_read_fails_once(enum fault fault, enum larder_fault_mode mode)
{
	int n = 0, reads;
	size_t lost;

	do {
		reads = read_workload(fault, n, 1, mode, &lost);
		assert_int_equal(lost, 0);
		assert_int_equal(plan.hits, n < reads);
	} while (++n <= reads);
	assert_true(n > 4);
}

static void a_read_that_fails_once_is_tried_again(void **state)
{
	(void)state;
	every_read_fails_once(FAULT_ERROR, LARDER_FAULT_HANDLERS);
	every_read_fails_once(FAULT_DAMAGE, LARDER_FAULT_HANDLERS);
	every_read_fails_once(FAULT_SHORT, LARDER_FAULT_HANDLERS);
	every_read_fails_once(FAULT_DAMAGE, LARDER_FAULT_INLINE);
}

/* The n-th read and all that follow it fail until four have: the first of its pages is given up, or is saved by the
 * last try. */
static void every_read_fails_for_good(enum fault fault)
{
	int n = 0, reads;
	size_t lost, all = 0;

	do {
		reads = read_workload(fault, n, 4, LARDER_FAULT_HANDLERS, &lost);
		assert_true(lost <= 1);
		all += lost;
	} while (++n <= reads);
	assert_true(all > 4);
}

static void a_read_that_goes_on_failing_loses_that_page_alone(void **state)
{
	(void)state;
	every_read_fails_for_good(FAULT_ERROR);
	every_read_fails_for_good(FAULT_DAMAGE);
}

static void a_part_of_the_disk_that_fails_loses_what_lies_there(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);
	struct larder_stats s;
	size_t lost;

	(void)state;
	fail_on(DISK_WRITE, FAULT_NONE, 0, 0, 0);
	all_out(pool, base, PAGES);
	fail_on(DISK_READ, FAULT_ERROR, 0, ALWAYS, -EIO);
	plan.from = plan.first_write + (100 << 10);
	plan.to = plan.from + (40 << 10);
	lost = count_wrong(base, PAGES, 0);
	s = all_stats();
	assert_in_range(lost, 1, 60); /* 40 KiB, of objects from 1 KiB on */
	assert_int_equal(s.pages[LARDER_PAGES_POISONED], lost);
	fail_no_more();
	assert_int_equal(count_wrong(base, PAGES, 0), lost);
	pool_end(pool);
}

/* ---- a disk that takes its time ---- */

static void pages_under_way_to_a_disk_that_stalls_stay_at_hand(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);
	uint64_t start;

	(void)state;
	fail_on(DISK_WRITE, FAULT_DELAY, 0, ALWAYS, 0);
	plan.delay_ns = 3 * SECOND_NS;
	start = now_ns();
	send_out(pool, base, PAGES);
	assert_true(now_ns() - start < 2 * SECOND_NS); /* it does not wait for ever */
	start = now_ns();
	assert_int_equal(count_wrong(base, PAGES, 0), 0);
	assert_true(now_ns() - start < 2 * SECOND_NS);
	for (size_t i = 0; i < PAGES; i++)
		fill(base, i, 1);
	fail_no_more();
	sleep(3); /* the old contents arrive now, and must not be taken for the new */
	assert_int_equal(count_wrong(base, PAGES, 1), 0);
	all_out(pool, base, PAGES);
	assert_int_equal(count_wrong(base, PAGES, 1), 0);
	pool_end(pool);
}

static void *touch_first(void *base)
{
	assert_true(is_right(base, 0, 0));
	return NULL;
}

static void a_fault_waits_for_its_own_read_only(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);
	pthread_t slow;
	uint64_t start;

	(void)state;
	all_out(pool, base, PAGES);
	fail_on(DISK_READ, FAULT_DELAY, 0, 1, 0);
	plan.delay_ns = 2 * SECOND_NS;
	start = now_ns();
	assert_int_equal(pthread_create(&slow, NULL, touch_first, base), 0);
	while (plan.hits == 0)
		usleep(1000);
	for (size_t i = PAGES / 2; i < PAGES; i++)
		assert_true(is_right(base, i, 0));
	assert_true(now_ns() - start < SECOND_NS);
	assert_int_equal(pthread_join(slow, NULL), 0);
	assert_true(now_ns() - start >= 2 * SECOND_NS);
	fail_no_more();
	pool_end(pool);
}

/* Away from the thread whose faults keep a handler on duty. With one CPU there is nothing to be tested. */
static void *touch_first_elsewhere(void *base)
{
	thread_pin(1);
	return touch_first(base);
}

static int has_ended(pthread_t thread)
{
	return pthread_tryjoin_np(thread, NULL) == 0;
}

/* A handler that reads goes on with it though another thread's faults put the other handlers on duty (lib/watch.h). */
static void a_read_ends_while_others_are_on_duty(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	larder_pool *busy = pool_new(&(struct larder_pool_options){ .tiers = LARDER_TIER_LZ4 });
	enum { ROUNDS = 8, BUSY_PAGES = 192 };
	char *base = filled(pool, PAGES), *busy_base = filled(busy, BUSY_PAGES);
	cpu_set_t all;

	(void)state;
	sched_getaffinity(0, sizeof(all), &all);
	thread_pin(0);
	for (int i = 0; i < ROUNDS; i++) {
		pthread_t slow;
		uint64_t start;

		all_out(pool, base, PAGES);
		usleep(20000); /* so that nobody is on duty */
		fail_on(DISK_READ, FAULT_DELAY, 0, 1, 0);
		plan.delay_ns = SECOND_NS / 5;
		start = now_ns();
		assert_int_equal(pthread_create(&slow, NULL, touch_first_elsewhere, base), 0);
		while (plan.hits == 0)
			usleep(1000);
		while (!has_ended(slow)) {
			assert_true(now_ns() - start < 3 * SECOND_NS);
			send_out(busy, busy_base, BUSY_PAGES);
			for (size_t page = 0; page < BUSY_PAGES; page += 3) /* those do compress */
				*(volatile char *)(busy_base + (page + 1) * PAGE);
		}
	}
	fail_no_more();
	sched_setaffinity(0, sizeof(all), &all);
	pool_end(busy);
	pool_end(pool);
}

enum { TOUCHERS = 16 };

struct toucher {
	pthread_t thread;
	const char *base;
	size_t page;
};

static void *touch_one(void *arg)
{
	const struct toucher *t = arg;

	assert_true(is_right(t->base, t->page, 0));
	return NULL;
}

/* As many reads are under way as there are faults. */
static void many_threads(enum larder_fault_mode mode)
{
	larder_pool *pool = disk_pool(mode);
	char *base = filled(pool, PAGES);
	struct toucher t[TOUCHERS];
	uint64_t most = 0, start;

	all_out(pool, base, PAGES);
	fail_on(DISK_READ, FAULT_DELAY, 0, ALWAYS, 0);
	plan.delay_ns = SECOND_NS;
	for (size_t i = 0; i < TOUCHERS; i++) {
		t[i] = (struct toucher){ .base = base, .page = i * (PAGES / TOUCHERS) };
		assert_int_equal(pthread_create(&t[i].thread, NULL, touch_one, &t[i]), 0);
	}
	for (start = now_ns(); most < TOUCHERS && now_ns() - start < 10 * SECOND_NS; usleep(1000)) {
		uint64_t now = all_stats().disk.reads_in_flight;

		most = now > most ? now : most;
	}
	for (size_t i = 0; i < TOUCHERS; i++)
		assert_int_equal(pthread_join(t[i].thread, NULL), 0);
	fail_no_more();
	assert_in_range(most, TOUCHERS, 2 * TOUCHERS);
	pool_end(pool);
}

static void parallel_faults_are_read_in_parallel(void **state)
{
	(void)state;
	many_threads(LARDER_FAULT_HANDLERS);
	many_threads(LARDER_FAULT_INLINE);
}

/* A fault goes on while all that can be written is under way. */
static void reads_do_not_wait_for_writes(void **state)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, 2 * PAGES);
	struct larder_stats before = all_stats();

	(void)state;
	all_out(pool, base, PAGES);
	fail_on(DISK_WRITE, FAULT_DELAY, 0, ALWAYS, 0);
	plan.delay_ns = 6 * SECOND_NS;
	send_out(pool, base + PAGES * PAGE, PAGES);
	assert_true(all_stats().disk.writes_in_flight > 0);
	assert_int_equal(all_stats().disk.refusing, ETIMEDOUT); /* and it is said that they take so long */
	assert_int_equal(count_wrong(base, PAGES, 0), 0);
	assert_true(all_stats().disk.writes_in_flight > 0);
	fail_no_more();
	assert_int_equal(count_wrong(base, 2 * PAGES, 0), 0);
	all_out(pool, base, 2 * PAGES);
	assert_int_equal(all_stats().disk.write_errors, before.disk.write_errors);
	assert_int_equal(count_wrong(base, 2 * PAGES, 0), 0);
	pool_end(pool);
}

/* ---- reading ahead ---- */

/* Touch `run` pages in order, every `stride` pages, and say how many pages were read that nobody had asked for, and
 * what was read. */
static uint64_t read_ahead(size_t run, size_t stride, uint64_t *read_bytes)
{
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, PAGES);
	struct larder_stats before, after;

	all_out(pool, base, PAGES);
	before = all_stats();
	for (size_t i = 0; i < PAGES; i++)
		assert_true(is_right(base, (i / run * stride + i % run) % PAGES, 0));
	after = all_stats();
	pool_end(pool);
	*read_bytes = after.disk.read_bytes - before.disk.read_bytes;
	return after.readahead - before.readahead;
}

/* In order most comes before it is asked for, if the machine has time for it; scattered, no more is read than the
 * blocks that are wanted. */
static void what_is_read_ahead_is_what_was_used_before(void **state)
{
	uint64_t in_order, scattered, pairs, in_order_bytes, scattered_bytes, pairs_bytes;

	(void)state;
	in_order = read_ahead(1, 1, &in_order_bytes);
	scattered = read_ahead(1, 37, &scattered_bytes);
	pairs = read_ahead(2, 37, &pairs_bytes);
	print_message("  of %d pages: in order %lu read ahead, %lu KiB; scattered %lu, %lu KiB; pairs %lu, %lu KiB\n",
		      PAGES, in_order, in_order_bytes >> 10, scattered, scattered_bytes >> 10, pairs,
		      pairs_bytes >> 10);
	assert_true(in_order > PAGES / 2);
	assert_true(in_order_bytes < PAGES * PAGE);
	assert_true(scattered < PAGES * 3 / 4); /* neighbours that lie in the same blocks */
	assert_true(scattered_bytes < 2 * PAGES * PAGE);
	assert_true(pairs < scattered * 7 / 8); /* nothing behind two in order, of which one is the other's neighbour */
}

/* ---- more than fits ---- */

static void a_full_disk_leaves_the_rest_in_ram(void **state)
{
	const size_t pages = (size_t)(SWAP_MIB + 16) * PAGES_PER_MIB;
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, pages);
	struct larder_stats s;

	(void)state;
	for (size_t i = 0; i < pages; i++) /* incompressible, all of them */
		for (size_t w = 0; w < WORDS; w++)
			((uint64_t *)(base + i * PAGE))[w] = word_at(3 * i, 0, w);
	for (int i = 0; i < 4 || (i < 40 && all_stats().tiers[1].objects <= (SWAP_MIB - 8) * PAGES_PER_MIB); i++)
		send_out(pool, base, pages); /* somebody else may keep the disk busy */
	s = all_stats();
	assert_true(s.tiers[1].occupied_bytes <= (uint64_t)SWAP_MIB * MIB);
	assert_true(s.tiers[1].objects > (SWAP_MIB - 8) * PAGES_PER_MIB);
	for (size_t i = 0; i < pages; i++)
		for (size_t w = 0; w < WORDS; w += 7)
			assert_int_equal(((uint64_t *)(base + i * PAGE))[w], word_at(3 * i, 0, w));
	assert_int_equal(all_stats().pages[LARDER_PAGES_POISONED], 0);
	pool_end(pool);
	s = all_stats();
	assert_int_equal(s.tiers[1].objects, 0);
}

/* One page for each size that objects can have around the largest that a tier in RAM takes. */
static void fill_to_the_brim(char *page, size_t i)
{
	size_t noise = 3300 + i % 320;

	memset(page, 'x', PAGE);
	for (size_t n = 0; n < noise; n++)
		page[n] = (char)(word_at(3 * i, 0, n / 8) >> n % 8 * 8);
}

static void pages_that_can_just_be_compressed_come_back(void **state)
{
	const size_t pages = 640;
	larder_pool *pool; /* of which RAM takes what it can */
	struct larder_stats before = all_stats(), after;
	char *base, expected[PAGE];

	(void)state;
	assert_int_equal(larder_pool_create(&pool, NULL), 0);
	base = filled(pool, pages);
	for (size_t i = 0; i < pages; i++)
		fill_to_the_brim(base + i * PAGE, i);
	send_out(pool, base, pages);
	after = all_stats();
	assert_true(after.tiers[0].objects > before.tiers[0].objects + pages / 2);
	assert_true(after.tiers[1].objects > before.tiers[1].objects + pages / 16);
	for (size_t i = 0; i < pages; i++) {
		fill_to_the_brim(expected, i);
		assert_memory_equal(base + i * PAGE, expected, PAGE);
	}
	pool_end(pool);
}

/* Space that rewriting leaves behind is used again: far more is written than fits. */
static void freed_space_is_used_again(void **state)
{
	const size_t pages = (size_t)40 * PAGES_PER_MIB;
	larder_pool *pool = disk_pool(LARDER_FAULT_HANDLERS);
	char *base = filled(pool, pages);
	struct larder_stats before = all_stats(), after;
	uint64_t random = test_seed();
	uint64_t *generation = calloc(pages, sizeof(*generation));

	(void)state;
	print_message("seed 0x%lx\n", random);
	for (int round = 0; round < 6; round++) {
		all_out(pool, base, pages);
		for (size_t n = 0; n < pages / 2; n++) {
			size_t i = page_random(&random, pages);

			fill(base, i, ++generation[i]);
		}
	}
	for (size_t i = 0; i < pages; i++)
		assert_true(is_right(base, i, generation[i]));
	after = all_stats();
	assert_true(after.tiers[1].occupied_bytes <= (uint64_t)SWAP_MIB * MIB);
	assert_true(after.disk.write_bytes - before.disk.write_bytes > (uint64_t)SWAP_MIB * MIB);
	assert_true(after.disk.cleaned_bytes > before.disk.cleaned_bytes);
	free(generation);
	pool_end(pool);
}

static const struct disk_seam seam = { .submit = on_submit, .complete = on_complete, .refuse_ns = 1000000 };

static int start(void **state)
{
	struct larder_options o = { .flags = LARDER_IGNORE_SYSTEM |
					     (getenv("LARDER_TEST_ENCRYPT") ? LARDER_SWAP_ENCRYPT : 0),
				    .swap_dir = swap_dir(),
				    .swap_bytes = (uint64_t)SWAP_MIB * MIB };
	int err = start_process((struct process_setup){ .options = &o, .seam = &seam });

	(void)state;
	if (!err)
		learn_larders_sigbus();
	return err;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_goes_to_disk_comes_back),
		cmocka_unit_test(evicting_clean_pages_again_writes_nothing),
		cmocka_unit_test(pages_keep_their_copy_by_handlers),
		cmocka_unit_test(pages_keep_their_copy_inline),
		cmocka_unit_test(pages_that_are_written_to_keep_no_copy),
		cmocka_unit_test(a_fork_sees_what_is_on_disk),
		cmocka_unit_test(volatile_pages_are_never_written),
		cmocka_unit_test(a_write_that_fails_costs_nothing),
		cmocka_unit_test(a_read_that_fails_once_is_tried_again),
		cmocka_unit_test(a_read_that_goes_on_failing_loses_that_page_alone),
		cmocka_unit_test(a_part_of_the_disk_that_fails_loses_what_lies_there),
		cmocka_unit_test(pages_under_way_to_a_disk_that_stalls_stay_at_hand),
		cmocka_unit_test(a_fault_waits_for_its_own_read_only),
		cmocka_unit_test(a_read_ends_while_others_are_on_duty),
		cmocka_unit_test(parallel_faults_are_read_in_parallel),
		cmocka_unit_test(reads_do_not_wait_for_writes),
		cmocka_unit_test(what_is_read_ahead_is_what_was_used_before),
		cmocka_unit_test(a_full_disk_leaves_the_rest_in_ram),
		cmocka_unit_test(pages_that_can_just_be_compressed_come_back),
		cmocka_unit_test(freed_space_is_used_again),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
