/*
 * What volatile memory costs: marking a range volatile and taking it back, and purging, each against the nearest that
 * the kernel has.
 *
 *   marks   larder_volatile() + larder_nonvolatile()   against   MADV_FREE + MADV_POPULATE_WRITE
 *   purges  larder_purge()                             against   MADV_DONTNEED, range by range
 *
 * All sides hold written pages of 4 KiB and keep them through the marks. The kernel's side has its best case: plain
 * memory, nothing else mapped in between, nothing watching. What the kernel's pair does not do - it does not say
 * whether the content is still there - is not charged to it.
 */
#include "volatile.h"

#include "bench.h"
#include "compare.h"
#include "contender.h"
#include "options.h"
#include "table.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

enum { PAGE_BYTES = 4096, FILLING = 0x5a, MANY_RANGES = 10000 };

static const size_t sizes[] = { 4096, 65536, 1 << 20 };

enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static const struct figure figures[] = {
	[VOLATILE_PAIR_NS] = { "a mark and its end", "ns", "pair_ns" },
	[VOLATILE_PURGE_GB_S] = { "purge", "GB/s", "purge_gb_s" },
};

/* ---- memory of all sides ---- */

int64_t volatile_check(int64_t result, const char *call)
{
	if (result < 0)
		errx(2, "%s: %s", call, strerror((int)-result));
	return result;
}

larder_pool *volatile_pool(void)
{
	larder_pool *pool;

	volatile_check(larder_start(&(struct larder_options){ .flags = LARDER_IGNORE_SYSTEM }), "larder_start");
	volatile_check(larder_pool_create(&pool, NULL), "larder_pool_create");
	return pool;
}

char **volatile_ranges(const struct volatile_turn *v, larder_pool *pool, size_t count)
{
	char **ranges = calloc(count, sizeof(*ranges)), *plain = pool ? NULL : contender_map(count * v->range_bytes);

	if (!ranges)
		err(2, "no memory");
	for (size_t i = 0; i < count; i++) {
		void *range = plain ? plain + i * v->range_bytes : NULL;

		if (pool)
			volatile_check(larder_pages_alloc(pool, v->range_bytes, &range), "larder_pages_alloc");
		volatile_write(range, v->range_bytes);
		ranges[i] = range;
	}
	return ranges;
}

void volatile_write(char *p, size_t bytes)
{
	memset(p, FILLING, bytes);
}

size_t volatile_wrong_pages(const char *p, size_t bytes)
{
	size_t wrong = 0;

	for (size_t at = 0; at < bytes; at += PAGE_BYTES)
		wrong += p[at] != FILLING || p[at + PAGE_BYTES - 1] != FILLING;
	return wrong;
}

/* ---- cases ---- */

/* By column; a case may have no use for one. */
struct sides {
	enum volatile_side of[COLUMNS_MAX];
};

static const char *size_text(size_t bytes)
{
	static char text[32];

	snprintf(text, sizeof(text), "%zu %s", bytes < MIB ? bytes / 1024 : bytes / MIB, bytes < MIB ? "KiB" : "MiB");
	return text;
}

static void run_case(const struct sides *sides, struct table *t, const struct options *o,
		     void (*body)(struct turn *, void *), unsigned threads, size_t range_bytes, size_t ranges)
{
	struct volatile_turn turns[COLUMNS_MAX];
	struct turn_setup setups[COLUMNS_MAX] = { 0 };
	int marks = body == volatile_marks;
	struct table_case *c =
		table_add_case(t, "%s, %u thread%s, %zu range%s of %s", marks ? "marks" : "purges", threads,
			       threads == 1 ? "" : "s", ranges, ranges == 1 ? "" : "s", size_text(range_bytes));

	json_object_object_add(c->parameters, "of", json_object_new_string(marks ? "marks" : "purges"));
	json_object_object_add(c->parameters, "threads", json_object_new_int((int)threads));
	json_object_object_add(c->parameters, "range_bytes", json_object_new_int64((int64_t)range_bytes));
	json_object_object_add(c->parameters, "ranges", json_object_new_int64((int64_t)ranges));
	for (unsigned i = 0; i < t->columns_count; i++) {
		turns[i] = (struct volatile_turn){ sides->of[i], range_bytes, ranges, threads };
		if (marks || sides->of[i] != VOLATILE_REGISTERED)
			setups[i] = (struct turn_setup){ .body = body, .arg = &turns[i] };
	}
	compare_case(t, c, setups, o->runs, NULL);
}

