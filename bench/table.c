#include "table.h"

#include "machine.h"

#include <err.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_TOLERANCE 1.05

enum { NAME_WIDTH = 30, CELL_WIDTH = 19, RATIO_WIDTH = 8 };

/* ---- filling ---- */

unsigned table_add_column(struct table *t, const char *name, const char *what, int is_bound)
{
	if (t->columns_count == COLUMNS_MAX)
		errx(2, "too many contenders");
	t->columns[t->columns_count] = (struct column){ name, what, is_bound };
	if (t->base < 0 && !is_bound)
		t->base = (int)t->columns_count;
	return t->columns_count++;
}

struct table_case *table_add_case(struct table *t, const char *format, ...)
{
	struct table_case *c = calloc(1, sizeof(*c));
	va_list args;

	if (!c)
		err(2, "no memory");
	if (t->cases_count == CASES_MAX)
		errx(2, "more than %d combinations of the lists given: give shorter ones", CASES_MAX);
	va_start(args, format);
	vsnprintf(c->label, sizeof(c->label), format, args);
	va_end(args);
	c->parameters = json_object_new_object();
	t->cases[t->cases_count++] = c;
	return c;
}

static void note_memory(struct cell *c, const struct turn *turn, uint64_t limit_bytes)
{
	c->limit_bytes = limit_bytes;
	if (limit_bytes && (double)turn->peak_bytes > (double)limit_bytes * LIMIT_TOLERANCE)
		c->is_above_limit = 1;
}

void table_add_turn(const struct table *t, struct cell *c, const struct turn *turn, uint64_t limit_bytes)
{
	for (unsigned i = 0; i < t->figures_count; i++)
		samples_add(&c->samples[i], turn->figures[i]);
	if (!c->latency && turn->latency.count)
		c->latency = latency_create();
	if (turn->latency.count)
		latency_append(c->latency, &turn->latency);
	note_memory(c, turn, limit_bytes);
	snprintf(c->note, sizeof(c->note), "%s", turn->note);
}

static void free_table(struct table *t)
{
	for (unsigned i = 0; i < t->cases_count; i++) {
		for (unsigned j = 0; j < t->columns_count; j++)
			if (t->cases[i]->cells[j].latency)
				latency_destroy(t->cases[i]->cells[j].latency);
		json_object_put(t->cases[i]->parameters);
		free(t->cases[i]);
	}
	json_object_put(t->options);
}

/* ---- what can be said of a cell ---- */

int table_has(const struct cell *c, unsigned figure)
{
	return c->samples[figure].count && !c->failed && !isnan(samples_median(&c->samples[figure]));
}

int table_takes_part(const struct table_case *c, unsigned column)
{
	return c->cells[column].samples[0].count || c->cells[column].failed;
}

static int anybody_has(const struct table *t, const struct table_case *c, unsigned figure)
{
	for (unsigned i = 0; i < t->columns_count; i++)
		if (table_has(&c->cells[i], figure))
			return 1;
	return 0;
}

int table_is_compared(const struct table *t, const struct table_case *c, unsigned column, unsigned figure)
{
	return t->base >= 0 && (int)column != t->base && !t->columns[column].is_bound &&
	       table_has(&c->cells[column], figure) && table_has(&c->cells[t->base], figure) &&
	       samples_median(&c->cells[t->base].samples[figure]) > 0;
}

struct samples table_ratio(const struct table *t, const struct table_case *c, unsigned column, unsigned figure)
{
	return samples_ratio(&c->cells[column].samples[figure], &c->cells[t->base].samples[figure]);
}

/* ---- text ---- */

static int has_ratio(const struct table *t, unsigned column)
{
	return t->base >= 0 && (int)column != t->base && !t->columns[column].is_bound;
}

static void print_head(const struct table *t, const struct table_case *c)
{
	printf("%*s", NAME_WIDTH, "");
	for (unsigned i = 0; i < t->columns_count; i++) {
		if (!table_takes_part(c, i))
			continue;
		printf("%*s", CELL_WIDTH, t->columns[i].name);
		if (has_ratio(t, i))
			printf("%*s", RATIO_WIDTH, "ratio");
	}
	putchar('\n');
}

