/*
 * System. See system.h.
 */
#include "system.h"

#include "sys.h"
#include "text.h"
#include "thread.h"

#include <sys/eventfd.h>

enum { CGROUP_TEXT_BYTES = 8192, EVENTS_TEXT_BYTES = 1024, PATH_BYTES = 1024 };

#define QUIET_NS 1000000000u

/* ---- text ---- */

struct path {
	char bytes[PATH_BYTES];
	size_t length;
};

static void append(struct path *p, const char *s, size_t n)
{
	for (size_t i = 0; i < n && p->length < PATH_BYTES - 1; i++)
		p->bytes[p->length++] = s[i];
	p->bytes[p->length] = 0;
}

static size_t length_of(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

static struct path join(const char *mount, const char *group, size_t group_length, const char *file)
{
	struct path p = { .length = 0 };

	append(&p, mount, length_of(mount));
	append(&p, group, group_length);
	append(&p, "/", 1);
	append(&p, file, length_of(file));
	return p;
}

/* Read a small file; the text ends with a 0. Returns its length, 0 when it cannot be read. */
static size_t read_text(const char *name, char *text, size_t bytes)
{
	int fd = (int)sys_open(name, O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	while (fd >= 0 && n < bytes - 1) {
		long got = sys_read(fd, text + n, bytes - 1 - n);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	if (fd >= 0)
		sys_close(fd);
	text[n] = 0;
	return n;
}

static int starts_with(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return 0;
	return 1;
}

static const char *next_line(const char *s)
{
	while (*s && *s != '\n')
		s++;
	return *s ? s + 1 : s;
}

/* Does the comma-separated list that ends at ':' have this word? */
static int list_has(const char *list, const char *word)
{
	size_t n = length_of(word);

	while (*list && *list != ':' && *list != '\n') {
		if (starts_with(list, word) && (list[n] == ',' || list[n] == ':'))
			return 1;
		while (*list && *list != ',' && *list != ':' && *list != '\n')
			list++;
		if (*list == ',')
			list++;
	}
	return 0;
}

/*
 * The process's cgroup in /proc/self/cgroup, whose lines are "ID:CONTROLLERS:PATH": the one with the memory controller
 * (v1), or the one with ID 0 and no controllers (v2). Returns the path and its length, without a slash at its end; NULL
 * = none.
 */
static const char *find_group(const char *text, int version, size_t *length)
{
	for (const char *line = text; *line; line = next_line(line)) {
		const char *controllers = line, *path;

		while (*controllers >= '0' && *controllers <= '9')
			controllers++;
		if (controllers == line || *controllers++ != ':')
			continue;
		if (version == 2 ? !starts_with(line, "0::") : !list_has(controllers, "memory"))
			continue;
		for (path = controllers; *path && *path != ':' && *path != '\n'; path++)
			;
		if (*path != ':' || path[1] != '/')
			continue;
		for (*length = 0; path[1 + *length] && path[1 + *length] != '\n'; ++*length)
			;
		if (path[*length] == '/')
			--*length;
		return path + 1;
	}
	return NULL;
}

/* ---- sources ---- */

static void add(struct larder_system *s, int fd, short events, struct system_source source)
{
	if (s->count == SYSTEM_SOURCES_MAX) {
		sys_close(fd);
		return;
	}
	s->polled[s->count] = (struct pollfd){ .fd = fd, .events = events };
	s->sources[s->count++] = source;
}

/*
 * A trigger fires when tasks have stalled for so long within a window. The shorter windows need CAP_SYS_RESOURCE;
 * without, windows must be multiples of two seconds.
 */
static const struct {
	const char *privileged, *unprivileged;
	enum system_level level;
} triggers[] = {
	{ "some 100000 1000000", "some 200000 2000000", SYSTEM_WARNING },
	{ "full 50000 1000000", "full 100000 2000000", SYSTEM_URGENT },
	{ "full 300000 1000000", "full 600000 2000000", SYSTEM_CRITICAL },
};

static int set_trigger(int fd, const char *trigger)
{
	return sys_write(fd, trigger, length_of(trigger) + 1) > 0;
}

/* Returns how many triggers could be set. */
static unsigned open_psi(struct larder_system *s, const char *file)
{
	unsigned before = s->count;

	for (unsigned i = 0; i < sizeof(triggers) / sizeof(triggers[0]); i++) {
		int fd = (int)sys_open(file, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		if (fd < 0)
			break;
		if (set_trigger(fd, triggers[i].privileged) || set_trigger(fd, triggers[i].unprivileged))
			add(s, fd, POLLPRI, (struct system_source){ .kind = SYSTEM_PSI, .level = triggers[i].level });
		else
			sys_close(fd);
	}
	return s->count - before;
}

static int add_cgroup1(struct larder_system *s, int level_fd, int control_fd, const char *name, enum system_level level)
{
	int event_fd = (int)sys_call3(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK, 0);
	struct larder_text t = { 0 };

	if (event_fd < 0)
		return 0;
	text_number(&t, (uint64_t)event_fd);
	text_string(&t, " ");
	text_number(&t, (uint64_t)level_fd);
	text_string(&t, " ");
	text_string(&t, name);
	if (sys_write(control_fd, t.bytes, t.length) < 0) {
		sys_close(event_fd);
		return 0;
	}
	add(s, event_fd, POLLIN, (struct system_source){ .kind = SYSTEM_CGROUP1, .level = level });
	return 1;
}

static unsigned open_cgroup1(struct larder_system *s, const char *mount, const char *group, size_t length)
{
	struct path level = join(mount, group, length, "memory.pressure_level");
	struct path control = join(mount, group, length, "cgroup.event_control");
	int level_fd = (int)sys_open(level.bytes, O_RDONLY | O_CLOEXEC);
	int control_fd = (int)sys_open(control.bytes, O_WRONLY | O_CLOEXEC);
	unsigned before = s->count;

	if (level_fd >= 0 && control_fd >= 0 && add_cgroup1(s, level_fd, control_fd, "low", SYSTEM_WARNING) &&
	    add_cgroup1(s, level_fd, control_fd, "medium", SYSTEM_URGENT))
		add_cgroup1(s, level_fd, control_fd, "critical", SYSTEM_CRITICAL);
	if (level_fd >= 0)
		sys_close(level_fd); /* the kernel keeps what it needs */
	if (control_fd >= 0)
		sys_close(control_fd);
	return s->count - before;
}

/* The number behind a name at the start of a line, 0 when there is none. */
static uint64_t number_of(const char *text, const char *name)
{
	for (const char *line = text; *line; line = next_line(line))
		if (starts_with(line, name)) {
			const char *digit = line + length_of(name);
			uint64_t n = 0;

			while (*digit >= '0' && *digit <= '9')
				n = 10 * n + (uint64_t)(*digit++ - '0');
			return n;
		}
	return 0;
}

enum system_level system_read_events(const char *text, struct system_source *source)
{
	struct system_source now = *source;
	enum system_level level = SYSTEM_CALM;

	now.high = number_of(text, "high ");
	now.max = number_of(text, "max ");
	now.oom = number_of(text, "oom ");
	if (now.high > source->high)
		level = SYSTEM_WARNING;
	if (now.max > source->max)
		level = SYSTEM_URGENT;
	if (now.oom > source->oom)
		level = SYSTEM_CRITICAL;
	*source = now;
	return level;
}

static enum system_level read_events(int fd, struct system_source *source)
{
	char text[EVENTS_TEXT_BYTES];
	long n = sys_call6(SYS_pread64, fd, (long)text, sizeof(text) - 1, 0, 0, 0);

	if (n < 0)
		return SYSTEM_CALM;
	text[n] = 0;
	return system_read_events(text, source);
}

static unsigned open_cgroup2_events(struct larder_system *s, const char *mount, const char *group, size_t length)
{
	struct path events = join(mount, group, length, "memory.events");
	struct system_source source = { .kind = SYSTEM_CGROUP2 };
	int fd = (int)sys_open(events.bytes, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	read_events(fd, &source);
	add(s, fd, POLLPRI, source);
	return 1;
}

static unsigned open_cgroup2(struct larder_system *s, const char *mount, const char *group, size_t length)
{
	struct path pressure = join(mount, group, length, "memory.pressure");

	return open_psi(s, pressure.bytes) + open_cgroup2_events(s, mount, group, length);
}

/* In a container the path may be the host's while the mount is the container's own cgroup: then that is meant. */
static unsigned open_group(struct larder_system *s, const char *text, int version, const char *mount)
{
	unsigned (*open)(struct larder_system *, const char *, const char *, size_t) =
		version == 1 ? open_cgroup1 : open_cgroup2;
	size_t length;
	const char *group = find_group(text, version, &length);
	unsigned opened;

	if (!group)
		return 0;
	opened = open(s, mount, group, length);
	return opened ? opened : open(s, mount, "", 0);
}

static int has_psi(const struct larder_system *s)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->sources[i].kind == SYSTEM_PSI)
			return 1;
	return 0;
}

unsigned system_open(struct larder_system *s, const struct system_paths *paths)
{
	static const struct system_paths none;
	const struct system_paths *p = paths ? paths : &none;
	char text[CGROUP_TEXT_BYTES];

	s->count = 0;
	s->reported = SYSTEM_CALM;
	read_text(p->proc_cgroup ? p->proc_cgroup : "/proc/self/cgroup", text, sizeof(text));
	open_group(s, text, 1, p->cgroup1 ? p->cgroup1 : "/sys/fs/cgroup/memory");
	if (!open_group(s, text, 2, p->cgroup2 ? p->cgroup2 : "/sys/fs/cgroup") && !p->cgroup2)
		open_group(s, text, 2, "/sys/fs/cgroup/unified");
	if (!has_psi(s))
		open_psi(s, p->proc_pressure ? p->proc_pressure : "/proc/pressure/memory");
	return s->count;
}

void system_close(struct larder_system *s)
{
	for (unsigned i = 0; i < s->count; i++)
		sys_close(s->polled[i].fd);
	s->count = 0;
}

/* ---- waiting ---- */

static void drop(struct larder_system *s, unsigned i)
{
	sys_close(s->polled[i].fd);
	s->count--;
	s->polled[i] = s->polled[s->count];
	s->sources[i] = s->sources[s->count];
}

/* What a source that woke us says. */
static enum system_level listen_to(struct larder_system *s, unsigned i)
{
	uint64_t posted;

	switch (s->sources[i].kind) {
	case SYSTEM_CGROUP1:
		return sys_read(s->polled[i].fd, &posted, sizeof(posted)) > 0 ? s->sources[i].level : SYSTEM_CALM;
	case SYSTEM_CGROUP2:
		return read_events(s->polled[i].fd, &s->sources[i]);
	default:
		return s->sources[i].level;
	}
}

static int is_gone(const struct larder_system *s, unsigned i)
{
	short revents = s->polled[i].revents;

	if (revents & (POLLNVAL | POLLHUP))
		return 1;
	/* kernfs sets POLLERR beside POLLPRI when a file has changed; for a trigger alone it means that the cgroup is
	 * gone. */
	return s->sources[i].kind == SYSTEM_PSI && revents & POLLERR;
}

static enum system_level listen_to_all(struct larder_system *s)
{
	enum system_level level = SYSTEM_CALM;

	for (unsigned i = s->count; i-- > 0;) {
		enum system_level said;

		if (!s->polled[i].revents)
			continue;
		if (is_gone(s, i)) {
			drop(s, i);
			continue;
		}
		said = listen_to(s, i);
		level = said > level ? said : level;
	}
	return level;
}

/* Is this news? */
static int is_worth_telling(struct larder_system *s, enum system_level level, uint64_t now)
{
	if (level == SYSTEM_CALM || (level <= s->reported && now - s->reported_ns < QUIET_NS))
		return 0;
	s->reported = level;
	s->reported_ns = now;
	return 1;
}

enum system_level system_wait(struct larder_system *s)
{
	for (;;) {
		enum system_level level;

		sys_call6(SYS_ppoll, (long)s->polled, s->count, 0, 0, 0, 0);
		level = listen_to_all(s);
		if (is_worth_telling(s, level, sys_now_ns()))
			return level;
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

	s->short_of_memory = short_of_memory;
	s->arg = arg;
	if (system_open(s, NULL) == 0)
		return 0;
	tid = thread_start("larder-system", system_main, s, 0);
	if (tid < 0)
		system_close(s);
	return tid < 0 ? tid : (int)s->count;
}
