#include "watcher.h"

#include <err.h>
#include <errno.h>
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

static void watch(void (*undo)(void))
{
	int status = wait_for_child();

	undo();
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
	pid = fork();
	if (pid < 0)
		err(2, "cannot fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		set_handlers(SIG_DFL);
	}
	child = pid;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (pid > 0)
		watch(undo);
}