static int digits_of(double value)
{
	return value < 0.1 ? 3 : value < 10 ? 2 : value < 1000 ? 1 : 0;
}

/* The median, and how far the runs are apart: half of the difference between the largest and the smallest. */
static void print_value(const struct samples *s)
{
	double median = samples_median(s), spread = (samples_max(s) - samples_min(s)) / 2;
	char text[64];

	if (median > 0 && s->count > 1)
		snprintf(text, sizeof(text), "%.*f +-%.0f%%", digits_of(median), median, 100 * spread / median);
	else
		snprintf(text, sizeof(text), "%.*f", digits_of(median), median);
	printf("%*s", CELL_WIDTH, text);
}

static void print_cell(const struct table *t, const struct table_case *c, unsigned column, unsigned figure)
{
	struct samples ratio;

	if (table_has(&c->cells[column], figure))
		print_value(&c->cells[column].samples[figure]);
	else
		printf("%*s", CELL_WIDTH, c->cells[column].failed ? "failed" : "-");
	if (!has_ratio(t, column))
		return;
	if (table_is_compared(t, c, column, figure)) {
		ratio = table_ratio(t, c, column, figure);
		printf("%*.*f", RATIO_WIDTH, digits_of(samples_median(&ratio)), samples_median(&ratio));
	} else {
		printf("%*s", RATIO_WIDTH, "-");
	}
}

static void print_row(const struct table *t, const struct table_case *c, unsigned figure)
{
	char name[64];

	if (!anybody_has(t, c, figure) || !*t->figures[figure].name)
		return;
	snprintf(name, sizeof(name), "  %s%s%s", t->figures[figure].name, *t->figures[figure].unit ? ", " : "",
		 t->figures[figure].unit);
	printf("%-*s", NAME_WIDTH, name);
	for (unsigned i = 0; i < t->columns_count; i++)
		if (table_takes_part(c, i))
			print_cell(t, c, i, figure);
	putchar('\n');
}

static void print_notes(const struct table *t, const struct table_case *c)
{
	for (unsigned i = 0; i < t->columns_count; i++) {
		const struct cell *cell = &c->cells[i];
		const char *name = t->columns[i].name;

		if (cell->failed > 128)
			printf("  %s was ended by signal %d (%s) and is left out\n", name, cell->failed - 128,
			       strsignal(cell->failed - 128));
		else if (cell->failed)
			printf("  %s failed (exit code %d) and is left out\n", name, cell->failed);
		if (cell->killed)
			printf("  %s was killed in its cgroup %u times, and run again with 2 %% more memory each time\n",
			       name, cell->killed);
		if (cell->is_above_limit)
			printf("  %s took more than the limit of %.1f MiB and 5 %%\n", name,
			       (double)cell->limit_bytes / (1 << 20));
		if (*cell->note)
			printf("  %s: %s\n", name, cell->note);
	}
}

void table_print(const struct table *t)
{
	printf("%s\n%s\n", t->head, machine_text());
	for (unsigned i = 0; i < t->columns_count; i++)
		printf("  %-10s %s\n", t->columns[i].name, t->columns[i].what);
	if (t->base >= 0 && t->columns_count > 1)
		printf("  ratio      / %s, the median of the runs' ratios\n", t->columns[t->base].name);
	for (unsigned i = 0; i < t->cases_count; i++) {
		printf("\n%s\n", t->cases[i]->label);
		print_head(t, t->cases[i]);
		for (unsigned f = 0; f < t->figures_count; f++)
			print_row(t, t->cases[i], f);
		print_notes(t, t->cases[i]);
	}
}

static int exit_code(const struct table *t)
{
	for (unsigned i = 0; i < t->cases_count; i++)
		for (unsigned j = 0; j < t->columns_count; j++)
			if (t->cases[i]->cells[j].failed)
				return 1;
	return 0;
}

int table_show(struct table *t, int as_json)
{
	int code = exit_code(t);

	if (as_json)
		table_print_json(t);
	else
		table_print(t);
	free_table(t);
	return code;
}
