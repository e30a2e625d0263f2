/*
 * What Larder costs a program that never comes near its limit: nothing but malloc, realloc and free, with jemalloc
 * alone and under `larder run`, which uses the same jemalloc. With --limit, what it costs one that does.
 */
#include "bench.h"
#include "command.h"
#include "options.h"

#include <err.h>
#include <stdio.h>

enum { OPERATIONS_A_PAGE = 128 }; /* how much work --pages stands for: 8 million operations by default */

static const char what[] =
	"Allocate and free: what Larder costs a program that never comes near its limit, or that does.\v"
	"--pages N stands for N * 128 operations. The defaults: --peer none, --pages 65536, --threads 1, --limit none, --runs 7.";

int alloc_main(int argc, char **argv)
{
	struct options o = { .pages = { 65536 },
			     .pages_count = 1,
			     .threads = { 1 },
			     .threads_count = 1,
			     .limits_count = 1,
			     .runs = 7,
			     .seed = 1,
			     .dir = "/var/tmp" };
	char operations[32], threads[32];
	const char *job[] = { "churn", operations, threads, NULL };

	options_parse(&o, argc, argv,
		      TAKES_PEER | TAKES_PAGES | TAKES_THREADS | TAKES_LIMIT | TAKES_DIR | TAKES_CONTENDERS, NULL,
		      what);
	if (o.pages_count > 1 || o.threads_count > 1)
		errx(2, "alloc takes one value of --pages and --threads");
	snprintf(operations, sizeof(operations), "%llu", (unsigned long long)(o.pages[0] * OPERATIONS_A_PAGE));
	snprintf(threads, sizeof(threads), "%llu", (unsigned long long)o.threads[0]);
	return command_compare("alloc", &o, job, 1, (double)(o.pages[0] * OPERATIONS_A_PAGE));
}
