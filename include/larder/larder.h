/*
 * Larder: keeps a program's cold memory in cheaper places.
 *
 * A program either runs unmodified under `larder run`, or calls larder_start() early in main(). From then on what it
 * allocates with jemalloc (malloc and its family, when the program is linked with jemalloc) lies in one managed region:
 * its cold pages are compressed when the process comes near its limit, and come back by themselves when touched.
 *
 * All functions return 0 or a positive result on success and a negative errno on failure; none sets errno.
 */
#ifndef LARDER_LARDER_H
#define LARDER_LARDER_H

#include <larder/stats.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LARDER_VERSION_MAJOR  0
#define LARDER_VERSION_MINOR  1
#define LARDER_VERSION_PATCH  0
#define LARDER_VERSION_STRING "0.1.0"

/* How to run. Zero a whole struct first: zero is the default of every field. */
struct larder_options {
	uint64_t limit_bytes; /* managed memory may cost this much RAM; 0 = no limit. At least 16 MiB. */
	unsigned
		limit_percent; /* 1..100: the limit as a share of what the program has allocated; 0 = use limit_bytes */
	unsigned flags;	       /* must be 0 */
};

/*
 * Start the service in this process and put jemalloc's arenas into the managed region.
 *
 * options  copied; NULL = no limit.
 * returns  0; -EALREADY: already started, by this call or by `larder run`; -EINVAL: an option is out of range or both
 * limits are given; -EPERM: userfaultfd is not permitted; -EOPNOTSUPP: kernel older than 6.8; -ENOSYS: kernel built
 *          without userfaultfd; -ENOMEM: no address space for the region; -ENOPKG: the program's malloc is not jemalloc
 *          with extent hooks. On error nothing has changed.
 * threads  call once, before threads that allocate exist; any thread may call any other function.
 */
int larder_start(const struct larder_options *options);

/*
 * Take at least `bytes` of resident managed memory out to the tiers now, whatever the limit.
 * Blocks until done or until nothing more can be taken.
 * returns  bytes taken out of the program's mapping and stored, >= 0; -ENOTCONN: not started.
 * cost     about 3 us a page (LZ4 compression), on the reclaim thread.
 */
int64_t larder_reclaim(uint64_t bytes);

/*
 * Copy the statistics of this process. See larder/stats.h for their meaning and consistency.
 * returns  0; -ENOTCONN: not started.
 */
int larder_get_stats(struct larder_stats *stats);

/* "0.1.0": of the library that runs, which may be newer than the header. */
const char *larder_version(void);

#ifdef __cplusplus
}
#endif
#endif
