/*
 * Purging shared volatile ranges. See shared.h. Runs on internal threads as well as on the program's: no libc.
 *
 * A scan of all records gathers the lowest ranks in a heap of bounded size; they are purged in order, and only if that
 * was not enough is there another scan. A unit that was used since it was seen has another rank, and is left alone.
 */
#include "shared.h"

#include <string.h>

struct shared_process *_Atomic shared_process;
void (*_Atomic shared_filled)(uint64_t bytes);
void (*shared_test_step)(enum shared_step step);

/* Sleepers wait on the half of the word that has the state in it (little-endian: the second). */
void shared_release(struct larder_shared *s, uint64_t unit, uint64_t word)
{
	_Atomic uint64_t *at = &s->header->unit[unit].word;

	atomic_store(at, word);
	if (shared_state_of(word) == SHARED_LOST)
		shared_step(SHARED_STEP_PURGED);
	else
		shared_step(SHARED_STEP_REFILLED);
	/* Sequentially consistent after the store above: who is not counted yet will see the new word. */
	if (atomic_load(&s->header->waiters))
		sys_call6(SYS_futex, (long)at + 4, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

static char *data_of(struct larder_shared *s, uint64_t unit)
{
	return s->data + unit * s->unit_bytes;
}

static long punch(struct larder_shared *s, uint64_t unit)
{
	return sys_madvise(data_of(s, unit), s->unit_bytes, MADV_REMOVE);
}

/* Locked memory cannot be punched; then the zeroes are written. */
void shared_drop(struct larder_shared *s, uint64_t unit)
{
	if (punch(s, unit) < 0)
		memset(data_of(s, unit), 0, s->unit_bytes);
	shared_step(SHARED_STEP_PUNCHED);
	shared_release(s, unit, shared_word(SHARED_LOST, 0));
}

/* ---- choosing ---- */

static void gather(struct larder_choice *choice, struct larder_shared *s, uint64_t below_rank)
{
	for (uint64_t unit = 0; unit < s->units; unit++) {
		struct shared_unit *u = &s->header->unit[unit];
		struct larder_candidate victim = { .what = unit, .where = s };

		if (atomic_load_explicit(&u->word, memory_order_relaxed) != shared_word(SHARED_VALID, 0))
			continue;
		victim.rank = atomic_load_explicit(&u->rank, memory_order_relaxed);
		if (victim.rank < below_rank)
			choice_show(choice, &victim);
	}
}

/* ---- purging ---- */

/* returns bytes given back: 0 when the unit has been used since it was chosen, or cannot be punched. */
static uint64_t purge_unit(const struct larder_candidate *victim)
{
	struct larder_shared *s = victim->where;
	struct shared_unit *u = &s->header->unit[victim->what];
	uint64_t expected = shared_word(SHARED_VALID, 0);

	if (atomic_load(&u->rank) != victim->rank ||
	    !atomic_compare_exchange_strong(&u->word, &expected, shared_word(SHARED_PURGING, s->bit)))
		return 0;
	shared_step(SHARED_STEP_PURGE_BEGUN);
	/* It is ours, so the rank stands still now. When the punch is refused, nothing has been touched. */
	if (atomic_load(&u->rank) != victim->rank || punch(s, victim->what) < 0) {
		shared_release(s, victim->what, shared_word(SHARED_VALID, 0));
		return 0;
	}
	shared_step(SHARED_STEP_PUNCHED);
	shared_count(&s->header->classes[shared_class(victim->rank)].purges);
	shared_release(s, victim->what, shared_word(SHARED_LOST, 0));
	return s->unit_bytes;
}

/* One scan of `s`, and of those behind it on the list if `all`, and what follows from it. returns bytes given back. */
static uint64_t purge_once(struct larder_choice *choice, struct larder_shared *s, int all, int upto, uint64_t bytes)
{
	uint64_t gone = 0;

	choice_begin(choice, (bytes - 1) / SHARED_UNIT_MIN_BYTES + 1);
	do
		gather(choice, s, shared_rank(upto + 1, 0));
	while (all && (s = s->next));
	choice_end(choice);
	for (uint32_t i = 0; i < choice->count && gone < bytes; i++)
		gone += purge_unit(&choice->kept[i]);
	return gone;
}

static uint64_t purge(struct shared_victims *v, struct larder_shared *s, int all, int upto, uint64_t bytes)
{
	uint64_t gone = 0, step = 1;

	while (gone < bytes && step) {
		step = purge_once(&v->choice, s, all, upto, bytes - gone);
		gone += step;
	}
	return gone;
}

uint64_t shared_purge(struct larder_shared *s, int upto, uint64_t bytes)
{
	struct shared_victims *v = &atomic_load(&shared_process)->for_program;
	uint64_t gone;

	mutex_lock(&v->mutex);
	gone = purge(v, s, 0, upto, bytes);
	mutex_unlock(&v->mutex);
	return gone;
}

/*
 * Program threads hold the list for a few instructions. But one may be preempted in them, or its stack may be managed
 * memory that has to be brought back first: waiting for it could be waiting for oneself.
 */
static int try_list(struct shared_process *p)
{
	enum { TRIES = 16 };

	for (int i = 0; i < TRIES; i++) {
		if (mutex_trylock(&p->list))
			return 1;
		sys_yield();
	}
	return 0;
}

uint64_t shared_purge_volatile(int upto, uint64_t bytes)
{
	struct shared_process *p = atomic_load(&shared_process);
	uint64_t gone = 0;

	if (!p || !try_list(p))
		return 0;
	if (p->first && mutex_trylock(&p->for_internal.mutex)) {
		gone = purge(&p->for_internal, p->first, 1, upto, bytes);
		mutex_unlock(&p->for_internal.mutex);
	}
	mutex_unlock(&p->list);
	return gone;
}

static uint64_t resident_units(const struct larder_shared *s)
{
	uint64_t n = 0;

	for (uint64_t unit = 0; unit < s->units; unit++)
		n += shared_state_of(atomic_load_explicit(&s->header->unit[unit].word, memory_order_relaxed)) !=
		     SHARED_LOST;
	return n;
}

uint64_t shared_resident_bytes(void)
{
	static _Atomic uint64_t last; /* the answer when the list cannot be had */
	struct shared_process *p = atomic_load(&shared_process);
	uint64_t bytes = 0;

	if (!p)
		return 0;
	if (!try_list(p))
		return atomic_load_explicit(&last, memory_order_relaxed);
	for (const struct larder_shared *s = p->first; s; s = s->next)
		bytes += resident_units(s) * s->unit_bytes;
	mutex_unlock(&p->list);
	atomic_store_explicit(&last, bytes, memory_order_relaxed);
	return bytes;
}
