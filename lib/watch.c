/*
 * Watch. See watch.h.
 */
#include "watch.h"

#include "linux_userfaultfd.h"
#include "futex.h"
#include "idle.h"
#include "sys.h"
#include "thread.h"

#include <sys/eventfd.h>

/* Faults that come so soon after the last, so many in a row, put somebody on duty. */
enum { SOON_NS = 50000, SOON_FAULTS = 8 };

/* Duty is over when nothing has come for so long. */
#define DUTY_NS 10000000u

/* One fault in so many is located; a handler leaves when so many of them in a row were of other CPUs. */
enum { LOCATE_EVERY = 64, AWAY_MAX = 2 };

/* Nobody wants a CPU that comes back so soon. So often it is looked then, before the handler sleeps. */
enum { IDLE_YIELD_NS = 1000, IDLE_LOOKS_MAX = 100 };

/*
 * A look that finds something is late when it comes so long after the last, which is less than a slice. Then the
 * handler does not attend for so many times as long. But it may have found what came just now, after the program had
 * the CPU all the while: so it is for AWAY_NS at most, unless it was late soon after it had been away.
 */
enum { LATE_NS = 1000000, LATE_FACTOR = 20, AWAY_NS = 20000000 };

static struct {
	struct watcher *watchers[WATCH_MAX];
	_Atomic uint32_t count;
	struct larder_mutex lock;    /* who is on duty changes under it, and the bell with it */
	int bell;		     /* an eventfd, readable while anybody is on duty */
	_Atomic uint32_t on_duty;    /* how many are */
	struct larder_event changed; /* posted when somebody was put on duty, or nobody is any more */
} watch;

int watch_open(void)
{
	__builtin_memset(&watch, 0, sizeof(watch)); /* in a forked child it has the parent's */
	watch.bell = (int)sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return watch.bell < 0 ? watch.bell : 0;
}

void watch_join(struct watcher *w, int uffd, struct larder_reader *reader, int cpu)
{
	uint32_t n;

	*w = (struct watcher){ .uffd = uffd, .reader = reader, .cpu = cpu };
	if (cpu == WATCH_NO_CPU)
		return;
	w->may_attend = idle_may_return();
	n = atomic_load(&watch.count);
	watch.watchers[n] = w;
	atomic_store(&watch.count, n + 1);
}

/* ---- where threads are ---- */

/* "/proc/self/task/TID/stat". */
static void stat_path(char *path, unsigned tid)
{
	static const char before[] = "/proc/self/task/", after[] = "/stat";
	char digits[10];
	int n = 0;

	__builtin_memcpy(path, before, sizeof(before) - 1);
	path += sizeof(before) - 1;
	do
		digits[n++] = (char)('0' + tid % 10);
	while (tid /= 10);
	while (n)
		*path++ = digits[--n];
	__builtin_memcpy(path, after, sizeof(after));
}

/* Field 39 of the text; the second one is a name in parentheses, in which anything may be. */
static int parse_cpu(const char *text)
{
	const char *p = text;
	int field = 2, cpu = 0;

	for (const char *at = text; *at; at++)
		if (*at == ')')
			p = at;
	for (; *p && field < 39; p++)
		field += *p == ' ';
	if (!*p)
		return WATCH_NO_CPU;
	for (; *p >= '0' && *p <= '9'; p++)
		cpu = 10 * cpu + *p - '0';
	return cpu;
}

/* The CPU that a thread runs on, or ran on when it fell asleep. */
static int cpu_of(unsigned tid)
{
	char path[48], text[512];
	long fd, n;

	stat_path(path, tid);
	fd = sys_open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return WATCH_NO_CPU;
	n = sys_read((int)fd, text, sizeof(text) - 1);
	sys_close((int)fd);
	text[n > 0 ? n : 0] = 0;
	return parse_cpu(text);
}

/* ---- duty ---- */

