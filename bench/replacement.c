/*
 * How many pages must come back, and would another way to replace pages save many? A model of Redis under the load of
 * `larder bench app redis`: which pages an operation touches, and where they are. No page is moved: it takes seconds.
 *
 * The heap: records of the sizes that the load writes, one after the other in slabs of their size class, and four
 * tables beside them (buckets, entries, keys, objects). An operation touches a page of each table and the one or two
 * of its record. RAM holds so many pages as they are, and in the rest of it, compressed, so many times as many as they
 * compress; what is neither is on disk. No page comes along with another, and writes go where the record was.
 *
 * - larder: the clock with credit, staging and the oldest first, as in lib/sweep.c, lib/resolve.c and lib/swap_out.c.
 * - history: the same with what faults can teach: for each page the mean of the last times that it was away, the older
 *   ones weighing half as much each. It says how many turns the page is spared, and which goes to disk: who is away the
 *   longest, usually and now.
 * - counts: the page leaves, of SAMPLE at random, that was touched least; a count loses half of itself in HALF_LIFE
 *   operations. It counts touches of resident pages, too, which nobody sees who serves faults: so far experience could
 *   lead at best.
 * - LRU: one list in RAM without compression, which is what the kernel's swap comes near.
 */
#include "lru.h"
#include "records.h"
#include "zipf.h"

#include <argp.h>
#include <err.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	PAGE_BYTES = 4096,
	SLAB_BYTES = 64 << 10,
	CLASSES = 4 * 32,
	TABLES = 4,
	TOUCHES = TABLES + 2,
	CLIENTS = 2, /* the keys are shared out among them */
};
static const double skew = 0.99;

static struct settings {
	size_t pages, operations, skip;
	double ram, ratio, read_us, fault_us;
	int is_uniform;
} settings = { .pages = 131072, .operations = 250000, .ram = 28.7, .ratio = 3.05, .read_us = 50, .fault_us = 6.5 };

/* ---- the heap ---- */

struct record {
	uint32_t first, last; /* its pages */
};

static struct heap {
	struct record *records;
	uint32_t count, pages;
	struct {
		uint32_t first, bytes; /* of an entry */
	} tables[TABLES];
	struct zipf zipf;
} heap;

static void *allocate(size_t n, size_t bytes)
{
	void *p = calloc(n, bytes);

	if (!p)
		err(2, "no memory");
	return p;
}

/* Four classes from each power of two to the next, as jemalloc has them. */
static unsigned class_of(uint32_t bytes, uint32_t *rounded)
{
	unsigned log = 31 - (unsigned)__builtin_clz(bytes - 1);
	uint32_t step = 1u << (log - 2), quarter = (bytes - (1u << log) + step - 1) / step;

	*rounded = (1u << log) + quarter * step;
	return 4 * log + quarter;
}

static void place_records(void)
{
	static uint64_t next[CLASSES], end[CLASSES];
	uint64_t top = 0;

	for (uint32_t i = 0; i < heap.count; i++) {
		uint32_t bytes = (uint32_t)record_bytes(1, i, 0), rounded;
		unsigned class = class_of(bytes, &rounded);

		if (next[class] + rounded > end[class]) {
			next[class] = top;
			end[class] = top += SLAB_BYTES;
		}
		heap.records[i].first = (uint32_t)(next[class] / PAGE_BYTES);
		heap.records[i].last = (uint32_t)((next[class] + bytes - 1) / PAGE_BYTES);
		next[class] += rounded;
	}
	heap.pages = (uint32_t)(top / PAGE_BYTES);
}

static void place_table(int table, uint32_t bytes)
{
	heap.tables[table].first = heap.pages;
	heap.tables[table].bytes = bytes;
	heap.pages += (uint32_t)(((uint64_t)heap.count * bytes + PAGE_BYTES - 1) / PAGE_BYTES);
}

static void make_heap(void)
{
	static const uint32_t entry_bytes[TABLES] = { 16, 32, 32, 16 };
	uint64_t bytes = 0;

	while (bytes < (uint64_t)settings.pages * PAGE_BYTES)
		bytes += record_bytes(1, heap.count++, 0);
	heap.records = allocate(heap.count, sizeof(*heap.records));
	place_records();
	for (int i = 0; i < TABLES; i++)
		place_table(i, entry_bytes[i]);
	zipf_init(&heap.zipf, heap.count / CLIENTS, skew);
}

