/*
 * Reclaim. See reclaim.h for the requests, evict.h for the mechanism, pressure.h for when it runs.
 *
 * One thread, so that pages leave in one order and the ring has one writer; it handles about 1.5 GB/s, with others that
 * compress (compress.h). A cycle, for the process and then for every pool that is above its limit: put unwatched chunks
 * under watch; purge what is volatile; ask the allocator for what it holds free; then keep staging filled to its target
 * and write out its tail, until the cost is at the low watermark or a few turns of the clock have brought nothing (the
 * limit is *unmet*).
 */
#include "reclaim.h"

#include "direct.h"
#include "evict.h"
#include "passing.h"
#include "shared.h"
#include "stats.h"
#include "sys.h"
#include "unseen.h"
#include "uffd.h"
#include "watch.h"

/*
 * Idle turns (end_turn) after which nothing more can be taken: more than the credit that pages in use have
 * (fault.c), so that all of them have been tried, fewer than incompressible ones get.
 */
enum { IDLE_TURNS_MAX = 9, IDLE_TURN_DIVISOR = 64 };

/* Staging holds 1/64 of the limit: long enough to tell hot from cold, small enough not to matter. */
enum { STAGING_LIMIT_DIVISOR = 64, STAGING_MIN_PAGES = 16, STAGING_MAX_PAGES = 16384 };

/* What stays resident however small the limit: a program that faults on every access does no work. */
enum { RESIDENT_LIMIT_DIVISOR = 10 };

/* Which volatile classes (priority + 1) go when memory is short in the system: macOS's levels. */
static const unsigned char class_of_level[] = { 0, 1 + 1, 4 + 1, LARDER_PRIORITIES - 1 };

/*
 * Room above what was attained when the limit is unmet, as a share of the limit. Generous: the limit is broken anyway,
 * and with pages compressed 2 to 1 it gives the program a quarter of the limit more to work in, instead of faulting
 * without end.
 */
enum { ATTAINED_ROOM_DIVISOR = 8 };

enum { DEMOTE_PAGES = 128 };

enum { COMPACT_BYTES = 256 << 10, PURGE_FUTILE_FACTOR = 10 };

#define DISK_POLL_NS  2000000u
#define DISK_STALL_NS 500000000u

#define BATCH_WAITS_NS 100000000u

#define PURGE_INTERVAL_MIN_NS 50000000u
#define PURGE_INTERVAL_MAX_NS 1600000000u
#define PURGE_WAIT_NS	      20000000u
#define RETRY_MIN_NS	      200000000u
#define RETRY_MAX_NS	      6400000000u

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static size_t staging_target(uint64_t limit_bytes)
{
	uint64_t pages = limit_bytes / STAGING_LIMIT_DIVISOR / PAGE_BYTES;

	return (size_t)min64(max64(pages, STAGING_MIN_PAGES), STAGING_MAX_PAGES);
}

/* Explain why a chunk stays unwatched; once, since the next will fail alike. */
static void report_unwatchable(long err)
{
	static int reported; /* reclaim thread only */
	struct larder_text t = { 0 };

	if (reported++)
		return;
	text_string(&t, "some memory cannot be registered with userfaultfd (errno ");
	text_signed(&t, -err);
	text_string(&t, "), so it stays resident; errno 12 means that vm.max_map_count is too low");
	log_line(&t);
}

/* Put the chunks of a pool, or with REGION_HEAP all, under watch. */
static void watch_all(struct larder_memory *m, unsigned pool)
{
	size_t chunks = region_used_chunks(&m->region);

	for (size_t c = 0; c < chunks; c++) {
		const struct larder_chunk *chunk = &m->region.chunks[c];
		int err = 0;

		if (!chunk_is_watched(chunk) && (pool == REGION_HEAP || chunk->owner.pool == pool))
			err = evict_watch(m, c);
		if (err)
			report_unwatchable(err);
	}
}

/* Returns 0, or the error of the first chunk that cannot be watched. The span may be wrong: the caller checks it later.
 */
