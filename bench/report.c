/*
 * larder bench report DIR: what `--json` has left in DIR, as one HTML page that needs nothing else.
 *
 * For each document a table of every case; and plots: latencies as cumulative distributions; speed against the memory
 * limit and against the number of threads, wherever cases differ in those alone.
 */
#include "bench.h"
#include "plot.h"

#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- documents ---- */

enum { DOCUMENTS_MAX = 256 };

static struct document {
	char name[256];
	struct json_object *json;
} documents[DOCUMENTS_MAX];

static unsigned documents_count;

static struct json_object *member(struct json_object *o, const char *name)
{
	struct json_object *value = NULL;

	return json_object_object_get_ex(o, name, &value) ? value : NULL;
}

static const char *text_of(struct json_object *o, const char *name)
{
	struct json_object *value = member(o, name);

	return value ? json_object_get_string(value) : "";
}

static double number_of(struct json_object *o, const char *name)
{
	struct json_object *value = member(o, name);

	return value ? json_object_get_double(value) : NAN;
}

static size_t length_of(struct json_object *list)
{
	return list && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

static void read_document(const char *dir, const char *name)
{
	char path[PATH_MAX];
	struct document *d = &documents[documents_count];

	if (documents_count == DOCUMENTS_MAX)
		errx(2, "%s: more than %d documents", dir, DOCUMENTS_MAX);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	d->json = json_object_from_file(path);
	if (!member(d->json, "larder_bench") || !length_of(member(d->json, "cases")))
		errx(2, "%s is not what larder bench --json prints; move it elsewhere", path);
	snprintf(d->name, sizeof(d->name), "%s", name);
	documents_count++;
}

static int is_json(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name);

	return n > 5 && !strcmp(entry->d_name + n - 5, ".json");
}

static void read_documents(const char *dir)
{
	struct dirent **names;
	int count = scandir(dir, &names, is_json, alphasort);

	if (count < 0)
		err(2, "cannot read the directory '%s'", dir);
	if (!count)
		errx(2, "'%s' holds no .json files; put there what larder bench ... --json prints", dir);
	for (int i = 0; i < count; i++) {
		read_document(dir, names[i]->d_name);
		free(names[i]);
	}
	free(names);
}

/* ---- tables ---- */

static void put_escaped(FILE *f, const char *text)
{
	for (; *text; text++)
		if (*text == '<')
			fputs("&lt;", f);
		else if (*text == '&')
			fputs("&amp;", f);
		else
			fputc(*text, f);
}

static void put_cell(FILE *f, struct json_object *result, const char *key)
{
	struct json_object *figure = member(member(result, "figures"), key);
	double median = number_of(figure, "median"), ratio = number_of(figure, "ratio");

	if (!figure) {
		fprintf(f, "<td>%s</td>", number_of(result, "failed") > 0 ? "failed" : "");
		return;
	}
	fprintf(f, "<td>%.*f <small>%.4g&thinsp;&ndash;&thinsp;%.4g</small>",
		median < 10	? 2
		: median < 1000 ? 1
				: 0,
		median, number_of(figure, "min"), number_of(figure, "max"));
	if (!isnan(ratio))
		fprintf(f, " <b>&times;&thinsp;%.*f</b>", ratio < 0.1 ? 3 : 2, ratio);
	fputs("</td>", f);
}

/* The figures that some contender has, in the order of the one that has most. */
static struct json_object *richest_figures(struct json_object *results)
{
	struct json_object *most = NULL;

	for (size_t i = 0; i < length_of(results); i++) {
		struct json_object *figures = member(json_object_array_get_idx(results, i), "figures");

		if (!most || json_object_object_length(figures) > json_object_object_length(most))
			most = figures;
	}
	return most;
}

static void put_head(FILE *f, struct json_object *results)
{
	fputs("<tr><th></th>", f);
	for (size_t i = 0; i < length_of(results); i++) {
		fputs("<th>", f);
		put_escaped(f, text_of(json_object_array_get_idx(results, i), "contender"));
		fputs("</th>", f);
	}
	fputs("</tr>\n", f);
}

