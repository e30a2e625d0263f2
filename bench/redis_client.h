/*
 * The client's side of the redis job: load, mix, verify. The state says which version of each record was written last,
 * so that every value read can be checked.
 *
 * Threads of the mix own disjoint sets of keys (index modulo threads): each knows what its keys must hold, and no lock
 * is needed. What goes wrong with the connection ends the program (server_lost()); what is wrong with a value is
 * counted.
 */
#ifndef BENCH_REDIS_CLIENT_H
#define BENCH_REDIS_CLIENT_H

#include "latency.h"

#include <stdint.h>

enum { CLIENT_THREADS = 2 };

struct records_written {
	uint64_t seed;
	uint32_t count;
	uint64_t bytes;	    /* of values, as loaded */
	uint32_t *versions; /* of each record; written by the thread that owns the key */
};

struct client_result {
	double seconds;
	uint64_t requests, bytes;
	uint64_t wrong, missing; /* values that were not what had been written, or not there */
};

/* As many records as make up `bytes` of values. */
void records_plan(struct records_written *w, uint64_t seed, uint64_t bytes);
void records_free(struct records_written *w);

/* Write version 0 of every record, pipelined, on one connection. */
struct client_result client_load(struct records_written *w, const char *socket);

enum { CLIENT_PIPELINE_MAX = 64 };

struct client_mixture {
	double seconds;
	unsigned pipeline; /* requests under way at once on a connection */
	int is_uniform;	   /* keys are drawn evenly; else by a Zipf distribution */
};

/*
 * 95 % reads, 5 % writes of a new version; CLIENT_THREADS connections. Latencies are added to *latency. `tick` is
 * called about four times a second.
 */
struct client_result client_mix(struct records_written *w, const char *socket, const struct client_mixture *mix,
				struct latency *latency, void (*tick)(void *), void *arg);

/* Read every record and compare, pipelined, on one connection. */
struct client_result client_verify(const struct records_written *w, const char *socket);

#endif
