#include "fio.h"

#include <err.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define MB 1e6

enum { OUTPUT_BYTES = 1 << 20 };

int fio_is_there(void)
{
	return system("fio --version >/dev/null 2>&1") == 0;
}

/* ---- running it ---- */

static void exec_fio(int file_descriptor, size_t bytes, const struct fio_job *job)
{
	char file[64], size[32], rw[32], block[32], depth[32];
	/* --thread: no process of its own that could outlive the benchmark */
	char *argv[] = { "fio",
			 "--name=bound",
			 "--ioengine=io_uring",
			 "--direct=1",
			 "--thread",
			 "--output-format=json",
			 "--lat_percentiles=1", /* from submission, as a fault is */
			 "--percentile_list=50:90:99:99.9",
			 file,
			 size,
			 rw,
			 block,
			 depth,
			 "--runtime=2",
			 job->is_timed ? "--time_based" : NULL,
			 NULL };

	snprintf(file, sizeof(file), "--filename=/proc/%d/fd/%d", (int)getpid(), file_descriptor);
	snprintf(size, sizeof(size), "--size=%zu", bytes);
	snprintf(rw, sizeof(rw), "--rw=%s", job->rw);
	snprintf(block, sizeof(block), "--bs=%s", job->block);
	snprintf(depth, sizeof(depth), "--iodepth=%u", job->depth);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(argv[0], argv);
	err(2, "fio");
}

/* What it says on standard output; what does not fit is lost, and the JSON is not valid then. */
static void read_fio(int file, size_t bytes, const struct fio_job *job, char *text)
{
	size_t length = 0;
	int ends[2], status;
	ssize_t n;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		err(2, "pipe");
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		exec_fio(file, bytes, job);
	}
	close(ends[1]);
	while ((n = read(ends[0], text + length, OUTPUT_BYTES - 1 - length)) > 0)
		length += (size_t)n;
	text[length] = 0;
	close(ends[0]);
	if (waitpid(pid, &status, 0) != pid || status)
		errx(2, "fio has failed (%s, %s)", job->rw, job->block);
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

static struct fio_speed speed_of(struct json_object *side)
{
	struct json_object *latency = member(side, "lat_ns"), *percentiles = member(latency, "percentile");

	return (struct fio_speed){
		.p50_us = number(percentiles, "50.000000") / 1000,
		.p90_us = number(percentiles, "90.000000") / 1000,
		.p99_us = number(percentiles, "99.000000") / 1000,
		.p999_us = number(percentiles, "99.900000") / 1000,
		.max_us = number(latency, "max") / 1000,
		.mean_us = number(latency, "mean") / 1000,
		.operations_s = number(side, "iops"),
		.mb_s = number(side, "bw_bytes") / MB,
	};
}

/* Notes of fio may stand before the JSON. */
struct fio_speed fio_run(int file, size_t bytes, const struct fio_job *job)
{
	static char text[OUTPUT_BYTES];
	struct json_object *all, *jobs;
	struct fio_speed speed;
	const char *start;

	read_fio(file, bytes, job, text);
	start = strchr(text, '{');
	all = start ? json_tokener_parse(start) : NULL;
	jobs = member(all, "jobs");
	if (!jobs || !json_object_is_type(jobs, json_type_array) || json_object_array_length(jobs) == 0)
		errx(2, "what fio says is not understood");
	speed = speed_of(member(json_object_array_get_idx(jobs, 0), strcmp(job->rw, "write") ? "read" : "write"));
	json_object_put(all);
	return speed;
}

int fio_make_file(const char *dir, size_t bytes, struct fio_speed *write)
{
	const struct fio_job job = { "write", "256k", 4, 0 };
	int file = open(dir, O_TMPFILE | O_RDWR, 0600);
	struct fio_speed speed;

	if (file < 0 || ftruncate(file, (off_t)bytes))
		err(2, "cannot make a file in '%s'", dir);
	speed = fio_run(file, bytes, &job);
	if (write)
		*write = speed;
	return file;
}
