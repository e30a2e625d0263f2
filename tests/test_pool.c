/*
 * Pools: objects and page ranges, limits of their own, choice of tiers, pins, advice. Each test is named for the claim
 * that it proves. Needs userfaultfd.
 */
#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "pools.h"

enum { PAGES = 512 };

static void take_everything_out(void)
{
	assert_true(larder_reclaim(EVERYTHING) >= 0);
}

/* ---- coming and going ---- */

static void one_short_life(unsigned i)
{
	struct larder_pool_options options = { .fault_mode = i % 2, .order = i % 4, .limit_bytes = i % 3 * 4 * MIB };
	larder_pool *pool = pool_new(&options);
	char *base = pages_new(pool, 64);
	void *object;

	assert_int_equal(larder_alloc(pool, 100 + i, &object), 0);
	memset(object, 1, 100 + i);
	mark(pool, base, 0, 32, NULL);
	if (i % 4 == 0)
		purge_all(pool);
	if (i % 5 == 0)
		larder_advise(pool, base + 32 * PAGE, 32 * PAGE, LARDER_ADVICE_COLD);
	if (i % 7 == 0)
		assert_true(larder_purge_fd(pool) >= 0);
	pool_end(pool);
}

static void a_thousand_pools_leave_nothing_behind(void **state)
{
	struct footprint before, after;
	uint64_t allocated;
	size_t mappings;

	(void)state;
	for (unsigned i = 0; i < 300; i++) /* jemalloc and Larder keep what they will use again */
		one_short_life(i);
	before = footprint();
	mappings = count_mappings();
	allocated = all_stats().allocated_bytes;
	for (unsigned i = 0; i < 1000; i++)
		one_short_life(i);
	after = footprint();
	print_message("address space %+ld pages, resident %+ld pages, mappings %+ld, handed out %+ld KiB\n",
		      (long)(after.size_pages - before.size_pages),
		      (long)(after.resident_pages - before.resident_pages), (long)(count_mappings() - mappings),
		      (long)(all_stats().allocated_bytes - allocated) / 1024);
	assert_true(after.size_pages <= before.size_pages + PAGES_PER_MIB);
	assert_true(after.resident_pages <= before.resident_pages + PAGES_PER_MIB);
	assert_true(count_mappings() <= mappings + 4);
	assert_true(all_stats().allocated_bytes <= allocated + 16 * MIB);
}

static size_t resident_pages(void)
{
	return footprint().resident_pages;
}

static void a_destroyed_pool_gives_its_ram_back(void **state)
{
	larder_pool *pool = pool_new(NULL);
	size_t before = resident_pages();

	(void)state;
	pages_new(pool, 16 * PAGES_PER_MIB);
	assert_true(resident_pages() >= before + 16 * PAGES_PER_MIB);
	pool_end(pool);
	assert_true(resident_pages() <= before + PAGES_PER_MIB);
}

static void freed_ranges_give_their_ram_back_and_come_back_zeroed(void **state)
{
	larder_pool *pool = pool_new(NULL);
	size_t pages = 8 * PAGES_PER_MIB, before = resident_pages();

	(void)state;
	for (int i = 0; i < 20; i++) {
		void *base;

		assert_int_equal(larder_pages_alloc(pool, pages * PAGE - 5, &base), 0); /* rounded up */
		verify_zero(base, 0, pages);
		memset(base, 0xff, pages * PAGE);
		if (i % 2)
			larder_advise(pool, base, pages * PAGE, LARDER_ADVICE_COLD);
		assert_int_equal(larder_pages_free(pool, base), 0);
		assert_true(resident_pages() <= before + PAGES_PER_MIB);
	}
	pool_end(pool);
}

/* Less those slots that pools with inline faults had: they keep them for their like. No test here had more than one. */
static void there_can_be_as_many_pools_as_promised_and_no_more(void **state)
{
	static larder_pool *pools[LARDER_POOLS_MAX + 1];
	int n, err;

	(void)state;
	for (int round = 0; round < 2; round++) {
		for (n = 0; n <= LARDER_POOLS_MAX && !(err = larder_pool_create(&pools[n], NULL));)
			n++;
		assert_int_equal(err, -EMFILE);
		assert_true(n >= LARDER_POOLS_MAX - 1 && n <= LARDER_POOLS_MAX);
		pool_end(pools[17]);
		pools[17] = pool_new(NULL);
		while (n > 0)
			pool_end(pools[--n]);
	}
}