static int watch_span(struct larder_memory *m, size_t first, size_t pages)
{
	size_t chunks = region_used_chunks(&m->region);
	int err = 0;

	for (size_t c = first / CHUNK_PAGES; !err && c < chunks && c <= (first + pages - 1) / CHUNK_PAGES; c++)
		if (!chunk_is_watched(&m->region.chunks[c]))
			err = evict_watch(m, c);
	return err;
}

/*
 * Memory that the allocator has freed but still holds goes first: it is worth nothing. A program thread does it, since
 * it takes the allocator's locks; waiting for it is bounded, since it may itself wait for us.
 */
static void purge_allocator(struct larder_reclaim *r)
{
	struct larder_memory *m = r->memory;
	uint64_t now = sys_now_ns(), before = pressure_usage_bytes(m, REGION_HEAP);
	uint32_t seen;

	if (!atomic_load(&r->purger_ready) || now - r->last_purge_ns < r->purge_interval_ns)
		return;
	seen = event_count(&r->purge_done);
	event_post(&r->purge_wanted);
	event_wait(&r->purge_done, seen, PURGE_WAIT_NS);
	STATS_ADD(purges, 1);
	r->last_purge_ns = sys_now_ns();
	if (pressure_usage_bytes(m, REGION_HEAP) < before - before / 128)
		r->purge_interval_ns = PURGE_INTERVAL_MIN_NS;
	else
		r->purge_interval_ns = min64(2 * r->purge_interval_ns, PURGE_INTERVAL_MAX_NS);
}

/* Threads whose faults were put off, or that touched memory while it was discarded, try again. */
static void wake_sleepers(struct larder_memory *m, unsigned pool)
{
	int wake = (int)atomic_exchange(&m->pressure.wake_region, 0);

	if (!pressure_should_put_off(m, pool))
		wake |= (int)atomic_exchange(&m->pressure.put_off, 0);
	if (wake)
		uffd_wake(m->uffd, m->region.base, m->region.bytes);
}

static int has_request(const struct larder_reclaim *r)
{
	return atomic_load(&r->freeze) > 0 || atomic_load(&r->requested) > 0 || unseen_is_pending(r->memory) ||
	       atomic_load(&r->memory->pressure.system_level) > 0;
}

/*
 * The hand has been round. A turn that evicts less than 1/64 of the resident pages is idle: the rest are pinned,
 * volatile, incompressible, or have credit. Counting any eviction as success would let a trickle of them keep reclaim,
 * and the threads that wait for it, going for ever.
 */
static void end_turn(struct larder_reclaim *r, unsigned pool)
{
	uint64_t resident = (uint64_t)region_pool_counted(&r->memory->region, pool, LARDER_PAGES_RESIDENT);

	r->idle_turns = r->turn_evicted <= resident / IDLE_TURN_DIVISOR ? r->idle_turns + 1 : 0;
	r->turn_evicted = 0;
}

static void begin_turns(struct larder_reclaim *r)
{
	r->idle_turns = 0;
	r->turn_evicted = 0;
}

/* The share of compressed pages follows what has been fetched. Returns 1: they take more than that by now. */
static int follow_split(struct larder_memory *m, uint64_t limit_bytes)
{
	struct larder_store_ram ram = store_in_ram(&m->store);
	uint64_t most;

	split_follow(&m->split, ram.pages, ram.bytes, limit_bytes);
	most = split_bytes(&m->split, limit_bytes);
	STATS_SET(compressed_limit_bytes, most);
	return ram.bytes > most;
}

/* The disk is full: copies that resident pages have there are the first to go. */
static void make_room_on_disk(struct larder_reclaim *r)
{
	struct larder_memory *m = r->memory;

	if (STATS_GET(copies))
		swap_out_drop_copies(m, &r->copies_hand, DEMOTE_PAGES);
}

/* Send some of what is compressed in RAM on to disk. Returns 1 when some is on its way. */
static int demote(struct larder_reclaim *r, unsigned pool)
{
	struct larder_memory *m = r->memory;
	int err;
	size_t sent;

	if (!m->store.disk)
		return 0;
	sent = swap_out_demote(m, &r->swap_out, r->restorer.scratch, pool, DEMOTE_PAGES, &err);
	if (err == -ENOSPC)
		make_room_on_disk(r);
	return sent > 0 || err == -EBUSY;
}

