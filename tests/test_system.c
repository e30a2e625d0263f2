/*
 * News of memory outside the process: which sources are found, what they mean, and when they are reported. The kernel's
 * files are plain files here; eventfds and sockets stand in for what can be polled.
 */
#include "system.h"
#include "thread.h"

#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS ((uint64_t)1000000)

/* ---- a machine in a temporary directory ---- */

static char root[] = "/tmp/test_system.XXXXXX";
static char machine_pressure[256], own_cgroup[256], meminfo[256], v1_mount[256], v2_mount[256];
static struct system_paths paths = { machine_pressure, own_cgroup, meminfo, v1_mount, v2_mount };

static int make_root(void **state)
{
	(void)state;
	return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int remove_root(void **state)
{
	(void)state;
	return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Each test has a directory of its own. */
static int new_machine(void **state)
{
	static int count;
	char base[64];

	(void)state;
	snprintf(base, sizeof(base), "%s/%d", root, ++count);
	snprintf(machine_pressure, sizeof(machine_pressure), "%s/pressure", base);
	snprintf(own_cgroup, sizeof(own_cgroup), "%s/cgroup", base);
	snprintf(meminfo, sizeof(meminfo), "%s/meminfo", base);
	snprintf(v1_mount, sizeof(v1_mount), "%s/v1", base);
	snprintf(v2_mount, sizeof(v2_mount), "%s/v2", base);
	return mkdir(base, 0700) || mkdir(v1_mount, 0700) || mkdir(v2_mount, 0700);
}

static void write_bytes(const char *path, const char *content, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, bytes), bytes);
	close(fd);
}

static void write_text(const char *path, const char *content)
{
	write_bytes(path, content, strlen(content));
}

static void write_in(const char *directory, const char *name, const char *content)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	write_text(path, content);
}

/* Makes mount/cgroup; its name, which lives until the next call. */
static const char *make_cgroup(const char *mount, const char *cgroup)
{
	static char path[384];

	snprintf(path, sizeof(path), "%s%s", mount, cgroup);
	mkdir(path, 0700);
	return path;
}

static void make_v1(const char *cgroup)
{
	const char *directory = make_cgroup(v1_mount, cgroup);

	write_in(directory, "memory.pressure_level", "");
	write_in(directory, "cgroup.event_control", "");
}

static void make_v2(const char *cgroup)
{
	const char *directory = make_cgroup(v2_mount, cgroup);

	write_in(directory, "cgroup.controllers", "memory\n");
	write_in(directory, "cgroup.events", "populated 1\n");
	write_in(directory, "memory.events.local", "low 0\nhigh 5\nmax 7\noom 0\noom_kill 0\n");
	write_in(directory, "memory.pressure", "");
}

static void opens(struct larder_system *s, int sources)
{
	assert_int_equal(system_open(s, &paths), sources);
}

static struct system_source *source_of(struct larder_system *s, enum system_kind kind, enum system_level level)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->sources[i].kind == kind && s->sources[i].level == level)
			return &s->sources[i];
	fail_msg("no source of kind %d and level %d", kind, level);
	return NULL;
}

