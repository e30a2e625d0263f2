/*
 * Turns: contenders run one after the other, A B A B, each in a process of its own that starts from nothing; the
 * kernel's peer is on only during the turns that use it.
 *
 * While a contender has its turn, the orchestrator holds the total at the limit: what the peer takes outside of the
 * memory cgroup (zram's pool) is taken away from the cgroup's limit, some hundred times a second. It also looks at the
 * memory that the contender takes, and shows how far the whole benchmark has come.
 */
#ifndef BENCH_TURN_H
#define BENCH_TURN_H

#include "latency.h"
#include "peer.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum { FIGURES_MAX = 24 };

/* What the orchestrator and a contender's process share. */
struct turn {
	/* the contender writes: */
	double figures[FIGURES_MAX]; /* NAN where there is none */
	struct latency latency;
	_Atomic double done; /* 0 to 1: how far this turn has come */
	atomic_int pid;	     /* whose memory counts from now on; 0 = do not look */
	uint64_t base_bytes; /* of its anonymous memory, what was there before */
	char note[128];	     /* "" or a remark to stand below the table */
	/* the orchestrator writes: */
	atomic_int is_settled;		 /* the limit is in force: the pool has the size that goes with it */
	unsigned run;			 /* from 0; contents differ from run to run */
	_Atomic uint64_t limiter_cpu_ns; /* spent on holding the limit: reclaim that the kernel did for the contender */
	uint64_t peak_bytes;		 /* of RAM, pool included, without files and without base_bytes */
	uint64_t peak_pool_bytes;	 /* the peer's pool */
};

struct turn_setup {
	const struct peer *peer; /* NULL: the contender has no use for the kernel's swap */
	uint64_t limit_bytes;	 /* of RAM in total; 0 = none. Without a peer, the contender's own business. */
	void (*body)(struct turn *,
		     void *); /* what the contender's process does; exits with another status than 0 when it fails */
	void *arg;
	int waits_for_memory; /* rather than be killed by the kernel, where that is possible: it makes no system calls
				 then */
};

/* Prepare the peer (NULL = none) for `bytes`, make a cgroup for it and go on under a watcher. Exits with 2. */
void turns_begin(const struct peer *peer, const char *dir, uint64_t bytes);

/* `count` turns are to come: for the progress bar. */
void turns_expect(const char *benchmark, unsigned count);
void turns_end(void);

/*
 * Run the body in a process. Returns its exit status, or 128 and the signal that ended it. The kernel
 * sometimes ends a process whose cgroup is at its limit though there is still something to reclaim; then the turn is
 * repeated, a few times, with 2 % more memory each time. *killed counts that, over the turns of a contender in a case.
 */
int turn_run(struct turn **turn, const struct turn_setup *s, const char *name, unsigned run, unsigned *killed);

/* In the contender's process: put it into the cgroup, if the turn has one. What it has allocated already is not
 * charged. */
void turn_join_cgroup(void);

/* The descriptor of what they share, which a program that is executed in a turn inherits. */
int turn_descriptor(void);

/* In such a program: the turn. Exits with 2. */
struct turn *turn_map(int descriptor);

/* The cgroup's path, "" when there is none. */
const char *turn_cgroup(void);

/* CPU time that process `pid` (0 = this one) and the limiter have used, in seconds. */
double turn_cpu_seconds(const struct turn *t, pid_t pid);

#endif