/* Returns 0 when nothing has changed. */
static int set_duty(struct watcher *w, uint32_t to)
{
	const uint64_t one = 1;
	uint64_t count;
	int changed;

	mutex_lock(&watch.lock);
	changed = atomic_exchange(&w->on_duty, to) != to;
	if (changed && to && atomic_fetch_add(&watch.on_duty, 1) == 0)
		sys_write(watch.bell, &one, sizeof(one));
	if (changed && !to && atomic_fetch_sub(&watch.on_duty, 1) == 1)
		sys_read(watch.bell, &count, sizeof(count));
	mutex_unlock(&watch.lock);
	return changed;
}

/* Who stands by looks whether it is him, or whether nobody is on duty any more. */
static void put_on_duty(struct watcher *w)
{
	if (!atomic_load(&w->on_duty) && set_duty(w, 1))
		event_post(&watch.changed);
}

static void end_duty(struct watcher *w)
{
	w->soon = w->away = 0;
	if (atomic_load(&w->on_duty) && set_duty(w, 0))
		event_post(&watch.changed);
}

static struct watcher *watcher_of(int cpu)
{
	uint32_t n = atomic_load(&watch.count);

	for (uint32_t i = 0; i < n; i++)
		if (watch.watchers[i]->cpu == cpu)
			return watch.watchers[i];
	return NULL;
}

/* Put on duty whose CPU the fault is of, and leave it to him if it is always somebody else's. */
static void locate(struct watcher *w, const struct uffd_msg *message)
{
	struct watcher *there = watcher_of(cpu_of(message->arg.pagefault.feat.ptid));

	if (!there)
		return;
	put_on_duty(there);
	w->away = there == w ? 0 : w->away + 1;
	if (w->away >= AWAY_MAX)
		end_duty(w);
}

/* The CPUs whose handlers are on duty. Returns how many. */
static unsigned duty_cpus(int cpus[WATCH_MAX])
{
	uint32_t n = atomic_load(&watch.count);
	unsigned found = 0;

	for (uint32_t i = 0; atomic_load(&watch.on_duty) && i < n; i++)
		if (atomic_load(&watch.watchers[i]->on_duty))
			cpus[found++] = watch.watchers[i]->cpu;
	return found;
}

int watch_keep_off(int tid, int cpu, _Atomic uint64_t *off)
{
	int cpus[WATCH_MAX + 1];
	unsigned n = duty_cpus(cpus);
	uint64_t now = 0;

	if (cpu != WATCH_NO_CPU)
		cpus[n++] = cpu;
	for (unsigned i = 0; i < n; i++)
		now |= (uint64_t)1 << cpus[i] % 64;
	if (atomic_load(off) == now)
		return 1;
	if (thread_keep_off(tid, cpus, n) < 0)
		return 0;
	atomic_store(off, now);
	return 1;
}

void watch_let_go(_Atomic uint64_t *off)
{
	if (atomic_exchange(off, 0))
		thread_keep_off(0, NULL, 0);
}

/* ---- attending ---- */

void watch_hurry(struct watcher *w)
{
	if (w->attends)
		idle_end(0);
	w->attends = 0;
}

/* Somebody else may need the CPU. */
static void give_way(struct watcher *w, uint64_t now)
{
	int again = w->looked_ns < w->not_before_ns + w->away_ns;
	uint64_t away_ns = LATE_FACTOR * (now - w->looked_ns);

	watch_hurry(w);
	w->away_ns = again || away_ns < AWAY_NS ? away_ns : AWAY_NS;
	w->not_before_ns = now + w->away_ns;
}

static long read_now(struct watcher *w, struct uffd_msg *message)
{
	return sys_read(w->uffd, message, sizeof(*message));
}

static int has_read(const struct watcher *w)
{
	return w->reader && swap_in_is_ready(w->reader);
}

