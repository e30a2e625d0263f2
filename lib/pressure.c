/*
 * See pressure.h.
 */
#include "pressure.h"

#include "limit.h"
#include "memory.h"
#include "shared.h"
#include "stats.h"
#include "thread.h"
#include "uffd.h"

/*
 * Watermarks: high is a step below the limit, low is another, and faults are put off a step above it. What is left free
 * comes off the resident pages, which are few when much is compressed (at a limit of 50 % and a ratio of 2.7, one MB
 * less to use is 1.7 MB less resident). So a step is what a batch needs: 1/100 of small limits, else 1 MiB; and where
 * many CPUs use up that in no time, 1/512.
 */
enum { STEP_DIVISOR = 100, STEP_BYTES = 1 << 20, STEP_LARGE_DIVISOR = 512 };

/* The rest of the process counts beyond 1/25 of the limit, and 1/8 at most; so RSS stays below the limit + 4 % while
 * the rest is small. */
enum { REST_GRACE_DIVISOR = 25, REST_MOST_DIVISOR = 8 };

enum { WAIT_YIELDS = 64, WAIT_POLL_NS = 50000 };

/* An allocation waits in slices, and no longer than this altogether: then the program goes on above its limit. */
#define ADMIT_SLICE_NS 2000000u
#define ADMIT_TOTAL_NS 2000000000u

uint64_t pressure_metadata_bytes(const struct larder_memory *m)
{
	return m->pressure.fixed_bytes + region_metadata_bytes(&m->region) + segments_metadata_bytes(&m->segments);
}

/* What Larder makes the process cost. */
static uint64_t managed_bytes(const struct larder_memory *m)
{
	uint64_t pages = (uint64_t)region_counted(&m->region, LARDER_PAGES_UNTRACKED) +
			 (uint64_t)region_counted(&m->region, LARDER_PAGES_RESIDENT) +
			 atomic_load_explicit(&m->staging.filled, memory_order_relaxed);

	return pages * PAGE_BYTES + store_cost_bytes(&m->store) + pressure_metadata_bytes(m) +
	       atomic_load_explicit(&m->pressure.shared_bytes, memory_order_relaxed);
}

/* What the program has in managed memory, wherever it is. */
static uint64_t content_bytes(const struct larder_region *r)
{
	int64_t pages = 0;

	for (int kind = 0; kind < LARDER_PAGES_POISONED; kind++)
		pages += region_counted(r, (enum larder_page_kind)kind);
	return (uint64_t)pages * PAGE_BYTES;
}

static uint64_t limit_bytes(const struct larder_memory *m, unsigned pool)
{
	const struct larder_budget *budget = &m->pools[pool].budget;
	uint64_t limit = budget->limit_bytes;

	if (budget->limit_percent) {
		limit = content_bytes(&m->region) / 100 * budget->limit_percent;
		return limit > LARDER_LIMIT_MIN_BYTES ? limit : LARDER_LIMIT_MIN_BYTES;
	}
	return limit ? limit : UINT64_MAX;
}

/* How much of the rest of the process counts: see pressure.h. */
static uint64_t counted_rest_bytes(const struct larder_memory *m, uint64_t limit)
{
	uint64_t rest = atomic_load_explicit(&m->pressure.other_bytes, memory_order_relaxed);
	uint64_t grace = limit / REST_GRACE_DIVISOR, most = limit / REST_MOST_DIVISOR;

	rest = rest > grace ? rest - grace : 0;
	return rest < most ? rest : most;
}

/* A compressed page of a pool counts as much as the average one: the tiers do not know whose their objects are. */
static uint64_t pool_bytes(const struct larder_memory *m, unsigned pool)
{
	const struct larder_region *r = &m->region;
	uint64_t pages = (uint64_t)region_pool_counted(r, pool, LARDER_PAGES_UNTRACKED) +
			 (uint64_t)region_pool_counted(r, pool, LARDER_PAGES_RESIDENT) +
			 (uint64_t)region_pool_counted(r, pool, LARDER_PAGES_STAGED);
	uint64_t stored = (uint64_t)region_pool_counted(r, pool, LARDER_PAGES_STORED);

	if (stored)
		stored *= store_cost_bytes(&m->store) / ((uint64_t)region_counted(r, LARDER_PAGES_STORED) + 1);
	return pages * PAGE_BYTES + stored;
}

