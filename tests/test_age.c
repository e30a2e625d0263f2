/*
 * How old a page is, by what its word can say. Needs nothing.
 */
#include "age.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { PAGES = 1 << 20, TICK_PAGES = PAGES / AGE_TICKS, TIER = 1 };

static void put(struct larder_age *a, size_t pages)
{
	while (pages--)
		age_stamp(a, PAGES, TIER);
}

static void the_word_says_when_and_where(void **state)
{
	struct larder_age a = { .now = 5 };
	uint64_t word = age_stamp(&a, PAGES, TIER);

	(void)state;
	assert_int_equal(page_state(word), PAGE_STORED);
	assert_int_equal(page_tier(word), TIER);
	assert_int_equal(page_ticket(word), 0);
	assert_int_equal(age_put_at(&a, word), 5);
}

static void pages_are_young_for_a_while(void **state)
{
	struct larder_age a = { 0 };
	uint64_t word = age_stamp(&a, PAGES, TIER);

	(void)state;
	assert_true(age_is_young(&a, word));
	put(&a, AGE_YOUNG * TICK_PAGES);
	assert_true(age_is_young(&a, word));
	put(&a, TICK_PAGES);
	assert_false(age_is_young(&a, word));
	assert_int_equal(age_now(&a), AGE_YOUNG + 1);
}

/* Ticks in words begin anew, ages do not. */
static void age_is_exact_for_sixteen_times_all_pages(void **state)
{
	(void)state;
	for (uint64_t start = 0; start < 3 * (PAGE_TICK_MAX + 1); start += 1000) {
		struct larder_age a = { .now = start };
		uint64_t word = age_stamp(&a, PAGES, TIER);

		atomic_store(&a.now, start + PAGE_TICK_MAX);
		assert_int_equal(age_put_at(&a, word), start);
		atomic_store(&a.now, start + PAGE_TICK_MAX + 1);
		assert_int_equal(age_put_at(&a, word), start + PAGE_TICK_MAX + 1);
	}
}

/* With few pages a tick has some all the same. */
static void ticks_are_not_too_short(void **state)
{
	struct larder_age a = { 0 };

	(void)state;
	for (int i = 0; i < 10 * AGE_TICK_LEAST_PAGES; i++)
		age_stamp(&a, 100, TIER);
	assert_int_equal(age_now(&a), 9);
}

/* n pages go out and come back after `ticks`. */
static void come_back(struct larder_age *a, unsigned ticks, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t word = age_stamp(a, PAGES, TIER);

		atomic_store(&a->now, age_now(a) + ticks);
		age_note(a, i, 1, age_is_far(a, word));
	}
}

static void room_pays_where_pages_come_back_soon(void **state)
{
	struct larder_age a = { 0 };

	(void)state;
	assert_true(age_room_pays(&a, 0));
	come_back(&a, AGE_NEAR + 2, 100 * AGE_LOOK_EVERY * (1 << AGE_WEIGHT_SHIFT) / 10);
	assert_false(age_room_pays(&a, 0));
	come_back(&a, AGE_NEAR, AGE_LOOK_EVERY * (1 << AGE_WEIGHT_SHIFT));
	assert_true(age_room_pays(&a, 0));
}

/* Pages that come together are looked at wherever they begin. */
static void runs_count_wherever_they_begin(void **state)
{
	struct larder_age a = { 0 };
	uint64_t word = age_stamp(&a, PAGES, TIER);

	(void)state;
	atomic_store(&a.now, AGE_NEAR + 1);
	for (unsigned i = 0; i < 20 << AGE_WEIGHT_SHIFT; i++)
		age_note(&a, 32 * (size_t)i + 5, 32, age_is_far(&a, word));
	assert_false(age_room_pays(&a, 0));
}

/* Pages from disk are far, and then fewer near ones are enough. */
static void with_a_disk_fewer_need_to_be_near(void **state)
{
	struct larder_age a = { 0 };

	(void)state;
	for (unsigned i = 0; i < 20 << AGE_WEIGHT_SHIFT; i++)
		age_note(&a, i, 2, i % 16 != 0);
	assert_false(age_room_pays(&a, 0));
	assert_true(age_room_pays(&a, 1));
	for (unsigned i = 0; i < 20 << AGE_WEIGHT_SHIFT; i++)
		age_note(&a, i, 2, i % 64 != 0);
	assert_false(age_room_pays(&a, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_word_says_when_and_where),
		cmocka_unit_test(pages_are_young_for_a_while),
		cmocka_unit_test(age_is_exact_for_sixteen_times_all_pages),
		cmocka_unit_test(ticks_are_not_too_short),
		cmocka_unit_test(room_pays_where_pages_come_back_soon),
		cmocka_unit_test(runs_count_wherever_they_begin),
		cmocka_unit_test(with_a_disk_fewer_need_to_be_near),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
