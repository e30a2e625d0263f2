/*
 * How much of the limit is for pages that are compressed in RAM, by what is fetched. Needs nothing.
 */
#include "split.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define LIMIT ((uint64_t)1 << 30)

enum { TIER = 1, OLDEST = 100, NOW = (OLDEST + 30) * AGE_GENERATION_TICKS };

/* Pages that compress 3 to 1, and fill what they may take. */
enum { RATIO = 3 };

struct situation {
	struct larder_split split;
	struct larder_age age;
};

static struct situation begin(void)
{
	return (struct situation){ .age = { .now = NOW, .oldest = OLDEST } };
}

static void fetch(struct situation *s, uint64_t put_at, unsigned n)
{
	while (n--)
		split_note(&s->split, &s->age, page_with_tick(page_word_stored(TIER), put_at));
}

static uint64_t share(const struct situation *s)
{
	return split_bytes(&s->split, LIMIT);
}

static void follow(struct situation *s, unsigned ratio)
{
	uint64_t bytes = share(s);

	split_follow(&s->split, ratio * bytes / PAGE_BYTES, bytes, LIMIT);
}

static void it_begins_with_half(void **state)
{
	struct situation s = begin();

	(void)state;
	assert_int_equal(share(&s), LIMIT / 2);
	follow(&s, RATIO);
	assert_int_equal(share(&s), LIMIT / 2);
}

static void young_pages_take(void **state)
{
	struct situation s = begin();

	(void)state;
	fetch(&s, NOW - AGE_YOUNG, 1000);
	follow(&s, RATIO);
	assert_int_equal(share(&s), LIMIT / 2 - LIMIT / SHARE_ALL * SPLIT_STEP * 1000);
}

static void pages_that_go_next_give(void **state)
{
	struct situation s = begin();

	(void)state;
	fetch(&s, (OLDEST + SPLIT_OLD_GENERATIONS) * AGE_GENERATION_TICKS - 1, 60);
	fetch(&s, (OLDEST - 2) * AGE_GENERATION_TICKS, 40);
	follow(&s, RATIO);
	assert_int_equal(share(&s), LIMIT / 2 + LIMIT / SHARE_ALL * SPLIT_STEP * 100 * 9);
}

static void others_count_for_nothing(void **state)
{
	struct situation s = begin();

	(void)state;
	fetch(&s, NOW - AGE_YOUNG - 1, 1000);
	fetch(&s, (OLDEST + SPLIT_OLD_GENERATIONS) * AGE_GENERATION_TICKS, 1000);
	follow(&s, RATIO);
	assert_int_equal(share(&s), LIMIT / 2);
}

/* The less is gained by compressing, the less are old pages worth: without a gain, nothing. */
static void worth_goes_by_the_ratio(void **state)
{
	(void)state;
	for (unsigned ratio = 1; ratio <= 5; ratio++) {
		struct situation s = begin();

		fetch(&s, OLDEST * AGE_GENERATION_TICKS, 100);
		follow(&s, ratio);
		assert_int_equal(share(&s), LIMIT / 2 + LIMIT / SHARE_ALL * SPLIT_STEP * (100 * 9 * (ratio - 1) / 2));
	}
}

static void it_keeps_within_bounds(void **state)
{
	struct situation s = begin();

	(void)state;
	for (int i = 0; i < 100; i++) {
		fetch(&s, NOW, 10000);
		follow(&s, RATIO);
	}
	assert_int_equal(share(&s), LIMIT / 4);
	for (int i = 0; i < 100; i++) {
		fetch(&s, OLDEST * AGE_GENERATION_TICKS, 10000);
		follow(&s, RATIO);
	}
	assert_int_equal(share(&s), LIMIT / SHARE_ALL * SPLIT_MOST);
}

/* While nothing is about to go to disk, fetches do not count, nor do they afterwards. */
static void it_stays_while_there_is_room(void **state)
{
	struct situation s = begin();

	(void)state;
	fetch(&s, NOW, 1000);
	split_follow(&s.split, RATIO * LIMIT / 4 / PAGE_BYTES, LIMIT / 4, LIMIT);
	assert_int_equal(share(&s), LIMIT / 2);
	follow(&s, RATIO);
	assert_int_equal(share(&s), LIMIT / 2);
}

/* Counters begin anew after 4 billion fetches. */
static void counters_may_wrap(void **state)
{
	struct situation s = begin();

	(void)state;
	s.split.young_seen = UINT32_MAX - 9;
	atomic_store(&s.split.young, UINT32_MAX - 9);
	fetch(&s, NOW, 1000);
	follow(&s, RATIO);
	assert_int_equal(share(&s), LIMIT / 2 - LIMIT / SHARE_ALL * SPLIT_STEP * 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_begins_with_half),		cmocka_unit_test(young_pages_take),
		cmocka_unit_test(pages_that_go_next_give),	cmocka_unit_test(others_count_for_nothing),
		cmocka_unit_test(worth_goes_by_the_ratio),	cmocka_unit_test(it_keeps_within_bounds),
		cmocka_unit_test(it_stays_while_there_is_room), cmocka_unit_test(counters_may_wrap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
