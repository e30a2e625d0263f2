/*
 * Programs that `bench app` knows how to drive.
 */
#ifndef BENCH_APP_H
#define BENCH_APP_H

#include "job.h"
#include "options.h"
#include "program.h"
#include "turn.h"

struct app_turn {
	const struct options *options;
	const struct app *app;
	enum program_how how;
	enum touch_pattern load; /* TOUCH_ZIPF or TOUCH_RANDOM: which keys are asked for */
	uint64_t limit_bytes;
};

struct app {
	const char *name, *what;
	int has_keys;	   /* the load's pattern means something */
	unsigned pipeline; /* of Redis */
	/* Do it, verify, leave figures. In a turn's process; exits when something fails. */
	void (*run)(struct turn *, const struct app_turn *);
};

void app_run_redis(struct turn *t, const struct app_turn *a);

#endif
