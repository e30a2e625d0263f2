/*
 * A cache of objects that can be made again, in limited memory: what is the best way to hold it?
 *
 * Every contender gets the same sequence of reads (Zipf), the same memory, and the same cost of a miss, in a process of
 * its own; they take turns. A read looks at every word of the object and knows what must be there. The contenders are
 * in cache_*.c; this file has the options, starts the processes and prints.
 */
#include "cache.h"
#include "cgroup.h"
#include "clock.h"
#include "numbers.h"
#include "peer.h"
#include "watcher.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ull << 20)

static const struct cache_contender *const contenders[] = {
	&cache_lru, &cache_volatile_lru, &cache_volatile_cost, &cache_volatile_lz4, &cache_madv_free, &cache_zram,
};

enum { CONTENDERS = sizeof(contenders) / sizeof(contenders[0]), RESULT_FD = 3, CHILD_ARGUMENTS = 5, OOM_REPEATS = 3 };

struct options {
	struct cache_setup setup;
	uint64_t total_bytes;
	unsigned runs, limit_percent, warm_up_rounds;
	const char *only; /* names, separated by commas; NULL = all */
	int json;
	const char *child; /* the contender to run in this process; NULL in the process that was started first */
};

/* What the runs of one contender gave. */
struct outcome {
	struct samples hit_percent, requests_s, p50_us, p99_us, hit_p99_us, cpu_percent, cache_mib, compressed_mib,
		rss_mib;
	int left_out;
	int killed; /* runs that the OOM killer ended; not in the samples */
};

static struct outcome outcomes[CONTENDERS];
static uint64_t wrong_objects;

/* ---- options ---- */

static void print_usage(const char *program)
{
	printf("Usage: %s [OPTION...]\n"
	       "Serve reads from a cache in limited memory: volatile memory and its alternatives.\n\n"
	       "  --size N        MiB of all objects together (default 1024)\n"
	       "  --object N      KiB of each, a multiple of 4 (default 16)\n"
	       "  --limit N       per cent of the size that the cache may take (default 40)\n"
	       "  --resident N    per cent of the limit that stays uncompressed at least (default 50)\n"
	       "  --contents KIND mixed (default), text, json, binary, random or zero\n"
	       "  --cost N        us of CPU to make an object again, on average (default 200)\n"
	       "  --spread N      the dearest object's cost over the cheapest's (default 16; 1 = all alike)\n"
	       "  --seconds N     measured, for each contender and run (default 8)\n"
	       "  --warm-up N     requests before, for each object (default 4)\n"
	       "  --runs N        medians are printed (default 3)\n"
	       "  --only NAMES    these contenders, separated by commas\n"
	       "  --seed N        of the contents and the requests (default 1)\n"
	       "  --inline        Larder's pools have inline faults: objects are touched only while pinned\n"
	       "  --json          a JSON document instead of a table\n\n"
	       "Contenders:\n",
	       program);
	for (int i = 0; i < CONTENDERS; i++)
		printf("  %-15s %s\n", contenders[i]->name, contenders[i]->what);
}

