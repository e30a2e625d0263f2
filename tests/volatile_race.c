/*
 * Volatile memory raced: owners mark, pin, use, end and make again random pieces of their pages while a purger takes
 * what it can at full speed, and then while limits on the pools do. Every word that an owner was told is intact is
 * checked; every page that it was told is lost is checked to be zero where nobody wrote.
 *
 *   volatile_race [--seconds N] [--threads N<=16] [--seed N]
 *
 * Two pools, one for each way of serving faults. In each, every thread owns some pages, and all threads read one range
 * that a callback makes again. Exit status: 0 all well, 1 wrong content or nothing tested, 2 usage. The seed is
 * printed; the same seed draws the same random numbers in each thread, though what they lead to depends on the purger.
 */
#include "process.h"
#include "content.h"

#include <larder/larder.h>

#include <getopt.h>
#include <inttypes.h>
#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 16, POOLS = 2, OWN_PAGES = 512, SHARED_PAGES = 512, MARKS = 12, STUCK_SECONDS = 20 };

static struct {
	unsigned seconds, threads;
	uint64_t seed;
} options = { .seconds = 10, .threads = 4 };

/* What happened, by thread. */
struct counts {
	uint64_t marks;	  /* ranges marked */
	uint64_t intact;  /* answers "intact", each followed by a check of every word */
	uint64_t purged;  /* answers "purged" */
	uint64_t partial; /* of those, answers for ranges that were intact in part */
	uint64_t pins;	  /* nested ones included */
	uint64_t zeroes;  /* lost pages found zero */
	uint64_t sticky;  /* losses reported again because they had not been acknowledged */
	uint64_t buses;	  /* touches answered with SIGBUS */
	uint64_t refills; /* callbacks */
	uint64_t shared;  /* words read from the range that all threads read */
	uint64_t wrong;
};

/* A range that is volatile now. */
struct marked {
	size_t first, pages;
	enum larder_on_touch on_touch;
	int written; /* written to since it was marked, or lost before: its lost pages need not be zero */
};

/* One thread's pages in one pool. */
struct own {
	larder_pool *pool;
	char *base;
	uint32_t generation[OWN_PAGES];	    /* of the content */
	unsigned char marked[OWN_PAGES];    /* 1: in one of `marks` */
	unsigned char sticky[OWN_PAGES];    /* 1: lost before it was marked, and never acknowledged */
	unsigned char seen_zero[OWN_PAGES]; /* 1: an optimistic read found it gone */
	struct marked marks[MARKS];
	size_t nmarks;
};

struct worker {
	pthread_t thread;
	unsigned id;
	uint64_t random;
	struct own own[POOLS];
	struct counts counts;
	_Atomic uint64_t progress;
	const char *_Atomic step;
};

/* What all threads read. Its content is that of generation 1 for as long as it lives. */
struct shared {
	larder_pool *pool;
	char *base;
};

static struct worker workers[THREADS_MAX];
static struct shared shared[POOLS];
static _Atomic uint64_t refills;
static _Atomic int stop;     /* threads come to an end: time is up, or something is wrong */
static _Atomic int finished; /* they have */

static size_t pick(struct worker *w, size_t below)
{
	return page_random(&w->random, below);
}

static void step(struct worker *w, const char *name)
{
	atomic_store_explicit(&w->step, name, memory_order_relaxed);
	atomic_fetch_add_explicit(&w->progress, 1, memory_order_relaxed);
}

static void report(struct worker *w, const char *what, const char *base, size_t page, uint64_t got, uint64_t want)
{
	atomic_store(&stop, 1);
	if (w->counts.wrong++ < 5)
		fprintf(stderr,
			"volatile_race: thread %u: %s: page %zu of %p: got %016" PRIx64 ", want %016" PRIx64 "\n",
			w->id, what, page, (const void *)base, got, want);
}

static void expect(struct worker *w, const char *call, int got, int want)
{
	if (got != want)
		report(w, call, NULL, 0, (uint64_t)got, (uint64_t)want);
}

/* ---- content ---- */

/* Pages of different threads have different numbers. */
static uint64_t page_number(const struct worker *w, size_t page)
{
	return (uint64_t)(w->id + 1) * OWN_PAGES + page;
}

static char *page_at(const struct own *o, size_t page)
{
	return o->base + page * PAGE;
}