/* ---- objects ---- */

enum { OBJECTS = 4000 };

struct user {
	larder_pool *pool;
	uint64_t seed;
	size_t wrong;
};

static size_t object_bytes(uint64_t seed)
{
	return 8 * (1 + mix(seed) % (mix(~seed) % 16 ? 200 : 8000));
}

static void object_fill(uint64_t *object, uint64_t seed)
{
	for (size_t i = 0; i < object_bytes(seed) / 8; i++)
		object[i] = word_of(seed, 1, i);
}

static size_t object_wrong(const uint64_t *object, uint64_t seed)
{
	size_t wrong = 0;

	for (size_t i = 0; i < object_bytes(seed) / 8; i++)
		wrong += object[i] != word_of(seed, 1, i);
	return wrong;
}

/* Allocate, free and verify objects. */
static void *use_objects(void *arg)
{
	struct user *u = arg;
	void **objects = mallocx(OBJECTS * sizeof(*objects), MALLOCX_ZERO);
	uint64_t random = u->seed;

	for (size_t i = 0; i < 10 * OBJECTS; i++) {
		size_t k = page_random(&random, OBJECTS);

		if (objects[k]) {
			u->wrong += object_wrong(objects[k], u->seed + k);
			u->wrong += larder_free(u->pool, objects[k]) != 0;
			objects[k] = NULL;
		} else if (larder_alloc(u->pool, object_bytes(u->seed + k), &objects[k]) == 0) {
			object_fill(objects[k], u->seed + k);
		} else {
			u->wrong++;
		}
	}
	for (size_t k = 0; k < OBJECTS; k++)
		u->wrong += objects[k] ? object_wrong(objects[k], u->seed + k) : 0;
	dallocx(objects, 0);
	return NULL;
}

static void objects_keep_their_content_under_a_limit_of_their_pool(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		larder_pool *pool =
			pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB, .fault_mode = (uint32_t)mode });
		struct user users[3];
		pthread_t threads[3];

		for (unsigned i = 0; i < 3; i++) {
			users[i] = (struct user){ .pool = pool, .seed = (uint64_t)(i + 1) << 32 };
			pthread_create(&threads[i], NULL, use_objects, &users[i]);
		}
		for (int i = 0; i < 3; i++) {
			pthread_join(threads[i], NULL);
			assert_int_equal(users[i].wrong, 0);
		}
		assert_true(pool_stats(pool).pages[LARDER_PAGES_STORED] > 0);
		pool_end(pool);
	}
}

static void objects_of_every_size_are_aligned_as_malloc_aligns(void **state)
{
	larder_pool *pool = pool_new(NULL);
	void *object;

	(void)state;
	for (size_t bytes = 1; bytes < 8 * MIB; bytes = bytes * 3 / 2 + 1) {
		assert_int_equal(larder_alloc(pool, bytes, &object), 0);
		assert_int_equal((uintptr_t)object % (bytes >= 16 ? 16 : 8), 0);
		memset(object, 1, bytes);
		assert_int_equal(larder_free(pool, object), 0);
	}
	pool_end(pool);
}

/* ---- limits and tiers ---- */

/* Reclaim takes its time on a busy machine: what counts is that it gets there by itself. */
static void check_limit(larder_pool *pool, size_t limit_mib)
{
	struct larder_pool_stats s = pool_stats(pool);

	for (int i = 0; i < 500 && s.usage_bytes > limit_mib * MIB * 105 / 100; i++) {
		usleep(10000);
		s = pool_stats(pool);
	}
	print_message("usage %.2f MiB at a limit of %zu MiB, %lu pages stored\n", (double)s.usage_bytes / MIB,
		      limit_mib, s.pages[LARDER_PAGES_STORED]);
	assert_int_equal(s.limit_bytes, limit_mib * MIB);
	assert_true(s.usage_bytes <= limit_mib * MIB * 105 / 100);
	assert_true(s.pages[LARDER_PAGES_STORED] > 0);
}

