/*
 * Swap in: pages come back from disk.
 *
 * One reader thread is pinned to each CPU that has a fault handler. Whoever serves a fault hands the page over to the
 * reader of its own CPU and goes on: no wake-up crosses CPUs, a fault waits for its own read only, and as many reads
 * are under way at once as there are faults. The reader sends what has come to the device in one batch, sleeps until
 * something has been read or asked for, and makes the pages resident.
 */
#ifndef LARDER_SWAP_IN_H
#define LARDER_SWAP_IN_H

#include "futex.h"

#include <stddef.h>

struct larder_memory;
struct larder_reader;

enum { SWAP_IN_READERS_MAX = 8 };

struct larder_swap_in {
	/* Set before faults can hit pages on disk, then constant. */
	unsigned nreaders;
	struct larder_reader *readers[SWAP_IN_READERS_MAX];
	signed char reader_of_cpu[1024];

	_Atomic uint32_t full;	  /* 1: a fault was left unanswered for want of a free read */
	_Atomic uint32_t waiting; /* program threads that wait for a page that they asked for */
	struct larder_event done; /* posted when pages have been read and somebody is waiting */
};

/* Start the readers, on the CPUs given (negative: not pinned), sharing the caller's descriptor table. Returns 0 or a
 * negative errno: that of the first that could not be started. */
int swap_in_start(struct larder_memory *m, const int *cpus, unsigned ncpus);

/*
 * Read pages [first, first + n) from disk and make them resident. The caller owns them (RESTORING) and gives them away;
 * words[i] is what page first + i was. `since_ns`: when the fault that wants the first of them was seen; 0 = there is
 * none, this is readahead. `written`: the first page is about to be written to. Any thread. Returns 0, or -EBUSY: too
 * many reads are under way, and the caller still owns the pages.
 */
int swap_in(struct larder_memory *m, size_t first, const uint64_t *words, size_t n, unsigned credit, uint64_t since_ns,
	    int written);

/* Leave a fault unanswered until a read is done; then the readers wake the region. Handlers. */
void swap_in_put_off(struct larder_memory *m);

/* Wait for a page that is being read, or for any read to be done, at most timeout_ns. Program threads. */
void swap_in_await(struct larder_memory *m, size_t index, uint64_t timeout_ns);

#endif
