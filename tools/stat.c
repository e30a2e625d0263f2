/*
 * larder stat: where the memory of a running program is.
 *
 * The program keeps its statistics in a mapping with a name (larder/stats.h); this finds it in /proc/PID/maps and
 * copies it.
 */
#include "larder.h"
#include "stat.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EXIT_NO_STATS = 1 };

static const char usage[] =
	"Usage: larder stat PID [--json] [--interval SECONDS [--count N]]\n"
	"Show where the memory of a program under Larder is, its faults and their latencies, and what its disk does.\n"
	"\n"
	"  --json              print one JSON object a line\n"
	"  --interval SECONDS  print again every SECONDS until the program ends\n"
	"  --count N           stop after N times\n"
	"  --help              show this text\n"
	"\n"
	"Exit status: 0; 1 if there is no such process, it is not under Larder, or may not be looked at; 125 for bad usage.\n";

struct stat_options {
	int pid, json;
	double interval;
	unsigned long count;
};

/* ---- finding ---- */

static int find_mapping(int pid, uintptr_t *address)
{
	char path[64], line[4096];
	FILE *maps;
	int err = -ENOENT;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (err && fgets(line, sizeof(line), maps))
		if (strstr(line, "/memfd:" LARDER_STATS_NAME " ") && sscanf(line, "%" SCNxPTR "-", address) == 1)
			err = 0;
	if (err && ferror(maps))
		err = -EACCES;
	fclose(maps);
	return err;
}

static int copy_stats(int pid, uintptr_t address, struct larder_stats *s)
{
	struct iovec to = { s, sizeof(*s) }, from = { (void *)address, sizeof(*s) };
	ssize_t n = process_vm_readv(pid, &to, 1, &from, 1, 0);

	if (n < 0)
		return -errno;
	return n == (ssize_t)sizeof(*s) ? 0 : -EIO;
}

static int explain(int pid, int err)
{
	switch (err) {
	case -ENOENT:
		if (kill(pid, 0) < 0 && errno == ESRCH)
			complain("stat", "there is no process %d; check the number", pid);
		else
			complain("stat", "process %d does not run under Larder; start it with larder run", pid);
		break;
	case -ESRCH:
		complain("stat", "there is no process %d; check the number", pid);
		break;
	case -EACCES:
	case -EPERM:
		complain("stat", "process %d may not be looked at; run as its user, or as root", pid);
		break;
	default:
		complain("stat", "process %d: %s", pid, strerror(-err));
		break;
	}
	return EXIT_NO_STATS;
}

static int read_stats(int pid, struct larder_stats *s)
{
	uintptr_t address = 0;
	int err = find_mapping(pid, &address);

	if (!err)
		err = copy_stats(pid, address, s);
	if (err)
		return explain(pid, err);
	if (s->magic != LARDER_STATS_MAGIC || s->version != LARDER_STATS_VERSION || s->bytes != sizeof(*s)) {
		complain("stat", "process %d runs another version of Larder; use the larder command of that version",
			 pid);
		return EXIT_NO_STATS;
	}
	if (s->pid != pid) {
		complain("stat", "process %d was forked from process %d and is not managed itself; look at that one",
			 pid, s->pid);
		return EXIT_NO_STATS;
	}
	return 0;
}

/* ---- figures ---- */

uint64_t tier_sum(const struct larder_stats *s, size_t offset)
{
	uint64_t sum = 0;

	for (int i = 0; i < LARDER_TIERS_MAX; i++)
		if (!is_on_disk(&s->tiers[i]))
			sum += *(const uint64_t *)((const char *)&s->tiers[i] + offset);
	return sum;
}

/* Bytes of content for each byte that its compressed form has; 0 when nothing is stored in RAM. */
static double compression_ratio(const struct larder_stats *s)
{
	return ratio(TIER_SUM(s, objects) * s->page_bytes, TIER_SUM(s, stored_bytes));
}

static double density(const struct larder_stats *s)
{
	return ratio(TIER_SUM(s, stored_bytes), TIER_SUM(s, occupied_bytes));
}

