/*
 * The store asks the tiers in order, and whatever they answer, nothing is lost: a page is in exactly one place, or
 * stays with its owner. The tiers here are the real one, with failures on demand.
 */
#include "codec.h"
#include "store.h"

#include "sys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WORDS = LARDER_PAGE_BYTES / 8, MAX_OBJECTS = 10000 };

/* Two tiers like lz4, each with its own switches. */
struct faults {
	int open_error;
	int put_error, get_error;     /* from call number `after` on, for `times` calls */
	unsigned after, times, calls; /* puts and gets count alike */
	int opened;
};

static struct faults faults[2];

static int injected(struct faults *f, int err)
{
	unsigned call = f->calls++;

	return err && call >= f->after && call - f->after < f->times ? err : 0;
}

static int open_with(struct faults *f, void *backend, const struct larder_backend_setup *setup)
{
	int err = f->open_error ? f->open_error : larder_backend_lz4.open(backend, setup);

	f->opened += !err;
	return err;
}

static int put_with(struct faults *f, void *backend, const struct larder_object *object, uint64_t *handle)
{
	int err = injected(f, f->put_error);

	*handle = 0xdeadbeef; /* as a backend that fails half-way may leave it */
	return err ? err : larder_backend_lz4.put(backend, object, handle);
}

static int get_with(struct faults *f, void *backend, void *scratch, uint64_t handle, void *page)
{
	int err = injected(f, f->get_error);

	return err ? err : larder_backend_lz4.get(backend, scratch, handle, page);
}

#define TIER_FUNCTIONS(n)                                                                                              \
	static int open_##n(void *b, const struct larder_backend_setup *max)                                           \
	{                                                                                                              \
		return open_with(&faults[n], b, max);                                                                  \
	}                                                                                                              \
	static void close_##n(void *b)                                                                                 \
	{                                                                                                              \
		faults[n].opened--;                                                                                    \
		larder_backend_lz4.close(b);                                                                           \
	}                                                                                                              \
	static int put_##n(void *b, const struct larder_object *o, uint64_t *h)                                        \
	{                                                                                                              \
		return put_with(&faults[n], b, o, h);                                                                  \
	}                                                                                                              \
	static int get_##n(void *b, void *s, uint64_t h, void *page)                                                   \
	{                                                                                                              \
		return get_with(&faults[n], b, s, h, page);                                                            \
	}
TIER_FUNCTIONS(0)
TIER_FUNCTIONS(1)

static struct larder_backend_ops ops[2];
static const struct larder_backend_ops *const tiers[] = { &ops[0], &ops[1] };
static struct larder_store store;
static void *scratch;

static int start(void **state)
{
	(void)state;
	memset(faults, 0, sizeof(faults));
	memset(&store, 0, sizeof(store));
	ops[0] = ops[1] = larder_backend_lz4;
	ops[0].name = "first";
	ops[0].open = open_0, ops[0].close = close_0, ops[0].put = put_0, ops[0].get = get_0;
	ops[1].name = "a name longer than there is room for";
	ops[1].open = open_1, ops[1].close = close_1, ops[1].put = put_1, ops[1].get = get_1;
	if (store_open(&store, tiers, 2, &(struct larder_backend_setup){ .max_objects = MAX_OBJECTS }))
		return -1;
	scratch = store_scratch(&store);
	return scratch ? 0 : -1;
}

static int stop(void **state)
{
	(void)state;
	store_close(&store);
	assert_int_equal(faults[0].opened, 0);
	assert_int_equal(faults[1].opened, 0);
	return 0;
}

/* Compressible, and different for each seed. */
static void make_page(uint64_t *page, uint64_t seed)
{
	for (uint64_t i = 0; i < WORDS; i++)
		page[i] = i % 4 ? 0x2022656d616e2200u + i % 16 : (seed * WORDS + i) * 0x9e3779b97f4a7c15u;
}

static void make_noise(uint64_t *page)
{
	uint64_t x = 1;

	for (unsigned i = 0; i < WORDS; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		page[i] = x ^ x >> 29;
	}
}

static int try_put(struct larder_store *to, const void *page, struct store_place *place)
{
	static LZ4_stream_t lz4;
	char bytes[CODEC_MOST_BYTES];
	struct larder_object object = codec_object(&lz4, CODEC_FOR_RAM, page, bytes);

	return store_put(to, STORE_ALL_TIERS, &object, place);
}

static struct store_place put(const void *page)
{
	struct store_place place;

