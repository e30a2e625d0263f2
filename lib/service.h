/*
 * The service: one managed memory and the internal threads that serve it.
 */
#ifndef LARDER_SERVICE_H
#define LARDER_SERVICE_H

#include "memory.h"
#include "reclaim.h"

struct larder_service {
	struct larder_memory memory;
	struct larder_reclaim reclaim;
	struct larder_event ready; /* posted by the reclaim thread when `result` is there */
	int result;		   /* 0, or why the service could not start */
	int is_inherited;	   /* from the process that forked this one */
	int lent[LARDER_LENT];	   /* then: the disk's descriptors, in the program's table; -1 = there is none */
	const struct larder_backend_ops *const *tiers;
	unsigned ntiers;
	struct larder_backend_setup setup;
};

/*
 * Map everything and start the internal threads; the limit in memory.pools[REGION_HEAP] is set already. Called once, by
 * a program thread. Returns 0 or a negative errno, in which case nothing is left mapped or running.
 */
int service_start(struct larder_service *s, const struct larder_backend_ops *const *tiers, unsigned ntiers,
		  const struct larder_backend_setup *setup);

/*
 * After a fork, in the child, where no internal thread runs: start them, over the memory as it is. Called by the thread
 * that forked, before anybody touches managed memory. Returns 0; or a negative errno, in which case everything has been
 * brought back and is not managed any more. lent: descriptors of the disk that the parent's
 * internal threads sent, in the program's table; -1: the child has no disk.
 */
int service_inherit(struct larder_service *s, const int lent[LARDER_LENT]);

#endif