/* There is nothing to do but to wait for what is being written, if it is: for a moment, since requests may come. */
static void wait_for_disk(struct larder_reclaim *r)
{
	struct larder_memory *m = r->memory;
	uint32_t seen = event_count(&m->pressure.wanted);

	if (!swap_out_is_busy(m, &r->swap_out) || has_request(r))
		return;
	swap_out_flush(m, &r->swap_out, r->restorer.scratch);
	swap_out_wait(m, r->restorer.scratch, &m->pressure.wanted, seen, DISK_POLL_NS);
}

/* One step: fill staging towards `target` slots, write out one batch. Returns the pages evicted. */
static size_t step(struct larder_reclaim *r, unsigned pool, uint64_t now_ns, size_t target)
{
	struct larder_memory *m = r->memory;
	uint64_t slots = m->staging.head - m->staging.cursor;
	struct evict_sweep sweep = { .pool = pool, .hand = &m->pools[pool].budget.hand, .now_ns = now_ns };
	size_t evicted;

	if (slots < target)
		sweep.want = min64(target - slots, 2 * EVICT_BATCH);
	if (now_ns == EVICT_HELD_TOO) /* as fast as it can */
		evict_sweep(m, &sweep);
	else
		direct_sweep(m, &sweep);
	evicted = evict_write_out(m, &r->restorer, &r->swap_out);
	if (m->store.disk && follow_split(m, pressure_watermarks(m, pool).wait_bytes))
		demote(r, pool);
	if (sweep.staged == 0 && evicted == 0)
		wait_for_disk(r);
	r->turn_evicted += evicted;
	if (sweep.turns || (sweep.staged == 0 && slots == 0))
		end_turn(r, pool);
	store_compact(&m->store, r->restorer.scratch, COMPACT_BYTES);
	store_learn(&m->store);
	event_post(&m->pressure.relieved);
	wake_sleepers(m, pool);
	pressure_publish(m, stats);
	return evicted;
}

static int resident_floor_reached(const struct larder_memory *m, unsigned pool, uint64_t limit_bytes)
{
	uint64_t floor = limit_bytes / RESIDENT_LIMIT_DIVISOR / PAGE_BYTES;

	return (uint64_t)region_pool_counted(&m->region, pool, LARDER_PAGES_RESIDENT) < floor;
}

/* Once: it would be said again at each retry. */
static void report_unmet(const struct larder_memory *m, unsigned pool)
{
	static int reported; /* reclaim thread only */
	struct larder_text t = { 0 };

	if (reported++)
		return;
	text_string(&t, "the limit of ");
	text_number(&t, pressure_watermarks(m, pool).limit_bytes >> 10);
	text_string(&t, pool == REGION_HEAP ? " KiB cannot be met: " : " KiB of a pool cannot be met: ");
	text_number(&t, pressure_usage_bytes(m, pool) >> 10);
	text_string(
		&t,
		" KiB in use and nothing more to gain (pinned, incompressible, or all compressed); nothing is lost, raise ");
	text_string(&t, pool == REGION_HEAP ? "--limit" : "it");
	log_line(&t);
}

/* Nothing more can be taken: what is left is the limit for now. Each try looks at every page, so the intervals grow. */
static void give_up(struct larder_reclaim *r, unsigned pool)
{
	struct larder_memory *m = r->memory;
	struct larder_budget *budget = &m->pools[pool].budget;

	if (pressure_usage_bytes(m, pool) > pressure_watermarks(m, pool).limit_bytes)
		report_unmet(m, pool);
	if (atomic_load(&budget->attained_bytes) == 0 && budget->retry_ns == 0)
		STATS_ADD(limit_unmet_events, 1);
	if (pool == REGION_HEAP)
		STATS_SET(limit_unmet, 1);
	atomic_store(&budget->attained_bytes,
		     pressure_usage_bytes(m, pool) + pressure_watermarks(m, pool).limit_bytes / ATTAINED_ROOM_DIVISOR);
	budget->retry_ns = min64(max64(2 * budget->retry_ns, RETRY_MIN_NS), RETRY_MAX_NS);
	budget->retry_at_ns = sys_now_ns() + budget->retry_ns;
}

