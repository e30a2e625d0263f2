/*
 * Pages that handlers move out before they serve a fault (direct.h): they do, nothing is lost by it, and what cannot be
 * moved at once - pinned for DMA, or behind a lock that a program thread has - neither holds a handler up nor keeps
 * reclaim from going on. Needs userfaultfd.
 *
 *   test_direct [--swap]        with a disk: handlers do it while they read
 */
#include "mix.h"

#include <jemalloc/jemalloc.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fixture.h"

enum { PAGE = 4096, WORDS = PAGE / 8, LIMIT_BYTES = 24 << 20, PAGES = 64 << 8, TOUCHES = 60000, PINNED = 64 };
enum { WATCHDOG_SECONDS = 120 };

static uint64_t *pages;
static uint64_t generation[PAGES];

static int swaps;

static int start(void **state)
{
	const struct larder_options options = { .limit_bytes = LIMIT_BYTES, .swap_dir = swaps ? swap_dir() : NULL };
	int err = start_process((struct process_setup){ .options = &options });

	(void)state;
	alarm(WATCHDOG_SECONDS);
	if (!err)
		pages = mallocx((size_t)PAGES * PAGE, MALLOCX_ALIGN(PAGE));
	return err;
}

/* Compresses to a third or so. */
static uint64_t word_at(size_t page, size_t i)
{
	return i % 4 == 0 && i < WORDS * 2 / 3 ? mix(page << 20 ^ generation[page] << 44 ^ i) : generation[page];
}

static void fill(size_t page)
{
	for (size_t i = 0; i < WORDS; i++)
		pages[page * WORDS + i] = word_at(page, i);
}

static void verify(size_t page)
{
	for (size_t i = 0; i < WORDS; i++)
		if (pages[page * WORDS + i] != word_at(page, i))
			fail_msg("word %zu of page %zu is %016lx, not %016lx", i, page, pages[page * WORDS + i],
				 word_at(page, i));
}

static void fill_all(void)
{
	for (size_t page = 0; page < PAGES; page++)
		fill(page);
}

/* Read one, write one, at random. */
static void touch(size_t touches)
{
	for (size_t i = 0; i < touches; i++) {
		size_t page = mix(i) % PAGES;

		verify(page);
		if (i % 2) {
			generation[page]++;
			fill(page);
		}
	}
}

static void handlers_move_pages_out_and_none_is_lost(void **state)
{
	struct larder_stats before, after;

	(void)state;
	fill_all();
	before = now();
	touch(TOUCHES);
	after = now();
	print_message("%lu pages staged, %lu of them by handlers\n", after.staged - before.staged,
		      after.staged_by_handlers - before.staged_by_handlers);
	assert_true(after.faults > before.faults + TOUCHES / 4);
	assert_true(after.staged_by_handlers > before.staged_by_handlers + 1000);
	assert_int_equal(swaps, after.disk.reads > before.disk.reads + 1000);
	for (size_t page = 0; page < PAGES; page++)
		verify(page);
}

static void pages_pinned_for_dma_stay_and_the_others_go_on(void **state)
{
	struct iovec buffers[PINNED];
	struct io_uring ring;
	struct larder_stats before;

	(void)state;
	for (size_t i = 0; i < PINNED; i++)
		buffers[i] = (struct iovec){ pages + i * (PAGES / PINNED) * WORDS, PAGE };
	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	assert_int_equal(io_uring_register_buffers(&ring, buffers, PINNED), 0);
	before = now();
	touch(TOUCHES / 2);
	assert_true(now().move_busy > before.move_busy);
	assert_true(now().evictions > before.evictions + 1000);
	io_uring_queue_exit(&ring);
	for (size_t page = 0; page < PAGES; page++)
		verify(page);
}

static _Atomic int stopping;

static void *allocate_and_free(void *arg)
{
	while (!atomic_load(&stopping)) {
		void *block = mallocx(256 << 10, MALLOCX_TCACHE_NONE);

		((volatile char *)block)[0] = 1;
		dallocx(block, MALLOCX_TCACHE_NONE);
	}
	return arg;
}

static void program_threads_that_hold_locks_hold_up_nobody(void **state)
{
	pthread_t threads[2];

	(void)state;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, allocate_and_free, NULL), 0);
	touch(TOUCHES / 4);
	atomic_store(&stopping, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(handlers_move_pages_out_and_none_is_lost),
		cmocka_unit_test(pages_pinned_for_dma_stay_and_the_others_go_on),
		cmocka_unit_test(program_threads_that_hold_locks_hold_up_nobody),
	};

	swaps = argc > 1 && !strcmp(argv[1], "--swap");
	return cmocka_run_group_tests_name(swaps ? "direct, with a disk" : "direct", tests, start, check_table);
}