static void make(struct worker *w, struct own *o, size_t page)
{
	page_fill(page_at(o, page), page_number(w, page), ++o->generation[page]);
	o->sticky[page] = 0;
}

static void check_page(struct worker *w, const struct own *o, const char *what, size_t page)
{
	uint64_t number = page_number(w, page);
	size_t i = page_wrong_word(page_at(o, page), number, o->generation[page]);

	if (i < WORDS)
		report(w, what, o->base, page, ((uint64_t *)page_at(o, page))[i],
		       word_of(number, o->generation[page], i));
}

static void check_zero(struct worker *w, const struct own *o, const char *what, size_t page)
{
	size_t i = page_nonzero_word(page_at(o, page));

	w->counts.zeroes++;
	if (i < WORDS)
		report(w, what, o->base, page, ((uint64_t *)page_at(o, page))[i], 0);
}

/* ---- marking ---- */

static int refill_own(void *cookie, void *addr, void *buffer, size_t bytes);

static struct larder_volatile_options random_options(struct worker *w, struct own *o)
{
	static const uint64_t units[] = { LARDER_UNIT_PAGE, LARDER_UNIT_CHUNK, LARDER_UNIT_RANGE, 2 * PAGE };

	uint32_t on_touch = (uint32_t)pick(w, 3);

	return (struct larder_volatile_options){
		.priority = (int)pick(w, LARDER_PRIORITIES) - 1,
		.on_touch = on_touch,
		.unit_bytes = units[pick(w, 4)],
		.cost_ns = pick(w, 100000),
		.refill = on_touch == LARDER_TOUCH_REFILL ? refill_own : NULL,
		.cookie = o,
	};
}

/* The owner's callback makes the current generation: nobody else touches the range, and the owner does not change it
 * while it is volatile. */
static int refill_own(void *cookie, void *addr, void *buffer, size_t bytes)
{
	const struct own *o = cookie;
	size_t first = (size_t)((char *)addr - o->base) / PAGE;
	const struct worker *w = workers;

	while (o != &w->own[0] && o != &w->own[1])
		w++;
	atomic_fetch_add(&refills, 1);
	for (size_t i = 0; i < bytes / PAGE; i++)
		page_fill((char *)buffer + i * PAGE, page_number(w, first + i), o->generation[first + i]);
	return 0;
}

static void mark_some(struct worker *w, struct own *o)
{
	size_t pages = random_length(&w->random, 128), first = pick(w, OWN_PAGES - pages + 1);
	struct larder_volatile_options options = random_options(w, o);
	struct marked *m = &o->marks[o->nmarks];

	step(w, "mark");
	if (memchr(o->marked + first, 1, pages))
		return;
	*m = (struct marked){ .first = first, .pages = pages, .on_touch = options.on_touch };
	for (size_t i = first; i < first + pages; i++)
		m->written |= o->sticky[i];
	expect(w, "larder_volatile", larder_volatile(o->pool, page_at(o, first), pages * PAGE, &options), 0);
	memset(o->marked + first, 1, pages);
	memset(o->seen_zero + first, 0, pages);
	o->nmarks++;
	w->counts.marks++;
}

/* The range from which pages [first, first + pages) of it are taken: what is left of it goes back to the list. */
static void unlist(struct own *o, struct marked *m, size_t first, size_t pages)
{
	struct marked before = *m, after = *m;

	before.pages = first - m->first;
	after.first = first + pages;
	after.pages = m->first + m->pages - after.first;
	memset(o->marked + first, 0, pages);
	*m = o->marks[--o->nmarks];
	if (before.pages)
		o->marks[o->nmarks++] = before;
	if (after.pages)
		o->marks[o->nmarks++] = after;
}

/* ---- explicit use ---- */

static void check_answer(struct worker *w, const char *what, int said, const unsigned char *lost, size_t pages)
{
	int any = memchr(lost, 1, pages) != NULL;

	if (said != any)
		report(w, what, NULL, pages, (uint64_t)said, (uint64_t)any);
	if (said == LARDER_INTACT)
		w->counts.intact++;
	else
		w->counts.purged++;
	w->counts.partial += any && memchr(lost, 0, pages) != NULL;
}

