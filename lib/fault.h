/*
 * The fault service: threads that answer the faults of the region.
 */
#ifndef LARDER_FAULT_H
#define LARDER_FAULT_H

#include "memory.h"

/*
 * Start the handlers. Called on the first internal thread, so that they share its descriptor table.
 * Returns the number of handlers, or a negative errno when none could be started.
 */
int fault_start(struct larder_memory *m);

#endif
