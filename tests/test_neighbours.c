/*
 * Whether neighbours pay is judged by how pages are read. Needs nothing.
 */
#include "neighbours.h"
#include "mix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { PAGES = 1 << 20, READS = 100000, WARM_UP = 20000 };

static struct larder_neighbours n;

static int start(void **state)
{
	(void)state;
	n = (struct larder_neighbours){ 0 };
	return 0;
}

/* How many of 100 reads bring neighbours, in the end. */
static int percent(size_t (*page)(size_t read))
{
	int brought = 0;

	for (size_t i = 0; i < READS; i++) {
		int pays = neighbours_pay(&n, page(i));

		brought += i >= WARM_UP && pays;
	}
	return brought / ((READS - WARM_UP) / 100);
}

static size_t anywhere(size_t read)
{
	return mix(read) % PAGES;
}

/* Places at random, and three pages at each. */
static size_t close_together(size_t read)
{
	return mix(read / 3) % PAGES / 8 * 8 + read % 3;
}

static size_t the_same_again(size_t read)
{
	return mix(read / 3) % PAGES;
}

static size_t a_little_memory(size_t read)
{
	return mix(read) % 4096;
}

static void they_come_along_at_first(void **state)
{
	int brought = 0;

	(void)state;
	for (size_t i = 0; i < 64; i++)
		brought += neighbours_pay(&n, mix(i) % PAGES);
	assert_in_range(brought, 40, 63); /* but for the sample */
}

static void pages_anywhere_bring_none(void **state)
{
	(void)state;
	assert_int_equal(percent(anywhere), 0);
}

static void pages_close_together_bring_each_other(void **state)
{
	(void)state;
	assert_in_range(percent(close_together), 80, 90);
}

static void a_page_is_not_its_own_neighbour(void **state)
{
	(void)state;
	assert_int_equal(percent(the_same_again), 0);
}

static void where_all_is_read_soon_they_pay(void **state)
{
	(void)state;
	assert_in_range(percent(a_little_memory), 80, 90);
}

static void it_learns_anew(void **state)
{
	(void)state;
	assert_int_equal(percent(anywhere), 0);
	assert_in_range(percent(close_together), 80, 90);
	assert_int_equal(percent(anywhere), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(they_come_along_at_first, start),
		cmocka_unit_test_setup(pages_anywhere_bring_none, start),
		cmocka_unit_test_setup(pages_close_together_bring_each_other, start),
		cmocka_unit_test_setup(a_page_is_not_its_own_neighbour, start),
		cmocka_unit_test_setup(where_all_is_read_soon_they_pay, start),
		cmocka_unit_test_setup(it_learns_anew, start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
