/*
 * The parts of bench_cache: the objects, the contenders, the simulation of one contender.
 */
#ifndef BENCH_CACHE_H
#define BENCH_CACHE_H

#include "contents.h"

#include <stddef.h>
#include <stdint.h>

enum { CACHE_PAGE_BYTES = 4096, CACHE_TICK_REQUESTS = 64 };

/* The same for all contenders of a run. */
struct cache_setup {
	uint32_t objects;
	size_t object_bytes; /* whole pages */
	uint64_t limit_bytes;
	unsigned resident_percent; /* of the limit, at least, where part of it may be spent on compressed objects */
	enum contents contents;
	double skew;	      /* of the Zipf distribution of reads */
	unsigned cost_us;     /* of CPU to make an object again, on average */
	unsigned cost_spread; /* the dearest object's cost / the cheapest's */
	unsigned seconds;
	uint64_t warm_up_requests;
	uint64_t seed;
	int inline_faults;  /* Larder's pools: LARDER_FAULT_INLINE. Objects are touched only while pinned. */
	const char *cgroup; /* path, for contenders that need one */
};

struct cache_result {
	double seconds, cpu_seconds;
	uint64_t requests, hits, wrong;
	double p50_us, p99_us, hit_p99_us;
	uint64_t peak_rss_bytes;   /* of the whole process */
	uint64_t cache_peak_bytes; /* of that, what the contender has added, and compressed memory outside the process;
				      sampled */
	uint64_t compressed_bytes; /* RAM for compressed objects, when the run ended; of the above */
};

/* ---- objects (cache_object.c) ---- */

/* Take the memory that checking needs. Call first. */
void object_prepare(const struct cache_setup *s);

/* Write object `id`: contents, and at the start of each page a word that is never 0 and says whose page it is. */
void object_make(const struct cache_setup *s, uint32_t id, void *object);

/* Read all of it. Returns 1 when it is object `id`, every word of it. */
int object_is_right(const struct cache_setup *s, uint32_t id, const void *object);

/* True when the first word of each page is there: what a program must look at that cannot ask whether it lost pages. */
int object_is_whole(const struct cache_setup *s, uint32_t id, const void *object);

/* The CPU time that making it again costs, and taking that time. */
uint64_t object_cost_ns(const struct cache_setup *s, uint32_t id);
void object_spend(uint64_t cpu_ns);

/* ---- contenders ---- */

enum cache_needs { CACHE_NEEDS_NOTHING, CACHE_NEEDS_CGROUP, CACHE_NEEDS_ZRAM /* and a cgroup */ };

/*
 * A cache of objects. get() makes the object usable and says by *hit whether its content is there; when it is not, the
 * caller makes it. put() ends the use of what get() returned.
 */
struct cache_contender {
	const char *name, *what;
	enum cache_needs needs;
	void (*open)(const struct cache_setup *);
	void *(*get)(uint32_t id, int *hit);
	void (*put)(uint32_t id, int was_hit);
	void (*tick)(void);		    /* NULL, or called every CACHE_TICK_REQUESTS requests */
	uint64_t (*compressed_bytes)(void); /* NULL, or RAM for compressed objects */
	int compressed_in_process;	    /* ... which is part of the process's RSS */
};

extern const struct cache_contender cache_lru, cache_volatile_lru, cache_volatile_cost, cache_volatile_lz4,
	cache_madv_free, cache_zram;

/* Run one contender in this process. Exits with 2 when it cannot be set up. (cache_run.c) */
struct cache_result cache_run(const struct cache_setup *s, const struct cache_contender *c);

#endif