/* In us; the middle of the bucket in which the quantile lies. */
static double latency_us(const uint64_t *buckets, double quantile)
{
	uint64_t total = 0, below = 0;

	for (unsigned i = 0; i < LARDER_LATENCY_BUCKETS; i++)
		total += buckets[i];
	for (unsigned i = 0; i < LARDER_LATENCY_BUCKETS && total; i++) {
		below += buckets[i];
		if ((double)below >= quantile * (double)total)
			return (double)(larder_latency_floor_ns(i) + larder_latency_floor_ns(i + 1)) / 2 / 1000;
	}
	return 0;
}

static const struct {
	const char *name;
	double quantile;
} quantiles[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p99_9", 0.999 }, { "max", 1 } };

static const char *const kinds[LARDER_PAGES_KINDS] = { "untracked", "resident",	   "staged",
						       "stored",    "same_filled", "poisoned" };

/* Plain numbers of the struct, under the names they have there. */
#define FIELD(name)                                                                                                    \
	{                                                                                                              \
#name, offsetof(struct larder_stats, name)                                                             \
	}
static const struct {
	const char *name;
	size_t offset;
} fields[] = {
	FIELD(limit_bytes),
	FIELD(low_bytes),
	FIELD(high_bytes),
	FIELD(usage_bytes),
	FIELD(peak_usage_bytes),
	FIELD(metadata_bytes),
	FIELD(other_bytes),
	FIELD(reserved_bytes),
	FIELD(allocated_bytes),
	FIELD(faults),
	FIELD(faults_zero),
	FIELD(faults_staged),
	FIELD(faults_stored),
	FIELD(faults_raced),
	FIELD(faults_throttled),
	FIELD(fault_around),
	FIELD(refaults),
	FIELD(staged),
	FIELD(staged_by_handlers),
	FIELD(moves),
	FIELD(evictions),
	FIELD(same_filled),
	FIELD(incompressible),
	FIELD(move_busy),
	FIELD(move_uncounted),
	FIELD(unshared),
	FIELD(purges),
	FIELD(discarded),
	FIELD(adopted),
	FIELD(pressure_waits),
	FIELD(pressure_wait_ns),
	FIELD(limit_unmet_events),
	FIELD(forks),
	FIELD(reclaim_ns),
};

static uint64_t field(const struct larder_stats *s, size_t i)
{
	return *(const uint64_t *)((const char *)s + fields[i].offset);
}

/* ---- JSON ---- */

static struct json_object *pages_json(const struct larder_stats *s)
{
	struct json_object *o = json_object_new_object();

	for (int i = 0; i < LARDER_PAGES_KINDS; i++)
		add_number(o, kinds[i], s->pages[i]);
	return o;
}

struct json_object *latency_json(const uint64_t *buckets)
{
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
		json_object_object_add(o, quantiles[i].name,
				       json_object_new_double(latency_us(buckets, quantiles[i].quantile)));
	return o;
}

static struct json_object *tiers_json(const struct larder_stats *s)
{
	struct json_object *all = json_object_new_array();

	for (int i = 0; i < LARDER_TIERS_MAX && s->tiers[i].name[0]; i++) {
		const struct larder_tier_stats *t = &s->tiers[i];
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "name", json_object_new_string(t->name));
		add_number(o, "objects", t->objects);
		add_number(o, "stored_bytes", t->stored_bytes);
		add_number(o, "occupied_bytes", t->occupied_bytes);
		add_number(o, "metadata_bytes", t->metadata_bytes);
		add_number(o, "puts", t->puts);
		add_number(o, "gets", t->gets);
		add_number(o, "drops", t->drops);
		add_number(o, "rejected", t->rejected);
		add_number(o, "errors", t->errors);
		json_object_array_add(all, o);
	}
	return all;
}

static struct json_object *volatiles_json(const struct larder_stats *s)
{
	struct json_object *all = json_object_new_array();

