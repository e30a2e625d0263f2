/*
 * For the cmocka tests of pools and volatile ranges: starting, making pools and pages, and failing with the values.
 * A test includes it last.
 */
#ifndef LARDER_TEST_POOLS_H
#define LARDER_TEST_POOLS_H

#include "content.h"
#include "fixture.h"

#include <larder/larder.h>

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

/*
 * cmocka installs a SIGBUS handler of its own before each test and fixture, over the one that Larder installed for
 * good. So each test puts that back when it makes a pool.
 */
static struct sigaction larders_sigbus;

static inline void learn_larders_sigbus(void)
{
	larder_pool *pool;

	if (larder_pool_create(&pool, &(struct larder_pool_options){ .fault_mode = LARDER_FAULT_INLINE }))
		return;
	sigaction(SIGBUS, NULL, &larders_sigbus);
	larder_pool_destroy(pool);
}

/* Fixtures: without a limit, and after a group. What other programs on the machine need must not change the results. */
static inline int start_unlimited(void **state)
{
	int err = larder_start(&(struct larder_options){ .flags = LARDER_IGNORE_SYSTEM });

	(void)state;
	if (err)
		fprintf(stderr, "cannot start: %d\n", err);
	else
		learn_larders_sigbus();
	return err;
}

static inline larder_pool *pool_new(const struct larder_pool_options *options)
{
	larder_pool *pool = NULL;

	if (larders_sigbus.sa_sigaction)
		sigaction(SIGBUS, &larders_sigbus, NULL);
	assert_int_equal(larder_pool_create(&pool, options), 0);
	assert_non_null(pool);
	return pool;
}

static inline larder_pool *pool_of_mode(enum larder_fault_mode mode)
{
	return pool_new(&(struct larder_pool_options){ .fault_mode = mode });
}

static inline void pool_end(larder_pool *pool)
{
	assert_int_equal(larder_pool_destroy(pool), 0);
}

/* Page range: pages numbered from 0, in generation 0. */
static inline char *pages_new(larder_pool *pool, size_t pages)
{
	void *p = NULL;

	assert_int_equal(larder_pages_alloc(pool, pages * PAGE, &p), 0);
	assert_int_equal((uintptr_t)p % PAGE, 0);
	for (size_t i = 0; i < pages; i++)
		page_fill((char *)p + i * PAGE, i, 0);
	return p;
}

static inline void verify_page(const char *base, size_t page, uint64_t generation)
{
	const uint64_t *words = (const uint64_t *)(base + page * PAGE);
	size_t i = page_wrong_word(words, page, generation);

	if (i < WORDS)
		fail_msg("word %zu of page %zu is %016lx, not %016lx", i, page, words[i], word_of(page, generation, i));
}

static inline void verify_pages(const char *base, size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++)
		verify_page(base, i, 0);
}

static inline void verify_zero(const char *base, size_t first, size_t pages)
{
	for (size_t page = first; page < first + pages; page++) {
		const uint64_t *words = (const uint64_t *)(base + page * PAGE);
		size_t i = page_nonzero_word(words);

		if (i < WORDS)
			fail_msg("word %zu of page %zu is %016lx, not zero", i, page, words[i]);
	}
}

static inline void mark(larder_pool *pool, char *base, size_t first, size_t pages,
			const struct larder_volatile_options *options)
{
	assert_int_equal(larder_volatile(pool, base + first * PAGE, pages * PAGE, options), 0);
}

static inline void purge_all(larder_pool *pool)
{
	assert_true(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING) >= 0);
}

static inline struct larder_pool_stats pool_stats(larder_pool *pool)
{
	struct larder_pool_stats s;

	assert_int_equal(larder_pool_get_stats(pool, &s), 0);
	return s;
}

static inline struct larder_stats all_stats(void)
{
	struct larder_stats s;

	assert_int_equal(larder_get_stats(&s), 0);
	return s;
}

/* Exit status of a child that runs check(arg), which prints what is wrong and returns 0 when nothing is. */
static inline int in_child(int (*check)(void *), void *arg)
{
	pid_t pid = fork();
	int status = -1;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(check(arg) != 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

#endif
