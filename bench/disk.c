/*
 * What it costs to have pages on disk: Larder's tier on disk, with handler threads and inline, against the kernel's
 * swap to a file in the same directory, on the same contents; and what fio reaches there, as the limit.
 *
 * Each run takes the contenders in turn, each in a process of its own in a memory cgroup that holds everything: so
 * pages go out because they are asked to, and faults bring them back without anything else having to go. Swap is on
 * only while the kernel's contender runs.
 *
 * Exit code 0: all contenders have figures. 1: one has failed, and is not in the table. 2: usage, or the kernel's side
 * cannot be set up.
 */
#include "disk_run.h"

#include "numbers.h"
#include "swap.h"
#include "touch.h"
#include "watcher.h"

#include <err.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ull << 20)

/* Room for the generations of contents of one run. */
enum { GENERATIONS_A_RUN = 16, SWAP_PRIORITY = 32767 };

/* ---- options ---- */

struct options {
	struct disk_setup setup;
	unsigned runs;
	int with_handlers, with_inline;
};

static void print_usage(const char *program)
{
	printf("Usage: %s [OPTION...]\n"
	       "Take the same pages to disk and back with Larder and with kernel swap to a file. Root is needed for the "
	       "kernel's side.\n\n",
	       program);
	puts("  --dir DIR         where both have their files (default /var/tmp)\n"
	     "  --pages N         of the buffer (default 65536 = 256 MiB)\n"
	     "  --threads N       of the parallel faults (default 8)\n"
	     "  --data KIND       mixed (default), text, random or zero\n"
	     "  --runs N          each takes all contenders in turn; medians are printed (default 5)\n"
	     "  --mode MODE       how Larder serves faults: handlers, inline or both (default)\n"
	     "  --encrypt         Larder encrypts what it writes\n"
	     "  --seed N          of the contents and the order (default 1)");
}

static void parse_mode(struct options *o, const char *mode)
{
	o->with_handlers = strcmp(mode, "inline") != 0;
	o->with_inline = strcmp(mode, "handlers") != 0;
	if (o->with_handlers && o->with_inline && strcmp(mode, "both"))
		errx(2, "there is no mode '%s'; choose handlers, inline or both", mode);
}

