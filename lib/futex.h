/*
 * Mutex and event on a futex word, for threads without libc (see lib/sys.h).
 *
 * The mutex is Drepper's third ("Futexes Are Tricky", 2011): 0 free, 1 held, 2 held with possible waiters. It does not
 * record an owner and does not nest. A zeroed word is a free mutex.
 */
#ifndef LARDER_FUTEX_H
#define LARDER_FUTEX_H

#include "sys.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>

/* Sleep while *word == value, for at most timeout_ns (0 = no limit). Wakes up spuriously: test the condition again. */
static inline long futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec t = { .tv_sec = (time_t)(timeout_ns / 1000000000u),
			      .tv_nsec = (long)(timeout_ns % 1000000000u) };

	return sys_call6(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, value, timeout_ns ? (long)&t : 0, 0, 0);
}

static inline void futex_wake(_Atomic uint32_t *word, int waiters)
{
	sys_call6(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, waiters, 0, 0, 0);
}

struct larder_mutex {
	_Atomic uint32_t word;
};

static inline void mutex_lock_contended(struct larder_mutex *m)
{
	while (atomic_exchange_explicit(&m->word, 2, memory_order_acquire) != 0)
		futex_wait(&m->word, 2, 0);
}

static inline void mutex_lock(struct larder_mutex *m)
{
	uint32_t free_word = 0;

	if (!atomic_compare_exchange_strong_explicit(&m->word, &free_word, 1, memory_order_acquire,
						     memory_order_relaxed))
		mutex_lock_contended(m);
}

static inline int mutex_trylock(struct larder_mutex *m)
{
	uint32_t free_word = 0;

	return atomic_compare_exchange_strong_explicit(&m->word, &free_word, 1, memory_order_acquire,
						       memory_order_relaxed);
}

static inline void mutex_unlock(struct larder_mutex *m)
{
	if (atomic_exchange_explicit(&m->word, 0, memory_order_release) == 2)
		futex_wake(&m->word, 1);
}

/*
 * An event counts: post() adds one and wakes everybody; a waiter sleeps until the count differs from what it saw.
 * Read the count first, then test the condition, then wait: no wake-up is lost.
 */
struct larder_event {
	_Atomic uint32_t count;
};

static inline uint32_t event_count(struct larder_event *e)
{
	return atomic_load_explicit(&e->count, memory_order_acquire);
}

static inline void event_post(struct larder_event *e)
{
	atomic_fetch_add_explicit(&e->count, 1, memory_order_release);
	futex_wake(&e->count, INT_MAX);
}

/* Returns when the count is not `seen` any more, or after timeout_ns (0 = no limit). */
static inline void event_wait(struct larder_event *e, uint32_t seen, uint64_t timeout_ns)
{
	futex_wait(&e->count, seen, timeout_ns);
}

#endif