	assert_int_equal(try_put(&store, page, &place), 0);
	return place;
}

static void expect(struct store_place place, const uint64_t *page)
{
	uint64_t fetched[WORDS];

	memset(fetched, 0xa5, sizeof(fetched));
	assert_int_equal(store_get(&store, scratch, place, fetched), 0);
	assert_memory_equal(fetched, page, sizeof(fetched));
}

static struct larder_tier_stats tier(unsigned i)
{
	struct larder_tier_stats s[LARDER_TIERS_MAX];
	uint64_t same_pages;

	memset(s, 0xa5, sizeof(s));
	store_stats(&store, s, &same_pages);
	return s[i];
}

static uint64_t same_pages_now(void)
{
	struct larder_tier_stats s[LARDER_TIERS_MAX] = { 0 };
	uint64_t same_pages;

	store_stats(&store, s, &same_pages);
	return same_pages;
}

/* Tests */

static void same_filled_pages_take_no_space(void **state)
{
	static const uint64_t words[] = { 0, UINT64_MAX, 0x0101010101010101u, 0x123456789abcdef0u };
	uint64_t page[WORDS];
	struct store_place places[4];

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned j = 0; j < WORDS; j++)
			page[j] = words[i];
		places[i] = put(page);
		assert_int_equal(places[i].tier, STORE_TIER_SAME);
		expect(places[i], page);
	}
	assert_int_equal(same_pages_now(), 4);
	assert_int_equal(tier(0).objects, 0);
	for (unsigned i = 0; i < 4; i++)
		store_drop(&store, &places[i], 1);
	assert_int_equal(same_pages_now(), 0);
}

static void one_different_word_anywhere_is_not_same_filled(void **state)
{
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < WORDS; i++) {
		struct store_place place;

		memset(page, 0x5a, sizeof(page));
		page[i] ^= (uint64_t)1 << i % 64;
		place = put(page);
		assert_int_equal(place.tier, STORE_TIER_FIRST);
		expect(place, page);
		store_drop(&store, &place, 1);
	}
	assert_int_equal(same_pages_now(), 0);
}

static void a_page_falls_through_to_the_next_tier(void **state)
{
	static const int errors[] = { -E2BIG, -ENOSPC, -EIO };
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct store_place place;

		faults[0] = (struct faults){ .put_error = errors[i], .times = 1, .opened = 1 };
		make_page(page, i);
		place = put(page);
		assert_int_equal(place.tier, STORE_TIER_FIRST + 1);
		expect(place, page);
		store_drop(&store, &place, 1);
	}
	assert_int_equal(tier(0).puts, 0);
	assert_int_equal(tier(0).rejected, 1);
	assert_int_equal(tier(0).errors, 2);
	assert_int_equal(tier(1).puts, 3);
	assert_int_equal(tier(1).gets, 3);
	assert_int_equal(tier(1).drops, 3);
	assert_int_equal(tier(1).objects, 0);
}

/* Of whatever tiers, same-filled ones too, in any order. */
static void pages_are_dropped_together(void **state)
{
	enum { N = 200 };
	struct store_place places[N];
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		if (i % 7 < 3)
			make_page(page, i);
		else
			memset(page, (int)i, sizeof(page));
		faults[0] = (struct faults){ .put_error = i % 7 == 1 ? -E2BIG : 0, .times = 1, .opened = 1 };
		places[i] = put(page);
	}
	assert_int_equal(tier(0).objects + tier(1).objects + same_pages_now(), N);
	assert_true(tier(0).objects > N / 5 && tier(1).objects > N / 8 && same_pages_now() > N / 3);
	make_page(page, 0);
	expect(places[0], page);
	store_drop(&store, places + 1, N - 1);
	assert_int_equal(tier(0).objects, 1);
	assert_int_equal(tier(0).drops, tier(0).puts - 1);
	assert_int_equal(tier(1).objects, 0);
	assert_int_equal(tier(1).drops, tier(1).puts);
	assert_int_equal(same_pages_now(), 0);
	expect(places[0], page);
	store_drop(&store, places, 1);
}

static void dropping_later_is_dropping_before_they_are_too_many(void **state)
{
	struct store_drops drops = { 0 };
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		make_page(page, i);
		store_drop_later(&store, &drops, put(page));
		assert_true(tier(0).objects < LARDER_DROPS_MAX);
		assert_int_equal(tier(0).objects, drops.n);
	}
	assert_true(drops.n > 0);
	store_drop_all(&store, &drops);
	store_drop_all(&store, &drops);
	assert_int_equal(tier(0).objects, 0);
	assert_int_equal(tier(0).drops, 100);
}

