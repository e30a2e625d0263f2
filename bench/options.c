#include "options.h"

#include "numbers.h"

#include <argp.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1ull << 20)

enum { LEAST_PAGES = 1024, MOST_PAGES = 1 << 26, LEAST_LIMIT_MIB = 16 };

enum key {
	KEY_PEER = 256,
	KEY_PAGES,
	KEY_THREADS,
	KEY_PATTERN,
	KEY_DATA,
	KEY_LIMIT,
	KEY_RUNS,
	KEY_SEED,
	KEY_JSON,
	KEY_STRIDE,
	KEY_TOUCHES,
	KEY_WRITES,
	KEY_IDLE,
	KEY_DIR,
	KEY_SECONDS,
	KEY_CONTENDERS,
	KEY_REPEATS,
	KEY_ENCRYPT,
	KEY_SETTLE,
};

static const struct {
	struct argp_option option;
	unsigned takes; /* 0 = everybody's */
} known[] = {
	{ { "peer", KEY_PEER, "PEER", 0, "compare with the kernel's none, zram, zswap or swapfile (root)", 0 },
	  TAKES_PEER },
	{ { "pages", KEY_PAGES, "N,...", 0, "how many pages of 4 KiB", 0 }, TAKES_PAGES },
	{ { "threads", KEY_THREADS, "N,...", 0, "how many threads", 0 }, TAKES_THREADS },
	{ { "pattern", KEY_PATTERN, "NAME,...", 0, "random, sequential, zipf or stride", 0 }, TAKES_PATTERN },
	{ { "stride", KEY_STRIDE, "N", 0, "of that pattern, in pages (16)", 0 }, TAKES_PATTERN },
	{ { "data", KEY_DATA, "KIND", 0, "what the pages hold: text, json, binary, zero, random, mixed, or a FILE", 0 },
	  TAKES_DATA },
	{ { "limit", KEY_LIMIT, "SIZE|N%,...", 0, "RAM in total, compressed pages included: 64M, 1G, 50%; or none", 0 },
	  TAKES_LIMIT },
	{ { "touches", KEY_TOUCHES, "N", 0, "touch only so many pages in a turn (all)", 0 }, TAKES_TOUCHES },
	{ { "writes", KEY_WRITES, "N", 0, "per cent of the touches that write (0)", 0 }, TAKES_WRITES },
	{ { "idle", KEY_IDLE, "SECONDS", 0, "also measure what it costs to do nothing for so long (0)", 0 },
	  TAKES_IDLE },
	{ { "seconds", KEY_SECONDS, "N", 0, "how long a load runs", 0 }, TAKES_SECONDS },
	{ { "dir", KEY_DIR, "DIR", 0, "where swap files are made (/var/tmp)", 0 }, TAKES_DIR },
	{ { "contenders", KEY_CONTENDERS, "NAME,...", 0, "only these, as the table names them (all)", 0 },
	  TAKES_CONTENDERS },
	{ { "repeats", KEY_REPEATS, "N", 0, "how often in a turn", 0 }, TAKES_REPEATS },
	{ { "settle", KEY_SETTLE, NULL, 0, "wait until Larder has recompressed what is out", 0 }, TAKES_SETTLE },
	{ { "encrypt", KEY_ENCRYPT, NULL, 0, "Larder encrypts what it writes to disk", 0 }, TAKES_DIR },
	{ { "runs", KEY_RUNS, "N", 0, "turns of each contender", 0 }, 0 },
	{ { "seed", KEY_SEED, "N", 0, "of contents and orders (1)", 0 }, 0 },
	{ { "json", KEY_JSON, NULL, 0, "print a JSON document instead of tables", 0 }, 0 },
};

enum { KNOWN = sizeof(known) / sizeof(known[0]) };

/* ---- values ---- */

/* Call one(o, part) for each part of "a,b,c". */
static void for_each_part(struct options *o, const char *name, char *list, void (*one)(struct options *, const char *),
			  unsigned *count)
{
	char *rest = list, *part;

	*count = 0;
	while ((part = strsep(&rest, ",")) != NULL) {
		if (*count == LIST_MAX)
			errx(2, "%s has more than %d values", name, LIST_MAX);
		one(o, part);
		++*count;
	}
}

