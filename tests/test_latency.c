/*
 * The histogram that the benchmarks keep latencies in: what it says is at most 0.1 % off what the samples say.
 */
#include "latency.h"
#include "random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SAMPLES = 100000 };

static const double quantiles[] = { 0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999 };

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* From nanoseconds to seconds, as many in each order of magnitude. */
static uint64_t draw(struct random *r)
{
	return (uint64_t)exp2(random_unit(r) * 32);
}

static void quantiles_are_those_of_the_samples(void **state)
{
	static uint64_t samples[SAMPLES];
	struct latency *l = latency_create();
	struct random r = { 1 };
	double sum = 0;

	(void)state;
	for (unsigned i = 0; i < SAMPLES; i++) {
		samples[i] = draw(&r);
		sum += (double)samples[i];
		latency_add(l, samples[i]);
	}
	qsort(samples, SAMPLES, sizeof(samples[0]), compare);
	for (unsigned i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		double exact = (double)samples[(size_t)(quantiles[i] * SAMPLES)] / 1000;

		assert_true(fabs(latency_quantile_us(l, quantiles[i]) - exact) <= exact * 0.001);
	}
	assert_true(latency_quantile_us(l, 1) == (double)samples[SAMPLES - 1] / 1000);
	assert_true(fabs(latency_mean_us(l) * 1000 * SAMPLES - sum) < sum * 1e-9);
	latency_destroy(l);
}

/* Below 2 us nothing is rounded. */
static void short_latencies_are_exact(void **state)
{
	struct latency *l = latency_create();

	(void)state;
	for (uint64_t ns = 0; ns < 2048; ns++)
		latency_add(l, ns);
	for (uint64_t ns = 0; ns < 2048; ns++)
		assert_true(latency_quantile_us(l, ((double)ns + 0.5) / 2048) == (double)ns / 1000);
	latency_destroy(l);
}

static void two_histograms_together_are_one_of_all_samples(void **state)
{
	struct latency *a = latency_create(), *b = latency_create(), *all = latency_create();
	struct random r = { 2 };

	(void)state;
	for (unsigned i = 0; i < SAMPLES; i++) {
		uint64_t ns = draw(&r);

		latency_add(i % 3 ? a : b, ns);
		latency_add(all, ns);
	}
	latency_append(a, b);
	assert_memory_equal(a, all, sizeof(*all));
	latency_destroy(a);
	latency_destroy(b);
	latency_destroy(all);
}

static void what_is_too_long_counts_as_the_longest(void **state)
{
	struct latency *l = latency_create();

	(void)state;
	latency_add(l, UINT64_MAX / 2);
	latency_add(l, 1000);
	assert_int_equal(l->count, 2);
	assert_true(latency_quantile_us(l, 0) == 1);
	assert_true(latency_quantile_us(l, 0.5) >= 68e6);
	latency_destroy(l);
}

static void nothing_has_no_quantiles(void **state)
{
	struct latency *l = latency_create();

	(void)state;
	assert_true(latency_quantile_us(l, 0.5) == 0 && latency_quantile_us(l, 1) == 0 && latency_mean_us(l) == 0);
	latency_destroy(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantiles_are_those_of_the_samples),
		cmocka_unit_test(short_latencies_are_exact),
		cmocka_unit_test(two_histograms_together_are_one_of_all_samples),
		cmocka_unit_test(what_is_too_long_counts_as_the_longest),
		cmocka_unit_test(nothing_has_no_quantiles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
