/*
 * Limits and sizes, as people write them.
 */
#include "limit.h"

#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const uint64_t mib = 1 << 20;

static void reads(const char *text, uint64_t bytes, unsigned percent)
{
	struct larder_limit limit = { 1, 1 };
	int err = limit_parse(text, &limit);

	if (err || limit.bytes != bytes || limit.percent != percent)
		fail_msg("'%s': error %d, %lu bytes, %u %%", text, err, limit.bytes, limit.percent);
}

static void refuses(const char *text, int want)
{
	struct larder_limit limit = { 7, 7 };
	int err = limit_parse(text, &limit);

	if (err != want || limit.bytes != 7 || limit.percent != 7)
		fail_msg("'%s': error %d, not %d; %lu bytes, %u %%", text, err, want, limit.bytes, limit.percent);
}

static void sizes_are_read(void **state)
{
	(void)state;
	reads("16777216", 16 * mib, 0);
	reads("16777216B", 16 * mib, 0);
	reads("16384k", 16 * mib, 0);
	reads("512M", 512 * mib, 0);
	reads("512m", 512 * mib, 0);
	reads("512MB", 512 * mib, 0);
	reads("512MiB", 512 * mib, 0);
	reads("2G", 2048 * mib, 0);
	reads("1.5G", 1536 * mib, 0);
	reads("0.5G", 512 * mib, 0);
	reads("1T", 1024 * 1024 * mib, 0);
}

static void percentages_are_read(void **state)
{
	(void)state;
	reads("1%", 0, 1);
	reads("50%", 0, 50);
	reads("100%", 0, 100);
}

static void what_is_no_limit_is_refused(void **state)
{
	static const char *const texts[] = { "",     " 1G",  "abc",   "-1",	    "+1G", "M",	  "%",
					     "5Q",   "1Gi",  "1GiBs", "1G ",	    "1.G", ".5G", "1,5G",
					     "50 %", "50%%", "1e9",   "0x10000000", "1MM", "1.5%" };

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		refuses(texts[i], -EINVAL);
}

static void impossible_limits_are_refused(void **state)
{
	static const char *const texts[] = { "0",	 "0%",	     "101%",	 "1k",
					     "15M",	 "16777215", "8388608T", "99999999999999999999",
					     "16777216T" };

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		refuses(texts[i], -ERANGE);
}

static void plain_sizes_are_read(void **state)
{
	uint64_t bytes = 7;

	(void)state;
	assert_int_equal(size_parse("0", 0, UINT64_MAX, &bytes), 0);
	assert_int_equal(bytes, 0);
	assert_int_equal(size_parse("4096", 4096, 4096, &bytes), 0);
	assert_int_equal(bytes, 4096);
	assert_int_equal(size_parse("1.5g", 1, UINT64_MAX, &bytes), 0);
	assert_int_equal(bytes, 1536 * mib);
	assert_int_equal(swap_size_parse("64M", &bytes), 0);
	assert_int_equal(bytes, 64 * mib);
	assert_int_equal(swap_size_parse("16TiB", &bytes), 0);
	assert_int_equal(bytes, 16 * 1024 * 1024 * mib);
}

static void what_is_no_plain_size_is_refused(void **state)
{
	static const struct {
		const char *text;
		int want;
	} cases[] = { { "", -EINVAL },
		      { "50%", -EINVAL },
		      { "-1", -EINVAL },
		      { "5Q", -EINVAL },
		      { "1G ", -EINVAL },
		      { "63M", -ERANGE },
		      { "0", -ERANGE },
		      { "67108863", -ERANGE },
		      { "17T", -ERANGE },
		      { "16777216T", -ERANGE },
		      { "99999999999999999999", -ERANGE } };
	uint64_t bytes = 7;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int err = swap_size_parse(cases[i].text, &bytes);

		if (err != cases[i].want || bytes != 7)
			fail_msg("'%s': error %d, not %d; %lu bytes", cases[i].text, err, cases[i].want, bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_read),
		cmocka_unit_test(percentages_are_read),
		cmocka_unit_test(what_is_no_limit_is_refused),
		cmocka_unit_test(impossible_limits_are_refused),
		cmocka_unit_test(plain_sizes_are_read),
		cmocka_unit_test(what_is_no_plain_size_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
