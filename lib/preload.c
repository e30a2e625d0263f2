/*
 * The preload object: Larder in a program that knows nothing of it.
 *
 * `larder run` puts this object and libjemalloc.so.2 in LD_PRELOAD and the settings into the environment:
 *   LARDER_LIMIT  SIZE or N%, as on the command line; unset or empty = no limit
 *   LARDER_LOG    absolute name of the log file; unset = standard error
 *   LARDER_PID    the process in which a failure to start ends the program
 *   LARDER_SWAP_DIR, LARDER_SWAP_DEVICE
 *                 absolute name of the directory for a swap file, or of a block device: one of them; unset or empty =
 *                 pages stay in RAM
 *   LARDER_SWAP_SIZE     SIZE, as on the command line; unset or empty = the default
 *   LARDER_SWAP_ENCRYPT  1 = encrypt what goes to swap
 *
 *   LARDER_FULL_CORE     1 = what was taken out comes back before a core dump
 *
 *   LARDER_FOLLOW_EXEC   0 = programs that this one executes run without Larder: all of this goes from the environment
 *
 * Descendants inherit the settings; one that cannot start Larder (in a sandbox, say, or because its parent has the swap
 * device) runs without it. The constructor starts the service before main(). The functions below stand in front of
 * libc's and jemalloc's; each does its part and calls on.
 */
#include "api.h"
#include "disk.h"
#include "explain.h"
#include "limit.h"
#include "log.h"
#include "preload_memory.h"
#include "process.h"
#include "uffd.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_CANNOT_START = 125 }; /* as `larder run` documents it */

/* The real functions. Set by the constructor, before the program has threads; NULL before that. */
static struct {
	struct arena_allocator jemalloc;
	void (*pthread_exit)(void *) __attribute__((noreturn));
} real;

static void find_real_functions(void)
{
	*(void **)&real.jemalloc.mallctl = dlsym(RTLD_NEXT, "mallctl");
	*(void **)&real.jemalloc.mallocx = dlsym(RTLD_NEXT, "mallocx");
	*(void **)&real.jemalloc.dallocx = dlsym(RTLD_NEXT, "dallocx");
	*(void **)&real.jemalloc.sallocx = dlsym(RTLD_NEXT, "sallocx");
	*(void **)&real.pthread_exit = dlsym(RTLD_NEXT, "pthread_exit");
}

/*
 * Is the malloc that the program calls the one that is hooked? A program may bring its own; then what that maps is
 * managed, and nobody calls ours. jemalloc knows its own memory; addresses of functions tell nothing, because in a
 * program that is not position-independent they are the program's.
 */
static int program_uses_jemalloc(void)
{
	void *p = malloc(1);
	unsigned arena;
	size_t bytes = sizeof(arena);
	int err =
		real.jemalloc.mallctl ? real.jemalloc.mallctl("arenas.lookup", &arena, &bytes, &p, sizeof(p)) : ENOENT;

	free(p);
	return err == 0;
}

/* Is this the process that `larder run` started, whatever it has executed since? */
static int is_first_process(void)
{
	const char *pid = getenv("LARDER_PID");

	return pid && strtol(pid, NULL, 10) == (long)getpid();
}

/* The first process must run under Larder or not at all; others go on without. */
__attribute__((format(printf, 1, 2))) static void failed(const char *format, ...)
{
	char message[1024];
	va_list args;

	if (!is_first_process())
		return;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	dprintf(STDERR_FILENO, "larder: run: %s\n", message);
	_exit(EXIT_CANNOT_START);
}

/* The text of a setting, or NULL when it is unset or empty. */
static const char *setting(const char *name)
{
	const char *text = getenv(name);

	return text && *text ? text : NULL;
}

static int read_limit(struct larder_options *o)
{
	const char *text = setting("LARDER_LIMIT");
	struct larder_limit limit = { 0 };
	int err = text ? limit_parse(text, &limit) : 0;

	if (err) {
		failed("LARDER_LIMIT: '%s': %s", text, limit_explain(err));
		return err;
	}
	o->limit_bytes = limit.bytes;
	o->limit_percent = limit.percent;
	return 0;
}

/* 1 when a setting is on, 0 when it is off, -EINVAL: somebody may mean "yes", and must not get "no". */
static int read_switch(const char *name)
{
	const char *text = setting(name);

	if (!text || strcmp(text, "1") == 0)
		return text != NULL;
	failed("%s: '%s': give 1, or unset it", name, text);
	return -EINVAL;
}

