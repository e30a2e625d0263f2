/*
 * Pins of a shared volatile range. See shared.h. Program threads; but no libc, as in all that touches the records.
 *
 * Pins nest by counts that are private to the process (struct shared_pins, under session.mutex); the unit's word has
 * one bit for all of them.
 */
#include "shared.h"

#define LARDER_PUBLIC __attribute__((visibility("default")))

/* A run of units, as a caller gave it. */
struct run {
	uint64_t first, count;
};

static int is_busy(uint64_t word)
{
	return shared_state_of(word) == SHARED_FILLING || shared_state_of(word) == SHARED_PURGING;
}

static int find_run(const struct larder_shared *s, size_t offset, size_t bytes, struct run *run)
{
	uint64_t all = s->units * s->unit_bytes;

	if (!bytes || (offset | bytes) & (s->unit_bytes - 1) || offset > all || bytes > all - offset)
		return -EINVAL;
	*run = (struct run){ .first = offset / s->unit_bytes, .count = bytes / s->unit_bytes };
	return 0;
}

static struct shared_counters *counters_of(struct larder_shared *s, uint64_t unit)
{
	struct shared_header *h = s->header;

	return &h->classes[shared_class(atomic_load_explicit(&h->unit[unit].rank, memory_order_relaxed))];
}

/* ---- pin ---- */

/* Sleep until the unit's word differs from `word`, which has an owner, or for one tick. Look after a dead owner. */
static void wait_for_owner(struct larder_shared *s, uint64_t unit, uint64_t word)
{
	struct timespec tick = { .tv_nsec = SHARED_TICK_NS };
	_Atomic uint64_t *at = &s->header->unit[unit].word;

	atomic_fetch_add(&s->header->waiters, 1);
	sys_call6(SYS_futex, (long)at + 4, FUTEX_WAIT, (long)(word >> 32), (long)&tick, 0, 0);
	atomic_fetch_sub(&s->header->waiters, 1);
	if (atomic_load(at) == word && word & SHARED_MASK)
		slot_recover(s, (unsigned)__builtin_ctzll(word & SHARED_MASK));
}

/* Under session.mutex. returns LARDER_INTACT, LARDER_PURGED, or -EAGAIN: *busy has an owner to wait for. */
static int try_pin(struct larder_shared *s, uint64_t unit, uint64_t *busy)
{
	struct shared_pins *pins = &s->session->pins[unit];
	_Atomic uint64_t *word = &s->header->unit[unit].word;
	uint64_t w = atomic_load(word), next;

	do {
		if (pins->count && (shared_state_of(w) == SHARED_VALID || pins->filler == sys_gettid())) {
			pins->count++;
			return shared_state_of(w) == SHARED_VALID ? LARDER_INTACT : LARDER_PURGED;
		}
		*busy = w;
		if (is_busy(w))
			return -EAGAIN;
		next = shared_state_of(w) == SHARED_VALID ? w | s->bit : shared_word(SHARED_FILLING, s->bit);
	} while (!atomic_compare_exchange_weak(word, &w, next));
	pins->count = 1;
	s->session->pinned++;
	if (shared_state_of(next) == SHARED_VALID)
		return LARDER_INTACT;
	pins->filler = sys_gettid();
	shared_step(SHARED_STEP_FILL_BEGUN);
	return LARDER_PURGED;
}

/*
 * Under session.mutex, which is given up meanwhile. Who does not want to wait for content to be made does wait for a
 * purge, which takes microseconds; but not for a purger that has been stopped.
 */
static int pin_unit(struct larder_shared *s, uint64_t unit, unsigned flags)
{
	uint64_t busy;

	for (int waited = 0;; waited = 1) {
		int result = try_pin(s, unit, &busy);

		if (result != -EAGAIN)
			return result;
		if (flags & LARDER_NOWAIT && (waited || shared_state_of(busy) == SHARED_FILLING))
			return -EAGAIN;
		mutex_unlock(&s->session->mutex);
		wait_for_owner(s, unit, busy);
		mutex_lock(&s->session->mutex);
	}
}

