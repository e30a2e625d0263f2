/*
 * One contender: three times the buffer is filled anew, taken to disk, and touched: in ascending order by one thread,
 * in random order by one and by several. Ascending goes first, on an area that nothing has been in: random faults free
 * the kernel's swap slots in random order, and what is taken to such an area afterwards is not in order there.
 */
#include "disk_run.h"

#include "diskstats.h"
#include "random.h"
#include "touch.h"

#include <err.h>
#include <string.h>

#define MB 1e6

struct run {
	const struct disk_setup *setup;
	const struct disk_contender *contender;
	uint64_t generation;
	struct latency latency;
	/* sums over all the times that the pages went out */
	double evicted_bytes, call_seconds, free_seconds, written_bytes, device_bytes;
};

static void push_out(void *arg)
{
	struct run *r = arg;
	const struct disk_setup *s = r->setup;
	double device = diskstats_written_bytes(s->dir);
	struct disk_out out = { 0 };

	r->contender->out(s, r->contender->peer, &out);
	r->evicted_bytes += (double)paging_check_out(&s->paging, r->contender->peer);
	r->call_seconds += out.call_seconds;
	r->free_seconds += out.free_seconds;
	r->written_bytes += (double)out.written_bytes;
	r->device_bytes += diskstats_written_bytes(s->dir) - device;
}

/* Returns the pages touched in a second. */
static double measure(struct run *r, enum touch_pattern pattern, unsigned threads)
{
	const struct paging_options *o = &r->setup->paging;
	enum peer peer = r->contender->peer;
	double seconds;

	r->generation++;
	touch_order(pattern, random_mix(o->seed) + r->generation);
	latency_open(&r->latency, o->bytes / PAGING_PAGE_BYTES);
	paging_fill(o, peer, r->generation);
	seconds = touch_all(paging_buffer(peer), threads, push_out, r, &r->latency);
	latency_sort(&r->latency);
	paging_check_contents(o, peer, r->generation);
	return (double)r->latency.count / seconds;
}

static void measure_random(struct run *r, double *figures)
{
	measure(r, TOUCH_RANDOM, 1);
	figures[DISK_P50_US] = latency_quantile_us(&r->latency, 0.5);
	figures[DISK_P99_US] = latency_quantile_us(&r->latency, 0.99);
	latency_close(&r->latency);
	figures[DISK_RANDOM_PAGES_S] = measure(r, TOUCH_RANDOM, r->setup->threads);
	latency_close(&r->latency);
}

static void measure_sequential(struct run *r, double *figures)
{
	figures[DISK_SEQUENTIAL_MB_S] = measure(r, TOUCH_SEQUENTIAL, 1) * PAGING_PAGE_BYTES / MB;
	latency_close(&r->latency);
}

static void summarize_out(const struct run *r, double *figures)
{
	figures[DISK_CALL_MB_S] = r->evicted_bytes / r->call_seconds / MB;
	figures[DISK_FREE_MB_S] = r->evicted_bytes / r->free_seconds / MB;
	figures[DISK_WRITTEN_RATIO] = r->written_bytes / r->evicted_bytes;
	figures[DISK_DEVICE_RATIO] = r->device_bytes / r->evicted_bytes;
}

static void join_cgroup(const struct disk_setup *s)
{
	int err = *s->cgroup ? cgroup_join(s->cgroup) : 0;

	if (err)
		errx(2, "cannot join the cgroup %s: %s", s->cgroup, strerror(-err));
}

void disk_run(const struct disk_setup *s, const struct disk_contender *c, uint64_t generation,
	      struct disk_result *result)
{
	struct run r = { .setup = s, .contender = c, .generation = generation };

	/* Before the cgroup: the benchmark's own notes are not charged to it. */
	touch_open(s->paging.bytes / PAGING_PAGE_BYTES);
	join_cgroup(s);
	paging_open(&s->paging, c->peer, c->name);
	measure_sequential(&r, result->figures);
	measure_random(&r, result->figures);
	summarize_out(&r, result->figures);
}
