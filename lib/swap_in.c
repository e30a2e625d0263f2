/*
 * Swap in. See swap_in.h.
 *
 * Requests reach a reader through a stack that everybody pushes to and the reader takes as a whole: no lock, since a
 * program thread may ask from its SIGBUS handler, in the middle of anything.
 */
#include "swap_in.h"

#include "restore.h"
#include "stats.h"
#include "sys.h"
#include "thread.h"
#include "uffd.h"

enum { READS = 64, CPU_NONE = -1 };

_Static_assert((int)RESTORE_MAX_PAGES <= (int)LARDER_FETCH_MAX_PAGES, "one fetch brings what one fault wants");

/* One request, and the fetch that answers it. */
struct read {
	struct larder_fetch fetch; /* first: a reaped fetch is its read */
	struct read *next;
	size_t first;
	uint64_t words[RESTORE_MAX_PAGES];
	uint64_t since_ns;
	unsigned credit;
	int written;
};

struct larder_reader {
	struct larder_memory *memory;
	int cpu;
	struct larder_event wanted, started;
	int result;

	_Atomic uint64_t taken; /* bit n: reads[n] is in use */
	struct read *_Atomic asked;
	struct read reads[READS];

	/* The reader's own. */
	struct read *waiting, **waiting_end; /* asked for, not begun yet, oldest first */
	struct larder_restorer restorer;
};

/* ---- asking ---- */

static struct larder_reader *nearest(struct larder_swap_in *s)
{
	unsigned cpu = 0;
	int reader = 0;

	sys_call3(SYS_getcpu, (long)&cpu, 0, 0);
	if (cpu < sizeof(s->reader_of_cpu))
		reader = s->reader_of_cpu[cpu];
	return s->readers[reader];
}

static struct read *take_read(struct larder_reader *r)
{
	uint64_t bits = atomic_load(&r->taken);

	while (~bits) {
		unsigned n = (unsigned)__builtin_ctzll(~bits);

		if (atomic_compare_exchange_weak(&r->taken, &bits, bits | (uint64_t)1 << n))
			return &r->reads[n];
	}
	return NULL;
}

static void give_back_read(struct larder_reader *r, const struct read *read)
{
	atomic_fetch_and(&r->taken, ~((uint64_t)1 << (read - r->reads)));
}

int swap_in(struct larder_memory *m, size_t first, const uint64_t *words, size_t n, unsigned credit, uint64_t since_ns,
	    int written)
{
	struct larder_reader *r = nearest(&m->swap_in);
	struct read *read = take_read(r);

	if (!read)
		return -EBUSY;
	read->first = first;
	read->fetch.pages = (unsigned)n;
	read->credit = credit;
	read->since_ns = since_ns;
	read->written = written;
	for (size_t i = 0; i < n; i++) {
		read->words[i] = words[i];
		read->fetch.handles[i] = m->region.pages[first + i].handle;
	}
	read->next = atomic_load(&r->asked);
	while (!atomic_compare_exchange_weak(&r->asked, &read->next, read))
		;
	event_post(&r->wanted);
	return 0;
}

void swap_in_put_off(struct larder_memory *m)
{
	STATS_ADD(faults_throttled, 1);
	atomic_store(&m->swap_in.full, 1);
	/* All may have been done just before. */
	for (unsigned i = 0; i < m->swap_in.nreaders; i++)
		event_post(&m->swap_in.readers[i]->wanted);
}

void swap_in_await(struct larder_memory *m, size_t index, uint64_t timeout_ns)
{
	struct larder_swap_in *s = &m->swap_in;
	uint32_t seen;

	atomic_fetch_add(&s->waiting, 1);
	seen = event_count(&s->done);
	if (page_is_busy(page_load(&m->region.pages[index])))
		event_wait(&s->done, seen, timeout_ns);
	atomic_fetch_sub(&s->waiting, 1);
}

/* ---- the reader ---- */

static const struct larder_backend_ops *ops_of(const struct larder_reader *r)
{
	return r->memory->store.disk->ops;
}

static void *backend_of(const struct larder_reader *r)
{
	return r->memory->store.disk->backend;
}

static void *scratch_of(const struct larder_reader *r)
{
	return store_scratch_of(r->memory->store.disk, r->restorer.scratch);
}

/* What was asked for since the last look joins those that wait, in the order of asking. */
static int take_asked(struct larder_reader *r)
{
	struct read *newest = atomic_exchange(&r->asked, NULL), *oldest = NULL, **end = r->waiting_end;

	if (!newest)
		return 0;
	r->waiting_end = &newest->next;
	while (newest) {
		struct read *before = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = before;
	}
	*end = oldest;
	return 1;
}