static int read_core(struct larder_options *o)
{
	int full = read_switch("LARDER_FULL_CORE");

	if (full > 0)
		o->flags |= LARDER_FULL_CORE;
	return full < 0 ? full : 0;
}

static int read_swap(struct larder_options *o)
{
	const char *size = setting("LARDER_SWAP_SIZE");
	int encrypt = read_switch("LARDER_SWAP_ENCRYPT");
	int err = size ? swap_size_parse(size, &o->swap_bytes) : 0;

	if (err) {
		failed("LARDER_SWAP_SIZE: '%s': %s", size, swap_size_explain(err));
		return err;
	}
	if (encrypt < 0)
		return encrypt;
	o->swap_dir = setting("LARDER_SWAP_DIR");
	o->swap_device = setting("LARDER_SWAP_DEVICE");
	o->flags |= encrypt ? LARDER_SWAP_ENCRYPT : 0;
	return 0;
}

/* Userfaultfd and swap fail with the same errors. */
static int userfaultfd_works(void)
{
	int fd = uffd_open();

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void cannot_start(const struct larder_options *o, int err)
{
	const char *place = o->swap_device ? o->swap_device : o->swap_dir;

	if (place && err != -ENOPKG && userfaultfd_works())
		failed("cannot swap to '%s': %s", place, explain_swap(err, o->swap_device != NULL));
	else
		failed("cannot start: %s", explain_start(err));
}

/* `larder run` has put two objects in front of what was preloaded before. */
static void forget_preload(void)
{
	const char *rest = getenv("LD_PRELOAD");

	for (int i = 0; i < 2 && rest; i++) {
		rest = strchr(rest, ':');
		rest += rest != NULL;
	}
	if (rest)
		setenv("LD_PRELOAD", rest, 1);
	else
		unsetenv("LD_PRELOAD");
}

static void forget_settings(void)
{
	static const char *const names[] = { "LARDER_LIMIT",	    "LARDER_LOG",	  "LARDER_PID",
					     "LARDER_SWAP_DIR",	    "LARDER_SWAP_DEVICE", "LARDER_SWAP_SIZE",
					     "LARDER_SWAP_ENCRYPT", "LARDER_FULL_CORE",	  "LARDER_FOLLOW_EXEC" };

	forget_preload();
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unsetenv(names[i]);
}

__attribute__((constructor)) static void preload_start(void)
{
	const char *follow_exec = getenv("LARDER_FOLLOW_EXEC");
	struct larder_options options = { 0 };
	struct process_setup setup = { .options = &options, .allocator = &real.jemalloc, .manages_mappings = 1 };
	int saved_errno = errno, err;

	find_real_functions();
	memory_calls_spare(*(void **)&real.jemalloc.mallctl);
	log_open(getenv("LARDER_LOG"));
	if (read_limit(&options) < 0 || read_swap(&options) < 0 || read_core(&options) < 0)
		return;
	if (options.swap_device && is_first_process())
		disk_await_device(options.swap_device, DISK_RELEASE_NS); /* what ran here before may have had it */
	err = process_start(&setup);
	if (err)
		cannot_start(&options, err);
	else if (is_first_process() && !program_uses_jemalloc())
		dprintf(STDERR_FILENO, "larder: run: the program brings its own malloc: of its memory, what it maps in "
				       "pieces of 128 KiB or more is managed\n");
	if (follow_exec && strcmp(follow_exec, "0") == 0)
		forget_settings();
	errno = saved_errno;
}

LARDER_PUBLIC int mallctl(const char *name, void *old, size_t *old_bytes, void *new_value, size_t new_bytes)
{
	int err;

	if (!real.jemalloc.mallctl)
		find_real_functions();
	if (!real.jemalloc.mallctl)
		return ENOENT;
	err = real.jemalloc.mallctl(name, old, old_bytes, new_value, new_bytes);
	if (!err)
		arena_created(name, old, new_value);
	return err;
}

LARDER_PUBLIC __attribute__((noreturn)) void pthread_exit(void *value)
{
	if (!real.pthread_exit)
		find_real_functions();
	if (getpid() == gettid())
		arena_main_thread_exits();
	real.pthread_exit(value);
}

/*
 * A program that is linked with liblarder.so and run under `larder run` meets this, and the functions of api.c,
 * instead. In a process that could not start Larder when it began, there is nothing to be had either.
 */
LARDER_PUBLIC int larder_start(const struct larder_options *options)
{
	return process_start(
		&(struct process_setup){ .options = options, .allocator = &real.jemalloc, .manages_mappings = 1 });
}
