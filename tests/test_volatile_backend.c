/*
 * Volatile memory and the tiers: it never reaches one, it goes before anything is compressed, and a copy that a tier
 * holds already goes with it. The tier is lz4 behind a door-keeper who knows from the test which pages are volatile
 * and finds their number on the page. Needs userfaultfd.
 */
#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "pools.h"

enum { LIMIT_MIB = 64, NUMBERED = 3 * 16 * PAGES_PER_MIB };

#define MAGIC ((uint64_t)0x6e756d6265726564 << 16) /* a numbered page begins with MAGIC + its number */

/*
 * Set after larder_volatile() returned, cleared before larder_nonvolatile() is called: a page that is put while its
 * flag is set was put while it was volatile.
 */
static _Atomic unsigned char is_volatile[NUMBERED];
static _Atomic uint64_t all_puts, numbered_puts, forbidden_puts;

static int guarded_put(void *backend, const struct larder_object *object, uint64_t *handle)
{
	uint64_t number = *(const uint64_t *)(const void *)object->page - MAGIC;
	int err, forbidden;

	atomic_fetch_add(&all_puts, 1);
	if (number >= NUMBERED)
		return larder_backend_lz4.put(backend, object, handle);
	atomic_fetch_add(&numbered_puts, 1);
	forbidden = atomic_load(&is_volatile[number]);
	err = larder_backend_lz4.put(backend, object, handle);
	forbidden |= atomic_load(&is_volatile[number]); /* marking does not return while the page is being stored */
	atomic_fetch_add(&forbidden_puts, (uint64_t)forbidden);
	return err;
}

static struct larder_backend_ops guarded;

static int start(void **state)
{
	static const struct larder_options options = { .limit_bytes = (uint64_t)LIMIT_MIB * MIB,
						       .flags = LARDER_IGNORE_SYSTEM };
	static const struct larder_backend_ops *const tiers[] = { &guarded };

	(void)state;
	guarded = larder_backend_lz4;
	guarded.put = guarded_put;
	return start_process((struct process_setup){ .options = &options, .tiers = tiers, .ntiers = 1 });
}

/* ---- nothing volatile is stored ---- */

struct owner {
	pthread_t thread;
	larder_pool *pool;
	char *base;
	size_t number, pages; /* of its first page, and how many */
	uint64_t random, purged;
};

static _Atomic int stop;

static void number_pages(struct owner *o, size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++) {
		page_fill(o->base + i * PAGE, i, 0);
		*(uint64_t *)(o->base + i * PAGE) = MAGIC + o->number + i;
	}
}

static void flag(const struct owner *o, size_t first, size_t pages, unsigned char value)
{
	for (size_t i = first; i < first + pages; i++)
		atomic_store(&is_volatile[o->number + i], value);
}

/* End volatility of part of what was marked, use it, and mark it again later. */
static int owner_round(struct owner *o)
{
	struct larder_volatile_options options = { .priority = (int)page_random(&o->random, 8),
						   .unit_bytes = LARDER_UNIT_CHUNK };
	size_t pages = 64 + page_random(&o->random, 512), first = page_random(&o->random, o->pages - pages), half;
	int said;

	number_pages(o, first, pages); /* nonvolatile until here: some of it is compressed now and then */
	if (larder_volatile(o->pool, o->base + first * PAGE, pages * PAGE, &options))
		return -1;
	flag(o, first, pages, 1);
	usleep((unsigned)page_random(&o->random, 3000));
	half = pages / 2;
	for (size_t at = 0; at < pages; at += half, half = pages - at) {
		flag(o, first + at, half, 0);
		said = larder_nonvolatile(o->pool, o->base + (first + at) * PAGE, half * PAGE, LARDER_ACKNOWLEDGE,
					  NULL);
		if (said < 0)
			return said;
		o->purged += said == LARDER_PURGED;
	}
	return 0;
}

static void *own(void *arg)
{
	struct owner *o = arg;

	number_pages(o, 0, o->pages);
	while (!atomic_load(&stop))
		if (owner_round(o) < 0)
			return (void *)1;
	return NULL;
}

