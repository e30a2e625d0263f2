/*
 * Many threads on one store: what is put comes back, while it is moved and recompressed. Run it under ThreadSanitizer
 * too: the second test reads objects in code that the sanitizer sees, where the first reads them in LZ4. LARDER_SEED=n
 * gives each thread the same decisions again, LARDER_TURNS=n makes it decide so often.
 */
#include "codec.h"
#include "idle.h"
#include "lz4_tier.h"
#include "store.h"

#include "sys.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
	WORDS = LARDER_PAGE_BYTES / 8,
	ITEMS = 3000,
	WORKERS = 4,
	COMPACTORS = 2,
	COMPACT_BYTES = 64 << 10,
	COMPACT_PAUSE_NS = 20000
};
enum { KEPT_BYTES = 64 << 10 }; /* free slabs that the pack keeps */
enum { ENOUGH_BYTES = 128 << 10 };
enum { TURNS = 60000, WAVE_TURNS = 2500 };

/* One object. Whoever sets `owned` may touch the rest: the page state of this test. */
struct item {
	_Atomic int owned;
	int stored;
	uint64_t seed;
	struct store_place place;
};

/* What is tested: the store, or the pack under it. */
struct keeper {
	int (*put)(void *scratch, const struct item *item, struct store_place *place);
	int (*verify)(void *scratch, const struct item *item); /* 0: it is what was put */
	void (*drop)(const struct item *item);
	uint64_t (*compact)(void);
	uint64_t (*objects)(void);
	uint64_t (*occupied_bytes)(void);
};

static const struct keeper *keeper;
static struct item items[ITEMS];
static struct larder_store store;
static struct larder_pack *pack;
static _Atomic int stopping;
static _Atomic uint64_t wrong, accepted, refused, given_bytes;
static uint64_t seed, turns;

static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* Same-filled, incompressible, and everything between; many have lines in common with others. */
static void make_page(uint64_t *page, uint64_t item_seed)
{
	uint64_t state = item_seed, kind = next_random(&state) % 16, noise = next_random(&state) % 40;
	uint64_t common = kind % 4;

	for (unsigned i = 0; i < WORDS; i++)
		if (kind == 0)
			page[i] = item_seed;
		else if (kind == 1 || i % 64 < noise)
			page[i] = next_random(&state);
		else if (kind < 12)
			page[i] = (common + i % 128) * 0x9e3779b97f4a7c15u;
		else
			page[i] = item_seed + i % 8;
}

static _Atomic unsigned dense; /* objects made with a dictionary */

static int keep_in_store(void *scratch, const struct item *item, struct store_place *place)
{
	uint64_t page[WORDS];
	char bytes[CODEC_MOST_BYTES];
	LZ4_stream_t lz4 = { 0 };
	struct larder_object object;
	int err;

	(void)scratch;
	make_page(page, item->seed);
	if (item->seed % 2)
		object = store_object(&store, &lz4, (const char *)page, bytes);
	else /* without a dictionary: recompression has something to gain, whatever the dictionary is like */
		object = codec_object(&lz4, CODEC_FOR_RAM, (const char *)page, bytes);
	if (object.dictionary)
		atomic_fetch_add_explicit(&dense, 1, memory_order_relaxed);
	err = store_put(&store, STORE_ALL_TIERS, &object, place);
	dictionary_release(object.dictionary);
	return err;
}

static int verify_in_store(void *scratch, const struct item *item)
{
	uint64_t page[WORDS], expected[WORDS];

	make_page(expected, item->seed);
	return store_get(&store, scratch, item->place, page) || memcmp(page, expected, sizeof(page));
}

static _Thread_local struct store_drops drops;

static void drop_from_store(const struct item *item)
{
	store_drop_later(&store, &drops, item->place);
}

static uint64_t compact_store(void)
{
	store_recompress(&store);
	return store_compact(&store, NULL, COMPACT_BYTES);
}

static uint64_t objects_in_store(void)
{
	struct larder_tier_stats tiers[LARDER_TIERS_MAX];
	uint64_t same_pages;

	memset(tiers, 0, sizeof(tiers));
	store_stats(&store, tiers, &same_pages);
	return tiers[0].objects + same_pages;
}

static uint64_t bytes_of_store(void)
{
	struct larder_backend_usage usage;

	store.tiers[0].ops->usage(store.tiers[0].backend, &usage);
	return usage.occupied_bytes;
}

static size_t size_of_object(uint64_t item_seed)
{
	return 1 + item_seed % PACK_MAX_BYTES;
}

static int keep_in_pack(void *scratch, const struct item *item, struct store_place *place)
{
	uint64_t page[WORDS];

	(void)scratch;
	make_page(page, item->seed);
	return pack_put(pack, page, size_of_object(item->seed), 0, &place->handle);
}

