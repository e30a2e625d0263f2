/*
 * What a process does in its life, with its heap being taken out all the time: many threads, signals, handlers around
 * forks and at exits that allocate and fork, libraries that come and go, ends in the middle of everything.
 *
 *   process_life PART        run one part; a process for each, since some end it
 *
 * An unmodified program, to be run with a limit of a fraction of its 48 MiB. Exit status: 0, 1 something is wrong, 2
 * usage.
 */
#include "mix.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_WORDS = 2048, BLOCKS = (48 << 20) / (BLOCK_WORDS * 8) };
enum { THREADS = 3000, THREADS_AT_ONCE = 50, FORKS = 30, SIGNALS = 2000, OPENINGS = 300, FAULTERS = 8 };

static uint64_t *blocks[BLOCKS];
static _Atomic uint64_t wrong;

static uint64_t word_of(size_t block, size_t i)
{
	return i % 4 ? block : mix((uint64_t)block << 20 | i);
}

static void fill(size_t block)
{
	for (size_t i = 0; i < BLOCK_WORDS; i++)
		((volatile uint64_t *)blocks[block])[i] = word_of(block, i);
}

/* One word in each page: async-signal-safe. */
static void look_at(size_t block)
{
	for (size_t i = 0; i < BLOCK_WORDS; i += 256)
		wrong += ((volatile uint64_t *)blocks[block])[i] != word_of(block, i);
}

static void look_at_random(uint64_t *random, unsigned blocks_to_see)
{
	for (unsigned i = 0; i < blocks_to_see; i++)
		look_at(mix((*random)++) % BLOCKS);
}

static void look_at_all(void)
{
	for (size_t i = 0; i < BLOCKS; i++)
		look_at(i);
}

static void make_heap(void)
{
	for (size_t i = 0; i < BLOCKS; i++) {
		blocks[i] = malloc(BLOCK_WORDS * sizeof(*blocks[i]));
		fill(i);
	}
}

/* ---- threads ---- */

static pthread_key_t key;

/* At a thread's end: memory is allocated and freed, and old memory touched. */
static void at_thread_end(void *value)
{
	uint64_t random = (uint64_t)(uintptr_t)value;

	free(value);
	free(malloc(100000));
	look_at_random(&random, 2);
}

static void *short_life(void *arg)
{
	uint64_t random = (uint64_t)(uintptr_t)arg;

	pthread_setspecific(key, malloc(64));
	look_at_random(&random, 3);
	return NULL;
}

static int thousands_of_threads(void)
{
	pthread_t threads[THREADS_AT_ONCE];

	pthread_key_create(&key, at_thread_end);
	for (uintptr_t i = 0; i < THREADS / THREADS_AT_ONCE; i++) {
		for (uintptr_t n = 0; n < THREADS_AT_ONCE; n++)
			if (pthread_create(&threads[n], NULL, short_life, (void *)(i * THREADS_AT_ONCE + n)))
				return 1;
		for (int n = 0; n < THREADS_AT_ONCE; n++)
			pthread_join(threads[n], NULL);
	}
	return 0;
}

/* ---- signals ---- */

static _Atomic unsigned signals;

/* In the middle of anything, a fault above all; touches what may be away itself. */
static void on_timer(int signal)
{
	static uint64_t random;
	int saved_errno = errno;

	(void)signal;
	look_at_random(&random, 1);
	signals++;
	errno = saved_errno;
}

static int signals_during_faults(void)
{
	struct itimerval every = { .it_interval = { .tv_usec = 500 }, .it_value = { .tv_usec = 500 } };
	struct sigaction action = { .sa_handler = on_timer, .sa_flags = SA_RESTART };
	uint64_t random = 1;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (time_t end = time(NULL) + 20; signals < SIGNALS && time(NULL) < end;)
		look_at_random(&random, 100);
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	return signals < SIGNALS / 4;
}

/* ---- handlers around a fork ---- */

static int forks_in_handlers;

