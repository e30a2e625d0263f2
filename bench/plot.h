/*
 * Plots as SVG, drawn by gnuplot.
 */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include <stdio.h>

enum { PLOT_SERIES_MAX = 8, PLOT_POINTS_MAX = 64 };

struct plot_point {
	double x, y, low, high; /* low and high of y, over the runs */
};

struct plot_series {
	const char *name;
	struct plot_point points[PLOT_POINTS_MAX];
	unsigned count;
};

struct plot {
	const char *title, *x_label, *y_label;
	int is_x_log, is_x_falling, has_bars;
	struct plot_series series[PLOT_SERIES_MAX];
	unsigned count;
};

/* The series of that name, made when there is none; NULL when there are too many. */
struct plot_series *plot_series(struct plot *p, const char *name);

void plot_add(struct plot_series *s, double x, double y, double low, double high);

/* Draw it into an HTML page. Exits with 2 when gnuplot is not there or fails. */
void plot_draw(const struct plot *p, FILE *html);

#endif
