/*
 * Bad input: every misuse that larder.h names gets the errno that it names, and nothing is half-done. In debug builds
 * of the library the same calls end the program with a message instead, so there each runs in a child. Needs
 * userfaultfd.
 */
#include <jemalloc/jemalloc.h>
#include <signal.h>
#include <sys/resource.h>

#include "pools.h"

enum { PAGES = 64 };

static const char not_a_pool[4096] = "something else";
static _Alignas(4096) char foreign_memory[4096];

/* The playing field: two pools with a page range and an object each; `freed` and `gone` were once. */
static larder_pool *pool, *other, *gone;
static char *base, *foreign, *freed;
static void *object, *foreign_object;

struct snapshot {
	struct larder_pool_stats stats[2];
	unsigned char lost[2][PAGES];
	int said[2];
};

static struct snapshot snapshot(void)
{
	struct snapshot s;

	memset(&s, 0, sizeof(s));
	s.stats[0] = pool_stats(pool);
	s.stats[1] = pool_stats(other);
	s.said[0] = larder_query(pool, base, PAGES * PAGE, s.lost[0]);
	s.said[1] = larder_query(other, foreign, PAGES * PAGE, s.lost[1]);
	return s;
}

static void check_refused(const char *call, int64_t got, int want, const struct snapshot *before)
{
	struct snapshot after = snapshot();

	if (got != want)
		fail_msg("%s: returned %ld, not %d", call, got, want);
	if (memcmp(before, &after, sizeof(after)) != 0)
		fail_msg("%s: refused, but something has changed", call);
}

/* A child whose standard error the parent can read from *fd. Returns as fork does. */
static pid_t forked(int *fd)
{
	int fds[2];
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0 });
		dup2(fds[1], 2);
	}
	close(fds[1]);
	*fd = fds[0];
	return pid;
}

