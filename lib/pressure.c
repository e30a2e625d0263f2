/*
 * See pressure.h.
 */
#include "pressure.h"

#include "limit.h"
#include "memory.h"
#include "stats.h"

/*
 * Watermarks in parts of the limit: high is 1/100 below it and low another 1/100 below that. Close to the limit,
 * because what is left free comes off the resident pages, which are few when much is compressed (at a limit of 50 % and
 * a ratio of 2.7, one MB less to use is 1.7 MB less resident); and far enough apart for a batch, at limits that matter.
 * Faults are put off at 1/100 above.
 */
enum { WATERMARK_DIVISOR = 100 };

/* The rest of the process counts beyond 1/25 of the limit, and 1/8 at most; so RSS stays below the limit + 4 % while
 * the rest is small. */
enum { REST_GRACE_DIVISOR = 25, REST_MOST_DIVISOR = 8 };

/* An allocation waits in slices, and no longer than this altogether: then the program goes on above its limit. */
#define ADMIT_SLICE_NS 2000000u
#define ADMIT_TOTAL_NS 2000000000u

uint64_t pressure_metadata_bytes(const struct larder_memory *m)
{
	return m->pressure.fixed_bytes + region_metadata_bytes(&m->region);
}

/* What Larder makes the process cost. */
static uint64_t managed_bytes(const struct larder_memory *m)
{
	uint64_t pages = (uint64_t)region_counted(&m->region, LARDER_PAGES_UNTRACKED) +
			 (uint64_t)region_counted(&m->region, LARDER_PAGES_RESIDENT) +
			 atomic_load_explicit(&m->staging.slots, memory_order_relaxed);

	return pages * PAGE_BYTES + store_cost_bytes(&m->store) + pressure_metadata_bytes(m);
}

/* What the program has in managed memory, wherever it is. */
static uint64_t content_bytes(const struct larder_region *r)
{
	int64_t pages = 0;

	for (int kind = 0; kind < LARDER_PAGES_POISONED; kind++)
		pages += region_counted(r, (enum larder_page_kind)kind);
	return (uint64_t)pages * PAGE_BYTES;
}

static uint64_t limit_bytes(const struct larder_memory *m)
{
	uint64_t limit = m->pressure.limit_bytes;

	if (m->pressure.limit_percent) {
		limit = content_bytes(&m->region) / 100 * m->pressure.limit_percent;
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

uint64_t pressure_usage_bytes(const struct larder_memory *m)
{
	return managed_bytes(m) + counted_rest_bytes(m, limit_bytes(m));
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
	uint64_t rss, managed = managed_bytes(m);

	/* Memory that is not watched yet counts in full, resident or not, so there is no telling what the rest is. */
	if (region_counted(&m->region, LARDER_PAGES_UNTRACKED) > 0)
		return;
	rss = resident_pages(m->pressure.statm) * PAGE_BYTES;
	atomic_store_explicit(&m->pressure.other_bytes, rss > managed ? rss - managed : 0, memory_order_relaxed);
}

struct larder_watermarks pressure_watermarks(const struct larder_memory *m)
{
	uint64_t limit = limit_bytes(m),
		 attained = atomic_load_explicit(&m->pressure.attained_bytes, memory_order_relaxed);
	uint64_t effective = attained > limit ? attained : limit, step = effective / WATERMARK_DIVISOR;

	return (struct larder_watermarks){ limit, effective, effective - step, effective - 2 * step };
}

static int has_limit(const struct larder_memory *m)
{
	return m->pressure.limit_bytes || m->pressure.limit_percent;
}

void pressure_wake_reclaim(struct larder_memory *m)
{
	if (atomic_exchange_explicit(&m->pressure.asleep, 0, memory_order_acq_rel))
		event_post(&m->pressure.wanted);
}

void pressure_notice(struct larder_memory *m)
{
	if (!has_limit(m) || !atomic_load_explicit(&m->pressure.asleep, memory_order_acquire))
		return;
	if (pressure_usage_bytes(m) > pressure_watermarks(m).high_bytes)
		pressure_wake_reclaim(m);
}

static int must_wait(const struct larder_memory *m)
{
	return !atomic_load_explicit(&m->pressure.suspended, memory_order_relaxed) &&
	       pressure_usage_bytes(m) > pressure_watermarks(m).wait_bytes;
}

void pressure_admit(struct larder_memory *m)
{
	uint64_t start;

	if (!has_limit(m))
		return;
	pressure_notice(m);
	if (!must_wait(m))
		return;
	start = sys_now_ns();
	STATS_ADD(pressure_waits, 1);
	do {
		uint32_t seen = event_count(&m->pressure.relieved);

		pressure_wake_reclaim(m);
		event_wait(&m->pressure.relieved, seen, ADMIT_SLICE_NS);
	} while (must_wait(m) && sys_now_ns() - start < ADMIT_TOTAL_NS);
	STATS_ADD(pressure_wait_ns, sys_now_ns() - start);
}

int pressure_should_put_off(const struct larder_memory *m)
{
	struct larder_watermarks w;

	if (!has_limit(m) || atomic_load_explicit(&m->pressure.suspended, memory_order_relaxed))
		return 0;
	w = pressure_watermarks(m);
	return pressure_usage_bytes(m) > w.wait_bytes + (w.wait_bytes - w.high_bytes);
}

static void set(uint64_t *gauge, uint64_t value)
{
	__atomic_store_n(gauge, value, __ATOMIC_RELAXED);
}

void pressure_publish(const struct larder_memory *m, struct larder_stats *to)
{
	struct larder_watermarks w = pressure_watermarks(m);
	uint64_t usage = pressure_usage_bytes(m), same_pages;

	set(&to->usage_bytes, usage);
	set(&to->limit_bytes, has_limit(m) ? w.limit_bytes : 0);
	set(&to->high_bytes, has_limit(m) ? w.high_bytes : 0);
	set(&to->low_bytes, has_limit(m) ? w.low_bytes : 0);
	set(&to->metadata_bytes, pressure_metadata_bytes(m));
	set(&to->other_bytes, atomic_load_explicit(&m->pressure.other_bytes, memory_order_relaxed));
	if (usage > to->peak_usage_bytes)
		set(&to->peak_usage_bytes, usage);
	for (int kind = 0; kind < LARDER_PAGES_KINDS; kind++)
		set(&to->pages[kind], (uint64_t)region_counted(&m->region, (enum larder_page_kind)kind));
	store_stats(&m->store, to->tiers, &same_pages);
}
