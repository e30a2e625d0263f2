/*
 * Purge: drop volatile memory. Reclaim thread only.
 */
#ifndef LARDER_PURGE_H
#define LARDER_PURGE_H

#include "choice.h"
#include "memory.h"

/*
 * Purge about `bytes` of RAM from the volatile ranges of classes (priority + 1) up to `upto`, of one pool or, with
 * REGION_HEAP, of all. Ranges go by class, and within a class by their pool's order; when all pools are asked, each
 * gives of a class in proportion to what it has of it. Returns the bytes of RAM given back. `choice`: room to
 * work in.
 */
uint64_t purge(struct larder_memory *m, struct larder_choice *choice, unsigned pool, unsigned upto, uint64_t bytes,
	       enum larder_purge_reason reason);

/* Bytes that are volatile and not purged yet, of classes up to `upto`, in one pool or, with REGION_HEAP, in all. */
uint64_t purge_available(const struct larder_memory *m, unsigned pool, unsigned upto);

#endif
