/*
 * Sources of news about memory outside the process. See system.h.
 *
 * Files are opened once; what they say is read into buffers on the stack. A source whose cgroup is gone is dropped.
 */
#include "system.h"

#include "sys.h"
#include "text.h"
#include "thread.h"

#include <string.h>
#include <sys/eventfd.h>

/* Time between two reports of one level: as long as the window of the stall triggers. */
#define QUIET_NS ((uint64_t)1000000000)

/* Memory of the machine counts as short while less than 1/8 is available. */
enum { SHORT_SHARE = 8 };

/* Enough for /proc/meminfo's first lines, and for any of the other files as a whole. */
enum { CONTENT_BYTES = 1024 };

/* ---- text ---- */

/* The place behind the first word of `text` that begins with `key`. NULL text = NULL. */
static const char *find(const char *text, const char *key)
{
	int at_word = 1;

	for (; text && *text; text++) {
		size_t i = 0;

		while (at_word && key[i] && text[i] == key[i])
			i++;
		if (at_word && !key[i])
			return text + i;
		at_word = *text == ' ' || *text == '\n';
	}
	return NULL;
}

/* The number at `p`; 0 if there is none. */
static uint64_t number_at(const char *p)
{
	uint64_t n = 0;

	while (p && *p == ' ')
		p++;
	for (; p && *p >= '0' && *p <= '9'; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	return n;
}

/* The file's beginning, as a string. Returns its length, or a negative errno. */
static long read_content(int fd, char text[CONTENT_BYTES])
{
	long n = sys_pread(fd, text, CONTENT_BYTES - 1, 0);

	text[n > 0 ? n : 0] = 0;
	return n;
}

/* ---- paths ---- */

/* A path, built from its beginning. It stays usable as a path when something does not fit, but is `cut`. */
struct path {
	size_t length;
	int cut;
	char bytes[SYSTEM_PATH_BYTES];
};

static void path_add(struct path *p, const char *s)
{
	while (*s && p->length < sizeof(p->bytes) - 1)
		p->bytes[p->length++] = *s++;
	p->cut |= *s != 0;
	p->bytes[p->length] = 0;
}

static void path_shorten(struct path *p, size_t length)
{
	p->length = length;
	p->bytes[length] = 0;
}

/* Open directory/name. */
static int open_in(struct path *directory, const char *name, int flags)
{
	size_t length = directory->length;
	long fd = -ENAMETOOLONG;

	path_add(directory, "/");
	path_add(directory, name);
	if (!directory->cut)
		fd = sys_open(directory->bytes, flags | O_CLOEXEC);
	directory->cut = 0;
	path_shorten(directory, length);
	return (int)fd;
}

static int exists_in(struct path *directory, const char *name)
{
	int fd = open_in(directory, name, O_PATH);

	if (fd >= 0)
		sys_close(fd);
	return fd >= 0;
}

/* The directory of a cgroup, without a slash at its end. Returns 0 if the path is too long. */
static int cgroup_directory(struct path *p, const char *mount, const char *cgroup)
{
	p->length = 0;
	p->cut = 0;
	path_add(p, mount);
	if (cgroup[0] == '/' && cgroup[1])
		path_add(p, cgroup);
	return !p->cut;
}

/* From a cgroup to the one it is in. Returns 0 at the mount point. */
static int cgroup_up(struct path *p, size_t mount_length)
{
	size_t length = p->length;

	while (length > mount_length && p->bytes[length - 1] != '/')
		length--;
	if (length <= mount_length)
		return 0;
	path_shorten(p, length - 1);
	return 1;
}

static size_t length_of(const char *s)
{
	size_t n = 0;

	while (n < SYSTEM_PATH_BYTES && s[n])
		n++;
	return n;
}

/* ---- /proc/self/cgroup ---- */

struct reader {
	int fd;
	size_t at, length;
	char bytes[512];
};

/* Returns the next byte, or -1 at the end. */
static int next_byte(struct reader *r)
{
	if (r->at == r->length) {
		long n = sys_read(r->fd, r->bytes, sizeof(r->bytes));

		if (n <= 0)
			return -1;
		r->at = 0;
		r->length = (size_t)n;
	}
	return (unsigned char)r->bytes[r->at++];
}

/* Read a line, without its end. Returns 0 at the end of the file. A line that does not fit reads as an empty one. */
static int next_line(struct reader *r, char line[SYSTEM_PATH_BYTES])
{
	size_t length = 0;
	int c = next_byte(r);

	if (c < 0)
		return 0;
	for (; c >= 0 && c != '\n'; c = next_byte(r)) {
		if (length < SYSTEM_PATH_BYTES)
			line[length] = (char)c;
		length += length < SYSTEM_PATH_BYTES;
	}
	line[length < SYSTEM_PATH_BYTES ? length : 0] = 0;
	return 1;
}

/* Is `memory` in the list of controllers that ends with a colon? */
static int names_memory(const char *list)
{
	static const char name[] = "memory";

	while (*list && *list != ':') {
		size_t i = 0;

		while (name[i] && list[i] == name[i])
			i++;
		if (!name[i] && (list[i] == ',' || list[i] == ':'))
			return 1;
		while (*list && *list != ':' && *list++ != ',')
			;
	}
	return 0;
}

/* The kernel shows a cgroup outside the cgroup namespace as "/../...": its files are nowhere to be seen. */
static int leaves_namespace(const char *path)
{
	for (; *path; path++)
		if (path[0] == '/' && path[1] == '.' && path[2] == '.' && (!path[3] || path[3] == '/'))
			return 1;
	return 0;
}

static void copy_path(char to[SYSTEM_PATH_BYTES], const char *from)
{
	size_t n = length_of(from);

	memcpy(to, from, n);
	to[n] = 0;
}

/* A line is "ID:controller,controller:/path"; that of cgroup v2 has ID 0 and no controllers. See cgroups(7). */
static void take_cgroup(struct system_cgroups *cgroups, const char *line)
{
	const char *list = line, *path;

	while (*list >= '0' && *list <= '9')
		list++;
	if (list == line || *list++ != ':')
		return;
	for (path = list; *path && *path != ':'; path++)
		;
	if (path[0] != ':' || path[1] != '/' || leaves_namespace(path + 1))
		return;
	if (path == list)
		copy_path(cgroups->v2, path + 1);
	else if (names_memory(list))
		copy_path(cgroups->v1, path + 1);
}

void system_read_cgroups(const char *path, struct system_cgroups *cgroups)
{
	struct reader r = { .fd = (int)sys_open(path, O_RDONLY | O_CLOEXEC) };
	char line[SYSTEM_PATH_BYTES];

	cgroups->v1[0] = cgroups->v2[0] = 0;
	if (r.fd < 0)
		return;
	while (next_line(&r, line))
		take_cgroup(cgroups, line);
	sys_close(r.fd);
}

/* ---- opening ---- */

static struct system_source *add_source(struct larder_system *s, struct system_source source)
{
	if (s->count == SYSTEM_SOURCES_MAX)
		return NULL;
	s->sources[s->count] = source;
	return &s->sources[s->count++];
}

static void drop(struct system_source *source)
{
	if (source->fd >= 0)
		sys_close(source->fd);
	if (source->witness >= 0)
		sys_close(source->witness);
	source->fd = source->witness = -1;
}

/*
 * Stalls: "some" counts the time in which at least one task waited for memory, "full" the time in which all did.
 * A tenth of the time for somebody is felt; a twentieth for everybody costs that much throughput; with a third,
 * thrashing has begun.
 */
static const struct stall {
	const char *kind;
	unsigned threshold_us;
	enum system_level level;
} stalls[] = {
	{ "some", 100000, SYSTEM_WARNING },
	{ "full", 50000, SYSTEM_URGENT },
	{ "full", 300000, SYSTEM_CRITICAL },
};

enum { WINDOW_US = 1000000, UNPRIVILEGED_WINDOW_US = 2 * WINDOW_US, STALLS = sizeof(stalls) / sizeof(stalls[0]) };

/* Returns 0 or a negative errno. */
static long set_trigger(int fd, const struct stall *stall, unsigned window_us)
{
	unsigned windows = window_us / WINDOW_US;
	struct larder_text t = { .length = 0 };
	long n;

	text_string(&t, stall->kind);
	text_string(&t, " ");
	text_number(&t, (uint64_t)stall->threshold_us * windows);
	text_string(&t, " ");
	text_number(&t, window_us);
	t.bytes[t.length++] = 0; /* the kernel expects the zero: it overwrites the last byte with one */
	n = sys_write(fd, t.bytes, t.length);
	return n < 0 ? n : 0;
}

/*
 * A trigger lives as long as its file is open, and a file has one. Without CAP_SYS_RESOURCE, windows must be multiples
 * of 2 s (psi.rst: "Unprivileged users can also create monitors").
 *
 * Such a trigger's firing needs proof. Linux starts its first window from the stalls that privileged triggers have
 * seen, often none (psi_trigger_create() takes total[PSI_POLL] where update_triggers() will look at
 * total[PSI_AVGS]; 6.18), so that the first microsecond of stall sets it off for all that happened since boot; and the
 * second window is still measured with a part of the first. Seen: two false alarms of the highest level, 2 s apart.
 */
static int open_trigger(struct larder_system *s, enum system_kind kind, int fd, const struct stall *stall)
{
	struct system_source source = { .kind = kind, .level = stall->level, .fd = fd, .witness = -1 };
	char text[CONTENT_BYTES];
	long err = set_trigger(fd, stall, WINDOW_US);

	if (err == -EINVAL) {
		source.needed_us = stall->threshold_us * (UNPRIVILEGED_WINDOW_US / WINDOW_US);
		read_content(fd, text);
		system_stall_is_proved(&source, text);
		err = set_trigger(fd, stall, UNPRIVILEGED_WINDOW_US);
	}
	return !err && add_source(s, source);
}

enum { STALL_FLAGS = O_RDWR | O_NONBLOCK | O_CLOEXEC };

/* Returns the number of triggers set. */
static int open_cgroup_stalls(struct larder_system *s, struct path *cgroup)
{
	int opened = 0;

	for (int i = 0; i < STALLS; i++) {
		int fd = open_in(cgroup, "memory.pressure", STALL_FLAGS);

		if (fd >= 0 && open_trigger(s, SYSTEM_CGROUP_STALLS, fd, &stalls[i]))
			opened++;
		else if (fd >= 0)
			sys_close(fd);
	}
	return opened;
}

static void open_machine_stalls(struct larder_system *s, const char *path)
{
	for (int i = 0; i < STALLS; i++) {
		int fd = (int)sys_open(path, STALL_FLAGS);

		if (fd >= 0 && !open_trigger(s, SYSTEM_MACHINE_STALLS, fd, &stalls[i]))
			sys_close(fd);
	}
}

/* Limits of cgroup v2, of which the file tells by POLLPRI. */
static void open_v2_events(struct larder_system *s, struct path *cgroup)
{
	struct system_source source = { .kind = SYSTEM_V2_EVENTS, .level = SYSTEM_CRITICAL, .witness = -1 };
	char text[CONTENT_BYTES];

	source.fd = open_in(cgroup, "memory.events.local", O_RDONLY);
	if (source.fd < 0)
		return;
	if (read_content(source.fd, text) < 0) {
		drop(&source);
		return;
	}
	system_events_level(&source.events, text);
	if (!add_source(s, source))
		drop(&source);
}

/*
 * cgroup v2: stalls of the own cgroup include those due to a limit further up; limits are each cgroup's own news, which
 * is why memory.events.local is asked and not memory.events, which would tell of neighbours' limits too.
 * The root cgroup has neither limits nor stalls other than the machine's; cgroup.events "exists on non-root cgroups".
 */
static void open_v2(struct larder_system *s, const char *mount, const char *cgroup)
{
	struct path p;
	size_t mount_length = length_of(mount);

	if (!cgroup[0] || !cgroup_directory(&p, mount, cgroup) || !exists_in(&p, "cgroup.controllers"))
		return;
	s->doubt_machine = 1;
	if (exists_in(&p, "cgroup.events"))
		open_cgroup_stalls(s, &p);
	do
		open_v2_events(s, &p);
	while (cgroup_up(&p, mount_length));
}

/* Returns whether the kernel accepted it. */
static int register_v1(int control, const struct system_source *source, const char *level)
{
	struct larder_text t = { .length = 0 };

	text_number(&t, (uint64_t)source->fd);
	text_string(&t, " ");
	text_number(&t, (uint64_t)source->witness);
	text_string(&t, " ");
	text_string(&t, level);
	t.bytes[t.length++] = 0;
	return sys_write(control, t.bytes, t.length) > 0;
}

/* One level of one cgroup: an eventfd that the kernel signals. */
static void open_v1_level(struct larder_system *s, struct path *cgroup, enum system_level level)
{
	/* "local": only what happens in this cgroup, not in those below it, our neighbours among them. */
	static const char *const names[] = { "", "low,local", "medium,local", "critical,local" };
	struct system_source source = { .kind = SYSTEM_V1_LEVEL, .level = level };
	int control = open_in(cgroup, "cgroup.event_control", O_WRONLY), ok;

	source.fd = (int)sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	source.witness = open_in(cgroup, "memory.pressure_level", O_RDONLY);
	ok = control >= 0 && source.fd >= 0 && source.witness >= 0 && register_v1(control, &source, names[level]) &&
	     add_source(s, source);
	if (control >= 0)
		sys_close(control);
	if (!ok)
		drop(&source);
}

static void open_v1_levels(struct larder_system *s, struct path *cgroup, enum system_level lowest)
{
	for (enum system_level level = lowest; level <= SYSTEM_CRITICAL; level++)
		open_v1_level(s, cgroup, level);
}

/*
 * cgroup v1: who runs into a limit is told, and those above; not those below. So the way up to the mount point is
 * watched; from the second cgroup on without level "low", which says no more than that memory is being recycled.
 * The root, where the machine as a whole is reclaimed, recycles all the time; it alone has cgroup.sane_behavior.
 * In a container, the mount point may be the own cgroup although /proc/self/cgroup gives its path outside: the first
 * one that is found on the way up counts as the own.
 */
static void open_v1(struct larder_system *s, const char *mount, const char *cgroup)
{
	struct path p;
	size_t mount_length = length_of(mount);
	int own = 1;

	if (!cgroup[0] || !cgroup_directory(&p, mount, cgroup))
		return;
	do {
		int is_root = exists_in(&p, "cgroup.sane_behavior");

		if (!exists_in(&p, "memory.pressure_level"))
			continue;
		s->doubt_machine = 1;
		open_v1_levels(s, &p, own && !is_root ? SYSTEM_WARNING : SYSTEM_URGENT);
		own = 0;
	} while (cgroup_up(&p, mount_length));
}

static const char *or_else(const char *path, const char *real)
{
	return path ? path : real;
}

static void open_cgroups(struct larder_system *s, const struct system_paths *p)
{
	struct system_cgroups own;

	system_read_cgroups(or_else(p->proc_cgroup, "/proc/self/cgroup"), &own);
	open_v2(s, or_else(p->cgroup_v2, "/sys/fs/cgroup"), own.v2);
	if (!p->cgroup_v2)
		open_v2(s, "/sys/fs/cgroup/unified", own.v2);
	open_v1(s, or_else(p->cgroup_v1, "/sys/fs/cgroup/memory"), own.v1);
}

int system_open(struct larder_system *s, const struct system_paths *paths)
{
	static const struct system_paths real;
	const struct system_paths *p = paths ? paths : &real;

	*s = (struct larder_system){ .meminfo = -1 };
	open_machine_stalls(s, or_else(p->proc_pressure, "/proc/pressure/memory"));
	open_cgroups(s, p);
	s->meminfo = (int)sys_open(or_else(p->proc_meminfo, "/proc/meminfo"), O_RDONLY | O_CLOEXEC);
	return (int)s->count;
}

void system_close(struct larder_system *s)
{
	for (unsigned i = 0; i < s->count; i++)
		drop(&s->sources[i]);
	if (s->meminfo >= 0)
		sys_close(s->meminfo);
	s->meminfo = -1;
}

/* ---- listening ---- */

static int grew(uint64_t *last, const char *text, const char *key)
{
	const char *p = find(text, key);
	uint64_t before = *last;

	if (p)
		*last = number_at(p);
	return *last > before;
}

enum system_level system_events_level(struct system_events *last, const char *text)
{
	enum system_level level = SYSTEM_CALM;

	/* The space belongs to the name: there is oom_kill beside oom. */
	if (grew(&last->high, text, "high "))
		level = SYSTEM_WARNING;
	if (grew(&last->max, text, "max "))
		level = SYSTEM_URGENT;
	if (grew(&last->oom, text, "oom "))
		level = SYSTEM_CRITICAL;
	if (grew(&last->oom_kill, text, "oom_kill "))
		level = SYSTEM_CRITICAL;
	return level;
}

static int has_kind(const struct larder_system *s, enum system_kind kind)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->sources[i].kind == kind && s->sources[i].fd >= 0)
			return 1;
	return 0;
}

