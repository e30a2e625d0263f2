/*
 * Memory gets short outside the process, for real: the process is put into a memory cgroup of its own, and something
 * else in that cgroup wants more and more. What is volatile must go, in order of priority, before anybody is killed.
 *
 * Needs the right to make a cgroup: root, and a memory controller (v1 or v2) that is mounted writable. Skipped
 * otherwise.
 */
#include "start.h"
#include "sys.h"

#include <jemalloc/jemalloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, LIMIT_MIB = 160, VOLATILE_MIB = 96, HOG_MIB = 48, FILE_MIB = 256, RANGES = 6, WAIT_S = 20 };
enum { RANGE_BYTES = VOLATILE_MIB * MIB / RANGES };

static char cgroup[4096]; /* "" = none could be made */

static int write_file(const char *folder, const char *name, const char *text)
{
	char path[4200];
	FILE *f;
	int ok;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "w");
	if (!f)
		return 0;
	ok = fputs(text, f) >= 0;
	return (fclose(f) == 0) & ok;
}

/* The process's own group below `mount`, as /proc says it: the line that starts behind the first ':' with
 * `controllers`. */
static int own_group(const char *mount, const char *controllers, char *to, size_t bytes)
{
	char line[4096];
	FILE *f = fopen("/proc/self/cgroup", "r");
	int found = 0;

	while (f && !found && fgets(line, sizeof(line), f)) {
		char *rest = strchr(line, ':');

		line[strcspn(line, "\n")] = 0;
		if (!rest || strncmp(rest, controllers, strlen(controllers)) != 0)
			continue;
		snprintf(to, bytes, "%s%s/larder-test-%d", mount, rest + strlen(controllers), (int)getpid());
		found = 1;
	}
	if (f)
		fclose(f);
	return found;
}

static int make_group(const char *mount, const char *controllers, const char *limit_file)
{
	char limit[32];

	snprintf(limit, sizeof(limit), "%d", LIMIT_MIB * MIB);
	if (!own_group(mount, controllers, cgroup, sizeof(cgroup)) || mkdir(cgroup, 0700) < 0)
		return 0;
	if (write_file(cgroup, limit_file, limit))
		return 1;
	rmdir(cgroup);
	return 0;
}

static int make_cgroup(void **state)
{
	(void)state;
	if (!make_group("/sys/fs/cgroup/memory", ":memory:", "memory.limit_in_bytes") &&
	    !make_group("/sys/fs/cgroup", "::", "memory.max"))
		cgroup[0] = 0;
	return 0;
}

static int remove_cgroup(void **state)
{
	(void)state;
	if (cgroup[0])
		rmdir(cgroup);
	return 0;
}

static void enter_cgroup(void)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	if (!write_file(cgroup, "cgroup.procs", pid))
		_exit(3);
}

/* Another program in the cgroup: page cache and memory, more and more of it, until killed. */
static void hog(void)
{
	char name[] = "/var/tmp/larder-test-XXXXXX";
	static char block[MIB];
	int fd = mkstemp(name);
	char *memory = sys_map((size_t)HOG_MIB * MIB);

	enter_cgroup();
	unlink(name);
	for (unsigned i = 0;; i++) {
		memset(block, (int)i, sizeof(block));
		if (pwrite(fd, block, sizeof(block), (off_t)(i % FILE_MIB) * MIB) < 0)
			_exit(3);
		if (i % FILE_MIB == FILE_MIB - 1)
			fdatasync(fd);
		if (i < HOG_MIB)
			memset(memory + (size_t)i * MIB, 1, MIB);
		usleep(2000);
	}
}

/* A cache with a range of each of six priorities, of which a warning takes the first two. Exit status: 0 = purged as it
 * should be. */
static int cache(void)
{
	struct larder_pool_stats stats;
	larder_pool *pool;
	void *range[RANGES];

	enter_cgroup();
	if (start_process((struct process_setup){ 0 }) || larder_pool_create(&pool, NULL))
		return 4;
	for (int i = 0; i < RANGES; i++) {
		struct larder_volatile_options o = { .priority = i };

		if (larder_pages_alloc(pool, RANGE_BYTES, &range[i]))
			return 4;
		memset(range[i], i + 1, RANGE_BYTES);
		if (larder_volatile(pool, range[i], RANGE_BYTES, &o))
			return 4;
	}
	if (larder_purge_fd(pool) < 0)
		return 4;
	for (int ms = 0; ms < WAIT_S * 1000; ms += 20) {
		struct larder_purge_event event;

		usleep(20000);
		if (larder_purge_events(pool, &event, 1) != 1)
			continue;
		if (event.reason != LARDER_PURGE_SYSTEM || event.priority != 0)
			return 5;
		larder_pool_get_stats(pool, &stats);
		for (int i = 1; i < RANGES; i++) /* nothing goes before what is worth less */
			if (larder_query(pool, range[i], RANGE_BYTES, NULL) == LARDER_PURGED &&
			    larder_query(pool, range[i - 1], RANGE_BYTES, NULL) == LARDER_INTACT)
				return 6;
		return 0;
	}
	return 7;
}

static void what_is_volatile_goes_before_anybody_is_killed(void **state)
{
	int status;
	pid_t cache_pid, hog_pid;

	(void)state;
	if (!cgroup[0]) {
		print_message("no memory cgroup could be made: skipped\n");
		skip();
	}
	cache_pid = fork();
	if (cache_pid == 0)
		_exit(cache());
	sleep(1);
	hog_pid = fork();
	if (hog_pid == 0)
		hog();
	waitpid(cache_pid, &status, 0);
	kill(hog_pid, SIGKILL);
	waitpid(hog_pid, NULL, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_volatile_goes_before_anybody_is_killed),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, make_cgroup, remove_cgroup);
}
