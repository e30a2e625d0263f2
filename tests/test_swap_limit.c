/*
 * A process with a limit and a disk: reclaim takes what it has to, and no more. Needs userfaultfd.
 */
#include <jemalloc/jemalloc.h>
#include <stdlib.h>
#include <time.h>

#include "fixture.h"

enum { MIB = 1 << 20, PAGE = 4096, WORDS = PAGE / 8, LIMIT_MIB = 64, PAGES = 3 * LIMIT_MIB * MIB / PAGE };

/* One page in so many does not compress, so it goes to disk at once; a third of the others is noise. */
enum { INCOMPRESSIBLE_EVERY = 64, NOISE_DIVISOR = 3 };

enum { WARM_UP_S = 2, SECONDS = 6, TOUCHES_BETWEEN_LOOKS = 100 };

static uint64_t (*pages)[WORDS];

/* Not mix.h: by its order usage stays near the limit without the mechanism that this tests. */
static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return *seed >> 24 ^ *seed << 24;
}

static void fill(void)
{
	uint64_t seed = 1;

	for (size_t i = 0; i < PAGES; i++)
		for (size_t w = 0; w < WORDS; w++)
			pages[i][w] =
				i % INCOMPRESSIBLE_EVERY == 0 || w < WORDS / NOISE_DIVISOR ? next_random(&seed) : i;
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
 * A page on its way to disk at the tail of staging once kept the slots of all that was evicted after it, which counted
 * until its batch was full: usage fell to half of the limit, and what was in use with it. (Beside programs that leave
 * the writes no CPU it still does, since reclaim does not wait for them.)
 */
static void usage_stays_near_the_limit(void **state)
{
	uint64_t least = UINT64_MAX, seed = 2, sum = 0;
	time_t start_s = time(NULL);

	(void)state;
	fill();
	while (time(NULL) < start_s + SECONDS) {
		for (int i = 0; i < TOUCHES_BETWEEN_LOOKS; i++)
			sum += pages[next_random(&seed) % PAGES][WORDS - 1];
		if (time(NULL) >= start_s + WARM_UP_S && now().usage_bytes < least)
			least = now().usage_bytes;
	}
	print_message("usage at least %.1f MiB of %d; %lu pages to disk at once (%lx)\n", (double)least / MIB,
		      LIMIT_MIB, (unsigned long)now().direct, (unsigned long)sum);
	assert_true(now().direct > 0);
	assert_true(least >= (uint64_t)LIMIT_MIB * MIB / 4 * 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usage_stays_near_the_limit),
	};

	return cmocka_run_group_tests(tests, start, check_table);
}
