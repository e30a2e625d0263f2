#!/bin/bash
# Unmodified programs under larder run: they notice nothing, and leave nothing behind.
#   transparent.sh LARDER STRESS CC
set -u
larder=$(realpath "$1")
stress=$2
cc=$3
dir=$(mktemp -d)
failures=0
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT

check() {
	if "${@:2}"; then
		echo "ok: $1"
	else
		echo "FAILED: $1" >&2
		failures=$((failures + 1))
	fi
}

compile() {
	"$cc" -O1 -pthread -o "$dir/$1" -x c - || exit 1
}

leftovers() {
	ls -A /dev/shm "$dir/tmp"
	ls /tmp | grep -i larder
	ipcs -m -s -q 2>/dev/null
}

killing_leaves_nothing_behind() {
	local before after i
	mkdir -p "$dir/tmp"
	before=$(leftovers)
	for i in 1 2 3; do
		TMPDIR=$dir/tmp "$larder" run --limit 32M "$stress" --heap 128 --seconds 60 >/dev/null &
		sleep 0."$i"5
		kill -9 $! || return 1 # it must have been alive
		wait $! 2>/dev/null
	done
	after=$(leftovers)
	[ "$before" = "$after" ] || { diff <(echo "$before") <(echo "$after"); return 1; }
}

compile descriptors <<'C'
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	int n = 0;
	while ((e = readdir(d)))
		n += e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d) && atoi(e->d_name) > 2;
	closedir(d);
	close_range(3, ~0u, 0);
	/* and everything still works: a heap of several times the limit, after all descriptors are gone */
	char *p[160];
	for (int i = 0; i < 160; i++)
		memset(p[i] = malloc(1 << 20), i, 1 << 20);
	for (int i = 0; i < 160; i++)
		for (int j = 0; j < 1 << 20; j += 512)
			if (p[i][j] != (char)i)
				return 2;
	printf("%d\n", n);
	return 0;
}
C
the_program_has_no_descriptor_of_ours() {
	local plain managed
	plain=$("$dir/descriptors")
	managed=$("$larder" run --limit 32M "$dir/descriptors") && [ "$plain" = "$managed" ]
}

compile last_thread <<'C'
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *work(void *p) { usleep(200000); free(malloc(1000)); return NULL; }
int main(void)
{
	pthread_t t;
	pthread_create(&t, NULL, work, NULL);
	pthread_exit(NULL);
}
C
a_program_ends_when_its_last_thread_ends() {
	timeout -s KILL 20 "$larder" run --limit 32M "$dir/last_thread"
}

compile crash <<'C'
#include <stdlib.h>
#include <string.h>
int main(void)
{
	memset(malloc(64 << 20), 1, 64 << 20);
	abort();
}
C
a_crash_takes_no_longer() {
	local start=$SECONDS
	(cd "$dir" && ulimit -c unlimited && timeout -s KILL 60 "$larder" run --limit 24M "$dir/crash") 2>/dev/null
	[ $? = 134 ] && [ $((SECONDS - start)) -lt 15 ] # the kernel dumps what there is, not what is reserved
}