/* Nonvolatile memory of twice the limit, so that something is compressed all the time. */
static void *compress_others(void *arg)
{
	size_t pages = (size_t)2 * LIMIT_MIB * PAGES_PER_MIB;
	larder_pool *pool = arg;
	void *base;
	uint64_t random = 1;

	if (larder_pages_alloc(pool, pages * PAGE, &base))
		return (void *)1;
	for (size_t i = 0; i < pages && !atomic_load(&stop); i++)
		page_fill((char *)base + i * PAGE, i, 0);
	while (!atomic_load(&stop)) {
		size_t i = page_random(&random, pages);

		page_fill((char *)base + i * PAGE, i, 1);
	}
	return NULL;
}

static void no_volatile_page_reaches_a_tier(void **state)
{
	struct owner owners[3];
	larder_pool *pool = pool_new(NULL), *others = pool_new(NULL);
	pthread_t compressor;
	uint64_t purged = 0;
	void *failed, *base;

	(void)state;
	pthread_create(&compressor, NULL, compress_others, others);
	for (size_t i = 0; i < 3; i++) {
		owners[i] = (struct owner){
			.pool = pool, .number = i * NUMBERED / 3, .pages = NUMBERED / 3, .random = i << 32
		};
		assert_int_equal(larder_pages_alloc(pool, owners[i].pages * PAGE, &base), 0);
		owners[i].base = base;
		pthread_create(&owners[i].thread, NULL, own, &owners[i]);
	}
	sleep(5);
	atomic_store(&stop, 1);
	for (size_t i = 0; i < 3; i++) {
		pthread_join(owners[i].thread, &failed);
		assert_null(failed);
		purged += owners[i].purged;
	}
	pthread_join(compressor, &failed);
	assert_null(failed);
	print_message("%lu puts, %lu of them of numbered pages, %lu losses\n", all_puts, numbered_puts, purged);
	assert_int_equal(forbidden_puts, 0);
	assert_true(numbered_puts > 0);
	assert_true(all_puts > numbered_puts);
	assert_true(purged > 0);
	pool_end(pool);
	pool_end(others);
}

/* ---- volatile memory goes first ---- */

/* 1 MiB at a time, filled and then marked. Returns the highest usage seen. */
static uint64_t fill_and_mark(larder_pool *pool, size_t mib, uint64_t (*usage)(larder_pool *))
{
	uint64_t peak = 0;

	for (size_t i = 0; i < mib; i++) {
		char *base = pages_new(pool, PAGES_PER_MIB);

		mark(pool, base, 0, PAGES_PER_MIB,
		     &(struct larder_volatile_options){ .unit_bytes = LARDER_UNIT_CHUNK });
		usleep(1000);
		peak = usage(pool) > peak ? usage(pool) : peak;
	}
	return peak;
}

static uint64_t usage_of_pool(larder_pool *pool)
{
	return pool_stats(pool).usage_bytes;
}

static uint64_t usage_of_process(larder_pool *pool)
{
	(void)pool;
	return all_stats().usage_bytes;
}

static void check_purged_not_stored(larder_pool *pool, size_t limit_mib, uint64_t (*usage)(larder_pool *))
{
	size_t kept_pages = limit_mib / 4 * PAGES_PER_MIB;
	char *kept = pages_new(pool, kept_pages);
	uint64_t puts_before = all_puts, peak, purged = 0;
	struct larder_stats before = all_stats();

	peak = fill_and_mark(pool, 3 * limit_mib, usage);
	print_message("peak %.1f MiB at a limit of %zu MiB\n", (double)peak / MIB, limit_mib);
	assert_true(peak <= limit_mib * MIB * 105 / 100);
	assert_int_equal(all_puts, puts_before);
	assert_int_equal(all_stats().evictions, before.evictions);
	purged = pool_stats(pool).priority[1].purged_bytes;
	assert_true(purged > limit_mib * MIB);
	assert_true(pool_stats(pool).priority[1].bytes - pool_stats(pool).priority[1].lost_bytes >
		    limit_mib * MIB / 4); /* and not much more than needed */
	assert_int_equal(present_pages(kept, kept_pages), kept_pages);
	verify_pages(kept, 0, kept_pages);
}

