/*
 * Reclaim: one thread that takes cold pages out of the program's mapping and puts them into the store.
 */
#ifndef LARDER_RECLAIM_H
#define LARDER_RECLAIM_H

#include "purge.h"
#include "evict.h"
#include "system.h"

/* Set by the reclaim thread when it rests; cleared by it, in one step with seeing no thread in fork. */
#define RECLAIM_FROZEN ((uint32_t)1 << 31)

/* What a program thread asks for. */
enum reclaim_request_kind {
	REQUEST_EVICT,	     /* bytes: take out about so much */
	REQUEST_EVICT_RANGE, /* first, pages: take these out */
	REQUEST_WATCH,	     /* first, pages: put their chunks under watch, so that they can be trapped */
	REQUEST_PURGE,	     /* pool, upto, bytes: purge volatile memory */
	REQUEST_ADOPT,	     /* fd: make the program's descriptor one of the internal threads' too */
	REQUEST_DISOWN,	     /* fd: close such a descriptor */
	REQUEST_LEND,	     /* fd: a socket to send the disk's descriptors through, for a child */
	REQUEST_ADOPT_PAGES, /* first, pages: see region_adopt() */
	REQUEST_RELINQUISH,  /* first, pages: see region_relinquish() */
	REQUEST_WATCH_SYSTEM /* purge when memory is short outside the process, too */
};

struct reclaim_request {
	enum reclaim_request_kind kind;
	int fd;
	unsigned pool, upto;
	uint64_t bytes;
	size_t first, pages;
};

struct larder_reclaim {
	struct larder_memory *memory;
	struct larder_restorer restorer;
	_Atomic uint64_t off_cpus; /* see watch_keep_off() */
	struct larder_swap_out swap_out;
	uint64_t disk_since_ns; /* when something was last written, while nothing else can be done; 0 = does not matter
				 */
	size_t copies_hand;	/* dropping copies on disk goes on from this page */
	struct larder_choice choice; /* what purges choose in */
	struct larder_system system;

	/* Reclaim thread only. */
	unsigned idle_turns;	    /* turns of the clock in a row that evicted next to nothing */
	size_t turn_evicted;	    /* pages evicted in the turn under way */
	uint64_t last_purge_ns;	    /* when the allocator was last asked to give back what it holds free */
	uint64_t purge_interval_ns; /* grows while asking brings nothing */
	uint64_t next_volatile_ns;  /* volatile memory that could not be purged is not looked for before */

	/* Requests by program threads. */
	_Atomic uint32_t freeze;	  /* threads in fork, plus RECLAIM_FROZEN once nothing leaves any more */
	_Atomic uint32_t disk_is_lent;	  /* 1: the child will have the disk; the forking thread's, before it freezes */
	struct larder_mutex request_lock; /* one request at a time; guards `request` and `result` with `requested` */
	_Atomic uint32_t requested;	  /* 1: there is a request; the reclaim thread's until it is 0 again */
	struct reclaim_request request;
	int64_t result;
	struct larder_event answered; /* posted when a request is done */

	/* The allocator's side (arena.c): a program thread purges when `purge_wanted` is posted, and posts
	 * `purge_done`, as it does when it is ready. */
	struct larder_event purge_wanted, purge_done;
	_Atomic uint32_t purger_ready; /* 1: there is such a thread */
};

/* The reclaim thread's life; does not return. Everything in memory is open and the fault service runs. */
void reclaim_run(struct larder_reclaim *r);

/*
 * Program threads. freeze: nothing leaves and nothing is dropped until thaw, as inherit.h wants it for a fork. Faults
 * are served meanwhile. Nests.
 */
void reclaim_freeze(struct larder_reclaim *r);
void reclaim_thaw(struct larder_reclaim *r);

/* After a fork, in the child: the thread is not there, and nobody has asked it for anything. */
void reclaim_inherit(struct larder_reclaim *r);

/* Have the reclaim thread do something, and wait for it. Returns what it says: bytes, a descriptor, or a negative
 * errno. Program threads. */
int64_t reclaim_ask(struct larder_reclaim *r, const struct reclaim_request *request);

/* Memory is short outside this process: have volatile memory purged accordingly. Any thread. */
void reclaim_system_pressure(struct larder_reclaim *r, enum system_level level);

#endif
