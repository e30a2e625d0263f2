#include "turn.h"

#include "cgroup.h"
#include "clock.h"
#include "progress.h"
#include "sysfile.h"
#include "watcher.h"

#include <err.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	OOM_REPEATS = 8,
	OOM_GIFT_DIVISOR = 50,
	LIMIT_STEPS = 256,
	LIMITED_TICK_US = 5000,
	FREE_TICK_US = 100000,
	LEAST_SHARE = 8
};

static char cgroup[CGROUP_PATH_BYTES];
static int descriptor = -1;	    /* of the turn */
static const char *turn_group = ""; /* the cgroup during this turn */

static struct {
	struct progress progress;
	unsigned expected, finished;
	double shown; /* in turns */
	char phase[64];
} whole;

/* ---- before and after ---- */

static void put_back(void)
{
	int err;

	peer_put_back();
	err = *cgroup ? cgroup_remove(cgroup) : 0;
	if (err)
		warnx("cannot remove the cgroup %s: %s", cgroup, strerror(-err));
}

static void make_cgroup(void)
{
	int err = cgroup_create(cgroup);

	if (!err)
		return;
	*cgroup = 0;
	errx(2, "no memory cgroup can be made: %s; without one a peer cannot be limited",
	     err == -EOPNOTSUPP ? "there is no memory controller" : strerror(-err));
}

void turns_begin(const struct peer *peer, const char *dir, uint64_t bytes)
{
	if (!peer)
		return;
	peer_prepare(peer, dir, bytes);
	make_cgroup();
	watcher_begin(put_back);
}

void turns_expect(const char *benchmark, unsigned count)
{
	whole.expected = count;
	whole.finished = 0;
	snprintf(whole.phase, sizeof(whole.phase), "%s", benchmark);
	progress_start(&whole.progress, whole.phase, "%", 100);
}

void turns_end(void)
{
	progress_end(&whole.progress);
}

/* ---- the contender's process ---- */

void turn_join_cgroup(void)
{
	int err = *turn_group ? cgroup_join(turn_group) : 0;

	if (err)
		errx(2, "cannot join the cgroup %s: %s", turn_group, strerror(-err));
}

int turn_descriptor(void)
{
	return descriptor;
}

const char *turn_cgroup(void)
{
	return turn_group;
}

/* ---- holding the limit, looking at memory ---- */

static uint64_t pool_bytes(const struct turn_setup *s)
{
	return s->peer && s->peer->pool_bytes ? s->peer->pool_bytes() : 0;
}

static uint64_t own_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What cannot be reclaimed at this moment (version 1 says EBUSY) can be soon. */
static void set_limit(struct turn *t, uint64_t bytes, uint64_t *now)
{
	uint64_t cpu_ns = own_cpu_ns();
	int err = cgroup_limit(turn_group, bytes);

	if (err && err != -EBUSY)
		errx(2, "cannot limit the cgroup %s: %s", turn_group, strerror(-err));
	if (!err)
		*now = bytes;
	atomic_fetch_add(&t->limiter_cpu_ns, own_cpu_ns() - cpu_ns);
}

/*
 * A pool that takes all there is would leave no RAM to use pages in: then the total is above the limit, and shows.
 * Down it goes in small steps: version 1 puts a limit in force only when enough has been reclaimed for it, and while
 * that takes long, the contender fetches pages as before. Returns 1 when another step is due at once.
 */
static int hold_limit(struct turn *t, const struct turn_setup *s, uint64_t *now)
{
	uint64_t pool = pool_bytes(s), least = s->limit_bytes / LEAST_SHARE;
	uint64_t ram = pool + least < s->limit_bytes ? s->limit_bytes - pool : least;
	uint64_t step = s->limit_bytes / LIMIT_STEPS, before = *now;

	if (cgroup_is_waiting(turn_group))
		set_limit(t, before + step, now);
	else if (ram > before + step)
		set_limit(t, ram, now);
	else if (ram + step < before)
		set_limit(t, before - step, now);
	return ram + 2 * step < *now;
}

