/*
 * Purge events: a ring with the reclaim thread as its one writer; readers take turns (process.c).
 *
 * When it is full, new events are dropped and counted; the next one that fits says how many.
 */
#ifndef LARDER_EVENTS_H
#define LARDER_EVENTS_H

#include "sys.h"

#include <larder/larder.h>
#include <stdatomic.h>

struct larder_events {
	struct larder_purge_event *ring; /* LARDER_PURGE_EVENTS of them; NULL until somebody wants events */
	_Atomic uint64_t head, tail;	 /* events in the ring are [tail, head) */
	uint64_t missed;		 /* reclaim thread only */
	int program_fd;			 /* the eventfd, in the program's descriptor table */
	_Atomic int internal_fd;	 /* the same in the internal threads' table; 0 = none */
};

static inline int events_are_wanted(const struct larder_events *e)
{
	return atomic_load_explicit(&e->internal_fd, memory_order_acquire) != 0;
}

/* Reclaim thread. */
static inline void events_push(struct larder_events *e, const struct larder_purge_event *event)
{
	static const uint64_t one = 1;
	uint64_t head = atomic_load_explicit(&e->head, memory_order_relaxed);
	int fd = atomic_load_explicit(&e->internal_fd, memory_order_acquire);

	if (fd == 0)
		return;
	if (head - atomic_load_explicit(&e->tail, memory_order_acquire) == LARDER_PURGE_EVENTS) {
		e->missed++;
		return;
	}
	e->ring[head % LARDER_PURGE_EVENTS] = *event;
	e->ring[head % LARDER_PURGE_EVENTS].missed = e->missed;
	e->missed = 0;
	atomic_store_explicit(&e->head, head + 1, memory_order_release);
	sys_write(fd, &one, sizeof(one));
}

/* Readers. Returns how many events are in `to`. */
static inline unsigned events_take(struct larder_events *e, struct larder_purge_event *to, unsigned max)
{
	uint64_t tail = atomic_load_explicit(&e->tail, memory_order_relaxed);
	uint64_t head = atomic_load_explicit(&e->head, memory_order_acquire);
	unsigned n = 0;

	for (; n < max && tail < head; n++, tail++)
		to[n] = e->ring[tail % LARDER_PURGE_EVENTS];
	atomic_store_explicit(&e->tail, tail, memory_order_release);
	return n;
}

#endif
