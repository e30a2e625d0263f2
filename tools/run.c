/*
 * larder run: check everything that can be checked, then become the program.
 */
#include "larder.h"
#include "limit.h"
#include "probe.h"
#include "program.h"
#include "swap.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
	"Usage: larder run [--limit SIZE|N%] [--swap-dir DIR|--swap-device DEV] [OPTION...] [--] PROGRAM [ARG...]\n"
	"Run PROGRAM with its cold memory compressed, and on a disk where that is not enough.\n"
	"\n"
	"  --limit SIZE       keep what its heap costs in RAM below SIZE: a number with k, M, G or T, such as 512M; at\n"
	"                     least 16M\n"
	"  --limit N%         keep it below N percent (1 to 100) of what the program has allocated\n"
	"                     without --limit nothing is reclaimed\n"
	"  --swap-dir DIR     pages that stay cold go on to a file without a name in DIR\n"
	"  --swap-device DEV  they go to the block device DEV; what it holds is lost\n"
	"  --swap-size SIZE   use at most so much of it, from 64M; default: 8G of DIR, all of DEV\n"
	"  --swap-encrypt     encrypt what goes there, with a key that is never written\n"
	"  --no-swap          keep pages in RAM: the default\n"
	"  --no-follow-exec   programs that PROGRAM executes run without Larder; with --follow-exec, the default, they have\n"
	"                     the same settings, each a limit and a swap file of its own\n"
	"  --full-core        before a core dump, bring back what was taken out; without, it reads as zeroes there\n"
	"  --log FILE         append messages to FILE instead of standard error\n"
	"  --help             show this text\n";

struct run_options {
	const char *limit;
	const char *log;
	int leaves_exec_alone, full_core;
	struct swap_options swap;
};

static const struct option known[] = {
	{ "limit", required_argument, NULL, 'l' },
	{ "log", required_argument, NULL, 'o' },
	{ "swap-dir", required_argument, NULL, 'd' },
	{ "swap-device", required_argument, NULL, 'b' },
	{ "swap-size", required_argument, NULL, 's' },
	{ "swap-encrypt", no_argument, NULL, 'e' },
	{ "no-swap", no_argument, NULL, 'n' },
	{ "follow-exec", no_argument, NULL, 'f' },
	{ "no-follow-exec", no_argument, NULL, 'x' },
	{ "full-core", no_argument, NULL, 'c' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

/* Returns whether `option` is one of swap. */
static int parse_swap(int option, struct swap_options *o)
{
	switch (option) {
	case 'd':
		o->dir = optarg;
		return 1;
	case 'b':
		o->device = optarg;
		return 1;
	case 's':
		o->size = optarg;
		return 1;
	case 'e':
		o->encrypt = 1;
		return 1;
	case 'n':
		o->none = 1;
		return 1;
	default:
		return 0;
	}
}

/* Returns 0 to go on, 1 when help was shown, EXIT_LARDER. */
static int parse(int argc, char **argv, struct run_options *o)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:l:h", known, NULL)) != -1)
		switch (c) {
		case 'l':
			o->limit = optarg;
			break;
		case 'o':
			o->log = optarg;
			break;
		case 'f':
		case 'x':
			o->leaves_exec_alone = c == 'x';
			break;
		case 'c':
			o->full_core = 1;
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case ':':
			return complain("run", "%s needs a value; try larder run --help", argv[optind - 1]);
		default:
			if (parse_swap(c, &o->swap))
				break;
			return complain("run", "there is no option '%s'; try larder run --help", argv[optind - 1]);
		}
	if (optind == argc)
		return complain("run", "no PROGRAM was given; try larder run --help");
	return 0;
}

static int check_limit(const char *text)
{
	struct larder_limit limit;
	int err = text ? limit_parse(text, &limit) : 0;

	if (!err)
		return 0;
	return complain("run", "the limit '%s' is %s; %s", text,
			err == -ERANGE ? "out of range" : "not a size or a percentage", limit_explain(err));
}

static int check_machine(void)
{
	struct probe_finding f;

	return probe_for_run(&f) ? complain("run", "%s: %s; %s", f.check, f.found, f.remedy) : 0;
}

/* The log's absolute name: the program may change directory before it opens it. Also proves that it can be written. */
static int resolve_log(const char *name, char path[PATH_MAX])
{
	int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		return complain("run", "cannot write the log '%s': %s; name another file", name, strerror(errno));
	close(fd);
	return realpath(name, path) ? 0 : complain("run", "cannot find the log '%s': %s", name, strerror(errno));
}

static int set_environment(const struct run_options *o)
{
	char preload[PATH_MAX], log[PATH_MAX] = "", pid[16], *all;
	const char *before = getenv("LD_PRELOAD");
	int err = o->log ? resolve_log(o->log, log) : 0;

	if (!err)
		err = swap_set_environment(&o->swap);
	if (err)
		return err;
	probe_preload_path(preload, sizeof(preload)); /* check_machine() has found it */
	if (asprintf(&all, "%s:libjemalloc.so.2%s%s", preload, before ? ":" : "", before ? before : "") < 0)
		return complain("run", "out of memory");
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LD_PRELOAD", all, 1);
	setenv("LARDER_PID", pid, 1);
	setenv("LARDER_LIMIT", o->limit ? o->limit : "", 1);
	setenv("LARDER_FOLLOW_EXEC", o->leaves_exec_alone ? "0" : "1", 1);
	if (o->full_core)
		setenv("LARDER_FULL_CORE", "1", 1);
	else
		unsetenv("LARDER_FULL_CORE");
	if (o->log)
		setenv("LARDER_LOG", log, 1);
	else
		unsetenv("LARDER_LOG");
	free(all);
	return 0;
}

int run_main(int argc, char **argv)
{
	struct run_options o = { 0 };
	char path[PATH_MAX], why[PATH_MAX + 256];
	int err = parse(argc, argv, &o);

	if (err)
		return err == 1 ? 0 : err;
	err = check_limit(o.limit);
	if (!err)
		err = swap_check_options(&o.swap);
	if (!err)
		err = check_machine();
	if (!err)
		err = swap_check_place(&o.swap);
	if (err)
		return err;
	err = program_check(argv[optind], path, sizeof(path), why, sizeof(why));
	if (err) {
		complain("run", "%s", why);
		return err;
	}
	err = set_environment(&o);
	if (err)
		return err;
	execv(path, argv + optind);
	complain("run", "cannot execute '%s': %s", path, strerror(errno));
	return EXIT_UNSUITABLE;
}