static void each_pool_holds_its_own_limit(void **state)
{
	static const size_t limits_mib[3] = { 4, 12, 0 };
	size_t pages = 32 * PAGES_PER_MIB;
	larder_pool *pools[3];
	char *bases[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		pools[i] = pool_new(&(struct larder_pool_options){ .limit_bytes = limits_mib[i] * MIB });
		bases[i] = pages_new(pools[i], pages);
	}
	usleep(200000);
	for (int i = 0; i < 2; i++)
		check_limit(pools[i], limits_mib[i]);
	assert_true(pool_stats(pools[2]).usage_bytes >= pages * PAGE); /* none of its own, none of theirs */
	assert_int_equal(pool_stats(pools[2]).pages[LARDER_PAGES_STORED], 0);
	for (int i = 0; i < 3; i++)
		verify_pages(bases[i], 0, pages);
	usleep(200000);
	for (int i = 0; i < 2; i++)
		check_limit(pools[i], limits_mib[i]);
	for (int i = 0; i < 3; i++)
		pool_end(pools[i]);
}

static void a_limit_holds_although_an_earlier_pool_had_none(void **state)
{
	size_t pages = 16 * PAGES_PER_MIB;
	larder_pool *pool = pool_new(NULL);
	char *base;

	(void)state;
	pages_new(pool, pages);
	pool_end(pool);
	pool = pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB }); /* may be given the same memory */
	base = pages_new(pool, pages);
	usleep(200000);
	check_limit(pool, 4);
	verify_pages(base, 0, pages);
	pool_end(pool);
}

static void without_tiers_nothing_is_ever_stored(void **state)
{
	larder_pool *pool =
		pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB, .tiers = LARDER_TIERS_NONE });
	size_t pages = 8 * PAGES_PER_MIB;
	char *base = pages_new(pool, pages), *cache = pages_new(pool, PAGES);
	struct larder_pool_stats s;
	void *object;

	(void)state;
	assert_int_equal(larder_alloc(pool, MIB, &object), 0);
	memset(object, 7, MIB); /* same-filled would be free, but is a place as well */
	mark(pool, cache, 0, PAGES, NULL);
	take_everything_out();
	assert_int_equal(larder_advise(pool, base, pages * PAGE, LARDER_ADVICE_COLD), 0);
	for (int i = 0; i < 100 && pool_stats(pool).priority[1].lost_bytes == 0; i++)
		usleep(100000); /* an unmet limit is tried for again every few seconds */
	s = pool_stats(pool);
	assert_int_equal(s.pages[LARDER_PAGES_STORED] + s.pages[LARDER_PAGES_SAME], 0);
	assert_int_equal(s.priority[1].lost_bytes, PAGES * PAGE);
	assert_int_equal(present_pages(base, pages), pages);
	verify_pages(base, 0, pages);
	pool_end(pool);
}

/* ---- faults served by the thread that raises them ---- */

static void inline_faults_bring_the_content_back(void **state)
{
	larder_pool *pool =
		pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB, .fault_mode = LARDER_FAULT_INLINE });
	size_t pages = 16 * PAGES_PER_MIB;
	char *base = pages_new(pool, pages);

	(void)state;
	for (int round = 0; round < 3; round++) {
		verify_pages(base, 0, pages);
		for (size_t i = 0; i < pages; i += 3)
			page_fill(base + i * PAGE, i, 0);
	}
	usleep(100000);
	check_limit(pool, 4);
	pool_end(pool);
}

/* Fresh memory all the time, so that there is always a chunk that reclaim puts under watch while it is touched. */
static void *keep_growing(void *arg)
{
	larder_pool *pool = arg;

	for (int n = 0; n < 24; n++) {
		void *base;

		if (larder_pages_alloc(pool, 4 * MIB, &base))
			return (void *)1;
		for (size_t i = 0; i < 4 * PAGES_PER_MIB; i++)
			*(volatile uint64_t *)((char *)base + i * PAGE) = i;
	}
	return NULL;
}

static void fresh_memory_can_be_touched_while_it_is_put_under_watch(void **state)
{
	larder_pool *pool =
		pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB, .fault_mode = LARDER_FAULT_INLINE });
	pthread_t threads[4];
	void *failed;

	(void)state;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, keep_growing, pool);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	pool_end(pool);
}