/* Pages of a range that cannot go now: those not lost are as they were, those lost are zero unless somebody wrote. */
static void check_pages(struct worker *w, struct own *o, const struct marked *m, size_t first, size_t pages,
			const unsigned char *lost)
{
	for (size_t i = 0; i < pages; i++) {
		size_t page = first + i;

		if (!lost[i]) {
			check_page(w, o, "a page said to be intact", page);
			if ((o->sticky[page] || o->seen_zero[page]) && m->on_touch != LARDER_TOUCH_REFILL)
				report(w, "a loss was forgotten", o->base, page, 0, 1);
			o->sticky[page] = 0; /* the callback made it again */
		} else if (o->sticky[page]) {
			w->counts.sticky++;
		} else if (!m->written) {
			check_zero(w, o, "a page said to be lost", page);
		}
	}
}

/* Make the lost pages again, or leave some of them as lost as they are. */
static void make_again(struct worker *w, struct own *o, size_t first, size_t pages, const unsigned char *lost,
		       int acknowledged)
{
	int leave = !acknowledged && pick(w, 4) == 0;

	for (size_t i = 0; i < pages; i++) {
		if (!lost[i])
			continue;
		make(w, o, first + i);
		o->sticky[first + i] = (unsigned char)leave;
	}
	if (!acknowledged && !leave)
		expect(w, "larder_refilled", larder_refilled(o->pool, page_at(o, first), pages * PAGE), 0);
}

/* Part of a marked range, or all of it. */
static void random_part(struct worker *w, const struct marked *m, size_t *first, size_t *pages)
{
	*first = m->first + (pick(w, 2) ? pick(w, m->pages) : 0);
	*pages = m->first + m->pages - *first;
	if (pick(w, 2))
		*pages = 1 + pick(w, *pages);
}

static void end_some(struct worker *w, struct own *o, struct marked *m)
{
	unsigned flags = pick(w, 2) ? LARDER_ACKNOWLEDGE : 0;
	unsigned char lost[OWN_PAGES];
	struct marked was = *m;
	size_t first, pages;
	int said;

	random_part(w, m, &first, &pages);
	if (o->nmarks + 2 > MARKS) { /* no room for the rest */
		first = m->first;
		pages = m->pages;
	}
	step(w, "end");
	said = larder_nonvolatile(o->pool, page_at(o, first), pages * PAGE, flags, lost);
	check_answer(w, "larder_nonvolatile", said, lost, pages);
	check_pages(w, o, &was, first, pages, lost);
	make_again(w, o, first, pages, lost, flags != 0);
	unlist(o, m, first, pages);
	if (pick(w, 4) == 0)
		for (size_t i = first; i < first + pages; i++)
			if (!o->sticky[i])
				make(w, o, i);
}

/* What is pinned does not go: after each nested pin the same pages are lost as before. */
static void nest(struct worker *w, struct own *o, size_t first, size_t pages, const unsigned char *lost)
{
	unsigned char again[OWN_PAGES];
	size_t inner = pick(w, pages), n = 1 + pick(w, pages - inner);

	step(w, "nested pin");
	expect(w, "nested larder_pin", larder_pin(o->pool, page_at(o, first + inner), n * PAGE),
	       memchr(lost + inner, 1, n) != NULL);
	larder_query(o->pool, page_at(o, first), pages * PAGE, again);
	if (memcmp(lost, again, pages) != 0)
		report(w, "a pinned page was purged", o->base, first, 1, 0);
	expect(w, "nested larder_unpin", larder_unpin(o->pool, page_at(o, first + inner), n * PAGE), 0);
	larder_query(o->pool, page_at(o, first), pages * PAGE, again);
	if (memcmp(lost, again, pages) != 0)
		report(w, "a page pinned once more was purged", o->base, first, 1, 0);
	w->counts.pins++;
}

static void pin_some(struct worker *w, struct own *o, struct marked *m)
{
	unsigned char lost[OWN_PAGES];
	size_t first, pages;
	int said;

	random_part(w, m, &first, &pages);
	step(w, "pin");
	said = larder_pin(o->pool, page_at(o, first) + pick(w, 2), pages * PAGE - 1);
	larder_query(o->pool, page_at(o, first), pages * PAGE, lost);
	w->counts.pins++;
	check_answer(w, "larder_pin", said, lost, pages);
	check_pages(w, o, m, first, pages, lost);
	if (pick(w, 2))
		nest(w, o, first, pages, lost);
	step(w, "refill under pin");
	m->written |= memchr(lost, 1, pages) != NULL;
	make_again(w, o, first, pages, lost, 0);
	memset(o->seen_zero + first, 0, pages);
	for (size_t i = first; i < first + pages; i++)
		check_page(w, o, "a pinned page", i);
	step(w, "unpin");
	expect(w, "larder_unpin", larder_unpin(o->pool, page_at(o, first), pages * PAGE), 0);
}

