/*
 * Optimistic use: what a touch of a purged page does, by the thread itself and by the kernel on its behalf, and how the
 * program's own SIGBUS handlers and Larder's get along. Needs userfaultfd.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "pools.h"

enum { PAGES = 64 };

static void *const NO_ADDRESS = NULL;

/* The program's handler, installed before Larder's. Returns to the touch that expected it. */
static __thread sigjmp_buf bus_return;
static __thread volatile int bus_expected;
static __thread void *volatile bus_address;
static _Atomic unsigned buses;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	static const char complaint[] = "SIGBUS that nobody expected\n";

	(void)sig, (void)context;
	atomic_fetch_add(&buses, 1);
	if (!bus_expected) {
		(void)!write(2, complaint, sizeof(complaint) - 1);
		abort();
	}
	bus_address = info->si_addr;
	siglongjmp(bus_return, 1);
}

/* Read a byte. Returns the address in the SIGBUS that it raised, NULL when there was none. */
static void *touch(const volatile char *at)
{
	bus_address = NO_ADDRESS;
	bus_expected = 1;
	if (sigsetjmp(bus_return, 1) == 0)
		(void)*at;
	bus_expected = 0;
	return bus_address;
}

static void *touch_by_write(volatile char *at)
{
	bus_address = NO_ADDRESS;
	bus_expected = 1;
	if (sigsetjmp(bus_return, 1) == 0)
		*at = 1;
	bus_expected = 0;
	return bus_address;
}

static uintptr_t page_address(const void *p)
{
	return (uintptr_t)p & ~(uintptr_t)(PAGE - 1);
}

static int start(void **state)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &action, NULL);
	return start_unlimited(state);
}

/* Each test runs with Larder's threads serving faults, and with the touching thread doing so. */
#define in_both_modes(test)                                                                                            \
	static void test(void **state)                                                                                 \
	{                                                                                                              \
		(void)state;                                                                                           \
		for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {                          \
			larder_pool *pool = pool_of_mode(mode);                                                        \
			test##_in(pool, pages_new(pool, PAGES));                                                       \
			pool_end(pool);                                                                                \
		}                                                                                                      \
	}

static int query(larder_pool *pool, char *base, size_t page)
{
	return larder_query(pool, base + page * PAGE, PAGE, NULL);
}

/* ---- zero-fill ---- */

static void zeroes_can_be_read_and_written_in(larder_pool *pool, char *base)
{
	mark(pool, base, 0, PAGES, NULL);
	purge_all(pool);
	verify_zero(base, 0, PAGES);
	for (size_t i = 0; i < PAGES; i++)
		page_fill(base + i * PAGE, i, 0);
	verify_pages(base, 0, PAGES);
	assert_int_equal(query(pool, base, 5), LARDER_PURGED);
}
in_both_modes(zeroes_can_be_read_and_written)

	static void first_touch_may_be_a_write_in(larder_pool *pool, char *base)
{
	mark(pool, base, 0, PAGES, NULL);
	purge_all(pool);
	for (size_t i = 0; i < PAGES; i++)
		base[i * PAGE + 99] = 1;
	for (size_t i = 0; i < PAGES * (size_t)PAGE; i++)
		assert_int_equal(base[i], i % PAGE == 99);
}
in_both_modes(first_touch_may_be_a_write)

	/* ---- SIGBUS ---- */

	static const
	struct larder_volatile_options by_sigbus = { .on_touch = LARDER_TOUCH_SIGBUS, .unit_bytes = 8 * PAGE };