static int file_of(size_t pages, uint64_t generation)
{
	int fd = memfd_create("content", MFD_CLOEXEC);
	uint64_t page[WORDS];

	for (size_t i = 0; i < pages; i++) {
		page_fill(page, i, generation);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static void the_kernel_may_use_pinned_pages_of_an_inline_pool(void **state)
{
	larder_pool *pool = pool_of_mode(LARDER_FAULT_INLINE);
	char *base = pages_new(pool, PAGES);
	int fd = file_of(PAGES, 5);

	(void)state;
	take_everything_out();
	assert_int_equal(larder_pin(pool, base, 64 * PAGE), LARDER_INTACT);
	take_everything_out();
	assert_int_equal(pwrite(fd, base, 32 * PAGE, 0), 32 * PAGE);
	assert_int_equal(pread(fd, base + 32 * PAGE, 32 * PAGE, 32 * PAGE), 32 * PAGE);
	assert_int_equal(larder_unpin(pool, base, 64 * PAGE), 0);
	take_everything_out();
	for (size_t i = 0; i < 64; i++)
		verify_page(base, i, i < 32 ? 0 : 5);
	assert_int_equal(pread(fd, base, 32 * PAGE, 0), 32 * PAGE);
	verify_pages(base, 0, 32); /* what was written from it */
	close(fd);
	pool_end(pool);
}

/* It may fail; what it does not do is to lose or invent data. */
static void a_read_into_unpinned_pages_of_an_inline_pool_is_right_or_fails(void **state)
{
	larder_pool *pool = pool_of_mode(LARDER_FAULT_INLINE);
	char *base = pages_new(pool, PAGES);
	int fd = file_of(PAGES, 1), failed = 0;

	(void)state;
	for (size_t at = 0; at < PAGES; at += 16) {
		ssize_t n;

		for (size_t i = at; i < at + 16; i++)
			page_fill(base + i * PAGE, i, 0);
		larder_advise(pool, base + at * PAGE, 16 * PAGE, LARDER_ADVICE_COLD);
		if (at % 32)
			base[(at + 15) * PAGE + 8 * 10] += 0; /* the last page is there, the first is not */
		n = pread(fd, base + at * PAGE, 16 * PAGE, (off_t)(at * PAGE));
		assert_true(n >= 0 ? n % PAGE == 0 : errno == EFAULT);
		failed += n < 0;
		for (size_t i = 0; i < 16; i++)
			verify_page(base, at + i, n > 0 && i < (size_t)n / PAGE);
	}
	print_message("%d of %d reads failed\n", failed, PAGES / 16);
	close(fd);
	pool_end(pool);
}

/* ---- pins ---- */

static void pinned_pages_are_never_taken_out(void **state)
{
	larder_pool *pool = pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB });
	char *base = pages_new(pool, PAGES);

	(void)state;
	assert_int_equal(larder_pin(pool, base + 10 * PAGE + 1, 19 * PAGE), LARDER_INTACT); /* pages 10 to 29 */
	assert_int_equal(pool_stats(pool).pinned_bytes, 20 * PAGE);
	take_everything_out();
	assert_int_equal(larder_advise(pool, base + 10 * PAGE, 20 * PAGE, LARDER_ADVICE_COLD), 0);
	pages_new(pool, 8 * PAGES_PER_MIB);
	assert_int_equal(present_pages(base + 10 * PAGE, 20), 20);
	assert_true(present_pages(base, 10) < 5);
	assert_int_equal(larder_unpin(pool, base + 10 * PAGE + 1, 19 * PAGE), 0);
	assert_int_equal(pool_stats(pool).pinned_bytes, 0);
	take_everything_out();
	assert_true(present_pages(base + 10 * PAGE, 20) < 10);
	verify_pages(base, 0, PAGES);
	pool_end(pool);
}

static void pins_nest_page_by_page(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(larder_pin(pool, base, 64 * PAGE), LARDER_INTACT);
	assert_int_equal(larder_pin(pool, base + 32 * PAGE, 64 * PAGE), LARDER_INTACT);
	assert_int_equal(pool_stats(pool).pinned_bytes, 96 * PAGE);
	for (int i = 0; i < 3; i++) {
		take_everything_out();
		assert_int_equal(present_pages(base, 96), 96);
		assert_int_equal(larder_unpin(pool, base, 64 * PAGE), 0);
	}
	take_everything_out();
	assert_true(present_pages(base, 32) < 16);
	assert_int_equal(present_pages(base + 32 * PAGE, 64), 64);
	assert_int_equal(larder_unpin(pool, base + 32 * PAGE, 64 * PAGE), 0);
	take_everything_out();
	assert_true(present_pages(base, 96) < 48);
	verify_pages(base, 0, PAGES);
	pool_end(pool);
}

