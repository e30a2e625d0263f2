#include "command.h"

#include "compare.h"
#include "program.h"
#include "table.h"

#include <err.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB ((double)(1 << 20))

/* Of what it prints, or says that it did; it must be the same for all. Not printed. */
enum figure_index { SUM, SECONDS, CPU_SECONDS, PEAK, OPERATIONS_S, CPU_NS, FIGURES };

static const struct figure figures[] = {
	[SUM] = { "", "", "checksum" },
	[SECONDS] = { "time", "s", "seconds" },
	[CPU_SECONDS] = { "CPU time", "s", "cpu_seconds" },
	[PEAK] = { "peak RSS", "MiB", "peak_mib" },
	[OPERATIONS_S] = { "speed", "operations/s", "operations_s" },
	[CPU_NS] = { "CPU time an operation", "ns", "cpu_ns" },
};

static struct command {
	const char *const *argv;
	int is_job;
	double operations;
} command;

struct command_turn {
	enum program_how how;
	uint64_t limit_bytes;
};

/* ---- one turn ---- */

/* FNV-1a (Fowler, Noll, Vo) over what was printed, cut to what a double holds exactly. */
static double checksum(int fd)
{
	uint64_t sum = 0xcbf29ce484222325u;
	unsigned char text[4096];
	ssize_t n;

	lseek(fd, 0, SEEK_SET);
	while ((n = read(fd, text, sizeof(text))) > 0)
		for (ssize_t i = 0; i < n; i++)
			sum = (sum ^ text[i]) * 0x100000001b3u;
	return (double)(sum >> 11);
}

static struct program_end run_command(struct turn *t, const struct command_turn *c)
{
	int output = memfd_create("output", MFD_CLOEXEC);
	struct program_end end = program_run(t, c->how, c->limit_bytes, command.argv, output);

	t->figures[SUM] = checksum(output);
	return end;
}

static void body(struct turn *t, void *arg)
{
	struct command_turn *c = arg;
	struct program_end end =
		command.is_job ? program_run_job(t, c->how, c->limit_bytes, command.argv) : run_command(t, c);

	t->figures[SECONDS] = end.seconds;
	t->figures[CPU_SECONDS] = end.cpu_seconds;
	t->figures[PEAK] = end.peak_bytes / MIB;
	if (command.operations > 0) {
		t->figures[OPERATIONS_S] = command.operations / end.seconds;
		t->figures[CPU_NS] = end.cpu_seconds * 1e9 / command.operations;
	}
}

static int finish(struct turn *t, const struct turn_setup *s)
{
	static double first = NAN;

	(void)s;
	if (isnan(first))
		first = t->figures[SUM];
	if (t->figures[SUM] == first)
		return 0;
	warnx("what was printed is not the same as in the first run: either it never is, or something is wrong");
	return 1;
}

/* ---- limits in per cent are shares of what the plain program takes ---- */

static int has_percent(const struct options *o)
{
	for (unsigned i = 0; i < o->limits_count; i++)
		if (o->limits[i].percent)
			return 1;
	return 0;
}

static uint64_t peak_of_plain(const struct options *o)
{
	struct command_turn plain = { .how = PROGRAM_PLAIN };
	struct turn_setup s = { .body = body, .arg = &plain };
	unsigned killed = 0;
	struct turn *t;

	if (!has_percent(o))
		return 0;
	if (turn_run(&t, &s, "plain", 0, &killed))
		errx(2, "the program fails even without a limit");
	return (uint64_t)(t->figures[PEAK] * MIB);
}

/* ---- cases ---- */

static void run_case(const struct program_entrants *e, struct table *t, const struct options *o,
		     const struct limit *limit, uint64_t whole)
{
	struct table_case *c = table_add_case(t, "%s", limit_text(limit));
	struct command_turn turns[COLUMNS_MAX];
	struct turn_setup setups[COLUMNS_MAX] = { 0 };
	uint64_t bytes = limit_bytes(limit, whole);

	json_object_object_add(c->parameters, "limit_percent", whole ? limit_percent_json(limit, whole) : NULL);
	for (unsigned i = 0; i < t->columns_count; i++) {
		turns[i] = (struct command_turn){ e->hows[i], program_limit(e->hows[i], bytes) };
		setups[i] = program_turn(o, e->hows[i], turns[i].limit_bytes, body, &turns[i]);
	}
	compare_case(t, c, setups, o->runs, finish);
}

static void describe(struct table *t, const struct options *o)
{
	char words[200] = "";

	for (size_t i = 0; command.argv[i]; i++) {
		size_t used = strlen(words);

		snprintf(words + used, sizeof(words) - used, "%s%s", i ? " " : "", command.argv[i]);
	}
	snprintf(t->head, sizeof(t->head), "%s; %u runs", words, o->runs);
	t->options = json_object_new_object();
	json_object_object_add(t->options, "command", json_object_new_string(words));
	json_object_object_add(t->options, "peer", json_object_new_string(o->peer ? o->peer->name : "none"));
	json_object_object_add(t->options, "runs", json_object_new_int((int)o->runs));
}

int command_compare(const char *benchmark, const struct options *o, const char *const *argv, int is_job,
		    double operations)
{
	struct table t = { .benchmark = benchmark, .figures = figures, .figures_count = FIGURES, .base = -1 };
	struct program_entrants entrants = { 0 };
	uint64_t whole;

	command = (struct command){ argv, is_job, operations };
	program_columns(&entrants, &t, o, !is_job);
	program_begin(o);
	describe(&t, o);
	turns_expect(benchmark, t.columns_count * o->runs * o->limits_count + has_percent(o));
	whole = peak_of_plain(o);
	for (unsigned i = 0; i < o->limits_count; i++)
		run_case(&entrants, &t, o, &o->limits[i], whole);
	turns_end();
	return table_show(&t, o->json);
}
