/*
 * A table as a JSON document, for `larder bench report` and other machines.
 */
#include "machine.h"
#include "table.h"

#include <math.h>
#include <stdio.h>

static const double quantiles[] = { 0,	  0.01,	 0.05,	0.1,	0.2,	0.3,	 0.4,  0.5,  0.6,
				    0.7,  0.8,	 0.85,	0.9,	0.92,	0.94,	 0.95, 0.97, 0.98,
				    0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1 };

static void add_number(struct json_object *o, const char *name, double number)
{
	json_object_object_add(o, name, isnan(number) ? NULL : json_object_new_double(number));
}

static struct json_object *latency_json(const struct latency *l)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; l && i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		struct json_object *point = json_object_new_array();

		json_object_array_add(point, json_object_new_double(quantiles[i]));
		json_object_array_add(point, json_object_new_double(latency_quantile_us(l, quantiles[i])));
		json_object_array_add(list, point);
	}
	return list;
}

static struct json_object *figure_json(const struct table *t, const struct table_case *c, unsigned column,
				       unsigned figure)
{
	const struct samples *s = &c->cells[column].samples[figure];
	struct json_object *o = json_object_new_object(), *runs = json_object_new_array();
	struct samples ratio;

	json_object_object_add(o, "unit", json_object_new_string(t->figures[figure].unit));
	add_number(o, "median", samples_median(s));
	add_number(o, "min", samples_min(s));
	add_number(o, "max", samples_max(s));
	for (unsigned i = 0; i < s->count; i++)
		json_object_array_add(runs, json_object_new_double(s->values[i]));
	json_object_object_add(o, "runs", runs);
	if (table_is_compared(t, c, column, figure)) {
		ratio = table_ratio(t, c, column, figure);
		add_number(o, "ratio", samples_median(&ratio));
	}
	return o;
}

static struct json_object *cell_json(const struct table *t, const struct table_case *c, unsigned column)
{
	const struct cell *cell = &c->cells[column];
	struct json_object *o = json_object_new_object(), *figures = json_object_new_object();

	json_object_object_add(o, "contender", json_object_new_string(t->columns[column].name));
	for (unsigned i = 0; i < t->figures_count; i++)
		if (table_has(cell, i))
			json_object_object_add(figures, t->figures[i].key, figure_json(t, c, column, i));
	json_object_object_add(o, "figures", figures);
	if (cell->latency)
		json_object_object_add(o, "latency_us", latency_json(cell->latency));
	json_object_object_add(o, "failed", json_object_new_int(cell->failed));
	json_object_object_add(o, "killed", json_object_new_int((int)cell->killed));
	json_object_object_add(o, "limit_bytes", json_object_new_int64((int64_t)cell->limit_bytes));
	json_object_object_add(o, "above_limit", json_object_new_boolean(cell->is_above_limit));
	json_object_object_add(o, "note", json_object_new_string(cell->note));
	return o;
}

static struct json_object *case_json(const struct table *t, const struct table_case *c)
{
	struct json_object *o = json_object_new_object(), *results = json_object_new_array();

	json_object_object_add(o, "label", json_object_new_string(c->label));
	json_object_object_add(o, "parameters", json_object_get(c->parameters));
	for (unsigned i = 0; i < t->columns_count; i++)
		if (table_takes_part(c, i))
			json_object_array_add(results, cell_json(t, c, i));
	json_object_object_add(o, "results", results);
	return o;
}

static struct json_object *columns_json(const struct table *t)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < t->columns_count; i++) {
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "name", json_object_new_string(t->columns[i].name));
		json_object_object_add(o, "what", json_object_new_string(t->columns[i].what));
		json_object_object_add(o, "is_bound", json_object_new_boolean(t->columns[i].is_bound));
		json_object_array_add(list, o);
	}
	return list;
}

void table_print_json(const struct table *t)
{
	struct json_object *o = json_object_new_object(), *cases = json_object_new_array();

	json_object_object_add(o, "larder_bench", json_object_new_int(1)); /* the version of this format */
	json_object_object_add(o, "benchmark", json_object_new_string(t->benchmark));
	json_object_object_add(o, "machine", machine_json());
	json_object_object_add(o, "options", json_object_get(t->options));
	json_object_object_add(o, "contenders", columns_json(t));
	json_object_object_add(o, "base", t->base < 0 ? NULL : json_object_new_string(t->columns[t->base].name));
	for (unsigned i = 0; i < t->cases_count; i++)
		json_object_array_add(cases, case_json(t, t->cases[i]));
	json_object_object_add(o, "cases", cases);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}
