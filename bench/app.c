/*
 * Programs in less memory than they need: Redis, SQLite, a pointer-chasing and a streaming kernel, or any command.
 *
 * Each app is first run plain, which shows how much memory it takes; limits in per cent are shares of that. Then plain,
 * the kernel's peer and Larder take turns, the latter two with the same total.
 */
#include "app.h"
#include "bench.h"
#include "command.h"
#include "compare.h"
#include "table.h"

#include <err.h>
#include <stdio.h>
#include <string.h>

#define MIB ((double)(1 << 20))

enum { PAGE_BYTES = 4096, DEPTH = 16 };

static const struct figure figures[] = {
	[APP_OPERATIONS_S] = { "speed", "operations/s", "operations_s" },
	[APP_P50] = { "latency, p50", "us", "p50_us" },
	[APP_P99] = { "latency, p99", "us", "p99_us" },
	[APP_P999] = { "latency, p99.9", "us", "p999_us" },
	[APP_MEAN] = { "latency, mean", "us", "mean_us" },
	[APP_CPU_US] = { "CPU time an operation", "us", "cpu_us" },
	[APP_LOAD_S] = { "to load", "s", "load_s" },
	[APP_MEMORY] = { "RAM taken", "MiB", "memory_mib" },
	[APP_POOL] = { "of it compressed pool", "MiB", "pool_mib" },
	[APP_RATIO] = { "content / compressed", "", "ratio" },
};

/* ---- apps ---- */

static void run_job(struct turn *t, const struct app_turn *a)
{
	const struct options *o = a->options;
	char pages[32], seconds[32], seed[32];
	const char *job[] = { a->app->name, pages,
			      seconds,	    contents_name(o->contents),
			      seed,	    a->app->has_keys ? touch_name(a->load) : NULL,
			      NULL };

	snprintf(pages, sizeof(pages), "%llu", (unsigned long long)o->pages[0]);
	snprintf(seconds, sizeof(seconds), "%u", o->seconds);
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)(o->seed + t->run));
	program_run_job(t, a->how, a->limit_bytes, job);
}

static const struct app apps[] = {
	{ "redis", "GET and SET, one request under way on each of two connections", 1, 1, app_run_redis },
	{ "redis-pipelined", "the same, 16 requests under way on each", 1, DEPTH, app_run_redis },
	{ "sqlite", "an in-memory database, nine SELECTs to an UPDATE", 1, 0, run_job },
	{ "chase", "follow pointers from page to page", 0, 0, run_job },
	{ "stream", "read all of it in order, write a word a page", 0, 0, run_job },
};

enum { APPS = sizeof(apps) / sizeof(apps[0]) };

static const struct app *find_app(const char *name)
{
	for (unsigned i = 0; i < APPS; i++)
		if (!strcmp(name, apps[i].name))
			return &apps[i];
	return NULL;
}

/* ---- turns ---- */

static void body(struct turn *t, void *arg)
{
	const struct app_turn *a = arg;

	a->app->run(t, a);
}

static int finish(struct turn *t, const struct turn_setup *s)
{
	t->figures[APP_MEMORY] = (double)t->peak_bytes / MIB;
	if (s->peer && s->peer->pool_bytes)
		t->figures[APP_POOL] = (double)t->peak_pool_bytes / MIB;
	return 0;
}

static uint64_t memory_of_plain(const struct options *o, const struct app *app)
{
	struct app_turn plain = { o, app, PROGRAM_PLAIN, TOUCH_ZIPF, 0 };
	struct turn_setup s = { .body = body, .arg = &plain };
	unsigned killed = 0;
	struct turn *t;
	int status = turn_run(&t, &s, app->name, 0, &killed);

	if (status)
		errx(status, "%s fails even without a limit", app->name);
	return t->peak_bytes;
}

static void run_case(const struct program_entrants *e, struct table *t, const struct options *o, const struct app *app,
		     enum touch_pattern load, const struct limit *limit, uint64_t whole)
{
	const char *keys = app->has_keys ? touch_name(load) : "";
	struct table_case *c = table_add_case(t, "%s%s%s, %s of %.0f MiB", app->name, *keys ? ", " : "", keys,
					      limit_text(limit), (double)whole / MIB);
	struct app_turn turns[COLUMNS_MAX];
	struct turn_setup setups[COLUMNS_MAX] = { 0 };
	uint64_t bytes = limit_bytes(limit, whole);

