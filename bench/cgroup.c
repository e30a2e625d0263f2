#include "cgroup.h"

#include "sysfile.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REMOVE_TRIES = 100 };

#define V1_ROOT "/sys/fs/cgroup/memory"
#define V2_ROOT "/sys/fs/cgroup"

static int write_number(const char *directory, const char *name, uint64_t number)
{
	char path[2 * CGROUP_PATH_BYTES];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return sysfile_write_number(path, number);
}

static int has_file(const char *directory, const char *name)
{
	char path[2 * CGROUP_PATH_BYTES];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return access(path, F_OK) == 0;
}

static int is_v1(const char *path)
{
	return has_file(path, "memory.limit_in_bytes");
}

int cgroup_is_v1(void)
{
	return is_v1(V1_ROOT);
}

int cgroup_create(char path[CGROUP_PATH_BYTES])
{
	const char *root = cgroup_is_v1() ? V1_ROOT : V2_ROOT;

	snprintf(path, CGROUP_PATH_BYTES, "%s/larder-bench-%d", root, (int)getpid());
	if (mkdir(path, 0755))
		return -errno;
	if (is_v1(path) || has_file(path, "memory.max"))
		return 0;
	rmdir(path);
	return -EOPNOTSUPP;
}

/* Swap slots and charges of a process that has just ended may take a moment to go. */
int cgroup_remove(const char *path)
{
	for (int tries = 0; rmdir(path); tries++) {
		if (errno != EBUSY || tries == REMOVE_TRIES)
			return -errno;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return 0;
}

int cgroup_join(const char *path)
{
	return write_number(path, "cgroup.procs", 0);
}

int cgroup_limit(const char *path, uint64_t bytes)
{
	return write_number(path, is_v1(path) ? "memory.limit_in_bytes" : "memory.max", bytes);
}

static uint64_t read_number(const char *directory, const char *name)
{
	char path[2 * CGROUP_PATH_BYTES];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return sysfile_number(path);
}

uint64_t cgroup_usage_bytes(const char *path)
{
	return read_number(path, is_v1(path) ? "memory.usage_in_bytes" : "memory.current");
}

/* Version 2 (since Linux 5.19) wants to know how much, and says EAGAIN when it was less. */
int cgroup_empty(const char *path)
{
	int err;

	if (is_v1(path))
		return write_number(path, "memory.force_empty", 0);
	err = write_number(path, "memory.reclaim", read_number(path, "memory.current"));
	return err == -EAGAIN ? 0 : err;
}

/* Version 1 limits the sum of RAM and swap, where the kernel counts swap at all. */
int cgroup_forbid_swap(const char *path, uint64_t limit_bytes)
{
	if (!is_v1(path))
		return write_number(path, "memory.swap.max", 0);
	if (has_file(path, "memory.memsw.limit_in_bytes"))
		return write_number(path, "memory.memsw.limit_in_bytes", limit_bytes);
	return write_number(path, "memory.swappiness", 0);
}

void cgroup_wait_for_memory(const char *path, int should_wait)
{
	if (is_v1(path))
		write_number(path, "memory.oom_control", should_wait != 0);
}

/* Lines of a name and a number; "under_oom 1" is what is looked for. */
int cgroup_is_waiting(const char *path)
{
	char file[2 * CGROUP_PATH_BYTES], line[64];
	int waiting = 0;
	FILE *f;

	snprintf(file, sizeof(file), "%s/memory.oom_control", path);
	f = fopen(file, "re");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "under_oom %d", &waiting);
	if (f)
		fclose(f);
	return waiting;
}