/* Options of the program itself, for the processes it starts, are in capitals. */
static const struct option known[] = {
	{ "size", required_argument, NULL, 's' },     { "object", required_argument, NULL, 'o' },
	{ "limit", required_argument, NULL, 'l' },    { "resident", required_argument, NULL, 'e' },
	{ "contents", required_argument, NULL, 'c' }, { "cost", required_argument, NULL, 'u' },
	{ "spread", required_argument, NULL, 'p' },   { "seconds", required_argument, NULL, 't' },
	{ "warm-up", required_argument, NULL, 'w' },  { "runs", required_argument, NULL, 'r' },
	{ "only", required_argument, NULL, 'n' },     { "seed", required_argument, NULL, 'd' },
	{ "inline", no_argument, NULL, 'i' },	      { "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },	      { "CHILD", required_argument, NULL, 'C' },
	{ "CGROUP", required_argument, NULL, 'G' },   { 0 },
};

static void parse_one(int c, struct options *o)
{
	struct cache_setup *s = &o->setup;

	switch (c) {
	case 's':
		o->total_bytes = number_parse(optarg, "--size", 16, 1 << 20) * MIB;
		break;
	case 'o':
		s->object_bytes = number_parse(optarg, "--object", 4, 65536) * 1024;
		break;
	case 'l':
		o->limit_percent = (unsigned)number_parse(optarg, "--limit", 5, 100);
		break;
	case 'e':
		s->resident_percent = (unsigned)number_parse(optarg, "--resident", 10, 100);
		break;
	case 'c':
		s->contents = contents_parse(optarg);
		break;
	case 'u':
		s->cost_us = (unsigned)number_parse(optarg, "--cost", 0, 1000000);
		break;
	case 'p':
		s->cost_spread = (unsigned)number_parse(optarg, "--spread", 1, 10000);
		break;
	case 't':
		s->seconds = (unsigned)number_parse(optarg, "--seconds", 1, 3600);
		break;
	case 'w':
		o->warm_up_rounds = (unsigned)number_parse(optarg, "--warm-up", 1, 1000);
		break;
	case 'r':
		o->runs = (unsigned)number_parse(optarg, "--runs", 1, SAMPLES_MAX);
		break;
	case 'n':
		o->only = optarg;
		break;
	case 'd':
		s->seed = number_parse(optarg, "--seed", 1, UINT64_MAX);
		break;
	case 'i':
		s->inline_faults = 1;
		break;
	case 'j':
		o->json = 1;
		break;
	case 'C':
		o->child = optarg;
		break;
	case 'G':
		s->cgroup = optarg;
		break;
	default:
		exit(2);
	}
}

static int is_listed(const char *names, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = names; at && *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == length && !strncmp(at, name, length))
			return 1;
	return 0;
}

static void check_names(const char *names)
{
	for (const char *at = names; at && *at; at += strcspn(at, ","), at += *at == ',') {
		int found = 0;

		for (int i = 0; i < CONTENDERS; i++)
			found |= strlen(contenders[i]->name) == strcspn(at, ",") &&
				 !strncmp(at, contenders[i]->name, strcspn(at, ","));
		if (!found)
			errx(2, "there is no contender '%.*s'; try --help", (int)strcspn(at, ","), at);
	}
}

static void derive(struct options *o)
{
	struct cache_setup *s = &o->setup;

	if (s->object_bytes % CACHE_PAGE_BYTES)
		errx(2, "--object must be a multiple of 4 KiB");
	s->objects = (uint32_t)(o->total_bytes / s->object_bytes);
	if (s->objects < 64)
		errx(2, "fewer than 64 objects: --size and --object do not go together");
	s->limit_bytes = o->total_bytes / 100 * o->limit_percent;
	s->warm_up_requests = (uint64_t)o->warm_up_rounds * s->objects;
}

static void parse(int argc, char **argv, struct options *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1)
		if (c == 'h') {
			print_usage(argv[0]);
			exit(0);
		} else {
			parse_one(c, o);
		}
	if (optind < argc)
		errx(2, "unexpected argument '%s'; try --help", argv[optind]);
	check_names(o->only);
	derive(o);
}

static int is_wanted(const struct options *o, const struct cache_contender *c)
{
	return !o->only || is_listed(o->only, c->name);
}

/* ---- in a contender's process ---- */

/* Swap is set up by the process itself: its first part stays behind and puts everything back. */
static int be_contender(const struct options *o)
{
	for (int i = 0; i < CONTENDERS; i++) {
		struct cache_result result;

		if (strcmp(o->child, contenders[i]->name))
			continue;
		if (contenders[i]->needs == CACHE_NEEDS_ZRAM) {
			peer_prepare(&peer_zram, NULL, o->total_bytes + o->total_bytes / 8 + 64 * MIB);
			watcher_begin(peer_put_back);
			peer_zram.on();
		}
		result = cache_run(&o->setup, contenders[i]);
		if (write(RESULT_FD, &result, sizeof(result)) != sizeof(result))
			err(2, "cannot tell the result");
		return 0;
	}
	errx(2, "there is no contender '%s'", o->child);
}