/* Time to try for the real limit again? */
static void retry_limit(struct larder_budget *budget)
{
	if (atomic_load(&budget->attained_bytes) && sys_now_ns() >= budget->retry_at_ns)
		atomic_store(&budget->attained_bytes, 0);
}

static void limit_is_met(struct larder_memory *m, unsigned pool)
{
	if (atomic_load(&m->pools[pool].budget.attained_bytes))
		return;
	if (pool == REGION_HEAP)
		STATS_SET(limit_unmet, 0);
	m->pools[pool].budget.retry_ns = 0;
}

/* Space in the tiers that pages have left costs nothing to take. */
static void compact_to_low(struct larder_reclaim *r, unsigned pool, uint64_t low_bytes)
{
	struct larder_memory *m = r->memory;

	while (pressure_usage_bytes(m, pool) > low_bytes &&
	       store_compact(&m->store, r->restorer.scratch, COMPACT_BYTES) > 0)
		;
}

/* Purge volatile memory of the whole process, shared ranges included, class by class. */
static uint64_t purge_process(struct larder_reclaim *r, unsigned upto, uint64_t bytes, enum larder_purge_reason reason)
{
	struct larder_memory *m = r->memory;
	uint64_t freed = 0, shared = 0;

	if (atomic_load(&m->pressure.shared_bytes) == 0)
		return purge(m, &r->choice, REGION_HEAP, upto, bytes, reason);
	for (unsigned class = 0; class <= upto && freed < bytes; class ++) {
		freed += purge(m, &r->choice, REGION_HEAP, class, bytes - freed, reason);
		if (freed < bytes)
			shared = shared_purge_volatile((int)class + LARDER_PRIORITY_OBSOLETE, bytes - freed);
		freed += shared;
		shared = 0;
	}
	pressure_measure_rest(m);
	return freed;
}

static int has_volatile(const struct larder_memory *m, unsigned pool)
{
	if (pool == REGION_HEAP && atomic_load(&m->pressure.shared_bytes))
		return 1;
	return purge_available(m, pool, LARDER_PRIORITIES - 1) != 0;
}

/*
 * What its owners can do without goes before anything that they cannot. When it cannot go now (all of it is pinned,
 * say), looking for it again waits ten times as long as looking took. Returns the bytes given back.
 */
static uint64_t purge_to_low(struct larder_reclaim *r, unsigned pool)
{
	struct larder_memory *m = r->memory;
	uint64_t usage = pressure_usage_bytes(m, pool), low = pressure_watermarks(m, pool).low_bytes;
	uint64_t start = sys_now_ns(), freed;

	if (usage <= low || start < r->next_volatile_ns || !has_volatile(m, pool))
		return 0;
	if (pool == REGION_HEAP)
		freed = purge_process(r, LARDER_PRIORITIES - 1, usage - low, LARDER_PURGE_PROCESS_LIMIT);
	else
		freed = purge(m, &r->choice, pool, LARDER_PRIORITIES - 1, usage - low, LARDER_PURGE_POOL_LIMIT);
	if (freed == 0)
		r->next_volatile_ns = start + PURGE_FUTILE_FACTOR * (sys_now_ns() - start);
	compact_to_low(r, pool, low);
	event_post(&m->pressure.relieved);
	wake_sleepers(m, pool);
	return freed;
}

/* A limit is unmet and something has become volatile: purge towards the limit itself, and try for it again if it helps.
 */
static void purge_to_limit(struct larder_reclaim *r, unsigned pool)
{
	struct larder_memory *m = r->memory;
	struct larder_budget *budget = &m->pools[pool].budget;
	uint64_t attained = atomic_exchange(&budget->attained_bytes, 0);

	r->next_volatile_ns = 0;
	if (attained && !purge_to_low(r, pool))
		atomic_store(&budget->attained_bytes, attained);
}

