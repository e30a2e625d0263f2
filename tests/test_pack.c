/*
 * The packing allocator keeps what it is given, and keeps it dense. Single-threaded; tests/test_store_threads.c runs it
 * from many threads. LARDER_SEED=n replays a run.
 */
#include "pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

enum { MIB = 1 << 20, SMALLEST_STORE_BYTES = 16 * MIB, COMPACT_BYTES = 256 << 10, PUTS_A_COMPACT = 64 };

/*
 * The promise: bytes stored of bytes occupied, in percent; and what an object costs beyond its bytes and the rounding
 * of its slot: its entry in the handle table, its share of the slab table, its header. (An empty pack takes 27 KiB.)
 */
#define DENSITY_PERCENT	      95.0
#define DENSITY_PERCENT_SMALL 91.0
enum { METADATA_BYTES = 16 };

/* Random numbers, reproducible */

static uint64_t seed, random_state;

static uint64_t random_word(void)
{
	uint64_t x = random_state += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static size_t random_below(size_t n)
{
	return random_word() % n;
}

static double random_normal(void)
{
	double sum = -6; /* of 12 uniform numbers: variance 1 */

	for (int i = 0; i < 12; i++)
		sum += (double)(random_word() >> 11) / (double)(1ull << 53);
	return sum;
}

/* Sizes that compressed pages have */

typedef size_t (*size_mix)(void);

static size_t clamp(double bytes)
{
	return bytes < 30 ? 30 : bytes > PACK_MAX_BYTES ? PACK_MAX_BYTES : (size_t)bytes;
}

static size_t sizes_middling(void)
{
	return clamp(1800 + 400 * random_normal());
}

static size_t sizes_small(void)
{
	return clamp(900 + 300 * random_normal());
}

static size_t sizes_bimodal(void)
{
	return clamp(random_word() & 1 ? 350 + 150 * random_normal() : 2900 + 350 * random_normal());
}

static size_t sizes_any(void)
{
	return 30 + random_below(PACK_MAX_BYTES - 30 + 1);
}

/* A pack and what we know to be in it */

struct item {
	uint64_t handle;
	uint32_t tag; /* seed of the content */
	uint32_t bytes;
};

struct shelf {
	struct larder_pack *pack;
	struct item *items;
	size_t n, max;
	uint64_t bytes;
	uint64_t put_bytes, moved_bytes; /* when the density was last looked at */
	uint64_t all_put_bytes;
};

static void content(char *to, uint32_t tag, size_t bytes)
{
	uint64_t x = tag * 0x9e3779b97f4a7c15u;

	for (size_t i = 0; i < bytes; i++)
		to[i] = (char)(x >> (i % 8 * 8)) + (char)(i / 8);
}

static void shelf_open(struct shelf *s, size_t max)
{
	*s = (struct shelf){ .max = max };
	s->pack = slabs_map(sizeof(*s->pack));
	s->items = malloc(max * sizeof(*s->items));
	assert_non_null(s->pack);
	assert_non_null(s->items);
	assert_int_equal(pack_open(s->pack, max), 0);
}

static void shelf_close(struct shelf *s)
{
	pack_close(s->pack);
	munmap(s->pack, sizeof(*s->pack));
	free(s->items);
}

static void shelf_put(struct shelf *s, size_t bytes)
{
	struct item *item = &s->items[s->n];
	char object[PACK_MAX_BYTES];

	assert_true(s->n < s->max);
	item->tag = (uint32_t)random_word();
	item->bytes = (uint32_t)bytes;
	content(object, item->tag, bytes);
	assert_int_equal(pack_put(s->pack, object, bytes, 0, &item->handle), 0);
	s->n++;
	s->bytes += bytes;
	s->all_put_bytes += bytes;
}

static void item_verify(struct larder_pack *p, const struct item *item)
{
	char expected[PACK_MAX_BYTES];
	size_t bytes = 0;
	const void *object = pack_pin(p, item->handle, &bytes);

	assert_non_null(object);
	content(expected, item->tag, item->bytes);
	assert_int_equal(bytes, item->bytes);
	assert_memory_equal(object, expected, bytes);
	pack_unpin(p, item->handle);
}

static void shelf_drop(struct shelf *s, size_t i)
{
	unsigned tag;

	item_verify(s->pack, &s->items[i]);
	pack_drop(s->pack, &s->items[i].handle, 1, &tag);
	s->bytes -= s->items[i].bytes;
	s->items[i] = s->items[--s->n];
}

static void shelf_fill(struct shelf *s, size_mix mix, uint64_t bytes)
{
	while (s->bytes < bytes) {
		shelf_put(s, mix());
		if (s->n % PUTS_A_COMPACT == 0)
			pack_compact(s->pack, COMPACT_BYTES);
	}
}

/* Replace random objects, as reclaim and faults do, until `turns` times the store has been replaced. */
static void shelf_churn(struct shelf *s, size_mix mix, uint64_t bytes, double turns)
{
	for (uint64_t put = 0; put < (uint64_t)(turns * (double)bytes);) {
		for (int i = 0; i < PUTS_A_COMPACT; i++) {
			while (s->bytes > bytes)
				shelf_drop(s, random_below(s->n));
			shelf_put(s, mix());
			put += s->items[s->n - 1].bytes;
		}
		pack_compact(s->pack, COMPACT_BYTES);
	}
}

static void shelf_drop_share(struct shelf *s, double share)
{
	size_t keep = (size_t)((double)s->n * (1 - share));

	while (s->n > keep)
		shelf_drop(s, random_below(s->n));
}

static void shelf_compact_all(struct shelf *s)
{
	for (uint64_t before = 0, now = pack_usage(s->pack).occupied_bytes; now != before;) {
		before = now;
		for (int i = 0; i < 16; i++)
			pack_compact(s->pack, COMPACT_BYTES);
		now = pack_usage(s->pack).occupied_bytes;
	}
}

/* The sums that slab.c keeps, taken anew. */
static void slabs_verify(const struct larder_slabs *s)
{
	uint64_t cached = 0, in_use = 0, holes = 0;

	for (unsigned pages = 0; pages <= SLAB_MAX_PAGES; pages++)
		for (uint32_t slab = s->free[pages]; slab != SLAB_NONE; slab = s->table[slab].next)
			cached += pages * SLAB_PAGE_BYTES;
	for (const struct slab_class *c = s->classes; c < s->classes + s->classes_used; c++) {
		in_use += c->slabs * c->pages * SLAB_PAGE_BYTES;
		holes += (c->slabs * c->slots - c->used) * c->slot_bytes;
		for (uint8_t bin = 0; bin < SLAB_BINS; bin++)
			for (uint32_t slab = c->partial[bin]; slab != SLAB_NONE; slab = s->table[slab].next) {
				const struct larder_slab *b = &s->table[slab];

				assert_int_equal(b->used, __builtin_popcountll(b->taken));
				assert_int_equal(b->bin, bin);
				assert_int_equal(b->used * SLAB_BINS / c->slots, bin);
			}
	}
	assert_int_equal(s->cached_bytes, cached);
	assert_int_equal(s->hole_bytes, holes);
	assert_int_equal(s->occupied_bytes, in_use + cached);
}

static void shelf_verify(struct shelf *s)
{
	struct pack_usage u = pack_usage(s->pack);

	slabs_verify(&s->pack->slabs);
	assert_int_equal(u.objects, s->n);
	assert_int_equal(u.stored_bytes, s->bytes);
	for (size_t i = 0; i < s->n; i++)
		item_verify(s->pack, &s->items[i]);
}

static uint64_t resident_bytes(const struct larder_pack *p)
{
	size_t used = atomic_load(&p->slabs.slabs_used), pages = used * SLAB_MAX_PAGES, n = 0;
	unsigned char *present = malloc(pages);

	assert_non_null(present);
	assert_int_equal(mincore(p->slabs.base, pages * SLAB_PAGE_BYTES, present), 0);
	for (size_t i = 0; i < pages; i++)
		n += present[i] & 1;
	free(present);
	return n * SLAB_PAGE_BYTES;
}

/* Also: what is said to be occupied is what is resident. Pages of a slab that has just begun may not be touched yet. */
static void shelf_expect_density(struct shelf *s, const char *when, double percent)
{
	struct pack_usage u = pack_usage(s->pack);
	uint64_t resident = resident_bytes(s->pack);
	double density = 100.0 * (double)u.stored_bytes / (double)u.occupied_bytes;

	print_message(
		"  %-34s %6.1f MiB stored, density %.1f %%, free slabs %4.1f %%, holes %4.1f %%, metadata %.2f %%, moved %.3f\n",
		when, (double)u.stored_bytes / MIB, density,
		100.0 * (double)s->pack->slabs.cached_bytes / (double)u.occupied_bytes,
		100.0 * (double)s->pack->slabs.hole_bytes / (double)u.occupied_bytes,
		100.0 * (double)u.metadata_bytes / (double)u.stored_bytes,
		(double)(s->pack->moved_bytes - s->moved_bytes) / (double)(s->all_put_bytes - s->put_bytes));
	s->moved_bytes = s->pack->moved_bytes;
	s->put_bytes = s->all_put_bytes;
	assert_true(resident <= u.occupied_bytes);
	if (density < percent)
		fail_msg("%s: density %.2f %%, not %.0f %%", when, density, percent);
}

static void shelf_expect_metadata(struct shelf *s)
{
	struct pack_usage u = pack_usage(s->pack);
	double bytes = (double)(u.metadata_bytes - sizeof(*s->pack)) / (double)u.objects + PACK_HEADER_BYTES;

	print_message("  metadata is %.1f bytes an object\n", bytes);
	assert_true(bytes <= METADATA_BYTES);
}

/* Tests */

static void every_size_comes_back(void **state)
{
	struct shelf s;

	(void)state;
	shelf_open(&s, PACK_MAX_BYTES);
	for (size_t bytes = 1; bytes <= PACK_MAX_BYTES; bytes++)
		shelf_put(&s, bytes);
	shelf_verify(&s);
	shelf_close(&s);
}

static void a_slot_wastes_little(void **state)
{
	struct larder_slabs *s = slabs_map(sizeof(*s));
	double waste = 0;
	size_t from = 256;

	(void)state;
	assert_non_null(s);
	assert_int_equal(slabs_open(s, 1000), 0);
	for (size_t bytes = from; bytes <= SLAB_SLOT_MAX_BYTES; bytes++) {
		const struct slab_class *c = &s->classes[s->class_of[(bytes + SLAB_SLOT_ALIGN - 1) / SLAB_SLOT_ALIGN]];

		assert_true(c->slot_bytes >= bytes);
		assert_true(c->slots * c->slot_bytes <= c->pages * SLAB_PAGE_BYTES);
		waste += 1 - (double)(bytes * c->slots) / (c->pages * SLAB_PAGE_BYTES);
	}
	waste *= 100.0 / (double)(SLAB_SLOT_MAX_BYTES - from + 1);
	print_message("  %u classes; a full slab wastes %.2f %% on average\n", s->classes_used, waste);
	assert_true(waste < 3.0);
	slabs_close(s);
	munmap(s, sizeof(*s));
}

static void is_dense_at_any_mix_and_churn(uint64_t bytes, double percent)
{
	struct shelf s;

	shelf_open(&s, bytes / 200);
	shelf_fill(&s, sizes_middling, bytes);
	shelf_expect_density(&s, "filled, 1800 +- 400", percent);
	shelf_expect_metadata(&s);
	shelf_churn(&s, sizes_middling, bytes, 3);
	shelf_expect_density(&s, "churned 3x", percent);
	for (double turns = 0; turns < 1; turns += 0.25) {
		shelf_churn(&s, sizes_small, bytes, 0.25);
		shelf_expect_density(&s, "becoming 900 +- 300", percent);
	}
	shelf_churn(&s, sizes_small, bytes, 2);
	shelf_expect_density(&s, "churned 3x, 900 +- 300", percent);
	shelf_expect_metadata(&s);
	for (double turns = 0; turns < 1; turns += 0.25) {
		shelf_churn(&s, sizes_bimodal, bytes, 0.25);
		shelf_expect_density(&s, "becoming 350 +- 150 | 2900 +- 350", percent);
	}
	shelf_churn(&s, sizes_any, bytes, 3);
	shelf_expect_density(&s, "churned 3x, all sizes alike", percent);
	shelf_verify(&s);
	shelf_close(&s);
}

static void a_store_of_16_mib_is_dense(void **state)
{
	(void)state;
	is_dense_at_any_mix_and_churn(SMALLEST_STORE_BYTES, DENSITY_PERCENT_SMALL);
}

static void a_store_of_128_mib_is_dense(void **state)
{
	(void)state;
	is_dense_at_any_mix_and_churn(128 * MIB, DENSITY_PERCENT);
}

static void dropping_most_objects_leaves_it_dense(void **state)
{
	static const double shares[] = { 0.5, 0.7, 0.9 };

	(void)state;
	for (size_t i = 0; i < sizeof(shares) / sizeof(*shares); i++) {
		char when[64];
		struct shelf s;

		shelf_open(&s, 400000);
		shelf_fill(&s, sizes_middling, (uint64_t)(SMALLEST_STORE_BYTES / (1 - shares[i]) * 1.01));
		shelf_drop_share(&s, shares[i]);
		shelf_compact_all(&s);
		snprintf(when, sizeof(when), "dropped %.0f %%", 100 * shares[i]);
		shelf_expect_density(&s, when, DENSITY_PERCENT_SMALL);
		shelf_verify(&s);
		shelf_close(&s);
	}
}

/* Where each object is now. */
static uint64_t *shelf_places(const struct shelf *s)
{
	uint64_t *places = malloc(s->n * sizeof(*places));

	assert_non_null(places);
	for (size_t i = 0; i < s->n; i++)
		places[i] = atomic_load(&s->pack->entries[s->items[i].handle]);
	return places;
}

static size_t shelf_moved(const struct shelf *s, const uint64_t *before)
{
	size_t moved = 0;

	for (size_t i = 0; i < s->n; i++)
		moved += atomic_load(&s->pack->entries[s->items[i].handle]) != before[i];
	return moved;
}

static void compaction_moves_objects_and_keeps_handles(void **state)
{
	struct shelf s;
	uint64_t *before;
	size_t moved;

	(void)state;
	shelf_open(&s, 40000);
	shelf_fill(&s, sizes_middling, SMALLEST_STORE_BYTES);
	shelf_drop_share(&s, 0.6);
	before = shelf_places(&s);
	shelf_compact_all(&s);
	moved = shelf_moved(&s, before);
	print_message("  %zu of %zu objects moved\n", moved, s.n);
	assert_true(moved > s.n / 10);
	shelf_verify(&s);
	free(before);
	shelf_close(&s);
}

static void compaction_of_a_dense_store_moves_nothing(void **state)
{
	struct shelf s;
	uint64_t *before;
	struct timespec t0, t1;

	(void)state;
	shelf_open(&s, 100000);
	shelf_fill(&s, sizes_middling, 64 * MIB);
	shelf_drop_share(&s, 0.002);
	assert_true(s.pack->slabs.hole_bytes < s.pack->slabs.occupied_bytes / 64);
	before = shelf_places(&s);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (int i = 0; i < 1000; i++)
		pack_compact(s.pack, COMPACT_BYTES);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	print_message("  a call takes %.0f ns\n",
		      (double)(t1.tv_sec - t0.tv_sec) * 1e6 + (double)(t1.tv_nsec - t0.tv_nsec) / 1000);
	assert_int_equal(shelf_moved(&s, before), 0);
	free(before);
	shelf_close(&s);
}

static void compaction_moves_no_more_than_its_budget(void **state)
{
	struct shelf s;
	uint64_t before, freed;

	(void)state;
	shelf_open(&s, 40000);
	shelf_fill(&s, sizes_middling, SMALLEST_STORE_BYTES);
	shelf_drop_share(&s, 0.5);
	before = s.pack->slabs.hole_bytes;
	pack_compact(s.pack, 0); /* free slabs go, nothing moves */
	assert_int_equal(s.pack->slabs.hole_bytes, before);
	before = pack_usage(s.pack).occupied_bytes;
	freed = pack_compact(s.pack, 64 << 10);
	assert_int_equal(pack_usage(s.pack).occupied_bytes, before - freed);
	print_message("  64 KiB moved freed %lu KiB\n", freed >> 10);
	assert_true(freed > 0 && freed <= 1 << 20);
	shelf_close(&s);
}

static void an_emptied_store_gives_its_space_back(void **state)
{
	struct shelf s;

	(void)state;
	shelf_open(&s, 40000);
	shelf_fill(&s, sizes_any, SMALLEST_STORE_BYTES);
	shelf_drop_share(&s, 1);
	assert_int_equal(pack_usage(s.pack).stored_bytes, 0);
	assert_true(pack_compact(s.pack, COMPACT_BYTES) > SMALLEST_STORE_BYTES);
	assert_true(pack_usage(s.pack).occupied_bytes <= 64 << 10);
	assert_true(resident_bytes(s.pack) <= 64 << 10);
	assert_int_equal(s.pack->slabs.hole_bytes, 0);
	shelf_fill(&s, sizes_any, SMALLEST_STORE_BYTES);
	shelf_verify(&s);
	shelf_close(&s);
}

static void a_full_store_says_so_and_recovers(void **state)
{
	struct shelf s;
	uint64_t handle;

	(void)state;
	shelf_open(&s, 8);
	for (int i = 0; i < 8; i++)
		shelf_put(&s, 1000);
	assert_int_equal(pack_put(s.pack, "x", 1, 0, &handle), -ENOSPC);
	shelf_verify(&s);
	shelf_drop(&s, 3);
	shelf_put(&s, 2000);
	assert_int_equal(pack_put(s.pack, "x", 1, 0, &handle), -ENOSPC);
	shelf_verify(&s);
	shelf_close(&s);
}

/* The address space suffices whatever size all objects have. */
static void there_is_room_for_max_objects_of_any_size(void **state)
{
	static const char object[PACK_MAX_BYTES];
	enum { MANY = 30000 };
	uint64_t handle;

	(void)state;
	for (size_t bytes = 200; bytes <= PACK_MAX_BYTES; bytes += 130) {
		struct shelf s;

		shelf_open(&s, MANY);
		for (int i = 0; i < MANY; i++)
			assert_int_equal(pack_put(s.pack, object, bytes, 0, &handle), 0);
		shelf_close(&s);
	}
}

/* No slab left: the handle that the put had taken must come back. */
static void without_slabs_a_put_stores_nothing(void **state)
{
	struct shelf s;
	uint64_t handle, max_slabs;

	(void)state;
	shelf_open(&s, 100);
	max_slabs = s.pack->slabs.max_slabs;
	s.pack->slabs.max_slabs = 1;
	for (int i = 0; i < 8; i++)
		shelf_put(&s, PACK_MAX_BYTES);
	for (int i = 0; i < 200; i++)
		assert_int_equal(pack_put(s.pack, "x", 1, 0, &handle), -ENOSPC);
	s.pack->slabs.max_slabs = max_slabs;
	while (s.n < s.max)
		shelf_put(&s, 1000);
	shelf_verify(&s);
	shelf_close(&s);
}

static void a_damaged_header_is_noticed(void **state)
{
	struct shelf s;
	size_t bytes;
	uint32_t *header;

	(void)state;
	shelf_open(&s, 10);
	shelf_put(&s, 100);
	shelf_put(&s, 100);
	header = (uint32_t *)((char *)pack_pin(s.pack, s.items[0].handle, &bytes) - PACK_HEADER_BYTES);
	pack_unpin(s.pack, s.items[0].handle);
	*header ^= 1;
	assert_null(pack_pin(s.pack, s.items[0].handle, &bytes));
	assert_null(pack_pin(s.pack, 7, &bytes));		  /* never given out */
	assert_null(pack_pin(s.pack, (uint64_t)1 << 40, &bytes)); /* beyond the table */
	assert_null(pack_pin(s.pack, UINT64_MAX, &bytes));
	*header ^= 1;
	shelf_verify(&s);
	shelf_close(&s);
}

/* The tag goes with the object wherever it is moved. */
static void a_tag_stays_with_its_object(void **state)
{
	struct shelf s;
	unsigned tag;

	(void)state;
	shelf_open(&s, 40000);
	shelf_fill(&s, sizes_middling, SMALLEST_STORE_BYTES);
	for (size_t i = 0; i < s.n; i++) {
		pack_set_tag(s.pack, s.items[i].handle, 1, 5); /* it is 0: nothing happens */
		assert_int_equal(pack_tag(s.pack, s.items[i].handle), 0);
		pack_set_tag(s.pack, s.items[i].handle, 0, s.items[i].tag & PACK_TAG_MAX);
	}
	shelf_drop_share(&s, 0.6);
	shelf_compact_all(&s);
	for (size_t i = 0; i < s.n; i++)
		assert_int_equal(pack_tag(s.pack, s.items[i].handle), s.items[i].tag & PACK_TAG_MAX);
	shelf_verify(&s);
	pack_drop(s.pack, &s.items[0].handle, 1, &tag);
	assert_int_equal(tag, s.items[0].tag & PACK_TAG_MAX);
	shelf_close(&s);
}

/* Slabs that run empty in the middle of it included. */
static void objects_dropped_together_are_gone_and_no_others(void **state)
{
	uint64_t handles[PACK_DROPS_MAX];
	unsigned tags[PACK_DROPS_MAX];
	struct shelf s;

	(void)state;
	shelf_open(&s, 10000);
	while (s.n < 5000)
		shelf_put(&s, 1 + random_below(PACK_MAX_BYTES));
	for (size_t i = 0; i < s.n; i++)
		pack_set_tag(s.pack, s.items[i].handle, 0, s.items[i].tag & PACK_TAG_MAX);
	while (s.n > 100) {
		size_t n = 1 + random_below(PACK_DROPS_MAX);
		struct item *from = &s.items[s.n - n];

		for (size_t i = 0; i < n; i++)
			handles[i] = from[i].handle;
		pack_drop(s.pack, handles, n, tags);
		for (size_t i = 0; i < n; i++) {
			assert_int_equal(tags[i], from[i].tag & PACK_TAG_MAX);
			s.bytes -= from[i].bytes;
		}
		s.n -= n;
	}
	assert_int_equal(pack_usage(s.pack).objects, s.n);
	assert_int_equal(pack_usage(s.pack).stored_bytes, s.bytes);
	shelf_compact_all(&s);
	shelf_verify(&s);
	while (s.n < 5000) /* handles and slots are all to be had again, each once */
		shelf_put(&s, 1 + random_below(PACK_MAX_BYTES));
	shelf_verify(&s);
	shelf_close(&s);
}

/* Handles that name nothing, or never did, would have it read where nothing is. */
static void a_hint_may_name_anything(void **state)
{
	uint64_t dropped;
	struct shelf s;

	(void)state;
	shelf_open(&s, 10);
	shelf_put(&s, 2000);
	shelf_put(&s, 3000);
	dropped = s.items[0].handle;
	shelf_drop(&s, 0);
	pack_prefetch(s.pack, s.items[0].handle);
	pack_prefetch(s.pack, dropped);
	for (unsigned bit = 1; bit < 64; bit++)
		pack_prefetch(s.pack, (uint64_t)1 << bit);
	pack_prefetch(s.pack, UINT64_MAX);
	shelf_verify(&s);
	shelf_close(&s);
}

static void replacing_needs_the_same_bytes(void **state)
{
	char old[PACK_MAX_BYTES], other[PACK_MAX_BYTES];
	uint64_t handle;
	struct shelf s;

	(void)state;
	shelf_open(&s, 10);
	shelf_put(&s, 2000);
	handle = s.items[0].handle;
	content(old, s.items[0].tag, 2000);
	content(other, 4711, 500);
	assert_int_equal(pack_replace(s.pack, handle, old, 1999, 0, other, 500, 9), -EAGAIN);
	assert_int_equal(pack_replace(s.pack, handle, old, 2000, 1, other, 500, 9), -EAGAIN);
	old[1000] ^= 1;
	assert_int_equal(pack_replace(s.pack, handle, old, 2000, 0, other, 500, 9), -EAGAIN);
	old[1000] ^= 1;
	shelf_verify(&s);
	assert_int_equal(pack_replace(s.pack, handle, old, 2000, 0, other, 500, 9), 0);
	s.items[0].tag = 4711;
	s.items[0].bytes = 500;
	s.bytes = 500;
	assert_int_equal(pack_tag(s.pack, handle), 9);
	shelf_verify(&s);
	shelf_drop(&s, 0);
	assert_int_equal(pack_replace(s.pack, handle, other, 500, 9, old, 2000, 0), -EAGAIN);
	assert_int_equal(pack_usage(s.pack).stored_bytes, 0);
	pack_compact(s.pack, 0);
	assert_int_equal(s.pack->slabs.hole_bytes, 0); /* no slot has leaked */
	shelf_close(&s);
}

static int start(void **state)
{
	(void)state;
	random_state = seed;
	return 0;
}

int main(void)
{
	const char *given = getenv("LARDER_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(every_size_comes_back, start),
		cmocka_unit_test_setup(a_slot_wastes_little, start),
		cmocka_unit_test_setup(a_store_of_16_mib_is_dense, start),
		cmocka_unit_test_setup(a_store_of_128_mib_is_dense, start),
		cmocka_unit_test_setup(dropping_most_objects_leaves_it_dense, start),
		cmocka_unit_test_setup(compaction_moves_objects_and_keeps_handles, start),
		cmocka_unit_test_setup(compaction_of_a_dense_store_moves_nothing, start),
		cmocka_unit_test_setup(compaction_moves_no_more_than_its_budget, start),
		cmocka_unit_test_setup(an_emptied_store_gives_its_space_back, start),
		cmocka_unit_test_setup(a_full_store_says_so_and_recovers, start),
		cmocka_unit_test_setup(there_is_room_for_max_objects_of_any_size, start),
		cmocka_unit_test_setup(without_slabs_a_put_stores_nothing, start),
		cmocka_unit_test_setup(a_damaged_header_is_noticed, start),
		cmocka_unit_test_setup(a_tag_stays_with_its_object, start),
		cmocka_unit_test_setup(objects_dropped_together_are_gone_and_no_others, start),
		cmocka_unit_test_setup(a_hint_may_name_anything, start),
		cmocka_unit_test_setup(replacing_needs_the_same_bytes, start),
	};

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	print_message("LARDER_SEED=%lu\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