static void parse_option(struct options *o, int c, const char *program)
{
	switch (c) {
	case 'd':
		o->setup.dir = optarg;
		break;
	case 'p':
		o->setup.paging.bytes = number_parse(optarg, "--pages", 1024, 1 << 22) * PAGING_PAGE_BYTES;
		break;
	case 't':
		o->setup.threads = (unsigned)number_parse(optarg, "--threads", 1, TOUCH_MAX_THREADS);
		break;
	case 'c':
		o->setup.paging.contents = contents_parse(optarg);
		break;
	case 'r':
		o->runs = (unsigned)number_parse(optarg, "--runs", 1, SAMPLES_MAX);
		break;
	case 'm':
		parse_mode(o, optarg);
		break;
	case 'e':
		o->setup.paging.swap_encrypt = 1;
		break;
	case 's':
		o->setup.paging.seed = number_parse(optarg, "--seed", 0, UINT64_MAX);
		break;
	case 'h':
		print_usage(program);
		exit(0);
	default:
		exit(2);
	}
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option known[] = {
		{ "dir", required_argument, NULL, 'd' },     { "pages", required_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 't' }, { "data", required_argument, NULL, 'c' },
		{ "runs", required_argument, NULL, 'r' },    { "mode", required_argument, NULL, 'm' },
		{ "encrypt", no_argument, NULL, 'e' },	     { "seed", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },	     { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1)
		parse_option(o, c, argv[0]);
	if (optind < argc)
		errx(2, "unexpected argument '%s'; try --help", argv[optind]);
}

/* ---- before and after ---- */

static struct options options;

/* On the watcher, after everything else has ended: of what there may be, nothing stays. */
static void clean_up(void)
{
	const struct disk_setup *s = &options.setup;
	int err;

	swapoff(s->swap_file);
	unlink(s->swap_file);
	unlink(s->fio_file);
	err = *s->cgroup ? cgroup_remove(s->cgroup) : 0;
	if (err)
		warnx("cannot remove the cgroup %s: %s", s->cgroup, strerror(-err));
}

static void name_files(struct disk_setup *s)
{
	int pid = (int)getpid(), n;

	if (access(s->dir, W_OK | X_OK))
		err(2, "%s", s->dir);
	snprintf(s->swap_file, sizeof(s->swap_file), "%s/larder-bench-%d.swap", s->dir, pid);
	n = snprintf(s->fio_file, sizeof(s->fio_file), "%s/larder-bench-%d.fio", s->dir, pid);
	if (n >= (int)sizeof(s->fio_file))
		errx(2, "%s: the name is too long", s->dir);
}

static void make_cgroup(struct disk_setup *s)
{
	int err = cgroup_create(s->cgroup);

	if (err) {
		*s->cgroup = 0;
		printf("no memory cgroup (%s): kernel swap is not measured\n", strerror(-err));
		return;
	}
	s->with_kernel = 1;
}

static void check_swap_areas(void)
{
	if (swap_areas())
		errx(2, "swap areas are on, which would take pages too: switch them off first (see swapon(8))");
}

static void prepare(struct options *o)
{
	struct disk_setup *s = &o->setup;
	int failed;

	name_files(s);
	s->paging.swap_dir = s->dir;
	s->paging.swap_bytes = 2 * s->paging.bytes + 64 * MIB;
	if (geteuid() == 0)
		make_cgroup(s);
	else
		puts("not root: kernel swap is not measured");
	watcher_begin(clean_up);
	/* The buffer twice, and something for what else a contender needs. */
	failed = *s->cgroup ? cgroup_limit(s->cgroup, 2 * s->paging.bytes + 256 * MIB) : 0;
	if (failed)
		errx(2, "cannot limit the cgroup %s: %s", s->cgroup, strerror(-failed));
	if (!s->with_kernel)
		return;
	check_swap_areas();
	if (swap_make_file(s->swap_file, s->paging.bytes + 64 * MIB))
		err(2, "cannot make the swap file %s", s->swap_file);
}

/* ---- runs ---- */

static struct entry {
	const struct disk_contender *contender;
	int wanted, failed;
	struct samples samples[DISK_FIGURES];
} entries[] = { { .contender = &disk_swap }, { .contender = &disk_larder }, { .contender = &disk_inline } };

enum { ENTRIES = sizeof(entries) / sizeof(entries[0]) };

static struct samples limits[DISK_FIGURES];
static struct disk_result *result; /* shared with the contenders' processes */

static void add_result(struct samples samples[DISK_FIGURES])
{
	for (unsigned i = 0; i < DISK_FIGURES; i++)
		if (!isnan(result->figures[i]))
			samples_add(&samples[i], result->figures[i]);
}

/* Returns its exit status, or 128 and the signal that ended it. */
static int run_process(const struct disk_setup *s, const struct disk_contender *c, unsigned run)
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		disk_run(s, c, run * GENERATIONS_A_RUN, result);
		exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		err(2, "waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int run_with_swap(const struct disk_setup *s, const struct disk_contender *c, unsigned run)
{
	int status;

	check_swap_areas();
	if (swapon(s->swap_file, SWAP_FLAG_PREFER | SWAP_PRIORITY))
		err(2, "cannot swap on %s", s->swap_file);
	status = run_process(s, c, run);
	if (swapoff(s->swap_file))
		err(2, "cannot swap off %s", s->swap_file);
	return status;
}

/* A contender that fails once is left out from then on, and its figures too: there are fewer than the others'. */
static void run_entry(const struct disk_setup *s, struct entry *e, unsigned run)
{
	int status;

	if (!e->wanted || e->failed)
		return;
	fprintf(stderr, "  run %u of %u: %s\n", run + 1, options.runs, e->contender->name);
	status = e->contender->peer == PEER_KERNEL ? run_with_swap(s, e->contender, run)
						   : run_process(s, e->contender, run);
	if (status == 0) {
		add_result(e->samples);
		return;
	}
	warnx("%s has failed with status %d and is left out", e->contender->name, status);
	e->failed = 1;
}

static void run_all(const struct disk_setup *s)
{
	int with_fio = disk_fio_is_there();

	for (unsigned run = 0; run < options.runs; run++) {
		for (unsigned i = 0; i < ENTRIES; i++)
			run_entry(s, &entries[i], run);
		if (!with_fio)
			continue;
		fprintf(stderr, "  run %u of %u: fio\n", run + 1, options.runs);
		with_fio = disk_fio(s, result) == 0;
		if (with_fio)
			add_result(limits);
	}
}

/* ---- the table ---- */

static const char *figure_name(enum disk_figure figure)
{
	static const char *const names[] = {
		[DISK_P50_US] = "random, 1 thread, p50, us",
		[DISK_P99_US] = "random, 1 thread, p99, us",
		[DISK_SEQUENTIAL_MB_S] = "sequential, 1 thread, MB/s",
		[DISK_CALL_MB_S] = "out, until the call returns, MB/s",
		[DISK_FREE_MB_S] = "out, until RAM is free, MB/s",
		[DISK_WRITTEN_RATIO] = "bytes written / bytes out",
		[DISK_DEVICE_RATIO] = "bytes the device wrote / bytes out",
	};
	static char with_threads[64];

	if (figure != DISK_RANDOM_PAGES_S)
		return names[figure];
	snprintf(with_threads, sizeof(with_threads), "random, %u thread%s, pages/s", options.setup.threads,
		 options.setup.threads == 1 ? "" : "s");
	return with_threads;
}

static int has_figures(const struct entry *e)
{
	return e->wanted && !e->failed;
}

static void print_value(const struct samples *s)
{
	double value = samples_median(s);

	if (s->count)
		printf("%10.*f", value < 10 ? 2 : value < 1000 ? 1 : 0, value);
	else
		printf("%10s", "-");
}

static void print_row(enum disk_figure figure)
{
	printf("%-36s", figure_name(figure));
	print_value(&limits[figure]);
	for (unsigned i = 0; i < ENTRIES; i++) {
		struct samples ratio = samples_ratio(&entries[i].samples[figure], &entries[0].samples[figure]);

		if (!has_figures(&entries[i]))
			continue;
		print_value(&entries[i].samples[figure]);
		if (i > 0 && has_figures(&entries[0]))
			print_value(&ratio);
	}
	putchar('\n');
}

static void print_head(const struct disk_setup *s)
{
	printf("%s contents, LZ4 ratio %.2f; %zu pages, %llu MiB; %u runs, seed %llu; in %s\n\n",
	       contents_name(s->paging.contents), contents_lz4_ratio(s->paging.contents, s->paging.seed),
	       s->paging.bytes / PAGING_PAGE_BYTES, (unsigned long long)(s->paging.bytes / MIB), options.runs,
	       (unsigned long long)s->paging.seed, s->dir);
	printf("%-36s%10s", "", "fio");
	for (unsigned i = 0; i < ENTRIES; i++)
		if (has_figures(&entries[i]))
			printf("%10s%s", entries[i].contender->name,
			       i > 0 && has_figures(&entries[0]) ? "    / swap" : "");
	putchar('\n');
}

static int print_table(void)
{
	int failed = 0;

	print_head(&options.setup);
	for (unsigned i = 0; i < DISK_FIGURES; i++)
		print_row((enum disk_figure)i);
	for (unsigned i = 0; i < ENTRIES; i++)
		failed |= entries[i].failed;
	return failed;
}

int main(int argc, char **argv)
{
	options = (struct options){
		.setup = { .paging = { .bytes = 256 * MIB, .seed = 1 }, .threads = 8, .dir = "/var/tmp" },
		.runs = 5,
		.with_handlers = 1,
		.with_inline = 1,
	};
	parse(argc, argv, &options);
	prepare(&options);
	entries[0].wanted = options.setup.with_kernel;
	entries[1].wanted = options.with_handlers;
	entries[2].wanted = options.with_inline;
	result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (result == MAP_FAILED)
		err(2, "no memory");
	run_all(&options.setup);
	return print_table();
}