static void add_pages(struct options *o, const char *text)
{
	o->pages[o->pages_count] = number_parse(text, "--pages", LEAST_PAGES, MOST_PAGES);
}

static void add_threads(struct options *o, const char *text)
{
	o->threads[o->threads_count] = number_parse(text, "--threads", 1, TOUCH_MAX_THREADS);
}

static void add_pattern(struct options *o, const char *text)
{
	o->patterns[o->patterns_count] = touch_parse(text);
}

static void refuse_limit(const char *text)
{
	errx(2,
	     "--limit: '%s' is neither a size from %uM on, such as 64M or 1G, nor a share from 1%% to 100%%, nor none",
	     text, LEAST_LIMIT_MIB);
}

static void add_size(struct limit *l, const char *text, uint64_t number, const char *unit)
{
	static const char units[] = "kMGT";
	const char *found = strchr(units, *unit);

	if (!*unit || !found || unit[1] || number > 1 << 20)
		refuse_limit(text);
	l->bytes = number << (10 * (found - units + 1));
	if (l->bytes < LEAST_LIMIT_MIB * MIB)
		refuse_limit(text);
}

static void add_limit(struct options *o, const char *text)
{
	struct limit *l = &o->limits[o->limits_count];
	unsigned long long number;
	char *end;

	*l = (struct limit){ 0 };
	if (!strcmp(text, "none"))
		return;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || end == text || strchr("+- \t", *text))
		refuse_limit(text);
	if (strcmp(end, "%")) {
		add_size(l, text, number, end);
		return;
	}
	if (number < 1 || number > 100)
		refuse_limit(text);
	l->percent = (unsigned)number;
}

static void set_dir(struct options *o, const char *dir)
{
	if (access(dir, W_OK | X_OK))
		err(2, "--dir: '%s' cannot be written to", dir);
	o->dir = dir;
}

/* ---- parsing ---- */

static void parse_list(struct options *o, int key, char *value)
{
	if (key == KEY_PAGES)
		for_each_part(o, "--pages", value, add_pages, &o->pages_count);
	else if (key == KEY_THREADS)
		for_each_part(o, "--threads", value, add_threads, &o->threads_count);
	else if (key == KEY_PATTERN)
		for_each_part(o, "--pattern", value, add_pattern, &o->patterns_count);
	else
		for_each_part(o, "--limit", value, add_limit, &o->limits_count);
}

static void parse_number(struct options *o, int key, const char *value)
{
	if (key == KEY_RUNS)
		o->runs = (unsigned)number_parse(value, "--runs", 1, SAMPLES_MAX);
	else if (key == KEY_SEED)
		o->seed = number_parse(value, "--seed", 0, UINT64_MAX);
	else if (key == KEY_STRIDE)
		o->stride = (unsigned)number_parse(value, "--stride", 2, LEAST_PAGES);
	else if (key == KEY_TOUCHES)
		o->touches = number_parse(value, "--touches", 1, MOST_PAGES);
	else if (key == KEY_WRITES)
		o->write_percent = (unsigned)number_parse(value, "--writes", 0, 100);
	else if (key == KEY_REPEATS)
		o->repeats = (unsigned)number_parse(value, "--repeats", 1, SAMPLES_MAX / 2);
	else if (key == KEY_IDLE)
		o->idle_seconds = (unsigned)number_parse(value, "--idle", 1, 600);
	else
		o->seconds = (unsigned)number_parse(value, "--seconds", 1, 3600);
}

static error_t add_argument(struct options *o, const char *argument)
{
	if (o->arguments_count == ARGUMENTS_MAX)
		errx(2, "more than %d arguments", ARGUMENTS_MAX);
	o->arguments[o->arguments_count++] = argument;
	return 0;
}