# The program aborts with a heap of which most has been taken out; its pattern must be in the dump, in place.
compile dumps <<'C'
#include <stdint.h>
#include <stdlib.h>
int main(void)
{
	enum { WORDS = 64 << 17 };
	uint64_t *p = malloc(WORDS * 8);
	for (int i = 0; i < WORDS; i++)
		p[i] = i % 512 ? (uint64_t)i * 3 : 0x6c61726465722121;
	abort();
}
C
words_in_core() {
	rm -f "$dir"/core "$dir"/core.[0-9]*
	(cd "$dir" && ulimit -c unlimited && timeout -s KILL 60 "$larder" run --limit 24M "$@" -- "$dir/dumps") 2>/dev/null
	[ $? = 134 ] || echo "exit status not 134"
	cat "$dir"/core.[0-9]* "$dir/core" 2>/dev/null | grep -ao '!!redral' | wc -l
}
a_core_dump_can_have_everything() {
	case $(cat /proc/sys/kernel/core_pattern) in
	/* | \|*) echo "  (no core dumps in the working directory here)"; return 0 ;;
	esac
	local some all
	some=$(words_in_core) all=$(words_in_core --full-core)
	[ "$some" -lt 16384 ] && [ "$all" -ge 16384 ]
	local status=$?
	[ "$status" = 0 ] || echo "  pages in the dump: $some without, $all with --full-core, of 16384"
	rm -f "$dir"/core "$dir"/core.[0-9]*
	return "$status"
}

compile forks <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
enum { N = 96 };
static char *p[N];
static int good(void)
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j < 1 << 20; j += 64)
			if (p[i][j] != (char)(i + 1) || *(int *)(p[i] + j + 4) != j)
				return 0;
	return 1;
}
static char stack[1 << 16] __attribute__((aligned(16)));
static int is_bad(void *round) { return *(int *)round >= 3 || !good(); }
static int reap(pid_t pid) { int s; waitpid(pid, &s, 0); return s == 0; }
int main(void)
{
	pid_t pid;
	char *argv[] = { "true", NULL };
	for (int i = 0; i < N; i++) {
		p[i] = malloc(1 << 20);
		for (int j = 0; j < 1 << 20; j += 64)
			p[i][j] = i + 1, *(int *)(p[i] + j + 4) = j;
	}
	for (int round = 0; round < 3; round++) {
		if ((pid = fork()) == 0)
			_exit(!good());
		if (!reap(pid))
			return 1;
		if ((pid = _Fork()) == 0)
			_exit(!good());
		if (!reap(pid))
			return 2;
		if ((pid = syscall(SYS_fork)) == 0)
			syscall(SYS_exit_group, !good());
		if (!reap(pid))
			return 6;
		if ((pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) == 0)
			syscall(SYS_exit_group, !good());
		if (!reap(pid))
			return 7;
		if ((pid = syscall(SYS_clone3, &(struct clone_args){ .exit_signal = SIGCHLD }, sizeof(struct clone_args))) == 0)
			syscall(SYS_exit_group, !good());
		if (!reap(pid))
			return 8;
		pid = clone(is_bad, stack + sizeof(stack), SIGCHLD, &round);
		if (!reap(pid))
			return 9;
		if (syscall(SYS_gettid) != getpid() || syscall(SYS_close, -1) != -1 || errno != EBADF)
			return 10;
		if ((pid = vfork()) == 0)
			_exit(p[round][64] != (char)(round + 1));
		if (!reap(pid))
			return 3;
		if (system("true") != 0 || posix_spawnp(&pid, "true", NULL, NULL, argv, NULL) != 0 || !reap(pid))
			return 4;
		if (!good())
			return 5;
	}
	return 0;
}
C
forked_children_see_the_memory_of_the_fork() {
	timeout -s KILL 120 "$larder" run --limit 32M "$dir/forks"
}

compile locks <<'C'
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static int is_present(char *p, size_t bytes)
{
	static unsigned char present[64 << 8];
	p = (char *)(((size_t)p + 4095) & ~(size_t)4095);
	bytes = bytes / 4096 - 1;
	if (mincore(p, bytes * 4096, present))
		return 0;
	for (size_t i = 0; i < bytes; i++)
		if (!(present[i] & 1))
			return 0;
	return 1;
}
int main(void)
{
	char *p = malloc(64 << 20);
	memset(p, 1, 64 << 20);
	/* a part: locked, and its content is there; all of it, and what comes: all present */
	if (mlock(p, 4 << 20))
		return 1;
	memset(malloc(64 << 20), 2, 64 << 20);
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		return 2;
	if (!is_present(p, 64 << 20) || !is_present(malloc(32 << 20), 32 << 20))
		return 4;
	for (int i = 0; i < 64 << 20; i++)
		if (p[i] != 1)
			return 3;
	return 0;
}
C
locked_memory_stays() {
	timeout -s KILL 60 "$larder" run --limit 32M --log "$dir/lock.log" "$dir/locks"
}

signals_go_to_the_program() {
	local status
	"$larder" run --limit 32M sh -c 'trap "exit 3" TERM; while :; do sleep 0.05; done' &
	sleep 0.3
	kill -TERM $!
	wait $!
	status=$?
	[ "$status" = 3 ]
}