static void under_the_limit_of_the_process_volatile_memory_goes_before_anything_is_stored(void **state)
{
	larder_pool *pool = pool_new(NULL);
	struct larder_purge_event event;

	(void)state;
	assert_true(larder_purge_fd(pool) >= 0);
	check_purged_not_stored(pool, LIMIT_MIB, usage_of_process);
	assert_int_equal(larder_purge_events(pool, &event, 1), 1);
	assert_int_equal(event.reason, LARDER_PURGE_PROCESS_LIMIT);
	pool_end(pool);
}

static void under_the_limit_of_a_pool_volatile_memory_goes_before_anything_is_stored(void **state)
{
	larder_pool *pool = pool_new(&(struct larder_pool_options){ .limit_bytes = 16 * MIB });

	(void)state;
	check_purged_not_stored(pool, 16, usage_of_pool);
	pool_end(pool);
}

/* ---- what is stored already ---- */

static uint64_t stored_objects(void)
{
	return all_stats().tiers[0].objects;
}

static void a_purge_drops_the_copy_that_a_tier_holds(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 1024);
	uint64_t before = stored_objects();

	(void)state;
	assert_true(larder_advise(pool, base, 1024 * PAGE, LARDER_ADVICE_COLD) > 0);
	assert_true(stored_objects() >= before + 900);
	mark(pool, base, 0, 1024, &(struct larder_volatile_options){ .unit_bytes = LARDER_UNIT_PAGE });
	assert_true(larder_purge(pool, 0, 256 * PAGE) > 0);
	purge_all(pool);
	assert_true(stored_objects() <= before);
	assert_int_equal(pool_stats(pool).pages[LARDER_PAGES_STORED], 0);
	assert_int_equal(larder_nonvolatile(pool, base, 1024 * PAGE, 0, NULL), LARDER_PURGED);
	verify_zero(base, 0, 1024);
	pool_end(pool);
}

static void a_stored_page_that_was_volatile_for_a_while_is_intact(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 1024);
	uint64_t before;

	(void)state;
	assert_true(larder_advise(pool, base, 512 * PAGE, LARDER_ADVICE_COLD) > 0);
	mark(pool, base, 0, 1024, NULL);
	before = all_puts;
	assert_int_equal(larder_advise(pool, base, 1024 * PAGE, LARDER_ADVICE_COLD), 0); /* volatile pages stay */
	assert_int_equal(all_puts, before);
	assert_int_equal(larder_nonvolatile(pool, base, 1024 * PAGE, 0, NULL), LARDER_INTACT);
	verify_pages(base, 0, 1024);
	pool_end(pool);
}

static void after_the_end_of_volatility_a_page_can_be_stored(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 1024);

	(void)state;
	mark(pool, base, 0, 1024, NULL);
	assert_int_equal(larder_nonvolatile(pool, base, 1024 * PAGE, 0, NULL), LARDER_INTACT);
	assert_true(larder_advise(pool, base, 1024 * PAGE, LARDER_ADVICE_COLD) >= 900 * PAGE);
	assert_true(present_pages(base, 1024) < 124);
	verify_pages(base, 0, 1024);
	pool_end(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_purge_drops_the_copy_that_a_tier_holds),
		cmocka_unit_test(a_stored_page_that_was_volatile_for_a_while_is_intact),
		cmocka_unit_test(after_the_end_of_volatility_a_page_can_be_stored),
		cmocka_unit_test(under_the_limit_of_a_pool_volatile_memory_goes_before_anything_is_stored),
		cmocka_unit_test(under_the_limit_of_the_process_volatile_memory_goes_before_anything_is_stored),
		cmocka_unit_test(no_volatile_page_reaches_a_tier),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