/* ---- starting contenders ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
	interrupted = signal;
}

static void exec_child(char **argv, int argc, const char *name, const char *cgroup, int result_fd, pid_t parent)
{
	char **arguments = calloc((size_t)argc + CHILD_ARGUMENTS, sizeof(*arguments));

	if (!arguments)
		_exit(2);
	memcpy(arguments, argv, (size_t)argc * sizeof(*arguments));
	arguments[argc++] = "--CHILD";
	arguments[argc++] = (char *)name;
	arguments[argc++] = "--CGROUP";
	arguments[argc++] = (char *)cgroup;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(2);
	if (result_fd != RESULT_FD)
		dup2(result_fd, RESULT_FD);
	else
		fcntl(result_fd, F_SETFD, 0);
	execv("/proc/self/exe", arguments);
	_exit(2);
}

/*
 * Looks now and then rather than blocks: a signal may come just before blocking. And a signal that the child gets while
 * it sets itself up may be lost on it, so it is told again until it is gone.
 */
static int wait_for(pid_t child)
{
	int status;

	while (waitpid(child, &status, WNOHANG) != child) {
		if (interrupted)
			kill(child, SIGTERM);
		nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
	}
	return status;
}

/* Returns the exit status of the contender's process, 128 + the signal when one ended it, as shells do. */
static int start_contender(char **argv, int argc, const char *name, const char *cgroup, struct cache_result *result)
{
	pid_t self = getpid(), child;
	int ends[2], status;
	ssize_t n;

	fflush(NULL);
	if (pipe2(ends, O_CLOEXEC))
		err(2, "pipe");
	child = fork();
	if (child < 0)
		err(2, "fork");
	if (child == 0)
		exec_child(argv, argc, name, cgroup, ends[1], self);
	close(ends[1]);
	status = wait_for(child);
	n = read(ends[0], result, sizeof(*result)); /* it fits into the pipe */
	close(ends[0]);
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	if (WEXITSTATUS(status) == 0 && n != sizeof(*result))
		errx(1, "%s has told no result", name);
	return WEXITSTATUS(status);
}

static void stop_if_interrupted(void)
{
	if (!interrupted)
		return;
	signal(interrupted, SIG_DFL);
	raise(interrupted);
}

static void leave_out(int i, const char *why)
{
	fprintf(stderr, "%s is left out: %s\n", contenders[i]->name, why);
	outcomes[i].left_out = 1;
}

static void add_result(struct outcome *to, const struct cache_result *r)
{
	samples_add(&to->hit_percent, 100.0 * (double)r->hits / (double)r->requests);
	samples_add(&to->requests_s, (double)r->requests / r->seconds);
	samples_add(&to->p50_us, r->p50_us);
	samples_add(&to->p99_us, r->p99_us);
	samples_add(&to->hit_p99_us, r->hit_p99_us);
	samples_add(&to->cpu_percent, 100 * r->cpu_seconds / r->seconds);
	samples_add(&to->cache_mib, (double)r->cache_peak_bytes / MIB);
	samples_add(&to->compressed_mib, (double)r->compressed_bytes / MIB);
	samples_add(&to->rss_mib, (double)r->peak_rss_bytes / MIB);
	wrong_objects += r->wrong;
}

static int run_in_cgroup(char **argv, int argc, int i, struct cache_result *result)
{
	char cgroup[CGROUP_PATH_BYTES] = "";
	int needs = contenders[i]->needs != CACHE_NEEDS_NOTHING, err = needs ? cgroup_create(cgroup) : 0, status;

	if (err) {
		leave_out(i, err == -EOPNOTSUPP ? "there is no memory cgroup controller here"
						: "no memory cgroup can be made (are you root?)");
		return -1;
	}
	status = start_contender(argv, argc, contenders[i]->name, cgroup, result);
	if (needs && cgroup_remove(cgroup))
		warn("cannot remove %s", cgroup);
	return status;
}

