/*
 * torture: the watchman. Each thread of the family has a slot in shared memory, in which it counts what it does. The
 * watchman looks at the counts; it owns nothing that can be taken out, and so cannot be stopped by what it looks for.
 */
#include "torture.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct slot *slots;

void slots_create(void)
{
	slots = mmap(NULL, SLOTS * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED) {
		perror("torture: mmap");
		exit(1);
	}
}

struct slot *slot_take(unsigned worker)
{
	for (struct slot *s = slots; s < slots + SLOTS; s++) {
		pid_t nobody = 0;

		if (!atomic_compare_exchange_strong(&s->pid, &nobody, getpid()))
			continue;
		s->worker = worker;
		s->tid = gettid();
		note(s, "begins");
		return s;
	}
	fail(&workers[worker], "more than %d threads live", SLOTS);
}

void slot_release(struct slot *s)
{
	s->tid = 0;
	s->pid = 0;
}

void slots_release_of(pid_t pid)
{
	for (struct slot *s = slots; s < slots + SLOTS; s++)
		if (s->pid == pid)
			slot_release(s);
}

/* ---- where everybody is ---- */

/* Prints what a command says. Commands run without what was preloaded here. */
static void print(const char *format, int pid)
{
	char command[512];

	snprintf(command, sizeof(command), format, pid);
	fprintf(stderr, "---- %s\n", command);
	if (system(command) == -1)
		perror("torture: system");
}

static void print_process(pid_t pid, const char *stat_command)
{
	char stat[256];

	snprintf(stat, sizeof(stat), "env -u LD_PRELOAD timeout 20 %s %%d >&2", stat_command);
	print("cd /proc/%d/task && for t in *; do for f in comm wchan syscall stack; do "
	      "echo \"$t $f: $(cat $t/$f 2>&1 | tr '\\n\\0' '; ')\"; done; grep -E '^(State|Sig|Shd)' $t/status; done >&2",
	      pid);
	print(stat, pid);
	print("command -v gdb >/dev/null && env -u LD_PRELOAD timeout 60 gdb -batch -p %d -ex 'thread apply all bt 16' >&2",
	      pid);
}

static void print_all(const char *stat_command)
{
	for (struct slot *s = slots; s < slots + SLOTS; s++)
		if (s->pid)
			fprintf(stderr, "process %d thread %d worker %u: %s (%" PRIu64 ")\n", (int)s->pid, (int)s->tid,
				s->worker, s->doing, (uint64_t)s->progress);
	for (struct slot *s = slots; s < slots + SLOTS; s++) {
		int is_first = s->pid != 0;

		for (struct slot *before = slots; before < s; before++)
			is_first &= before->pid != s->pid;
		if (is_first)
			print_process(s->pid, stat_command);
	}
}

/* ---- watching ---- */

/* The longest that a living thread has stood still, in seconds. */
static unsigned longest_standstill(void)
{
	static struct {
		pid_t tid;
		uint64_t progress;
		time_t since;
	} last[SLOTS];
	time_t now = time(NULL);
	unsigned longest = 0;

	for (int i = 0; i < SLOTS; i++) {
		struct slot *s = &slots[i];

		if (s->pid == 0 || s->tid != last[i].tid || s->progress != last[i].progress) {
			last[i].tid = s->tid;
			last[i].progress = s->progress;
			last[i].since = now;
		} else if (now - last[i].since > longest) {
			longest = (unsigned)(now - last[i].since);
		}
	}
	return longest;
}

int watch(pid_t pid, unsigned hang_seconds, const char *stat_command)
{
	int status = -1;
	pid_t ended;

	while ((ended = waitpid(pid, &status, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
		usleep(100000);
		if (longest_standstill() < hang_seconds)
			continue;
		fprintf(stderr, "torture: a thread has stood still for %u s\n", hang_seconds);
		print_all(stat_command);
		kill(-pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return -1;
	}
	kill(-pid, SIGKILL); /* what a process that failed has left */
	if (status)
		fprintf(stderr, "torture: the process ended with status 0x%x\n", (unsigned)status);
	return status == 0 ? 0 : -1;
}