static void sigbus_names_the_page_touched_in(larder_pool *pool, char *base)
{
	mark(pool, base, 0, PAGES, &by_sigbus);
	assert_null(touch(base + 9 * PAGE));
	assert_int_equal(larder_purge(pool, 0, 16 * PAGE), 16 * PAGE);
	assert_int_equal(page_address(touch(base)), (uintptr_t)base);
	assert_int_equal(page_address(touch(base + 9 * PAGE + 1234)), (uintptr_t)base + 9 * PAGE);
	assert_int_equal(page_address(touch_by_write(base + 15 * PAGE + 8)), (uintptr_t)base + 15 * PAGE);
	assert_int_equal(page_address(touch(base + 15 * PAGE)), (uintptr_t)base + 15 * PAGE); /* again */
	assert_null(touch(base + 16 * PAGE));
	verify_pages(base, 16, PAGES - 16);
}
in_both_modes(sigbus_names_the_page_touched)

	static void system_calls_on_purged_pages_say_efault_in(larder_pool *pool, char *base)
{
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	mark(pool, base, 0, PAGES, &by_sigbus);
	assert_int_equal(larder_purge(pool, 0, 8 * PAGE), 8 * PAGE);
	assert_int_equal(write(fds[1], base, PAGE), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(write(fds[1], base + 8 * PAGE, PAGE), PAGE);
	assert_int_equal(read(fds[0], base, PAGE), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(query(pool, base, 0), LARDER_PURGED);
	close(fds[0]);
	close(fds[1]);
}
in_both_modes(system_calls_on_purged_pages_say_efault)

	static void nonvolatile_and_pinned_pages_raise_no_sigbus_in(larder_pool *pool, char *base)
{
	mark(pool, base, 0, PAGES, &by_sigbus);
	purge_all(pool);
	assert_non_null(touch(base));
	assert_int_equal(larder_pin(pool, base, 2 * PAGE), LARDER_PURGED);
	verify_zero(base, 0, 2);
	assert_int_equal(larder_unpin(pool, base, 2 * PAGE), 0);
	assert_int_equal(larder_nonvolatile(pool, base, PAGES * PAGE, 0, NULL), LARDER_PURGED);
	verify_zero(base, 0, PAGES);
}
in_both_modes(nonvolatile_and_pinned_pages_raise_no_sigbus)

	static void a_touched_loss_can_be_made_good_in(larder_pool *pool, char *base)
{
	mark(pool, base, 0, PAGES, &by_sigbus);
	for (int round = 0; round < 20; round++) {
		size_t page = (size_t)(round * 7 % PAGES);

		purge_all(pool);
		assert_non_null(touch(base + page * PAGE));
		assert_int_equal(larder_pin(pool, base + page * PAGE, PAGE), LARDER_PURGED);
		page_fill(base + page * PAGE, page, 0);
		assert_int_equal(larder_refilled(pool, base + page * PAGE, PAGE), 0);
		assert_int_equal(larder_unpin(pool, base + page * PAGE, PAGE), 0);
		verify_pages(base, page, 1);
		assert_int_equal(query(pool, base, page), LARDER_INTACT);
	}
}
in_both_modes(a_touched_loss_can_be_made_good)

	static void changing_the_policy_changes_what_a_touch_does_in(larder_pool *pool, char *base)
{
	struct larder_volatile_options zero = { .flags = LARDER_REMARK }, bus = by_sigbus;

	bus.flags = LARDER_REMARK;
	mark(pool, base, 0, PAGES, NULL);
	purge_all(pool);
	mark(pool, base, 0, PAGES, &bus);
	assert_non_null(touch(base + 3 * PAGE));
	mark(pool, base, 0, PAGES, &zero);
	assert_null(touch(base + 3 * PAGE));
	verify_zero(base, 0, PAGES);
}
in_both_modes(changing_the_policy_changes_what_a_touch_does)

	static void freed_pages_are_as_good_as_new_in(larder_pool *pool, char *base)
{
	unsigned char lost[PAGES];
	void *again;

	mark(pool, base, 0, PAGES, &by_sigbus);
	purge_all(pool);
	assert_int_equal(larder_pages_free(pool, base), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(larder_pages_alloc(pool, PAGES * PAGE, &again), 0);
		assert_int_equal(larder_query(pool, again, PAGES * PAGE, lost), LARDER_INTACT);
		assert_null(memchr(lost, 1, PAGES));
		verify_zero(again, 0, PAGES);
	}
}
in_both_modes(freed_pages_are_as_good_as_new)

	/* ---- refill ---- */

	/* What a refill callback was asked for, and what it answers. */
	struct filler {
	char *base;
	int answer;
	_Atomic unsigned calls;
	char *_Atomic addr;
	_Atomic size_t bytes;
};

static int refill(void *cookie, void *addr, void *buffer, size_t bytes)
{
	struct filler *f = cookie;
	size_t first = (size_t)((char *)addr - f->base) / PAGE;

	atomic_fetch_add(&f->calls, 1);
	f->addr = addr;
	f->bytes = bytes;
	if (f->answer)
		return f->answer;
	for (size_t i = 0; i < bytes / PAGE; i++)
		page_fill((char *)buffer + i * PAGE, first + i, 0);
	return 0;
}

static struct larder_volatile_options by_refill(struct filler *f, uint64_t unit_bytes)
{
	return (struct larder_volatile_options){
		.on_touch = LARDER_TOUCH_REFILL, .unit_bytes = unit_bytes, .refill = refill, .cookie = f
	};
}

static void the_callback_makes_the_unit_again_and_it_is_not_lost_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_CHUNK);

	mark(pool, base, 1, 40, &o); /* units of pages 1 to 16, 17 to 32, 33 to 40 */
	assert_null(touch(base + 20 * PAGE));
	assert_int_equal(f.calls, 0);
	purge_all(pool);
	verify_pages(base, 20, 1);
	assert_int_equal(f.calls, 1);
	assert_ptr_equal(f.addr, base + 17 * PAGE);
	assert_int_equal(f.bytes, LARDER_UNIT_CHUNK);
	verify_pages(base, 17, 16);
	assert_int_equal(f.calls, 1);
	for (size_t i = 1; i < 41; i++)
		assert_int_equal(query(pool, base, i), i < 17 || i > 32);
	base[40 * PAGE] = 0; /* a write as well */
	assert_int_equal(f.calls, 2);
	assert_ptr_equal(f.addr, base + 33 * PAGE);
	assert_int_equal(f.bytes, 8 * PAGE);
	assert_int_equal(base[40 * PAGE], 0);
	assert_int_equal(larder_nonvolatile(pool, base + 17 * PAGE, 24 * PAGE, 0, NULL), LARDER_INTACT);
	assert_int_equal(larder_nonvolatile(pool, base + PAGE, 16 * PAGE, 0, NULL), LARDER_PURGED);
	assert_int_equal(pool_stats(pool).priority[1].refills, 2);
}
in_both_modes(the_callback_makes_the_unit_again_and_it_is_not_lost)

	static void the_whole_range_is_one_unit_by_default_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_RANGE);

	mark(pool, base, 10, 50, &o);
	for (unsigned round = 1; round < 10; round++) {
		purge_all(pool);
		verify_pages(base, 59, 1);
		assert_int_equal(f.calls, round);
		assert_ptr_equal(f.addr, base + 10 * PAGE);
		assert_int_equal(f.bytes, 50 * PAGE);
		verify_pages(base, 10, 50);
	}
}
in_both_modes(the_whole_range_is_one_unit_by_default)

	static void a_callback_that_fails_raises_sigbus_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base, .answer = -1 };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_CHUNK);

	mark(pool, base, 0, PAGES, &o);
	purge_all(pool);
	assert_int_equal(page_address(touch(base + 18 * PAGE + 40)), (uintptr_t)base + 18 * PAGE);
	assert_int_equal(query(pool, base, 18), LARDER_PURGED);
	assert_int_equal(pool_stats(pool).priority[1].refills, 0);
	f.answer = 0; /* it may succeed the next time */
	assert_null(touch(base + 18 * PAGE));
	verify_pages(base, 16, 16);
}
in_both_modes(a_callback_that_fails_raises_sigbus)

	static void a_forked_child_is_called_back_too_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_CHUNK);
	int status = -1;
	pid_t pid;

	mark(pool, base, 0, PAGES, &o);
	purge_all(pool);
	verify_pages(base, 0, 1); /* a page that was poisoned, and made again, before the fork */
	pid = fork();
	if (pid == 0) {
		for (size_t i = 0; i < PAGES; i++)
			if (touch(base + i * PAGE) || page_wrong_word(base + i * PAGE, i, 0) != WORDS)
				_exit(1);
		_exit(f.calls == PAGES / 16 ? 0 : 2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(f.calls, 1);
	verify_pages(base, 0, PAGES);
}
in_both_modes(a_forked_child_is_called_back_too)

	static void system_calls_do_not_refill_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_PAGE);
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	mark(pool, base, 0, PAGES, &o);
	purge_all(pool);
	assert_int_equal(write(fds[1], base, PAGE), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(f.calls, 0);
	close(fds[0]);
	close(fds[1]);
}
in_both_modes(system_calls_do_not_refill)

	static _Atomic int stop_reading;