static void pinning_brings_absent_pages_back(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		larder_pool *pool = pool_of_mode(mode);
		char *base = pages_new(pool, PAGES);

		take_everything_out();
		assert_true(present_pages(base, PAGES) < PAGES / 4);
		assert_int_equal(larder_pin(pool, base, PAGES * PAGE), LARDER_INTACT);
		assert_int_equal(present_pages(base, PAGES), PAGES);
		verify_pages(base, 0, PAGES);
		assert_int_equal(larder_unpin(pool, base, PAGES * PAGE), 0);
		pool_end(pool);
	}
}

static _Atomic int stop;

static void *keep_taking_out(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop))
		take_everything_out();
	return NULL;
}

struct pinner {
	larder_pool *pool;
	char *base;
	uint64_t random;
	size_t pins, absent;
};

/* What the kernel would do next with a pinned page: look for it in the mapping. */
static void *keep_pinning(void *arg)
{
	struct pinner *p = arg;

	while (!atomic_load(&stop)) {
		char *at = p->base + page_random(&p->random, PAGES - 4) * PAGE;

		if (larder_pin(p->pool, at, 4 * PAGE) != LARDER_INTACT)
			break;
		p->absent += 4 - present_pages(at, 4);
		larder_unpin(p->pool, at, 4 * PAGE);
		p->pins++;
	}
	return NULL;
}

static void pages_are_present_from_the_moment_they_are_pinned(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		larder_pool *pool = pool_of_mode(mode);
		struct pinner p[2] = { { .pool = pool, .base = pages_new(pool, PAGES) } };
		pthread_t evictor, threads[2];

		p[1] = p[0];
		p[1].random = 1000000;
		atomic_store(&stop, 0);
		pthread_create(&evictor, NULL, keep_taking_out, NULL);
		for (int i = 0; i < 2; i++)
			pthread_create(&threads[i], NULL, keep_pinning, &p[i]);
		sleep(2);
		atomic_store(&stop, 1);
		pthread_join(evictor, NULL);
		for (int i = 0; i < 2; i++) {
			pthread_join(threads[i], NULL);
			assert_int_equal(p[i].absent, 0);
			assert_true(p[i].pins > 1000);
		}
		verify_pages(p[0].base, 0, PAGES);
		pool_end(pool);
	}
}

static void objects_can_be_pinned(void **state)
{
	larder_pool *pool = pool_new(NULL);
	size_t bytes = MIB;
	void *object;

	(void)state;
	assert_int_equal(larder_alloc(pool, bytes, &object), 0);
	memset(object, 3, bytes);
	take_everything_out();
	for (int i = 0; i < 2; i++)
		assert_int_equal(larder_pin(pool, object, bytes), LARDER_INTACT);
	for (int i = 0; i < 2; i++) {
		take_everything_out();
		assert_int_equal(present_pages(object, bytes / PAGE), bytes / PAGE);
		assert_int_equal(larder_unpin(pool, object, bytes), 0);
	}
	take_everything_out();
	assert_true(present_pages(object, bytes / PAGE) < bytes / PAGE / 2);
	for (size_t i = 0; i < bytes; i++)
		assert_int_equal(((char *)object)[i], 3);
	assert_int_equal(larder_free(pool, object), 0);
	pool_end(pool);
}

/* ---- advice and discarding ---- */

/*
 * All but the first and the last page: the range is rounded inwards. A page that something else on the machine has hold
 * of at that moment cannot be moved, so it is asked for again. Returns the bytes that went.
 */
static int64_t take_out_inner_pages(larder_pool *pool, char *base)
{
	int64_t out = 0, more = 1;

	for (int i = 0; i < 10 && more > 0 && out < (int64_t)(PAGES - 2) * PAGE; i++) {
		more = larder_advise(pool, base + 1, PAGES * PAGE - 2, LARDER_ADVICE_COLD);
		out += more;
	}
	return out;
}

static void cold_pages_leave_and_come_back_by_advice(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		larder_pool *pool = pool_of_mode(mode);
		char *base = pages_new(pool, PAGES);

		assert_int_equal(take_out_inner_pages(pool, base), (PAGES - 2) * PAGE);
		assert_int_equal(present_pages(base, PAGES), 2);
		assert_int_equal(larder_advise(pool, base + 100 * PAGE + 1, PAGE, LARDER_ADVICE_WILL_NEED), 0);
		assert_int_equal(present_pages(base + 100 * PAGE, 2), 2);
		assert_int_equal(larder_advise(pool, base, PAGES * PAGE, LARDER_ADVICE_WILL_NEED), 0);
		assert_int_equal(present_pages(base, PAGES), PAGES);
		verify_pages(base, 0, PAGES);
		pool_end(pool);
	}
}