/*
 * Nothing is left to compress: what is compressed can go on to disk. Returns 0 when nothing does, or when the disk does
 * nothing for half a second.
 */
static int demote_more(struct larder_reclaim *r, unsigned pool)
{
	struct larder_memory *m = r->memory;
	uint64_t now = sys_now_ns();

	if (!demote(r, pool) && !swap_out_is_busy(m, &r->swap_out)) {
		r->disk_since_ns = 0;
		return 0;
	}
	wait_for_disk(r);
	if (evict_settle(m, &r->restorer, &r->swap_out) > 0) {
		r->disk_since_ns = now;
		begin_turns(r);
	} else if (r->disk_since_ns == 0) {
		r->disk_since_ns = now;
	}
	event_post(&m->pressure.relieved);
	wake_sleepers(m, pool);
	pressure_publish(m, stats);
	if (now - r->disk_since_ns < DISK_STALL_NS)
		return 1;
	r->disk_since_ns = 0;
	return 0;
}

static void reclaim_to_low(struct larder_reclaim *r, unsigned pool)
{
	struct larder_memory *m = r->memory;
	struct larder_watermarks w;

	retry_limit(&m->pools[pool].budget);
	if (!pressure_is_high(m, pool)) {
		limit_is_met(m, pool);
		return;
	}
	watch_all(m, pool);
	if (pool == REGION_HEAP)
		pressure_measure_rest(m);
	w = pressure_watermarks(m, pool);
	compact_to_low(r, pool, w.low_bytes);
	purge_to_low(r, pool);
	if (pressure_is_high(m, pool))
		purge_allocator(r);
	begin_turns(r);
	while (pressure_usage_bytes(m, pool) > w.low_bytes && !has_request(r)) {
		if (r->idle_turns > IDLE_TURNS_MAX || resident_floor_reached(m, pool, w.wait_bytes)) {
			if (demote_more(r, pool))
				continue;
			if (pressure_is_high(m, pool))
				give_up(r, pool);
			break;
		}
		/* Nothing is compressed while purging does it, or the program itself just has. */
		if (purge_to_low(r, pool) || pressure_usage_bytes(m, pool) <= w.low_bytes)
			continue;
		step(r, pool, sys_now_ns(), staging_target(w.wait_bytes));
		if (region_pool_counted(&m->region, pool, LARDER_PAGES_UNTRACKED) > 0)
			watch_all(m, pool);
		w = pressure_watermarks(m, pool); /* a percentage follows what the program has allocated */
	}
	if (!pressure_is_high(m, pool))
		limit_is_met(m, pool);
	event_post(&m->pressure.relieved);
	wake_sleepers(m, pool);
}

static int is_live(const struct larder_memory *m, unsigned pool)
{
	return atomic_load_explicit(&m->pools[pool].state, memory_order_acquire) == POOL_LIVE;
}

static void reclaim_all(struct larder_reclaim *r)
{
	int marked = (int)atomic_exchange(&r->memory->pressure.marked, 0);

	for (unsigned pool = REGION_HEAP; pool < REGION_POOLS; pool++) {
		if (pool != REGION_HEAP && !is_live(r->memory, pool))
			continue;
		if (marked)
			purge_to_limit(r, pool);
		reclaim_to_low(r, pool);
	}
}

/* ---- requests ---- */

static uint64_t evict_bytes(struct larder_reclaim *r, uint64_t bytes)
{
	uint64_t wanted = (bytes + PAGE_BYTES - 1) / PAGE_BYTES, done = 0;

	watch_all(r->memory, REGION_HEAP);
	begin_turns(r);
	while (done < wanted && r->idle_turns <= IDLE_TURNS_MAX)
		done += step(r, REGION_HEAP, EVICT_HELD_TOO, 4 * EVICT_BATCH);
	return done * PAGE_BYTES;
}

/* The descriptor table of the program is its main thread's. */
static int64_t adopt(int fd)
{
	long pid_fd = sys_call3(SYS_pidfd_open, sys_getpid(), 0, 0), own;

	if (pid_fd < 0)
		return pid_fd;
	own = sys_call3(SYS_pidfd_getfd, pid_fd, fd, 0);
	sys_close((int)pid_fd);
	return own;
}

