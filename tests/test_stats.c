/*
 * Latency buckets: every value lies in the bucket that says it holds it, and buckets are narrow.
 */
#include "stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void check(uint64_t ns)
{
	unsigned bucket = stats_latency_bucket(ns);
	uint64_t from = larder_latency_floor_ns(bucket), to = larder_latency_floor_ns(bucket + 1);

	if (ns < from || ns >= to)
		fail_msg("%lu ns went to bucket %u, which holds [%lu, %lu)", ns, bucket, from, to);
	if (from >= 8 && (to - from) * 8 > from)
		fail_msg("bucket %u is %lu wide at %lu", bucket, to - from, from);
}

static void values_go_to_their_buckets(void **state)
{
	(void)state;
	for (uint64_t ns = 0; ns < 100000; ns++)
		check(ns);
	for (uint64_t ns = 100000; ns < (uint64_t)1 << 40; ns += ns / 97)
		check(ns);
	assert_int_equal(stats_latency_bucket(UINT64_MAX), LARDER_LATENCY_BUCKETS - 1);
}

static void buckets_are_in_order(void **state)
{
	(void)state;
	for (unsigned b = 0; b + 1 < LARDER_LATENCY_BUCKETS; b++)
		assert_true(larder_latency_floor_ns(b) < larder_latency_floor_ns(b + 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_go_to_their_buckets),
		cmocka_unit_test(buckets_are_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