static int ends_well(pid_t pid)
{
	int status = -1;

	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* fork(), malloc() and old memory in a handler, which may run before or after Larder's. */
static void in_handler(void)
{
	static int is_within;
	uint64_t random = (uint64_t)getpid();
	pid_t pid;

	free(malloc(50000));
	look_at_random(&random, 2);
	if (!forks_in_handlers || is_within)
		return;
	is_within = 1;
	pid = fork();
	if (pid == 0) {
		look_at_random(&random, 10);
		_exit(wrong != 0);
	}
	wrong += !ends_well(pid);
	is_within = 0;
}

extern void (*early_handler)(void); /* early_handlers.c */

static int fork_often(int in_handlers)
{
	uint64_t random = 7;

	forks_in_handlers = in_handlers;
	early_handler = in_handler;
	pthread_atfork(in_handler, in_handler, in_handler);
	for (int i = 0; i < FORKS; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			look_at_random(&random, 50);
			fill(3);
			_exit(wrong != 0);
		}
		if (!ends_well(pid))
			return 1;
		look_at_random(&random, 50);
	}
	return 0;
}

static int handlers_that_allocate(void)
{
	return fork_often(0);
}

static int handlers_that_fork(void)
{
	return fork_often(1);
}

/* ---- libraries ---- */

static int libraries_come_and_go(void)
{
	uint64_t random = 9;

	for (int i = 0; i < OPENINGS; i++) {
		void *library = dlopen(i % 2 ? "libresolv.so.2" : "libnss_files.so.2", RTLD_NOW | RTLD_LOCAL);

		if (library && i % 2 && !dlsym(library, "__ns_name_pton"))
			dlsym(library, "ns_name_pton");
		look_at_random(&random, 20);
		if (library)
			dlclose(library);
	}
	return 0;
}

/* ---- ends ---- */

static void *fault_for_ever(void *arg)
{
	uint64_t random = (uint64_t)(uintptr_t)arg;

	for (;;)
		look_at_random(&random, 1);
	return NULL;
}

static void at_exit(void)
{
	uint64_t random = 11;

	free(malloc(1 << 20));
	look_at_random(&random, 100);
	if (wrong)
		_exit(1);
}

/* In the destructors threads fault still, and memory is allocated. */
static int exit_while_threads_fault(void)
{
	pthread_t thread;

	atexit(at_exit);
	for (uintptr_t i = 0; i < FAULTERS; i++)
		pthread_create(&thread, NULL, fault_for_ever, (void *)(i << 20));
	usleep(200000);
	return 0;
}

static int exec_while_threads_fault(void)
{
	pthread_t thread;

	for (uintptr_t i = 0; i < FAULTERS; i++)
		pthread_create(&thread, NULL, fault_for_ever, (void *)(i << 20));
	usleep(200000);
	execl("/bin/true", "true", (char *)NULL);
	return 1;
}

static const struct {
	const char *name;
	int (*run)(void);
} parts[] = {
	{ "threads", thousands_of_threads },	{ "signals", signals_during_faults },
	{ "handlers", handlers_that_allocate }, { "forking-handlers", handlers_that_fork },
	{ "libraries", libraries_come_and_go }, { "exit", exit_while_threads_fault },
	{ "exec", exec_while_threads_fault },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < sizeof(parts) / sizeof(parts[0]); i++)
		if (strcmp(argv[1], parts[i].name) == 0) {
			int failed;

			make_heap();
			look_at_all();
			failed = parts[i].run();
			if (strcmp(argv[1], "exit") != 0)
				look_at_all();
			if (failed || wrong)
				fprintf(stderr, "process_life: %s: %s, %lu words wrong\n", argv[1],
					failed ? "failed" : "done", (unsigned long)wrong);
			return failed || wrong != 0;
		}
	fprintf(stderr, "usage: process_life threads|signals|handlers|forking-handlers|libraries|exit|exec\n");
	return 2;
}