	json_object_object_add(c->parameters, "app", json_object_new_string(app->name));
	json_object_object_add(c->parameters, "keys", json_object_new_string(keys));
	json_object_object_add(c->parameters, "whole_bytes", json_object_new_int64((int64_t)whole));
	json_object_object_add(c->parameters, "limit_percent", limit_percent_json(limit, whole));
	for (unsigned i = 0; i < t->columns_count; i++) {
		turns[i] = (struct app_turn){ o, app, e->hows[i], load, program_limit(e->hows[i], bytes) };
		setups[i] = program_turn(o, e->hows[i], turns[i].limit_bytes, body, &turns[i]);
	}
	compare_case(t, c, setups, o->runs, finish);
}

static void run_app(const struct program_entrants *e, struct table *t, const struct options *o, const struct app *app)
{
	uint64_t whole = memory_of_plain(o, app);

	for (unsigned l = 0; l < o->limits_count; l++)
		for (unsigned p = 0; p < (app->has_keys ? o->patterns_count : 1); p++)
			run_case(e, t, o, app, o->patterns[p], &o->limits[l], whole);
}

/* ---- the command ---- */

static int is_app(const char *name)
{
	return find_app(name) != NULL;
}

static unsigned count_turns(const struct options *o, const struct app *const *chosen, unsigned count, unsigned columns)
{
	unsigned turns = 0;

	for (unsigned i = 0; i < count; i++)
		turns += 1 + o->limits_count * (chosen[i]->has_keys ? o->patterns_count : 1) * o->runs * columns;
	return turns;
}

static int compare_apps(const struct options *o, const struct app *const *chosen, unsigned count)
{
	struct table t = { .benchmark = "app", .figures = figures, .figures_count = APP_FIGURES, .base = -1 };
	struct program_entrants entrants = { 0 };

	program_columns(&entrants, &t, o, 0);
	program_begin(o);
	options_describe(o, t.head, sizeof(t.head), &t.options);
	turns_expect("app", count_turns(o, chosen, count, t.columns_count));
	for (unsigned i = 0; i < count; i++)
		run_app(&entrants, &t, o, chosen[i]);
	turns_end();
	return table_show(&t, o->json);
}

static void check(const struct options *o)
{
	if (o->pages_count > 1)
		errx(2, "app takes one value of --pages");
	for (unsigned i = 0; i < o->patterns_count; i++)
		if (o->patterns[i] != TOUCH_ZIPF && o->patterns[i] != TOUCH_RANDOM)
			errx(2, "app knows the patterns zipf and random, not %s", touch_name(o->patterns[i]));
}

/* Apps by name, all of them when there is no argument; or a command, which is anything else. */
static int run_arguments(const struct options *o)
{
	const struct app *chosen[APPS];
	unsigned count = 0;

	for (unsigned i = 0; i < o->arguments_count && count < APPS; i++)
		if ((chosen[count] = find_app(o->arguments[i])) != NULL)
			count++;
	if (o->arguments_count && count == 0)
		return command_compare("app", o, o->arguments, 0, 0);
	if (count != o->arguments_count)
		errx(2,
		     "some of the arguments are no apps: choose redis, redis-pipelined, sqlite, chase, stream, or one command");
	for (unsigned i = 0; !o->arguments_count && i < APPS; i++)
		chosen[count++] = &apps[i];
	return compare_apps(o, chosen, count);
}

static const char what[] =
	"Run programs in less memory than they need: redis, redis-pipelined, sqlite, chase and stream, or a command.\v"
	"The defaults: --peer none, --pages 131072 (what the apps hold), --pattern zipf (of keys; random: all alike), --data json (of chase and "
	"stream), --limit 50%, --seconds 5, --runs 3.";

int app_main(int argc, char **argv)
{
	struct options o = {
		.pages = { 131072 },
		.pages_count = 1,
		.patterns = { TOUCH_ZIPF },
		.patterns_count = 1,
		.limits = { { .percent = 50 } },
		.limits_count = 1,
		.contents = CONTENTS_JSON,
		.seconds = 5,
		.runs = 3,
		.seed = 1,
		.dir = "/var/tmp",
		.is_word = is_app,
	};

	options_parse(&o, argc, argv,
		      TAKES_PEER | TAKES_PAGES | TAKES_PATTERN | TAKES_DATA | TAKES_LIMIT | TAKES_SECONDS | TAKES_DIR |
			      TAKES_CONTENDERS | TAKES_ARGUMENTS,
		      "[APP...]\nCOMMAND [ARGUMENT...]", what);
	check(&o);
	return run_arguments(&o);
}
