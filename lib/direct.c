/*
 * Direct. See direct.h.
 *
 * `state` says whose the sweep is: the reclaim thread's, until it is WANTED; of the handler that has TAKEN it; and the
 * reclaim thread's again once DONE.
 */
#include "direct.h"

#include "stats.h"

/* So long the reclaim thread waits for a fault. With a disk it waits longer, and for the first half of it handlers
 * leave it to one that reads. */
#define WAIT_NS		  100000u
#define WAIT_WITH_DISK_NS 1000000u
#define PATIENCE_NS	  (WAIT_WITH_DISK_NS / 2)

/* A handler moves so many pages between two looks at the clock, and looks at so many entries of the page table. */
enum { SLICE_PAGES = 8, SLICE_LOOK_AT = 2048 };

/*
 * When a page costs more than this, interrupts are being sent. The first may be, until the reclaim thread is asleep, so
 * it is judged after some time only.
 */
#define DEAR_NS	 4000u
#define JUDGE_NS 150000u

/* When nobody faulted, or so many sweeps in a row were dear, nobody is asked for so long. */
enum { DEAR_MAX = 4 };
#define PAUSE_NS 10000000u

static int is_dear(uint64_t ns, size_t pages)
{
	return ns > DEAR_NS * pages;
}

/* Returns 0 when there is no more to do. */
static int sweep_slice(struct larder_memory *m, struct evict_sweep *s)
{
	struct evict_sweep slice = *s;

	slice.want = s->want - s->staged < SLICE_PAGES ? s->want - s->staged : SLICE_PAGES;
	slice.look_at = SLICE_LOOK_AT;
	slice.never_waits = 1;
	slice.staged = 0;
	evict_sweep(m, &slice);
	s->staged += slice.staged;
	s->turns = slice.turns;
	return slice.staged > 0 && s->staged < s->want && !slice.is_stuck;
}

int direct_is_overdue(const struct larder_memory *m)
{
	return sys_now_ns() - atomic_load_explicit(&m->direct.asked_ns, memory_order_relaxed) >= PATIENCE_NS;
}

void direct_help(struct larder_memory *m)
{
	struct larder_direct *d = &m->direct;
	uint32_t wanted = DIRECT_WANTED;
	uint64_t start = sys_now_ns();
	int goes_on;

	if (!atomic_compare_exchange_strong(&d->state, &wanted, DIRECT_TAKEN))
		return;
	do {
		goes_on = sweep_slice(m, d->sweep);
		d->took_ns = sys_now_ns() - start;
	} while (goes_on && (d->took_ns < JUDGE_NS || !is_dear(d->took_ns, d->sweep->staged)));
	atomic_store(&d->state, DIRECT_DONE);
	event_post(&d->done);
}

/* Returns 0 when nobody came. */
static int ask(struct larder_memory *m, struct evict_sweep *s)
{
	struct larder_direct *d = &m->direct;
	uint64_t start = sys_now_ns(), wait_ns = m->store.disk ? WAIT_WITH_DISK_NS : WAIT_NS;

	d->sweep = s;
	atomic_store_explicit(&d->asked_ns, start, memory_order_relaxed);
	atomic_store(&d->state, DIRECT_WANTED);
	for (;;) {
		uint32_t seen = event_count(&d->done), wanted = DIRECT_WANTED;

		if (atomic_load(&d->state) == DIRECT_DONE)
			return 1;
		if (sys_now_ns() - start >= wait_ns &&
		    atomic_compare_exchange_strong(&d->state, &wanted, DIRECT_NOT_WANTED))
			return 0;
		event_wait(&d->done, seen, wait_ns);
	}
}

static void pause(struct larder_direct *d)
{
	d->dear = 0;
	d->not_before_ns = sys_now_ns() + PAUSE_NS;
}

static void judge(struct larder_direct *d, size_t staged)
{
	d->dear = is_dear(d->took_ns, staged) ? d->dear + 1 : 0;
	if (d->dear >= DEAR_MAX)
		pause(d);
}

void direct_sweep(struct larder_memory *m, struct evict_sweep *s)
{
	struct larder_direct *d = &m->direct;

	/* Who is put off until there is room does not fault meanwhile. */
	if (s->want > 0 && !atomic_load(&m->pressure.put_off) && sys_now_ns() >= d->not_before_ns) {
		if (ask(m, s)) {
			judge(d, s->staged);
			STATS_ADD(staged_by_handlers, s->staged);
		} else {
			pause(d);
		}
	}
	evict_sweep(m, s); /* what is left of it */
}
