/*
 * The log. One file descriptor, one write(2) a line, so lines of several threads do not mix. No stdio.
 */
#include "log.h"

#include "sys.h"
#include "thread.h"

#include <limits.h>
#include <signal.h>

enum { STDERR = 2 };

static char log_path[PATH_MAX]; /* set before any internal thread starts */
static int log_fd = 2;		/* valid in the table of the thread that logs: 2 until log_adopt() */

void log_open(const char *path)
{
	size_t i = 0;

	for (; path && path[i] && i < sizeof(log_path) - 1; i++)
		log_path[i] = path[i];
	log_path[i] = 0;
}

void log_adopt(void)
{
	if (!log_path[0])
		return;
	sys_close(log_fd);
	log_fd = (int)sys_call6(SYS_openat, AT_FDCWD, (long)log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600,
				0, 0);
}

void log_inherit(void)
{
	log_fd = STDERR;
}

void log_line(const struct larder_text *line)
{
	struct larder_text out = { 0 };

	text_string(&out, "larder[");
	text_number(&out, (uint64_t)sys_getpid());
	text_string(&out, "]: ");
	for (size_t i = 0; i < line->length && out.length < sizeof(out.bytes) - 1; i++)
		out.bytes[out.length++] = line->bytes[i];
	out.bytes[out.length++] = '\n';
	sys_write(thread_is_internal(sys_gettid()) ? log_fd : STDERR, out.bytes, out.length);
}

void log_string(const char *line)
{
	struct larder_text t = { 0 };

	text_string(&t, line);
	log_line(&t);
}

__attribute__((noreturn)) static void stop(const struct larder_text *why)
{
	log_line(why);
	for (;;) {
		/* SIGABRT for the program's threads; should it survive that, an illegal instruction here cannot be
		 * survived. */
		sys_call3(SYS_kill, sys_getpid(), SIGABRT, 0);
		sys_sleep_ns(100000000);
		__builtin_trap();
	}
}

void log_panic(const char *what, int64_t value)
{
	struct larder_text t = { 0 };

	text_string(&t, what);
	text_string(&t, " (");
	text_signed(&t, value);
	text_string(&t, "); stopping, because going on could return wrong data");
	stop(&t);
}

void log_misuse(const char *what, int err)
{
	struct larder_text t = { 0 };

	text_string(&t, "misuse: ");
	text_string(&t, what);
	text_string(&t, " (errno ");
	text_signed(&t, -err);
	text_string(&t, "); debug builds stop here");
	stop(&t);
}