/*
 * A container that is full of page cache reaches memory.max with every file it reads, which harms nobody. Where stalls
 * of the cgroup are known, they are the measure of harm.
 */
static enum system_level hear_events(struct larder_system *s, struct system_source *source)
{
	char text[CONTENT_BYTES];
	enum system_level level;

	if (read_content(source->fd, text) < 0) { /* ENODEV: the cgroup is gone */
		drop(source);
		return SYSTEM_CALM;
	}
	level = system_events_level(&source->events, text);
	return level == SYSTEM_URGENT && has_kind(s, SYSTEM_CGROUP_STALLS) ? SYSTEM_WARNING : level;
}

/* The eventfd is also signalled when the cgroup is removed; only then does reading its file fail with ENODEV. */
static enum system_level hear_v1(struct system_source *source)
{
	uint64_t count;
	char byte;

	sys_read(source->fd, &count, sizeof(count));
	if (sys_pread(source->witness, &byte, 1, 0) == -ENODEV) {
		drop(source);
		return SYSTEM_CALM;
	}
	return source->level;
}

static int machine_is_short(const struct larder_system *s)
{
	char text[CONTENT_BYTES];

	if (s->meminfo < 0 || read_content(s->meminfo, text) <= 0)
		return 1;
	return number_at(find(text, "MemAvailable:")) <= number_at(find(text, "MemTotal:")) / SHORT_SHARE;
}