/* The pages that an operation on a record touches. Returns how many. */
static unsigned touched_by(uint32_t record, uint32_t pages[TOUCHES])
{
	const struct record *r = &heap.records[record];
	unsigned n = 0;

	for (int i = 0; i < TABLES; i++) {
		uint64_t entry = i ? record : random_mix(record) % heap.count; /* buckets go by the key's hash */

		pages[n++] = heap.tables[i].first + (uint32_t)(entry * heap.tables[i].bytes / PAGE_BYTES);
	}
	pages[n++] = r->first;
	if (r->last != r->first)
		pages[n++] = r->last;
	return n;
}

static uint32_t draw(struct random *r)
{
	uint32_t client = random_below(r, CLIENTS);
	uint32_t own = settings.is_uniform ? random_below(r, heap.zipf.n) : zipf_draw(&heap.zipf, r);

	return own * CLIENTS + client;
}

/* ---- where pages are ---- */

enum policy { LARDER, HISTORY, COUNTS, LRU };
enum where { FRESH, RESIDENT, STAGED, COMPRESSED, ON_DISK };

/* As in lib/: what a page is spared, for how long it counts as young, and how many wait to be compressed. */
enum { CREDIT_FRESH = 1, CREDIT_WANTED = 7, CREDIT_MOST = 15, YOUNG_PART = 64, OLD_PART = 16, STAGED_PART = 64 };

enum { HALF_LIFE = 200000, SAMPLE = 32 };

struct model {
	enum policy policy;
	uint32_t resident_most, compressed_most, staged_most;
	uint8_t *where;
	uint32_t resident;			/* pages, but those that are staged */
	struct lru staged, compressed;		/* the oldest was put there first */
	size_t from_ram, from_disk, young, old; /* the latter of those from RAM: see lib/split.h */

	uint8_t *credit;  /* LARDER, HISTORY */
	uint32_t *put_at; /* of compressed pages: `puts` then */
	uint32_t hand, puts;

	uint32_t *left_at; /* HISTORY: when a page was staged; as `puts` */
	float *away;	   /* for how long it usually is */

	struct lru used; /* LRU: resident pages */

	float *heat; /* COUNTS; as it was when the page was touched last, in operation heat_at */
	uint32_t *heat_at, operation;
	struct random random;
};

static struct model model_new(enum policy policy, double resident, double compressed)
{
	struct model m = {
		.policy = policy,
		.resident_most = (uint32_t)resident,
		.compressed_most = (uint32_t)compressed,
		.staged_most = (uint32_t)(resident / STAGED_PART) + 1,
		.where = allocate(heap.pages, sizeof(*m.where)),
		.credit = allocate(heap.pages, sizeof(*m.credit)),
		.put_at = allocate(heap.pages, sizeof(*m.put_at)),
		.left_at = allocate(heap.pages, sizeof(*m.left_at)),
		.away = allocate(heap.pages, sizeof(*m.away)),
		.heat = allocate(heap.pages, sizeof(*m.heat)),
		.heat_at = allocate(heap.pages, sizeof(*m.heat_at)),
	};

	lru_open(&m.staged, heap.pages);
	lru_open(&m.compressed, heap.pages);
	lru_open(&m.used, heap.pages);
	return m;
}

static void model_free(struct model *m)
{
	free(m->where);
	free(m->credit);
	free(m->put_at);
	free(m->left_at);
	free(m->away);
	free(m->heat);
	free(m->heat_at);
	lru_close(&m->staged, heap.pages);
	lru_close(&m->compressed, heap.pages);
	lru_close(&m->used, heap.pages);
}

static float heat_now(const struct model *m, uint32_t page)
{
	return m->heat[page] * exp2f(-(float)(m->operation - m->heat_at[page]) / HALF_LIFE);
}

/* How little a page is worth. */
static float cold(const struct model *m, uint32_t page)
{
	if (m->policy == COUNTS)
		return -heat_now(m, page);
	return m->away[page] + (float)(m->puts - m->put_at[page]);
}

static uint32_t coldest(struct model *m, enum where where)
{
	uint32_t found = 0, best = 0;

	while (found < SAMPLE) {
		uint32_t page = random_below(&m->random, heap.pages);

		if (m->where[page] != where)
			continue;
		if (!found++ || cold(m, page) > cold(m, best))
			best = page;
	}
	return best;
}

static uint32_t take_oldest(struct lru *l)
{
	uint32_t page = l->oldest;

	lru_remove(l, page);
	return page;
}

