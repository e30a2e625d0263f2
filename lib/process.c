/*
 * The process under Larder. See process.h.
 *
 * Start: the caller's thread maps everything, then starts the reclaim thread, which owns a private descriptor table (thread.h).
 * That thread opens the userfaultfd and the pagemap, starts the fault handlers, and reports whether all went well; only then
 * are jemalloc's arenas given the extent hooks, so a failure leaves the program as it was.
 *
 * Fork, in this version: the parent brings every page back before the fork, so the child's copy is plain memory, and the child runs
 * without Larder. Correct, at the price of exceeding the limit while the fork happens.
 */
#include "process.h"

#include "discard.h"
#include "fault.h"
#include "limit.h"
#include "memory.h"
#include "reclaim.h"
#include "stats.h"
#include "sys.h"
#include "thread.h"
#include "uffd.h"

#include <pthread.h>

/* Address space to reserve: far more than any heap, little of what the architecture has. Halved where limits forbid it. */
#define REGION_MAX_BYTES ((size_t)1 << 40)

/* RAM that a thread's scratch and bounce buffers take once used, roughly. */
enum { RESTORER_COST_BYTES = 160 << 10 };

static struct {
	struct larder_memory memory;
	struct larder_reclaim reclaim;
	struct larder_event ready; /* posted by the reclaim thread when `result` is there */
	int result;
	_Atomic int managed;
} process;

static int open_service(void)
{
	struct larder_memory *m = &process.memory;
	long fd, err;

	log_adopt();
	m->uffd = uffd_open();
	if (m->uffd < 0)
		return m->uffd;
	fd = sys_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return (int)fd;
	m->pagemap = (int)fd;
	err = uffd_register(m->uffd, m->staging.base, (size_t)STAGING_MAX_SLOTS * PAGE_BYTES);
	if (err < 0)
		return (int)err;
	err = restorer_open(&process.reclaim.restorer, m);
	if (err < 0)
		return (int)err;
	return fault_start(m);
}

static void service_main(void *arg)
{
	int handlers = open_service();

	(void)arg;
	process.memory.pressure.fixed_bytes =
		sizeof(struct larder_stats) + (uint64_t)(handlers + 1) * (THREAD_COST_BYTES + RESTORER_COST_BYTES);
	process.result = handlers < 0 ? handlers : 0;
	event_post(&process.ready);
	if (handlers < 0)
		sys_call3(SYS_exit, 0, 0, 0);
	reclaim_run(&process.reclaim);
}

static int check_options(const struct larder_options *o)
{
	if (o->flags || o->limit_percent > 100 || (o->limit_bytes && o->limit_percent))
		return -EINVAL;
	return o->limit_bytes && o->limit_bytes < LARDER_LIMIT_MIN_BYTES ? -EINVAL : 0;
}

static int open_tiers(struct larder_memory *m, const struct process_setup *setup)
{
	static const struct larder_backend_ops *const lz4[] = { &larder_backend_lz4 };
	uint64_t max_objects = m->region.bytes / PAGE_BYTES;

	if (!setup->tiers)
		return store_open(&m->store, lz4, 1, max_objects);
	return store_open(&m->store, setup->tiers, setup->ntiers, max_objects);
}

static int open_memory(const struct larder_options *o, const struct process_setup *setup)
{
	struct larder_memory *m = &process.memory;
	int err = stats_open();

	if (!err)
		err = region_open(&m->region, REGION_MAX_BYTES);
	if (!err)
		err = staging_open(&m->staging);
	if (!err)
		err = open_tiers(m, setup);
	m->pressure.limit_bytes = o->limit_bytes;
	m->pressure.limit_percent = o->limit_percent;
	STATS_SET(limit_percent, o->limit_percent);
	process.reclaim.memory = m;
	return err;
}

/* No internal thread runs: give the address space back. */
static void close_memory(void)
{
	struct larder_memory *m = &process.memory;

	store_close(&m->store);
	staging_close(&m->staging);
	region_close(&m->region);
	stats_close();
}

static int start_service(void)
{
	uint32_t seen = event_count(&process.ready);
	int tid = thread_start("larder-reclaim", service_main, NULL, THREAD_OWN_FILES);

	if (tid < 0)
		return tid;
	while (event_count(&process.ready) == seen)
		event_wait(&process.ready, seen, 0);
	return process.result;
}

int process_start(const struct process_setup *setup)
{
	struct larder_options o = setup->options ? *setup->options : (struct larder_options){ 0 };
	int err = check_options(&o);

	if (err)
		return err;
	if (atomic_load(&process.managed))
		return -EALREADY;
	err = arena_check(setup->allocator);
	if (err)
		return err;
	err = open_memory(&o, setup);
	if (!err)
		err = start_service();
	if (err) {
		close_memory();
		return err;
	}
	atomic_store(&process.managed, 1);
	err = -pthread_atfork(process_before_fork, process_after_fork_parent, process_after_fork_child);
	return err ? err : arena_install(setup->allocator, &process.memory, &process.reclaim);
}

int process_is_managed(void)
{
	return atomic_load_explicit(&process.managed, memory_order_relaxed);
}

int process_advise(void *addr, size_t bytes, int advice, int *result)
{
	size_t rounded = (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);

	if (!process.memory.region.base || (advice != MADV_DONTNEED && advice != MADV_FREE))
		return 0;
	if ((uintptr_t)addr % PAGE_BYTES || !region_contains(&process.memory.region, addr) ||
	    rounded > (size_t)(process.memory.region.base + process.memory.region.bytes - (char *)addr))
		return 0;
	*result = discard(&process.memory, addr, rounded);
	return 1;
}

int64_t process_reclaim(uint64_t bytes)
{
	return process_is_managed() ? (int64_t)reclaim_now(&process.reclaim, bytes) : -ENOTCONN;
}

int process_get_stats(struct larder_stats *to)
{
	if (!process_is_managed())
		return -ENOTCONN;
	*to = *stats;
	pressure_publish(&process.memory, to);
	return 0;
}

void process_before_fork(void)
{
	if (process_is_managed())
		reclaim_freeze(&process.reclaim);
}

void process_after_fork_parent(void)
{
	if (process_is_managed())
		reclaim_thaw(&process.reclaim);
}

void process_after_fork_child(void)
{
	if (!process_is_managed())
		return;
	atomic_store(&process.managed, 0);
	reclaim_detach(&process.reclaim);
}

void process_check(void)
{
	process_before_fork(); /* everything resident, nothing under way */
	region_check(&process.memory.region);
	process_after_fork_parent();
}
