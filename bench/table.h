/*
 * The result of a benchmark: for each case (a combination of pattern, threads, limit, ...) the figures of each
 * contender in every run. Printed as medians, spread and ratios, or as a JSON document.
 */
#ifndef BENCH_TABLE_H
#define BENCH_TABLE_H

#include "numbers.h"
#include "turn.h"

#include <json-c/json.h>

enum { COLUMNS_MAX = 8, CASES_MAX = 256 };

struct figure {
	const char *name, *unit;
	const char *key; /* in JSON */
};

struct column {
	const char *name, *what;
	int is_bound; /* what the machine can do: nothing is compared with it */
};

struct cell {
	struct samples samples[FIGURES_MAX];
	struct latency *latency; /* of all runs; NULL = none */
	unsigned killed;	 /* turns that the OOM killer ended, and that were repeated */
	int failed;		 /* the status of a turn that failed; there are no more after it */
	uint64_t limit_bytes;
	int is_above_limit; /* in some run the memory it took was 5 % above the limit or more */
	char note[128];
};

struct table_case {
	char label[128];
	struct json_object *parameters;
	struct cell cells[COLUMNS_MAX];
};

struct table {
	const char *benchmark;
	struct json_object *options; /* of all cases */
	char head[256];		     /* the same in words */
	const struct figure *figures;
	unsigned figures_count;
	struct column columns[COLUMNS_MAX];
	unsigned columns_count;
	int base; /* the column that others are divided by, in the same run; -1 = none */
	struct table_case *cases[CASES_MAX];
	unsigned cases_count;
};

/* A new column, which becomes the base if there is none yet and it is not a bound. Returns its index. */
unsigned table_add_column(struct table *t, const char *name, const char *what, int is_bound);

/* A new case; the label is formatted. Its parameters are the caller's to fill. */
struct table_case *table_add_case(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Take over what a turn has left: figures, latencies, memory. */
void table_add_turn(const struct table *t, struct cell *c, const struct turn *turn, uint64_t limit_bytes);

void table_print(const struct table *t);
void table_print_json(const struct table *t);

/* Print it one way or the other, free it, and return the exit code: 0, or 1 when some contender has failed. */
int table_show(struct table *t, int as_json);

/* Does the column have a part in this case; does the cell have this figure; can it be compared with the base's; and the
 * ratios to that, run by run. */
int table_takes_part(const struct table_case *c, unsigned column);
int table_has(const struct cell *c, unsigned figure);
int table_is_compared(const struct table *t, const struct table_case *c, unsigned column, unsigned figure);
struct samples table_ratio(const struct table *t, const struct table_case *c, unsigned column, unsigned figure);

#endif