static void compress(struct model *m, uint32_t page)
{
	m->where[page] = COMPRESSED;
	m->put_at[page] = m->puts++;
	lru_add(&m->compressed, page);
	if (m->compressed.count > m->compressed_most) {
		uint32_t last =
			m->policy == COUNTS || m->policy == HISTORY ? coldest(m, COMPRESSED) : m->compressed.oldest;

		lru_remove(&m->compressed, last);
		m->where[last] = ON_DISK;
	}
}

/* The clock's hand goes on to a page without credit. */
static uint32_t turn_clock(struct model *m)
{
	for (;; m->hand = (m->hand + 1) % heap.pages)
		if (m->where[m->hand] == RESIDENT && m->credit[m->hand]-- == 0)
			return m->hand;
}

static void stage(struct model *m, uint32_t page)
{
	m->where[page] = STAGED;
	m->left_at[page] = m->puts;
	m->resident--;
	lru_add(&m->staged, page);
}

/* A resident page that is to leave. */
static uint32_t choose(struct model *m)
{
	switch (m->policy) {
	case LARDER:
	case HISTORY:
		return turn_clock(m);
	case COUNTS:
		return coldest(m, RESIDENT);
	default:
		return take_oldest(&m->used);
	}
}

static void make_room(struct model *m)
{
	while (m->resident + m->staged.count > m->resident_most) {
		while (m->staged.count < m->staged_most)
			stage(m, choose(m));
		compress(m, take_oldest(&m->staged));
	}
}

/* A page that is away for as long as it takes to put all pages out, or longer, is spared at every other turn. */
static uint8_t credit_by_history(struct model *m, uint32_t page)
{
	float away = (float)(m->puts - m->left_at[page] + 1), turns;

	m->away[page] += (away - m->away[page]) / 2;
	turns = (float)heap.pages / m->away[page] / 2 + (float)random_below(&m->random, 100) / 100 - 0.5f;
	return (uint8_t)fminf(fmaxf(turns, 0), CREDIT_MOST);
}

static uint8_t credit_of(const struct model *m, uint32_t page)
{
	switch (m->where[page]) {
	case FRESH:
		return CREDIT_FRESH;
	case STAGED:
		return CREDIT_WANTED;
	case COMPRESSED:
		return m->puts - m->put_at[page] <= heap.pages / YOUNG_PART ? CREDIT_WANTED : 0;
	default:
		return 0;
	}
}

static void note_age(struct model *m, uint32_t page)
{
	m->young += m->puts - m->put_at[page] <= heap.pages / YOUNG_PART;
	m->old += m->put_at[page] - m->put_at[m->compressed.oldest] < heap.pages / OLD_PART;
}

static void bring(struct model *m, uint32_t page)
{
	if (m->where[page] == COMPRESSED)
		note_age(m, page);
	if (m->policy == HISTORY && m->where[page] != FRESH)
		m->credit[page] = credit_by_history(m, page);
	else
		m->credit[page] = credit_of(m, page);
	if (m->where[page] == FRESH)
		m->away[page] = (float)heap.pages;
	if (m->where[page] == STAGED)
		lru_remove(&m->staged, page);
	if (m->where[page] == COMPRESSED)
		lru_remove(&m->compressed, page);
	m->from_ram += m->where[page] == COMPRESSED;
	m->from_disk += m->where[page] == ON_DISK;
	m->where[page] = RESIDENT;
	m->resident++;
	if (m->policy == LRU)
		lru_add(&m->used, page);
}

static void touch(struct model *m, uint32_t page)
{
	if (m->policy == COUNTS) {
		m->heat[page] = heat_now(m, page) + 1;
		m->heat_at[page] = m->operation;
	}
	if (m->where[page] != RESIDENT) {
		bring(m, page);
		make_room(m);
	} else if (m->policy == LRU) {
		lru_use(&m->used, page);
	}
}

static void touch_record(struct model *m, uint32_t record)
{
	uint32_t pages[TOUCHES];
	unsigned n = touched_by(record, pages);

	m->operation++;
	for (unsigned i = 0; i < n; i++)
		touch(m, pages[i]);
}

/* ---- what comes back, for each operation ---- */

struct returns {
	double from_ram, from_disk, young, old;
};

/* Load all records, then run the mix. */
static struct returns run(enum policy policy, double resident, double compressed)
{
	struct model m = model_new(policy, resident, compressed);
	struct random r = { .state = 1 };
	struct returns result;

	for (uint32_t i = 0; i < heap.count; i++)
		touch_record(&m, i);
	for (size_t i = 0; i < settings.skip + settings.operations; i++) {
		if (i == settings.skip)
			m.from_ram = m.from_disk = m.young = m.old = 0;
		touch_record(&m, draw(&r));
	}
	result.from_ram = (double)m.from_ram / (double)settings.operations;
	result.from_disk = (double)m.from_disk / (double)settings.operations;
	result.young = (double)m.young / (double)settings.operations;
	result.old = (double)m.old / (double)settings.operations;
	model_free(&m);
	return result;
}