	for (int i = 0; i < LARDER_PRIORITIES; i++) {
		const struct larder_volatile_stats *v = &s->volatiles[i];
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "priority", json_object_new_int(i + LARDER_PRIORITY_OBSOLETE));
		add_number(o, "bytes", v->bytes);
		add_number(o, "lost_bytes", v->lost_bytes);
		add_number(o, "marks", v->marks);
		add_number(o, "hits", v->hits);
		add_number(o, "losses", v->losses);
		add_number(o, "refills", v->refills);
		add_number(o, "purges", v->purges);
		add_number(o, "purged_bytes", v->purged_bytes);
		json_object_array_add(all, o);
	}
	return all;
}

static void print_json(const struct larder_stats *s)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "pid", json_object_new_int(s->pid));
	add_number(o, "page_bytes", s->page_bytes);
	add_number(o, "limit_percent", s->limit_percent);
	json_object_object_add(o, "limit_unmet", json_object_new_boolean((int)s->limit_unmet));
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		add_number(o, fields[i].name, field(s, i));
	json_object_object_add(o, "pages", pages_json(s));
	json_object_object_add(o, "compression_ratio", json_object_new_double(compression_ratio(s)));
	json_object_object_add(o, "density", json_object_new_double(density(s)));
	json_object_object_add(o, "fault_latency_us", latency_json(s->fault_latency));
	json_object_object_add(o, "tiers", tiers_json(s));
	if (s->disk.limit_bytes)
		json_object_object_add(o, "disk", disk_json(s));
	json_object_object_add(o, "volatile", volatiles_json(s));
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

/* ---- text ---- */

void print_latency(const char *title, const uint64_t *buckets)
{
	printf("%s", title);
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
		printf("  %s %.1f", quantiles[i].name, latency_us(buckets, quantiles[i].quantile));
	putchar('\n');
}

static void print_limit(const struct larder_stats *s)
{
	if (s->limit_bytes == 0)
		printf("limit      none\n");
	else if (s->limit_percent)
		printf("limit      %10.1f MiB (%u %% of what is allocated)%s\n", mib(s->limit_bytes), s->limit_percent,
		       s->limit_unmet ? ", UNMET" : "");
	else
		printf("limit      %10.1f MiB%s\n", mib(s->limit_bytes),
		       s->limit_unmet ? ", UNMET: nothing more to reclaim" : "");
	printf("usage      %10.1f MiB (peak %.1f; reclaim above %.1f down to %.1f)\n", mib(s->usage_bytes),
	       mib(s->peak_usage_bytes), mib(s->high_bytes), mib(s->low_bytes));
	printf("tables     %10.1f MiB\n", mib(s->metadata_bytes));
	printf("other      %10.1f MiB of the process (text, stacks, memory of its own)\n\n", mib(s->other_bytes));
}

static void print_pages(const struct larder_stats *s)
{
	printf("%-12s %12s %12s\n", "pages", "count", "MiB");
	for (int i = 0; i < LARDER_PAGES_KINDS; i++)
		printf("%-12s %12" PRIu64 " %12.1f\n", kinds[i], s->pages[i], mib(s->pages[i] * s->page_bytes));
	putchar('\n');
}

static void print_tiers(const struct larder_stats *s)
{
	printf("%-12s %12s %12s %12s %12s %12s %8s\n", "tier", "objects", "stored MiB", "occupied", "puts", "gets",
	       "errors");
	for (int i = 0; i < LARDER_TIERS_MAX && s->tiers[i].name[0]; i++) {
		const struct larder_tier_stats *t = &s->tiers[i];

		printf("%-12s %12" PRIu64 " %12.1f %12.1f %12" PRIu64 " %12" PRIu64 " %8" PRIu64 "\n", t->name,
		       t->objects, mib(t->stored_bytes), mib(t->occupied_bytes), t->puts, t->gets, t->errors);
	}
	printf("compression ratio %.2f, density %.1f %%\n\n", compression_ratio(s), 100 * density(s));
}