uint64_t pressure_usage_bytes(const struct larder_memory *m, unsigned pool)
{
	if (pool != REGION_HEAP)
		return pool_bytes(m, pool);
	return managed_bytes(m) + counted_rest_bytes(m, limit_bytes(m, REGION_HEAP));
}

/* The second number of /proc/self/statm: resident pages of the process. 0 when it cannot be read. */
static uint64_t resident_pages(int statm)
{
	char text[64];
	long n = sys_call6(SYS_pread64, statm, (long)text, sizeof(text), 0, 0, 0);
	uint64_t pages = 0;
	long i = 0;

	while (i < n && text[i] != ' ')
		i++;
	for (i++; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		pages = pages * 10 + (uint64_t)(text[i] - '0');
	return pages;
}

void pressure_measure_rest(struct larder_memory *m)
{
	uint64_t rss, managed;

	atomic_store_explicit(&m->pressure.shared_bytes, shared_resident_bytes(), memory_order_relaxed);
	managed = managed_bytes(m);

	/* Memory that is not watched yet counts in full, resident or not, so there is no telling what the rest is. */
	if (region_counted(&m->region, LARDER_PAGES_UNTRACKED) > 0)
		return;
	rss = resident_pages(m->pressure.statm) * PAGE_BYTES;
	atomic_store_explicit(&m->pressure.other_bytes, rss > managed ? rss - managed : 0, memory_order_relaxed);
}

static uint64_t step_bytes(uint64_t limit)
{
	uint64_t step = limit / STEP_DIVISOR, large = limit / STEP_LARGE_DIVISOR;

	if (step <= STEP_BYTES)
		return step;
	return large > STEP_BYTES ? large : STEP_BYTES;
}

struct larder_watermarks pressure_watermarks(const struct larder_memory *m, unsigned pool)
{
	uint64_t limit = limit_bytes(m, pool),
		 attained = atomic_load_explicit(&m->pools[pool].budget.attained_bytes, memory_order_relaxed);
	uint64_t effective = attained > limit ? attained : limit, step = step_bytes(effective);

	return (struct larder_watermarks){ limit, effective, effective - step, effective - 2 * step };
}

static int has_limit(const struct larder_memory *m, unsigned pool)
{
	return m->pools[pool].budget.limit_bytes || m->pools[pool].budget.limit_percent;
}

int pressure_is_high(const struct larder_memory *m, unsigned pool)
{
	return has_limit(m, pool) && pressure_usage_bytes(m, pool) > pressure_watermarks(m, pool).high_bytes;
}

static int has_room(const struct larder_memory *m, unsigned pool)
{
	struct larder_watermarks w;

	if (!has_limit(m, pool))
		return 1;
	w = pressure_watermarks(m, pool);
	return pressure_usage_bytes(m, pool) + (w.wait_bytes - w.low_bytes) < w.low_bytes;
}

int pressure_has_room(const struct larder_memory *m, unsigned pool)
{
	return has_room(m, REGION_HEAP) && (pool == REGION_HEAP || has_room(m, pool));
}

uint32_t pressure_tiers(const struct larder_memory *m, unsigned pool)
{
	return pool == REGION_HEAP ? STORE_ALL_TIERS : m->pools[pool].tiers;
}

void pressure_wake_reclaim(struct larder_memory *m)
{
	if (atomic_exchange_explicit(&m->pressure.asleep, 0, memory_order_acq_rel))
		event_post(&m->pressure.wanted);
}

static int is_unmet(const struct larder_memory *m, unsigned pool)
{
	return atomic_load_explicit(&m->pools[pool].budget.attained_bytes, memory_order_relaxed) != 0;
}

void pressure_marked(struct larder_memory *m, unsigned pool)
{
	if (!is_unmet(m, REGION_HEAP) && !is_unmet(m, pool))
		return;
	atomic_store(&m->pressure.marked, 1);
	pressure_wake_reclaim(m);
}

void pressure_ask_to_wake(struct larder_memory *m)
{
	atomic_store(&m->pressure.wake_region, 1);
	pressure_wake_reclaim(m);
}

void pressure_notice(struct larder_memory *m, unsigned pool)
{
	if (!atomic_load_explicit(&m->pressure.asleep, memory_order_acquire))
		return;
	if (pressure_is_high(m, REGION_HEAP) || (pool != REGION_HEAP && pressure_is_high(m, pool)))
		pressure_wake_reclaim(m);
}

static int is_over(const struct larder_memory *m, unsigned pool)
{
	return has_limit(m, pool) && pressure_usage_bytes(m, pool) > pressure_watermarks(m, pool).wait_bytes;
}

static int must_wait(const struct larder_memory *m, unsigned pool)
{
	if (atomic_load_explicit(&m->pressure.suspended, memory_order_relaxed))
		return 0;
	return is_over(m, REGION_HEAP) || (pool != REGION_HEAP && is_over(m, pool));
}

void pressure_admit(struct larder_memory *m, unsigned pool)
{
	uint64_t start;

	pressure_notice(m, pool);
	if (!must_wait(m, pool))
		return;
	start = sys_now_ns();
	STATS_ADD(pressure_waits, 1);
	do {
		uint32_t seen = event_count(&m->pressure.relieved);

		pressure_wake_reclaim(m);
		event_wait(&m->pressure.relieved, seen, ADMIT_SLICE_NS);
	} while (must_wait(m, pool) && sys_now_ns() - start < ADMIT_TOTAL_NS);
	STATS_ADD(pressure_wait_ns, sys_now_ns() - start);
}

void pressure_wait_turn(struct larder_memory *m, struct larder_wait *wait)
{
	if (++wait->turns < WAIT_YIELDS) {
		sys_yield();
		return;
	}
	if (wait->turns == WAIT_YIELDS && thread_is_internal(sys_gettid())) {
		wait->let_go = 1;
		atomic_fetch_add(&m->pressure.suspended, 1);
		event_post(&m->pressure.relieved);
		uffd_wake(m->uffd, m->region.base, m->region.bytes);
	}
	sys_sleep_ns(WAIT_POLL_NS);
}

void pressure_wait_end(struct larder_memory *m, const struct larder_wait *wait)
{
	if (wait->let_go)
		atomic_fetch_sub(&m->pressure.suspended, 1);
}

void pressure_lock(struct larder_memory *m, struct larder_mutex *lock)
{
	struct larder_wait wait = { 0 };

	if (mutex_trylock(lock))
		return;
	if (!thread_is_internal(sys_gettid())) {
		mutex_lock(lock);
		return;
	}
	while (!mutex_trylock(lock))
		pressure_wait_turn(m, &wait);
	pressure_wait_end(m, &wait);
}

static int is_well_over(const struct larder_memory *m, unsigned pool)
{
	struct larder_watermarks w;

	if (!has_limit(m, pool))
		return 0;
	w = pressure_watermarks(m, pool);
	return pressure_usage_bytes(m, pool) > w.wait_bytes + (w.wait_bytes - w.high_bytes);
}

int pressure_should_put_off(const struct larder_memory *m, unsigned pool)
{
	if (atomic_load_explicit(&m->pressure.suspended, memory_order_relaxed))
		return 0;
	return is_well_over(m, REGION_HEAP) || (pool != REGION_HEAP && is_well_over(m, pool));
}

/* Setting the flag comes before waking reclaim, which tests it before it sleeps. */
void pressure_put_off(struct larder_memory *m)
{
	STATS_ADD(faults_throttled, 1);
	atomic_store(&m->pressure.put_off, 1);
	pressure_wake_reclaim(m);
}

static void set(uint64_t *gauge, uint64_t value)
{
	__atomic_store_n(gauge, value, __ATOMIC_RELAXED);
}

void pressure_publish(const struct larder_memory *m, struct larder_stats *to)
{
	struct larder_watermarks w = pressure_watermarks(m, REGION_HEAP);
	uint64_t usage = pressure_usage_bytes(m, REGION_HEAP), same_pages;

	set(&to->usage_bytes, usage);
	set(&to->limit_bytes, has_limit(m, REGION_HEAP) ? w.limit_bytes : 0);
	set(&to->high_bytes, has_limit(m, REGION_HEAP) ? w.high_bytes : 0);
	set(&to->low_bytes, has_limit(m, REGION_HEAP) ? w.low_bytes : 0);
	set(&to->metadata_bytes, pressure_metadata_bytes(m));
	set(&to->other_bytes, atomic_load_explicit(&m->pressure.other_bytes, memory_order_relaxed));
	if (usage > to->peak_usage_bytes)
		set(&to->peak_usage_bytes, usage);
	for (int kind = 0; kind < LARDER_PAGES_KINDS; kind++)
		set(&to->pages[kind], (uint64_t)region_counted(&m->region, (enum larder_page_kind)kind));
	store_stats(&m->store, to->tiers, &same_pages);
}
