/*
 * Packing: objects keep their bytes while they are put, dropped and moved, and the memory they take stays close to their size.
 */
#include "pack.h"

#include "sys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { OBJECTS_MAX = 200000 };

static const struct pack_layout large = { .slab_bytes = 64 << 10, .object_bytes = 3584 };
static const struct pack_layout small = { .slab_bytes = 16 << 10, .object_bytes = 600 };

struct object {
	uint32_t handle, length, seed;
};

struct heap {
	struct pack *pack;
	struct object *objects;
	size_t n;
	uint64_t random;
};

static uint64_t next_random(struct heap *h)
{
	h->random ^= h->random << 13;
	h->random ^= h->random >> 7;
	h->random ^= h->random << 17;
	return h->random;
}

static struct heap heap_new(struct pack_layout layout)
{
	struct heap h = { .random = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u | 1 };

	print_message("seed %lu\n", h.random);
	h.pack = sys_map(sizeof(*h.pack));
	h.objects = calloc(OBJECTS_MAX, sizeof(*h.objects));
	assert_int_equal(pack_open(h.pack, OBJECTS_MAX, layout), 0);
	return h;
}

static void heap_free(struct heap *h)
{
	pack_close(h->pack);
	free(h->objects);
	sys_munmap(h->pack, sizeof(*h->pack));
}

static void fill(uint8_t *bytes, uint32_t length, uint32_t seed)
{
	for (uint32_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(seed + i * 7);
}

static void put(struct heap *h, uint32_t length)
{
	uint8_t bytes[PACK_OBJECT_MAX_BYTES];
	struct object *o = &h->objects[h->n];

	o->length = length;
	o->seed = (uint32_t)next_random(h);
	fill(bytes, length, o->seed);
	assert_int_equal(pack_put(h->pack, bytes, length, &o->handle), 0);
	h->n++;
}

static void verify(struct heap *h, const struct object *o)
{
	uint8_t bytes[PACK_OBJECT_MAX_BYTES];
	uint32_t length;
	const void *stored = pack_pin(h->pack, o->handle, &length);

	fill(bytes, o->length, o->seed);
	assert_int_equal(length, o->length);
	assert_memory_equal(stored, bytes, length);
	pack_unpin(h->pack, o->handle);
}

static void verify_all(struct heap *h)
{
	for (size_t i = 0; i < h->n; i++)
		verify(h, &h->objects[i]);
}

static void drop_random(struct heap *h)
{
	size_t i = next_random(h) % h->n;

	verify(h, &h->objects[i]);
	pack_drop(h->pack, h->objects[i].handle);
	h->objects[i] = h->objects[--h->n];
}

/* Roughly normal around `mean`, cut to what the pack takes. */
static uint32_t length_around(struct heap *h, uint32_t mean, uint32_t spread)
{
	int64_t sum = 0;

	for (int i = 0; i < 4; i++)
		sum += (int64_t)(next_random(h) % (2 * spread + 1)) - spread;
	sum = mean + sum / 2;
	if (sum < 1)
		return 1;
	return sum > h->pack->layout.object_bytes ? h->pack->layout.object_bytes : (uint32_t)sum;
}

static double density(const struct heap *h)
{
	return (double)h->pack->stored_bytes / (double)pack_occupied_bytes(h->pack);
}

/* As the reclaim thread does it: some compaction after every batch. */
static void churn(struct heap *h, size_t operations, uint32_t mean, uint32_t spread)
{
	for (size_t i = 0; i < operations; i++) {
		drop_random(h);
		put(h, length_around(h, mean, spread));
		if (i % 64 == 63)
			pack_compact(h->pack, 256 << 10);
	}
}

static void report(const struct heap *h, const char *when)
{
	print_message("%-34s %7zu objects, %6.2f MB stored, density %.1f %%, tables %.2f %%\n", when, h->n,
		      (double)h->pack->stored_bytes / 1e6, 100 * density(h),
		      100.0 * (double)pack_metadata_bytes(h->pack) / (double)h->pack->stored_bytes);
}

static void objects_keep_their_bytes(void **state)
{
	struct heap h = heap_new(large);

	(void)state;
	for (uint32_t length = 1; length <= large.object_bytes; length += 7)
		put(&h, length);
	put(&h, large.object_bytes);
	verify_all(&h);
	while (h.n)
		drop_random(&h);
	assert_int_equal(h.pack->objects, 0);
	assert_int_equal(h.pack->stored_bytes, 0);
	heap_free(&h);
}

static void empty_slabs_are_given_back(void **state)
{
	struct heap h = heap_new(large);

	(void)state;
	for (size_t i = 0; i < 20000; i++)
		put(&h, length_around(&h, 1800, 400));
	assert_true(pack_occupied_bytes(h.pack) > 20 << 20);
	while (h.n)
		drop_random(&h);
	assert_true(pack_occupied_bytes(h.pack) <= PACK_CACHE_SLABS * (uint64_t)large.slab_bytes);
	heap_free(&h);
}

static void a_full_pack_says_so(void **state)
{
	struct pack *p = sys_map(sizeof(*p));
	uint32_t handle[4];

	(void)state;
	assert_int_equal(pack_open(p, 3, large), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pack_put(p, "abc", 3, &handle[i]), 0);
	assert_int_equal(pack_put(p, "abc", 3, &handle[3]), -ENOSPC);
	pack_drop(p, handle[1]);
	assert_int_equal(pack_put(p, "abc", 3, &handle[3]), 0);
	pack_close(p);
	sys_munmap(p, sizeof(*p));
}

static void density_holds(struct pack_layout layout, size_t objects, uint32_t mean)
{
	struct heap h = heap_new(layout);

	for (size_t i = 0; i < objects; i++)
		put(&h, length_around(&h, mean, mean / 4));
	report(&h, "filled");
	assert_true(density(&h) >= 0.9);
	assert_true(pack_metadata_bytes(h.pack) < 9 * objects + (64 << 10)); /* a location each, and the slabs */
	churn(&h, 3 * objects, mean, mean / 4);
	report(&h, "after random churn");
	assert_true(density(&h) >= 0.9);
	churn(&h, 3 * objects, mean / 2, mean / 6);
	report(&h, "after churn to half the size");
	assert_true(density(&h) >= 0.9);
	churn(&h, objects, mean * 3 / 2, mean / 3);
	report(&h, "halfway to larger sizes");
	assert_true(density(&h) >= 0.9);
	for (size_t keep = h.n / 3; h.n > keep;)
		drop_random(&h);
	while (pack_compact(h.pack, 1 << 20))
		;
	report(&h, "two thirds dropped, compacted");
	assert_true(density(&h) >= 0.9);
	verify_all(&h);
	heap_free(&h);
}

static void large_objects_are_packed_at_90_percent(void **state)
{
	(void)state;
	density_holds(large, 40000, 1800);
}

static void small_objects_are_packed_at_90_percent(void **state)
{
	(void)state;
	density_holds(small, 150000, 300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(objects_keep_their_bytes),
		cmocka_unit_test(empty_slabs_are_given_back),
		cmocka_unit_test(a_full_pack_says_so),
		cmocka_unit_test(large_objects_are_packed_at_90_percent),
		cmocka_unit_test(small_objects_are_packed_at_90_percent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
