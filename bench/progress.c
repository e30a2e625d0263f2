#include "progress.h"

#include "clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define QUIET_NS	     2000000000u
#define TERMINAL_INTERVAL_NS 200000000u
#define PLAIN_INTERVAL_NS    10000000000u

enum { BAR_CELLS = 30 };

int progress_is_silent;

static int on_terminal(void)
{
	static int known = -1;

	if (known < 0)
		known = isatty(STDERR_FILENO);
	return known;
}

static void show_line(const struct progress *p, double done)
{
	fprintf(stderr, "  %s: %.0f of %.0f %s\n", p->phase, done, p->total, p->unit);
}

/* What is left takes as long as what is done did, in proportion. */
static void show_bar(const struct progress *p, double done)
{
	double share = p->total > 0 ? done / p->total : 0, seconds = seconds_since(p->started_ns);
	int full = (int)(share * BAR_CELLS);
	char bar[BAR_CELLS + 1] = { 0 };

	memset(bar, '.', BAR_CELLS);
	memset(bar, '#', (size_t)(full < BAR_CELLS ? full : BAR_CELLS));
	fprintf(stderr, "\r\033[K  %s [%s] %.0f of %.0f %s", p->phase, bar, done, p->total, p->unit);
	if (share > 0.02 && share < 1)
		fprintf(stderr, ", %.0f s left", seconds / share - seconds);
}

void progress_start(struct progress *p, const char *phase, const char *unit, double total)
{
	uint64_t now = clock_ns();

	*p = (struct progress){ phase, unit, total, now, now };
}

void progress_show(struct progress *p, double done)
{
	uint64_t now = clock_ns();

	if (progress_is_silent || now - p->started_ns < QUIET_NS ||
	    now - p->shown_ns < (on_terminal() ? TERMINAL_INTERVAL_NS : PLAIN_INTERVAL_NS))
		return;
	p->shown_ns = now;
	if (on_terminal())
		show_bar(p, done < p->total ? done : p->total);
	else
		show_line(p, done < p->total ? done : p->total);
}

/* What was not worth a bar is not worth a word. */
void progress_end(struct progress *p)
{
	if (progress_is_silent || seconds_since(p->started_ns) * 1e9 < QUIET_NS)
		return;
	fprintf(stderr, "%s  %s: %.1f s\n", on_terminal() ? "\r\033[K" : "", p->phase, seconds_since(p->started_ns));
}
