#include "watcher.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t child;

static void forward(int signal)
{
	if (child > 0)
		kill(child, signal);
}

static void set_handlers(void (*handler)(int))
{
	signal(SIGINT, handler);
	signal(SIGTERM, handler);
	signal(SIGHUP, handler);
}

static int wait_for_child(void)
{
	int status = 0;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	child = 0;
	return status;
}

/* ---- when the watcher itself is killed ---- */

/*
 * A guardian, in a session of its own so that what is sent to the process group does not reach it: `timeout -s KILL`
 * kills watcher and child at once. It waits for the watcher's word that all is done, or for its end without.
 */
static struct {
	pid_t pid;
	int word; /* the watcher's end of a pipe */
} guardian;

static void guard(int word, void (*undo)(void))
{
	char done;

	setsid();
	set_handlers(SIG_IGN);
	if (read(word, &done, 1) == 0)
		undo();
	_exit(0);
}

static void start_guardian(void (*undo)(void))
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		err(2, "pipe");
	guardian.pid = fork();
	if (guardian.pid < 0)
		err(2, "cannot fork");
	if (guardian.pid == 0) {
		close(ends[1]);
		guard(ends[0], undo);
	}
	close(ends[0]);
	guardian.word = ends[1];
}

static void dismiss_guardian(void)
{
	if (write(guardian.word, "", 1) != 1)
		warn("the guardian");
	waitpid(guardian.pid, NULL, 0);
}

/* ---- the watcher ---- */

static void watch(void (*undo)(void))
{
	int status = wait_for_child();

	undo();
	dismiss_guardian();
	if (WIFSIGNALED(status))
		errx(128 + WTERMSIG(status), "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	exit(WEXITSTATUS(status));
}

/* The signals are held back until there is a child to send them to, and until its own handlers are set. */
void watcher_begin(void (*undo)(void))
{
	sigset_t all, before;
	pid_t pid;

	fflush(NULL);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	set_handlers(forward);
	start_guardian(undo);
	pid = fork();
	if (pid < 0)
		err(2, "cannot fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(guardian.word);
		set_handlers(SIG_DFL);
	}
	child = pid;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (pid > 0)
		watch(undo);
}