static void put_table(FILE *f, struct json_object *one_case)
{
	struct json_object *results = member(one_case, "results"), *figures = richest_figures(results);

	fputs("<h3>", f);
	put_escaped(f, text_of(one_case, "label"));
	fputs("</h3>\n<table>", f);
	put_head(f, results);
	json_object_object_foreach(figures, key, figure)
	{
		fprintf(f, "<tr><th>%s, %s</th>", key, text_of(figure, "unit"));
		for (size_t i = 0; i < length_of(results); i++)
			put_cell(f, json_object_array_get_idx(results, i), key);
		fputs("</tr>\n", f);
	}
	fputs("</table>\n", f);
}

/* ---- latencies ---- */

static void add_latencies(struct plot *p, struct json_object *result)
{
	struct json_object *list = member(result, "latency_us");
	struct plot_series *s = length_of(list) ? plot_series(p, text_of(result, "contender")) : NULL;

	for (size_t i = 0; i < length_of(list); i++) {
		struct json_object *point = json_object_array_get_idx(list, i);
		double quantile = json_object_get_double(json_object_array_get_idx(point, 0));
		double us = json_object_get_double(json_object_array_get_idx(point, 1));

		plot_add(s, fmax(us, 0.001), quantile, quantile, quantile);
	}
}

static void put_latencies(FILE *f, struct json_object *one_case)
{
	static struct plot p;
	struct json_object *results = member(one_case, "results");

	p = (struct plot){ .title = text_of(one_case, "label"),
			   .x_label = "latency, us",
			   .y_label = "share of the operations",
			   .is_x_log = 1 };
	for (size_t i = 0; i < length_of(results); i++)
		add_latencies(&p, json_object_array_get_idx(results, i));
	if (p.count)
		plot_draw(&p, f);
}

/* ---- speed against one parameter ---- */

static const char *const speeds[] = { "mb_s", "pages_s", "operations_s" };

/* All parameters but the one that varies: cases with the same go into one plot. */
static void key_of(struct json_object *one_case, const char *varies, char *key, size_t room)
{
	size_t used = 0;

	*key = 0;
	json_object_object_foreach(member(one_case, "parameters"), name, value) if (strcmp(name, varies) && used < room)
	{
		const char *text = value ? json_object_get_string(value) : "none";

		if (*text)
			used += (size_t)snprintf(key + used, room - used, "%s%s %s", used ? ", " : "", name, text);
	}
}

static struct json_object *speed_of(struct json_object *result, const char **name)
{
	for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++) {
		struct json_object *figure = member(member(result, "figures"), speeds[i]);

		if (figure) {
			*name = text_of(figure, "unit");
			return figure;
		}
	}
	return NULL;
}

static int is_bound(struct json_object *document, const char *name)
{
	struct json_object *list = member(document, "contenders");

	for (size_t i = 0; i < length_of(list); i++) {
		struct json_object *contender = json_object_array_get_idx(list, i);

		if (!strcmp(text_of(contender, "name"), name))
			return json_object_get_boolean(member(contender, "is_bound"));
	}
	return 0;
}

/* Bounds are left out: they would make the scale. So is who could not hold the limit. */
static void add_speeds(struct plot *p, struct json_object *document, struct json_object *one_case, double x)
{
	struct json_object *results = member(one_case, "results");

	for (size_t i = 0; i < length_of(results); i++) {
		struct json_object *result = json_object_array_get_idx(results, i);
		struct json_object *figure = speed_of(result, &p->y_label);
		const char *name = text_of(result, "contender");

		if (figure && !json_object_get_boolean(member(result, "above_limit")) && !is_bound(document, name))
			plot_add(plot_series(p, name), x, number_of(figure, "median"), number_of(figure, "min"),
				 number_of(figure, "max"));
	}
}