/* ---- optimistic use ---- */

static __thread sigjmp_buf bus_return;
static __thread char *volatile bus_expected; /* the page that may raise SIGBUS */

static void on_bus(int sig, siginfo_t *info, void *context)
{
	static const char complaint[] = "volatile_race: SIGBUS that nobody expected\n";

	(void)sig, (void)context;
	if (!bus_expected || (size_t)((char *)info->si_addr - bus_expected) >= PAGE) {
		(void)!write(2, complaint, sizeof(complaint) - 1);
		abort();
	}
	siglongjmp(bus_return, 1);
}

/* Read one word. Returns 0 when it raised SIGBUS. */
static int read_word(char *page, size_t i, uint64_t *word)
{
	int there = 0;

	bus_expected = page;
	if (sigsetjmp(bus_return, 1) == 0) {
		*word = ((volatile uint64_t *)page)[i];
		there = 1;
	}
	bus_expected = NULL;
	return there;
}

/* What a read of a volatile page may find: the word, or what its policy says about a page that is gone. */
static void judge(struct worker *w, struct own *o, const struct marked *m, size_t page, size_t i, int there,
		  uint64_t got)
{
	uint64_t want = word_of(page_number(w, page), o->generation[page], i);

	if (!there) {
		w->counts.buses++;
		o->seen_zero[page] = 1;
		if (m->on_touch != LARDER_TOUCH_SIGBUS)
			report(w, "SIGBUS against the policy", o->base, page, m->on_touch, LARDER_TOUCH_SIGBUS);
	} else if (got == 0 && m->on_touch == LARDER_TOUCH_ZERO) {
		o->seen_zero[page] = 1;
	} else if (got != want) {
		report(w, "a volatile page read", o->base, page, got, want);
	}
}

static void read_some(struct worker *w, struct own *o, struct marked *m)
{
	step(w, "optimistic read");
	for (size_t n = 1 + pick(w, 16); n > 0; n--) {
		size_t page = m->first + pick(w, m->pages), i = pick(w, WORDS);
		uint64_t got = 0;
		int there;

		if (o->sticky[page])
			continue;
		there = read_word(page_at(o, page), i, &got);
		judge(w, o, m, page, i, there, got);
	}
	if (pick(w, 2))
		expect(w, "larder_used", larder_used(o->pool, page_at(o, m->first)), 0);
}

/* ---- the range that all threads read ---- */

static int refill_shared(void *cookie, void *addr, void *buffer, size_t bytes)
{
	const struct shared *s = cookie;
	size_t first = (size_t)((char *)addr - s->base) / PAGE;

	atomic_fetch_add(&refills, 1);
	for (size_t i = 0; i < bytes / PAGE; i++)
		page_fill((char *)buffer + i * PAGE, first + i, 1);
	return 0;
}

static void remark_shared(struct worker *w, struct shared *s, uint32_t flags)
{
	struct larder_volatile_options o = random_options(w, NULL);

	o.on_touch = LARDER_TOUCH_REFILL;
	o.refill = refill_shared;
	o.cookie = s;
	o.flags = flags;
	if (o.unit_bytes == LARDER_UNIT_RANGE) /* 2 MiB at every touch would leave no time for anything else */
		o.unit_bytes = 4 * PAGE;
	expect(w, "marking the shared range", larder_volatile(s->pool, s->base, SHARED_PAGES * PAGE, &o), 0);
}

static void read_shared(struct worker *w, struct shared *s)
{
	step(w, "shared read");
	for (int n = 0; n < 8; n++) {
		size_t page = pick(w, SHARED_PAGES), i = pick(w, WORDS);
		uint64_t got = ((volatile uint64_t *)(s->base + page * PAGE))[i];

		w->counts.shared++;
		if (got != word_of(page, 1, i))
			report(w, "the shared range", s->base, page, got, word_of(page, 1, i));
	}
	if (w->id == 0 && pick(w, 64) == 0)
		remark_shared(w, s, LARDER_REMARK);
}