/* Under session.mutex: take back what a pin call that failed has taken. Content to be made has not been begun. */
static void undo_pin(struct larder_shared *s, uint64_t unit)
{
	struct shared_pins *pins = &s->session->pins[unit];

	if (--pins->count)
		return;
	s->session->pinned--;
	if (shared_state_of(atomic_load(&s->header->unit[unit].word)) == SHARED_FILLING)
		shared_release(s, unit, shared_word(SHARED_LOST, 0));
	else
		atomic_fetch_and(&s->header->unit[unit].word, ~s->bit);
}

/* Under session.mutex. All of the run or nothing. */
static int pin_run(struct larder_shared *s, struct run run, unsigned flags, unsigned char *lost)
{
	int any = LARDER_INTACT;

	for (uint64_t i = 0; i < run.count; i++) {
		int result = pin_unit(s, run.first + i, flags);

		if (result < 0) {
			while (i > 0)
				undo_pin(s, run.first + --i);
			return result;
		}
		if (lost)
			lost[i] = result == LARDER_PURGED;
		any |= result;
	}
	return any;
}

LARDER_PUBLIC int larder_shared_pin(larder_shared *s, size_t offset, size_t bytes, unsigned flags, unsigned char *lost)
{
	struct run run;
	int result;

	if (s && !shared_is_connected(s))
		return -ENOTCONN;
	if (!s || flags & ~LARDER_NOWAIT || find_run(s, offset, bytes, &run) < 0)
		return shared_misuse(-EINVAL, "larder_shared_pin");
	mutex_lock(&s->session->mutex);
	result = pin_run(s, run, flags, lost);
	mutex_unlock(&s->session->mutex);
	if (result < 0)
		slots_sweep(s, sys_now_ns()); /* who is waited for may be dead */
	else
		shared_count(result == LARDER_INTACT ? &counters_of(s, run.first)->hits
						     : &counters_of(s, run.first)->losses);
	return result;
}

/* ---- refilled ---- */

/* Under session.mutex. Nobody but this process changes a unit that it is filling. */
static int run_is_filling(struct larder_shared *s, struct run run)
{
	for (uint64_t unit = run.first; unit < run.first + run.count; unit++)
		if (atomic_load(&s->header->unit[unit].word) != shared_word(SHARED_FILLING, s->bit))
			return 0;
	return 1;
}

static void publish_run(struct larder_shared *s, struct run run)
{
	for (uint64_t unit = run.first; unit < run.first + run.count; unit++) {
		shared_step(SHARED_STEP_FILL_DONE);
		shared_count(&counters_of(s, unit)->refills);
		shared_release(s, unit, shared_word(SHARED_VALID, s->bit));
	}
}

LARDER_PUBLIC int larder_shared_refilled(larder_shared *s, size_t offset, size_t bytes)
{
	struct run run;
	int filling;

	if (s && !shared_is_connected(s))
		return -ENOTCONN;
	if (!s || find_run(s, offset, bytes, &run) < 0)
		return shared_misuse(-EINVAL, "larder_shared_refilled");
	mutex_lock(&s->session->mutex);
	filling = run_is_filling(s, run);
	if (filling)
		publish_run(s, run);
	mutex_unlock(&s->session->mutex);
	return filling ? 0 : shared_misuse(-ENOENT, "larder_shared_refilled");
}

/* ---- unpin ---- */

/* This process has the unit pinned. Of several that unpin at once, the latest counts. */
static void raise_rank(struct shared_unit *unit, uint64_t rank)
{
	uint64_t r = atomic_load_explicit(&unit->rank, memory_order_relaxed);

	while ((r & SHARED_RANK_TIME) <= (rank & SHARED_RANK_TIME))
		if (atomic_compare_exchange_weak(&unit->rank, &r, rank))
			return;
}

