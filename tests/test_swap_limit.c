/*
 * A process with a limit and a disk: reclaim takes what it has to, and no more. Needs userfaultfd.
 */
#include <jemalloc/jemalloc.h>
#include <stdlib.h>
#include <time.h>

#include "fixture.h"
#include "mix.h"

enum { MIB = 1 << 20, PAGE = 4096, WORDS = PAGE / 8, LIMIT_MIB = 64, PAGES = LIMIT_MIB * MIB / PAGE / 4 * 5 };

/* One page in so many does not compress, so it goes to disk at once; a third of the others is noise. */
enum { INCOMPRESSIBLE_EVERY = 64, NOISE_DIVISOR = 3 };

enum { WARM_UP_S = 2, SECONDS = 6, TOUCHES_BETWEEN_LOOKS = 100 };

static uint64_t (*pages)[WORDS];

static void fill(void)
{
	uint64_t seed = 1;

	for (size_t i = 0; i < PAGES; i++)
		for (size_t w = 0; w < WORDS; w++)
			pages[i][w] = i % INCOMPRESSIBLE_EVERY == 0 || w < WORDS / NOISE_DIVISOR ? mix(seed++) : i;
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
	fill();
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usage_stays_near_the_limit),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
