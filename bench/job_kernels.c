/*
 * Two kernels over a heap of pages: pointer chasing, where each access depends on the one before and goes anywhere, and
 * streaming, where all of it is read and a part written in ascending order.
 *
 * The first word of each page is the kernel's: the number of the next page, or how often the page was streamed. The
 * rest is contents, and is compared at the end; the stream adds all of it up, and every sum is compared.
 */
#include "clock.h"
#include "contents.h"
#include "job.h"
#include "random.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8 };

struct heap {
	struct turn *turn;
	size_t pages;
	double seconds;
	enum contents contents;
	uint64_t seed;
	uint64_t *words;
	uint32_t *next; /* of each page: the chase's cycle. Notes, which are not in the heap. */
	uint64_t *sums; /* of each page's words but the first */
};

static void *map_notes(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	return p;
}

/* One cycle through all pages (Sattolo 1986). */
static void make_cycle(struct heap *h)
{
	struct random r = { random_mix(h->seed) };

	h->next = map_notes(h->pages * sizeof(*h->next));
	for (size_t i = 0; i < h->pages; i++)
		h->next[i] = (uint32_t)i;
	for (size_t i = h->pages - 1; i > 0; i--) {
		uint32_t j = random_below(&r, (uint32_t)i), swap = h->next[i];

		h->next[i] = h->next[j];
		h->next[j] = swap;
	}
}

static uint64_t sum_of(const uint64_t *page)
{
	uint64_t sum = 0;

	for (size_t i = 1; i < PAGE_WORDS; i++)
		sum += page[i];
	return sum;
}

static void fill(struct heap *h)
{
	h->words = aligned_alloc(PAGE_BYTES, h->pages * PAGE_BYTES);
	h->sums = map_notes(h->pages * sizeof(*h->sums));
	if (!h->words)
		err(2, "no memory");
	for (size_t i = 0; i < h->pages; i++) {
		uint64_t *page = h->words + i * PAGE_WORDS;

		contents_fill_page(h->contents, (char *)page, h->seed, i);
		page[0] = h->next ? h->next[i] : 0;
		h->sums[i] = sum_of(page);
		if (i % 1024 == 0)
			atomic_store(&h->turn->done, (double)i / (double)h->pages / 2);
	}
}

static int verify(const struct heap *h, uint64_t (*first)(const struct heap *, size_t))
{
	char expected[PAGE_BYTES];
	size_t wrong = 0;

	for (size_t i = 0; i < h->pages; i++) {
		const uint64_t *page = h->words + i * PAGE_WORDS;

		contents_fill_page(h->contents, expected, h->seed, i);
		wrong += page[0] != first(h, i) || memcmp(page + 1, expected + 8, PAGE_BYTES - 8) != 0;
	}
	if (wrong)
		warnx("%zu pages are not as they were written", wrong);
	return wrong != 0;
}

static void tell(const struct heap *h, uint64_t start)
{
	atomic_store(&h->turn->done, 0.5 + seconds_since(start) / h->seconds / 2);
}

static void open_heap(struct heap *h, struct turn *t, char **argv, int with_cycle)
{
	*h = (struct heap){
		.turn = t,
		.pages = strtoull(argv[0], NULL, 10),
		.seconds = atof(argv[1]),
		.contents = contents_parse(argv[2]),
		.seed = strtoull(argv[3], NULL, 10),
	};
	if (with_cycle)
		make_cycle(h);
}

/* ---- chase ---- */

static uint64_t next_of(const struct heap *h, size_t page)
{
	return h->next[page];
}

/* As many hops as there are pages. */
static void chase_round(void *arg)
{
	const struct heap *h = arg;
	uint64_t at = 0;

	for (size_t i = 0; i < h->pages && at < h->pages; i++)
		at = h->words[at * PAGE_WORDS];
}

int job_chase(struct turn *t, int argc, char **argv)
{
	struct heap h;
	uint64_t load = clock_ns(), start, before, now, hops = 0, at = 0;
	double cpu;

	(void)argc;
	open_heap(&h, t, argv, 1);
	fill(&h);
	t->figures[APP_LOAD_S] = seconds_since(load);
	job_settle(t, getpid(), chase_round, &h);
	cpu = turn_cpu_seconds(t, 0);
	start = before = clock_ns();
	do {
		at = h.words[at * PAGE_WORDS];
		if (at >= h.pages) {
			warnx("a page holds a wrong link");
			return 1;
		}
		now = clock_ns();
		latency_add(&t->latency, now - before);
		before = now;
		if (++hops % 4096 == 0)
			tell(&h, start);
	} while (now - start < (uint64_t)(h.seconds * 1e9));
	job_set_figures(t, 0, seconds_since(start), (double)hops, cpu);
	return verify(&h, next_of);
}

/* ---- stream ---- */

static uint64_t passes;

static uint64_t passes_of(const struct heap *h, size_t page)
{
	(void)h;
	(void)page;
	return passes;
}

static int stream_page(const struct heap *h, size_t i)
{
	uint64_t *page = h->words + i * PAGE_WORDS, start = clock_ns();
	int is_right = sum_of(page) == h->sums[i];

	page[0]++;
	latency_add(&h->turn->latency, clock_ns() - start);
	return is_right;
}

static void stream_round(void *arg)
{
	const struct heap *h = arg;

	for (size_t i = 0; i < h->pages; i++) {
		if (sum_of(h->words + i * PAGE_WORDS) != h->sums[i])
			errx(1, "page %zu has a wrong sum", i);
		h->words[i * PAGE_WORDS]++;
	}
	passes++;
}

/* Whole passes, so that every page has been streamed as often. */
int job_stream(struct turn *t, int argc, char **argv)
{
	struct heap h;
	uint64_t load = clock_ns(), start;
	uint64_t first;
	size_t wrong = 0;
	double cpu;

	(void)argc;
	open_heap(&h, t, argv, 0);
	fill(&h);
	t->figures[APP_LOAD_S] = seconds_since(load);
	job_settle(t, getpid(), stream_round, &h);
	first = passes;
	cpu = turn_cpu_seconds(t, 0);
	start = clock_ns();
	do {
		for (size_t i = 0; i < h.pages; i++) {
			wrong += !stream_page(&h, i);
			if (i % 4096 == 0)
				tell(&h, start);
		}
		passes++;
	} while (seconds_since(start) < h.seconds);
	job_set_figures(t, 0, seconds_since(start), (double)((passes - first) * h.pages), cpu);
	if (wrong)
		warnx("%zu sums are wrong", wrong);
	return verify(&h, passes_of) || wrong;
}
