/*
 * The system's word that memory is short: on the machine, because of other processes, or in a container, because of its
 * limit. Volatile memory is purged by priority when it comes.
 *
 * lib/pressure.h is about the limit that Larder keeps for its own process; this is about limits that others keep. One
 * internal thread blocks in poll(2) on whatever the kernel offers and calls back with a level. It costs nothing while
 * nothing happens: all thresholds are kept by the kernel.
 *
 * Sources, of which a machine usually has two or three:
 *  - pressure stall information (Documentation/accounting/psi.rst): of the process's own cgroup, and of the machine;
 *  - memory.pressure_level of the cgroup v1 memory controller (admin-guide/cgroup-v1/memory.rst, 11. Memory Pressure);
 *  - memory.events.local of cgroup v2 (admin-guide/cgroup-v2.rst, Memory Interface Files).
 *
 * What a level means to a listener:
 *  WARNING   the kernel is recycling memory: perhaps clean page cache only, at no great cost to anybody. A process that
 *            reads large files in a container hears this all the time, so only what is hardly worth keeping should go;
 *  URGENT    everything waits for memory now and then, or reclaim has become hard work;
 *  CRITICAL  little work gets done, or the OOM killer is near.
 */
#ifndef LARDER_SYSTEM_H
#define LARDER_SYSTEM_H

#include <stdint.h>

enum system_level { SYSTEM_CALM, SYSTEM_WARNING, SYSTEM_URGENT, SYSTEM_CRITICAL };

enum { SYSTEM_SOURCES_MAX = 32, SYSTEM_PATH_BYTES = 4096 };

/* Where to look. NULL = where Linux has them; for tests. */
struct system_paths {
	const char *proc_pressure; /* /proc/pressure/memory */
	const char *proc_cgroup;   /* /proc/self/cgroup */
	const char *proc_meminfo;  /* /proc/meminfo */
	const char *cgroup_v1;	   /* mount point of the v1 memory controller: /sys/fs/cgroup/memory */
	const char *cgroup_v2;	   /* mount point of cgroup2: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside v1 */
};

enum system_kind { SYSTEM_CGROUP_STALLS, SYSTEM_MACHINE_STALLS, SYSTEM_V1_LEVEL, SYSTEM_V2_EVENTS };

/* How often a cgroup v2 ran into its limits: the fields of memory.events.local that matter here. */
struct system_events {
	uint64_t high, max, oom, oom_kill;
};

struct system_source {
	enum system_kind kind;
	enum system_level level; /* the highest it can report */
	int fd;			 /* what to poll; -1 = dropped */
	int witness;	    /* V1_LEVEL: the cgroup's memory.pressure_level, which can tell whether it still exists */
	uint64_t total_us;  /* stalls: `total` at the last firing */
	uint64_t needed_us; /* stalls: a firing counts if `total` has grown by this; 0 = every one counts */
	struct system_events events; /* V2_EVENTS: as last read */
};

/* Belongs to one thread: after system_open(), the one that calls system_wait(). */
struct larder_system {
	unsigned count;
	struct system_source sources[SYSTEM_SOURCES_MAX];
	int meminfo;		    /* -1 = none */
	int doubt_machine;	    /* 1: stalls of the machine count only when its memory really is short */
	enum system_level reported; /* nothing up to this level is reported until... */
	uint64_t quiet_until_ns;    /* ...then */
	void (*short_of_memory)(void *arg, enum system_level level);
	void *arg;
};

/*
 * Open every source there is.
 *
 * paths       NULL = the real ones.
 * returns     the number of sources; 0, when there is none, is not an error.
 * threads     on the thread whose descriptor table the waiting thread will share.
 */
int system_open(struct larder_system *s, const struct system_paths *paths);

/* Close what system_open() opened. Nobody waits any more. */
void system_close(struct larder_system *s);

/*
 * Block until memory is short.
 *
 * returns     the highest level that the sources report. After a report, nothing up to that level is reported for one
 *             second; what happens in that second is forgotten, unless it is more serious: that is reported at once.
 */
enum system_level system_wait(struct larder_system *s);

/*
 * Start the thread `larder-system`, which calls short_of_memory(arg, level) for every report, for ever. The callback
 * obeys the rules of internal threads (lib/thread.h); what is reported while it runs is judged when it returns.
 *
 * returns     0; a negative errno when there is no thread to be had. Without sources it starts none.
 */
int system_start(struct larder_system *s, void (*short_of_memory)(void *arg, enum system_level level), void *arg);

/* ---- steps of the above, for tests ---- */

/* The process's own cgroups, "/..." below the mount points. "" = none, or one that cannot be seen from here. */
struct system_cgroups {
	char v1[SYSTEM_PATH_BYTES];
	char v2[SYSTEM_PATH_BYTES];
};

/* Reads a file like /proc/self/cgroup. One that is missing has no cgroups. */
void system_read_cgroups(const char *path, struct system_cgroups *cgroups);

/* What the growth of the counts in `text`, the content of memory.events.local, means; `last` becomes those counts. */
enum system_level system_events_level(struct system_events *last, const char *text);

/*
 * Has the trigger `source` reason to fire? `text` is the content of its file; what it says is remembered, so that each
 * firing needs a growth of its own.
 */
int system_stall_is_proved(struct system_source *source, const char *text);

#endif