static void begin_waiting(struct larder_reader *r)
{
	while (r->waiting && ops_of(r)->fetch_begin(backend_of(r), scratch_of(r), &r->waiting->fetch) == 0) {
		r->waiting = r->waiting->next;
		if (!r->waiting)
			r->waiting_end = &r->waiting;
	}
	ops_of(r)->fetch_flush(backend_of(r), scratch_of(r));
}

static void count_fault(const struct read *read)
{
	if (read->since_ns == 0) {
		STATS_ADD(readahead, read->fetch.pages);
		return;
	}
	STATS_ADD(fault_latency[stats_latency_bucket(sys_now_ns() - read->since_ns)], 1);
}

/* Whoever waits for any of these pages is answered. */
static void tell(struct larder_memory *m)
{
	struct larder_swap_in *s = &m->swap_in;

	if (atomic_load(&s->waiting))
		event_post(&s->done);
	if (atomic_exchange(&s->full, 0))
		uffd_wake(m->uffd, m->region.base, m->region.bytes);
}

static void complete(struct larder_reader *r, struct read *read)
{
	struct larder_memory *m = r->memory;
	struct larder_restorer *w = &r->restorer;
	struct store_tier *tier = m->store.disk;
	unsigned n = read->fetch.pages;
	int errors[RESTORE_MAX_PAGES];

	for (unsigned i = 0; i < n; i++) {
		errors[i] = ops_of(r)->fetch_page(tier->backend, scratch_of(r), &read->fetch, i,
						  w->bounce + i * PAGE_BYTES);
		atomic_fetch_add_explicit(errors[i] ? &tier->errors : &tier->gets, 1, memory_order_relaxed);
	}
	ops_of(r)->fetch_end(tier->backend, scratch_of(r), &read->fetch);
	w->written = read->written ? read->first + 1 : 0;
	restore_contents(m, w, read->first, read->words, n, w->bounce, errors, read->credit);
	w->written = 0;
	count_fault(read);
	pressure_notice(m, region_chunk(&m->region, read->first)->owner.pool);
	give_back_read(r, read);
	tell(m);
}

static int reap(struct larder_reader *r)
{
	struct larder_fetch *fetch;
	int reaped = 0;

	while ((fetch = ops_of(r)->fetch_reap(backend_of(r), scratch_of(r)))) {
		complete(r, (struct read *)fetch);
		reaped = 1;
	}
	return reaped;
}

static int open_reader(struct larder_reader *r)
{
	int err = restorer_open(&r->restorer, r->memory);

	if (r->cpu != CPU_NONE)
		thread_pin(r->cpu);
	if (!err)
		err = store_thread_open(&r->memory->store, r->restorer.scratch);
	return err;
}

static void reader_main(void *arg)
{
	struct larder_reader *r = arg;

	r->result = open_reader(r);
	event_post(&r->started);
	if (r->result)
		sys_call3(SYS_exit, 0, 0, 0);
	for (;;) {
		uint32_t seen = event_count(&r->wanted);

		take_asked(r);
		begin_waiting(r);
		if (reap(r))
			continue;
		if (atomic_load(&r->memory->swap_in.full))
			tell(r->memory);
		ops_of(r)->wait(backend_of(r), scratch_of(r), &r->wanted.count, seen, 0);
	}
}

static int start_reader(struct larder_memory *m, int cpu)
{
	struct larder_reader *r = sys_map((sizeof(*r) + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1));
	uint32_t seen;
	int tid;

	if (!r)
		return -ENOMEM;
	r->memory = m;
	r->cpu = cpu;
	r->waiting_end = &r->waiting;
	seen = event_count(&r->started);
	tid = thread_start("larder-read", reader_main, r, 0);
	if (tid < 0)
		return tid;
	while (event_count(&r->started) == seen)
		event_wait(&r->started, seen, 0);
	if (!r->result)
		m->swap_in.readers[m->swap_in.nreaders++] = r;
	return r->result;
}

int swap_in_start(struct larder_memory *m, const int *cpus, unsigned ncpus)
{
	int err = 0;

	for (unsigned i = 0; i < ncpus && i < SWAP_IN_READERS_MAX && !err; i++) {
		err = start_reader(m, cpus[i]);
		if (!err && cpus[i] >= 0 && (size_t)cpus[i] < sizeof(m->swap_in.reader_of_cpu))
			m->swap_in.reader_of_cpu[cpus[i]] = (signed char)i;
	}
	return err;
}