/* Under session.mutex. */
static void unpin_unit(struct larder_shared *s, uint64_t unit, uint64_t rank)
{
	struct shared_pins *pins = &s->session->pins[unit];
	struct shared_unit *u = &s->header->unit[unit];
	uint64_t others = 0;

	if (--pins->count)
		return;
	s->session->pinned--;
	raise_rank(u, rank);
	shared_step(SHARED_STEP_RANKED);
	if (shared_state_of(atomic_load(&u->word)) == SHARED_FILLING) {
		atomic_store(&u->word, shared_word(SHARED_PURGING, s->bit));
		shared_step(SHARED_STEP_DROP_BEGUN);
		shared_drop(s, unit);
	} else {
		others = atomic_fetch_and(&u->word, ~s->bit) & ~s->bit & SHARED_MASK;
	}
	shared_step(SHARED_STEP_UNPINNED);
	if (!others)
		shared_count(&counters_of(s, unit)->marks);
}

/* Under session.mutex. */
static int run_is_pinned(const struct larder_shared *s, struct run run)
{
	for (uint64_t unit = run.first; unit < run.first + run.count; unit++)
		if (!s->session->pins[unit].count)
			return 0;
	return 1;
}

LARDER_PUBLIC int larder_shared_unpin(larder_shared *s, size_t offset, size_t bytes, int priority)
{
	uint64_t now = sys_now_ns();
	struct run run;
	int pinned;

	if (s && !shared_is_connected(s))
		return -ENOTCONN;
	if (!s || priority < LARDER_PRIORITY_OBSOLETE || priority > LARDER_PRIORITY_MAX ||
	    find_run(s, offset, bytes, &run) < 0)
		return shared_misuse(-EINVAL, "larder_shared_unpin");
	mutex_lock(&s->session->mutex);
	pinned = run_is_pinned(s, run);
	for (uint64_t i = 0; pinned && i < run.count; i++)
		unpin_unit(s, run.first + i, shared_rank(priority, now));
	mutex_unlock(&s->session->mutex);
	slots_sweep(s, now);
	return pinned ? 0 : shared_misuse(-ENOENT, "larder_shared_unpin");
}

/* ---- purge and statistics ---- */

LARDER_PUBLIC int64_t larder_shared_purge(larder_shared *s, int upto, uint64_t bytes)
{
	if (s && !shared_is_connected(s))
		return -ENOTCONN;
	if (!s || upto < LARDER_PRIORITY_OBSOLETE || upto > LARDER_PRIORITY_MAX)
		return shared_misuse(-EINVAL, "larder_shared_purge");
	slots_sweep(s, sys_now_ns());
	return (int64_t)shared_purge(s, upto, bytes);
}

static void add_gauges(const struct larder_shared *s, struct larder_volatile_stats *classes)
{
	for (uint64_t unit = 0; unit < s->units; unit++) {
		struct shared_unit *u = &s->header->unit[unit];
		uint64_t word = atomic_load_explicit(&u->word, memory_order_relaxed);
		struct larder_volatile_stats *to =
			&classes[shared_class(atomic_load_explicit(&u->rank, memory_order_relaxed))];

		if (word & SHARED_MASK)
			continue;
		to->bytes += s->unit_bytes;
		if (shared_state_of(word) == SHARED_LOST)
			to->lost_bytes += s->unit_bytes;
	}
}

LARDER_PUBLIC int larder_shared_get_stats(const larder_shared *s,
					  struct larder_volatile_stats priority[LARDER_PRIORITIES])
{
	if (s && !shared_is_connected(s))
		return -ENOTCONN;
	if (!s || !priority)
		return shared_misuse(-EINVAL, "larder_shared_get_stats");
	for (int i = 0; i < LARDER_PRIORITIES; i++) {
		const struct shared_counters *c = &s->header->classes[i];

		priority[i] = (struct larder_volatile_stats){
			.marks = c->marks,
			.hits = c->hits,
			.losses = c->losses,
			.refills = c->refills,
			.purges = c->purges,
			.purged_bytes = c->purges * s->unit_bytes,
		};
	}
	add_gauges(s, priority);
	return 0;
}
