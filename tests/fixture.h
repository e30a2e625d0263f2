/*
 * For the cmocka tests of the whole service in one process: starting it, its statistics, and the check of the page
 * table after a group. A test includes it last.
 */
#ifndef LARDER_TEST_FIXTURE_H
#define LARDER_TEST_FIXTURE_H

#include "start.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static inline int check_table(void **state)
{
	(void)state;
	process_check();
	return 0;
}

static inline struct larder_stats now(void)
{
	struct larder_stats s;

	assert_int_equal(process_get_stats(&s), 0);
	return s;
}

#endif
