#include "touch.h"

#include "clock.h"
#include "random.h"
#include "zipf.h"

#include <err.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

enum { TELL_EVERY = 1024 };
static const double zipf_skew = 0.99;

static const char *const names[] = {
	[TOUCH_RANDOM] = "random",
	[TOUCH_SEQUENTIAL] = "sequential",
	[TOUCH_STRIDE] = "stride",
	[TOUCH_ZIPF] = "zipf",
};

enum touch_pattern touch_parse(const char *name)
{
	for (unsigned i = 0; i < TOUCH_PATTERNS; i++)
		if (!strcmp(name, names[i]))
			return (enum touch_pattern)i;
	errx(2, "there is no pattern '%s': choose random, sequential, stride or zipf", name);
}

const char *touch_name(enum touch_pattern pattern)
{
	return names[pattern];
}

/* ---- the order ---- */

static uint32_t *order;
static size_t order_length;

static void map_order(size_t pages)
{
	size_t bytes = pages * sizeof(*order);

	order = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (order == MAP_FAILED)
		err(2, "no memory");
	mlock(order, bytes); /* where it may: the kernel should not push it out either */
}

static void plan_stride(size_t pages, unsigned stride)
{
	size_t n = 0;

	for (size_t first = 0; first < stride; first++)
		for (size_t page = first; page < pages; page += stride)
			order[n++] = (uint32_t)page;
}

static void plan_zipf(size_t pages, struct random *r)
{
	struct zipf z;

	zipf_init(&z, (uint32_t)pages, zipf_skew);
	for (size_t i = 0; i < pages; i++)
		order[i] = zipf_draw(&z, r);
}

static void shuffle(size_t pages, struct random *r)
{
	for (size_t i = pages - 1; i > 0; i--) {
		uint32_t j = random_below(r, (uint32_t)i + 1), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
}

void touch_prepare(const struct touch_plan *plan)
{
	struct random r = { random_mix(plan->seed) };

	map_order(plan->pages);
	plan_stride(plan->pages, plan->pattern == TOUCH_STRIDE ? plan->stride : 1);
	if (plan->pattern == TOUCH_RANDOM)
		shuffle(plan->pages, &r);
	if (plan->pattern == TOUCH_ZIPF)
		plan_zipf(plan->pages, &r);
	order_length = plan->touches && plan->touches < plan->pages ? plan->touches : plan->pages;
}

size_t touch_count(void)
{
	return order_length;
}

/* ---- the threads ---- */

struct toucher {
	pthread_t thread;
	pthread_barrier_t *start;
	const struct touch_run *run;
	size_t first, end; /* in order[] */
	struct latency *latency;
};

static struct toucher touchers[TOUCH_MAX_THREADS];

static void touch_page(const struct touch_run *run, size_t page, size_t turn)
{
	volatile char *p = run->buffer + page * TOUCH_PAGE_BYTES;

	if (run->touch)
		run->touch(page);
	else if (random_mix(turn) % 100 < run->write_percent)
		*p = *p;
	else
		(void)*p;
}

static void tell(const struct toucher *t, size_t i)
{
	double share = (double)(i - t->first) / (double)(t->end - t->first);

	if (t == touchers && t->run->done && i % TELL_EVERY == 0)
		atomic_store_explicit(t->run->done, t->run->done_before + share * (1 - t->run->done_before),
				      memory_order_relaxed);
}

static void *toucher_thread(void *arg)
{
	struct toucher *t = arg;

	pthread_barrier_wait(t->start);
	for (size_t i = t->first; i < t->end; i++) {
		uint64_t start = clock_ns();

		touch_page(t->run, order[i], i);
		latency_add(t->latency, clock_ns() - start);
		tell(t, i);
	}
	return NULL;
}

static void start_thread(const struct touch_run *run, unsigned number, pthread_barrier_t *start)
{
	struct toucher *t = &touchers[number];

	t->run = run;
	t->start = start;
	t->first = order_length * number / run->threads;
	t->end = order_length * (number + 1) / run->threads;
	t->latency = latency_create();
	if (pthread_create(&t->thread, NULL, toucher_thread, t))
		errx(2, "cannot create a thread");
}

double touch_all(const struct touch_run *run, struct latency *latency)
{
	pthread_barrier_t start;
	uint64_t started;
	double seconds;

	pthread_barrier_init(&start, NULL, run->threads + 1);
	for (unsigned i = 0; i < run->threads; i++)
		start_thread(run, i, &start);
	if (run->before)
		run->before(run->arg);
	started = clock_ns();
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < run->threads; i++)
		pthread_join(touchers[i].thread, NULL);
	seconds = seconds_since(started);
	for (unsigned i = 0; i < run->threads; i++) {
		if (latency)
			latency_append(latency, touchers[i].latency);
		latency_destroy(touchers[i].latency);
	}
	pthread_barrier_destroy(&start);
	return seconds;
}