/* ---- threads ---- */

static void operate(struct worker *w)
{
	size_t p = pick(w, POOLS);
	struct own *o = &w->own[p];
	struct marked *m = o->nmarks ? &o->marks[pick(w, o->nmarks)] : NULL;
	size_t what = pick(w, 16);

	if (what < 6 && o->nmarks < MARKS)
		mark_some(w, o);
	else if (what < 9 && m)
		end_some(w, o, m);
	else if (what < 11 && m)
		pin_some(w, o, m);
	else if (what < 14 && m)
		read_some(w, o, m);
	else
		read_shared(w, &shared[p]);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&stop))
		operate(w);
	for (int p = 0; p < POOLS; p++)
		while (w->own[p].nmarks)
			end_some(w, &w->own[p], &w->own[p].marks[0]);
	return NULL;
}

static void *purge(void *arg)
{
	uint64_t random = options.seed;

	(void)arg;
	while (!atomic_load(&stop)) {
		larder_pool *pool = page_random(&random, 4) ? shared[page_random(&random, POOLS)].pool : NULL;
		int upto = (int)page_random(&random, LARDER_PRIORITIES) - 1;

		larder_purge(pool, upto, random_length(&random, 256) * PAGE);
	}
	return NULL;
}

/* Nobody waits for long, whatever the others do. */
static void *watch(void *arg)
{
	uint64_t seen[THREADS_MAX] = { 0 };
	unsigned since[THREADS_MAX] = { 0 };

	(void)arg;
	while (!atomic_load(&finished)) {
		sleep(1);
		for (unsigned i = 0; i < options.threads && !atomic_load(&finished); i++) {
			uint64_t progress = atomic_load(&workers[i].progress);

			since[i] = progress == seen[i] ? since[i] + 1 : 0;
			seen[i] = progress;
			if (since[i] < STUCK_SECONDS)
				continue;
			fprintf(stderr, "volatile_race: thread %u is stuck in \"%s\" after %" PRIu64 " steps\n", i,
				atomic_load(&workers[i].step), progress);
			abort();
		}
	}
	return NULL;
}

/* ---- a round: one way of making memory short ---- */

enum mode { BY_PURGER, BY_LIMIT, MODES };

static const char *const mode_names[] = { "purger", "limit" };

static void check_call(const char *what, int err)
{
	if (err == 0)
		return;
	fprintf(stderr, "volatile_race: %s: %d\n", what, err);
	exit(2);
}

static char *new_pages(larder_pool *pool, size_t pages)
{
	void *base = NULL;

	check_call("larder_pages_alloc", larder_pages_alloc(pool, pages * PAGE, &base));
	return base;
}

/* A quarter of what the threads own, when the limit is to make memory short. */
static void make_pool(int p, enum mode mode)
{
	struct larder_pool_options o = { .fault_mode = p ? LARDER_FAULT_INLINE : LARDER_FAULT_HANDLERS,
					 .order = (uint32_t)(p + 2 * (int)mode) };
	struct shared *s = &shared[p];

	if (mode == BY_LIMIT)
		o.limit_bytes = (uint64_t)(options.threads * OWN_PAGES + SHARED_PAGES) * PAGE / 4;
	if (o.limit_bytes && o.limit_bytes < MIB)
		o.limit_bytes = MIB;
	check_call("larder_pool_create", larder_pool_create(&s->pool, &o));
	s->base = new_pages(s->pool, SHARED_PAGES);
	for (size_t i = 0; i < SHARED_PAGES; i++)
		page_fill(s->base + i * PAGE, i, 1);
	for (unsigned t = 0; t < options.threads; t++) {
		struct own *own = &workers[t].own[p];

		*own = (struct own){ .pool = s->pool, .base = new_pages(s->pool, OWN_PAGES) };
		for (size_t i = 0; i < OWN_PAGES; i++)
			make(&workers[t], own, i);
	}
	remark_shared(&workers[0], s, 0);
}

