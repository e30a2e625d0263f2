/*
 * What it costs to touch pages that are not there.
 *
 * Without a limit, each turn fills the buffer, takes all of it out and touches every page once: that is the price of a
 * fault. A neighbour that came along with an earlier fault is touched in nanoseconds; it is in the mean and in the
 * speed, which is why sequential touches are judged by those. With a limit, the buffer is larger than the RAM: pages
 * have to leave for others to come, and everything that a touch costs is in its latency. The first pass is not counted.
 */
#include "bench.h"
#include "compare.h"
#include "fio.h"
#include "memory.h"
#include "turn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB ((double)(1 << 20))

enum { PASSES = 2, MOST_WARM_UPS = 10 }; /* with a limit */

enum figure_index { P50, P90, P99, P999, MOST, MEAN, PAGES_S, MB_S, CPU_US, MEMORY, POOL, FIGURES };

static const struct figure figures[] = {
	[P50] = { "touch, p50", "us", "p50_us" },
	[P90] = { "touch, p90", "us", "p90_us" },
	[P99] = { "touch, p99", "us", "p99_us" },
	[P999] = { "touch, p99.9", "us", "p999_us" },
	[MOST] = { "touch, longest", "us", "max_us" },
	[MEAN] = { "touch, mean", "us", "mean_us" },
	[PAGES_S] = { "speed", "pages/s", "pages_s" },
	[MB_S] = { "speed", "MB/s", "mb_s" },
	[CPU_US] = { "CPU time a touch", "us", "cpu_us" },
	[MEMORY] = { "RAM taken at most", "MiB", "memory_mib" },
	[POOL] = { "of it compressed pool", "MiB", "pool_mib" },
};

struct fault_turn {
	struct memory memory;
	struct touch_plan plan;
	unsigned threads;
	struct turn *turn;
	double cpu_seconds; /* when the touches begin */
};

/* ---- a contender's process ---- */

static void take_out(void *arg)
{
	struct fault_turn *f = arg;

	if (!f->memory.setup.limit_bytes) {
		f->memory.contender->out();
		memory_settle(&f->memory);
		memory_check_out(&f->memory);
		memory_take_from_host((uint64_t)touch_count() * CONTENDER_PAGE_BYTES);
	}
	f->cpu_seconds = turn_cpu_seconds(f->turn, 0);
}

static void set_figures(const struct fault_turn *f, double seconds, double touches)
{
	double *to = f->turn->figures;
	const struct latency *l = &f->turn->latency;

	to[P50] = latency_quantile_us(l, 0.5);
	to[P90] = latency_quantile_us(l, 0.9);
	to[P99] = latency_quantile_us(l, 0.99);
	to[P999] = latency_quantile_us(l, 0.999);
	to[MOST] = latency_quantile_us(l, 1);
	to[MEAN] = latency_mean_us(l);
	to[PAGES_S] = touches / seconds;
	to[MB_S] = touches * CONTENDER_PAGE_BYTES / seconds / 1e6;
	to[CPU_US] = (turn_cpu_seconds(f->turn, 0) - f->cpu_seconds) * 1e6 / touches;
}

/* Until who is there and who is not is as it will be. */
static void warm_up(const struct touch_run *run, struct turn *t)
{
	touch_all(run, NULL);
	for (int i = 0; i < MOST_WARM_UPS && !atomic_load(&t->is_settled); i++)
		touch_all(run, NULL);
}

static void body(struct turn *t, void *arg)
{
	struct fault_turn *f = arg;
	struct touch_run run = { .threads = f->threads, .arg = f, .done = &t->done, .done_before = 0.5 };
	unsigned passes = f->memory.setup.limit_bytes ? PASSES : 1;
	double seconds = 0;

	f->turn = t;
	f->plan.seed += t->run;
	touch_prepare(&f->plan);
	memory_open(&f->memory, t);
	run.buffer = f->memory.buffer;
	run.touch = f->memory.contender->touch;
	run.write_percent = f->memory.options->write_percent;
	if (f->memory.setup.limit_bytes)
		warm_up(&run, t);
	memory_look(t);
	run.before = take_out;
	for (unsigned i = 0; i < passes; i++) {
		seconds += touch_all(&run, &t->latency);
		run.before = NULL;
	}
	set_figures(f, seconds, (double)touch_count() * passes);
	memory_verify(&f->memory, t);
}

/* In order, 64 KiB are read at once, as readahead would. */
static void fio_body(struct turn *t, void *arg)
{
	const struct fault_turn *f = arg;
	const int in_order = f->plan.pattern == TOUCH_SEQUENTIAL;
	const struct fio_job job = { in_order ? "read" : "randread", in_order ? "64k" : "4k", in_order ? 4 : f->threads,
				     !in_order };
	int file = fio_make_file(f->memory.options->dir, f->memory.setup.bytes, NULL);
	struct fio_speed s = fio_run(file, f->memory.setup.bytes, &job);

	t->figures[MB_S] = s.mb_s;
	t->figures[PAGES_S] = s.mb_s * 1e6 / CONTENDER_PAGE_BYTES;
	if (in_order)
		return;
	t->figures[P50] = s.p50_us;
	t->figures[P90] = s.p90_us;
	t->figures[P99] = s.p99_us;
	t->figures[P999] = s.p999_us;
	t->figures[MOST] = s.max_us;
	t->figures[MEAN] = s.mean_us;
}