static void *read_everywhere(void *arg)
{
	const struct filler *f = arg;
	uint64_t random = (uint64_t)(uintptr_t)&random, wrong = 0;

	while (!atomic_load(&stop_reading)) {
		size_t page = page_random(&random, PAGES), word = page_random(&random, WORDS);

		wrong += ((volatile uint64_t *)(f->base + page * PAGE))[word] != word_of(page, 0, word);
	}
	return (void *)(uintptr_t)wrong;
}

static void threads_that_touch_the_same_units_all_read_the_content_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_CHUNK);
	pthread_t threads[4];
	uintptr_t wrong = 0;
	void *count;

	mark(pool, base, 0, PAGES, &o);
	stop_reading = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, read_everywhere, &f);
	for (int i = 0; i < 1000; i++) {
		purge_all(pool);
		usleep(200);
	}
	stop_reading = 1;
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &count);
		wrong += (uintptr_t)count;
	}
	assert_int_equal(wrong, 0);
	assert_true(f.calls > 100);
}
in_both_modes(threads_that_touch_the_same_units_all_read_the_content)

	/* Where the answer goes may be absent, lost, and of the same range: no lock is held while it is written. */
	static void answers_can_be_written_to_memory_that_was_purged_in(larder_pool *pool, char *base)
{
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_PAGE);

	mark(pool, base, 0, 8, &o);
	mark(pool, base, 32, 8, NULL);
	purge_all(pool);
	alarm(20); /* rather than wait for ever */
	assert_int_equal(larder_query(pool, base + 24 * PAGE, 16 * PAGE, (unsigned char *)base), LARDER_PURGED);
	assert_int_equal(larder_nonvolatile(pool, base + 32 * PAGE, 8 * PAGE, 0, (unsigned char *)base + PAGE),
			 LARDER_PURGED);
	alarm(0);
	for (size_t i = 0; i < 16; i++)
		assert_int_equal(base[i], i >= 8);
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(base[PAGE + i], 1);
}
in_both_modes(answers_can_be_written_to_memory_that_was_purged)

	/* ---- SIGBUS handlers ---- */

	/* A page that raises SIGBUS for reasons of its own: beyond the end of its file. */
	static char *foreign_page(void)
{
	int fd = memfd_create("foreign", MFD_CLOEXEC);
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	close(fd);
	return p;
}

