/*
 * One memory cgroup for the time of one benchmark, of version 1 or 2, whichever has the memory controller.
 *
 * It needs root. The process that creates it removes it, after the processes in it have ended.
 */
#ifndef BENCH_CGROUP_H
#define BENCH_CGROUP_H

#include <stdint.h>

/* Room for the path of a cgroup. */
enum { CGROUP_PATH_BYTES = 64 };

/* Make a cgroup. Returns 0 and its path, or a negative errno; -EOPNOTSUPP: no memory controller is to be had. */
int cgroup_create(char path[CGROUP_PATH_BYTES]);

/* Remove it. Waits for the last process in it to be gone, up to a second. Returns 0 or a negative errno. */
int cgroup_remove(const char *path);

/* Put this process into it. What the process has allocated already is not charged to it. Returns 0 or a negative
 * errno. */
int cgroup_join(const char *path);

/* Limit the RAM that its processes are charged for. Blocks until what is too much is reclaimed. Returns 0 or a negative
 * errno. */
int cgroup_limit(const char *path, uint64_t bytes);

/* Where the kernel can (version 1): should processes that it would kill for want of memory wait instead? And does one
 * wait? It goes on when the limit is raised. System calls that need memory do not wait: they fail. */
void cgroup_wait_for_memory(const char *path, int should_wait);
int cgroup_is_waiting(const char *path);

/* RAM that its processes are charged for now. */
uint64_t cgroup_usage_bytes(const char *path);

/* Which version's memory controller cgroup_create() uses: 1, or else 2. */
int cgroup_is_v1(void);

/* Have the kernel take back all that it can of its RAM, to swap too. Blocks. Returns 0 or a negative errno; that not
 * all could be taken is no error. */
int cgroup_empty(const char *path);

/* Keep its processes out of swap areas, whatever else uses them. Call after cgroup_limit(). Returns 0 or a negative
 * errno. */
int cgroup_forbid_swap(const char *path, uint64_t limit_bytes);

#endif
