/*
 * Torture: threads do everything that a program can do to its memory, at random, and fork while they do; every word is
 * checked against a model.
 *
 *   torture [--seconds N] [--threads N] [--megabytes N] [--seed N] [--operations N] [--hang N] [--stat COMMAND]
 *           [--expect-evictions]
 *
 * Each thread owns its objects, heap memory and mappings, and draws its decisions from a stream of its own, which
 * follows from the seed and its number: so it does the same again with the same seed, however the threads interleave.
 * --operations ends each thread after so many instead of after a time. Children verify what their parent had at the
 * fork, of its other threads, too, if these were at rest; change it, fork again, and end in several ways, SIGKILL among
 * them; their parent goes on meanwhile and finds what it had.
 *
 * A process that never touches any of that memory watches: when a thread stands still for --hang seconds (60), it
 * prints the stacks of all, and what COMMAND ("larder stat") says of each process, and ends them.
 *
 * An unmodified program: it knows nothing of Larder. Exit status: 0, 1 wrong contents, a wrong result or a hang, 2
 * usage. The seed is printed.
 */
#include "torture.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH_MOST = 3, CONSTANT_BLOCK = 64 << 10, CONSTANT_BLOCKS = 64 };

static struct {
	unsigned seconds, megabytes, hang_seconds, expect_evictions;
	uint64_t operations;
	const char *stat_command;
} options = { .seconds = 20, .megabytes = 64, .hang_seconds = 60, .stat_command = "larder stat" };

/* Held for each operation, and by a thread that forks while the others are at rest. */
static pthread_rwlock_t gate;

static _Atomic uint64_t forks;

/* In a child: are the objects of threads that it does not have known? */
static int others_are_known;

/* ---- what never changes: read by everybody, handlers of signals above all ---- */

static unsigned char *constant[CONSTANT_BLOCKS]; /* heap memory and mappings by turns */