static void advice_about_access_changes_no_content(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);

	(void)state;
	for (int advice = LARDER_ADVICE_NORMAL; advice <= LARDER_ADVICE_SEQUENTIAL; advice++) {
		assert_int_equal(larder_advise(pool, base, PAGES * PAGE, advice), 0);
		take_everything_out();
		verify_pages(base, 0, PAGES);
	}
	pool_end(pool);
}

static void discarded_pages_read_zero_and_their_neighbours_do_not(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		larder_pool *pool = pool_of_mode(mode);
		char *base = pages_new(pool, 1024);
		size_t before = count_mappings();

		larder_advise(pool, base, 256 * PAGE, LARDER_ADVICE_COLD); /* some of them in a tier */
		for (size_t i = 1; i < 1024; i += 2)
			assert_int_equal(larder_discard(pool, base + i * PAGE, PAGE), 0);
		assert_int_equal(count_mappings(), before);
		for (size_t i = 0; i < 1024; i++)
			i % 2 ? verify_zero(base, i, 1) : verify_pages(base, i, 1);
		assert_int_equal(larder_discard(pool, base, 1024 * PAGE), 0);
		assert_int_equal(present_pages(base, 1024), 0);
		verify_zero(base, 0, 1024);
		pool_end(pool);
	}
}

/* A range that is written from its start to its end looks sequential; what lies behind it must not be filled with it.
 */
static void writing_a_range_fills_no_other(void **state)
{
	enum { RANGES = 64, RANGE_PAGES = 4 };
	larder_pool *pool = pool_new(NULL);
	char *ranges[RANGES];
	uint64_t before;

	(void)state;
	for (int i = 0; i < RANGES; i++)
		assert_int_equal(larder_pages_alloc(pool, RANGE_PAGES * PAGE, (void **)&ranges[i]), 0);
	assert_int_equal(larder_advise(pool, ranges[0], PAGE, LARDER_ADVICE_COLD), 0); /* puts the pool under watch */
	before = pool_stats(pool).pages[LARDER_PAGES_RESIDENT];
	for (int i = 0; i < RANGES; i += 2)
		for (size_t page = 0; page < RANGE_PAGES; page++)
			page_fill(ranges[i] + page * PAGE, page, 0);
	usleep(20000); /* a page is counted just after the thread that wants it has been woken */
	assert_int_equal(pool_stats(pool).pages[LARDER_PAGES_RESIDENT], before + RANGES / 2 * RANGE_PAGES);
	pool_end(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writing_a_range_fills_no_other),
		cmocka_unit_test(a_destroyed_pool_gives_its_ram_back),
		cmocka_unit_test(freed_ranges_give_their_ram_back_and_come_back_zeroed),
		cmocka_unit_test(objects_of_every_size_are_aligned_as_malloc_aligns),
		cmocka_unit_test(objects_keep_their_content_under_a_limit_of_their_pool),
		cmocka_unit_test(each_pool_holds_its_own_limit),
		cmocka_unit_test(a_limit_holds_although_an_earlier_pool_had_none),
		cmocka_unit_test(without_tiers_nothing_is_ever_stored),
		cmocka_unit_test(inline_faults_bring_the_content_back),
		cmocka_unit_test(fresh_memory_can_be_touched_while_it_is_put_under_watch),
		cmocka_unit_test(the_kernel_may_use_pinned_pages_of_an_inline_pool),
		cmocka_unit_test(a_read_into_unpinned_pages_of_an_inline_pool_is_right_or_fails),
		cmocka_unit_test(pinned_pages_are_never_taken_out),
		cmocka_unit_test(pins_nest_page_by_page),
		cmocka_unit_test(pinning_brings_absent_pages_back),
		cmocka_unit_test(pages_are_present_from_the_moment_they_are_pinned),
		cmocka_unit_test(objects_can_be_pinned),
		cmocka_unit_test(cold_pages_leave_and_come_back_by_advice),
		cmocka_unit_test(advice_about_access_changes_no_content),
		cmocka_unit_test(discarded_pages_read_zero_and_their_neighbours_do_not),
		cmocka_unit_test(there_can_be_as_many_pools_as_promised_and_no_more),
		cmocka_unit_test(a_thousand_pools_leave_nothing_behind),
	};

	return cmocka_run_group_tests(tests, start_unlimited, check_table);
}