static long attend(struct watcher *w, struct uffd_msg *message)
{
	for (unsigned idle = 0; idle <= IDLE_LOOKS_MAX;) {
		uint64_t now = sys_now_ns();
		long n = read_now(w, message);
		int found = n != -EAGAIN || has_read(w);

		if (found && now - w->looked_ns > LATE_NS)
			give_way(w, now);
		w->looked_ns = now;
		if (found)
			return n;
		sys_yield();
		idle = sys_now_ns() - now < IDLE_YIELD_NS ? idle + 1 : 0;
	}
	watch_hurry(w);
	w->rests = 1;
	return -EAGAIN;
}

static int begin_attending(struct watcher *w, uint64_t now)
{
	if (!w->may_attend || w->rests || now < w->not_before_ns || idle_begin() < 0)
		return 0;
	w->looked_ns = now;
	w->attends = 1;
	return 1;
}

/* ---- waiting ---- */

/* Sleep until there is a message (uffd), the bell is rung, or the reader may have something to do; -1: no matter.
 * Returns as poll(2). */
static long sleep_until_called(const struct watcher *w, int uffd, int bell, int64_t timeout_ns)
{
	int done = w->reader ? swap_in_done_fd(w->reader) : -1;
	struct pollfd fds[] = {
		{ .fd = uffd, .events = POLLIN },
		{ .fd = bell, .events = POLLIN },
		{ .fd = done, .events = POLLIN },
	};
	uint64_t times;
	long n = sys_poll(fds, sizeof(fds) / sizeof(*fds), timeout_ns);

	if (n > 0 && fds[2].revents)
		sys_read(done, &times, sizeof(times));
	return n;
}

/* Everybody listens, until somebody is on duty. */
static long listen(struct watcher *w, struct uffd_msg *message)
{
	sleep_until_called(w, w->uffd, watch.bell, -1);
	return read_now(w, message);
}

/* On duty, but asleep. */
static long await(struct watcher *w, struct uffd_msg *message)
{
	if (sleep_until_called(w, w->uffd, -1, DUTY_NS) == 0)
		end_duty(w);
	return read_now(w, message);
}

static void note(struct watcher *w, const struct uffd_msg *message, uint64_t asked_ns)
{
	if (atomic_load_explicit(&w->on_duty, memory_order_relaxed)) {
		if (++w->served % LOCATE_EVERY == 0)
			locate(w, message);
		return;
	}
	w->soon = sys_now_ns() - asked_ns < SOON_NS ? w->soon + 1 : 0;
	if (w->soon > SOON_FAULTS && atomic_load(&watch.count) > 1) {
		w->soon = 0;
		locate(w, message);
	}
}

/* Others are on duty. */
static long stand_by(struct watcher *w)
{
	uint32_t seen = event_count(&watch.changed);

	if (w->reader && swap_in_is_busy(w->reader))
		sleep_until_called(w, -1, -1, -1);
	else if (atomic_load(&watch.on_duty) && !atomic_load(&w->on_duty))
		event_wait(&watch.changed, seen, 0);
	return -EAGAIN;
}

static long wait_for_message(struct watcher *w, struct uffd_msg *message, uint64_t now)
{
	if (atomic_load(&w->on_duty))
		return begin_attending(w, now) ? attend(w, message) : await(w, message);
	return atomic_load(&watch.on_duty) ? stand_by(w) : listen(w, message);
}

long watch_read(struct watcher *w, struct uffd_msg *message)
{
	uint64_t asked = w->attends ? 0 : sys_now_ns();
	long n = w->attends ? attend(w, message) : wait_for_message(w, message, asked);

	if (n != -EAGAIN)
		w->rests = 0;
	if (n == (long)sizeof(*message) && message->event == UFFD_EVENT_PAGEFAULT)
		note(w, message, asked);
	if (!atomic_load_explicit(&w->on_duty, memory_order_relaxed))
		watch_hurry(w);
	return n;
}
