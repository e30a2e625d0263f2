/*
 * News of memory outside the process, from a real kernel: a child in a memory cgroup of its own comes near its limit.
 * Needs the right to make a memory cgroup.
 */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* What is left beside the memory is more than a disk reads ahead at once, 8 MiB here: with 12 MiB the OOM killer found
 * nothing but pages that were just being read. */
enum { MIB = 1 << 20, LIMIT_MIB = 160, FILE_MIB = 320, MEMORY_MIB = 136 };

static char parent[SYSTEM_PATH_BYTES + 64], cgroup[SYSTEM_PATH_BYTES + 128];

static int put(const char *directory, const char *name, const char *content)
{
	char path[SYSTEM_PATH_BYTES + 256];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, content, strlen(content)) < 0)
		err = errno;
	if (fd >= 0)
		close(fd);
	return err;
}

/* A cgroup below `mount` with a limit. Returns whether there is one now. */
static int try_cgroup(const char *mount, const char *own, const char *limit_file)
{
	char limit[32];
	int err;

	if (!own[0])
		return 0;
	snprintf(parent, sizeof(parent), "%s%s", mount, own[1] ? own : "");
	snprintf(cgroup, sizeof(cgroup), "%s/larder-test-%d", parent, getpid());
	snprintf(limit, sizeof(limit), "%d", LIMIT_MIB * MIB);
	err = mkdir(cgroup, 0700) ? errno : 0;
	if (!err && (err = put(cgroup, limit_file, limit)) != 0)
		rmdir(cgroup);
	if (err)
		print_message("no cgroup %s with a limit: %s\n", cgroup, strerror(err));
	return !err;
}

static int make_cgroup(void)
{
	struct system_cgroups own;

	system_read_cgroups("/proc/self/cgroup", &own);
	return try_cgroup("/sys/fs/cgroup/memory", own.v1, "memory.limit_in_bytes") ||
	       try_cgroup("/sys/fs/cgroup", own.v2, "memory.max");
}

/* ---- in the child ---- */

static struct larder_system sources;
static _Atomic int reports[SYSTEM_CRITICAL + 1];
static uint64_t start_ns;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* On the internal thread. */
static void count(void *arg, enum system_level level)
{
	(void)arg;
	atomic_fetch_add(&reports[level], 1);
}

static int seen(enum system_level level)
{
	int n = 0;

	for (; level <= SYSTEM_CRITICAL; level++)
		n += atomic_load(&reports[level]);
	return n;
}

/* The child has no cmocka: it says what is wrong and ends with 1. */
static void expect(int condition, const char *what)
{
	printf("%5.2f s: %d warning, %d urgent, %d critical. %s: %s\n", (double)(now_ns() - start_ns) / 1e9,
	       atomic_load(&reports[SYSTEM_WARNING]), atomic_load(&reports[SYSTEM_URGENT]),
	       atomic_load(&reports[SYSTEM_CRITICAL]), what, condition ? "yes" : "NO");
	fflush(stdout);
	if (!condition)
		_exit(1);
}

/* An unlinked file of FILE_MIB on the disk where the test runs. What of it is in RAM is clean, and can be
 * reclaimed. */
static int make_file(void)
{
	static char block[MIB];
	char name[] = "test_system.XXXXXX";
	int fd = mkstemp(name);

	if (fd < 0)
		return fd;
	unlink(name);
	memset(block, 1, sizeof(block));
	for (int i = 0; i < FILE_MIB; i++)
		if (write(fd, block, sizeof(block)) != sizeof(block))
			return -1;
	return fsync(fd) ? -1 : fd;
}

static void read_until(int fd, enum system_level level, unsigned seconds)
{
	static char block[MIB];
	uint64_t end = now_ns() + seconds * (uint64_t)1000000000;

	while (!seen(level) && now_ns() < end)
		for (int i = 0; i < FILE_MIB && !seen(level); i++)
			if (pread(fd, block, sizeof(block), (off_t)i * MIB) != sizeof(block))
				return;
}

/* Memory takes most of the limit, and a mapped file of three times the limit wants to be there as well. */
static void thrash_until(int fd, enum system_level level, unsigned seconds)
{
	uint64_t end = now_ns() + seconds * (uint64_t)1000000000;
	size_t bytes = (size_t)MEMORY_MIB * MIB, file_bytes = (size_t)FILE_MIB * MIB;
	volatile char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile char *file = mmap(NULL, file_bytes, PROT_READ, MAP_SHARED, fd, 0);

	for (size_t i = 0; i < bytes; i += 4096)
		memory[i] = 1;
	while (!seen(level) && now_ns() < end)
		for (size_t i = 0; i < file_bytes && !seen(level) && now_ns() < end; i += 4096)
			(void)file[i];
	munmap((void *)memory, bytes);
	munmap((void *)file, file_bytes);
}

static int live_sources(void)
{
	int n = 0;

	for (unsigned i = 0; i < sources.count; i++)
		n += sources.sources[i].fd >= 0;
	return n;
}

/* Leaves for the parent's cgroup: where the removal of a cgroup signals its listeners, that must not be a report. */
static void leave_and_remove(int live)
{
	expect(put(parent, "cgroup.procs", "0") == 0, "left the cgroup");
	usleep(1500000);
	for (int level = 0; level <= SYSTEM_CRITICAL; level++)
		atomic_store(&reports[level], 0);
	expect(rmdir(cgroup) == 0, "removed the cgroup");
	usleep(500000);
	expect(seen(SYSTEM_WARNING) == 0, "silent about it");
	expect(live_sources() < live, "sources dropped");
}

static void run_child(void)
{
	int fd, live;

	start_ns = now_ns();
	expect(put(cgroup, "cgroup.procs", "0") == 0, "entered the cgroup");
	fd = make_file();
	expect(fd >= 0, "made a file");
	live = system_open(&sources, NULL);
	printf("%d sources\n", live);
	expect(live > 0 && system_start(&sources, count, NULL) == 0, "started");
	read_until(fd, SYSTEM_WARNING, 30);
	expect(seen(SYSTEM_WARNING), "told when page cache filled the cgroup");
	thrash_until(fd, SYSTEM_CRITICAL, 30);
	expect(seen(SYSTEM_CRITICAL), "told when nothing was left");
	leave_and_remove(live);
	_exit(0);
}

static void a_process_near_its_cgroups_limit_is_told(void **state)
{
	int status = 0;
	pid_t child;

	(void)state;
	if (!make_cgroup())
		skip();
	fflush(stdout);
	child = fork();
	if (child == 0)
		run_child();
	waitpid(child, &status, 0);
	rmdir(cgroup); /* if the child did not */
	if (status)
		fail_msg("the child ended with status 0x%x", status);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(a_process_near_its_cgroups_limit_is_told) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
