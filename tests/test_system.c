/*
 * How Larder learns that memory is short outside the process.
 *
 * Most of it is tested with files of our own in the place of the kernel's: a cgroup v1 eventfd can be posted by the
 * test itself. The last test makes real pressure, in a cgroup of its own, where the machine permits that.
 */
#include "system.h"

#include "sys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { NAME_BYTES = 4096 };

static char folder[64];

static const char *in_folder(const char *name)
{
	static char names[4][NAME_BYTES];
	static unsigned next;
	char *to = names[next++ % 4];

	snprintf(to, NAME_BYTES, "%s/%s", folder, name);
	return to;
}

static void make_file(const char *name, const char *text)
{
	FILE *f = fopen(in_folder(name), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int make_folder(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/larder-system-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	return mkdir(in_folder("v1"), 0700) || mkdir(in_folder("v1/group"), 0700) || mkdir(in_folder("v2"), 0700) ||
	       mkdir(in_folder("v2/group"), 0700);
}

static int remove_folder(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

/* Open what there is in the folder. */
static unsigned open_sources(struct larder_system *s, const char *proc_cgroup)
{
	struct system_paths paths = {
		.proc_cgroup = in_folder("cgroup"),
		.proc_pressure = in_folder("pressure"),
		.cgroup1 = in_folder("v1"),
		.cgroup2 = in_folder("v2"),
	};

	make_file("cgroup", proc_cgroup);
	return system_open(s, &paths);
}

static void nothing_to_watch_is_no_error(void **state)
{
	static const char *const texts[] = {
		"", "\n", "::::\n", "garbage", "0::", "0::relative\n", "4:cpu,cpuacct:/group\n"
	};
	struct larder_system s;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_int_equal(open_sources(&s, texts[i]), 0);
}

/* What was written to event_control first: "EVENTFD LEVELFD NAME". */
static int event_fd(const char *control)
{
	char text[64] = "";
	FILE *f = fopen(in_folder(control), "r");
	int fd = -1;

	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_int_equal(sscanf(text, "%d", &fd), 1);
	return fd;
}

static void post(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void make_v1(const char *group)
{
	char name[128];

	snprintf(name, sizeof(name), "v1%s/memory.pressure_level", group);
	make_file(name, "");
	snprintf(name, sizeof(name), "v1%s/cgroup.event_control", group);
	make_file(name, "");
}

static void remove_v1(const char *group)
{
	char name[128];

	snprintf(name, sizeof(name), "v1%s/memory.pressure_level", group);
	unlink(in_folder(name));
	snprintf(name, sizeof(name), "v1%s/cgroup.event_control", group);
	unlink(in_folder(name));
}

static void the_group_with_the_memory_controller_is_found(void **state)
{
	static const char *const texts[] = {
		"4:memory:/group\n",
		"12:cpu:/x\n4:cpuset,memory:/group\n0::/y\n",
		"4:memory,hugetlb:/group/\n",
		"9:memoryx:/wrong\n8:name=memory:/wrong\n4:memory:/group",
	};

	(void)state;
	make_v1("/group");
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct larder_system s;

		assert_int_equal(open_sources(&s, texts[i]), 3);
		post(s.polled[1].fd);
		assert_int_equal(system_wait(&s), SYSTEM_URGENT);
		system_close(&s);
	}
	remove_v1("/group");
}

/* A container sees its own cgroup at the mount, and the host's name for it in /proc. */
static void a_container_s_own_group_is_at_the_mount(void **state)
{
	struct larder_system s;

	(void)state;
	make_v1("");
	assert_int_equal(open_sources(&s, "4:memory:/docker/0123456789abcdef\n"), 3);
	assert_int_equal(event_fd("v1/cgroup.event_control"), s.polled[0].fd);
	system_close(&s);
	remove_v1("");
}

static void each_level_is_told_and_the_most_urgent_counts(void **state)
{
	static const enum system_level levels[] = { SYSTEM_WARNING, SYSTEM_URGENT, SYSTEM_CRITICAL };

	(void)state;
	make_v1("/group");
	for (unsigned i = 0; i < 3; i++) {
		struct larder_system s;

		assert_int_equal(open_sources(&s, "4:memory:/group\n"), 3);
		for (unsigned lower = 0; lower <= i; lower++)
			post(s.polled[lower].fd);
		assert_int_equal(system_wait(&s), levels[i]);
		system_close(&s);
	}
	remove_v1("/group");
}

/* Returns 1 when the source stays silent for that long. */
static int is_silent(struct larder_system *s, unsigned milliseconds)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(0);
		system_wait(s);
		_exit(0);
	}
	usleep(milliseconds * 1000);
	if (waitpid(pid, &status, WNOHANG) == pid)
		return 0;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return 1;
}

static void a_storm_is_told_once_but_worse_news_at_once(void **state)
{
	struct larder_system s;

	(void)state;
	make_v1("/group");
	assert_int_equal(open_sources(&s, "4:memory:/group\n"), 3);
	post(s.polled[1].fd);
	assert_int_equal(system_wait(&s), SYSTEM_URGENT);
	post(s.polled[1].fd);
	post(s.polled[0].fd);
	assert_true(is_silent(&s, 300));
	post(s.polled[2].fd);
	assert_int_equal(system_wait(&s), SYSTEM_CRITICAL);
	usleep(1100000);
	post(s.polled[0].fd);
	assert_int_equal(system_wait(&s), SYSTEM_WARNING);
	system_close(&s);
	remove_v1("/group");
}

static void waiting_costs_no_cpu(void **state)
{
	struct larder_system s;
	struct rusage used;

	(void)state;
	make_v1("/group");
	assert_int_equal(open_sources(&s, "4:memory:/group\n"), 3);
	assert_true(is_silent(&s, 300));
	getrusage(RUSAGE_CHILDREN, &used);
	assert_true(used.ru_utime.tv_sec + used.ru_stime.tv_sec == 0);
	assert_true(used.ru_utime.tv_usec + used.ru_stime.tv_usec < 50000);
	system_close(&s);
	remove_v1("/group");
}

static void events_are_counted_from_where_they_were(void **state)
{
	struct system_source s = { .kind = SYSTEM_CGROUP2 };

	(void)state;
	system_read_events("low 0\nhigh 7\nmax 3\noom 1\noom_kill 1\n", &s);
	assert_int_equal(system_read_events("low 5\nhigh 7\nmax 3\noom 1\noom_kill 9\n", &s), SYSTEM_CALM);
	assert_int_equal(system_read_events("low 5\nhigh 8\nmax 3\noom 1\n", &s), SYSTEM_WARNING);
	assert_int_equal(system_read_events("low 5\nhigh 9\nmax 4\noom 1\n", &s), SYSTEM_URGENT);
	assert_int_equal(system_read_events("low 5\nhigh 9\nmax 4\noom 2\n", &s), SYSTEM_CRITICAL);
	assert_int_equal(system_read_events("", &s), SYSTEM_CALM);
}

static void the_second_version_s_group_is_watched(void **state)
{
	struct larder_system s;

	(void)state;
	make_file("v2/group/memory.events", "high 1\nmax 0\noom 0\n");
	assert_int_equal(open_sources(&s, "0::/group\n"), 1);
	assert_int_equal(s.sources[0].kind, SYSTEM_CGROUP2);
	assert_int_equal(s.sources[0].high, 1);
	system_close(&s);
	unlink(in_folder("v2/group/memory.events"));
}

static void a_long_path_finds_nothing_and_harms_nobody(void **state)
{
	static char text[7000];
	struct larder_system s;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	memcpy(text, "4:memory:/", 10);
	assert_int_equal(open_sources(&s, text), 0);
}

static void the_machine_has_a_source(void **state)
{
	struct larder_system s;

	(void)state;
	print_message("sources of this machine: %u\n", system_open(&s, NULL));
	for (unsigned i = 0; i < s.count; i++)
		print_message("  %s, level %d\n",
			      s.sources[i].kind == SYSTEM_PSI	    ? "pressure stall information"
			      : s.sources[i].kind == SYSTEM_CGROUP1 ? "cgroup v1 pressure level"
								    : "cgroup v2 events",
			      (int)s.sources[i].level);
	if (s.count == 0 && access("/proc/pressure/memory", W_OK) == 0)
		fail_msg("/proc/pressure/memory can be written, but took no trigger");
	system_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_to_watch_is_no_error),
		cmocka_unit_test(the_group_with_the_memory_controller_is_found),
		cmocka_unit_test(a_container_s_own_group_is_at_the_mount),
		cmocka_unit_test(each_level_is_told_and_the_most_urgent_counts),
		cmocka_unit_test(a_storm_is_told_once_but_worse_news_at_once),
		cmocka_unit_test(waiting_costs_no_cpu),
		cmocka_unit_test(events_are_counted_from_where_they_were),
		cmocka_unit_test(the_second_version_s_group_is_watched),
		cmocka_unit_test(a_long_path_finds_nothing_and_harms_nobody),
		cmocka_unit_test(the_machine_has_a_source),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