/*
 * The kernel's OOM killer may end a contender whose cgroup is at its limit, though there is still something to reclaim:
 * with zram that happens on a busy machine. The run is then repeated, a few times.
 */
static int run_despite_oom(char **argv, int argc, int i, struct cache_result *result)
{
	int status = run_in_cgroup(argv, argc, i, result);

	for (int n = 0; n < OOM_REPEATS && status == 128 + SIGKILL && contenders[i]->needs && !interrupted; n++) {
		outcomes[i].killed++;
		fprintf(stderr, "%s was killed in its cgroup; again\n", contenders[i]->name);
		status = run_in_cgroup(argv, argc, i, result);
	}
	return status;
}

static void run_contender(char **argv, int argc, int i)
{
	struct cache_result result;
	int status;

	if (outcomes[i].left_out)
		return;
	status = run_despite_oom(argv, argc, i, &result);
	stop_if_interrupted();
	if (status == 0)
		add_result(&outcomes[i], &result);
	else if (status == 2)
		leave_out(i, "it cannot be set up");
	else if (status > 128)
		errx(1, "%s was ended by signal %d (%s)", contenders[i]->name, status - 128, strsignal(status - 128));
	else if (status > 0)
		errx(status, "%s has failed", contenders[i]->name);
}

/* ---- output ---- */

static void print_head(const struct options *o)
{
	const struct cache_setup *s = &o->setup;

	printf("%u objects of %zu KiB, %llu MiB; limit %llu MiB (%u %%); %s contents, LZ4 ratio %.2f; %s faults\n"
	       "a miss costs %u us of CPU on average (dearest / cheapest %u) and the writing; "
	       "%llu requests to warm up, then %u s; %u runs, seed %llu\n\n",
	       s->objects, s->object_bytes / 1024, (unsigned long long)(o->total_bytes / MIB),
	       (unsigned long long)(s->limit_bytes / MIB), o->limit_percent, contents_name(s->contents),
	       contents_lz4_ratio(s->contents, s->seed), s->inline_faults ? "inline" : "handler", s->cost_us,
	       s->cost_spread, (unsigned long long)s->warm_up_requests, s->seconds, o->runs,
	       (unsigned long long)s->seed);
	printf("%-15s%8s%26s%8s%8s%9s%9s%7s%9s%9s%9s%9s\n", "", "hits", "requests/s", "x lru", "p50", "p99", "hit p99",
	       "CPU", "cache", "of the", "compr.", "RSS");
	printf("%-15s%8s%26s%8s%8s%9s%9s%7s%9s%9s%9s%9s\n", "", "%", "median (min-max)", "", "us", "us", "us", "%",
	       "MiB", "limit %", "MiB", "MiB");
}

static void print_outcome(const struct options *o, int i)
{
	const struct outcome *r = &outcomes[i];
	struct samples to_lru = samples_ratio(&r->requests_s, &outcomes[0].requests_s);
	char speed[64];

	snprintf(speed, sizeof(speed), "%.0f (%.0f-%.0f)", samples_median(&r->requests_s), samples_min(&r->requests_s),
		 samples_max(&r->requests_s));
	printf("%-15s%8.2f%26s%8.2f%8.1f%9.1f%9.1f%7.0f%9.1f%9.1f%9.1f%9.1f\n", contenders[i]->name,
	       samples_median(&r->hit_percent), speed, samples_median(&to_lru), samples_median(&r->p50_us),
	       samples_median(&r->p99_us), samples_median(&r->hit_p99_us), samples_median(&r->cpu_percent),
	       samples_median(&r->cache_mib), 100 * samples_median(&r->cache_mib) * MIB / (double)o->setup.limit_bytes,
	       samples_median(&r->compressed_mib), samples_median(&r->rss_mib));
	if (r->killed)
		printf("%-15s killed %d times by the OOM killer, and run again\n", "", r->killed);
}