/* Without files: code and libraries are there for everybody, and no cgroup is charged for what was in RAM before. */
static uint64_t anonymous_bytes(pid_t pid)
{
	char path[64], text[128];
	unsigned long long resident = 0, files = 0;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	if (!sysfile_read(path, text, sizeof(text)))
		sscanf(text, "%*u %llu %llu", &resident, &files);
	return resident > files ? (resident - files) * 4096 : 0;
}

static void look_at_memory(struct turn *t, const struct turn_setup *s)
{
	pid_t pid = atomic_load(&t->pid);
	uint64_t pool = pool_bytes(s), bytes;

	if (!pid)
		return;
	bytes = s->peer ? cgroup_usage_bytes(turn_group) + pool : anonymous_bytes(pid);
	if (!s->peer)
		bytes = bytes > t->base_bytes ? bytes - t->base_bytes : 0;
	if (bytes > t->peak_bytes)
		t->peak_bytes = bytes;
	if (pool > t->peak_pool_bytes)
		t->peak_pool_bytes = pool;
}

/* A turn may go over its memory more than once: the bar does not go back for it. */
static void show_progress(const struct turn *t)
{
	double done = whole.finished + atomic_load(&t->done);

	if (done > whole.shown)
		whole.shown = done;
	progress_show(&whole.progress, 100 * whole.shown / whole.expected);
}

/* ---- one turn ---- */

static void clear(struct turn *t)
{
	memset(t, 0, sizeof(*t));
	for (unsigned i = 0; i < FIGURES_MAX; i++)
		t->figures[i] = NAN;
}

static struct turn *make_turn(void)
{
	descriptor = memfd_create("larder-bench-turn", 0);
	if (descriptor < 0 || ftruncate(descriptor, sizeof(struct turn)))
		err(2, "no memory");
	return turn_map(descriptor);
}

static pid_t start(struct turn *t, const struct turn_setup *s)
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		err(2, "cannot fork");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(2);
	s->body(t, s->arg);
	fflush(NULL);
	_exit(0);
}

static int wait_and_hold(struct turn *t, const struct turn_setup *s, pid_t pid, uint64_t *limit_now)
{
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		int is_behind = s->peer && s->limit_bytes ? hold_limit(t, s, limit_now) : 0;

		atomic_store(&t->is_settled, !is_behind);
		look_at_memory(t, s);
		show_progress(t);
		if (!is_behind)
			usleep(s->limit_bytes ? LIMITED_TICK_US : FREE_TICK_US);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Version 1 does not know "no limit" by name. */
static int run_once(struct turn *t, const struct turn_setup *s, unsigned run)
{
	uint64_t limit_now = 0;
	int status;

	clear(t);
	t->run = run;
	turn_group = s->peer ? cgroup : "";
	if (s->peer) {
		set_limit(t, s->limit_bytes ? s->limit_bytes : 1ull << 50, &limit_now);
		cgroup_wait_for_memory(turn_group, s->waits_for_memory);
		s->peer->on();
	}
	status = wait_and_hold(t, s, start(t, s), &limit_now);
	if (s->peer)
		s->peer->off();
	return status;
}

/* SIGSEGV: in a thread that waits for memory, when the kernel has to write for it (rseq(2)). */
static int is_for_want_of_memory(int status)
{
	return status == 128 + SIGKILL || status == 128 + SIGSEGV;
}

int turn_run(struct turn **turn, const struct turn_setup *s, const char *name, unsigned run, unsigned *killed)
{
	static struct turn *shared;
	struct turn_setup setup = *s;
	int status;

	if (!shared)
		shared = make_turn();
	*turn = shared;
	for (unsigned n = 0;; n++) {
		setup.limit_bytes = s->limit_bytes + *killed * (s->limit_bytes / OOM_GIFT_DIVISOR);
		status = run_once(shared, &setup, run);
		if (n == OOM_REPEATS || !is_for_want_of_memory(status) || !s->peer)
			break;
		++*killed;
		warnx("%s was killed in its cgroup; again, with 2 %% more memory", name);
	}
	whole.finished++;
	return status;
}
