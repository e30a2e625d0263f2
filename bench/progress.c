#include "progress.h"

#include "clock.h"

#include <stdio.h>
#include <unistd.h>

#define TERMINAL_INTERVAL_NS 200000000u
#define PLAIN_INTERVAL_NS    2000000000u

static int on_terminal(void)
{
	return isatty(STDERR_FILENO);
}

static void show(const struct progress *p, double done)
{
	fprintf(stderr, "%s  %s: %.0f of %.0f %s%s", on_terminal() ? "\r\033[K" : "", p->phase, done, p->total, p->unit,
		on_terminal() ? "" : "\n");
}

void progress_start(struct progress *p, const char *phase, const char *unit, double total)
{
	uint64_t now = clock_ns();

	*p = (struct progress){ phase, unit, total, now, now };
	if (on_terminal())
		show(p, 0);
}

void progress_show(struct progress *p, double done)
{
	uint64_t now = clock_ns();

	if (now - p->shown_ns < (on_terminal() ? TERMINAL_INTERVAL_NS : PLAIN_INTERVAL_NS))
		return;
	p->shown_ns = now;
	show(p, done);
}

void progress_end(struct progress *p)
{
	fprintf(stderr, "%s  %s: %.1f s\n", on_terminal() ? "\r\033[K" : "", p->phase, seconds_since(p->started_ns));
}