static void print_faults(const struct larder_stats *s)
{
	printf("faults     %12" PRIu64 " (first touch %" PRIu64 ", staged %" PRIu64 ", stored %" PRIu64
	       ", raced %" PRIu64 ", put off %" PRIu64 ")\n",
	       s->faults, s->faults_zero, s->faults_staged, s->faults_stored, s->faults_raced, s->faults_throttled);
	printf("           %12" PRIu64 " pages came along without a fault\n", s->fault_around);
	printf("refaults   %12" PRIu64 "\n", s->refaults);
	printf("evictions  %12" PRIu64 " (same-filled %" PRIu64 ", incompressible %" PRIu64 ", busy %" PRIu64 ")\n",
	       s->evictions, s->same_filled, s->incompressible, s->move_busy);
	printf("discarded  %12" PRIu64 " pages that were freed; the allocator was asked %" PRIu64 " times\n",
	       s->discarded, s->purges);
	printf("waits      %12" PRIu64 " allocations, %.1f ms in all\n", s->pressure_waits,
	       (double)s->pressure_wait_ns / 1e6);
	print_latency("fault service, us:", s->fault_latency);
}

/* Programs without volatile memory need not hear of it. */
static void print_volatiles(const struct larder_stats *s)
{
	int titled = 0;

	for (int i = 0; i < LARDER_PRIORITIES; i++) {
		const struct larder_volatile_stats *v = &s->volatiles[i];

		if (v->marks == 0)
			continue;
		if (!titled++)
			printf("\n%-12s %12s %12s %12s %12s %12s %12s\n", "volatile", "MiB now", "of it lost", "marks",
			       "hits", "losses", "MiB purged");
		if (i + LARDER_PRIORITY_OBSOLETE == LARDER_PRIORITY_OBSOLETE)
			printf("%-12s", "obsolete");
		else
			printf("priority %-3d", i + LARDER_PRIORITY_OBSOLETE);
		printf(" %12.1f %12.1f %12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %12.1f\n", mib(v->bytes),
		       mib(v->lost_bytes), v->marks, v->hits, v->losses, mib(v->purged_bytes));
	}
}

static void print_text(const struct larder_stats *s)
{
	printf("larder: process %d\n\n", s->pid);
	print_limit(s);
	print_pages(s);
	print_tiers(s);
	print_faults(s);
	if (s->disk.limit_bytes)
		print_disk(s);
	print_volatiles(s);
}

/* ---- the command ---- */

static int parse_pid(const char *text, int *pid)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end || end == text || n <= 0 || n > INT32_MAX)
		return complain("stat", "'%s' is not a process number; try larder stat --help", text);
	*pid = (int)n;
	return 0;
}

static int parse_positive(const char *name, const char *text, double *value)
{
	char *end;

	*value = strtod(text, &end);
	if (*end || end == text || !(*value > 0) || *value > 1e9)
		return complain("stat", "%s '%s' is not a positive number; try larder stat --help", name, text);
	return 0;
}

/* Returns 0 to go on, 1 when help was shown, EXIT_LARDER. */
static int parse(int argc, char **argv, struct stat_options *o)
{
	static const struct option known[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	double count = 0;
	int c, err = 0;

	opterr = 0;
	while (!err && (c = getopt_long(argc, argv, ":ji:n:h", known, NULL)) != -1)
		switch (c) {
		case 'j':
			o->json = 1;
			break;
		case 'i':
			err = parse_positive("interval", optarg, &o->interval);
			break;
		case 'n':
			err = parse_positive("count", optarg, &count);
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case ':':
			return complain("stat", "%s needs a value; try larder stat --help", argv[optind - 1]);
		default:
			return complain("stat", "there is no option '%s'; try larder stat --help", argv[optind - 1]);
		}
	if (err)
		return err;
	o->count = (unsigned long)count;
	if (optind + 1 != argc)
		return complain("stat", "give one process number; try larder stat --help");
	return parse_pid(argv[optind], &o->pid);
}

int stat_main(int argc, char **argv)
{
	struct stat_options o = { 0 };
	struct larder_stats s;
	int err = parse(argc, argv, &o);

	if (err)
		return err == 1 ? 0 : err;
	for (unsigned long i = 1;; i++) {
		err = read_stats(o.pid, &s);
		if (err)
			return i > 1 ? 0 : err; /* the program ended between two readings */
		(o.json ? print_json : print_text)(&s);
		fflush(stdout);
		if (o.interval == 0 || i == o.count)
			return 0;
		usleep((useconds_t)(o.interval * 1e6));
	}
}