static void make_constants(void)
{
	for (size_t i = 0; i < CONSTANT_BLOCKS; i++) {
		constant[i] = i % 2 ? malloc(CONSTANT_BLOCK)
				    : mmap(NULL, 2 * CONSTANT_BLOCK, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		EXPECT(&workers[0], constant[i] != NULL && constant[i] != MAP_FAILED);
		fill_words(constant[i], i * 2 + 11, 0, CONSTANT_BLOCK / 8);
	}
}

static void check_constant(const struct worker *w, uint64_t random)
{
	size_t i = random % CONSTANT_BLOCKS, page = random / CONSTANT_BLOCKS % (CONSTANT_BLOCK / PAGE);

	check_words(w, constant[i] + page * PAGE, i * 2 + 11, page * WORDS, WORDS, "constant memory");
}

static void on_timer(int signal)
{
	static uint64_t random;
	int saved_errno = errno;

	(void)signal;
	check_constant(&workers[0], mix(random++));
	errno = saved_errno;
}

static void start_timer(void)
{
	struct itimerval every = { .it_interval = { .tv_usec = 10000 }, .it_value = { .tv_usec = 10000 } };
	struct sigaction action = { .sa_handler = on_timer, .sa_flags = SA_RESTART };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

/* ---- operations ---- */

static void operate_once(struct worker *w)
{
	pthread_rwlock_rdlock(&gate);
	if (draw(w, 3) == 0)
		heap_operate(w);
	else
		map_operate(w);
	check_constant(w, mix(w->random));
	pthread_rwlock_unlock(&gate);
	w->operations++;
}

static void *check_in_thread(void *arg)
{
	struct worker *w = arg;
	struct object *o = draw_object(w, draw(w, 2) ? HEAP : MAPPING);

	if (o)
		(o->kind == HEAP ? heap_check(w, o) : map_check(w, o));
	operate_once(w);
	return NULL;
}

/* All that the worker has is another thread's for a moment. */
static void start_thread(struct worker *w)
{
	pthread_t thread;

	note(w->slot, "starts a thread");
	EXPECT(w, pthread_create(&thread, NULL, check_in_thread, w) == 0);
	pthread_join(thread, NULL);
}

static void spawn(struct worker *w)
{
	static char *const argv[] = { "true", NULL };
	extern char **environ;
	int status = -1;
	pid_t pid;

	note(w->slot, "posix_spawn");
	EXPECT(w, posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ) == 0);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	EXPECT(w, status == 0);
}

/* ---- children ---- */

enum fate { VERIFIES, WORKS, WORKS_WITH_A_THREAD, IS_KILLED, EXITS, EXECUTES, FATES };

static void work(struct worker *w, size_t most);

static void check_others(struct worker *self)
{
	for (unsigned i = 0; others_are_known && i < nworkers; i++)
		if (&workers[i] != self) {
			workers[i].slot = self->slot;
			check_all_objects(&workers[i]);
		}
}

/* In a child, beside its only worker. */
static void *do_something_else(void *arg)
{
	struct worker *w = arg;
	struct slot *slot = slot_take(w->id);

	for (unsigned i = 0; i < 300; i++) {
		size_t bytes = (size_t)1 << i % 19;
		unsigned char *p =
			i % 2 ? malloc(bytes)
			      : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		note(slot, "churns in a child");
		fill_words(p, i | 1, 0, bytes / 8);
		check_constant(w, mix(i));
		check_words(w, p, i | 1, 0, bytes / 8, "memory of a child's thread");
		if (i % 2)
			free(p);
		else
			munmap(p, bytes);
	}
	slot_release(slot);
	return NULL;
}

static void work_with_a_thread(struct worker *w)
{
	pthread_t thread;

	EXPECT(w, pthread_create(&thread, NULL, do_something_else, w) == 0);
	work(w, draw(w, 60));
	pthread_join(thread, NULL);
}

__attribute__((noreturn)) static void live(struct worker *w, enum fate fate)
{
	for (unsigned i = 0; i < nworkers; i++)
		if (&workers[i] == w || others_are_known)
			map_inherit(&workers[i]);
	check_all_objects(w);
	check_others(w);
	if (fate == WORKS_WITH_A_THREAD)
		work_with_a_thread(w);
	else if (fate != VERIFIES)
		work(w, draw(w, 80));
	check_all_objects(w);
	if (draw(w, 2))
		check_others(w);
	note(w->slot, "ends");
	if (fate == IS_KILLED)
		raise(SIGKILL);
	if (fate == EXECUTES)
		execl("/bin/true", "true", (char *)NULL);
	if (fate == EXITS)
		exit(0);
	_exit(fate == EXECUTES);
}

static void become_child(struct worker *w, struct slot *slot, int was_quiet)
{
	static const pthread_rwlock_t fresh = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	gate = fresh;
	others_are_known = (w->depth ? others_are_known : 1) && was_quiet;
	w->slot = slot;
	w->depth++;
	slot->pid = slot->tid = getpid();
	note(slot, "is born");
}

static void await(struct worker *w, pid_t pid, enum fate fate, struct slot *slot)
{
	int status = -1;
	pid_t ended;

	while ((ended = waitpid(pid, &status, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
		note(w->slot, "waits for a child"); /* which is watched itself */
		usleep(1000);
	}
	slots_release_of(pid);
	slot_release(slot);
	if (ended != pid || (fate == IS_KILLED ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL : status != 0))
		fail(w, "child %d, of kind %d, ended with status 0x%x", (int)pid, fate, (unsigned)status);
}

static void fork_once(struct worker *w)
{
	size_t quiet = draw(w, 2), meanwhile = draw(w, 20);
	enum fate fate = (enum fate)draw(w, FATES);
	uint64_t childs_random = draw_token(w);
	struct slot *slot = slot_take(w->id);
	pid_t pid;

	note(slot, "is being forked");
	note(w->slot, quiet ? "forks at rest" : "forks");
	if (quiet)
		pthread_rwlock_wrlock(&gate);
	pid = fork();
	if (pid == 0) {
		become_child(w, slot, (int)quiet);
		w->random = childs_random;
		live(w, fate);
	}
	if (quiet)
		pthread_rwlock_unlock(&gate);
	EXPECT(w, pid > 0);
	slot->pid = pid;
	forks++;
	for (size_t i = 0; i < meanwhile; i++)
		operate_once(w);
	await(w, pid, fate, slot);
}

/* ---- workers ---- */

static void work(struct worker *w, size_t most)
{
	for (size_t i = 0; i < most && !stop; i++)
		switch (draw(w, 512)) {
		case 0 ... 3:
			if (w->depth < DEPTH_MOST)
				fork_once(w);
			break;
		case 4 ... 5:
			start_thread(w);
			break;
		case 6:
			spawn(w);
			break;
		case 7:
			check_all_objects(w);
			break;
		default:
			operate_once(w);
		}
}

static void drop_all(struct worker *w)
{
	for (int i = 0; i < OBJECTS; i++)
		if (w->objects[i].kind == HEAP)
			heap_drop(w, &w->objects[i]);
		else if (w->objects[i].kind == MAPPING)
			map_drop(w, &w->objects[i]);
}

static void *run_worker(void *arg)
{
	struct worker *w = arg;

	w->slot = slot_take(w->id);
	work(w, options.operations ? options.operations : SIZE_MAX);
	count_away(w);
	check_all_objects(w);
	drop_all(w);
	slot_release(w->slot);
	w->slot = NULL;
	return NULL;
}

static void init_workers(void)
{
	for (unsigned i = 0; i < nworkers; i++) {
		workers[i].id = i;
		workers[i].random = mix(seed ^ mix(i + 1));
		workers[i].budget_pages = ((size_t)options.megabytes << 20) / PAGE / nworkers;
	}
}

/* In the process that is watched. */
static int torture(void)
{
	static const pthread_rwlock_t fresh = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
	time_t end = time(NULL) + (time_t)options.seconds;
	size_t away_pages = 0, content_pages = 0;
	uint64_t operations = 0;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	gate = fresh;
	catch_signals();
	map_start();
	make_constants();
	init_workers();
	for (unsigned i = 0; i < nworkers; i++)
		EXPECT(&workers[i], pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) == 0);
	start_timer();
	while (!options.operations && time(NULL) < end)
		usleep(100000);
	stop = !options.operations;
	for (unsigned i = 0; i < nworkers; i++) {
		pthread_join(workers[i].thread, NULL);
		operations += workers[i].operations;
		away_pages += workers[i].away_pages;
		content_pages += workers[i].content_pages;
	}
	printf("torture: %" PRIu64 " operations, %" PRIu64
	       " forks, nothing wrong; in the end %zu of %zu pages were away\n",
	       operations, (uint64_t)forks, away_pages, content_pages);
	if (options.expect_evictions && away_pages < content_pages / 4) {
		fprintf(stderr, "torture: little was taken out, so little was tested\n");
		return 1;
	}
	return 0;
}

static int read_options(int argc, char **argv)
{
	static const struct option known[] = { { "seconds", required_argument, NULL, 's' },
					       { "threads", required_argument, NULL, 't' },
					       { "megabytes", required_argument, NULL, 'm' },
					       { "seed", required_argument, NULL, 'r' },
					       { "operations", required_argument, NULL, 'o' },
					       { "hang", required_argument, NULL, 'h' },
					       { "stat", required_argument, NULL, 'c' },
					       { "expect-evictions", no_argument, NULL, 'e' },
					       { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		switch (c) {
		case 's':
			options.seconds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 't':
			nworkers = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'm':
			options.megabytes = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'r':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			options.operations = strtoull(optarg, NULL, 10);
			break;
		case 'h':
			options.hang_seconds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'e':
			options.expect_evictions = 1;
			break;
		case 'c':
			options.stat_command = optarg;
			break;
		default:
			return -1;
		}
	return optind == argc && nworkers > 0 && nworkers <= WORKERS && options.hang_seconds > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
	pid_t pid;

	seed = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	if (read_options(argc, argv)) {
		fprintf(stderr,
			"usage: torture [--seconds N] [--threads 1..%d] [--megabytes N] [--seed N] "
			"[--operations N] [--hang N] [--stat COMMAND] [--expect-evictions]\n",
			WORKERS);
		return 2;
	}
	printf("torture: --seed 0x%" PRIx64 " --threads %u\n", seed, nworkers);
	fflush(stdout);
	slots_create();
	pid = fork();
	if (pid == 0)
		return torture();
	if (pid < 0 || watch(pid, options.hang_seconds, options.stat_command)) {
		fprintf(stderr, "torture: FAILED, replay with --seed 0x%" PRIx64 " --threads %u --megabytes %u\n", seed,
			nworkers, options.megabytes);
		return 1;
	}
	return 0;
}