/* ---- cases ---- */

static int finish(struct turn *t, const struct turn_setup *s)
{
	if (!s->limit_bytes)
		return 0;
	t->figures[MEMORY] = (double)t->peak_bytes / MIB;
	if (s->peer && s->peer->pool_bytes)
		t->figures[POOL] = (double)t->peak_pool_bytes / MIB;
	return 0;
}

/* What only makes sense when pages are out, or only when they may stay. */
static int takes_part(const struct contender *c, uint64_t limit)
{
	if (c == &contender_ram)
		return limit != 0;
	return c->kind != CONTENDER_BOUND || !limit;
}

/* Bounds know no limit. */
static struct turn_setup set_up_turn(struct fault_turn *f)
{
	const struct contender *c = f->memory.contender;

	return (struct turn_setup){
		.peer = memory_peer(&f->memory),
		.limit_bytes = c->kind == CONTENDER_BOUND ? 0 : f->memory.setup.limit_bytes,
		.body = c == &contender_fio ? fio_body : body,
		.arg = f,
		.waits_for_memory = 1,
	};
}

static void run_case(const struct memory_entrants *e, struct table *t, const struct options *o, uint64_t pages,
		     enum touch_pattern pattern, unsigned threads, const struct limit *limit)
{
	static struct fault_turn turns[COLUMNS_MAX];
	struct turn_setup setups[COLUMNS_MAX] = { 0 };
	struct table_case *c = table_add_case(t, "%s, %u thread%s, %s, %llu pages", touch_name(pattern), threads,
					      threads == 1 ? "" : "s", limit_text(limit), (unsigned long long)pages);

	json_object_object_add(c->parameters, "pattern", json_object_new_string(touch_name(pattern)));
	json_object_object_add(c->parameters, "threads", json_object_new_int((int)threads));
	json_object_object_add(c->parameters, "pages", json_object_new_int64((int64_t)pages));
	json_object_object_add(c->parameters, "limit_percent", limit_percent_json(limit, pages * CONTENDER_PAGE_BYTES));
	for (unsigned i = 0; i < t->columns_count; i++) {
		struct fault_turn *f = &turns[i];

		*f = (struct fault_turn){ .threads = threads };
		memory_set_up(&f->memory, o, e->contenders[i], pages, limit);
		f->plan = (struct touch_plan){ pattern, pages, o->touches, o->stride, o->seed };
		if (takes_part(e->contenders[i], f->memory.setup.limit_bytes))
			setups[i] = set_up_turn(f);
	}
	compare_case(t, c, setups, o->runs, finish);
}

static void run_all(const struct memory_entrants *e, struct table *t, const struct options *o)
{
	for (unsigned p = 0; p < o->pages_count; p++)
		for (unsigned l = 0; l < o->limits_count; l++)
			for (unsigned i = 0; i < o->patterns_count; i++)
				for (unsigned n = 0; n < o->threads_count; n++)
					run_case(e, t, o, o->pages[p], o->patterns[i], (unsigned)o->threads[n],
						 &o->limits[l]);
}

/* ---- the command ---- */

static const char what[] =
	"Touch pages that are out: with Larder, with the kernel's peer, and what the machine could do at best. With --limit, touch more pages "
	"than it holds.\v"
	"Lists are measured in every combination. The defaults: --peer none, --pages 32768, --threads 1, --pattern random,sequential, --data mixed, "
	"--limit none, --runs 5.";

int fault_main(int argc, char **argv)
{
	static const struct contender *const bounds[] = { &contender_lz4, &contender_memcpy, &contender_ram, NULL };
	struct options o = {
		.pages = { 32768 },
		.pages_count = 1,
		.threads = { 1 },
		.threads_count = 1,
		.patterns = { TOUCH_RANDOM, TOUCH_SEQUENTIAL },
		.patterns_count = 2,
		.limits_count = 1,
		.runs = 5,
		.seed = 1,
		.stride = 16,
		.dir = "/var/tmp",
	};
	struct table t = { .benchmark = "fault", .figures = figures, .figures_count = FIGURES, .base = -1 };
	struct memory_entrants entrants = { 0 };

	options_parse(&o, argc, argv,
		      TAKES_PEER | TAKES_PAGES | TAKES_THREADS | TAKES_PATTERN | TAKES_DATA | TAKES_LIMIT |
			      TAKES_TOUCHES | TAKES_WRITES | TAKES_DIR | TAKES_SETTLE | TAKES_CONTENDERS,
		      NULL, what);
	memory_begin(&entrants, &t, &o, bounds);
	options_describe(&o, t.head, sizeof(t.head), &t.options);
	turns_expect("fault",
		     t.columns_count * o.runs * o.pages_count * o.limits_count * o.patterns_count * o.threads_count);
	run_all(&entrants, &t, &o);
	turns_end();
	return table_show(&t, o.json);
}
