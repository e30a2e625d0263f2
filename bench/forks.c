/*
 * What fork costs a process with much memory, of which a part is out: the child ends at once, or executes another
 * program.
 */
#include "bench.h"
#include "compare.h"
#include "program.h"
#include "table.h"

#include <stdio.h>

#define MIB ((double)(1 << 20))

enum { PAGE_BYTES = 4096 };

/* The first ones are the job's (job_fork.c). */
enum figure_index { EXIT_MS, EXEC_MS, ALONE_MS, RESIDENT, MEMORY, FIGURES };

static const struct figure figures[] = {
	[EXIT_MS] = { "fork, until the child has ended", "ms", "exit_ms" },
	[EXEC_MS] = { "fork and exec, likewise", "ms", "exec_ms" },
	[ALONE_MS] = { "fork alone", "ms", "fork_ms" },
	[RESIDENT] = { "resident when forking", "MiB", "resident_mib" },
	[MEMORY] = { "RAM taken at most", "MiB", "memory_mib" },
};

struct fork_turn {
	enum program_how how;
	uint64_t pages, limit_bytes;
	const struct options *options;
};

static void body(struct turn *t, void *arg)
{
	struct fork_turn *f = arg;
	char pages[32], forks[32], seed[32];
	const char *job[] = { "fork", pages, forks, contents_name(f->options->contents), seed, NULL };

	snprintf(pages, sizeof(pages), "%llu", (unsigned long long)f->pages);
	snprintf(forks, sizeof(forks), "%u", f->options->repeats);
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)(f->options->seed + t->run));
	program_run_job(t, f->how, f->limit_bytes, job);
}

static int finish(struct turn *t, const struct turn_setup *s)
{
	if (s->limit_bytes)
		t->figures[MEMORY] = (double)t->peak_bytes / MIB;
	return 0;
}

static void run_case(const struct program_entrants *e, struct table *t, const struct options *o, uint64_t pages,
		     const struct limit *limit)
{
	struct table_case *c = table_add_case(t, "%llu pages, %s", (unsigned long long)pages, limit_text(limit));
	struct fork_turn turns[COLUMNS_MAX];
	struct turn_setup setups[COLUMNS_MAX] = { 0 };
	uint64_t bytes = limit_bytes(limit, pages * PAGE_BYTES);

	json_object_object_add(c->parameters, "pages", json_object_new_int64((int64_t)pages));
	json_object_object_add(c->parameters, "limit_percent", limit_percent_json(limit, pages * PAGE_BYTES));
	for (unsigned i = 0; i < t->columns_count; i++) {
		turns[i] = (struct fork_turn){ e->hows[i], pages, program_limit(e->hows[i], bytes), o };
		setups[i] = program_turn(o, e->hows[i], turns[i].limit_bytes, body, &turns[i]);
	}
	compare_case(t, c, setups, o->runs, finish);
}

static const char what[] =
	"Fork a process with much memory, a part of which is out.\v"
	"The defaults: --peer none, --pages 131072, --data mixed, --limit 70%, --repeats 10, --runs 5.";

int fork_main(int argc, char **argv)
{
	struct options o = { .pages = { 131072 },
			     .pages_count = 1,
			     .limits = { { .percent = 70 } },
			     .limits_count = 1,
			     .repeats = 10,
			     .runs = 5,
			     .seed = 1,
			     .dir = "/var/tmp" };
	struct table t = { .benchmark = "fork", .figures = figures, .figures_count = FIGURES, .base = -1 };
	struct program_entrants entrants = { 0 };

	options_parse(&o, argc, argv,
		      TAKES_PEER | TAKES_PAGES | TAKES_DATA | TAKES_LIMIT | TAKES_REPEATS | TAKES_DIR |
			      TAKES_CONTENDERS,
		      NULL, what);
	program_columns(&entrants, &t, &o, 0);
	program_begin(&o);
	options_describe(&o, t.head, sizeof(t.head), &t.options);
	turns_expect("fork", t.columns_count * o.runs * o.pages_count * o.limits_count);
	for (unsigned p = 0; p < o.pages_count; p++)
		for (unsigned l = 0; l < o.limits_count; l++)
			run_case(&entrants, &t, &o, o.pages[p], &o.limits[l]);
	turns_end();
	return table_show(&t, o.json);
}