static void signal_v1(struct larder_system *s, enum system_level level)
{
	uint64_t one = 1;

	assert_int_equal(write(source_of(s, SYSTEM_V1_LEVEL, level)->fd, &one, sizeof(one)), sizeof(one));
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

/* ---- /proc/self/cgroup ---- */

static void reads(const char *content, const char *v1, const char *v2)
{
	struct system_cgroups found;

	write_text(own_cgroup, content);
	system_read_cgroups(own_cgroup, &found);
	if (strcmp(found.v1, v1) != 0 || strcmp(found.v2, v2) != 0)
		fail_msg("'%s' is read as v1 '%s', v2 '%s'", content, found.v1, found.v2);
}

static void the_own_cgroups_are_found(void **state)
{
	(void)state;
	reads("0::/user.slice/a.scope\n", "", "/user.slice/a.scope");
	reads("0::/\n", "", "/");
	reads("9:name=systemd:/s\n4:memory:/docker/1\n2:cpu,cpuacct:/c\n", "/docker/1", "");
	reads("4:memory:/m\n1:cpu:/c\n0::/u\n", "/m", "/u");
	reads("4:cpu,memory:/m\n", "/m", "");
	reads("4:memory,cpu:/m\n", "/m", "");
	reads("0::/no end of line", "", "/no end of line");
	reads("4:memory:/with:colon\n", "/with:colon", "");
}

static void what_is_not_a_cgroup_is_ignored(void **state)
{
	(void)state;
	reads("", "", "");
	reads("\n\n:\n::\n:::\n", "", "");
	reads("4:memory\n4:memory:\n4:memory:m\nmemory:/m\n::/u\n0:/u\n", "", "");
	reads("4:name=memory:/m\n4:memory2:/m\n4:xmemory:/m\n4:memor:/m\n", "", "");
	reads("0::/..\n4:memory:/../../m\n", "", "");
	reads("0::/a..b\n", "", "/a..b");
}

static void overlong_lines_and_binary_garbage_are_skipped(void **state)
{
	static char content[3 * SYSTEM_PATH_BYTES];
	struct system_cgroups found;

	(void)state;
	memset(content, 'x', sizeof(content));
	memcpy(content, "4:memory:/", 10);
	memcpy(content + sizeof(content) - 8, "\n0::/u\n", 8);
	reads(content, "", "/u");

	for (size_t i = 0; i < sizeof(content); i++)
		content[i] = (char)(i * 2654435761u >> 13);
	memcpy(content + sizeof(content) - 8, "\n0::/u\n", 7);
	write_bytes(own_cgroup, content, sizeof(content));
	system_read_cgroups(own_cgroup, &found);
	assert_string_equal(found.v2, "/u");

	unlink(own_cgroup);
	system_read_cgroups(own_cgroup, &found);
	assert_string_equal(found.v1, "");
	assert_string_equal(found.v2, "");
}

/* ---- sources ---- */

static void never(void *arg, enum system_level level)
{
	(void)arg, (void)level;
}

static void a_machine_without_sources_has_none_and_needs_no_thread(void **state)
{
	struct larder_system s;
	int threads = thread_count();

	(void)state;
	opens(&s, 0);
	assert_int_equal(system_start(&s, never, NULL), 0);
	assert_int_equal(thread_count(), threads);
	system_close(&s);

	write_text(own_cgroup, "4:memory:/gone\n0::/gone\n");
	opens(&s, 0);
	system_close(&s);
}

static void the_real_machine_can_be_asked(void **state)
{
	struct larder_system s;

	(void)state;
	print_message("this machine has %d sources\n", system_open(&s, NULL));
	system_close(&s);
}

static void a_v1_cgroup_is_watched_up_to_the_mount_point(void **state)
{
	struct larder_system s;

	(void)state;
	make_v1("");
	write_in(v1_mount, "cgroup.sane_behavior", "0\n");
	make_v1("/pod");
	make_v1("/pod/own");
	write_text(own_cgroup, "4:memory:/pod/own\n");
	opens(&s, 3 + 2 + 2);
	assert_int_equal(s.sources[0].level, SYSTEM_WARNING);
	assert_int_equal(s.sources[3].level, SYSTEM_URGENT);
	system_close(&s);

	/* In the root, recycling is no news. */
	write_text(own_cgroup, "4:memory:/\n");
	opens(&s, 2);
	system_close(&s);
}

static void in_a_container_the_mount_point_is_the_own_cgroup(void **state)
{
	struct larder_system s;

	(void)state;
	make_v1("");
	write_text(own_cgroup, "4:memory:/docker/path/outside\n");
	opens(&s, 3);
	assert_int_equal(s.sources[0].level, SYSTEM_WARNING);
	system_close(&s);
}

static void more_cgroups_than_there_is_room_for_do_no_harm(void **state)
{
	char cgroup[256] = "", line[300];
	struct larder_system s;

	(void)state;
	make_v1("");
	for (int i = 0; i < 24; i++) {
		strcat(cgroup, "/x");
		make_v1(cgroup);
	}
	snprintf(line, sizeof(line), "4:memory:%s\n", cgroup);
	write_text(own_cgroup, line);
	opens(&s, SYSTEM_SOURCES_MAX);
	system_close(&s);
}

static void v1_is_told_which_eventfd_and_level(void **state)
{
	struct larder_system s;
	struct system_source *critical;
	char want[64], got[64] = "", control[300];
	int fd;

	(void)state;
	make_v1("/own");
	write_text(own_cgroup, "4:memory:/own\n");
	opens(&s, 3);
	critical = source_of(&s, SYSTEM_V1_LEVEL, SYSTEM_CRITICAL);
	snprintf(want, sizeof(want), "%d %d critical,local", critical->fd, critical->witness);
	snprintf(control, sizeof(control), "%s/own/cgroup.event_control", v1_mount);
	fd = open(control, O_RDONLY);
	assert_true(read(fd, got, sizeof(got) - 1) > 0);
	close(fd);
	assert_string_equal(got, want); /* the last registration overwrote the others, which are no longer */
	system_close(&s);
}

static void a_v2_cgroup_has_stalls_and_limits(void **state)
{
	struct larder_system s;
	char pressure[300], got[64] = "";
	int fd;

	(void)state;
	make_v2("");
	make_v2("/own");
	write_text(own_cgroup, "0::/own\n");
	opens(&s, 3 + 2);
	assert_int_equal(source_of(&s, SYSTEM_V2_EVENTS, SYSTEM_CRITICAL)->events.max, 7);
	snprintf(pressure, sizeof(pressure), "%s/own/memory.pressure", v2_mount);
	fd = open(pressure, O_RDONLY);
	assert_true(read(fd, got, sizeof(got) - 1) > 0);
	close(fd);
	assert_string_equal(got, "full 300000 1000000");
	system_close(&s);
}

static void the_root_of_v2_has_no_stalls_of_its_own(void **state)
{
	struct larder_system s;

	(void)state;
	write_in(v2_mount, "cgroup.controllers", "memory\n");
	write_in(v2_mount, "memory.pressure", "");
	write_text(machine_pressure, "");
	write_text(own_cgroup, "0::/\n");
	opens(&s, 3);
	source_of(&s, SYSTEM_MACHINE_STALLS, SYSTEM_URGENT);
	system_close(&s);
}

static void events_count_only_when_they_grow(void **state)
{
	struct system_events last = { 0 };

	(void)state;
	assert_int_equal(system_events_level(&last, "low 0\nhigh 2\nmax 0\noom 0\noom_kill 0\n"), SYSTEM_WARNING);
	assert_int_equal(system_events_level(&last, "low 9\nhigh 2\nmax 0\noom 0\noom_kill 0\n"), SYSTEM_CALM);
	assert_int_equal(system_events_level(&last, "low 9\nhigh 3\nmax 1\noom 0\noom_kill 0\n"), SYSTEM_URGENT);
	assert_int_equal(system_events_level(&last, "low 9\nhigh 3\nmax 2\noom 1\noom_kill 0\n"), SYSTEM_CRITICAL);
	assert_int_equal(system_events_level(&last, "low 9\nhigh 3\nmax 2\noom 1\noom_kill 1\n"), SYSTEM_CRITICAL);
	assert_int_equal(system_events_level(&last, "low 9\nhigh 3\nmax 2\noom 1\noom_kill 1\n"), SYSTEM_CALM);
	/* Nothing to read is not a fall to zero, after which the old counts would be growth. */
	assert_int_equal(system_events_level(&last, ""), SYSTEM_CALM);
	assert_int_equal(system_events_level(&last, "garbage\nmaximum 12\nxmax 5\nmax"), SYSTEM_CALM);
	assert_int_equal(system_events_level(&last, "oom_group_kill 4\nmax 2\nhigh 3\n"), SYSTEM_CALM);
	assert_int_equal(last.max, 2);
}

static const char *stalled(uint64_t some_us, uint64_t full_us)
{
	static char text[256];

	snprintf(text, sizeof(text),
		 "some avg10=0.29 avg60=0.09 avg300=0.01 total=%lu\nfull avg10=0.29 avg60=0.07 avg300=0.01 total=%lu\n",
		 some_us, full_us);
	return text;
}

/* Linux 6.18 fires such triggers twice for what happened before they were set. */
static void a_trigger_with_a_window_of_2_s_needs_proof(void **state)
{
	struct system_source some = { .level = SYSTEM_WARNING, .needed_us = 200000 };
	struct system_source full = { .level = SYSTEM_CRITICAL, .needed_us = 600000 };

	(void)state;
	system_stall_is_proved(&some, stalled(5000000, 3000000));
	system_stall_is_proved(&full, stalled(5000000, 3000000));
	assert_false(system_stall_is_proved(&full, stalled(9000000, 3000001)));
	assert_false(system_stall_is_proved(&full, stalled(9000000, 3600000)));
	assert_true(system_stall_is_proved(&full, stalled(9000000, 4200000)));
	assert_false(system_stall_is_proved(&full, stalled(9000000, 4200000)));
	assert_false(system_stall_is_proved(&some, stalled(5199999, 9000000)));
	assert_true(system_stall_is_proved(&some, stalled(5399999, 9000000)));
}

/* ---- reports ---- */

static void open_v1_alone(struct larder_system *s)
{
	make_v1("/own");
	write_text(own_cgroup, "4:memory:/own\n");
	opens(s, 3);
}

static void each_v1_level_has_its_level(void **state)
{
	(void)state;
	make_v1("/own");
	write_text(own_cgroup, "4:memory:/own\n");
	for (enum system_level level = SYSTEM_WARNING; level <= SYSTEM_CRITICAL; level++) {
		struct larder_system s;

		opens(&s, 3);
		signal_v1(&s, level);
		assert_int_equal(system_wait(&s), level);
		system_close(&s);
	}
}

static void the_highest_of_several_levels_is_reported(void **state)
{
	struct larder_system s;

	(void)state;
	open_v1_alone(&s);
	signal_v1(&s, SYSTEM_WARNING);
	signal_v1(&s, SYSTEM_URGENT);
	assert_int_equal(system_wait(&s), SYSTEM_URGENT);
	signal_v1(&s, SYSTEM_WARNING);
	signal_v1(&s, SYSTEM_CRITICAL);
	assert_int_equal(system_wait(&s), SYSTEM_CRITICAL);
	system_close(&s);
}

/* What another thread does while the test waits: at certain times, signal a level. */
struct script {
	struct larder_system *system;
	struct step {
		unsigned at_ms;
		enum system_level level;
		unsigned times;
	} steps[4];
	pthread_t thread;
};

static void *play(void *arg)
{
	const struct script *script = arg;
	unsigned at_ms = 0;

	for (int i = 0; i < 4 && script->steps[i].level; i++) {
		const struct step *step = &script->steps[i];

		usleep((step->at_ms - at_ms) * 1000);
		at_ms = step->at_ms;
		for (unsigned n = 0; n < step->times; n++) {
			signal_v1(script->system, step->level);
			usleep(50);
		}
	}
	return NULL;
}

/* Wait while the script is played. Returns how long that took, in milliseconds. */
static unsigned wait_for(struct script *script, enum system_level want)
{
	uint64_t start = now_ns(CLOCK_MONOTONIC), end;

	pthread_create(&script->thread, NULL, play, script);
	assert_int_equal(system_wait(script->system), want);
	end = now_ns(CLOCK_MONOTONIC);
	pthread_join(script->thread, NULL);
	return (unsigned)((end - start) / MS);
}

static void a_level_is_not_repeated_for_a_second_but_a_higher_one_comes_at_once(void **state)
{
	struct larder_system s;
	struct script escalate = { &s, { { 100, SYSTEM_WARNING, 1 }, { 300, SYSTEM_CRITICAL, 1 } }, 0 };
	struct script repeat = {
		&s, { { 200, SYSTEM_CRITICAL, 1 }, { 300, SYSTEM_WARNING, 1 }, { 1300, SYSTEM_URGENT, 1 } }, 0
	};
	unsigned ms;

	(void)state;
	open_v1_alone(&s);
	signal_v1(&s, SYSTEM_WARNING);
	assert_int_equal(system_wait(&s), SYSTEM_WARNING);
	ms = wait_for(&escalate, SYSTEM_CRITICAL);
	if (ms < 300 || ms > 900)
		fail_msg("a higher level came after %u ms", ms);
	ms = wait_for(&repeat, SYSTEM_URGENT);
	if (ms < 1290)
		fail_msg("a level came again after %u ms", ms);
	system_close(&s);
}

static void what_came_during_a_long_callback_is_old_news(void **state)
{
	struct larder_system s;
	struct script later = { &s, { { 300, SYSTEM_WARNING, 1 } }, 0 };
	unsigned ms;

	(void)state;
	open_v1_alone(&s);
	signal_v1(&s, SYSTEM_URGENT);
	assert_int_equal(system_wait(&s), SYSTEM_URGENT);
	signal_v1(&s, SYSTEM_URGENT);
	usleep(1100000);
	ms = wait_for(&later, SYSTEM_WARNING);
	if (ms < 290)
		fail_msg("old news after %u ms", ms);
	signal_v1(&s, SYSTEM_CRITICAL);
	usleep(1100000);
	assert_int_equal(system_wait(&s), SYSTEM_CRITICAL);
	system_close(&s);
}

/* CPU time of this thread, and how often it went to sleep. */
static void costs(uint64_t *cpu_ns, long *sleeps)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	*cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
	*sleeps = usage.ru_nvcsw;
}

