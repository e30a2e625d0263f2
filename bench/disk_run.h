/*
 * The parts of bench_disk: what is measured, the contenders, and the limit that the disk sets.
 */
#ifndef BENCH_DISK_RUN_H
#define BENCH_DISK_RUN_H

#include "cgroup.h"
#include "paging.h"

#include <limits.h>
#include <stdint.h>

enum disk_figure {
	DISK_P50_US, /* of a random fault, one thread */
	DISK_P99_US,
	DISK_RANDOM_PAGES_S,  /* random faults of several threads */
	DISK_SEQUENTIAL_MB_S, /* ascending faults, one thread */
	DISK_CALL_MB_S,	      /* out: until the call returns */
	DISK_FREE_MB_S,	      /* out: until everything is on disk and its RAM free */
	DISK_WRITTEN_RATIO,   /* bytes written for each byte taken out, as the contender counts */
	DISK_DEVICE_RATIO,    /* the same, as the device counts */
	DISK_FIGURES
};

/* Figures that there are none of are NAN. */
struct disk_result {
	double figures[DISK_FIGURES];
};

struct disk_setup {
	struct paging_options paging;
	unsigned threads; /* of the random faults in parallel */
	const char *dir;
	char cgroup[CGROUP_PATH_BYTES]; /* "" = none is to be had */
	char swap_file[PATH_MAX], fio_file[PATH_MAX];
	int with_kernel;
};

/* How all pages went out once. */
struct disk_out {
	double call_seconds, free_seconds;
	uint64_t written_bytes;
};

struct disk_contender {
	const char *name;
	enum peer peer;
	/* Take all pages of the buffer to disk. Exits with 2 and a message when some are still in RAM then. */
	void (*out)(const struct disk_setup *s, enum peer peer, struct disk_out *out);
};

extern const struct disk_contender disk_swap, disk_larder, disk_inline;

/* Measure one contender in this process, which must do nothing else. Exits when it cannot; with 1 when contents were
 * damaged. */
void disk_run(const struct disk_setup *s, const struct disk_contender *c, uint64_t generation, struct disk_result *r);

/* Is fio there? Says so on standard output when it is not. */
int disk_fio_is_there(void);

/* What fio reaches in the directory, through io_uring and O_DIRECT, with the block sizes and queue depths that the
 * contenders could use. Returns 0, or -1 after saying why on standard error. */
int disk_fio(const struct disk_setup *s, struct disk_result *r);

#endif
