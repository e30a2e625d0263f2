/*
 * larder-bench: picks the subcommand. `larder bench` executes it.
 */
#include "bench.h"

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"Usage: larder bench BENCHMARK [OPTION...]\n"
	"Judge on this machine whether Larder beats what you would use instead.\n"
	"\n"
	"Benchmarks:\n"
	"  fault       touch pages that are out, or more pages than the limit holds\n"
	"  reclaim     take pages out: speed, CPU time, the RAM that holds them\n"
	"  volatile    mark memory volatile, take it back, purge it\n"
	"  alloc       allocate and free: what Larder costs a program that never needs it\n"
	"  fork        fork a process with much memory, a part of which is out\n"
	"  app         run programs in less memory than they need: Redis, SQLite, kernels, any command\n"
	"  report DIR  make one HTML page with plots of what --json has left in DIR\n"
	"\n"
	"  --help      show this text; larder bench BENCHMARK --help tells more\n"
	"\n"
	"Exit status: 0; 1 if a contender failed or contents were damaged; 2 for bad usage, or if a peer cannot be\n"
	"set up. See larder-bench(1).\n";

static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
} benchmarks[] = {
	{ "fault", fault_main }, { "reclaim", reclaim_main }, { "volatile", volatile_main }, { "alloc", alloc_main },
	{ "fork", fork_main },	 { "app", app_main },	      { "report", report_main },
};

/* --help calls it by the name that it was called by. */
static int run(size_t i, int argc, char **argv)
{
	char name[64];

	snprintf(name, sizeof(name), "larder bench %s", argv[0]);
	argv[0] = name;
	return benchmarks[i].main(argc, argv);
}

int main(int argc, char **argv)
{
	program_invocation_short_name = (char *)"larder bench";
	if (argc < 2) {
		fputs(usage, stderr);
		return 2;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		fputs(usage, stdout);
		return 0;
	}
	for (size_t i = 0; i < sizeof(benchmarks) / sizeof(benchmarks[0]); i++)
		if (!strcmp(argv[1], benchmarks[i].name))
			return run(i, argc - 1, argv + 1);
	errx(2, "there is no benchmark '%s'; try larder bench --help", argv[1]);
}
