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

enum { READS = 64 };

_Static_assert((int)RESTORE_MAX_PAGES <= (int)LARDER_FETCH_MAX_PAGES, "one fetch brings what one fault wants");

/* One request, and the fetch that answers it. */
struct read {
	struct larder_fetch fetch; /* first: a reaped fetch is its read */
	struct read *next;
	size_t first;
	uint64_t words[RESTORE_MAX_PAGES];
	struct swap_in_request request;
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
	int done_fd;			     /* of a thread that reads by itself */
	struct read *waiting, **waiting_end; /* asked for, not begun yet, oldest first */
	struct larder_restorer restorer;
};

/* ---- asking ---- */

/* The reader of this CPU; for readahead that of the next, since the program goes on here. */
static struct larder_reader *nearest(struct larder_swap_in *s, int next)
{
	unsigned cpu = 0;
	unsigned reader = 0;

	sys_call3(SYS_getcpu, (long)&cpu, 0, 0);
	if (cpu < sizeof(s->reader_of_cpu))
		reader = (unsigned)s->reader_of_cpu[cpu];
	return s->readers[(reader + (unsigned)next) % s->nreaders];
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

/* The reader's own thread. */
static void add_waiting(struct larder_reader *r, struct read *read)
{
	read->next = NULL;
	*r->waiting_end = read;
	r->waiting_end = &read->next;
}

static void ask(struct larder_reader *r, struct read *read)
{
	read->next = atomic_load(&r->asked);
	while (!atomic_compare_exchange_weak(&r->asked, &read->next, read))
		;
	event_post(&r->wanted);
}

int swap_in(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
	    const struct swap_in_request *request)
{
	struct larder_reader *r = w->reader && request->since_ns ? w->reader : nearest(&m->swap_in, !request->since_ns);
	struct read *read = take_read(r);

	if (!read)
		return -EBUSY;
	read->first = first;
	read->fetch.pages = (unsigned)n;
	read->request = *request;
	for (size_t i = 0; i < n; i++) {
		read->words[i] = words[i];
		read->fetch.handles[i] = m->region.pages[first + i].handle;
	}
	(r == w->reader ? add_waiting : ask)(r, read);
	return 0;
}

int swap_in_now(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		const struct swap_in_request *request)
{
	static const int no_errors[RESTORE_MAX_PAGES];
	struct store_tier *tier = m->store.disk;
	struct larder_fetch fetch = { .pages = (unsigned)n };
	int err;

	for (size_t i = 0; i < n; i++)
		fetch.handles[i] = m->region.pages[first + i].handle;
	err = tier->ops->fetch_now(tier->backend, store_scratch_of(tier, w->scratch), w->disk_fd, &fetch, w->bounce);
	if (err) {
		STATS_ADD(disk.retries, 1);
		return err;
	}
	atomic_fetch_add_explicit(&tier->gets, n, memory_order_relaxed);
	STATS_ADD(readahead, n - 1);
	age_note(&m->age, first, n, 1);
	restore_contents(m, w, first, words, n, w->bounce, no_errors, request->wanted, request->credit);
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
	const struct swap_in_request *q = &read->request;

	STATS_ADD(readahead, q->since_ns ? read->fetch.pages - 1 : read->fetch.pages);
	if (q->since_ns)
		STATS_ADD(fault_latency[stats_latency_bucket(sys_now_ns() - q->since_ns)], 1);
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
	w->written = read->request.written ? read->request.wanted + 1 : 0;
	restore_contents(m, w, read->first, read->words, n, w->bounce, errors, read->request.wanted,
			 read->request.credit);
	w->written = 0;
	age_note(&m->age, read->first, n, 1);
	count_fault(read);
	pressure_notice(m, region_chunk(&m->region, read->first)->owner.pool);
	give_back_read(r, read);
	tell(m);
	restorer_flush(w, m);
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

static struct larder_reader *new_reader(struct larder_memory *m, int cpu)
{
	struct larder_reader *r = sys_map((sizeof(*r) + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1));

	if (!r)
		return NULL;
	sys_madvise(r, (sizeof(*r) + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1), MADV_DONTFORK);
	r->memory = m;
	r->cpu = cpu;
	r->waiting_end = &r->waiting;
	return r;
}

/* On the reader's own thread: a queue belongs to the thread that opens it. */
static int open_reader(struct larder_reader *r)
{
	int err = restorer_open(&r->restorer, r->memory);

	if (!err)
		err = store_thread_open(&r->memory->store, r->restorer.scratch);
	r->restorer.reader = r;
	return err;
}

static void reader_main(void *arg)
{
	struct larder_reader *r = arg;

	if (r->cpu != SWAP_IN_NO_CPU)
		thread_pin(r->cpu);
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
	struct larder_reader *r = new_reader(m, cpu);
	uint32_t seen;
	int tid;

	if (!r)
		return -ENOMEM;
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

/* ---- a thread that reads by itself ---- */

int swap_in_reader(struct larder_memory *m, int cpu, struct larder_reader **reader)
{
	struct larder_reader *r = new_reader(m, cpu);
	int err = r ? open_reader(r) : -ENOMEM;

	*reader = r;
	if (err)
		return err;
	r->done_fd = ops_of(r)->notify(scratch_of(r));
	return r->done_fd < 0 ? r->done_fd : 0;
}

struct larder_restorer *swap_in_restorer(struct larder_reader *r)
{
	return &r->restorer;
}

int swap_in_is_busy(const struct larder_reader *r)
{
	return atomic_load_explicit(&r->taken, memory_order_relaxed) != 0;
}

int swap_in_is_ready(const struct larder_reader *r)
{
	return ops_of(r)->is_ready(scratch_of(r));
}

int swap_in_done_fd(const struct larder_reader *r)
{
	return r->done_fd;
}

int swap_in_go_on(struct larder_reader *r)
{
	if (!swap_in_is_busy(r))
		return 0;
	begin_waiting(r);
	return reap(r);
}
