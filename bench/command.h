/*
 * A program that runs to its end, by each contender in turn: its time, its CPU time, its memory. `bench alloc` runs one
 * of ours, `bench app COMMAND` any.
 */
#ifndef BENCH_COMMAND_H
#define BENCH_COMMAND_H

#include "options.h"

/* argv ends with NULL. is_job: it is a job of larder-bench-job, which does `operations` operations. Returns the exit
 * code. */
int command_compare(const char *benchmark, const struct options *o, const char *const *argv, int is_job,
		    double operations);

#endif