static void e2big_only_when_no_tier_gains(void **state)
{
	uint64_t noise[WORDS];
	struct store_place place;

	(void)state;
	make_noise(noise);
	assert_int_equal(try_put(&store, noise, &place), -E2BIG);
	faults[0] = (struct faults){ .put_error = -EIO, .times = 1, .opened = 1 };
	assert_int_equal(try_put(&store, noise, &place), -EIO); /* the first may take it another time */
	faults[1] = (struct faults){ .put_error = -ENOSPC, .times = 1, .opened = 1 };
	assert_int_equal(try_put(&store, noise, &place), -ENOSPC);
	assert_int_equal(tier(0).objects + tier(1).objects, 0);
	assert_int_equal(tier(0).rejected, 2);
	assert_int_equal(tier(1).rejected, 2);
}

/* Whichever call fails, the page is stored or the owner keeps it, and what was stored before is untouched. */
static void the_nth_failing_put_loses_nothing(void **state)
{
	enum { PUTS = 20 };

	(void)state;
	for (unsigned n = 0; n < PUTS; n++) {
		struct store_place places[PUTS];
		uint64_t page[WORDS];
		unsigned refused = 0;

		for (unsigned t = 0; t < 2; t++) /* every put asks tier 0; tier 1 is asked once, and refuses */
			faults[t] = (struct faults){ .put_error = -EIO, .after = t ? 0 : n, .times = 1, .opened = 1 };
		for (unsigned i = 0; i < PUTS; i++) {
			int err;

			make_page(page, i);
			err = try_put(&store, page, &places[i]);
			assert_int_equal(err, i == n ? -EIO : 0);
			refused += err != 0;
		}
		assert_int_equal(refused, 1);
		assert_int_equal(tier(0).objects, PUTS - 1);
		assert_int_equal(tier(1).objects, 0);
		for (unsigned i = 0; i < PUTS; i++) {
			if (i == n)
				continue;
			make_page(page, i);
			expect(places[i], page);
			store_drop(&store, &places[i], 1);
		}
	}
	assert_int_equal(tier(0).objects, 0);
}

static void a_failing_get_is_reported_and_the_page_stays_stored(void **state)
{
	uint64_t page[WORDS], fetched[WORDS];
	struct store_place place;

	(void)state;
	make_page(page, 7);
	place = put(page);
	faults[0] = (struct faults){ .get_error = -EIO, .times = 1, .opened = 1 };
	assert_int_equal(store_get(&store, scratch, place, fetched), -EIO);
	expect(place, page);
	assert_int_equal(tier(0).errors, 1);
	assert_int_equal(tier(0).gets, 1);
	store_drop(&store, &place, 1);
}

static void a_tier_that_cannot_open_closes_those_before_it(void **state)
{
	struct larder_store other = { 0 };

	(void)state;
	faults[1].open_error = -ENODEV;
	assert_int_equal(store_open(&other, tiers, 2, &(struct larder_backend_setup){ .max_objects = MAX_OBJECTS }),
			 -ENODEV);
	assert_int_equal(faults[0].opened, 1); /* `store` itself is open */
	assert_int_equal(faults[1].opened, 1);
	store_close(&other);
}

static void a_store_without_tiers_keeps_same_filled_pages(void **state)
{
	struct larder_store none = { 0 };
	uint64_t page[WORDS] = { 0 };
	struct store_place place;
	void *s;

	(void)state;
	assert_int_equal(store_open(&none, NULL, 0, &(struct larder_backend_setup){ .max_objects = MAX_OBJECTS }), 0);
	s = store_scratch(&none);
	assert_non_null(s);
	assert_int_equal(try_put(&none, page, &place), 0);
	make_page(page, 1);
	assert_int_equal(try_put(&none, page, &place), -E2BIG);
	assert_int_equal(store_compact(&none, NULL, 1 << 20), 0);
	assert_int_equal(store_cost_bytes(&none), 0);
	store_close(&none);
	store_close(&none);
}

