/*
 * A process with a limit and a disk: reclaim takes what it has to, and no more. Needs userfaultfd.
 */
#include <jemalloc/jemalloc.h>
#include <stdlib.h>
#include <time.h>

#include "fixture.h"
#include "mix.h"
#include "process.h"
#include "service.h"

enum { MIB = 1 << 20, PAGE = 4096, WORDS = PAGE / 8, LIMIT_MIB = 64, PAGES = LIMIT_MIB * MIB / PAGE / 4 * 5 };

/* One page in so many does not compress, so it goes to disk at once; a third of the others is noise. */
enum { INCOMPRESSIBLE_EVERY = 64, NOISE_DIVISOR = 3 };

/* So many times the limit is read from end to end, so often. */
enum { TIMES_THE_LIMIT = 4, ROUNDS = 2 };

/* One touch in so many is of any page, the others are of pages that nearly fit as they are. */
enum { COLD_EVERY = 128, HOT_MIB = LIMIT_MIB / 2 + LIMIT_MIB / 16, PATIENCE_S = 60 };

enum { WARM_UP_S = 2, SECONDS = 6, TOUCHES_BETWEEN_LOOKS = 100 };

static uint64_t (*pages)[WORDS];

static void fill(uint64_t (*to)[WORDS], size_t n)
{
	uint64_t seed = 1;

	for (size_t i = 0; i < n; i++)
		for (size_t w = 0; w < WORDS; w++)
			to[i][w] = i % INCOMPRESSIBLE_EVERY == 0 || w < WORDS / NOISE_DIVISOR ? mix(seed++) : i;
}

static int start(void **state)
{
	struct larder_options o = { .limit_bytes = (uint64_t)LIMIT_MIB * MIB,
				    .flags = LARDER_IGNORE_SYSTEM,
				    .swap_dir = swap_dir(),
				    .swap_bytes = (uint64_t)512 * MIB };
	int err = start_process((struct process_setup){ .options = &o });

	(void)state;
	if (!err)
		pages = mallocx((size_t)PAGES * PAGE, MALLOCX_ALIGN(PAGE));
	return err || !pages;
}

/*
 * A page that waits for the disk at the tail of staging once kept the slots of all that was evicted after it, which
 * counted: usage fell by a third, and what was in use with it.
 */
static void usage_stays_near_the_limit(void **state)
{
	uint64_t least = UINT64_MAX, seed = 2, sum = 0;
	time_t start_s = time(NULL);

	(void)state;
	fill(pages, PAGES);
	while (time(NULL) < start_s + SECONDS) {
		for (int i = 0; i < TOUCHES_BETWEEN_LOOKS; i++)
			sum += pages[mix(seed++) % PAGES][WORDS - 1];
		if (time(NULL) >= start_s + WARM_UP_S && now().usage_bytes < least)
			least = now().usage_bytes;
	}
	print_message("usage at least %.1f MiB of %d; %lu pages to disk at once (%lx)\n", (double)least / MIB,
		      LIMIT_MIB, (unsigned long)now().direct, (unsigned long)sum);
	assert_true(now().direct > 0);
	assert_true(least >= (uint64_t)LIMIT_MIB * MIB / 10 * 9);
}

/* Nothing that goes round is saved from the disk by a dictionary, and what goes on has to be compressed anew. */
static void what_goes_round_on_disk_is_compressed_for_speed(void **state)
{
	size_t n = (size_t)TIMES_THE_LIMIT * LIMIT_MIB * MIB / PAGE;
	uint64_t(*round)[WORDS] = mallocx(n * PAGE, MALLOCX_ALIGN(PAGE)), sum = 0, reads = now().disk.reads;
	const struct larder_age *age = &process_service()->memory.age;

	(void)state;
	assert_non_null(round);
	fill(round, n);
	assert_true(age_room_pays(age, 1));
	for (unsigned i = 0; i < ROUNDS; i++)
		for (size_t page = 0; page < n; page++)
			sum += round[page][WORDS - 1];
	print_message("%lu reads (%lx)\n", (unsigned long)(now().disk.reads - reads), (unsigned long)sum);
	assert_true(now().disk.reads > reads);
	assert_false(age_room_pays(age, 1));
	dallocx(round, 0);
}

/* Touch pages until what compressed ones may take is more, or less, than so much. */
static uint64_t touch_until(uint64_t (*heap)[WORDS], size_t n, size_t hot, int is_more, uint64_t bytes)
{
	uint64_t seed = 3, sum = 0, limit = now().compressed_limit_bytes;
	time_t start_s = time(NULL);

	while ((limit > bytes) != is_more && time(NULL) < start_s + PATIENCE_S) {
		for (int i = 0; i < TOUCHES_BETWEEN_LOOKS; i++) {
			uint64_t at = mix(seed++);

			sum += heap[at % (i % COLD_EVERY ? hot : n)][WORDS - 1];
		}
		limit = now().compressed_limit_bytes;
	}
	print_message("for compressed pages %.1f MiB (%lx)\n", (double)limit / MIB, (unsigned long)sum);
	return limit;
}

/* Where any page may be next, compressed ones get room; where some are wanted again and again, these do. */
static void the_share_of_compressed_pages_follows_what_is_wanted(void **state)
{
	size_t n = (size_t)TIMES_THE_LIMIT * LIMIT_MIB * MIB / PAGE, hot = (size_t)HOT_MIB * MIB / PAGE;
	uint64_t(*heap)[WORDS] = mallocx(n * PAGE, MALLOCX_ALIGN(PAGE));
	const uint64_t much = (uint64_t)LIMIT_MIB * MIB / 16 * 9, little = (uint64_t)LIMIT_MIB * MIB / 16 * 8;

	(void)state;
	assert_non_null(heap);
	fill(heap, n);
	assert_true(touch_until(heap, n, n, 1, much) > much);
	assert_true(touch_until(heap, n, hot, 0, little) <= little);
	assert_true(touch_until(heap, n, n, 1, much) > much);
	dallocx(heap, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usage_stays_near_the_limit),
		cmocka_unit_test(what_goes_round_on_disk_is_compressed_for_speed),
		cmocka_unit_test(the_share_of_compressed_pages_follows_what_is_wanted),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
