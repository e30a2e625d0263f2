/*
 * Direct: pages moved out where the program runs.
 *
 * A page that leaves the mapping is flushed from the TLB of every CPU that runs a thread of the process. From the
 * reclaim thread, on another CPU than the program, that takes an interrupt for every page or two; in a virtual machine,
 * where it is an exit on both sides, 13 us instead of 1. So the reclaim thread asks for it: the handler that is given
 * the next fault sweeps first, while the thread that faulted sleeps anyway and the reclaim thread sleeps, too. (The
 * kernel's direct reclaim, by the thread that wants the memory, has the same advantage.) With a disk handlers leave it,
 * for some time, to one that reads: the thread that faulted waits for the disk then, not for the sweep. When nobody
 * faults, or when it is no cheaper there, since other threads of the process run elsewhere, the reclaim thread sweeps
 * itself, and does not ask again for some time.
 *
 * A handler must not wait for anything: what cannot be moved at once is left to the reclaim thread.
 */
#ifndef LARDER_DIRECT_H
#define LARDER_DIRECT_H

#include "evict.h"

/* evict_sweep(), by a handler if that is cheaper. Reclaim thread. */
void direct_sweep(struct larder_memory *m, struct evict_sweep *s);

/* Is a handler wanted that sweeps? It may be too late when it comes. */
static inline int direct_is_wanted(const struct larder_memory *m)
{
	return atomic_load_explicit(&m->direct.state, memory_order_relaxed) == DIRECT_WANTED;
}

/* Has one been wanted for so long that no read is waited for? Handlers with a disk. */
int direct_is_overdue(const struct larder_memory *m);

/* Sweep, if it is not too late. Handlers: before they serve a fault, or while they read what one wants. */
void direct_help(struct larder_memory *m);

#endif