static int verify_in_pack(void *scratch, const struct item *item)
{
	uint64_t expected[WORDS];
	size_t bytes;
	const void *object = pack_pin(pack, item->place.handle, &bytes);
	int differs;

	(void)scratch;
	if (!object)
		return 1;
	make_page(expected, item->seed);
	differs = bytes != size_of_object(item->seed) || memcmp(object, expected, bytes);
	pack_unpin(pack, item->place.handle);
	return differs;
}

static void drop_from_pack(const struct item *item)
{
	unsigned tag;

	pack_drop(pack, &item->place.handle, 1, &tag);
}

static uint64_t compact_pack(void)
{
	return pack_compact(pack, COMPACT_BYTES);
}

static uint64_t objects_in_pack(void)
{
	return pack_usage(pack).objects;
}

static uint64_t bytes_of_pack(void)
{
	return pack_usage(pack).occupied_bytes;
}

static const struct keeper the_store = { keep_in_store, verify_in_store,  drop_from_store,
					 compact_store, objects_in_store, bytes_of_store };
static const struct keeper the_pack = { keep_in_pack, verify_in_pack,  drop_from_pack,
					compact_pack, objects_in_pack, bytes_of_pack };

static void put_item(void *scratch, struct item *item, uint64_t item_seed)
{
	item->seed = item_seed;
	item->stored = keeper->put(scratch, item, &item->place) == 0;
	atomic_fetch_add_explicit(item->stored ? &accepted : &refused, 1, memory_order_relaxed);
}

static void drop_item(void *scratch, struct item *item)
{
	if (keeper->verify(scratch, item))
		atomic_fetch_add(&wrong, 1);
	keeper->drop(item);
	item->stored = 0;
}

/* Waves of more puts, then of more drops, so that slabs fill and empty. */
static void work_on(void *scratch, struct item *item, uint64_t random, uint64_t turn)
{
	uint64_t put_share = turn / WAVE_TURNS % 2 ? 15 : 85;

	if (!item->stored && random % 100 < put_share)
		put_item(scratch, item, random);
	else if (item->stored && random % 100 >= put_share)
		drop_item(scratch, item);
	else if (item->stored && keeper->verify(scratch, item))
		atomic_fetch_add(&wrong, 1);
}

static void *worker(void *arg)
{
	uint64_t state = seed + (uintptr_t)arg * 1000003;
	void *scratch = sys_map(64 << 10);

	for (uint64_t turn = 0; turn < turns; turn++) {
		uint64_t random = next_random(&state);
		struct item *item = &items[random % ITEMS];

		if (atomic_exchange_explicit(&item->owned, 1, memory_order_acquire))
			continue;
		work_on(scratch, item, next_random(&state), turn);
		atomic_store_explicit(&item->owned, 0, memory_order_release);
	}
	store_drop_all(&store, &drops);
	sys_munmap(scratch, 64 << 10);
	return NULL;
}

static void *compactor(void *arg)
{
	(void)arg;
	while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
		atomic_fetch_add(&given_bytes, keeper->compact());
		keeper->objects();
		sys_sleep_ns(COMPACT_PAUSE_NS);
	}
	return NULL;
}

static void drop_everything(void)
{
	void *scratch = sys_map(64 << 10);

	for (unsigned i = 0; i < ITEMS; i++)
		if (items[i].stored)
			drop_item(scratch, &items[i]);
	store_drop_all(&store, &drops);
	sys_munmap(scratch, 64 << 10);
}

static void torture(const struct keeper *what)
{
	pthread_t threads[WORKERS + COMPACTORS];
	uint64_t stored = 0;

	keeper = what;
	memset(items, 0, sizeof(items));
	stopping = 0;
	wrong = accepted = refused = given_bytes = 0;
	for (uintptr_t i = 0; i < WORKERS + COMPACTORS; i++) /* a second compactor finds the first at work */
		assert_int_equal(pthread_create(&threads[i], NULL, i < WORKERS ? worker : compactor, (void *)i), 0);
	for (unsigned i = 0; i < WORKERS + COMPACTORS; i++) {
		stopping = i >= WORKERS;
		pthread_join(threads[i], NULL);
	}
	for (unsigned i = 0; i < ITEMS; i++)
		stored += (uint64_t)items[i].stored;
	print_message("  %lu puts, %lu refused, %lu left, %lu MiB given back\n", accepted, refused, stored,
		      given_bytes >> 20);
	assert_int_equal(keeper->objects(), stored);
	drop_everything();
	assert_int_equal(wrong, 0);
	assert_int_equal(keeper->objects(), 0);
	keeper->compact();
	assert_true(keeper->occupied_bytes() <= KEPT_BYTES); /* no slot has leaked */
	assert_true(accepted > 1000);
	assert_true(given_bytes > 0);
}

