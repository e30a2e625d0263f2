/*
 * Refilling: purged pages whose owner has left a callback to make their content again.
 */
#ifndef LARDER_REFILL_H
#define LARDER_REFILL_H

#include "restore.h"
#include "span.h"

/* What to do about a touch of a trapped page. */
struct refill {
	larder_refill_fn *refill; /* NULL: the touch raises SIGBUS */
	void *cookie;
	struct span unit;
};

/* Returns 1 when the page is still trapped by a volatile range, else 0: the touch can be tried again. */
int refill_find(struct larder_memory *m, unsigned pool, size_t index, struct refill *refill);

/* The callback has made the unit's content: install it, unless the range is not volatile any more. */
void refill_install(struct larder_memory *m, struct larder_restorer *w, const struct refill *refill,
		    const char *content);

/* After the callbacks of a pinned span have been called. Returns LARDER_INTACT, or LARDER_PURGED when they failed; then
 * what is lost reads as zeroes. */
int refill_give_up(struct larder_memory *m, struct span span);

#endif
