/*
 * The main job: the same work on redis-server as it is and on redis-server under `larder run`, side by side.
 *
 * Each server gets the same records (load), then a skewed mix of reads and writes that checks what it reads (mix), then
 * every record is read and compared (verify). Memory is what the kernel says of the server: Rss in smaps_rollup, and
 * VmHWM for the peak. Nothing that the job believes comes from Larder itself, except the limit in force and the
 * counters shown at the end of the table.
 *
 * Exit code: 0 no value is wrong or missing and the limit was held; 1 otherwise, or a server died; 2 usage or
 * environment.
 */
#include "larder_stat.h"
#include "latency.h"
#include "redis_client.h"
#include "records.h"
#include "redis_server.h"

#include <err.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB		((double)(1 << 20))
#define LIMIT_TOLERANCE 1.05

static const char usage[] = "Usage: redis_job [--larder PATH] [OPTION...]\n"
			    "Do the same work on redis-server plain and under Larder, and compare.\n"
			    "\n"
			    "  --larder PATH     the larder command (default: the one beside redis_job)\n"
			    "  --limit LIMIT     for larder run: a size or N% (default 50%)\n"
			    "  --megabytes N     MiB of values to load (default 320)\n"
			    "  --seconds N       length of the mix (default 8)\n"
			    "  --seed N          of the records and the keys (default 1)\n"
			    "  --redis PATH      the server (default /usr/bin/redis-server)\n"
			    "  --swap-dir DIR    larder run keeps cold pages in a file in DIR, too\n"
			    "  --swap-encrypt    and encrypts them there\n"
			    "  --incompressible  all values are random bytes\n"
			    "  --plain-only      without Larder\n"
			    "  --larder-only     only with Larder\n";

struct options {
	char larder[PATH_MAX];
	const char *limit, *redis, *swap_dir;
	double megabytes, seconds;
	uint64_t seed;
	int swap_encrypt, incompressible;
	int plain, managed; /* which runs to make */
};

/* One column of the table; NAN where there is nothing to say. */
struct column {
	double load_mib_s, load_rate, mix_rate, verify_mib_s;
	double loaded_mib, steady_mib, peak_mib, files_mib;
	double p50_us, p90_us, p99_us, p99_9_us, max_us;
	double wrong, missing;
	double limit_mib, usage_mib, faults, faults_mix, refaults, evictions, ratio;
	double disk_mib, disk_reads, disk_read_us, written_mib;
};

/* ---- options ---- */

static void beside_this_program(const char *name, char path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 32);
	char *slash;

	path[n > 0 ? n : 0] = 0;
	slash = strrchr(path, '/');
	strcpy(slash ? slash + 1 : path, name);
}

static double positive(const char *text, const char *what)
{
	char *end;
	double n = strtod(text, &end);

	if (*end || end == text || !(n > 0) || n > 1e9)
		errx(2, "%s must be a positive number, not '%s'", what, text);
	return n;
}

static void parse(int argc, char **argv, struct options *o)
{
	const struct option known[] = {
		{ "larder", required_argument, NULL, 'l' },
		{ "limit", required_argument, NULL, 'm' },
		{ "megabytes", required_argument, NULL, 'b' },
		{ "seconds", required_argument, NULL, 's' },
		{ "seed", required_argument, NULL, 'e' },
		{ "redis", required_argument, NULL, 'r' },
		{ "plain-only", no_argument, &o->managed, 0 },
		{ "larder-only", no_argument, &o->plain, 0 },
		{ "swap-dir", required_argument, NULL, 'd' },
		{ "swap-encrypt", no_argument, &o->swap_encrypt, 1 },
		{ "incompressible", no_argument, &o->incompressible, 1 },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1)
		switch (c) {
		case 0:
			break;
		case 'l':
			snprintf(o->larder, sizeof(o->larder), "%s", optarg);
			break;
		case 'm':
			o->limit = optarg;
			break;
		case 'b':
			o->megabytes = positive(optarg, "--megabytes");
			break;
		case 's':
			o->seconds = positive(optarg, "--seconds");
			break;
		case 'e':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'r':
			o->redis = optarg;
			break;
		case 'd':
			o->swap_dir = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			exit(2);
		}
	if (optind < argc)
		errx(2, "unexpected argument '%s'; try --help", argv[optind]);
}

static void check(const struct options *o)
{
	if (!o->plain && !o->managed)
		errx(2, "--plain-only and --larder-only leave nothing to do");
	if (access(o->redis, X_OK))
		err(2, "%s: install redis-server, or name it with --redis", o->redis);
	if (o->managed && access(o->larder, X_OK))
		err(2, "%s: build larder, or name it with --larder", o->larder);
}

/* ---- one run ---- */

/* Fills `all` with NAN: a struct of doubles only. */
static struct column empty_column(void)
{
	struct column column;
	double *numbers = (double *)&column;

	for (size_t i = 0; i < sizeof(column) / sizeof(double); i++)
		numbers[i] = NAN;
	return column;
}

