/*
 * What this machine can do. Each check makes one finding, for `larder doctor` to list and `larder run` to refuse on.
 */
#ifndef LARDER_PROBE_H
#define LARDER_PROBE_H

#include <stddef.h>

enum probe_verdict {
	PROBE_OK,
	PROBE_WARN, /* Larder runs; something optional is missing */
	PROBE_FAIL, /* Larder cannot run */
};

struct probe_finding {
	const char *check; /* "kernel", "userfaultfd", ... */
	enum probe_verdict verdict;
	char found[200];  /* what there is */
	char remedy[200]; /* what to do; "" when ok */
};

enum { PROBE_MAX_FINDINGS = 12 };

/* Run every check. Returns how many findings were made. */
size_t probe_machine(struct probe_finding findings[PROBE_MAX_FINDINGS]);

/* Run the checks that `larder run` depends on. Returns 0, or 1 with the first failure in *finding. */
int probe_for_run(struct probe_finding *finding);

/* `larder PROBE_JEMALLOC` exits with 0 when jemalloc is in its own process: how check_jemalloc asks the loader. */
#define PROBE_JEMALLOC "--probe-jemalloc"
int probe_jemalloc_is_here(void);

/* What swap depends on besides. Returns 0, or 1 when io_uring cannot be had; *finding says why. */
int probe_io_uring(struct probe_finding *finding);

/* Absolute name of the preload object into `path`. Returns 0, or -1 when it is in none of the places where it belongs.
 */
int probe_preload_path(char *path, size_t size);

#endif
