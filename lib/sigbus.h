/*
 * SIGBUS: faults that the thread which raises them deals with itself. Program threads only.
 *
 * Two kinds of touch end here: of an absent page of a pool with inline faults (its chunks are registered with a
 * userfaultfd that raises SIGBUS instead of asking a handler); and of a purged page whose range has a refill callback
 * (a handler has poisoned it, so that neither the touching thread nor any other sees zeroes there). Everything else is
 * handed on to the program's own handler.
 */
#ifndef LARDER_SIGBUS_H
#define LARDER_SIGBUS_H

#include "memory.h"
#include "reclaim.h"

#include <signal.h>

/*
 * Open the userfaultfd, which the reclaim thread holds on to as well, and install the handler, once. Callers take
 * turns. Returns 0 or a negative errno.
 */
int sigbus_open(struct larder_memory *m, struct larder_reclaim *r);

/* If a touch of the page would call a refill callback, do what the touch would do; a callback that fails changes
 * nothing. */
void sigbus_refill(size_t index);

/* What threads that served their own faults have not dropped yet goes, except what those have that do so just now. */
void sigbus_flush(void);

/* After a fork, in the child, which has no other thread. */
void sigbus_inherit(void);

/* Deal with a fault. Returns 1 when the access can be tried again, 0 when it is not Larder's. */
int sigbus_serve(const siginfo_t *info);

#endif
