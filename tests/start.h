/*
 * Starting the whole service in the process of a test, on its own jemalloc.
 */
#ifndef LARDER_TEST_START_H
#define LARDER_TEST_START_H

#include "process.h"

#include <jemalloc/jemalloc.h>
#include <stdio.h>
#include <stdlib.h>

/* Whatever the setup says of the allocator. Returns process_start()'s error, which has been printed. */
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

/* Where the swap files of tests are made. */
static inline const char *swap_dir(void)
{
	const char *dir = getenv("TMPDIR");

	return dir ? dir : "/var/tmp";
}

#endif