static error_t parse_one(int key, char *value, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case KEY_PAGES:
	case KEY_THREADS:
	case KEY_PATTERN:
	case KEY_LIMIT:
		parse_list(o, key, value);
		return 0;
	case KEY_RUNS:
	case KEY_SEED:
	case KEY_STRIDE:
	case KEY_TOUCHES:
	case KEY_WRITES:
	case KEY_IDLE:
	case KEY_SECONDS:
	case KEY_REPEATS:
		parse_number(o, key, value);
		return 0;
	case KEY_PEER:
		o->peer = peer_parse(value);
		return 0;
	case KEY_DATA:
		o->contents = contents_parse(value);
		return 0;
	case KEY_DIR:
		set_dir(o, value);
		return 0;
	case KEY_CONTENDERS:
		o->contenders = value;
		return 0;
	case KEY_ENCRYPT:
		o->encrypt = 1;
		return 0;
	case KEY_SETTLE:
		o->settle = 1;
		return 0;
	case KEY_JSON:
		o->json = 1;
		return 0;
	case ARGP_KEY_ARG:
		return o->is_word(value) ? add_argument(o, value) : ARGP_ERR_UNKNOWN;
	case ARGP_KEY_ARGS:
		for (int i = state->next; i < state->argc; i++)
			add_argument(o, state->argv[i]);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_without_arguments(int key, char *value, struct argp_state *state)
{
	if (key == ARGP_KEY_ARG)
		argp_error(state, "unexpected argument '%s'", value);
	return key == ARGP_KEY_ARGS ? ARGP_ERR_UNKNOWN : parse_one(key, value, state);
}

void options_parse(struct options *o, int argc, char **argv, unsigned takes, const char *arguments, const char *what)
{
	struct argp_option taken[KNOWN + 1] = { 0 };
	struct argp argp = {
		taken, takes & TAKES_ARGUMENTS ? parse_one : parse_without_arguments, arguments, what, NULL, NULL, NULL
	};
	unsigned n = 0;

	for (unsigned i = 0; i < KNOWN; i++)
		if (!known[i].takes || known[i].takes & takes)
			taken[n++] = known[i].option;
	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, takes & TAKES_ARGUMENTS ? ARGP_IN_ORDER : 0, NULL, o);
}

/* ---- limits, contenders ---- */

uint64_t options_most_pages(const struct options *o)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < o->pages_count; i++)
		most = o->pages[i] > most ? o->pages[i] : most;
	return most;
}

void options_describe(const struct options *o, char *head, size_t room, struct json_object **options)
{
	double ratio = contents_lz4_ratio(o->contents, o->seed);
	struct json_object *to = *options = json_object_new_object();

	snprintf(head, room, "%s contents, LZ4 ratio %.2f; %u runs, seed %llu", contents_name(o->contents), ratio,
		 o->runs, (unsigned long long)o->seed);
	json_object_object_add(to, "data", json_object_new_string(contents_name(o->contents)));
	json_object_object_add(to, "data_lz4_ratio", json_object_new_double(ratio));
	json_object_object_add(to, "peer", json_object_new_string(o->peer ? o->peer->name : "none"));
	json_object_object_add(to, "runs", json_object_new_int((int)o->runs));
	json_object_object_add(to, "seed", json_object_new_int64((int64_t)o->seed));
	json_object_object_add(to, "write_percent", json_object_new_int((int)o->write_percent));
}

uint64_t limit_bytes(const struct limit *l, uint64_t whole)
{
	uint64_t bytes = l->percent ? whole * l->percent / 100 : l->bytes;

	if (l->percent && bytes < LEAST_LIMIT_MIB * MIB)
		errx(2, "--limit: %u%% of %llu MiB is less than %u MiB, the least there is: take more pages",
		     l->percent, (unsigned long long)(whole / MIB), LEAST_LIMIT_MIB);
	return bytes;
}

struct json_object *limit_percent_json(const struct limit *l, uint64_t whole)
{
	uint64_t bytes = limit_bytes(l, whole);

	if (!bytes)
		return NULL;
	return json_object_new_double(l->percent ? l->percent : 100 * (double)bytes / (double)whole);
}

const char *limit_text(const struct limit *l)
{
	static char text[32];

	if (l->percent)
		snprintf(text, sizeof(text), "%u %%", l->percent);
	else
		snprintf(text, sizeof(text), "%llu MiB", (unsigned long long)(l->bytes / MIB));
	return l->percent || l->bytes ? text : "no limit";
}

int options_want(const struct options *o, const char *name)
{
	const char *at = o->contenders;
	size_t length = strlen(name);

	while (at) {
		if (!strncmp(at, name, length) && (!at[length] || at[length] == ','))
			return 1;
		at = strchr(at, ',');
		at = at ? at + 1 : NULL;
	}
	return !o->contenders;
}