/* Rss seen during the mix. Steady state is its second half; the largest value there is what counts. */
struct memory_watch {
	size_t count;
	double mib[65536];
};

static void watch_memory(void *arg)
{
	struct memory_watch *w = arg;
	uint64_t bytes = server_rss_bytes();

	if (bytes && w->count < sizeof(w->mib) / sizeof(w->mib[0]))
		w->mib[w->count++] = (double)bytes / MIB;
}

static double steady_mib(const struct memory_watch *w)
{
	double most = 0;

	for (size_t i = w->count / 2; i < w->count; i++)
		most = fmax(most, w->mib[i]);
	return most;
}

static struct larder_stat read_stat(const struct options *o, int managed)
{
	struct larder_stat s = { .limit_bytes = NAN,
				 .usage_bytes = NAN,
				 .faults = NAN,
				 .refaults = NAN,
				 .evictions = NAN,
				 .compression_ratio = NAN };

	if (managed)
		larder_stat_read(o->larder, server_pid(), &s);
	return s;
}

static void count_bad(struct column *column, const struct client_result *result)
{
	column->wrong += (double)result->wrong;
	column->missing += (double)result->missing;
}

static void load(struct column *column, struct records_written *w)
{
	struct client_result result = client_load(w, server_socket());

	column->load_mib_s = (double)result.bytes / MIB / result.seconds;
	column->load_rate = (double)result.requests / result.seconds;
	column->loaded_mib = (double)server_rss_bytes() / MIB;
}

static void mix(struct column *column, struct records_written *w, double seconds)
{
	static struct memory_watch watch;
	struct client_result result;
	struct latency *latency = latency_create();

	watch.count = 0;
	result = client_mix(w, server_socket(), &(struct client_mixture){ .seconds = seconds, .pipeline = 1 }, latency,
			    watch_memory, &watch);
	watch_memory(&watch);
	count_bad(column, &result);
	column->mix_rate = (double)result.requests / result.seconds;
	column->p50_us = latency_quantile_us(latency, 0.5);
	column->p90_us = latency_quantile_us(latency, 0.9);
	column->p99_us = latency_quantile_us(latency, 0.99);
	column->p99_9_us = latency_quantile_us(latency, 0.999);
	column->max_us = latency_quantile_us(latency, 1);
	column->steady_mib = steady_mib(&watch);
	column->files_mib = (double)server_file_bytes() / MIB;
	latency_destroy(latency);
}

static void verify(struct column *column, const struct records_written *w)
{
	struct client_result result = client_verify(w, server_socket());

	count_bad(column, &result);
	column->verify_mib_s = (double)result.bytes / MIB / result.seconds;
}

/* The limit and the cost are those at the end of the mix, when the steady state was measured; the rest is the whole
 * run's. */
static void note_stats(struct column *column, const struct larder_stat *loaded, const struct larder_stat *mixed,
		       const struct larder_stat *end)
{
	column->limit_mib = mixed->limit_bytes / MIB;
	column->usage_mib = mixed->usage_bytes / MIB;
	column->faults_mix = mixed->faults - loaded->faults;
	column->faults = end->faults;
	column->refaults = end->refaults;
	column->evictions = end->evictions;
	column->ratio = end->compression_ratio;
	column->disk_mib = mixed->disk_live_bytes / MIB;
	column->disk_reads = end->disk_reads;
	column->disk_read_us = end->disk_read_p50_us;
	column->written_mib = end->disk_write_bytes / MIB;
}

static void start_server(const struct options *o, int managed)
{
	const char *options[SERVER_OPTIONS_MAX + 1] = { "--limit", o->limit };
	size_t n = 2;

	if (o->swap_dir) {
		options[n++] = "--swap-dir";
		options[n++] = o->swap_dir;
	}
	if (o->swap_encrypt)
		options[n++] = "--swap-encrypt";
	server_start(o->redis, managed ? o->larder : NULL, options, NULL);
}

static struct column run(const struct options *o, int managed)
{
	struct column column = empty_column();
	struct larder_stat loaded, mixed, end;
	struct records_written written;

	fprintf(stderr, "%s\n", managed ? "under larder run" : "plain");
	column.wrong = column.missing = 0;
	records_plan(&written, o->seed, (uint64_t)(o->megabytes * MIB));
	start_server(o, managed);
	load(&column, &written);
	loaded = read_stat(o, managed);
	mix(&column, &written, o->seconds);
	mixed = read_stat(o, managed);
	verify(&column, &written);
	end = read_stat(o, managed);
	column.peak_mib = fmax(column.steady_mib, (double)server_peak_bytes() / MIB); /* VmHWM is updated lazily */
	note_stats(&column, &loaded, &mixed, &end);
	server_stop();
	records_free(&written);
	return column;
}

/* ---- the table ---- */

#define ROW(label, field, digits)                                                                                      \
	{                                                                                                              \
		label, offsetof(struct column, field), digits                                                          \
	}
