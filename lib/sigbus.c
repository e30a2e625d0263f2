/*
 * SIGBUS. See sigbus.h.
 *
 * The handler runs on the thread that touched the page, in the middle of anything; so it takes no lock but a shard's,
 * which nobody holds while touching managed memory, and works in restorers that were mapped for the purpose.
 */
#include "sigbus.h"

#include "refill.h"
#include "resolve.h"
#include "sigreturn.h"
#include "stats.h"
#include "sys.h"
#include "uffd.h"

enum { RESTORERS = 64, BUSY_SPINS = 100, BUSY_POLL_NS = 10000, TRIES_MAX = 1000 };

#define ROOM_SLICE_NS 2000000u
#define READ_SLICE_NS 1000000u

static struct larder_memory *memory; /* NULL until open */
static int program_uffd = -1, program_disk = -1;
static struct sigaction previous;

/*
 * ---- restorers: one for each thread that is in the handler, nested calls included ----
 *
 * These few are kept; threads beyond them map one for as long as they need it. A thread may be in a callback for long,
 * and that callback may need another.
 */
static struct larder_restorer restorers[RESTORERS];
static _Atomic uint64_t taken; /* bit n: restorer n is in use */

static int is_kept(const struct larder_restorer *w)
{
	return w >= restorers && w < restorers + RESTORERS;
}

static struct larder_restorer *take_kept(void)
{
	uint64_t bits = atomic_load(&taken);

	while (~bits) {
		unsigned n = (unsigned)__builtin_ctzll(~bits);

		if (atomic_compare_exchange_weak(&taken, &bits, bits | (uint64_t)1 << n))
			return &restorers[n];
	}
	return NULL;
}

void sigbus_flush(void)
{
	if (!memory)
		return;
	for (unsigned n = 0; n < RESTORERS; n++) {
		if (atomic_fetch_or(&taken, (uint64_t)1 << n) >> n & 1)
			continue;
		restorer_flush(&restorers[n], memory);
		atomic_fetch_and(&taken, ~((uint64_t)1 << n));
	}
}

/* Memory may be short for a while: then this waits. */
static struct larder_restorer *take_restorer(void)
{
	struct larder_restorer *w = take_kept();

	while (!w && !(w = sys_map(PAGE_BYTES)))
		sys_yield();
	while (!w->bounce && restorer_open_program(w, memory, program_uffd) < 0)
		sys_yield();
	w->disk_fd = program_disk;
	return w;
}

static void give_back_restorer(struct larder_restorer *w)
{
	if (is_kept(w)) {
		atomic_fetch_and(&taken, ~((uint64_t)1 << (w - restorers)));
		return;
	}
	restorer_close(w, memory);
	sys_munmap(w, PAGE_BYTES);
}

/* ---- refilling ---- */

static int call_refill(struct larder_restorer *w, const struct refill *q)
{
	size_t bytes = q->unit.pages * PAGE_BYTES;
	char *buffer = q->unit.pages <= RESTORE_MAX_PAGES ? w->bounce : sys_map(bytes);
	int err = -ENOMEM;

	if (buffer) {
		restorer_flush(w, memory); /* the program may fork in there */
		err = q->refill(q->cookie, region_address(&memory->region, q->unit.first), buffer, bytes);
		if (!err)
			refill_install(memory, w, q, buffer);
		if (buffer != w->bounce)
			sys_munmap(buffer, bytes);
	}
	return err == 0;
}

/* A touch of a trapped page. Returns 1 when the access can be tried again. */
static int spring_trap(struct larder_restorer *w, size_t index)
{
	struct refill refill;

	if (!refill_find(memory, region_chunk(&memory->region, index)->owner.pool, index, &refill))
		return 1; /* not any more */
	return refill.refill && call_refill(w, &refill);
}

void sigbus_refill(size_t index)
{
	struct larder_restorer *w;

	if (!memory || !(page_load(&memory->region.pages[index]) & PAGE_TRAP))
		return;
	w = take_restorer();
	spring_trap(w, index);
	give_back_restorer(w);
}

/* ---- inline faults ---- */

static void wait_for_room(unsigned pool)
{
	while (pressure_should_put_off(memory, pool)) {
		uint32_t seen = event_count(&memory->pressure.relieved);

		pressure_wake_reclaim(memory);
		event_wait(&memory->pressure.relieved, seen, ROOM_SLICE_NS);
	}
}

/* Its owner is another thread, which does not know that somebody waits: that is for handlers. */
static void wait_while_busy(size_t index)
{
	for (unsigned spins = 0; page_is_busy(page_load(&memory->region.pages[index])); spins++)
		if (memory->store.disk) /* it is probably being read */
			swap_in_await(memory, index, BUSY_POLL_NS);
		else if (spins < BUSY_SPINS)
			sys_yield();
		else
			sys_sleep_ns(BUSY_POLL_NS);
}

static void wait_for_read(size_t index)
{
	while (page_is_busy(page_load(&memory->region.pages[index])))
		swap_in_await(memory, index, READ_SLICE_NS);
}

