/*
 * The process under Larder. See process.h.
 */
#include "process.h"

#include "discard.h"
#include "api.h"
#include "core_dump.h"
#include "fork.h"
#include "limit.h"
#include "mapping.h"
#include "range.h"
#include "service.h"
#include "sigbus.h"
#include "shared.h"
#include "stats.h"

#define SWAP_DEFAULT_BYTES ((uint64_t)8 << 30)

static struct larder_service service;
static _Atomic int watching; /* 1: the system is watched, or is not to be */
static int ignores_system;   /* constant once started */
static _Atomic int managed;  /* 1 once started; 0 again in a forked child that could not have threads */

static int check_options(const struct larder_options *o)
{
	int swaps = o->swap_dir || o->swap_device;

	if (o->flags & ~(LARDER_IGNORE_SYSTEM | LARDER_SWAP_ENCRYPT | LARDER_FULL_CORE) || o->limit_percent > 100 ||
	    (o->limit_bytes && o->limit_percent))
		return -EINVAL;
	if ((o->swap_dir && o->swap_device) || (!swaps && (o->swap_bytes || o->flags & LARDER_SWAP_ENCRYPT)) ||
	    (o->swap_bytes && (o->swap_bytes < LARDER_SWAP_MIN_BYTES || o->swap_bytes > LARDER_SWAP_MAX_BYTES)))
		return -EINVAL;
	return o->limit_bytes && o->limit_bytes < LARDER_LIMIT_MIN_BYTES ? -EINVAL : 0;
}

static int start_service(const struct larder_options *o, const struct process_setup *setup)
{
	static const struct larder_backend_ops *const tiers[] = { &larder_backend_lz4, &larder_backend_file };
	const struct larder_backend_setup swap = {
		.dir = o->swap_dir,
		.device = o->swap_device,
		.bytes = o->swap_bytes || o->swap_device ? o->swap_bytes : SWAP_DEFAULT_BYTES,
		.encrypt = (o->flags & LARDER_SWAP_ENCRYPT) != 0,
		.seam = setup->seam,
	};
	int err;

	service.memory.pools[REGION_HEAP].budget.limit_bytes = o->limit_bytes;
	service.memory.pools[REGION_HEAP].budget.limit_percent = o->limit_percent;
	if (setup->tiers)
		err = service_start(&service, setup->tiers, setup->ntiers, &swap);
	else
		err = service_start(&service, tiers, o->swap_dir || o->swap_device ? 2 : 1, &swap);
	if (!err)
		STATS_SET(limit_percent, o->limit_percent);
	return err;
}

void process_watch_system(void)
{
	if (process_is_managed() && !atomic_exchange(&watching, 1))
		reclaim_ask(&service.reclaim, &(struct reclaim_request){ .kind = REQUEST_WATCH_SYSTEM });
}

/* Shared volatile memory has grown in this process. */
static void count_shared(uint64_t bytes)
{
	if (!process_is_managed())
		return;
	process_watch_system();
	atomic_fetch_add(&service.memory.pressure.shared_bytes, bytes);
	pressure_notice(&service.memory, REGION_HEAP);
}

int process_start(const struct process_setup *setup)
{
	struct larder_options o = setup->options ? *setup->options : (struct larder_options){ 0 };
	int err = check_options(&o);

	if (err)
		return err;
	if (process_is_managed())
		return -EALREADY;
	err = arena_check(setup->allocator);
	if (!err)
		err = start_service(&o, setup);
	if (err)
		return err;
	ignores_system = (o.flags & LARDER_IGNORE_SYSTEM) != 0;
	atomic_store(&watching, ignores_system);
	atomic_store(&managed, 1);
	atomic_store(&shared_filled, count_shared);
	if (o.flags & LARDER_FULL_CORE)
		core_dump_open(&service.memory, &service.reclaim);
	err = fork_open();
	if (!err && setup->manages_mappings)
		err = mapping_open(&service.memory, &service.reclaim);
	return err ? err : arena_install(setup->allocator, &service.memory, &service.reclaim);
}

int process_is_managed(void)
{
	return atomic_load_explicit(&managed, memory_order_relaxed);
}

int process_advise(void *addr, size_t bytes, int advice, int *result)
{
	const struct larder_region *r = &service.memory.region;
	size_t rounded = (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);

	if (!r->base || (advice != MADV_DONTNEED && advice != MADV_FREE))
		return 0;
	if ((uintptr_t)addr % PAGE_BYTES || !region_contains(r, addr) ||
	    rounded > (size_t)(r->base + r->bytes - (char *)addr))
		return 0;
	*result = discard(&service.memory, addr, rounded);
	return 1;
}

struct larder_service *process_service(void)
{
	return service.memory.region.base ? &service : NULL;
}

int process_get_stats(struct larder_stats *to)
{
	if (!process_is_managed())
		return -ENOTCONN;
	ranges_publish(&service.memory);
	*to = *stats;
	pressure_publish(&service.memory, to);
	return 0;
}

void process_inherit(const int lent[LARDER_LENT])
{
	int watched = atomic_load(&watching) && !ignores_system;

	if (!process_is_managed())
		return;
	mapping_inherit();
	atomic_store(&watching, ignores_system);
	if (service_inherit(&service, lent) < 0) {
		atomic_store(&managed, 0);
		return;
	}
	sigbus_inherit();
	if (watched)
		process_watch_system();
}

void process_check(void)
{
	fork_before(); /* nothing is under way */
	region_check(&service.memory.region);
	fork_after_in_parent();
}