static const struct row {
	const char *label;
	size_t offset;
	int digits;
} rows[] = {
	ROW("load               MiB/s", load_mib_s, 1),
	ROW("                   requests/s", load_rate, 0),
	ROW("memory             MiB after load", loaded_mib, 1),
	ROW("                   MiB steady (mix)", steady_mib, 1),
	ROW("                     of it files", files_mib, 1),
	ROW("                   MiB peak", peak_mib, 1),
	ROW("mix                requests/s", mix_rate, 0),
	ROW("  latency          us p50", p50_us, 1),
	ROW("                   us p90", p90_us, 1),
	ROW("                   us p99", p99_us, 1),
	ROW("                   us p99.9", p99_9_us, 1),
	ROW("                   us max", max_us, 1),
	ROW("verify             MiB/s", verify_mib_s, 1),
	ROW("values             wrong", wrong, 0),
	ROW("                   missing", missing, 0),
	ROW("larder             MiB limit", limit_mib, 1),
	ROW("                   MiB counted", usage_mib, 1),
	ROW("                   faults", faults, 0),
	ROW("                   faults in mix", faults_mix, 0),
	ROW("                   pages evicted", evictions, 0),
	ROW("                   pages fetched back", refaults, 0),
	ROW("                   compression ratio", ratio, 2),
	ROW("disk               MiB held (mix)", disk_mib, 1),
	ROW("                   MiB written", written_mib, 1),
	ROW("                   reads", disk_reads, 0),
	ROW("                   us a read, p50", disk_read_us, 1),
};

static double cell(const struct column *column, const struct row *row)
{
	return *(const double *)((const char *)column + row->offset);
}

static void print_cell(double number, int digits)
{
	if (isnan(number))
		printf("%12s", "-");
	else
		printf("%12.*f", digits, number);
}

static void print_row(const struct row *row, const struct column *plain, const struct column *managed)
{
	double a = cell(plain, row), b = cell(managed, row);

	printf("%-38s", row->label);
	print_cell(a, row->digits);
	print_cell(b, row->digits);
	print_cell(a > 0 ? b / a : NAN, 2);
	putchar('\n');
}

static void print_table(const struct column *plain, const struct column *managed)
{
	printf("\n%-38s%12s%12s%12s\n", "", "plain", "larder", "ratio");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		print_row(&rows[i], plain, managed);
	putchar('\n');
}

/* ---- the verdict ---- */

static int values_are_right(const struct column *column, const char *name)
{
	if (isnan(column->wrong))
		return 1; /* no such run */
	printf("values, %s: %s\n", name, column->wrong + column->missing > 0 ? "WRONG OR MISSING" : "all as written");
	return column->wrong + column->missing == 0;
}

/* Rss is everything, also what Larder does not manage (code, stacks), so it may be a little above the limit. */
static int limit_is_held(const struct column *column)
{
	int held = column->steady_mib <= column->limit_mib * LIMIT_TOLERANCE;

	if (isnan(column->wrong))
		return 1; /* no such run */
	if (isnan(column->limit_mib) || column->limit_mib == 0) {
		printf("limit: unknown: larder stat does not tell it\n");
		return 0;
	}
	printf("limit: %.1f MiB; Rss in steady state %.1f MiB, %.1f %% of it; %s (at most %.0f %%)\n",
	       column->limit_mib, column->steady_mib, 100 * column->steady_mib / column->limit_mib,
	       held ? "held" : "NOT HELD", 100 * LIMIT_TOLERANCE);
	return held;
}

/* With a place on disk, it must have been used. */
static int disk_is_used(const struct options *o, const struct column *column)
{
	if (!o->swap_dir || isnan(column->wrong))
		return 1;
	printf("disk: %s\n", column->disk_reads > 0 ? "written to and read from" : "NOT USED");
	return column->disk_reads > 0;
}

int main(int argc, char **argv)
{
	struct options o = { .limit = "50%",
			     .redis = "/usr/bin/redis-server",
			     .megabytes = 320,
			     .seconds = 8,
			     .seed = 1,
			     .plain = 1,
			     .managed = 1 };
	struct column plain = empty_column(), managed = empty_column();
	int good;

	beside_this_program("larder", o.larder);
	parse(argc, argv, &o);
	check(&o);
	record_incompressible = o.incompressible;
	printf("%.0f MiB of records, mix of %.0f s, limit %s, seed %llu\n", o.megabytes, o.seconds, o.limit,
	       (unsigned long long)o.seed);
	fflush(stdout);
	if (o.plain)
		plain = run(&o, 0);
	if (o.managed)
		managed = run(&o, 1);
	print_table(&plain, &managed);
	good = values_are_right(&plain, "plain");
	good &= values_are_right(&managed, "larder");
	good &= limit_is_held(&managed);
	good &= disk_is_used(&o, &managed);
	return good ? 0 : 1;
}