static void expect_idle(struct script *script, enum system_level want)
{
	uint64_t cpu_ns, cpu_after_ns;
	long sleeps, sleeps_after;

	/* Making and joining the other thread is no part of it: milliseconds under ThreadSanitizer. */
	pthread_create(&script->thread, NULL, play, script);
	costs(&cpu_ns, &sleeps);
	assert_int_equal(system_wait(script->system), want);
	costs(&cpu_after_ns, &sleeps_after);
	pthread_join(script->thread, NULL);
	if (cpu_after_ns - cpu_ns > 5 * MS || sleeps_after - sleeps > 10)
		fail_msg("%lu us of CPU, %ld sleeps", (cpu_after_ns - cpu_ns) / 1000, sleeps_after - sleeps);
}

static void waiting_costs_nothing(void **state)
{
	struct larder_system s;
	struct script quiet = { &s, { { 300, SYSTEM_WARNING, 1 } }, 0 };
	struct script storm = { &s, { { 0, SYSTEM_WARNING, 100 }, { 200, SYSTEM_URGENT, 1 } }, 0 };

	(void)state;
	open_v1_alone(&s);
	expect_idle(&quiet, SYSTEM_WARNING);
	expect_idle(&storm, SYSTEM_URGENT); /* a storm of what was just reported */
	system_close(&s);
}

