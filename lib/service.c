/*
 * The service. See service.h.
 *
 * The caller's thread maps everything, then starts the reclaim thread, which owns a private descriptor table
 * (thread.h). That thread opens the userfaultfd and the pagemap, starts the fault handlers, which share its table, and
 * reports whether all went well.
 */
#include "service.h"

#include "compress.h"
#include "fault.h"
#include "inherit.h"
#include "stats.h"
#include "sys.h"
#include "thread.h"
#include "uffd.h"

/* Address space to reserve: far more than any heap, little of what the architecture has. Halved where limits forbid it.
 */
#define REGION_MAX_BYTES ((size_t)1 << 40)

/* RAM that a thread's scratch and bounce buffers take once used, roughly. */
enum { RESTORER_COST_BYTES = 160 << 10 };

/* In a forked child, what the parent had. */
static int go_on_with(struct larder_service *s)
{
	struct larder_memory *m = &s->memory;

	if (m->store.disk)
		store_attach(&m->store, s->lent);
	if (m->inline_uffd >= 0) {
		m->inline_uffd = uffd_open_sigbus();
		if (m->inline_uffd < 0)
			return m->inline_uffd;
	}
	return region_watch_again(&m->region, m->uffd, m->inline_uffd);
}

/* On the reclaim thread. Returns the number of handlers, or a negative errno. */
static int open_descriptors(struct larder_service *s)
{
	struct larder_memory *m = &s->memory;
	long err;

	thread_close_files(s->lent, m->store.disk ? LARDER_LENT : 0);
	log_adopt();
	m->uffd = uffd_open();
	if (m->uffd < 0)
		return m->uffd;
	m->pagemap = (int)sys_open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (m->pagemap < 0)
		return m->pagemap;
	m->pressure.statm = (int)sys_open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	if (m->pressure.statm < 0)
		return m->pressure.statm;
	err = uffd_register(m->uffd, m->staging.base, (size_t)STAGING_MAX_SLOTS * PAGE_BYTES);
	if (err < 0)
		return (int)err;
	err = s->is_inherited ? go_on_with(s) : store_open(&m->store, s->tiers, s->ntiers, &s->setup);
	if (!err)
		err = restorer_open(&s->reclaim.restorer, m);
	if (!err)
		err = store_thread_open(&m->store, s->reclaim.restorer.scratch);
	if (!err)
		err = fault_start(m);
	if (err > 0)
		compress_start(m);
	return (int)err;
}

static void reclaim_main(void *arg)
{
	struct larder_service *s = arg;
	int handlers = open_descriptors(s);

	s->memory.pressure.fixed_bytes =
		sizeof(struct larder_stats) + compress_cost_bytes(&s->memory.compress) +
		(uint64_t)(handlers + 1 + (int)s->memory.swap_in.nreaders) * (THREAD_COST_BYTES + RESTORER_COST_BYTES);
	s->result = handlers < 0 ? handlers : 0;
	if (handlers < 0 && s->memory.uffd >= 0) /* readers may live on and keep it, and unmapping would wait for them */
		sys_close(s->memory.uffd);
	if (handlers < 0 && !s->is_inherited && s->memory.swap_in.nreaders == 0)
		store_close(&s->memory.store); /* here, because its descriptors are this thread's */
	event_post(&s->ready);
	if (handlers < 0)
		sys_call3(SYS_exit, 0, 0, 0);
	reclaim_run(&s->reclaim);
}

static int start_reclaim(struct larder_service *s)
{
	uint32_t seen = event_count(&s->ready);
	int tid = thread_start("larder-reclaim", reclaim_main, s, THREAD_OWN_FILES);

	if (tid < 0)
		return tid;
	while (event_count(&s->ready) == seen)
		event_wait(&s->ready, seen, 0);
	return s->result;
}

static int open_memory(struct larder_memory *m)
{
	int err = stats_open();

	if (!err)
		err = region_open(&m->region, REGION_MAX_BYTES);
	if (!err)
		err = segments_open(&m->segments);
	if (!err)
		err = staging_open(&m->staging);
	if (!err)
		err = compress_open(&m->compress);
	return err;
}

/* No internal thread runs: give the address space back. */
static void close_memory(struct larder_memory *m)
{
	compress_close(&m->compress);
	staging_close(&m->staging);
	segments_close(&m->segments);
	region_close(&m->region);
	stats_close();
}

int service_start(struct larder_service *s, const struct larder_backend_ops *const *tiers, unsigned ntiers,
		  const struct larder_backend_setup *setup)
{
	int err = open_memory(&s->memory);

	s->memory.inline_uffd = -1;
	s->reclaim.memory = &s->memory;
	s->tiers = tiers;
	s->ntiers = ntiers;
	s->setup = *setup;
	s->setup.max_objects = s->memory.region.bytes / PAGE_BYTES;
	s->setup.stats = &stats->disk;
	if (!err)
		err = start_reclaim(s);
	if (err)
		close_memory(&s->memory);
	return err;
}

/* Of pools' events: they are the parent's, and so are the descriptors. */
static void forget_events(struct larder_memory *m)
{
	for (unsigned pool = 0; pool < REGION_POOLS; pool++)
		m->pools[pool].events = (struct larder_events){ 0 };
}

int service_inherit(struct larder_service *s, const int lent[LARDER_LENT])
{
	struct larder_memory *m = &s->memory;
	int err;

	log_inherit();
	stats_inherit();
	reclaim_inherit(&s->reclaim);
	inherit(m, lent[0] >= 0);
	__builtin_memcpy(s->lent, lent, sizeof(s->lent));
	forget_events(m);
	s->is_inherited = 1;
	err = start_reclaim(s);
	if (err) {
		inherit_restore(m, lent[0]);
		atomic_store(&m->region.detached, 1);
	}
	return err;
}