static void add(struct counts *to, const struct counts *from)
{
	const uint64_t *f = (const uint64_t *)from;
	uint64_t *t = (uint64_t *)to;

	for (size_t i = 0; i < sizeof(*to) / sizeof(*t); i++)
		t[i] += f[i];
}

/* Units that went, by the pools' own counts. */
static uint64_t purges(void)
{
	uint64_t n = 0;

	for (int p = 0; p < POOLS; p++) {
		struct larder_pool_stats s;

		check_call("larder_pool_get_stats", larder_pool_get_stats(shared[p].pool, &s));
		for (int i = 0; i < LARDER_PRIORITIES; i++)
			n += s.priority[i].purges;
	}
	return n;
}

static int conclude(enum mode mode, const struct counts *c, uint64_t units)
{
	printf("volatile_race: %s: marks %" PRIu64 ", intact %" PRIu64 ", purged %" PRIu64 " (in part %" PRIu64
	       "), pins %" PRIu64 ", zero pages %" PRIu64 ", sticky %" PRIu64 ", SIGBUS %" PRIu64 ", refills %" PRIu64
	       ", shared words %" PRIu64 ", units purged %" PRIu64 ", wrong = %" PRIu64 "\n",
	       mode_names[mode], c->marks, c->intact, c->purged, c->partial, c->pins, c->zeroes, c->sticky, c->buses,
	       c->refills, c->shared, units, c->wrong);
	fflush(stdout);
	if (c->wrong)
		return 1;
	if (c->marks && c->intact && c->purged && c->partial && c->pins && c->zeroes && c->sticky && c->buses &&
	    c->refills && c->shared && units)
		return 0;
	fprintf(stderr, "volatile_race: a count is zero, so something was not tested\n");
	return 1;
}

static int run(enum mode mode)
{
	struct counts sum = { 0 };
	pthread_t purger, watcher;
	uint64_t units;
	int failed;

	atomic_store(&stop, 0);
	atomic_store(&finished, 0);
	atomic_store(&refills, 0);
	for (unsigned t = 0; t < options.threads; t++) {
		workers[t].id = t;
		workers[t].random = mix(options.seed + t) + mode;
		workers[t].counts = (struct counts){ 0 };
	}
	for (int p = 0; p < POOLS; p++)
		make_pool(p, mode);
	for (unsigned t = 0; t < options.threads; t++)
		pthread_create(&workers[t].thread, NULL, work, &workers[t]);
	pthread_create(&watcher, NULL, watch, NULL);
	if (mode == BY_PURGER)
		pthread_create(&purger, NULL, purge, NULL);
	for (unsigned tenth = 0; tenth < 10 * options.seconds / MODES && !atomic_load(&stop); tenth++)
		usleep(100000);
	units = purges();
	atomic_store(&stop, 1);
	for (unsigned t = 0; t < options.threads; t++) {
		pthread_join(workers[t].thread, NULL);
		add(&sum, &workers[t].counts);
	}
	if (mode == BY_PURGER)
		pthread_join(purger, NULL);
	atomic_store(&finished, 1);
	pthread_join(watcher, NULL);
	sum.refills = atomic_load(&refills);
	failed = conclude(mode, &sum, units);
	for (int p = 0; p < POOLS; p++)
		check_call("larder_pool_destroy", larder_pool_destroy(shared[p].pool));
	return failed;
}

static int parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "seconds", required_argument, NULL, 's' },
		{ "threads", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 'r' },
		{ 0 },
	};
	int c;

	options.seed = test_seed();
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 's')
			options.seconds = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 't')
			options.threads = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'r')
			options.seed = strtoull(optarg, NULL, 0);
		else
			return -1;
	return options.threads >= 1 && options.threads <= THREADS_MAX && options.seconds ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	int failed = 0;

	if (parse(argc, argv) < 0) {
		fprintf(stderr, "usage: volatile_race [--seconds N] [--threads N<=%d] [--seed N]\n", THREADS_MAX);
		return 2;
	}
	sigaction(SIGBUS, &action, NULL); /* before Larder's, which hands on what is not its own */
	check_call("larder_start", larder_start(NULL));
	printf("volatile_race: %u threads, %u s, seed %" PRIu64 "\n", options.threads, options.seconds, options.seed);
	fflush(stdout);
	for (int mode = 0; mode < MODES && !failed; mode++)
		failed = run((enum mode)mode);
	process_check();
	return failed;
}
