#!/bin/bash
# Unmodified programs that fork with most of their memory taken out: what their children see and do is what it is plainly.
#   forking_programs.sh LARDER CC
set -u
larder=$(realpath "$1")
cc=$2
dir=$(mktemp -d)
failed=0
trap 'rm -rf "$dir"' EXIT

check() {
	if "$2"; then
		echo "ok: $1"
	else
		echo "FAILED: $1"
		failed=1
	fi
}

cli() {
	redis-cli -s "$dir/socket" "$@"
}

# start_redis OPTION...: behind $wrap, which may be empty
start_redis() {
	$wrap redis-server --port 0 --unixsocket "$dir/socket" --dir "$dir" --save '' --enable-debug-command yes "$@" >"$dir/redis.log" 2>&1 &
	redis=$!
	for _ in $(seq 200); do
		[ "$(cli ping 2>/dev/null)" = PONG ] && return 0
		sleep 0.1
	done
	cat "$dir/redis.log"
	return 1
}

stop_redis() {
	cli shutdown nosave >/dev/null 2>&1
	wait "$redis"
}

# wait_for FIELD: until no such child works any more
wait_for() {
	for _ in $(seq 600); do
		cli info persistence | tr -d '\r' | grep -qx "$1:0" && return 0
		sleep 0.1
	done
	return 1
}

load='for i=1,60000 do redis.call("SET", "key:"..i, string.rep(tostring(i * 7919), 100)) end'
change='for i=1,60000,2 do redis.call("SET", "key:"..i, string.rep(tostring(i), 120)) end'

# BGSAVE: the dump is of the moment of the fork, whatever is written meanwhile.
a_snapshot_is_of_the_moment_of_the_fork() {
	local wrap before evictions after ok
	wrap="$larder run --limit 20M --" start_redis || return 1
	cli eval "$load" 0 >/dev/null
	before=$(cli debug digest)
	cli bgsave >/dev/null
	cli eval "$change" 0 >/dev/null
	wait_for rdb_bgsave_in_progress
	ok=$(cli info persistence | tr -d '\r' | grep -c '^rdb_last_bgsave_status:ok$')
	evictions=$("$larder" stat "$redis" | awk '$1 == "evictions" { print $2 }')
	stop_redis
	wrap='' start_redis || return 1 # plain, from the dump
	after=$(cli debug digest)
	stop_redis
	rm -f "$dir/dump.rdb"
	[ "$ok" = 1 ] && [ "${evictions:-0}" -gt 0 ] && [ -n "$before" ] && [ "$before" = "$after" ] && return 0
	echo "  status ok: $ok, evictions: $evictions, digest $before, from the dump $after"
	return 1
}

# BGREWRITEAOF: what the child has written and what came meanwhile are all there is.
a_log_that_was_rewritten_has_everything() {
	local wrap before after
	wrap="$larder run --limit 20M --swap-dir /var/tmp --" start_redis --appendonly yes --appendfsync no || return 1
	cli eval "$load" 0 >/dev/null
	wait_for aof_rewrite_in_progress
	cli bgrewriteaof >/dev/null
	cli eval "$change" 0 >/dev/null
	wait_for aof_rewrite_in_progress
	before=$(cli debug digest)
	stop_redis
	wrap='' start_redis --appendonly yes || return 1
	after=$(cli debug digest)
	stop_redis
	rm -rf "$dir/appendonlydir"
	[ -n "$before" ] && [ "$before" = "$after" ] && return 0
	echo "  digest $before, from the log $after"
	return 1
}

cat >"$dir/workers.py" <<'P'
import hashlib, multiprocessing
data = [("object %d " % i) * 8 for i in range(250000)]
def digest(n):
    h = hashlib.sha256()
    mine = []
    for i in range(n, len(data), 8):
        h.update(data[i].encode())
        mine.append(data[i] + "!")
    for m in mine:
        h.update(m.encode())
    return h.hexdigest()
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(digest, range(8)) + pool.map(digest, range(8))
    assert results == [digest(n) for n in range(8)] * 2
    print(hashlib.sha256("".join(results).encode()).hexdigest())