static int by_x(const void *a, const void *b)
{
	double x = ((const struct plot_point *)a)->x, y = ((const struct plot_point *)b)->x;

	return (x > y) - (x < y);
}

/* The case `first` and all that differ from it in `varies` alone, of all documents. Returns how many. */
static unsigned gather(struct plot *p, const char *benchmark, const char *key, const char *varies)
{
	unsigned count = 0;
	char other[512];

	for (unsigned d = 0; d < documents_count; d++) {
		struct json_object *cases = member(documents[d].json, "cases");

		if (strcmp(text_of(documents[d].json, "benchmark"), benchmark))
			continue;
		for (size_t i = 0; i < length_of(cases); i++) {
			struct json_object *one = json_object_array_get_idx(cases, i);
			double x = number_of(member(one, "parameters"), varies);

			key_of(one, varies, other, sizeof(other));
			if (isnan(x) || strcmp(key, other))
				continue;
			add_speeds(p, documents[d].json, one, x);
			count++;
		}
	}
	for (unsigned i = 0; i < p->count; i++)
		qsort(p->series[i].points, p->series[i].count, sizeof(struct plot_point), by_x);
	return count;
}

/* Each group is drawn once: when its first case comes. */
static int is_first(const char *benchmark, const char *key, const char *varies, struct json_object *one_case)
{
	char other[512];

	for (unsigned d = 0; d < documents_count; d++) {
		struct json_object *cases = member(documents[d].json, "cases");

		for (size_t i = 0; i < length_of(cases); i++) {
			struct json_object *one = json_object_array_get_idx(cases, i);

			key_of(one, varies, other, sizeof(other));
			if (!strcmp(text_of(documents[d].json, "benchmark"), benchmark) && !strcmp(key, other) &&
			    !isnan(number_of(member(one, "parameters"), varies)))
				return one == one_case;
		}
	}
	return 0;
}

static void put_speeds(FILE *f, const char *benchmark, struct json_object *one_case, const char *varies,
		       const char *label, int is_x_falling)
{
	static struct plot p;
	char key[512], title[600];

	key_of(one_case, varies, key, sizeof(key));
	if (!is_first(benchmark, key, varies, one_case))
		return;
	snprintf(title, sizeof(title), "%s: %s", benchmark, key);
	p = (struct plot){
		.title = title, .x_label = label, .y_label = "", .is_x_falling = is_x_falling, .has_bars = 1
	};
	if (gather(&p, benchmark, key, varies) > 1 && p.count)
		plot_draw(&p, f);
}

static void for_each_case(FILE *f, void (*put)(FILE *, struct json_object *document, struct json_object *one_case))
{
	for (unsigned d = 0; d < documents_count; d++) {
		struct json_object *cases = member(documents[d].json, "cases");

		for (size_t i = 0; i < length_of(cases); i++)
			put(f, documents[d].json, json_object_array_get_idx(cases, i));
	}
}

static void put_limit_plot(FILE *f, struct json_object *document, struct json_object *one_case)
{
	put_speeds(f, text_of(document, "benchmark"), one_case, "limit_percent", "memory limit, per cent of the memory",
		   1);
}

static void put_threads_plot(FILE *f, struct json_object *document, struct json_object *one_case)
{
	put_speeds(f, text_of(document, "benchmark"), one_case, "threads", "threads", 0);
}

static void put_latency_plot(FILE *f, struct json_object *document, struct json_object *one_case)
{
	(void)document;
	put_latencies(f, one_case);
}

/* ---- the page ---- */

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>larder bench</title>\n<style>\n"
	"body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }\n"
	"table { border-collapse: collapse; margin-bottom: 1.5em; }\n"
	"td, th { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: right; font-weight: normal; }\n"
	"th { background: #f4f4f4; } th:first-child { text-align: left; }\n"
	"small { color: #777; } svg { display: block; margin: 1em 0; max-width: 100%; height: auto; }\n"
	"</style>\n</head>\n<body>\n<h1>larder bench</h1>\n";