static void print_table(const struct options *o)
{
	print_head(o);
	for (int i = 0; i < CONTENDERS; i++)
		if (outcomes[i].requests_s.count)
			print_outcome(o, i);
}

static struct json_object *outcome_to_json(int i)
{
	const struct outcome *r = &outcomes[i];
	struct json_object *j = json_object_new_object();
	struct samples to_lru = samples_ratio(&r->requests_s, &outcomes[0].requests_s);

	json_object_object_add(j, "name", json_object_new_string(contenders[i]->name));
	json_object_object_add(j, "left_out", json_object_new_boolean(r->left_out));
	json_object_object_add(j, "killed", json_object_new_int(r->killed));
	samples_to_json(&r->hit_percent, j, "hit_percent");
	samples_to_json(&r->requests_s, j, "requests_per_second");
	samples_to_json(&to_lru, j, "requests_to_lru");
	samples_to_json(&r->p50_us, j, "p50_us");
	samples_to_json(&r->p99_us, j, "p99_us");
	samples_to_json(&r->hit_p99_us, j, "hit_p99_us");
	samples_to_json(&r->cpu_percent, j, "cpu_percent");
	samples_to_json(&r->cache_mib, j, "cache_mib");
	samples_to_json(&r->compressed_mib, j, "compressed_mib");
	samples_to_json(&r->rss_mib, j, "rss_mib");
	return j;
}

static void print_json(const struct options *o)
{
	const struct cache_setup *s = &o->setup;
	struct json_object *j = json_object_new_object(), *list = json_object_new_array();

	json_object_object_add(j, "objects", json_object_new_int64(s->objects));
	json_object_object_add(j, "object_bytes", json_object_new_int64((int64_t)s->object_bytes));
	json_object_object_add(j, "limit_bytes", json_object_new_int64((int64_t)s->limit_bytes));
	json_object_object_add(j, "contents", json_object_new_string(contents_name(s->contents)));
	json_object_object_add(j, "lz4_ratio", json_object_new_double(contents_lz4_ratio(s->contents, s->seed)));
	json_object_object_add(j, "inline_faults", json_object_new_boolean(s->inline_faults));
	json_object_object_add(j, "cost_us", json_object_new_int64(s->cost_us));
	json_object_object_add(j, "cost_spread", json_object_new_int64(s->cost_spread));
	json_object_object_add(j, "seed", json_object_new_int64((int64_t)s->seed));
	for (int i = 0; i < CONTENDERS; i++)
		if (is_wanted(o, contenders[i]))
			json_object_array_add(list, outcome_to_json(i));
	json_object_object_add(j, "contenders", list);
	puts(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY));
	json_object_put(j);
}

static void set_handlers(void)
{
	/* Without SA_RESTART: waiting must end. */
	const struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

int main(int argc, char **argv)
{
	struct options o = {
		.setup = { .object_bytes = 16 << 10,
			   .resident_percent = 50,
			   .skew = 0.99,
			   .cost_us = 200,
			   .cost_spread = 16,
			   .seconds = 8,
			   .seed = 1 },
		.total_bytes = 1024 * MIB,
		.runs = 3,
		.limit_percent = 40,
		.warm_up_rounds = 4,
	};

	parse(argc, argv, &o);
	if (o.child)
		return be_contender(&o);
	set_handlers();
	for (unsigned run = 0; run < o.runs; run++)
		for (unsigned n = 0; n < CONTENDERS; n++) {
			unsigned i = (run + n) % CONTENDERS;

			if (!is_wanted(&o, contenders[i]))
				continue;
			fprintf(stderr, "  run %u of %u: %s\n", run + 1, o.runs, contenders[i]->name);
			run_contender(argv, argc, (int)i);
		}
	if (o.json)
		print_json(&o);
	else
		print_table(&o);
	if (wrong_objects)
		errx(1, "%llu reads found an object that was not as it was made", (unsigned long long)wrong_objects);
	return 0;
}
