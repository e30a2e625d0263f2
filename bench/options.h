/*
 * The command line of `larder bench`: one set of options, of which each subcommand takes those that mean something to
 * it.
 */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include "contents.h"
#include "peer.h"
#include "touch.h"

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

enum { LIST_MAX = 16, ARGUMENTS_MAX = 60 };

/* A limit: a share of what there is to hold, or a size. Both 0 = none. */
struct limit {
	unsigned percent;
	uint64_t bytes;
};

struct options {
	/* lists: the benchmark measures every combination */
	uint64_t pages[LIST_MAX], threads[LIST_MAX];
	enum touch_pattern patterns[LIST_MAX];
	struct limit limits[LIST_MAX];
	unsigned pages_count, threads_count, patterns_count, limits_count;

	const struct peer *peer;
	enum contents contents;
	unsigned runs, stride, write_percent, idle_seconds, seconds, repeats;
	uint64_t touches, seed;
	const char *dir, *contenders;
	int json, encrypt, settle;
	const char *arguments[ARGUMENTS_MAX + 1]; /* those that are not options, NULL at the end */
	unsigned arguments_count;
	int (*is_word)(const char *); /* options may stand behind these arguments; what else there is, is a command to
					 its end */
};

/* Which of them a subcommand takes. --runs, --json, --seed and --help are everybody's. */
enum {
	TAKES_PEER = 1 << 0,
	TAKES_PAGES = 1 << 1,
	TAKES_THREADS = 1 << 2,
	TAKES_PATTERN = 1 << 3,
	TAKES_DATA = 1 << 4,
	TAKES_LIMIT = 1 << 5,
	TAKES_TOUCHES = 1 << 6,
	TAKES_WRITES = 1 << 7,
	TAKES_IDLE = 1 << 8,
	TAKES_DIR = 1 << 9,
	TAKES_SECONDS = 1 << 10,
	TAKES_ARGUMENTS = 1 << 11,
	TAKES_CONTENDERS = 1 << 12,
	TAKES_REPEATS = 1 << 13,
	TAKES_SETTLE = 1 << 14,
};

/*
 * Parse; `o` has the defaults of the subcommand, `what` is what --help says it does and which defaults it has. Exits
 * with 2 and a message that names the value and what would be right, or with 0 after --help.
 */
void options_parse(struct options *o, int argc, char **argv, unsigned takes, const char *arguments, const char *what);

/* What all cases have in common: in words for a table's head, and for its JSON. */
void options_describe(const struct options *o, char *head, size_t room, struct json_object **to);

/* The most pages of the list. */
uint64_t options_most_pages(const struct options *o);

/* The limit in bytes, of `whole` bytes; 0 = none. */
uint64_t limit_bytes(const struct limit *l, uint64_t whole);

/* The limit as a share of `whole` bytes, in per cent; null for none. */
struct json_object *limit_percent_json(const struct limit *l, uint64_t whole);

/* "no limit", "50 %", "256 MiB" */
const char *limit_text(const struct limit *l);

/* Is `name` among the --contenders that were asked for? All are when none were. */
int options_want(const struct options *o, const char *name);

#endif