/* Put another file in the place of a source's. */
static void replace(struct system_source *source, int fd)
{
	assert_int_equal(dup2(fd, source->fd), source->fd);
	close(fd);
}

static void a_source_whose_cgroup_is_gone_is_dropped(void **state)
{
	struct larder_system s;
	struct system_source *urgent;
	struct script later = { &s, { { 100, SYSTEM_WARNING, 1 } }, 0 };
	int ends[2];

	(void)state;
	make_v2("/own");
	make_v1("/own");
	write_text(own_cgroup, "4:memory:/own\n0::/own\n");
	opens(&s, 4 + 3);
	urgent = source_of(&s, SYSTEM_CGROUP_STALLS, SYSTEM_URGENT);
	assert_int_equal(pipe(ends), 0);
	close(ends[0]); /* a pipe that nobody reads: POLLERR */
	replace(urgent, ends[1]);
	wait_for(&later, SYSTEM_WARNING);
	assert_int_equal(urgent->fd, -1);
	system_close(&s);
}

/* Out-of-band data is POLLPRI. Returns the other end, or -1 where the kernel has none for Unix sockets. */
static int make_urgent(struct system_source *source)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	replace(source, ends[0]);
	if (send(ends[1], "!", 1, MSG_OOB) == 1)
		return ends[1];
	close(ends[1]);
	return -1;
}

