/*
 * Threads change a heap of several times the limit, open and close streams, allocate and free, while others fork. Every
 * child must see the heap as it was at the fork, and go on with it: verify it, change it, fork, execute, or die in
 * every way there is; none may change what its parent sees.
 *
 *   fork_race [--seconds N] [--threads N] [--megabytes N] [--seed N]
 *
 * An unmodified program: it knows nothing of Larder. Exit status: 0, 1 wrong contents or a child that failed or hung, 2
 * usage. The seed is printed.
 */
#include "mix.h"

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_WORDS = 8 << 10, BLOCKS_PER_MIB = (1 << 20) / (BLOCK_WORDS * 8), THREADS_MAX = 16, HANG_SECONDS = 60 };

/* How a child lives. */
enum fate { VERIFIES, CHANGES, HAS_A_CHILD, EXECUTES, IS_KILLED, EXITS, DAEMONISES, FATES };

/*
 * A block belongs to one thread. While it is written to, `begun` is ahead of `done`: a child may see any prefix of the
 * words new and the rest old.
 */
struct block {
	_Atomic uint64_t begun, done;
	uint64_t *_Atomic words; /* NULL while it is replaced */
};

static struct block *blocks;
static size_t nblocks;
static unsigned nthreads = 3;
static uint64_t seed;
static _Atomic int stop;
static _Atomic uint64_t changes, forks;

static uint64_t word_of(size_t block, uint64_t generation, size_t i)
{
	uint64_t w = mix((uint64_t)block << 40 ^ generation << 12);

	return i % 8 ? w + i / 64 : mix(w ^ i);
}

static void fail(const char *what, size_t block)
{
	fprintf(stderr, "fork_race: process %d: block %zu: %s\n", (int)getpid(), block, what);
	_exit(1);
}

/* ---- the heap ---- */

static void write_block(size_t at)
{
	struct block *b = &blocks[at];
	uint64_t generation = b->done + 1;

	b->begun = generation;
	atomic_thread_fence(memory_order_seq_cst);
	for (size_t i = 0; i < BLOCK_WORDS; i++)
		((volatile uint64_t *)b->words)[i] = word_of(at, generation, i);
	atomic_thread_fence(memory_order_seq_cst);
	b->done = generation;
}

/* What another thread was doing when this process was forked is half done for ever. */
static void verify_block(size_t at)
{
	const struct block *b = &blocks[at];
	uint64_t begun = b->begun, done = b->done;
	const volatile uint64_t *words = b->words;
	size_t i = 0;

	if (!words)
		return;
	if (begun != done && begun != done + 1)
		fail("its generations are wrong", at);
	while (i < BLOCK_WORDS && words[i] == word_of(at, begun, i))
		i++;
	while (i < BLOCK_WORDS && begun != done && words[i] == word_of(at, done, i))
		i++;
	if (i < BLOCK_WORDS)
		fail("a word is wrong", at);
}

static void replace_block(size_t at)
{
	uint64_t *words = blocks[at].words;

	blocks[at].words = NULL;
	atomic_thread_fence(memory_order_seq_cst);
	free(words);
	words = malloc(BLOCK_WORDS * sizeof(*words));
	if (!words)
		fail("no memory", at);
	for (size_t i = 0; i < BLOCK_WORDS; i++)
		words[i] = word_of(at, blocks[at].done, i);
	atomic_thread_fence(memory_order_seq_cst);
	blocks[at].words = words;
}

static void use_streams(void)
{
	FILE *f = fopen("/dev/null", "w");

	if (f) {
		fprintf(f, "%d\n", 1);
		fclose(f);
	}
	fflush(NULL);
}

static void *change(void *arg)
{
	unsigned id = (unsigned)(uintptr_t)arg;
	uint64_t random = mix(seed ^ id);

	while (!stop) {
		size_t at = (mix(random++) % (nblocks / nthreads)) * nthreads + id;
		unsigned what = mix(random++) % 100;

		verify_block(at);
		if (what < 60)
			write_block(at);
		else if (what < 70)
			replace_block(at);
		else if (what < 73)
			use_streams();
		changes++;
	}
	return NULL;
}

/* ---- children ---- */

static void verify_all(void)
{
	for (size_t i = 0; i < nblocks; i++)
		verify_block(i);
}

static pid_t start_child(enum fate fate, uint64_t random);

/* Returns 0, or 1 when the child did not end as it had to. */
static int reap(pid_t pid, enum fate fate)
{
	int status = 0;

	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("fork_race: fork");
		return 1;
	}
	if (fate == IS_KILLED ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0)
		return 0;
	fprintf(stderr, "fork_race: a child of kind %d ended with status 0x%x\n", fate, (unsigned)status);
	return 1;
}

