/*
 * What fork costs a process with much memory. For fork.sh, which runs it with and without Larder.
 *
 *   bench_fork [--megabytes N] [--forks N] [--program FILE]
 *
 * Fills N MiB of malloc()ed memory, page by page, with what a heap looks like, waits until it is no longer being taken
 * out, then forks and waits for the child, which ends at once or, with --program, executes FILE. Prints the median in
 * milliseconds, from before fork() to when the child is reaped, of fork() alone, and how much of the memory was present.
 */
#include "clock.h"
#include "contents.h"
#include "numbers.h"

#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20, BLOCK_BYTES = 64 << 10, SETTLE_MS = 300 };

static const char *program;

static void fill(size_t megabytes)
{
	for (size_t i = 0; i < megabytes * (MIB / BLOCK_BYTES); i++) {
		void *block = malloc(BLOCK_BYTES);

		if (!block)
			err(2, "no memory");
		contents_fill(CONTENTS_MIXED, block, BLOCK_BYTES, i);
	}
}

static double resident_mib(void)
{
	FILE *statm = fopen("/proc/self/statm", "r");
	unsigned long size, resident;

	if (!statm || fscanf(statm, "%lu %lu", &size, &resident) != 2)
		err(2, "/proc/self/statm");
	fclose(statm);
	return (double)resident * 4096 / MIB;
}

static void child(void)
{
	if (program)
		execl(program, program, (char *)NULL);
	_exit(program ? 127 : 0);
}

static void fork_once(struct samples *whole, struct samples *alone)
{
	uint64_t start = clock_ns();
	pid_t pid = fork();
	int status;

	if (pid == 0)
		child();
	samples_add(alone, seconds_since(start) * 1e3);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		errx(2, "a child failed");
	samples_add(whole, seconds_since(start) * 1e3);
}

int main(int argc, char **argv)
{
	static const struct option known[] = { { "megabytes", required_argument, NULL, 'm' },
					       { "forks", required_argument, NULL, 'f' },
					       { "program", required_argument, NULL, 'p' },
					       { 0 } };
	struct samples whole = { 0 }, alone = { 0 };
	uint64_t megabytes = 1024, forks = 20;
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 'm')
			megabytes = number_parse(optarg, "--megabytes", 1, 1 << 20);
		else if (c == 'f')
			forks = number_parse(optarg, "--forks", 1, SAMPLES_MAX);
		else if (c == 'p')
			program = optarg;
		else
			return 2;
	fill(megabytes);
	usleep(SETTLE_MS * 1000);
	for (uint64_t i = 0; i < forks; i++)
		fork_once(&whole, &alone);
	printf("%.3f %.3f %.0f\n", samples_median(&whole), samples_median(&alone), resident_mib());
	return 0;
}