static void the_handler_installed_before_gets_what_is_not_larders(void **state)
{
	larder_pool *pool = pool_of_mode(LARDER_FAULT_INLINE);
	char *foreign = foreign_page(), *base = pages_new(pool, PAGES);
	unsigned before = buses;

	(void)state;
	assert_ptr_equal(touch(foreign + 24), foreign + 24);
	assert_int_equal(buses, before + 1);
	assert_true(larder_advise(pool, base, PAGES * PAGE, LARDER_ADVICE_COLD) > 0);
	verify_pages(base, 0, PAGES); /* Larder's, and none of the program's business */
	assert_int_equal(buses, before + 1);
	munmap(foreign, PAGE);
	pool_end(pool);
}

static _Atomic unsigned larders, others;

static void on_bus_later(int sig, siginfo_t *info, void *context)
{
	if (larder_handle_sigbus(info)) {
		atomic_fetch_add(&larders, 1);
		return;
	}
	atomic_fetch_add(&others, 1);
	on_bus(sig, info, context);
}

static void a_handler_installed_later_asks_larder_first(void **state)
{
	struct sigaction action = { .sa_sigaction = on_bus_later, .sa_flags = SA_SIGINFO }, old;
	larder_pool *pool = pool_of_mode(LARDER_FAULT_INLINE);
	char *foreign = foreign_page(), *base = pages_new(pool, PAGES);
	struct filler f = { .base = base };
	struct larder_volatile_options o = by_refill(&f, LARDER_UNIT_PAGE);

	(void)state;
	assert_int_equal(sigaction(SIGBUS, &action, &old), 0);
	assert_true(larder_advise(pool, base, PAGES * PAGE, LARDER_ADVICE_COLD) > 0);
	verify_pages(base, 0, PAGES);
	assert_true(larders > 0);
	assert_int_equal(others, 0);
	mark(pool, base, 0, PAGES, &o);
	purge_all(pool);
	larders = 0;
	verify_pages(base, 0, PAGES);
	assert_int_equal(larders, PAGES);
	assert_int_equal(others, 0);
	assert_ptr_equal(touch(foreign + 8), foreign + 8);
	assert_int_equal(others, 1);
	assert_int_equal(sigaction(SIGBUS, &old, NULL), 0);
	munmap(foreign, PAGE);
	pool_end(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zeroes_can_be_read_and_written),
		cmocka_unit_test(first_touch_may_be_a_write),
		cmocka_unit_test(sigbus_names_the_page_touched),
		cmocka_unit_test(system_calls_on_purged_pages_say_efault),
		cmocka_unit_test(nonvolatile_and_pinned_pages_raise_no_sigbus),
		cmocka_unit_test(a_touched_loss_can_be_made_good),
		cmocka_unit_test(changing_the_policy_changes_what_a_touch_does),
		cmocka_unit_test(freed_pages_are_as_good_as_new),
		cmocka_unit_test(the_callback_makes_the_unit_again_and_it_is_not_lost),
		cmocka_unit_test(the_whole_range_is_one_unit_by_default),
		cmocka_unit_test(a_callback_that_fails_raises_sigbus),
		cmocka_unit_test(a_forked_child_is_called_back_too),
		cmocka_unit_test(system_calls_do_not_refill),
		cmocka_unit_test(threads_that_touch_the_same_units_all_read_the_content),
		cmocka_unit_test(answers_can_be_written_to_memory_that_was_purged),
		cmocka_unit_test(the_handler_installed_before_gets_what_is_not_larders),
		cmocka_unit_test(a_handler_installed_later_asks_larder_first),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