/* Sweeps follow each other, and small stores have dictionaries. */
static void pages_come_back_from_the_store_while_it_is_compacted(void **state)
{
	static const struct larder_backend_ops *const tiers[] = { &larder_backend_lz4 };
	struct larder_lz4 *lz4;

	(void)state;
	memset(&store, 0, sizeof(store));
	assert_int_equal(store_open(&store, tiers, 1, &(struct larder_backend_setup){ .max_objects = ITEMS }), 0);
	lz4 = store.tiers[0].backend;
	lz4->recompress.enough_bytes = ENOUGH_BYTES;
	lz4->recompress.sweep_ns = 0;
	lz4->recompress.is_patient = 0; /* no CPU is idle here */
	torture(&the_store);
	print_message("  %lu recompressed, %u put with a dictionary\n", lz4->recompress.recompressed, dense);
	assert_true(dense > 100);
	assert_true(lz4->recompress.recompressed > 100);
	for (unsigned number = 0; number < DICTIONARIES; number++)
		assert_int_equal(lz4->recompress.dictionaries.all[number].users, 0);
	store_close(&store);
}

static void objects_come_back_from_the_pack_while_it_is_compacted(void **state)
{
	(void)state;
	pack = sys_map(sizeof(*pack));
	assert_non_null(pack);
	assert_int_equal(pack_open(pack, ITEMS), 0);
	torture(&the_pack);
	pack_close(pack);
	sys_munmap(pack, sizeof(*pack));
}

/* ---- a fork waits for no idle time ---- */

enum { IDLE_WORK_NS = 50000000, FREEZES = 5, SPINNERS_MAX = 64 };

static _Atomic int is_idle;

/* Takes 50 ms of CPU time; in idle time only, if it may. */
static uint64_t recompress_long(void *backend, const _Atomic uint32_t *hurry)
{
	uint64_t start = sys_thread_ns();

	if (idle_may_return() && idle_begin() == 0 && atomic_load(hurry) > 1)
		idle_end(0);
	atomic_store(&is_idle, 1);
	while (sys_thread_ns() - start < IDLE_WORK_NS)
		;
	idle_end(0);
	return backend ? 1 : 0;
}

static void *keep_recompressing(void *arg)
{
	while (!atomic_load(&stopping))
		store_recompress(&store);
	return arg;
}

static void *spin(void *arg)
{
	while (!atomic_load(&stopping))
		;
	return arg;
}

/* With every CPU busy, 50 ms of idle time take half a minute. */
static void freezing_does_not_wait_for_idle_time(void **state)
{
	static struct larder_backend_ops ops;
	const struct larder_backend_ops *tiers[] = { &ops };
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), spinners = 2 * cpus < SPINNERS_MAX ? 2 * cpus : SPINNERS_MAX;
	pthread_t threads[SPINNERS_MAX + 1];

	(void)state;
	ops = larder_backend_lz4;
	ops.recompress = recompress_long;
	assert_int_equal(store_open(&store, tiers, 1, &(struct larder_backend_setup){ .max_objects = ITEMS }), 0);
	atomic_store(&stopping, 0);
	for (long i = 0; i < spinners; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, spin, NULL), 0);
	assert_int_equal(pthread_create(&threads[spinners], NULL, keep_recompressing, NULL), 0);
	for (int i = 0; i < FREEZES; i++) {
		uint64_t start;

		while (!atomic_exchange(&is_idle, 0))
			usleep(1000);
		start = sys_now_ns();
		store_freeze(&store);
		assert_true(sys_now_ns() - start < 5000000000u);
		store_thaw(&store);
		store_at_work(&store, 0);
	}
	atomic_store(&stopping, 1);
	idle_end(atomic_load(&store.recompressing));
	for (long i = 0; i <= spinners; i++)
		pthread_join(threads[i], NULL);
	store_close(&store);
}

int main(void)
{
	const char *given = getenv("LARDER_SEED"), *given_turns = getenv("LARDER_TURNS");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_come_back_from_the_store_while_it_is_compacted),
		cmocka_unit_test(objects_come_back_from_the_pack_while_it_is_compacted),
		cmocka_unit_test(freezing_does_not_wait_for_idle_time),
	};

	seed = given ? strtoull(given, NULL, 0) : sys_now_ns();
	turns = given_turns ? strtoull(given_turns, NULL, 0) : TURNS;
	print_message("LARDER_SEED=%lu\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
