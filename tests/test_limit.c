/*
 * Limits, as people write them.
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_read),
		cmocka_unit_test(percentages_are_read),
		cmocka_unit_test(what_is_no_limit_is_refused),
		cmocka_unit_test(impossible_limits_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
