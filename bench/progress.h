/*
 * Progress on standard error of what takes more than two seconds: a bar that is rewritten on a terminal, a line every
 * ten seconds elsewhere.
 */
#ifndef BENCH_PROGRESS_H
#define BENCH_PROGRESS_H

#include <stdint.h>

struct progress {
	const char *phase, *unit;
	double total;
	uint64_t started_ns, shown_ns;
};

/* Not 0: nothing is shown, because somebody else does. */
extern int progress_is_silent;

/* `phase` and `unit` must stay valid. */
void progress_start(struct progress *p, const char *phase, const char *unit, double total);
void progress_show(struct progress *p, double done);
void progress_end(struct progress *p);

#endif
