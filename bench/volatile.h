/*
 * The parts of bench_volatile: marks (volatile and back) and purges.
 */
#ifndef BENCH_VOLATILE_H
#define BENCH_VOLATILE_H

#include <json-c/json.h>
#include <larder/larder.h>
#include <stddef.h>
#include <stdint.h>

struct volatile_bench {
	unsigned runs, max_threads;
	size_t working_set_bytes;   /* a working set of many ranges takes at most this much, for each side */
	size_t purge_bytes;	    /* purged at once */
	unsigned milliseconds;	    /* each measurement of marks lasts at least that long */
	larder_pool *pool;	    /* Larder's side; no limit */
	struct json_object *report; /* NULL: print tables */
	int missed;		    /* targets */
};

/* Each measures, prints a table or adds to the report, and counts missed targets. Exits with 2 when a call fails. */
void volatile_measure_marks(struct volatile_bench *b);
void volatile_measure_purges(struct volatile_bench *b);

/* Exits with 2, naming the call, when a result of Larder is negative. Returns the result. */
int64_t volatile_check(int64_t result, const char *call);

/* A page range of the pool, and anonymous memory without huge pages. Exit with 2 when there is no memory. */
char *volatile_map_larder(const struct volatile_bench *b, size_t bytes);
char *volatile_map_plain(size_t bytes);

/* Write every byte. */
void volatile_write(char *p, size_t bytes);

/* Pages of [p, p + bytes) that do not hold what volatile_write() wrote. */
size_t volatile_wrong_pages(const char *p, size_t bytes);

/* "4 KiB" */
const char *volatile_size_text(size_t bytes);

/* What stands beside a figure that has a target: met or MISSED, which is counted. */
const char *volatile_verdict(struct volatile_bench *b, int met);

#endif