/* Send the disk's descriptors to the program thread that has the other end of the socket. */
static int64_t lend(struct larder_reclaim *r, int program_socket)
{
	struct larder_store *store = &r->memory->store;
	int64_t socket = adopt(program_socket);
	int fds[LARDER_LENT], err;

	if (socket < 0)
		return socket;
	err = store_lend(store, fds);
	if (!err) {
		err = pass_send((int)socket, fds, LARDER_LENT);
		store_lent(store, fds);
	}
	sys_close((int)socket);
	return err;
}

static void on_system_pressure(void *arg, enum system_level level)
{
	reclaim_system_pressure(arg, level);
}

/* Pages cease to be managed: copies on disk are of no use any more. */
static int64_t relinquish(struct larder_memory *m, size_t first, size_t pages)
{
	for (size_t i = first; m->store.disk && i < first + pages; i++)
		swap_out_drop_copy(m, i);
	return region_relinquish(&m->region, first, pages, m->uffd);
}

static int64_t obey(struct larder_reclaim *r, const struct reclaim_request *q)
{
	struct larder_memory *m = r->memory;

	switch (q->kind) {
	case REQUEST_EVICT:
		return (int64_t)evict_bytes(r, q->bytes);
	case REQUEST_EVICT_RANGE:
		watch_all(m, q->pool);
		return (int64_t)evict_range(m, &r->restorer, &r->swap_out, q->first, q->pages) * PAGE_BYTES;
	case REQUEST_WATCH:
		return watch_span(m, q->first, q->pages);
	case REQUEST_PURGE:
		return (int64_t)purge(m, &r->choice, q->pool, q->upto, q->bytes, LARDER_PURGE_REQUESTED);
	case REQUEST_ADOPT:
		return adopt(q->fd);
	case REQUEST_DISOWN:
		return sys_close(q->fd);
	case REQUEST_LEND:
		return lend(r, q->fd);
	case REQUEST_ADOPT_PAGES:
		return region_adopt(&m->region, q->first, q->pages, m->uffd, m->pagemap);
	case REQUEST_RELINQUISH:
		return relinquish(m, q->first, q->pages);
	case REQUEST_WATCH_SYSTEM:
		return system_open(&r->system, NULL) > 0 ? system_start(&r->system, on_system_pressure, r) : 0;
	}
	return -EINVAL;
}

static void answer_request(struct larder_reclaim *r)
{
	if (!atomic_load(&r->requested))
		return;
	r->result = obey(r, &r->request);
	atomic_store(&r->requested, 0);
	event_post(&r->answered);
	wake_sleepers(r->memory, REGION_HEAP);
}

/* Memory is short outside this process: what its owners value least goes, by level. */
static void purge_for_system(struct larder_reclaim *r)
{
	uint32_t level = atomic_exchange(&r->memory->pressure.system_level, 0);
	unsigned upto;

	if (level == 0)
		return;
	upto = class_of_level[level];
	STATS_ADD(system_pressure[level - 1], 1);
	pressure_measure_rest(r->memory);
	purge_process(r, upto, UINT64_MAX, LARDER_PURGE_SYSTEM);
	compact_to_low(r, REGION_HEAP, 0);
}

/* Go over every page: what is on disk is asked for; with `ahead` the next page is not looked at only when it is there.
 */