int system_stall_is_proved(struct system_source *source, const char *text)
{
	const char *kind = source->level == SYSTEM_WARNING ? "some" : "full";
	uint64_t total_us = number_at(find(find(text, kind), "total=")), grown_us = total_us - source->total_us;

	source->total_us = total_us;
	return grown_us >= source->needed_us;
}

/* See open_trigger(). */
static int is_proved(struct system_source *source)
{
	char text[CONTENT_BYTES];

	if (!source->needed_us)
		return 1;
	return read_content(source->fd, text) > 0 && system_stall_is_proved(source, text);
}

/*
 * The machine's stalls include those of a container that fills its own limit while gigabytes are free elsewhere. They
 * are believed only when memory is short, unless no cgroup can be seen: then we may be that container.
 */
static enum system_level hear_stall(struct larder_system *s, struct system_source *source, short revents)
{
	if (revents & POLLERR) { /* psi.rst: the cgroup is gone */
		drop(source);
		return SYSTEM_CALM;
	}
	if (!is_proved(source))
		return SYSTEM_CALM;
	if (source->kind == SYSTEM_MACHINE_STALLS && s->doubt_machine && !machine_is_short(s))
		return SYSTEM_CALM;
	return source->level;
}

static enum system_level hear(struct larder_system *s, struct system_source *source, short revents)
{
	if (revents & POLLNVAL) {
		drop(source);
		return SYSTEM_CALM;
	}
	switch (source->kind) {
	case SYSTEM_V1_LEVEL:
		return hear_v1(source);
	case SYSTEM_V2_EVENTS:
		return hear_events(s, source);
	default:
		return hear_stall(s, source, revents);
	}
}

