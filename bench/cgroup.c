#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REMOVE_TRIES = 100 };

#define V1_ROOT "/sys/fs/cgroup/memory"
#define V2_ROOT "/sys/fs/cgroup"

static int write_file(const char *directory, const char *name, const char *text)
{
	char path[2 * CGROUP_PATH_BYTES];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int write_number(const char *directory, const char *name, uint64_t number)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	return write_file(directory, name, text);
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

int cgroup_create(char path[CGROUP_PATH_BYTES])
{
	const char *root = is_v1(V1_ROOT) ? V1_ROOT : V2_ROOT;

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
	return write_number(path, "cgroup.procs", (uint64_t)getpid());
}

int cgroup_limit(const char *path, uint64_t bytes)
{
	return write_number(path, is_v1(path) ? "memory.limit_in_bytes" : "memory.max", bytes);
}

static uint64_t read_number(const char *directory, const char *name)
{
	char path[2 * CGROUP_PATH_BYTES];
	unsigned long long number = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	f = fopen(path, "re");
	if (f && fscanf(f, "%llu", &number) != 1)
		number = 0;
	if (f)
		fclose(f);
	return number;
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