static void fetch_pass(struct larder_reclaim *r, int ahead)
{
	struct larder_memory *m = r->memory;
	size_t used = region_used_pages(&m->region);
	uint64_t words[RESTORE_MAX_PAGES];

	for (size_t i = 0; i < used;) {
		size_t to_end = CHUNK_PAGES - i % CHUNK_PAGES, n;
		uint64_t word = page_load(&m->region.pages[i]);

		if (!chunk_is_watched(region_chunk(&m->region, i))) {
			i += to_end;
			continue;
		}
		if (page_is_busy(word) && !ahead) {
			sys_yield();
			continue;
		}
		if (!restore_needs_disk(m, word)) {
			i++;
			continue;
		}
		n = restore_acquire(m, i, min64(to_end, RESTORE_MAX_PAGES), 1u << PAGE_STORED, 0, words);
		if (n == 0)
			continue;
		if (!restore_needs_disk(m, words[0])) { /* another page by now */
			restore_give_up(m, &r->restorer, i, words, n);
		} else if (swap_in(m, &r->restorer, i, words, n, &(struct swap_in_request){ 0 })) {
			restore_give_up(m, &r->restorer, i, words, n);
			sys_yield();
		} else {
			i += ahead ? n : 0;
		}
	}
}

/* A child that has no disk could not read what is there: bring it back to RAM. What is being written stays. */
static void fetch_from_disk(struct larder_reclaim *r)
{
	if (!r->memory->store.disk || atomic_load(&r->disk_is_lent))
		return;
	fetch_pass(r, 1);
	fetch_pass(r, 0);
}

/* True when no thread is in fork any more; a thread that enters from then on must ask anew. */
static int try_thaw(struct larder_reclaim *r)
{
	uint32_t nobody = RECLAIM_FROZEN;

	return atomic_compare_exchange_strong(&r->freeze, &nobody, 0);
}

static void freeze(struct larder_reclaim *r)
{
	struct larder_memory *m = r->memory;

	/* Nobody may wait for reclaim now: the forking thread's own faults must be answered. */
	atomic_fetch_add(&m->pressure.suspended, 1);
	event_post(&m->pressure.relieved);
	wake_sleepers(m, REGION_HEAP);
	fetch_from_disk(r);
	store_freeze(&m->store);
	atomic_store(&m->has_forked, 1);
	atomic_fetch_or(&r->freeze, RECLAIM_FROZEN);
	event_post(&r->answered);
	while (!try_thaw(r)) {
		uint32_t seen = event_count(&m->pressure.wanted);

		atomic_store(&m->pressure.asleep, 1);
		if (atomic_load(&r->freeze) != RECLAIM_FROZEN)
			event_wait(&m->pressure.wanted, seen, 0);
		atomic_store(&m->pressure.asleep, 0);
		wake_sleepers(m, REGION_HEAP);
	}
	store_thaw(&m->store);
	atomic_fetch_sub(&m->pressure.suspended, 1);
}

static int has_work(const struct larder_reclaim *r)
{
	const struct larder_memory *m = r->memory;

	if (has_request(r) || atomic_load(&m->pressure.put_off) || atomic_load(&m->pressure.wake_region) ||
	    atomic_load(&m->lost_report) || atomic_load(&m->pressure.marked))
		return 1;
	if (pressure_is_high(m, REGION_HEAP))
		return 1;
	for (unsigned pool = 1; pool < REGION_POOLS; pool++)
		if (is_live(m, pool) && pressure_is_high(m, pool))
			return 1;
	return 0;
}

/* How long to sleep at most: until the next try for an unmet limit; 0 = for ever. */
static uint64_t sleep_ns(const struct larder_reclaim *r)
{
	uint64_t now = sys_now_ns(), at = UINT64_MAX;

	for (unsigned pool = 0; pool < REGION_POOLS; pool++) {
		const struct larder_budget *budget = &r->memory->pools[pool].budget;

		if ((pool == REGION_HEAP || is_live(r->memory, pool)) && atomic_load(&budget->attained_bytes))
			at = min64(at, budget->retry_at_ns);
	}
	if (at == UINT64_MAX)
		return 0;
	return at > now ? at - now : 1;
}

/* A batch that is not full waits for more: each is a write of its own, behind which reads wait. */
static void sleep_beside_writes(struct larder_reclaim *r, uint32_t seen)
{
	struct larder_memory *m = r->memory;
	uint64_t most = sleep_ns(r), start = sys_now_ns();

	if (r->swap_out.batch && (most == 0 || most > BATCH_WAITS_NS))
		most = BATCH_WAITS_NS;
	swap_out_wait(m, r->restorer.scratch, &m->pressure.wanted, seen, most);
	if (sys_now_ns() - start >= BATCH_WAITS_NS)
		swap_out_flush(m, &r->swap_out, r->restorer.scratch);
}