static void too_many_tiers_are_refused(void **state)
{
	const struct larder_backend_ops *many[LARDER_TIERS_MAX + 1];
	struct larder_store other = { 0 };

	(void)state;
	for (unsigned i = 0; i <= LARDER_TIERS_MAX; i++)
		many[i] = &larder_backend_lz4;
	assert_int_equal(
		store_open(&other, many, LARDER_TIERS_MAX + 1, &(struct larder_backend_setup){ .max_objects = 100 }),
		-EINVAL);
	assert_int_equal(
		store_open(&other, many, LARDER_TIERS_MAX, &(struct larder_backend_setup){ .max_objects = 100 }), 0);
	store_close(&other);
}

static void stats_name_the_tiers_and_cost_is_their_sum(void **state)
{
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		make_page(page, i);
		put(page);
	}
	assert_string_equal(tier(0).name, "first");
	assert_string_equal(tier(1).name, "a name longer t");
	assert_int_equal(tier(0).objects, 1000);
	assert_int_equal(tier(0).puts, 1000);
	assert_true(tier(0).stored_bytes > 0 && tier(0).stored_bytes <= tier(0).occupied_bytes);
	assert_int_equal(store_cost_bytes(&store), tier(0).occupied_bytes + tier(0).metadata_bytes +
							   tier(1).occupied_bytes + tier(1).metadata_bytes);
}

static int names_all(void *arg, unsigned tier, uint64_t handle)
{
	(void)arg, (void)tier, (void)handle;
	return 1;
}

static int names_one(void *arg, unsigned tier, uint64_t handle)
{
	return tier == STORE_TIER_FIRST && handle == *(const uint64_t *)arg;
}

/* While the process forks: the child's table may still name what a page of the parent has just left. */
static void what_is_dropped_while_frozen_stays_until_the_thaw(void **state)
{
	enum { N = 1000 }; /* more than are noted on one page */
	struct store_place places[N];
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		make_page(page, i);
		places[i] = put(page);
	}
	store_freeze(&store);
	for (unsigned i = 0, n; i < N; i += n) {
		n = 1 + i % 40 < N - i ? 1 + i % 40 : N - i;
		store_drop(&store, &places[i], n);
	}
	for (unsigned i = 0; i < N; i++) {
		make_page(page, i);
		expect(places[i], page);
	}
	store_thaw(&store);
	assert_int_equal(tier(0).objects, 0);
	assert_int_equal(tier(0).drops, N);
}

static void a_child_keeps_what_its_pages_name(void **state)
{
	struct store_place places[3];
	uint64_t page[WORDS];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		make_page(page, i);
		places[i] = put(page);
	}
	store_freeze(&store);
	store_drop(&store, &places[0], 1);
	store_inherit(&store, names_all, NULL, 7);
	assert_int_equal(tier(0).objects, 3);
	assert_int_equal(same_pages_now(), 7);
	store_inherit(&store, names_one, &places[1].handle, 0);
	assert_int_equal(tier(0).objects, 1);
	make_page(page, 1);
	expect(places[1], page);
	places[0] = put(page); /* and it can be put to and dropped from again */
	store_drop(&store, &places[0], 1);
	store_drop(&store, &places[1], 1);
	assert_int_equal(tier(0).objects, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(same_filled_pages_take_no_space, start, stop),
		cmocka_unit_test_setup_teardown(one_different_word_anywhere_is_not_same_filled, start, stop),
		cmocka_unit_test_setup_teardown(a_page_falls_through_to_the_next_tier, start, stop),
		cmocka_unit_test_setup_teardown(pages_are_dropped_together, start, stop),
		cmocka_unit_test_setup_teardown(dropping_later_is_dropping_before_they_are_too_many, start, stop),
		cmocka_unit_test_setup_teardown(e2big_only_when_no_tier_gains, start, stop),
		cmocka_unit_test_setup_teardown(the_nth_failing_put_loses_nothing, start, stop),
		cmocka_unit_test_setup_teardown(a_failing_get_is_reported_and_the_page_stays_stored, start, stop),
		cmocka_unit_test_setup_teardown(a_tier_that_cannot_open_closes_those_before_it, start, stop),
		cmocka_unit_test_setup_teardown(a_store_without_tiers_keeps_same_filled_pages, start, stop),
		cmocka_unit_test_setup_teardown(too_many_tiers_are_refused, start, stop),
		cmocka_unit_test_setup_teardown(what_is_dropped_while_frozen_stays_until_the_thaw, start, stop),
		cmocka_unit_test_setup_teardown(a_child_keeps_what_its_pages_name, start, stop),
		cmocka_unit_test_setup_teardown(stats_name_the_tiers_and_cost_is_their_sum, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