static size_t most_ranges(const struct options *o, size_t range_bytes, size_t threads)
{
	size_t fit = o->pages[0] * PAGE_BYTES / range_bytes / threads;

	return fit ? fit : 1;
}

static size_t many_ranges(const struct options *o, size_t range_bytes, size_t threads)
{
	size_t fit = most_ranges(o, range_bytes, threads);

	return fit < MANY_RANGES ? fit : MANY_RANGES;
}

static void run_all(const struct sides *sides, struct table *t, const struct options *o)
{
	for (unsigned n = 0; n < o->threads_count; n++)
		for (unsigned i = 0; i < SIZES; i++) {
			unsigned threads = (unsigned)o->threads[n];

			run_case(sides, t, o, volatile_marks, threads, sizes[i], 1);
			run_case(sides, t, o, volatile_marks, threads, sizes[i], many_ranges(o, sizes[i], threads));
		}
	for (unsigned i = 0; i < SIZES; i++)
		run_case(sides, t, o, volatile_purges, 1, sizes[i], most_ranges(o, sizes[i], 1));
}

/* ---- the command ---- */

static void add(struct sides *s, struct table *t, const struct options *o, enum volatile_side side, const char *name,
		const char *what)
{
	if (options_want(o, name))
		s->of[table_add_column(t, name, what, 0)] = side;
}

static void add_columns(struct sides *s, struct table *t, const struct options *o)
{
	add(s, t, o, VOLATILE_MADVISE, "madvise", "marks: MADV_FREE + MADV_POPULATE_WRITE; purges: MADV_DONTNEED");
	add(s, t, o, VOLATILE_LARDER, "larder", "larder_volatile() + larder_nonvolatile(); larder_purge()");
	add(s, t, o, VOLATILE_REGISTERED, "registered", "madvise on memory that is registered with userfaultfd");
	if (!t->columns_count)
		errx(2, "--contenders: there is nobody called '%s' here", o->contenders);
}

static const char what[] =
	"Mark memory volatile, take it back and purge it, with Larder and with madvise(2).\v"
	"--pages is how much there is of it at most, for each side. The defaults: --pages 131072, --threads 1,2, --runs 5.";

int volatile_main(int argc, char **argv)
{
	struct options o = {
		.pages = { 131072 },
		.pages_count = 1,
		.threads = { 1, 2 },
		.threads_count = 2,
		.runs = 5,
		.seed = 1,
	};
	struct table t = { .benchmark = "volatile", .figures = figures, .figures_count = VOLATILE_FIGURES, .base = -1 };
	struct sides sides = { 0 };

	options_parse(&o, argc, argv, TAKES_PEER | TAKES_PAGES | TAKES_THREADS | TAKES_CONTENDERS, NULL, what);
	if (o.peer)
		errx(2, "volatile is compared with madvise(2), which is always there: leave out --peer %s",
		     o.peer->name);
	if (o.pages_count > 1)
		errx(2, "volatile takes one value of --pages");
	add_columns(&sides, &t, &o);
	snprintf(t.head, sizeof(t.head), "%llu pages at most; %u runs", (unsigned long long)o.pages[0], o.runs);
	t.options = json_object_new_object();
	json_object_object_add(t.options, "runs", json_object_new_int((int)o.runs));
	turns_expect("volatile", t.columns_count * o.runs * SIZES * (2 * o.threads_count + 1));
	run_all(&sides, &t, &o);
	turns_end();
	return table_show(&t, o.json);
}
