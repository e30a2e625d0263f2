#include "larder_stat.h"

#include <err.h>
#include <json-c/json.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIELD(name, path)                                                                                              \
	{                                                                                                              \
		path, offsetof(struct larder_stat, name)                                                               \
	}
/* Objects lie in objects: "of.in". */
static const struct {
	const char *path;
	size_t offset;
} fields[] = {
	FIELD(limit_bytes, "limit_bytes"),
	FIELD(usage_bytes, "usage_bytes"),
	FIELD(peak_usage_bytes, "peak_usage_bytes"),
	FIELD(allocated_bytes, "allocated_bytes"),
	FIELD(faults, "faults"),
	FIELD(faults_stored, "faults_stored"),
	FIELD(refaults, "refaults"),
	FIELD(evictions, "evictions"),
	FIELD(limit_unmet_events, "limit_unmet_events"),
	FIELD(compression_ratio, "compression_ratio"),
	FIELD(density, "density"),
	FIELD(disk_live_bytes, "disk.live_bytes"),
	FIELD(disk_reads, "disk.reads"),
	FIELD(disk_write_bytes, "disk.write_bytes"),
	FIELD(disk_read_p50_us, "disk.read_latency_us.p50"),
};

static void become_stat(const char *larder, pid_t pid, int out)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", (int)pid);
	dup2(out, STDOUT_FILENO);
	execl(larder, larder, "stat", number, "--json", (char *)NULL);
	warn("cannot execute %s", larder);
	_exit(127);
}

static size_t read_all(int fd, char *text, size_t room)
{
	size_t used = 0;
	ssize_t n;

	while (used < room && (n = read(fd, text + used, room - used)) > 0)
		used += (size_t)n;
	return used;
}

/* Run the command; its output goes to text. Returns 0 when it succeeded. */
static int run_stat(const char *larder, pid_t pid, char *text, size_t room)
{
	int ends[2], status = -1;
	pid_t child;

	if (pipe(ends))
		return -1;
	child = fork();
	if (child == 0)
		become_stat(larder, pid, ends[1]);
	close(ends[1]);
	text[read_all(ends[0], text, room - 1)] = 0;
	close(ends[0]);
	if (child > 0)
		waitpid(child, &status, 0);
	return status;
}

static double number(struct json_object *o, const char *path)
{
	char name[64];

	for (;;) {
		size_t n = strcspn(path, ".");

		snprintf(name, sizeof(name), "%.*s", (int)n, path);
		if (!json_object_object_get_ex(o, name, &o))
			return NAN;
		if (!path[n])
			return json_object_get_double(o);
		path += n + 1;
	}
}

int larder_stat_read(const char *larder, pid_t pid, struct larder_stat *s)
{
	char text[65536];
	struct json_object *o;

	if (run_stat(larder, pid, text, sizeof(text))) {
		warnx("%s stat %d failed", larder, (int)pid);
		return -1;
	}
	o = json_tokener_parse(text);
	if (!o) {
		warnx("%s stat %d printed no JSON object", larder, (int)pid);
		return -1;
	}
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		*(double *)((char *)s + fields[i].offset) = number(o, fields[i].path);
	json_object_put(o);
	return 0;
}