/* A stall of the machine is all there is, until 100 ms later the own cgroup's lowest level comes. Returns the report.
 */
static enum system_level stall_while(const char *memory)
{
	struct larder_system s;
	struct script later = { &s, { { 100, SYSTEM_WARNING, 1 } }, 0 };
	enum system_level level;
	int end;

	write_text(meminfo, memory);
	opens(&s, 3 + 3);
	end = make_urgent(source_of(&s, SYSTEM_MACHINE_STALLS, SYSTEM_URGENT));
	if (end < 0)
		skip();
	pthread_create(&later.thread, NULL, play, &later);
	level = system_wait(&s);
	pthread_join(later.thread, NULL);
	close(end);
	system_close(&s);
	return level;
}

static void stalls_of_the_machine_count_when_its_memory_is_short(void **state)
{
	(void)state;
	make_v1("/own");
	write_text(own_cgroup, "4:memory:/own\n");
	write_text(machine_pressure, "");
	assert_int_equal(stall_while("MemTotal:   1000 kB\nMemFree:   1 kB\nMemAvailable:   100 kB\n"), SYSTEM_URGENT);
	assert_int_equal(stall_while("MemTotal:   1000 kB\nMemFree:   1 kB\nMemAvailable:   900 kB\n"), SYSTEM_WARNING);
	assert_int_equal(stall_while("garbage"), SYSTEM_URGENT);
}

