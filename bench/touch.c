#include "touch.h"

#include "clock.h"
#include "random.h"

#include <err.h>
#include <pthread.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096 };

struct toucher {
	pthread_t thread;
	pthread_barrier_t *start;
	const char *buffer;
	size_t first, end; /* in order[] */
	struct latency latency;
};

static struct toucher touchers[TOUCH_MAX_THREADS];

/* The pages in the order in which they are touched. Not from malloc: that would be pushed out too. */
static uint32_t *order;
static size_t order_pages;

void touch_open(size_t pages)
{
	size_t bytes = pages * sizeof(*order);

	order = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (order == MAP_FAILED)
		err(2, "no memory");
	mlock(order, bytes); /* where it may: the kernel should not push it out either */
	order_pages = pages;
}

void touch_order(enum touch_pattern pattern, uint64_t seed)
{
	struct random r = { seed };

	for (size_t i = 0; i < order_pages; i++)
		order[i] = (uint32_t)i;
	for (size_t i = order_pages - 1; pattern == TOUCH_RANDOM && i > 0; i--) {
		uint32_t j = random_below(&r, (uint32_t)i + 1), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
}

static void *touch(void *arg)
{
	struct toucher *t = arg;

	pthread_barrier_wait(t->start);
	for (size_t i = t->first; i < t->end; i++) {
		const volatile char *page = t->buffer + (size_t)order[i] * PAGE_BYTES;
		uint64_t start = clock_ns();

		(void)*page;
		latency_add(&t->latency, clock_ns() - start);
	}
	return NULL;
}

static void prepare(struct toucher *t, const char *buffer, unsigned number, unsigned threads)
{
	t->buffer = buffer;
	t->first = order_pages * number / threads;
	t->end = order_pages * (number + 1) / threads;
	latency_open(&t->latency, t->end - t->first);
	mlock(t->latency.ns, t->latency.capacity * sizeof(*t->latency.ns));
}

static void start_threads(const char *buffer, unsigned threads, pthread_barrier_t *start)
{
	pthread_barrier_init(start, NULL, threads + 1);
	for (unsigned i = 0; i < threads; i++) {
		prepare(&touchers[i], buffer, i, threads);
		touchers[i].start = start;
		if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]))
			errx(2, "cannot create a thread");
	}
}

double touch_all(const char *buffer, unsigned threads, void (*push_out)(void *arg), void *arg, struct latency *all)
{
	pthread_barrier_t start;
	uint64_t started;
	double seconds;

	start_threads(buffer, threads, &start);
	push_out(arg);
	started = clock_ns();
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(touchers[i].thread, NULL);
	seconds = seconds_since(started);
	for (unsigned i = 0; i < threads; i++) {
		latency_append(all, &touchers[i].latency);
		latency_close(&touchers[i].latency);
	}
	pthread_barrier_destroy(&start);
	return seconds;
}