static void sleep_until_wanted(struct larder_reclaim *r)
{
	struct larder_pressure *p = &r->memory->pressure;
	uint32_t seen = event_count(&p->wanted);

	restorer_flush(&r->restorer, r->memory);
	pressure_publish(r->memory, stats);
	store_at_work(&r->memory->store, 0);
	atomic_store(&p->asleep, 1);
	if (has_work(r))
		goto out;
	if (swap_out_is_busy(r->memory, &r->swap_out))
		sleep_beside_writes(r, seen);
	else
		event_wait(&p->wanted, seen, sleep_ns(r));
out:
	atomic_store(&p->asleep, 0);
	store_at_work(&r->memory->store, 1);
}

/* Writes that were under way are done: their pages are on disk now, and slots can be emptied. */
static void settle_writes(struct larder_reclaim *r)
{
	struct larder_memory *m = r->memory;

	if (!m->store.disk)
		return;
	if (swap_out_is_busy(m, &r->swap_out) || m->staging.tail != m->staging.cursor)
		evict_settle(m, &r->restorer, &r->swap_out);
	store_compact(&m->store, r->restorer.scratch, COMPACT_BYTES);
}

void reclaim_run(struct larder_reclaim *r)
{
	r->purge_interval_ns = PURGE_INTERVAL_MIN_NS;
	for (;;) {
		uint64_t start = sys_now_ns();

		if (!watch_keep_off(0, WATCH_NO_CPU, &r->off_cpus))
			watch_let_go(&r->off_cpus);
		if (atomic_load(&r->freeze) > 0)
			freeze(r);
		unseen_settle(r->memory, &r->restorer);
		answer_request(r);
		settle_writes(r);
		purge_for_system(r);
		reclaim_all(r);
		restore_report(r->memory);
		wake_sleepers(r->memory, REGION_HEAP);
		STATS_ADD(reclaim_ns, sys_now_ns() - start);
		sleep_until_wanted(r);
	}
}

void reclaim_freeze(struct larder_reclaim *r)
{
	atomic_fetch_add(&r->freeze, 1);
	for (;;) {
		uint32_t seen = event_count(&r->answered);

		if (atomic_load(&r->freeze) & RECLAIM_FROZEN)
			break;
		pressure_wake_reclaim(r->memory);
		event_wait(&r->answered, seen, 0);
	}
	STATS_ADD(forks, 1);
}

void reclaim_thaw(struct larder_reclaim *r)
{
	atomic_fetch_sub(&r->freeze, 1);
	pressure_wake_reclaim(r->memory);
}

/* The thread that forks may have a small stack: no copies of what is large. */
void reclaim_inherit(struct larder_reclaim *r)
{
	struct larder_memory *m = r->memory;
	uint32_t ticket = r->swap_out.next_ticket;

	__builtin_memset(r, 0, sizeof(*r));
	r->memory = m;
	r->swap_out.next_ticket = ticket;
}

int64_t reclaim_ask(struct larder_reclaim *r, const struct reclaim_request *request)
{
	uint64_t signals;
	int64_t result;

	sys_block_signals(&signals);
	mutex_lock(&r->request_lock);
	r->request = *request;
	atomic_store(&r->requested, 1);
	for (;;) {
		uint32_t seen = event_count(&r->answered);

		if (atomic_load(&r->requested) == 0)
			break;
		pressure_wake_reclaim(r->memory);
		event_wait(&r->answered, seen, 0);
	}
	result = r->result;
	mutex_unlock(&r->request_lock);
	sys_restore_signals(&signals);
	return result;
}

void reclaim_system_pressure(struct larder_reclaim *r, enum system_level level)
{
	_Atomic uint32_t *now = &r->memory->pressure.system_level;
	uint32_t seen = atomic_load(now);

	while (seen < level && !atomic_compare_exchange_weak(now, &seen, level))
		;
	pressure_wake_reclaim(r->memory);
}
