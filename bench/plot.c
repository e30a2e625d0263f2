#include "plot.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WIDTH = 760, HEIGHT = 400 };

/* Told apart by those who see no red or green, too (Okabe and Ito). */
static const char *const colours[PLOT_SERIES_MAX] = { "#000000", "#d55e00", "#0072b2", "#999999",
						      "#009e73", "#cc79a7", "#e69f00", "#56b4e9" };

struct plot_series *plot_series(struct plot *p, const char *name)
{
	for (unsigned i = 0; i < p->count; i++)
		if (!strcmp(p->series[i].name, name))
			return &p->series[i];
	if (p->count == PLOT_SERIES_MAX)
		return NULL;
	p->series[p->count].name = name;
	return &p->series[p->count++];
}

void plot_add(struct plot_series *s, double x, double y, double low, double high)
{
	if (s && s->count < PLOT_POINTS_MAX)
		s->points[s->count++] = (struct plot_point){ x, y, low, high };
}

/* ---- the script ---- */

/* Between double quotes: what gnuplot would take for an escape, and what would end the string, goes. */
static void put_text(FILE *f, const char *text)
{
	fputc('"', f);
	for (; *text; text++)
		fputc(*text == '"' || *text == '\\' || (unsigned char)*text < ' ' ? ' ' : *text, f);
	fputc('"', f);
}

static void put_setting(FILE *f, const char *what, const char *text)
{
	fprintf(f, "set %s ", what);
	put_text(f, text);
	fputc('\n', f);
}

static void put_data(FILE *f, const struct plot *p)
{
	for (unsigned i = 0; i < p->count; i++) {
		const struct plot_series *s = &p->series[i];

		fprintf(f, "$s%u << EOD\n", i);
		for (unsigned j = 0; j < s->count; j++)
			fprintf(f, "%.9g %.9g %.9g %.9g\n", s->points[j].x, s->points[j].y, s->points[j].low,
				s->points[j].high);
		fputs("EOD\n", f);
	}
}

static void put_curves(FILE *f, const struct plot *p)
{
	fputs("plot ", f);
	for (unsigned i = 0; i < p->count; i++) {
		fprintf(f, "%s$s%u using ", i ? ", " : "", i);
		if (p->has_bars)
			fprintf(f, "1:2:3:4 with yerrorlines pt 7 ps 0.5 lw 2 lc rgb '%s' title ", colours[i]);
		else
			fprintf(f, "1:2 with lines lw 2 lc rgb '%s' title ", colours[i]);
		put_text(f, p->series[i].name);
	}
	fputc('\n', f);
}

static void put_script(FILE *f, const struct plot *p)
{
	static unsigned number;

	fprintf(f, "set terminal svg noenhanced size %d,%d font 'sans-serif,12' name 'plot%u'\n", WIDTH, HEIGHT,
		number++);
	put_setting(f, "title", p->title);
	put_setting(f, "xlabel", p->x_label);
	put_setting(f, "ylabel", p->y_label);
	fputs("set grid\nset key outside right top\nset offsets graph 0.02, graph 0.02\n", f);
	fputs(p->has_bars ? "set yrange [0:*]\n" : "set yrange [0:1]\n", f);
	if (p->is_x_log)
		fputs("set logscale x\n", f);
	if (p->is_x_falling)
		fputs("set xrange [102:8]\nset xtics 10\n", f);
	put_data(f, p);
	put_curves(f, p);
}

/* ---- drawing ---- */

/* What is before <svg is for documents of their own. */
static int copy_svg(FILE *from, FILE *to)
{
	char line[8192];
	int inside = 0;

	while (fgets(line, sizeof(line), from)) {
		inside |= !strncmp(line, "<svg", 4);
		if (inside)
			fputs(line, to);
	}
	return inside;
}

void plot_draw(const struct plot *p, FILE *html)
{
	char name[] = "/tmp/larder-bench-plot-XXXXXX", command[sizeof(name) + 16];
	int fd = mkstemp(name), is_drawn, status;
	FILE *script = fd < 0 ? NULL : fdopen(fd, "w"), *svg;

	if (!script)
		err(2, "cannot make a file in /tmp");
	put_script(script, p);
	fclose(script);
	snprintf(command, sizeof(command), "gnuplot %s", name);
	svg = popen(command, "r");
	is_drawn = svg && copy_svg(svg, html);
	status = svg ? pclose(svg) : -1;
	unlink(name);
	if (!is_drawn || status)
		errx(2, "gnuplot %s: install gnuplot-nox to have plots",
		     WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not there" : "has failed");
}
