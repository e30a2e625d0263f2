/*
 * What `larder stat PID --json` says: the command is asked, as a user would, rather than the library. A field that is
 * missing reads as NAN.
 */
#ifndef BENCH_LARDER_STAT_H
#define BENCH_LARDER_STAT_H

#include <sys/types.h>

struct larder_stat {
	double limit_bytes, usage_bytes, peak_usage_bytes, allocated_bytes;
	double faults, faults_stored, refaults, evictions, limit_unmet_events;
	double compression_ratio, density; /* content / compressed; compressed / the space for it */
	double disk_live_bytes, disk_reads, disk_write_bytes, disk_read_p50_us;
};

/* `larder` is the command's path. Returns 0, or -1 after saying why on standard error. */
int larder_stat_read(const char *larder, pid_t pid, struct larder_stat *s);

#endif
