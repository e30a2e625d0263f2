/*
 * Free addresses against a model: one byte a page.
 */
#include "addresses.h"
#include "mix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

enum { PAGES = 512, STEPS = 200000, LARGEST = 40 };

static struct larder_addresses addresses;
static unsigned char is_free[PAGES];
static uint64_t state = 1;

static size_t draw(size_t below)
{
	return mix(state++) % below;
}

static void set(size_t first, size_t end, unsigned char to)
{
	for (size_t i = first; i < end; i++)
		is_free[i] = to;
}

static int all_are(size_t first, size_t end, unsigned char what)
{
	for (size_t i = first; i < end; i++)
		if (is_free[i] != what)
			return 0;
	return 1;
}

static size_t lowest_fit(size_t pages, size_t alignment)
{
	for (size_t first = 0; first + pages <= PAGES; first += alignment)
		if (all_are(first, first + pages, 1))
			return first;
	return SIZE_MAX;
}

/* Extents are sorted, not empty, not adjacent, and say what the model says. */
static void check(void)
{
	size_t at = 0;

	for (size_t i = 0; i < addresses.count; i++) {
		const struct larder_extent *e = &addresses.free[i];

		assert_true(e->first < e->end && (i == 0 || e->first > addresses.free[i - 1].end));
		assert_true(all_are(at, e->first, 0) && all_are(e->first, e->end, 1));
		at = e->end;
	}
	assert_true(all_are(at, PAGES, 0));
}

static void take(void)
{
	size_t pages = 1 + draw(LARGEST), alignment = (size_t)1 << draw(5);
	size_t want = lowest_fit(pages, alignment), got = addresses_take(&addresses, pages, alignment);

	assert_int_equal(got, want);
	if (got != SIZE_MAX)
		set(got, got + pages, 0);
}

static void take_range(size_t first, size_t end)
{
	addresses_take_range(&addresses, first, end);
	set(first, end, 0);
}

static void give(size_t first, size_t end)
{
	if (!all_are(first, end, 0))
		return;
	addresses_add(&addresses, first, end);
	set(first, end, 1);
}

static void ask(size_t first, size_t end)
{
	size_t want = first, length = 0, at, n = addresses_next_taken(&addresses, first, end, &at);

	while (want < end && is_free[want])
		want++;
	while (want + length < end && !is_free[want + length])
		length++;
	assert_int_equal(n, length);
	if (n)
		assert_int_equal(at, want);
	assert_int_equal(addresses_are_free(&addresses, first, end), all_are(first, end, 1));
}

static void what_is_free_is_what_the_model_says(void **unused)
{
	(void)unused;
	assert_int_equal(addresses_open(&addresses), 0);
	give(0, PAGES);
	for (int step = 0; step < STEPS; step++) {
		size_t first = draw(PAGES), end = first + 1 + draw(PAGES - first < LARGEST ? PAGES - first : LARGEST);

		switch (draw(4)) {
		case 0:
			take();
			break;
		case 1:
			take_range(first, end);
			break;
		case 2:
			give(first, end);
			break;
		default:
			ask(first, end);
			break;
		}
		check();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(what_is_free_is_what_the_model_says) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
