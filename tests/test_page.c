/*
 * The page table entry under threads: one owner at a time, and nobody who waits is forgotten. Runs under
 * ThreadSanitizer.
 */
#include "page.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { THREADS = 4, ROUNDS = 20000 };

static struct larder_page page;
static uint64_t owned_by_one; /* guarded by owning the page */
static _Atomic uint64_t waits_asked, waits_answered;

static void words_hold_what_was_put_in(void **state)
{
	(void)state;
	assert_int_equal(page_state(page_word_resident(15)), PAGE_RESIDENT);
	assert_int_equal(page_credit(page_word_resident(15)), 15);
	assert_int_equal(page_state(page_word_staged(0xffffffff)), PAGE_STAGED);
	assert_int_equal(page_slot(page_word_staged(0xfffffffe)), 0xfffffffe);
	assert_int_equal(page_tier(page_word_stored(7)), 7);
	assert_int_equal(sizeof(struct larder_page), 16);
}

static void a_page_leaves_a_busy_state_only_by_its_owner(void **state)
{
	(void)state;
	for (int from = 0; from < PAGE_STATES; from++)
		for (int to = 0; to < PAGE_STATES; to++)
			if (page_is_busy((uint64_t)from) && page_is_busy((uint64_t)to))
				assert_false(page_may_become((enum page_state)from, (enum page_state)to));
	assert_false(page_may_become(PAGE_FRESH, PAGE_STORED));
	assert_false(page_may_become(PAGE_RESIDENT, PAGE_STORED));
	assert_false(page_may_become(PAGE_STORED, PAGE_RESIDENT));
	assert_false(page_may_become(PAGE_POISONED, PAGE_RESIDENT));
}

/* What a handler, the evictor and a discarder do, in the abstract: own it, change it, let it go. */
static void *contend(void *arg)
{
	(void)arg;
	for (int i = 0; i < ROUNDS;) {
		uint64_t word = page_load(&page);

		if (page_is_busy(word)) {
			if (page_await(&page, word))
				atomic_fetch_add(&waits_asked, 1);
			continue;
		}
		if (!page_acquire(&page, &word, PAGE_RESTORING))
			continue;
		owned_by_one++;
		if (page_release(&page, page_word_resident(0)))
			atomic_fetch_add(&waits_answered, 1);
		i++;
	}
	return NULL;
}

static void one_thread_owns_a_page_at_a_time(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, contend, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(owned_by_one, (uint64_t)THREADS * ROUNDS);
	assert_int_equal(page_load(&page), page_word_resident(0)); /* no WAITERS left behind */
	assert_true((atomic_load(&waits_asked) == 0) == (atomic_load(&waits_answered) == 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_hold_what_was_put_in),
		cmocka_unit_test(a_page_leaves_a_busy_state_only_by_its_owner),
		cmocka_unit_test(one_thread_owns_a_page_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
