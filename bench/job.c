/*
 * larder-bench-job DESCRIPTOR JOB ARGUMENT...: picks the job. Only larder-bench runs it.
 */
#include "job.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	int (*main)(struct turn *t, int argc, char **argv);
	int arguments;
} jobs[] = {
	{ "churn", job_churn, 2 },   { "fork", job_fork, 4 },	  { "chase", job_chase, 4 },
	{ "stream", job_stream, 4 }, { "sqlite", job_sqlite, 5 },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 2 && i < sizeof(jobs) / sizeof(jobs[0]); i++)
		if (!strcmp(argv[2], jobs[i].name) && argc - 3 == jobs[i].arguments)
			return jobs[i].main(turn_map(atoi(argv[1])), argc - 3, argv + 3);
	errx(2, "this is a part of larder bench; run that");
}
