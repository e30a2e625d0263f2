#include "program.h"

#include "clock.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, SPARE_BYTES = 256 << 20 };

static const char jemalloc[] = "libjemalloc.so.2", no_limit[] = "100G";

/* Larder has a place on disk when its rival has; NULL = none. */
static const char *disk_dir;
static int disk_encrypts;

/* ---- where things are ---- */

const char *program_path(const char *name)
{
	static const char *const places[] = { "", LARDER_LIBEXEC_TO_BIN "/" };
	static char path[PATH_MAX];
	char self[PATH_MAX - 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n > 0 ? n : 0] = 0;
	slash = strrchr(self, '/');
	if (slash)
		slash[1] = 0;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s%s%s", self, places[i], name);
		if (!access(path, X_OK))
			return path;
	}
	errx(2, "%s is not beside this program; install Larder again", name);
}

/* ---- who takes part ---- */

static void add(struct program_entrants *e, struct table *t, const struct options *o, enum program_how how,
		const char *name, const char *what, int is_bound)
{
	if (options_want(o, name))
		e->hows[table_add_column(t, name, what, is_bound)] = how;
}

/* Without a limit it is what is compared with; beside a peer, what the machine can do at best. */
void program_columns(struct program_entrants *e, struct table *t, const struct options *o, int with_own_malloc)
{
	if (with_own_malloc)
		add(e, t, o, PROGRAM_AS_IT_IS, "as it is", "with its own malloc, no limit", o->peer != NULL);
	add(e, t, o, PROGRAM_PLAIN, "plain", "with jemalloc, no limit", o->peer != NULL);
	if (o->peer)
		add(e, t, o, PROGRAM_PEER, o->peer->name, o->peer->what, 0);
	add(e, t, o, PROGRAM_LARDER, "larder", "under larder run", 0);
	if (!t->columns_count)
		errx(2, "--contenders: there is nobody called '%s' here", o->contenders);
}

void program_begin(const struct options *o)
{
	disk_dir = o->peer && o->peer->needs_dir ? o->dir : NULL;
	disk_encrypts = o->encrypt;
	turns_begin(o->peer, o->dir, options_most_pages(o) * 2 * PAGE_BYTES + SPARE_BYTES);
}

uint64_t program_limit(enum program_how how, uint64_t limit_bytes)
{
	return how == PROGRAM_PEER || how == PROGRAM_LARDER ? limit_bytes : 0;
}

struct turn_setup program_turn(const struct options *o, enum program_how how, uint64_t limit_bytes,
			       void (*body)(struct turn *, void *), void *arg)
{
	return (struct turn_setup){
		.peer = how == PROGRAM_PEER ? o->peer : NULL,
		.limit_bytes = limit_bytes,
		.body = body,
		.arg = arg,
	};
}

/* ---- running ---- */

size_t program_larder_options(uint64_t limit_bytes, const char *to[PROGRAM_OPTIONS_MAX])
{
	static char limit[32];
	size_t n = 0;

	snprintf(limit, sizeof(limit), "%lluk", (unsigned long long)limit_bytes / 1024);
	to[n++] = "--limit";
	to[n++] = limit_bytes ? limit : no_limit;
	if (disk_dir) {
		to[n++] = "--swap-dir";
		to[n++] = disk_dir;
	}
	if (disk_dir && disk_encrypts)
		to[n++] = "--swap-encrypt";
	to[n] = NULL;
	return n;
}

/* What comes before the program on the command line. */
static size_t prefix(enum program_how how, uint64_t limit_bytes, const char **to)
{
	size_t n = 0;

	if (how != PROGRAM_LARDER)
		return 0;
	to[n++] = program_path("larder");
	to[n++] = "run";
	n += program_larder_options(limit_bytes, to + n);
	to[n++] = "--";
	return n;
}

static void redirect(int output)
{
	int fd = output >= 0 ? output : open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(fd, STDOUT_FILENO);
}

static void become(enum program_how how, uint64_t limit_bytes, const char *const *argv)
{
	const char *all[PROGRAM_ARGUMENTS_MAX + PROGRAM_OPTIONS_MAX + 4];
	size_t n = prefix(how, limit_bytes, all);

	for (size_t i = 0; argv[i]; i++) {
		if (i == PROGRAM_ARGUMENTS_MAX)
			errx(2, "too many arguments");
		all[n++] = argv[i];
	}
	all[n] = NULL;
	if (how == PROGRAM_PLAIN || how == PROGRAM_PEER)
		setenv("LD_PRELOAD", jemalloc, 1);
	if (how == PROGRAM_PEER)
		turn_join_cgroup();
	execvp(all[0], (char *const *)all);
	warn("cannot execute '%s'", all[0]);
	_exit(2);
}

static pid_t start(enum program_how how, uint64_t limit_bytes, const char *const *argv, int output)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		err(2, "cannot fork");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(2);
	redirect(output);
	become(how, limit_bytes, argv);
	_exit(2);
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

/* What a program's end means for the turn: `larder run` says with 125 to 127 that it cannot. */
static void pass_on(int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;

	if (WIFSIGNALED(status)) {
		signal(WTERMSIG(status), SIG_DFL);
		raise(WTERMSIG(status));
		_exit(1);
	}
	if (code)
		_exit(code >= 125 ? 2 : code);
}

static struct program_end run(struct turn *t, enum program_how how, uint64_t limit_bytes, const char *const *argv,
			      int output, int looks_itself)
{
	double limiter = (double)atomic_load(&t->limiter_cpu_ns) / 1e9;
	uint64_t began = clock_ns();
	struct rusage u;
	int status;
	pid_t pid = start(how, limit_bytes, argv, output);

	if (!looks_itself)
		atomic_store(&t->pid, (int)pid);
	while (wait4(pid, &status, 0, &u) < 0)
		if (errno != EINTR)
			err(2, "wait4");
	pass_on(status);
	return (struct program_end){
		.seconds = seconds_since(began),
		.cpu_seconds = seconds_of(u.ru_utime) + seconds_of(u.ru_stime) +
			       (double)atomic_load(&t->limiter_cpu_ns) / 1e9 - limiter,
		.peak_bytes = (double)u.ru_maxrss * 1024,
	};
}

struct program_end program_run(struct turn *t, enum program_how how, uint64_t limit_bytes, const char *const *argv,
			       int output)
{
	return run(t, how, limit_bytes, argv, output, 0);
}

struct program_end program_run_job(struct turn *t, enum program_how how, uint64_t limit_bytes, const char *const *job)
{
	const char *argv[PROGRAM_ARGUMENTS_MAX];
	char path[PATH_MAX], fd[16];
	size_t n = 0;

	snprintf(path, sizeof(path), "%s", program_path("larder-bench-job"));
	snprintf(fd, sizeof(fd), "%d", turn_descriptor());
	argv[n++] = path;
	argv[n++] = fd;
	while (*job && n < PROGRAM_ARGUMENTS_MAX - 1)
		argv[n++] = *job++;
	argv[n] = NULL;
	return run(t, how, limit_bytes, argv, -1, 1);
}