P
workers_of_python_have_what_their_parent_has() {
	local plain here
	plain=$(timeout -s KILL 120 python3 "$dir/workers.py") || return 1
	here=$(timeout -s KILL 240 "$larder" run --limit 24M -- python3 "$dir/workers.py" 2>"$dir/errors")
	[ -n "$here" ] && [ "$plain" = "$here" ] && return 0
	cat "$dir/errors"
	return 1
}

cat >"$dir/spawns.c" <<'C'
#define _GNU_SOURCE
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { ROUNDS = 20, BYTES = 48 << 20 };
static char *filler;
/* Everything else leaves, the arguments below included. */
static void evict_all(void)
{
	for (int times = 0; times < 2; times++)
		for (int i = 0; i < BYTES; i += 64)
			((volatile char *)filler)[i]++;
}
static char *copy(const char *format, int n)
{
	char *p = malloc(8192);
	memset(p, 0, 8192);
	sprintf(p + 4000, format, n); /* across two pages */
	return p + 4000;
}
static int ends_with(pid_t pid, int code)
{
	int status;
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == code;
}
int main(void)
{
	filler = malloc(BYTES);
	memset(filler, 1, BYTES);
	for (int n = 0; n < ROUNDS; n++) {
		char *code = copy("exit %d", n + 1), *shell = copy("/bin/sh", 0), *option = copy("-c", 0);
		char *variable = copy("ROUND=%d", n), *test = copy("test \"$ROUND\" = %d", n), *echo = copy("echo %d", n);
		char **argv = malloc(4 * sizeof(*argv)), **env = malloc(2 * sizeof(*env)), line[64] = "";
		pid_t pid;
		FILE *pipe;
		argv[0] = shell, argv[1] = option, argv[2] = code, argv[3] = NULL;
		env[0] = variable, env[1] = NULL;
		evict_all();
		if (posix_spawn(&pid, shell, NULL, NULL, argv, env) || !ends_with(pid, n + 1))
			return 1;
		evict_all();
		if (WEXITSTATUS(system(code)) != n + 1)
			return 2;
		evict_all();
		pipe = popen(echo, "r");
		if (!pipe || !fgets(line, sizeof(line), pipe) || pclose(pipe) || atoi(line) != n)
			return 3;
		argv[2] = test;
		evict_all();
		pid = vfork();
		if (pid == 0) {
			execve(shell, argv, env);
			_exit(9);
		}
		if (!ends_with(pid, 0))
			return 4;
		evict_all();
		pid = fork();
		if (pid == 0) {
			execve(shell, argv, env);
			_exit(9);
		}
		if (!ends_with(pid, 0))
			return 5;
	}
	return 0;
}
C
what_is_executed_gets_its_arguments() {
	local settings status
	"$cc" -O1 -w -o "$dir/spawns" "$dir/spawns.c" || return 1
	for settings in '' '--swap-dir /var/tmp' --no-follow-exec; do
		# shellcheck disable=SC2086
		timeout -s KILL 120 "$larder" run --limit 18M $settings -- "$dir/spawns" 2>"$dir/errors"
		status=$?
		[ "$status" = 0 ] || { echo "  $settings: exit status $status"; cat "$dir/errors"; return 1; }
	done
}

check "redis's snapshot is of the moment of the fork" a_snapshot_is_of_the_moment_of_the_fork
check "redis's rewritten log has everything" a_log_that_was_rewritten_has_everything
check "python's workers have what their parent has" workers_of_python_have_what_their_parent_has
check "what is executed gets its arguments: posix_spawn, system, popen, vfork, fork" what_is_executed_gets_its_arguments
exit "$failed"
