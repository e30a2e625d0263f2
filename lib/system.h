/*
 * System: how Larder learns that memory is short outside this process, so that volatile memory can go before others
 * have to be killed.
 *
 * An internal thread sleeps in poll(2) until one of these speaks; it costs nothing while none does:
 *   PSI       triggers on memory.pressure of the process's cgroup (v2) or /proc/pressure/memory: how long tasks stall
 *             (Documentation/accounting/psi.rst)
 *   cgroup v1 memory.pressure_level: low, medium, critical, as reclaim in the cgroup gets harder
 *             (Documentation/admin-guide/cgroup-v1/memory.rst, section 11)
 *   cgroup v2 memory.events: throttled at memory.high, reclaimed at memory.max, out of memory
 *             (Documentation/admin-guide/cgroup-v2.rst)
 * A machine may have all of them or none.
 */
#ifndef LARDER_SYSTEM_H
#define LARDER_SYSTEM_H

#include <poll.h>
#include <stdint.h>

/* Levels are LARDER_SYSTEM_WARNING and its like, plus one; 0 = memory is not short. */
enum system_level { SYSTEM_CALM, SYSTEM_WARNING, SYSTEM_URGENT, SYSTEM_CRITICAL };

enum { SYSTEM_SOURCES_MAX = 8 };

enum system_kind { SYSTEM_PSI, SYSTEM_CGROUP1, SYSTEM_CGROUP2 };

struct system_source {
	enum system_kind kind;
	enum system_level level; /* PSI and cgroup v1: what it means when it speaks */
	uint64_t high, max, oom; /* cgroup v2: the counts last read */
};

struct larder_system {
	struct pollfd polled[SYSTEM_SOURCES_MAX];
	struct system_source sources[SYSTEM_SOURCES_MAX]; /* of the descriptor with the same index */
	unsigned count;
	enum system_level reported; /* what was reported last, and when: see system_wait() */
	uint64_t reported_ns;
	void (*short_of_memory)(void *arg, enum system_level level);
	void *arg;
};

/* Where to look; NULL = the kernel's usual places. For tests. */
struct system_paths {
	const char *proc_cgroup;   /* /proc/self/cgroup */
	const char *proc_pressure; /* /proc/pressure/memory */
	const char *cgroup1;	   /* /sys/fs/cgroup/memory */
	const char *cgroup2;	   /* /sys/fs/cgroup, or /sys/fs/cgroup/unified */
};

/* Open every source that there is. Returns how many; 0 is no error. */
unsigned system_open(struct larder_system *s, const struct system_paths *paths);
void system_close(struct larder_system *s);

/*
 * Sleep until memory is short; returns how short, the most urgent of what has been said. For a second after that,
 * sources that say the same or less are not listened to: some speak hundreds of times a second.
 */
enum system_level system_wait(struct larder_system *s);

/* What the text of memory.events says has happened since the source was read last. For tests. */
enum system_level system_read_events(const char *text, struct system_source *source);

/*
 * Open the sources and start a thread that calls `short_of_memory` each time. On an internal thread, whose descriptor
 * table it shares. Returns the number of sources (no thread for 0), or a negative errno.
 */
int system_start(struct larder_system *s, void (*short_of_memory)(void *arg, enum system_level level), void *arg);

#endif
