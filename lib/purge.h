/*
 * Purge: drop volatile memory. Reclaim thread only.
 */
#ifndef LARDER_PURGE_H
#define LARDER_PURGE_H

#include "memory.h"

enum { PURGE_CANDIDATES = 4096 };

/* One candidate: a segment as it was when it was seen. */
struct purge_candidate {
	uint64_t key, used;
	uint32_t id;
	uint8_t class;
};

/* The reclaim thread's room to choose in. */
struct larder_purger {
	struct purge_candidate heap[PURGE_CANDIDATES];
	uint32_t candidates;
	uint32_t more; /* 1: there were more than fit */
};

/*
 * Purge about `bytes` of RAM from the volatile ranges of classes (priority + 1) up to `upto`, of one pool or, with
 * REGION_HEAP, of all. Ranges go by class, and within a class by their pool's order; when all pools are asked, each
 * gives of a class in proportion to what it has of it. Returns the bytes of RAM given back.
 */
uint64_t purge(struct larder_memory *m, struct larder_purger *p, unsigned pool, unsigned upto, uint64_t bytes,
	       enum larder_purge_reason reason);

/* Bytes that are volatile and not purged yet, of classes up to `upto`, in one pool or, with REGION_HEAP, in all. */
uint64_t purge_available(const struct larder_memory *m, unsigned pool, unsigned upto);

#endif
