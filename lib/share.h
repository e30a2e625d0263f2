/*
 * A share of what happened lately: an exponential average of zeroes and ones.
 *
 * Racy on purpose: a count that is lost to another thread costs nothing.
 */
#ifndef LARDER_SHARE_H
#define LARDER_SHARE_H

#include <stdatomic.h>
#include <stdint.h>

/* What stands for all of it; a share that is never counted is zeroed memory: none. */
enum { SHARE_ALL = 1 << 16 };

/* Over about the last 2^shift counts, at most 2^8. */
static inline void share_count(_Atomic uint32_t *share, int is_one, unsigned shift)
{
	uint32_t now = atomic_load_explicit(share, memory_order_relaxed);

	now -= now >> shift;
	if (is_one)
		now += SHARE_ALL >> shift;
	atomic_store_explicit(share, now, memory_order_relaxed);
}

static inline uint32_t share_of(const _Atomic uint32_t *share)
{
	return atomic_load_explicit(share, memory_order_relaxed);
}

#endif
