#include "disk_run.h"

#include <err.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MB 1e6

enum { OUTPUT_BYTES = 1 << 20 };

struct job {
	const char *rw, *block;
	unsigned depth;
	int timed; /* for some seconds, or once over the file */
};

struct speed {
	double p50_us, p99_us, operations_s, mb_s;
};

int disk_fio_is_there(void)
{
	int there = system("fio --version >/dev/null 2>&1") == 0;

	if (!there)
		puts("fio is missing: what the disk itself can do is not measured");
	return there;
}

/* ---- running it ---- */

static void exec_fio(const struct disk_setup *s, const struct job *job)
{
	char file[PATH_MAX + 16], size[32], rw[32], block[32], depth[32];
	/* --thread: no process of its own that could outlive the benchmark */
	char *argv[] = { "fio",
			 "--name=limit",
			 "--ioengine=io_uring",
			 "--direct=1",
			 "--thread",
			 "--output-format=json",
			 "--lat_percentiles=1", /* from submission, as a fault is */
			 file,
			 size,
			 rw,
			 block,
			 depth,
			 job->timed ? "--time_based" : NULL,
			 "--runtime=2",
			 NULL };

	snprintf(file, sizeof(file), "--filename=%s", s->fio_file);
	snprintf(size, sizeof(size), "--size=%zu", s->paging.bytes);
	snprintf(rw, sizeof(rw), "--rw=%s", job->rw);
	snprintf(block, sizeof(block), "--bs=%s", job->block);
	snprintf(depth, sizeof(depth), "--iodepth=%u", job->depth);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(argv[0], argv);
	err(2, "fio");
}

static pid_t start_fio(const struct disk_setup *s, const struct job *job, int *output)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		err(2, "pipe");
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		exec_fio(s, job);
	}
	close(ends[1]);
	*output = ends[0];
	return pid;
}

/* What it says on standard output; what does not fit is lost, and the JSON is not valid then. */
static int run_fio(const struct disk_setup *s, const struct job *job, char *text)
{
	size_t length = 0;
	int output, status;
	pid_t pid = start_fio(s, job, &output);
	ssize_t n;

	while ((n = read(output, text + length, OUTPUT_BYTES - 1 - length)) > 0)
		length += (size_t)n;
	text[length] = 0;
	close(output);
	if (waitpid(pid, &status, 0) != pid || status) {
		warnx("fio has failed (%s, %s)", job->rw, job->block);
		return -1;
	}
	return 0;
}

/* ---- what it says ---- */

static struct json_object *member(struct json_object *o, const char *name)
{
	struct json_object *value = NULL;

	return json_object_object_get_ex(o, name, &value) ? value : NULL;
}

static double number(struct json_object *o, const char *name)
{
	struct json_object *value = member(o, name);

	return value ? json_object_get_double(value) : NAN;
}

static struct speed speed_of(struct json_object *side)
{
	struct json_object *percentiles = member(member(side, "lat_ns"), "percentile");

	return (struct speed){
		.p50_us = number(percentiles, "50.000000") / 1000,
		.p99_us = number(percentiles, "99.000000") / 1000,
		.operations_s = number(side, "iops"),
		.mb_s = number(side, "bw_bytes") / MB,
	};
}

/* Notes of fio may stand before the JSON. */
static int parse(const char *text, int is_write, struct speed *speed)
{
	const char *start = strchr(text, '{');
	struct json_object *all = start ? json_tokener_parse(start) : NULL, *jobs = member(all, "jobs");

	if (!jobs || !json_object_is_type(jobs, json_type_array) || json_object_array_length(jobs) == 0) {
		warnx("what fio says is not understood");
		json_object_put(all);
		return -1;
	}
	*speed = speed_of(member(json_object_array_get_idx(jobs, 0), is_write ? "write" : "read"));
	json_object_put(all);
	return 0;
}

static int measure(const struct disk_setup *s, const struct job *job, struct speed *speed)
{
	static char text[OUTPUT_BYTES];

	return run_fio(s, job, text) ? -1 : parse(text, strcmp(job->rw, "write") == 0, speed);
}

/* The writes make the file that is then read. */
int disk_fio(const struct disk_setup *s, struct disk_result *r)
{
	const struct job jobs[] = {
		{ "write", "256k", 4, 0 },
		{ "randread", "4k", 1, 1 },
		{ "randread", "4k", s->threads, 1 },
		{ "read", "64k", 4, 0 },
	};
	struct speed speeds[4];

	for (unsigned i = 0; i < 4; i++)
		if (measure(s, &jobs[i], &speeds[i]))
			return -1;
	for (unsigned i = 0; i < DISK_FIGURES; i++)
		r->figures[i] = NAN;
	r->figures[DISK_FREE_MB_S] = speeds[0].mb_s;
	r->figures[DISK_P50_US] = speeds[1].p50_us;
	r->figures[DISK_P99_US] = speeds[1].p99_us;
	r->figures[DISK_RANDOM_PAGES_S] = speeds[2].operations_s;
	r->figures[DISK_SEQUENTIAL_MB_S] = speeds[3].mb_s;
	return 0;
}
