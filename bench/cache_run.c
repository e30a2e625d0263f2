/*
 * The simulation of one contender, in a process of its own: fill the cache by a fixed number of requests, then serve
 * requests for a time and measure. The sequence of requests is the same for all contenders.
 *
 * What the simulation itself needs is in RAM before the contender opens, so that the difference in RSS is the
 * contender's.
 */
#include "cache.h"
#include "clock.h"
#include "latency.h"
#include "random.h"
#include "zipf.h"

#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum { TICKS_A_SAMPLE = 16 };

struct run {
	const struct cache_setup *setup;
	const struct cache_contender *contender;
	struct zipf zipf;
	struct random random;
	struct latency *all, *hits;
	uint64_t served; /* requests, the warm-up's included */
	uint64_t base_rss_bytes;
	struct cache_result result;
};

/* ---- memory ---- */

/* A field of /proc/self/status, in bytes. */
static uint64_t status_bytes(const char *field)
{
	FILE *f = fopen("/proc/self/status", "r");
	unsigned long long kib = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			sscanf(line + strlen(field), ": %llu", &kib);
	if (f)
		fclose(f);
	return kib * 1024;
}

static uint64_t compressed_bytes(const struct cache_contender *c)
{
	return c->compressed_bytes ? c->compressed_bytes() : 0;
}

static void sample_memory(struct run *r)
{
	uint64_t rss = status_bytes("VmRSS"), bytes = rss > r->base_rss_bytes ? rss - r->base_rss_bytes : 0;

	if (!r->contender->compressed_in_process)
		bytes += compressed_bytes(r->contender);
	if (bytes > r->result.cache_peak_bytes)
		r->result.cache_peak_bytes = bytes;
}

/* ---- requests ---- */

/* Returns 1 for a hit. In the warm-up, making an object costs only the writing. */
static int serve(struct run *r, uint32_t id, int is_warm_up)
{
	const struct cache_setup *s = r->setup;
	int hit;
	void *object = r->contender->get(id, &hit);

	if (!hit) {
		if (!is_warm_up)
			object_spend(object_cost_ns(s, id));
		object_make(s, id, object);
	}
	if (!object_is_right(s, id, object)) {
		if (r->result.wrong++ == 0)
			warnx("%s: object %u is not as it was made (a %s)", r->contender->name, id,
			      hit ? "hit" : "miss");
	}
	r->contender->put(id, hit);
	return hit;
}

static void tick(struct run *r)
{
	r->served++;
	if (r->served % CACHE_TICK_REQUESTS == 0 && r->contender->tick)
		r->contender->tick();
	if (r->served % (CACHE_TICK_REQUESTS * TICKS_A_SAMPLE) == 0)
		sample_memory(r);
}

static void warm_up(struct run *r)
{
	while (r->served < r->setup->warm_up_requests) {
		serve(r, zipf_draw(&r->zipf, &r->random), 1);
		tick(r);
	}
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void measure(struct run *r)
{
	uint64_t start = clock_ns(), now = start, end = start + r->setup->seconds * 1000000000ull;
	double cpu = cpu_seconds();

	while (now < end) {
		uint32_t id = zipf_draw(&r->zipf, &r->random);
		uint64_t began = clock_ns();
		int hit = serve(r, id, 0);

		now = clock_ns();
		latency_add(r->all, now - began);
		if (hit)
			latency_add(r->hits, now - began);
		tick(r);
	}
	r->result.seconds = seconds_since(start);
	r->result.cpu_seconds = cpu_seconds() - cpu;
}

static void prepare(struct run *r)
{
	zipf_init(&r->zipf, r->setup->objects, r->setup->skew);
	r->random.state = random_mix(r->setup->seed);
	r->all = latency_create();
	r->hits = latency_create();
	object_prepare(r->setup);
	r->base_rss_bytes = status_bytes("VmRSS");
}

static void summarize(struct run *r)
{
	struct cache_result *to = &r->result;

	to->requests = r->all->count;
	to->hits = r->hits->count;
	to->peak_rss_bytes = status_bytes("VmHWM");
	to->compressed_bytes = compressed_bytes(r->contender);
	to->p50_us = latency_quantile_us(r->all, 0.5);
	to->p99_us = latency_quantile_us(r->all, 0.99);
	to->hit_p99_us = latency_quantile_us(r->hits, 0.99);
}

struct cache_result cache_run(const struct cache_setup *s, const struct cache_contender *c)
{
	static struct run r;

	r = (struct run){ .setup = s, .contender = c };
	prepare(&r);
	c->open(s);
	warm_up(&r);
	measure(&r);
	summarize(&r);
	return r.result;
}
