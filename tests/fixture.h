/*
 * For the cmocka tests of the whole service in one process: starting it on hooked jemalloc arenas, its statistics, and
 * the check of the page table after a group. A test includes it last.
 */
#ifndef LARDER_TEST_FIXTURE_H
#define LARDER_TEST_FIXTURE_H

#include "process.h"

#include <jemalloc/jemalloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* Start with this process's jemalloc, whatever the setup says of the allocator. Returns process_start()'s error. */
static inline int start_process(struct process_setup setup)
{
	static const struct arena_allocator jemalloc = {
		.mallctl = mallctl, .mallocx = mallocx, .dallocx = dallocx, .sallocx = sallocx
	};
	int err;

	setup.allocator = &jemalloc;
	err = process_start(&setup);
	if (err)
		fprintf(stderr, "cannot start: %d\n", err);
	return err;
}

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