/* Poll the sources that can report more than `above`. Returns the highest level they report. timeout_ns < 0: none. */
static enum system_level listen_above(struct larder_system *s, enum system_level above, int64_t timeout_ns)
{
	struct pollfd fds[SYSTEM_SOURCES_MAX];
	enum system_level highest = SYSTEM_CALM;
	long got;

	for (unsigned i = 0; i < s->count; i++) {
		const struct system_source *source = &s->sources[i];

		fds[i].fd = source->level > above ? source->fd : -1; /* poll skips negative ones */
		fds[i].events = source->kind == SYSTEM_V1_LEVEL ? POLLIN : POLLPRI;
		fds[i].revents = 0;
	}
	got = sys_poll(fds, s->count, timeout_ns);
	if (got < 0 && got != -EINTR) /* no memory for the call: all the more reason not to spin */
		sys_sleep_ns(QUIET_NS);
	for (unsigned i = 0; got > 0 && i < s->count; i++) {
		enum system_level level = fds[i].revents ? hear(s, &s->sources[i], fds[i].revents) : SYSTEM_CALM;

		if (level > highest)
			highest = level;
	}
	return highest;
}

/* What is left of the quiet time, or -1 when there is none. */
static int64_t quiet_ns(const struct larder_system *s)
{
	uint64_t now = sys_now_ns();

	if (s->reported == SYSTEM_CALM)
		return -1;
	return now < s->quiet_until_ns ? (int64_t)(s->quiet_until_ns - now) : 0;
}

enum system_level system_wait(struct larder_system *s)
{
	for (;;) {
		int64_t left_ns = quiet_ns(s);
		/* At the end of the quiet time, all sources are emptied of what came in meanwhile. */
		enum system_level above = left_ns == 0 ? SYSTEM_CALM : s->reported;
		enum system_level level = listen_above(s, above, left_ns);

		if (level > s->reported) {
			s->reported = level;
			s->quiet_until_ns = sys_now_ns() + QUIET_NS;
			return level;
		}
		if (left_ns == 0)
			s->reported = SYSTEM_CALM;
	}
}

static void system_main(void *arg)
{
	struct larder_system *s = arg;

	for (;;)
		s->short_of_memory(s->arg, system_wait(s));
}

int system_start(struct larder_system *s, void (*short_of_memory)(void *arg, enum system_level level), void *arg)
{
	int tid;

	if (!s->count)
		return 0;
	s->short_of_memory = short_of_memory;
	s->arg = arg;
	tid = thread_start("larder-system", system_main, s, 0);
	return tid < 0 ? tid : 0;
}
