#include "redis_server.h"

#include "clock.h"

#include <err.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_SECONDS 20
#define STOP_SECONDS  10

/* pid is 0 when no server runs, directory is "" when there is nothing to remove. */
static struct {
	volatile pid_t pid;
	int exit_code;	/* ours, when the server does not start */
	int is_limited; /* in a cgroup, where the kernel may end it */
	char directory[64];
	char socket[96], log[96], errors[96];
} server;

pid_t server_pid(void)
{
	return server.pid;
}

const char *server_socket(void)
{
	return server.socket;
}

/* ---- cleaning up; only async-signal-safe calls, because a signal handler comes here ---- */

static void remove_directory(void)
{
	if (!server.directory[0])
		return;
	unlink(server.socket);
	unlink(server.log);
	unlink(server.errors);
	rmdir(server.directory);
	server.directory[0] = 0;
}

static void clean_up(void)
{
	pid_t pid = server.pid;

	server.pid = 0;
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	remove_directory();
}

static void clean_up_and_die(int signal)
{
	clean_up();
	raise(signal); /* SA_RESETHAND: this time it ends the process */
}

static void arm_clean_up(void)
{
	static const int deadly[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	struct sigaction action = { .sa_handler = clean_up_and_die, .sa_flags = SA_RESETHAND | SA_NODEFER };
	static int armed;

	if (armed)
		return;
	armed = 1;
	atexit(clean_up);
	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		sigaction(deadly[i], &action, NULL);
}

/* ---- starting ---- */

static void make_directory(void)
{
	snprintf(server.directory, sizeof(server.directory), "/tmp/redis-job-XXXXXX");
	if (!mkdtemp(server.directory)) {
		server.directory[0] = 0;
		err(2, "cannot make a directory in /tmp");
	}
	snprintf(server.socket, sizeof(server.socket), "%s/socket", server.directory);
	snprintf(server.log, sizeof(server.log), "%s/log", server.directory);
	snprintf(server.errors, sizeof(server.errors), "%s/errors", server.directory);
}

static void redirect_output(void)
{
	int fd = open(server.errors, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
}

/* In the child. `larder run` becomes the program, so the pid stays the server's. */
static void become_server(pid_t parent, const char *redis, const char *larder, const char *const *options)
{
	const char *args[SERVER_OPTIONS_MAX + 32];
	size_t n = 0;
	const char *rest[] = {
		redis, "--port",      "0",  "--unixsocket", server.socket,    "--save",	   "",	       "--appendonly",
		"no",  "--daemonize", "no", "--dir",	    server.directory, "--logfile", server.log, NULL
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	redirect_output();
	if (larder) {
		args[n++] = larder;
		args[n++] = "run";
		while (*options && n < SERVER_OPTIONS_MAX + 2)
			args[n++] = *options++;
		args[n++] = "--";
	}
	memcpy(args + n, rest, sizeof(rest));
	execv(args[0], (char *const *)args);
	warn("cannot execute %s", args[0]);
	_exit(127);
}

static void show_file(const char *name)
{
	char line[512];
	FILE *f = fopen(name, "r");

	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		fprintf(stderr, "    %s", line);
	fclose(f);
}

static void show_last_words(void)
{
	show_file(server.errors);
	show_file(server.log);
}

static int has_ended(int *status)
{
	if (waitpid(server.pid, status, WNOHANG) != server.pid)
		return 0;
	server.pid = 0;
	return 1;
}

static void describe(int status, char text[64])
{
	if (WIFSIGNALED(status))
		snprintf(text, 64, "was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(text, 64, "ended with exit code %d", WEXITSTATUS(status));
}

/* `larder run` says with 125 to 127 that it was asked for something impossible; anything else under Larder is a failure
 * of Larder. */
static int start_exit_code(int status)
{
	return WIFEXITED(status) && WEXITSTATUS(status) >= 125 ? 2 : server.exit_code;
}

static int answers(void)
{
	redisContext *c = redisConnectUnix(server.socket);
	redisReply *reply = c && !c->err ? redisCommand(c, "PING") : NULL;
	int ok = reply && reply->type == REDIS_REPLY_STATUS;

	freeReplyObject(reply);
	redisFree(c);
	return ok;
}

static void wait_until_it_answers(void)
{
	uint64_t start = clock_ns();
	char how[64];
	int status;

	while (!answers()) {
		if (has_ended(&status)) {
			describe(status, how);
			show_last_words();
			errx(start_exit_code(status), "redis-server did not start: it %s", how);
		}
		if (seconds_since(start) > START_SECONDS) {
			show_last_words();
			errx(server.exit_code, "redis-server did not answer within %d s", START_SECONDS);
		}
		usleep(20000);
	}
}

void server_start(const char *redis, const char *larder, const char *const *options, void (*before)(void))
{
	pid_t parent = getpid();

	arm_clean_up();
	make_directory();
	server.exit_code = larder ? 1 : 2;
	server.is_limited = before != NULL;
	server.pid = fork();
	if (server.pid < 0)
		err(2, "cannot fork");
	if (server.pid == 0 && before)
		before();
	if (server.pid == 0)
		become_server(parent, redis, larder, options);
	wait_until_it_answers();
}

/* ---- ending ---- */

/* Where the kernel may end it for want of memory, the caller of the caller can tell that from other ends. */
static int lost_exit_code(int status)
{
	return WIFSIGNALED(status) && server.is_limited ? 128 + WTERMSIG(status) : 1;
}

void server_lost(const char *what)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;
	char how[64] = "is still running";
	int status = 0;

	while (atomic_flag_test_and_set(&told))
		pause(); /* another thread is telling */
	usleep(200000);	 /* a dying server needs a moment to be dead */
	if (server.pid && has_ended(&status))
		describe(status, how);
	show_last_words();
	errx(lost_exit_code(status), "lost the server: %s; it %s", what, how);
}

void server_stop(void)
{
	uint64_t start = clock_ns();
	int status = 0;
	char how[64];

	kill(server.pid, SIGTERM);
	while (!has_ended(&status)) {
		if (seconds_since(start) > STOP_SECONDS)
			server_lost("it does not end when asked to");
		usleep(10000);
	}
	if (status) {
		describe(status, how);
		show_last_words();
		errx(1, "the server %s when asked to end", how);
	}
	remove_directory();
}

/* ---- memory ---- */

/* The number of kB after `name` in /proc/PID/file, in bytes. */
static uint64_t proc_bytes(const char *file, const char *name)
{
	char path[64], line[256];
	uint64_t kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)server.pid, file);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (!kib && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			kib = strtoull(line + strlen(name), NULL, 10);
	fclose(f);
	return kib * 1024;
}

uint64_t server_rss_bytes(void)
{
	return proc_bytes("smaps_rollup", "Rss:");
}

uint64_t server_file_bytes(void)
{
	return proc_bytes("status", "RssFile:");
}

uint64_t server_peak_bytes(void)
{
	return proc_bytes("status", "VmHWM:");
}
