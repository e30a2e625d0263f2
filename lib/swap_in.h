/*
 * Swap in: pages come back from disk.
 *
 * A fault handler reads what its fault wants by itself: it sends the read, waits for faults and for what it reads at
 * once, and makes the page resident; so a fault waits for its own read only, no thread has to wake another, and as many
 * reads are under way as there are faults. What nobody waits for yet (readahead), and what program threads want that
 * serve their own faults, goes to one of the readers, one thread per CPU, that do nothing else.
 */
#ifndef LARDER_SWAP_IN_H
#define LARDER_SWAP_IN_H

#include "futex.h"

#include <stddef.h>

struct larder_memory;
struct larder_reader;
struct larder_restorer;

enum { SWAP_IN_READERS_MAX = 8, SWAP_IN_NO_CPU = -1 };

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

/* Who wants pages. */
struct swap_in_request {
	uint64_t since_ns; /* when the fault that wants them was seen; 0 = there is none, this is readahead */
	size_t wanted;	   /* the page that the fault is about: it gets the credit */
	unsigned credit;
	int written; /* it is about to be written to: a copy of it on disk is of no use */
};

/*
 * Read pages [first, first + n) from disk and make them resident. The caller owns them (RESTORING) and gives them away;
 * words[i] is what page first + i was. Any thread. Returns 0, or -EBUSY: too many reads are under way, and the caller
 * still owns the pages.
 */
int swap_in(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
	    const struct swap_in_request *request);

/* The same for what lies in the same blocks, by a program thread with a descriptor of its own. Returns 0 when it is
 * done, or an errno: the caller still owns the pages, and a reader may have more success. */
int swap_in_now(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		const struct swap_in_request *request);

/* Leave a fault unanswered until a read is done; then the readers wake the region. Handlers. */
void swap_in_put_off(struct larder_memory *m);

/* Wait for a page that is being read, or for any read to be done, at most timeout_ns. Program threads. */
void swap_in_await(struct larder_memory *m, size_t index, uint64_t timeout_ns);

/* ---- for a thread that reads by itself ---- */

/* Make a reader for the calling thread, an internal one, on the CPU given. Returns 0 or a negative errno. */
int swap_in_reader(struct larder_memory *m, int cpu, struct larder_reader **reader);

/* The reader's own restorer. */
struct larder_restorer *swap_in_restorer(struct larder_reader *r);

/* Is anything under way? */
int swap_in_is_busy(const struct larder_reader *r);

/* May something have been read? It is cheap to ask. */
int swap_in_is_ready(const struct larder_reader *r);

/* An eventfd that is posted when something may have been, to be polled and read. */
int swap_in_done_fd(const struct larder_reader *r);

/* Send what is to be read, and make resident what has been. Returns 0 when nothing had. */
int swap_in_go_on(struct larder_reader *r);

#endif