static void put_machine(FILE *f, struct json_object *machine)
{
	fputs("<p>", f);
	put_escaped(f, text_of(machine, "cpu"));
	fprintf(f, ", %.0f CPUs, %.1f GiB RAM; Linux ", number_of(machine, "cpus"),
		number_of(machine, "ram_bytes") / (1 << 30));
	put_escaped(f, text_of(machine, "kernel"));
	fputs("; Larder ", f);
	put_escaped(f, text_of(machine, "larder"));
	fputs("; ", f);
	put_escaped(f, text_of(machine, "time"));
	fputs("</p>\n", f);
}

static void put_contenders(FILE *f, struct json_object *list)
{
	fputs("<ul>\n", f);
	for (size_t i = 0; i < length_of(list); i++) {
		struct json_object *contender = json_object_array_get_idx(list, i);

		fputs("<li><b>", f);
		put_escaped(f, text_of(contender, "name"));
		fputs("</b>: ", f);
		put_escaped(f, text_of(contender, "what"));
		fputs("</li>\n", f);
	}
	fputs("</ul>\n", f);
}

static void put_document(FILE *f, const struct document *d)
{
	struct json_object *cases = member(d->json, "cases"), *options = member(d->json, "options");

	fputs("<h2>", f);
	put_escaped(f, text_of(d->json, "benchmark"));
	fputs(" <small>", f);
	put_escaped(f, d->name);
	fputs("</small></h2>\n", f);
	put_machine(f, member(d->json, "machine"));
	fputs("<p>", f);
	json_object_object_foreach(options, name, value)
	{
		fprintf(f, "%s ", name);
		put_escaped(f, value ? json_object_get_string(value) : "none");
		fputs("; ", f);
	}
	fputs("</p>\n", f);
	put_contenders(f, member(d->json, "contenders"));
	for (size_t i = 0; i < length_of(cases); i++)
		put_table(f, json_object_array_get_idx(cases, i));
}

static void put_page(FILE *f)
{
	fputs(head, f);
	fputs("<p>Medians of the runs, with the smallest and the largest value; &times; is the median of the runs' ratios to the "
	      "first contender that is not a bound.</p>\n<h2>Speed against the memory limit</h2>\n",
	      f);
	fputs("<p>The total is the same for all, compressed memory included. Points of contenders that could not hold the limit are "
	      "left out.</p>\n",
	      f);
	for_each_case(f, put_limit_plot);
	fputs("<h2>Speed against threads</h2>\n", f);
	for_each_case(f, put_threads_plot);
	fputs("<h2>Latencies</h2>\n<p>Cumulative: how many of the operations took at most so long.</p>\n", f);
	for_each_case(f, put_latency_plot);
	for (unsigned i = 0; i < documents_count; i++)
		put_document(f, &documents[i]);
	fputs("</body>\n</html>\n", f);
}

static const char usage[] =
	"Usage: larder bench report DIR\n"
	"Make DIR/report.html, one page with tables and plots, from the documents in DIR that larder bench ... --json\n"
	"has printed. It needs gnuplot.\n";

int report_main(int argc, char **argv)
{
	char path[PATH_MAX], unfinished[PATH_MAX + 8];
	FILE *f;

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		fputs(usage, stdout);
		return 0;
	}
	if (argc != 2 || argv[1][0] == '-')
		errx(2, "report takes one directory; try larder bench report --help");
	read_documents(argv[1]);
	snprintf(path, sizeof(path), "%s/report.html", argv[1]);
	snprintf(unfinished, sizeof(unfinished), "%s.part", path);
	f = fopen(unfinished, "we");
	if (!f)
		err(2, "cannot write '%s'", unfinished);
	put_page(f);
	if (fclose(f) || rename(unfinished, path))
		err(2, "cannot write '%s'", path);
	puts(path);
	return 0;
}