static void stalls_of_the_machine_are_all_that_a_process_without_cgroups_has(void **state)
{
	struct larder_system s;
	int end;

	(void)state;
	write_text(machine_pressure, "");
	write_text(meminfo, "MemTotal:   1000 kB\nMemAvailable:   900 kB\n");
	opens(&s, 3);
	end = make_urgent(source_of(&s, SYSTEM_MACHINE_STALLS, SYSTEM_CRITICAL));
	if (end < 0)
		skip();
	assert_int_equal(system_wait(&s), SYSTEM_CRITICAL);
	close(end);
	system_close(&s);
}

int main(void)
{
#define test(f) cmocka_unit_test_setup(f, new_machine)
	const struct CMUnitTest tests[] = {
		test(the_own_cgroups_are_found),
		test(what_is_not_a_cgroup_is_ignored),
		test(overlong_lines_and_binary_garbage_are_skipped),
		test(a_machine_without_sources_has_none_and_needs_no_thread),
		test(the_real_machine_can_be_asked),
		test(a_v1_cgroup_is_watched_up_to_the_mount_point),
		test(in_a_container_the_mount_point_is_the_own_cgroup),
		test(more_cgroups_than_there_is_room_for_do_no_harm),
		test(v1_is_told_which_eventfd_and_level),
		test(a_v2_cgroup_has_stalls_and_limits),
		test(the_root_of_v2_has_no_stalls_of_its_own),
		test(events_count_only_when_they_grow),
		test(a_trigger_with_a_window_of_2_s_needs_proof),
		test(each_v1_level_has_its_level),
		test(the_highest_of_several_levels_is_reported),
		test(a_level_is_not_repeated_for_a_second_but_a_higher_one_comes_at_once),
		test(what_came_during_a_long_callback_is_old_news),
		test(waiting_costs_nothing),
		test(a_source_whose_cgroup_is_gone_is_dropped),
		test(stalls_of_the_machine_count_when_its_memory_is_short),
		test(stalls_of_the_machine_are_all_that_a_process_without_cgroups_has),
	};

	return cmocka_run_group_tests(tests, make_root, remove_root);
}
