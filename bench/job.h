/*
 * Jobs: what larder-bench-job does for `larder bench alloc`, `fork` and `app`. It knows nothing of Larder: it is run
 * plain, in a cgroup, or under `larder run`.
 *
 * A job takes its arguments, leaves its figures in the turn, and returns an exit code: 0, or 1 when something was not
 * as it had been written.
 */
#ifndef BENCH_JOB_H
#define BENCH_JOB_H

#include "contents.h"
#include "turn.h"

#include <stddef.h>

/* Figures that jobs leave. Those of `alloc` and `fork` are their own affair; see job_churn.c, job_fork.c. */
enum app_figure {
	APP_OPERATIONS_S,
	APP_P50,
	APP_P99,
	APP_P999,
	APP_MEAN,
	APP_CPU_US,
	APP_LOAD_S,
	APP_MEMORY,
	APP_POOL,
	APP_RATIO,
	APP_FIGURES
};

/*
 * Call round(arg), which does untimed what will be timed, until the limit is in force: at least once. The memory of
 * process `pid` counts from then on, until job_set_figures().
 */
void job_settle(struct turn *t, pid_t pid, void (*round)(void *arg), void *arg);

/* Latency and speed of the operations that were timed; their CPU time in the process `pid` (0 = this one) since
 * `cpu_seconds`. */
void job_set_figures(struct turn *t, pid_t pid, double seconds, double operations, double cpu_seconds);

int job_churn(struct turn *t, int argc, char **argv);  /* OPERATIONS THREADS */
int job_fork(struct turn *t, int argc, char **argv);   /* PAGES FORKS CONTENTS SEED */
int job_chase(struct turn *t, int argc, char **argv);  /* PAGES SECONDS CONTENTS SEED */
int job_stream(struct turn *t, int argc, char **argv); /* the same */
int job_sqlite(struct turn *t, int argc, char **argv); /* the same, and zipf or uniform */

#endif
