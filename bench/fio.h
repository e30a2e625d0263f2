/*
 * What the disk itself can do, as fio(1) measures it: io_uring and O_DIRECT in a file without a name.
 */
#ifndef BENCH_FIO_H
#define BENCH_FIO_H

#include <stddef.h>

struct fio_job {
	const char *rw, *block; /* as fio calls them: "randread", "4k" */
	unsigned depth;		/* requests under way */
	int is_timed;		/* for two seconds, or once over the file */
};

struct fio_speed {
	double p50_us, p90_us, p99_us, p999_us, max_us, mean_us, operations_s, mb_s;
};

/* Is it there? */
int fio_is_there(void);

/* A file of `bytes` in the directory, written in full; its speed in *write unless that is NULL. Returns a descriptor.
 * Exits with 2. */
int fio_make_file(const char *dir, size_t bytes, struct fio_speed *write);

/* Do the job on it. Exits with 2 when fio fails. */
struct fio_speed fio_run(int file, size_t bytes, const struct fio_job *job);

#endif