/* The child of a child that has ended tells by a pipe that all is well. */
static void daemonise(void)
{
	int ends[2];
	char all_is_well = 0;
	pid_t pid;

	if (pipe(ends) || (pid = fork()) < 0)
		_exit(1);
	if (pid == 0) {
		setsid();
		pid = fork();
		if (pid)
			_exit(pid < 0);
		verify_all();
		_exit(write(ends[1], "y", 1) != 1);
	}
	close(ends[1]);
	if (reap(pid, EXITS) || read(ends[0], &all_is_well, 1) != 1)
		_exit(1);
	_exit(0);
}

/* All blocks that nobody was changing are this process's now. */
static void change_all(uint64_t random)
{
	for (size_t i = 0; i < nblocks; i++) {
		size_t at = mix(random++) % nblocks;

		if (!blocks[at].words || blocks[at].begun != blocks[at].done)
			continue;
		verify_block(at);
		(i % 4 ? write_block : replace_block)(at);
	}
	verify_all();
}

static void live(enum fate fate, uint64_t random)
{
	alarm(HANG_SECONDS);
	switch (fate) {
	case VERIFIES:
		verify_all();
		_exit(0);
	case CHANGES:
		change_all(random);
		_exit(0);
	case HAS_A_CHILD:
		change_all(random);
		_exit(reap(start_child((enum fate)(mix(random) % FATES), random + 1),
			   (enum fate)(mix(random) % FATES)));
	case EXECUTES:
		execl("/bin/true", "true", (char *)NULL);
		_exit(1);
	case IS_KILLED:
		verify_block(mix(random) % nblocks);
		raise(SIGKILL);
		_exit(1);
	case EXITS: /* streams are flushed, destructors run */
		exit(0);
	case DAEMONISES:
		daemonise();
		_exit(1);
	case FATES:
		break;
	}
	_exit(1);
}

/* A child of _Fork() may only call what is async-signal-safe: no malloc, no exit. */
static pid_t start_child(enum fate fate, uint64_t random)
{
	int bare = fate == VERIFIES || fate == EXECUTES || fate == IS_KILLED;
	pid_t pid = bare && mix(random) % 2 ? _Fork() : fork();

	if (pid == 0)
		live(fate, random);
	forks++;
	return pid;
}

static void *keep_forking(void *arg)
{
	uint64_t random = mix(seed ^ 1000 ^ (uintptr_t)arg);

	while (!stop) {
		enum fate fate = (enum fate)(mix(random++) % FATES);

		if (reap(start_child(fate, random++), fate))
			_exit(1);
	}
	return NULL;
}

/* ---- */

static void on_alarm(int signal)
{
	static const char message[] = "fork_race: a process hangs\n";

	(void)signal;
	if (write(STDERR_FILENO, message, sizeof(message) - 1) > 0)
		abort();
	_exit(1);
}

int main(int argc, char **argv)
{
	static const struct option known[] = { { "seconds", required_argument, NULL, 's' },
					       { "threads", required_argument, NULL, 't' },
					       { "megabytes", required_argument, NULL, 'm' },
					       { "seed", required_argument, NULL, 'r' },
					       { 0 } };
	pthread_t threads[THREADS_MAX], forkers[2];
	unsigned seconds = 8, megabytes = 96;
	int c;

	seed = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 's')
			seconds = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 't')
			nthreads = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'm')
			megabytes = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'r')
			seed = strtoull(optarg, NULL, 0);
		else
			return 2;
	if (nthreads == 0 || nthreads > THREADS_MAX || megabytes == 0)
		return 2;
	printf("fork_race: seed 0x%" PRIx64 "\n", seed);
	fflush(stdout);
	signal(SIGALRM, on_alarm);
	alarm(seconds + HANG_SECONDS);
	nblocks = (size_t)megabytes * BLOCKS_PER_MIB;
	blocks = calloc(nblocks, sizeof(*blocks));
	for (size_t i = 0; i < nblocks; i++)
		replace_block(i);
	for (unsigned i = 0; i < nthreads; i++)
		pthread_create(&threads[i], NULL, change, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&forkers[i], NULL, keep_forking, (void *)(uintptr_t)i);
	sleep(seconds);
	stop = 1;
	for (unsigned i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(forkers[i], NULL);
	verify_all();
	printf("fork_race: %" PRIu64 " changes, %" PRIu64 " forks, 0 wrong\n", (uint64_t)changes, (uint64_t)forks);
	return changes == 0 || forks == 0;
}