static int serve_inline(struct larder_restorer *w, size_t index)
{
	for (;;)
		switch (resolve(memory, w, index, 0)) {
		case RESOLVE_AGAIN:
			break;
		case RESOLVE_BUSY:
			wait_while_busy(index);
			break;
		case RESOLVE_READING:
			wait_for_read(index);
			return 1;
		case RESOLVE_FULL:
			sys_sleep_ns(BUSY_POLL_NS);
			break;
		case RESOLVE_PUT_OFF:
			STATS_ADD(faults_throttled, 1);
			wait_for_room(region_chunk(&memory->region, index)->owner.pool);
			break;
		case RESOLVE_TRAPPED:
			return spring_trap(w, index);
		case RESOLVE_POISONED:
			return 0;
		default:
			return 1;
		}
}

static int serve_fault(struct larder_restorer *w, size_t index)
{
	int served;

	restorer_begin_fault(w);
	served = serve_inline(w, index);
	restorer_end_fault(w);
	STATS_ADD(faults, 1);
	pressure_notice(memory, region_chunk(&memory->region, index)->owner.pool);
	return served;
}

/*
 * The table says that the page is there, so the access can be tried again: another thread was faster. Unless it cannot:
 * a page that the hardware has lost raises SIGBUS each time. So the same address may do so only so often in a row.
 */
static int may_try_again(const void *addr)
{
	static _Atomic uintptr_t last;
	static _Atomic uint32_t times;

	if (atomic_exchange(&last, (uintptr_t)addr) != (uintptr_t)addr)
		atomic_store(&times, 0);
	return atomic_fetch_add(&times, 1) < TRIES_MAX;
}

/*
 * A chunk raises SIGBUS from the moment it is registered, which is a little before it counts as watched: region_watch()
 * does both under the chunk's lock.
 */
static int wait_until_watched(struct larder_chunk *chunk)
{
	mutex_lock(&chunk->lock);
	mutex_unlock(&chunk->lock);
	return chunk_is_watched(chunk);
}

int sigbus_serve(const siginfo_t *info)
{
	struct larder_restorer *w;
	struct larder_chunk *chunk;
	size_t index;
	uint64_t word;
	int served;

	if (!memory || info->si_code <= 0 || !region_contains(&memory->region, info->si_addr) ||
	    atomic_load_explicit(&memory->region.detached, memory_order_relaxed))
		return 0;
	index = region_index(&memory->region, info->si_addr);
	chunk = region_chunk(&memory->region, index);
	word = page_load(&memory->region.pages[index]);
	if (!chunk_is_watched(chunk))
		return chunk->owner.inline_faults && info->si_code == BUS_ADRERR && wait_until_watched(chunk);
	if (page_state(word) == PAGE_POISONED && !(word & PAGE_TRAP))
		return 0;
	if (!chunk->owner.inline_faults && !(word & PAGE_TRAP))
		return page_is_busy(word) || may_try_again(info->si_addr);
	w = take_restorer();
	served = chunk->owner.inline_faults ? serve_fault(w, index) : spring_trap(w, index);
	give_back_restorer(w);
	return served;
}

/* ---- the signal ---- */

/* End the process as it would have ended without us. */
static void die(const siginfo_t *info)
{
	const struct sigaction by_default = { .sa_handler = SIG_DFL };

	sigaction(SIGBUS, &by_default, NULL);
	if (info->si_code <= 0) /* sent, not raised by an access that will be tried again */
		raise(SIGBUS);
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	int saved_errno = errno, served = sigbus_serve(info);

	if (!served) {
		if (previous.sa_flags & SA_SIGINFO)
			previous.sa_sigaction(signal, info, context);
		else if (previous.sa_handler == SIG_DFL || (previous.sa_handler == SIG_IGN && info->si_code > 0))
			die(info);
		else if (previous.sa_handler != SIG_IGN)
			previous.sa_handler(signal);
	}
	errno = saved_errno;
	if (served)
		sigreturn_now(context);
}

int sigbus_open(struct larder_memory *m, struct larder_reclaim *r)
{
	int64_t adopted;
	int err;

	if (memory)
		return 0;
	program_uffd = uffd_open_sigbus();
	if (program_uffd < 0)
		return program_uffd;
	/* The program may close descriptors that it did not open: what keeps the registrations is the reclaim thread's.
	 */
	adopted = reclaim_ask(r, &(struct reclaim_request){ .kind = REQUEST_ADOPT, .fd = program_uffd });
	/* Nested: a refill callback may touch other memory of this kind. */
	err = adopted < 0 ? (int)adopted : sigreturn_install(SIGBUS, on_sigbus, 0, &previous);
	if (err) {
		sys_close(program_uffd);
		return err;
	}
	m->inline_uffd = (int)adopted;
	if (m->store.disk) /* without, the readers read */
		program_disk = m->store.disk->ops->reopen(m->store.disk->backend);
	memory = m;
	return 0;
}

void sigbus_inherit(void)
{
	if (!memory)
		return;
	program_uffd = uffd_open_sigbus(); /* the old one is of the parent's memory; the program may have closed it */
	for (unsigned i = 0; i < RESTORERS; i++) {
		restorers[i].uffd = program_uffd;
		restorers[i].drops.n = 0;
	}
	program_disk = memory->store.disk ? memory->store.disk->ops->reopen(memory->store.disk->backend) : -1;
}
