/*
 * The limit: held while memory fills at full speed, met by freed memory first, and reported when it cannot be met.
 * Needs userfaultfd.
 */
#include "mix.h"

#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"

enum { MIB = 1 << 20, LIMIT_MIB = 64, BLOCK = MIB };

static int start(void **state)
{
	static const struct larder_options options = { .limit_bytes = (uint64_t)LIMIT_MIB * MIB };

	(void)state;
	return start_process((struct process_setup){ .options = &options });
}

static uint64_t compressible(size_t i)
{
	return i % 64 ? i % 4 : mix(i);
}

static void fill(uint64_t *p, size_t bytes, uint64_t (*word)(size_t))
{
	for (size_t i = 0; i < bytes / 8; i++)
		p[i] = word(i);
}

static void verify(const uint64_t *p, size_t bytes, uint64_t (*word)(size_t))
{
	for (size_t i = 0; i < bytes / 8; i++)
		if (p[i] != word(i))
			fail_msg("word %zu is %016lx, not %016lx", i, p[i], word(i));
}

/* jemalloc's purge of everything it holds free, so that a test begins with what it allocates itself. */
static void purge(void)
{
	mallctl("arena.4096.purge", NULL, NULL, NULL, 0);
}

static _Atomic int stop_watching;
static uint64_t peak_bytes;

static void *watch_usage(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop_watching)) {
		struct larder_stats s;

		process_get_stats(&s);
		if (s.usage_bytes > peak_bytes)
			peak_bytes = s.usage_bytes;
		usleep(500);
	}
	return NULL;
}

static void the_limit_holds_while_memory_fills_at_full_speed(void **state)
{
	enum { BLOCKS = 4 * LIMIT_MIB };
	static uint64_t *blocks[BLOCKS];
	pthread_t watcher;
	uint64_t *large;

	(void)state;
	pthread_create(&watcher, NULL, watch_usage, NULL);
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = mallocx(BLOCK, 0);
		fill(blocks[i], BLOCK, compressible);
	}
	large = mallocx((size_t)2 * LIMIT_MIB * MIB,
			0); /* one extent of twice the limit: no allocation to hold up inside it */
	fill(large, (size_t)2 * LIMIT_MIB * MIB, compressible);
	atomic_store(&stop_watching, 1);
	pthread_join(watcher, NULL);
	print_message("peak %.1f MiB at a limit of %d MiB\n", (double)peak_bytes / MIB, LIMIT_MIB);
	/* The large extent itself counts in full from the moment it is handed out until it is put under watch. */
	usleep(200000);
	assert_true(now().usage_bytes <= (uint64_t)LIMIT_MIB * MIB);
	assert_true(now().limit_unmet == 0);
	assert_true(now().evictions > 0);
	for (int i = 0; i < BLOCKS; i++) {
		verify(blocks[i], BLOCK, compressible);
		dallocx(blocks[i], 0);
	}
	verify(large, (size_t)2 * LIMIT_MIB * MIB, compressible);
	dallocx(large, 0);
	purge();
}

/* Touching memory is held up as well, once it is watched: the cost never passes the limit by much. */
static void touching_fresh_memory_cannot_run_away(void **state)
{
	size_t bytes = (size_t)3 * LIMIT_MIB * MIB;
	uint64_t *p = mallocx(bytes, 0), peak = 0;

	(void)state;
	usleep(100000); /* until it is under watch */
	for (size_t i = 0; i < bytes / 8; i += 512) {
		p[i] = i;
		if (i % (512 * 64) == 0 && now().usage_bytes > peak)
			peak = now().usage_bytes;
	}
	print_message("peak %.1f MiB at a limit of %d MiB\n", (double)peak / MIB, LIMIT_MIB);
	assert_true(peak < (uint64_t)LIMIT_MIB * MIB * 110 / 100);
	for (size_t i = 0; i < bytes / 8; i += 512)
		assert_int_equal(p[i], i);
	dallocx(p, 0);
	purge();
}

/*
 * Memory that jemalloc holds free: blocks between others that stay, because it gives neighbours that add up to 8 MiB
 * back at once.
 */
static void make_dirty(unsigned arena, int blocks, void **kept)
{
	void *block[64];

	for (int i = 0; i < blocks; i++) {
		block[i] = mallocx(BLOCK, MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE);
		fill(block[i], BLOCK, compressible);
		kept[i] = mallocx(16384, MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE);
	}
	for (int i = 0; i < blocks; i++)
		dallocx(block[i], MALLOCX_TCACHE_NONE);
}

static void freed_memory_goes_before_useful_memory(void **state)
{
	enum { BLOCKS = 40 };
	struct larder_stats before = now(), after;
	void *kept[BLOCKS];
	uint64_t *p;

	(void)state;
	/* Two arenas, which do not use each other's memory: together they are above the limit, the useful part alone is
	 * not. */
	make_dirty(0, BLOCKS, kept);
	p = mallocx((size_t)BLOCKS * MIB, MALLOCX_ARENA(1) | MALLOCX_TCACHE_NONE);
	fill(p, (size_t)BLOCKS * MIB, compressible);
	usleep(200000);
	after = now();
	print_message("%lu purges, %lu evictions\n", after.purges - before.purges, after.evictions - before.evictions);
	assert_true(after.purges > before.purges);
	assert_true(after.evictions - before.evictions < BLOCKS * 256 / 20);
	verify(p, (size_t)BLOCKS * MIB, compressible);
	dallocx(p, MALLOCX_TCACHE_NONE);
	for (int i = 0; i < BLOCKS; i++)
		dallocx(kept[i], MALLOCX_TCACHE_NONE);
	purge();
}

static void a_limit_that_cannot_be_met_is_reported_and_loses_nothing(void **state)
{
	size_t bytes = (size_t)2 * LIMIT_MIB * MIB;
	uint64_t *p = mallocx(bytes, 0);

	(void)state;
	fill(p, bytes, mix);
	for (int i = 0; i < 100 && !now().limit_unmet; i++)
		usleep(50000);
	assert_int_equal(now().limit_unmet, 1);
	assert_true(now().limit_unmet_events > 0);
	verify(p, bytes, mix);
	dallocx(p, 0);
	purge();
	for (int i = 0; i < 300 && now().limit_unmet; i++)
		usleep(50000); /* until it is tried for again */
	assert_int_equal(now().limit_unmet, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freed_memory_goes_before_useful_memory),
		cmocka_unit_test(the_limit_holds_while_memory_fills_at_full_speed),
		cmocka_unit_test(touching_fresh_memory_cannot_run_away),
		cmocka_unit_test(a_limit_that_cannot_be_met_is_reported_and_loses_nothing),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