static void check_panicked(const char *call, pid_t pid, int fd)
{
	char message[512] = "";
	int status = 0;

	if (read(fd, message, sizeof(message) - 1) < 0)
		message[0] = 0;
	close(fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
		fail_msg("%s: did not panic: status 0x%x, \"%s\"", call, status, message);
	if (!strstr(message, "larder"))
		fail_msg("%s: ended without a message: \"%s\"", call, message);
}

#ifdef LARDER_DEBUG
#define REFUSED(want, call)                                                                                            \
	do {                                                                                                           \
		int from_child;                                                                                        \
		pid_t child = forked(&from_child);                                                                     \
		if (child == 0) {                                                                                      \
			(void)(call);                                                                                  \
			_exit(0);                                                                                      \
		}                                                                                                      \
		check_panicked(#call, child, from_child);                                                              \
	} while (0)
#else
#define REFUSED(want, call)                                                                                            \
	do {                                                                                                           \
		struct snapshot before = snapshot();                                                                   \
		check_refused(#call, call, want, &before);                                                             \
	} while (0)
#endif

static int start(void **state)
{
	int err = start_unlimited(state);

	(void)forked, (void)check_panicked, (void)check_refused;
	return err;
}

static int make_field(void **state)
{
	(void)state;
	pool = pool_new(NULL);
	other = pool_new(NULL);
	gone = pool_new(NULL);
	base = pages_new(pool, PAGES);
	foreign = pages_new(other, PAGES);
	assert_int_equal(larder_alloc(pool, 8 * PAGE, &object), 0);
	assert_int_equal(larder_alloc(other, 8 * PAGE, &foreign_object), 0);
	memset(object, 1, 8 * PAGE);
	freed = pages_new(pool, PAGES);
	assert_int_equal(larder_pages_free(pool, freed), 0);
	pool_end(gone);
	mark(pool, base, 0, 8, NULL); /* pages 0 to 7 are lost, 8 to 15 volatile, 20 and 21 pinned */
	purge_all(pool);
	mark(pool, base, 8, 8, NULL);
	assert_int_equal(larder_pin(pool, base + 20 * PAGE, 2 * PAGE), LARDER_INTACT);
	return 0;
}

static int clear_field(void **state)
{
	(void)state;
	verify_pages(base, 16, PAGES - 16);
	verify_pages(foreign, 0, PAGES);
	assert_int_equal(larder_unpin(pool, base + 20 * PAGE, 2 * PAGE), 0);
	assert_int_equal(larder_nonvolatile(pool, base + 8 * PAGE, 8 * PAGE, 0, NULL), LARDER_INTACT);
	verify_pages(base, 8, 8);
	pool_end(pool);
	pool_end(other);
	return 0;
}

static char *page(size_t i)
{
	return base + i * PAGE;
}

static void *page_of(void *p)
{
	return (void *)((uintptr_t)p & ~(uintptr_t)(PAGE - 1));
}

/* Calls that take a range, as functions of one shape. */
typedef int range_call(larder_pool *p, void *addr, size_t bytes);

static int do_discard(larder_pool *p, void *addr, size_t bytes)
{
	return larder_discard(p, addr, bytes);
}

static int do_pin(larder_pool *p, void *addr, size_t bytes)
{
	return larder_pin(p, addr, bytes);
}

static int do_unpin(larder_pool *p, void *addr, size_t bytes)
{
	return larder_unpin(p, addr, bytes);
}

static int do_volatile(larder_pool *p, void *addr, size_t bytes)
{
	return larder_volatile(p, addr, bytes, NULL);
}

static int do_nonvolatile(larder_pool *p, void *addr, size_t bytes)
{
	return larder_nonvolatile(p, addr, bytes, 0, NULL);
}

static int do_refilled(larder_pool *p, void *addr, size_t bytes)
{
	return larder_refilled(p, addr, bytes);
}

static int do_query(larder_pool *p, void *addr, size_t bytes)
{
	return larder_query(p, addr, bytes, NULL);
}

static int do_advise(larder_pool *p, void *addr, size_t bytes)
{
	return larder_advise(p, addr, bytes, LARDER_ADVICE_WILL_NEED);
}

static int do_cold(larder_pool *p, void *addr, size_t bytes)
{
	return larder_advise(p, addr, bytes, LARDER_ADVICE_COLD);
}

static range_call *const range_calls[] = { do_discard,	do_pin,	  do_unpin,  do_volatile, do_nonvolatile,
					   do_refilled, do_query, do_advise, do_cold };

enum { RANGE_CALLS = sizeof(range_calls) / sizeof(*range_calls) };

static int is_any_of(range_call *call, range_call *a, range_call *b, range_call *c, range_call *d)
{
	return call == a || call == b || call == c || call == d;
}

static void addresses_outside_the_pools_ranges_are_refused(void **state)
{
	(void)state;
	for (int i = 0; i < RANGE_CALLS; i++) {
		range_call *call = range_calls[i];
		int takes_objects = is_any_of(call, do_pin, do_unpin, do_advise, do_cold);

		REFUSED(-EFAULT, call(pool, NULL, PAGE));
		REFUSED(-EFAULT, call(pool, foreign_memory, PAGE));
		REFUSED(-EFAULT, call(pool, (void *)((uintptr_t)&state & ~(uintptr_t)(PAGE - 1)), PAGE));
		REFUSED(-EFAULT, call(pool, freed, PAGE));
		REFUSED(-EFAULT, call(pool, foreign, PAGE));
		REFUSED(-EFAULT, call(pool, foreign, PAGES * PAGE));
		REFUSED(-EFAULT, call(pool, page_of(foreign_object), PAGE));
		REFUSED(-EFAULT, call(pool, page(PAGES), PAGE));
		REFUSED(-EFAULT, call(pool, page(30), PAGES * PAGE));
		REFUSED(-EFAULT, call(pool, page(30), (size_t)1 << 46));
		REFUSED(-EFAULT, call(pool, page(30), SIZE_MAX - PAGE + 1)); /* wraps around */
		if (!takes_objects)
			REFUSED(-EFAULT, call(pool, page_of(object), PAGE));
	}
}

static void empty_ranges_are_refused(void **state)
{
	(void)state;
	for (int i = 0; i < RANGE_CALLS; i++)
		REFUSED(-EINVAL, range_calls[i](pool, page(30), 0));
}

static void unaligned_ranges_are_refused(void **state)
{
	(void)state;
	for (int i = 0; i < RANGE_CALLS; i++) {
		if (!is_any_of(range_calls[i], do_discard, do_volatile, do_nonvolatile, NULL))
			continue;
		REFUSED(-EINVAL, range_calls[i](pool, page(8) + 8, PAGE));
		REFUSED(-EINVAL, range_calls[i](pool, page(8), PAGE + 1));
		REFUSED(-EINVAL, range_calls[i](pool, page(8) + PAGE / 2, PAGE / 2));
	}
}

static void calls_on_what_is_not_a_pool_are_refused(void **state)
{
	larder_pool *const bad[] = { NULL, gone, (larder_pool *)(uintptr_t)not_a_pool };
	struct larder_pool_stats stats;
	struct larder_purge_event event;
	void *p;

	(void)state;
	for (size_t b = 0; b < 3; b++) {
		for (int i = 0; i < RANGE_CALLS; i++)
			REFUSED(-EBADF, range_calls[i](bad[b], page(30), PAGE));
		REFUSED(-EBADF, larder_pool_destroy(bad[b]));
		REFUSED(-EBADF, larder_alloc(bad[b], 100, &p));
		REFUSED(-EBADF, larder_free(bad[b], object));
		REFUSED(-EBADF, larder_pages_alloc(bad[b], PAGE, &p));
		REFUSED(-EBADF, larder_pages_free(bad[b], base));
		REFUSED(-EBADF, larder_used(bad[b], base));
		REFUSED(-EBADF, larder_purge_fd(bad[b]));
		REFUSED(-EBADF, larder_purge_events(bad[b], &event, 1));
		REFUSED(-EBADF, larder_pool_get_stats(bad[b], &stats));
		if (bad[b]) /* NULL means every pool */
			REFUSED(-EBADF, (int)larder_purge(bad[b], 0, PAGE));
	}
}

static void a_pool_is_not_made_of_bad_options(void **state)
{
	larder_pool *made = NULL;
	struct larder_pool_options bad[] = {
		{ .limit_bytes = 1 },
		{ .limit_bytes = MIB - 1 },
		{ .tiers = 4 },
		{ .tiers = LARDER_TIER_LZ4 | LARDER_TIERS_NONE },
		{ .fault_mode = 2 },
		{ .order = 4 },
		{ .flags = 1 },
		{ .reserved = { 1 } },
		{ .reserved = { 0, 0, 0, 1 } },
	};

	(void)state;
	REFUSED(-EINVAL, larder_pool_create(NULL, NULL));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		REFUSED(-EINVAL, larder_pool_create(&made, &bad[i]));
	assert_null(made);
}

static void allocation_refuses_what_it_cannot_do(void **state)
{
	void *p = NULL;

	(void)state;
	REFUSED(-EINVAL, larder_alloc(pool, 0, &p));
	REFUSED(-EINVAL, larder_alloc(pool, 8, NULL));
	REFUSED(-EINVAL, larder_pages_alloc(pool, 0, &p));
	REFUSED(-EINVAL, larder_pages_alloc(pool, 8, NULL));
	assert_int_equal(larder_alloc(pool, SIZE_MAX, &p), -ENOMEM);
	assert_int_equal(larder_alloc(pool, (size_t)1 << 48, &p), -ENOMEM);
	assert_int_equal(larder_pages_alloc(pool, SIZE_MAX, &p), -ENOMEM);
	assert_int_equal(larder_pages_alloc(pool, (size_t)1 << 48, &p), -ENOMEM);
	assert_null(p);
}

static void freeing_refuses_what_it_did_not_hand_out(void **state)
{
	int local;

	(void)state;
	REFUSED(-EFAULT, larder_free(pool, NULL));
	REFUSED(-EFAULT, larder_free(pool, &local));
	REFUSED(-EFAULT, larder_free(pool, base));
	REFUSED(-EFAULT, larder_free(pool, foreign_object));
	REFUSED(-EFAULT, larder_pages_free(pool, NULL));
	REFUSED(-EFAULT, larder_pages_free(pool, &local));
	REFUSED(-EFAULT, larder_pages_free(pool, page(1)));
	REFUSED(-EFAULT, larder_pages_free(pool, base + 8));
	REFUSED(-EFAULT, larder_pages_free(pool, freed));
	REFUSED(-EFAULT, larder_pages_free(pool, foreign));
	REFUSED(-EFAULT, larder_pages_free(pool, object));
}

static void what_is_pinned_is_neither_freed_nor_marked_nor_dropped(void **state)
{
	(void)state;
	assert_int_equal(larder_pin(pool, object, PAGE), LARDER_INTACT);
	REFUSED(-EBUSY, larder_free(pool, object));
	assert_int_equal(larder_unpin(pool, object, PAGE), 0);
	REFUSED(-EBUSY, larder_pool_destroy(pool));
	REFUSED(-EBUSY, larder_pages_free(pool, base));
	REFUSED(-EBUSY, larder_discard(pool, page(16), 5 * PAGE));
	REFUSED(-EBUSY, larder_discard(pool, page(21), 5 * PAGE));
	REFUSED(-EBUSY, larder_volatile(pool, page(21), PAGE, NULL));
	REFUSED(-EBUSY, larder_volatile(pool, page(16), 30 * PAGE, NULL));
	assert_int_equal(larder_pin(pool, page(8), PAGE), LARDER_INTACT); /* a volatile one */
	REFUSED(-EBUSY, larder_nonvolatile(pool, page(8), 8 * PAGE, 0, NULL));
	REFUSED(-EBUSY, larder_nonvolatile(pool, page(0), 9 * PAGE, LARDER_ACKNOWLEDGE, NULL));
	REFUSED(-EBUSY, larder_volatile(pool, page(8), 2 * PAGE,
					&(struct larder_volatile_options){ .priority = 3, .flags = LARDER_REMARK }));
	assert_int_equal(larder_unpin(pool, page(8), PAGE), 0);
}

static void only_what_is_pinned_is_unpinned(void **state)
{
	(void)state;
	REFUSED(-ENOENT, larder_unpin(pool, page(30), PAGE));
	REFUSED(-ENOENT, larder_unpin(pool, page(19), 2 * PAGE));
	REFUSED(-ENOENT, larder_unpin(pool, page(20), 3 * PAGE));
	REFUSED(-ENOENT, larder_unpin(pool, page(8), PAGE));
	REFUSED(-ENOENT, larder_unpin(pool, object, PAGE));
	assert_int_equal(pool_stats(pool).pinned_bytes, 2 * PAGE);
}

static void marking_refuses_bad_options(void **state)
{
	struct larder_volatile_options bad[] = {
		{ .priority = -2 },
		{ .priority = 8 },
		{ .on_touch = 3 },
		{ .unit_bytes = 1 },
		{ .unit_bytes = 2048 },
		{ .unit_bytes = 3 * PAGE },
		{ .unit_bytes = PAGE + 1 },
		{ .flags = 4 },
		{ .flags = LARDER_REMARK | 8 },
		{ .reserved = { 1 } },
		{ .reserved = { 0, 0, 1 } },
		{ .on_touch = LARDER_TOUCH_REFILL },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		REFUSED(-EINVAL, larder_volatile(pool, page(30), 4 * PAGE, &bad[i]));
}

static void what_is_volatile_is_not_marked_again_unless_asked_for(void **state)
{
	(void)state;
	REFUSED(-EEXIST, larder_volatile(pool, page(0), PAGE, NULL));
	REFUSED(-EEXIST, larder_volatile(pool, page(8), 8 * PAGE, NULL));
	REFUSED(-EEXIST, larder_volatile(pool, page(15), 5 * PAGE, NULL));
	REFUSED(-EEXIST, larder_volatile(pool, page(0), 20 * PAGE, NULL));
}

static void only_what_is_volatile_ends_being_so(void **state)
{
	(void)state;
	REFUSED(-ENOENT, larder_nonvolatile(pool, page(30), PAGE, 0, NULL));
	REFUSED(-ENOENT, larder_nonvolatile(pool, page(0), 17 * PAGE, 0, NULL));
	REFUSED(-ENOENT, larder_nonvolatile(pool, page(15), 2 * PAGE, LARDER_ACKNOWLEDGE, NULL));
	REFUSED(-EINVAL, larder_nonvolatile(pool, page(8), PAGE, 2, NULL));
	REFUSED(-ENOENT, larder_used(pool, page(30)));
	REFUSED(-EFAULT, larder_used(pool, NULL));
	REFUSED(-EFAULT, larder_used(pool, foreign));
	REFUSED(-EFAULT, larder_used(pool, object));
}

static void what_may_go_at_any_moment_cannot_be_refilled(void **state)
{
	(void)state;
	REFUSED(-ENOENT, larder_refilled(pool, page(0), PAGE));
	REFUSED(-ENOENT, larder_refilled(pool, page(15), 2 * PAGE));
	assert_int_equal(larder_query(pool, page(0), PAGE, NULL), LARDER_PURGED);
}

static void the_rest_is_refused_as_well(void **state)
{
	(void)state;
	REFUSED(-EINVAL, larder_advise(pool, page(30), PAGE, 99));
	REFUSED(-EINVAL, (int)larder_purge(pool, LARDER_PRIORITY_OBSOLETE - 1, PAGE));
	REFUSED(-EINVAL, (int)larder_purge(pool, LARDER_PRIORITY_MAX + 1, PAGE));
	REFUSED(-EINVAL, (int)larder_purge(NULL, LARDER_PRIORITY_MAX + 1, PAGE));
	REFUSED(-EINVAL, larder_purge_events(pool, NULL, 1));
	REFUSED(-EINVAL, larder_pool_get_stats(pool, NULL));
}

static void two_ranges_side_by_side_are_not_one(void **state)
{
	char *low = pages_new(pool, 4), *high = pages_new(pool, 4), *first = low < high ? low : high;

	(void)state;
	for (int i = 0; i < RANGE_CALLS; i++)
		REFUSED(-EFAULT, range_calls[i](pool, first + 3 * PAGE, 2 * PAGE));
	assert_int_equal(larder_pages_free(pool, low), 0);
	assert_int_equal(larder_pages_free(pool, high), 0);
}

#define on_the_field(test) cmocka_unit_test_setup_teardown(test, make_field, clear_field)

int main(void)
{
	const struct CMUnitTest tests[] = {
		on_the_field(addresses_outside_the_pools_ranges_are_refused),
		on_the_field(empty_ranges_are_refused),
		on_the_field(unaligned_ranges_are_refused),
		on_the_field(calls_on_what_is_not_a_pool_are_refused),
		on_the_field(a_pool_is_not_made_of_bad_options),
		on_the_field(allocation_refuses_what_it_cannot_do),
		on_the_field(freeing_refuses_what_it_did_not_hand_out),
		on_the_field(what_is_pinned_is_neither_freed_nor_marked_nor_dropped),
		on_the_field(only_what_is_pinned_is_unpinned),
		on_the_field(marking_refuses_bad_options),
		on_the_field(what_is_volatile_is_not_marked_again_unless_asked_for),
		on_the_field(only_what_is_volatile_ends_being_so),
		on_the_field(what_may_go_at_any_moment_cannot_be_refilled),
		on_the_field(the_rest_is_refused_as_well),
		on_the_field(two_ranges_side_by_side_are_not_one),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
