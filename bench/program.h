/*
 * Programs as contenders: a job of ours or any command, run plain, under `larder run`, or in the cgroup with the
 * kernel's peer.
 */
#ifndef BENCH_PROGRAM_H
#define BENCH_PROGRAM_H

#include "options.h"
#include "table.h"
#include "turn.h"

#include <limits.h>

enum program_how {
	PROGRAM_PLAIN,	  /* as it is, with jemalloc, which Larder works with, too */
	PROGRAM_PEER,	  /* the same, in the cgroup */
	PROGRAM_LARDER,	  /* under `larder run` */
	PROGRAM_AS_IT_IS, /* with the malloc that it has; for commands */
};

enum { PROGRAM_ARGUMENTS_MAX = 64 };

/* How a program ended, and what it took. */
struct program_end {
	double seconds, cpu_seconds; /* with its children */
	double peak_bytes;	     /* of RAM */
};

/* Who takes part: columns are added for those that are wanted. */
struct program_entrants {
	enum program_how hows[COLUMNS_MAX];
};

void program_columns(struct program_entrants *e, struct table *t, const struct options *o, int with_own_malloc);

/* turns_begin() with room for twice the pages. */
void program_begin(const struct options *o);

/* The limit that holds for one of them: the plain ones have none. */
uint64_t program_limit(enum program_how how, uint64_t limit_bytes);

/* A turn of one of them. */
struct turn_setup program_turn(const struct options *o, enum program_how how, uint64_t limit_bytes,
			       void (*body)(struct turn *, void *), void *arg);

/*
 * In a turn's process: start argv, whose memory counts from now on, and wait for its end; standard output goes to
 * `output` (-1: nowhere). Exits with its exit code when that is not 0. limit_bytes = 0: `larder run` gets a limit that
 * is never reached.
 */
struct program_end program_run(struct turn *t, enum program_how how, uint64_t limit_bytes, const char *const *argv,
			       int output);

/* The options of `larder run`, NULL at the end. Returns how many. */
enum { PROGRAM_OPTIONS_MAX = 8 };
size_t program_larder_options(uint64_t limit_bytes, const char *to[PROGRAM_OPTIONS_MAX]);

/*
 * Run a job of larder-bench-job: its name and its arguments, NULL at the end. It finds the turn by itself and leaves
 * its figures there.
 */
struct program_end program_run_job(struct turn *t, enum program_how how, uint64_t limit_bytes, const char *const *job);

/* What belongs to Larder and lies beside this program, in the build tree or installed. Exits with 2 when it is missing.
 */
const char *program_path(const char *name);

#endif
