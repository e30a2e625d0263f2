/*
 * Pressure: what Larder makes the process cost, the limit on it, and who waits for whom.
 *
 * The cost counts pages that are resident or may be (unwatched), staging slots, the tiers' RAM and all tables; and of
 * the rest of the process's RSS (its text, stacks, what jemalloc had before us) what exceeds 4 % of the limit, up to
 * 1/8 of it. So a limit means what ps(1) shows, within 5 %. Beyond that share the rest is the program's own affair: no
 * heap, however small, could make up for it. Reclaim starts when the cost passes the high watermark and stops at the
 * low one. A pool's limit works in the same way on the pool's pages alone, compressed ones at their average size. Two
 * things keep a fast program from running away from reclaim:
 *  - extent allocation waits while the cost is above the limit (pressure_admit);
 *  - faults that would add a page are put off while the cost is well above it: the handler leaves the fault unanswered
 * and reclaim wakes the region when there is room again (pressure_should_put_off, `put_off`).
 *
 * When reclaim finds that nothing more can be taken, the limit is *unmet*: what was reached, and a little, becomes the
 * limit in its place
 * (`attained_bytes`), so that the program goes on but cannot grow without being reclaimed; the log and the statistics
 * say so, and reclaim tries for the real limit again at growing intervals.
 */
#ifndef LARDER_PRESSURE_H
#define LARDER_PRESSURE_H

#include "futex.h"

#include <larder/stats.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct larder_memory;

struct larder_pressure {
	/* Set before threads start, then constant. */
	uint64_t fixed_bytes; /* stacks, scratch and tables that do not grow */
	int statm;	      /* /proc/self/statm, in the internal threads' descriptor table */

	_Atomic uint64_t
		shared_bytes; /* shared volatile ranges: what is not lost, as last measured, plus what came since */
	_Atomic uint64_t other_bytes; /* the rest of the process's RSS, as last measured by the reclaim thread */

	struct larder_event wanted;    /* posted to the reclaim thread: look again */
	_Atomic uint32_t asleep;       /* 1 while the reclaim thread waits on `wanted` */
	struct larder_event relieved;  /* posted by the reclaim thread after each step */
	_Atomic uint32_t suspended;    /* 1: nobody waits for reclaim, which is busy with a fork */
	_Atomic uint32_t put_off;      /* 1: faults were left unanswered; reclaim wakes the region when it can */
	_Atomic uint32_t wake_region;  /* 1: a program thread asks the reclaim thread to wake the region */
	_Atomic uint32_t marked;       /* 1: memory was marked volatile while a limit was unmet */
	_Atomic uint32_t system_level; /* enum system_level: memory is short outside this process */
};

struct larder_watermarks {
	uint64_t limit_bytes; /* as asked for; UINT64_MAX = none */
	uint64_t wait_bytes;  /* allocations wait above this: the limit, or what was attained */
	uint64_t high_bytes, low_bytes;
};

/* What counts against the limit of a pool; of REGION_HEAP: of the process. */
uint64_t pressure_usage_bytes(const struct larder_memory *m, unsigned pool);
struct larder_watermarks pressure_watermarks(const struct larder_memory *m, unsigned pool);

/* Measure the rest of the process's RSS, and the shared volatile ranges. Reclaim thread. */
void pressure_measure_rest(struct larder_memory *m);

uint64_t pressure_metadata_bytes(const struct larder_memory *m);

/* Is the cost of the pool, or of the process, above its high watermark? */
int pressure_is_high(const struct larder_memory *m, unsigned pool);

/* True when usage is well below the low watermark: what is brought in now moves nothing out. */
int pressure_has_room(const struct larder_memory *m, unsigned pool);

/* Tiers that may take pages of a pool: for store_put(). */
uint32_t pressure_tiers(const struct larder_memory *m, unsigned pool);

/* Wake the reclaim thread if the cost is above the high watermark, the pool's or the process's. Any thread, often. */
void pressure_notice(struct larder_memory *m, unsigned pool);

/* Wake the reclaim thread to look at its requests. */
void pressure_wake_reclaim(struct larder_memory *m);

/* Memory of the pool was marked volatile: if a limit is unmet, reclaim can do better now. Program threads. */
void pressure_marked(struct larder_memory *m, unsigned pool);

/* Program threads have no userfaultfd to wake those that wait for a fault: the reclaim thread does it for them. */
void pressure_ask_to_wake(struct larder_memory *m);

/* Called when memory has been handed out: notice, and wait for reclaim while the cost is above a limit. Program
 * threads. */
void pressure_admit(struct larder_memory *m, unsigned pool);

/*
 * Waiting for what a program thread holds: a lock, or a page. That thread may be waiting for reclaim itself, when it
 * faults while it holds it (its stack may be managed memory) and the fault is put off. So when the reclaim thread has
 * to wait for more than a moment, faults are not put off until it has what it wants.
 */
struct larder_wait {
	unsigned turns;
	int let_go;
};

/* One turn of waiting, and the end of it. Any thread. */
void pressure_wait_turn(struct larder_memory *m, struct larder_wait *wait);
void pressure_wait_end(struct larder_memory *m, const struct larder_wait *wait);

/* Lock a chunk or a shard, waiting like this. */
void pressure_lock(struct larder_memory *m, struct larder_mutex *lock);

/* Should a fault that adds a page be left for later? Handlers. */
int pressure_should_put_off(const struct larder_memory *m, unsigned pool);

/* Leave a fault for the reclaim thread to wake when there is room. */
void pressure_put_off(struct larder_memory *m);

/*
 * Bring the gauges in `to` up to date: in the statistics page, where the last of several writers wins, or in a copy.
 * Any thread.
 */
void pressure_publish(const struct larder_memory *m, struct larder_stats *to);

#endif