the_log_goes_where_it_should() {
	# Random bytes do not compress, so the limit cannot be met and the log must say so.
	timeout -s KILL 60 "$larder" run --limit 16M --log "$dir/log" -- \
		sh -c 'head -c 60000000 /dev/urandom | sort -S 200M -z >/dev/null; exec head -c 100000000 /dev/urandom | tail -c 80000000 >/dev/null' 2>"$dir/err"
	[ ! -s "$dir/err" ] && grep -q "cannot be met" "$dir/log"
}

compile own_malloc <<'C'
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
/* It maps, and never gives back. */
static char *next, *end;
void *malloc(size_t bytes)
{
	char *p;
	bytes = (bytes + 31) & ~(size_t)15;
	if ((size_t)(end - next) < bytes) {
		next = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		end = next + (16 << 20);
	}
	p = next;
	*(size_t *)p = bytes - 16;
	next += bytes;
	return p + 16;
}
void free(void *p) { (void)p; }
void *calloc(size_t n, size_t bytes) { return malloc(n * bytes); }
void *realloc(void *p, size_t bytes)
{
	size_t old = p ? ((size_t *)p)[-2] : 0;
	void *to = malloc(bytes);
	return memcpy(to, p, old < bytes ? old : bytes);
}
int main(int argc, char **argv)
{
	enum { BLOCKS = 1 << 16, WORDS = 128 };
	static uint64_t *blocks[BLOCKS];
	char command[512];
	for (int b = 0; b < BLOCKS; b++) {
		blocks[b] = malloc(WORDS * 8);
		for (int w = 0; w < WORDS; w++)
			blocks[b][w] = (uint64_t)b << 8 | (w & 15);
	}
	for (int b = 0; b < BLOCKS; b++)
		for (int w = 0; w < WORDS; w++)
			if (blocks[b][w] != ((uint64_t)b << 8 | (w & 15)))
				return 1;
	snprintf(command, sizeof(command), "%s stat %d", argv[argc - 1], getpid());
	return system(command) != 0;
}
C
a_program_with_a_malloc_of_its_own_is_managed() {
	timeout -s KILL 60 "$larder" run --limit 24M -- "$dir/own_malloc" "$larder" >"$dir/own" 2>"$dir/own_errors" || return 1
	grep -q 'its own malloc' "$dir/own_errors" && grep -q '^evictions *[1-9]' "$dir/own"
}

redis_counts_its_memory() {
	local socket=$dir/redis.sock
	"$larder" run --limit 64M -- redis-server --port 0 --unixsocket "$socket" --save '' --dir "$dir" >"$dir/redis.log" &
	for _ in $(seq 50); do
		redis-cli -s "$socket" ping >/dev/null 2>&1 && break
		sleep 0.1
	done
	redis-cli -s "$socket" eval 'for i=1,200000 do redis.call("SET", "k"..i, string.rep(tostring(i), 80)) end' 0 >/dev/null
	redis-cli -s "$socket" memory stats >"$dir/stats"
	redis-cli -s "$socket" memory purge >>"$dir/stats"
	"$larder" stat "$!" >>"$dir/stats"
	grep -q allocator.active "$dir/stats" && grep -q OK "$dir/stats" && grep -q '^evictions *[1-9]' "$dir/stats"
	local status=$?
	redis-cli -s "$socket" shutdown nosave
	wait $!
	return "$status"
}

check "killing the process leaves nothing behind" killing_leaves_nothing_behind
check "the program has no descriptor of ours, and closing all of them loses nothing" the_program_has_no_descriptor_of_ours
check "a program ends when its last thread ends" a_program_ends_when_its_last_thread_ends
check "a program that crashes is gone at once" a_crash_takes_no_longer
check "a core dump can have everything" a_core_dump_can_have_everything
check "forked children see the memory of the fork" forked_children_see_the_memory_of_the_fork
check "locked memory stays, a part and all of it" locked_memory_stays
check "signals go to the program" signals_go_to_the_program
check "the log goes where it should" the_log_goes_where_it_should
check "a program with a malloc of its own is managed by what it maps" a_program_with_a_malloc_of_its_own_is_managed
check "redis, which calls mallctl, is managed" redis_counts_its_memory
[ "$failures" = 0 ]