static double cost_us(struct returns r)
{
	return r.from_ram * settings.fault_us + r.from_disk * settings.read_us;
}

static void print_split(double ram, double resident)
{
	double compressed = (ram - resident) * settings.ratio;
	struct returns l = run(LARDER, resident, compressed), h = run(HISTORY, resident, compressed);
	struct returns c = run(COUNTS, resident, compressed);

	printf("%8.0f %%%9.0f%12.0f%9.3f%7.3f%7.3f%7.3f", resident / ram * 100, resident, compressed, l.from_ram,
	       l.from_disk, l.young, l.old);
	printf("%9.3f%7.3f%9.3f%7.3f%10.2f%9.2f%8.2f\n", h.from_ram, h.from_disk, c.from_ram, c.from_disk, cost_us(l),
	       cost_us(h), cost_us(c));
}

static void print_all(void)
{
	double ram = (double)heap.pages * settings.ram / 100;
	struct returns lru;

	printf("%u records in %u pages, RAM of %.0f of them, %s, %zu operations after %zu; %.1f us a page from disk, %.1f from "
	       "RAM\n\n",
	       heap.count, heap.pages, ram, settings.is_uniform ? "all keys alike" : "zipf", settings.operations,
	       settings.skip, settings.read_us, settings.fault_us);
	puts("pages of RAM                   pages that come back, an operation                            time for it, us");
	puts("                                   larder                        history         counts        larder  history  counts");
	puts("  resident       compressed      RAM   disk  young    old      RAM   disk      RAM   disk");
	for (int percent = 30; percent <= 90; percent += 10)
		print_split(ram, ram * percent / 100);
	lru = run(LRU, ram, 0);
	printf("\nLRU, nothing compressed: %.3f from disk, %.2f us\n", lru.from_disk, cost_us(lru));
}

/* ---- arguments ---- */

enum { OPTION_UNIFORM = 256, OPTION_READ, OPTION_FAULT, OPTION_RATIO, OPTION_RAM };

static const struct argp_option options[] = {
	{ "pages", 'p', "N", 0, "how many pages of 4 KiB the records hold (131072)", 0 },
	{ "operations", 'n', "N", 0, "the length of the mix (250000)", 0 },
	{ "skip", 's', "N", 0, "so many before it are not counted (0)", 0 },
	{ "ram", OPTION_RAM, "PERCENT", 0, "RAM for pages, of all pages (28.7: a limit of 33 %)", 0 },
	{ "ratio", OPTION_RATIO, "N", 0, "how well pages compress (3.05)", 0 },
	{ "uniform", OPTION_UNIFORM, NULL, 0, "all keys alike, not Zipf", 0 },
	{ "read-us", OPTION_READ, "US", 0, "what a page from disk takes (50)", 0 },
	{ "fault-us", OPTION_FAULT, "US", 0, "what a page from RAM takes (6.5)", 0 },
	{ 0 }
};

static double number(const char *text, double least, double most, struct argp_state *state)
{
	char *end;
	double n = strtod(text, &end);

	if (end == text || *end || !(n >= least && n <= most))
		argp_error(state, "'%s' is not a number from %g to %g", text, least, most);
	return n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case 'p':
		settings.pages = (size_t)number(arg, 1024, 1 << 24, state);
		return 0;
	case 'n':
		settings.operations = (size_t)number(arg, 1000, 1e8, state);
		return 0;
	case 's':
		settings.skip = (size_t)number(arg, 0, 1e8, state);
		return 0;
	case OPTION_RAM:
		settings.ram = number(arg, 1, 100, state);
		return 0;
	case OPTION_RATIO:
		settings.ratio = number(arg, 1, 100, state);
		return 0;
	case OPTION_UNIFORM:
		settings.is_uniform = 1;
		return 0;
	case OPTION_READ:
		settings.read_us = number(arg, 0, 1e6, state);
		return 0;
	case OPTION_FAULT:
		settings.fault_us = number(arg, 0, 1e6, state);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "there is no argument '%s'", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, NULL, "A model of Redis: how many pages come back, replaced in one way or another.",
		NULL,	 NULL,	NULL
	};

	argp_parse(&argp, argc, argv, 0, NULL, NULL);
	make_heap();
	print_all();
	return 0;
}
