/*
 * mmap_family: signals and threads. Handlers of the program's own for SIGBUS and SIGSEGV, stacks in mapped memory, and
 * calls of the family from everywhere at once.
 */
#include "mmap_family.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- SIGBUS of the program's own ---- */

static void sigbus_of_a_file_is_the_programs(void)
{
	unsigned char *p = map_filled(AREA), *file;
	int fd = memfd_create("mmap_family", MFD_CLOEXEC);

	EXPECT(fd >= 0 && ftruncate(fd, 100 * PAGE) == 0);
	file = mmap(NULL, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	EXPECT(file != MAP_FAILED);
	fill(file, 0, 100, 2);
	EXPECT(ftruncate(fd, 50 * PAGE) == 0);
	EXPECT_CONTENT(file, 0, 50, 2);
	EXPECT_SIGNAL(file + 50 * PAGE, 50, READS, SIGBUS);
	EXPECT_SAME(signal_code, BUS_ADRERR);
	EXPECT_CONTENT(p, 0, AREA, 1);
	/* The same mapped over memory that was managed. */
	EXPECT(mmap(p + 100 * PAGE, 100 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == p + 100 * PAGE);
	EXPECT_CONTENT(p + 100 * PAGE, 0, 50, 2);
	EXPECT_SIGNAL(p + 150 * PAGE, 50, READS, SIGBUS);
	EXPECT_CONTENT(p + 200 * PAGE, 200, AREA - 200, 1);
	close(fd);
	unmap(file, 100);
	unmap(p, AREA);
}

static unsigned char *evicted;
static volatile sig_atomic_t seen;

/* In a handler, memory that was taken out is there. */
static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	seen += is_content(evicted + seen * PAGE, (size_t)seen, 1);
	if (mmap((void *)((uintptr_t)info->si_addr & -(uintptr_t)PAGE), PAGE, PROT_READ,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(3);
}

static void a_sigbus_handler_may_touch_and_map(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, old;
	int fd = memfd_create("mmap_family", MFD_CLOEXEC);
	unsigned char *file;

	evicted = map_filled(AREA);
	EXPECT(fd >= 0);
	file = mmap(NULL, 100 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	EXPECT(file != MAP_FAILED);
	EXPECT(sigaction(SIGBUS, &action, &old) == 0);
	EXPECT_ZEROES(file, 100);
	EXPECT_SAME(seen, 100);
	sigaction(SIGBUS, &old, NULL);
	EXPECT_CONTENT(evicted, 0, AREA, 1);
	close(fd);
	unmap(file, 100);
	unmap(evicted, AREA);
}

/* ---- the family in a handler ---- */

static volatile sig_atomic_t in_handler;

static void map_and_unmap(uint64_t seed)
{
	unsigned char *p = map(64), *q;

	fill(p, 0, 64, seed);
	EXPECT(madvise(p, 16 * PAGE, MADV_DONTNEED) == 0 && mprotect(p + 16 * PAGE, 16 * PAGE, PROT_READ) == 0);
	EXPECT_ZEROES(p, 16);
	EXPECT_CONTENT(p + 16 * PAGE, 16, 48, seed);
	q = mremap(p + 32 * PAGE, 32 * PAGE, 48 * PAGE, MREMAP_MAYMOVE);
	EXPECT(q != MAP_FAILED);
	EXPECT_CONTENT(q, 32, 32, seed);
	EXPECT_ZEROES(q + 32 * PAGE, 16);
	unmap(q, 48);
	unmap(p, 32);
}

static void on_timer(int signal)
{
	int saved_errno = errno;

	(void)signal;
	map_and_unmap((uint64_t)in_handler);
	in_handler++;
	errno = saved_errno;
}

enum { ENOUGH_HANDLERS = 50 };

/* Calls `run` with one number after the other, for two seconds, or up to twenty on a machine so slow that there were
 * hardly any handlers; maps memory in a handler all the time. */
static void interrupt(void (*run)(uint64_t seed))
{
	struct itimerval every = { .it_interval = { .tv_usec = 700 }, .it_value = { .tv_usec = 700 } };
	struct sigaction action = { .sa_handler = on_timer, .sa_flags = SA_RESTART };
	uint64_t start = now_ns(), until = start + 2000000000u, at_most = start + 20000000000u;
	unsigned char *p = map_filled(AREA);

	EXPECT(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
	for (uint64_t seed = 1; now_ns() < (in_handler > ENOUGH_HANDLERS ? until : at_most); seed++) {
		run(seed);
		EXPECT_CONTENT(p + seed % AREA * PAGE, seed % AREA, 1, 1);
	}
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	signal(SIGALRM, SIG_DFL);
	EXPECT(in_handler > ENOUGH_HANDLERS);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void a_handler_maps_while_memory_is_mapped(void)
{
	interrupt(map_and_unmap);
}

static void allocate(uint64_t seed)
{
	static void *blocks[64];
	size_t i = mix(seed) % 64, bytes = 1 + mix(seed) / 64 % (512 << 10);

	free(blocks[i]);
	blocks[i] = malloc(bytes);
	EXPECT(blocks[i] != NULL);
	memset(blocks[i], (int)seed, bytes);
}

static void a_handler_maps_while_memory_is_allocated(void)
{
	interrupt(allocate);
}

static unsigned char *advised;

static void advise_and_lock(uint64_t seed)
{
	size_t page = mix(seed) % (AREA - 64);
	unsigned char *at = advised + page * PAGE;

	EXPECT(madvise(at, 64 * PAGE, seed % 3 ? MADV_PAGEOUT : MADV_DONTNEED) == 0);
	if (seed % 5 == 0)
		EXPECT(mlock(at, 16 * PAGE) == 0 && munlock(at, 16 * PAGE) == 0);
	fill(at, page, 16, 1);
}

static void a_handler_maps_while_memory_is_advised(void)
{
	advised = map_filled(AREA);
	interrupt(advise_and_lock);
	unmap(advised, AREA);
}

/* ---- threads ---- */

enum { THREADS = 4, RACE_MS = 1500 };

static _Atomic int stop;

/* Everything at random in memory of its own. */
static void *churn(void *arg)
{
	uint64_t random = mix((uintptr_t)arg), seed = random;

	while (!stop)
		map_and_unmap(seed++);
	return NULL;
}

static void run_threads(void *(*run)(void *))
{
	pthread_t threads[THREADS];

	stop = 0;
	for (uintptr_t i = 0; i < THREADS; i++)
		EXPECT(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
	for (uint64_t until = now_ns() + RACE_MS * 1000000ull; now_ns() < until;)
		evict_all();
	stop = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void threads_map_and_unmap_at_once(void)
{
	run_threads(churn);
}

static unsigned char *shared;

/* Each thread has every THREADS-th page of one mapping, and changes what is allowed there and what is in it. */
static void *use_own_pages(void *arg)
{
	size_t own = (uintptr_t)arg;
	uint64_t random = mix(own + 77);

	while (!stop) {
		size_t page = page_random(&random, AREA / THREADS) * THREADS + own;
		unsigned char *at = shared + page * PAGE;

		if (!is_content(at, page, 1))
			FAIL("page %zu of another thread's neighbour is wrong", page);
		switch (page_random(&random, 5)) {
		case 0:
			EXPECT(madvise(at, PAGE, MADV_DONTNEED) == 0);
			EXPECT_ZEROES(at, 1);
			fill(at, page, 1, 1);
			break;
		case 1:
			EXPECT(mprotect(at, PAGE, PROT_READ) == 0);
			EXPECT_CONTENT(at, page, 1, 1);
			EXPECT(mprotect(at, PAGE, PROT_READ | PROT_WRITE) == 0);
			break;
		case 2:
			EXPECT(munmap(at, PAGE) == 0);
			EXPECT(mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
			       at);
			EXPECT_ZEROES(at, 1);
			fill(at, page, 1, 1);
			break;
		default:
			fill(at, page, 1, 1);
		}
	}
	return NULL;
}

static void threads_have_pages_of_one_mapping(void)
{
	shared = map_filled(AREA);
	run_threads(use_own_pages);
	EXPECT_CONTENT(shared, 0, AREA, 1);
	unmap(shared, AREA);
}

static void *read_all(void *arg)
{
	uint64_t random = mix((uintptr_t)arg + 99);

	while (!stop) {
		size_t page = page_random(&random, AREA);

		EXPECT_CONTENT(shared + page * PAGE, page, 1, 1);
	}
	return NULL;
}

/* Protections come and go, advice is given, beneath threads that read. */
static void readers_notice_nothing(void)
{
	pthread_t threads[THREADS];
	uint64_t random = 5;

	shared = map_filled(AREA);
	stop = 0;
	for (uintptr_t i = 0; i < THREADS; i++)
		EXPECT(pthread_create(&threads[i], NULL, read_all, (void *)i) == 0);
	for (uint64_t until = now_ns() + RACE_MS * 1000000ull; now_ns() < until;) {
		static const int advices[] = { MADV_WILLNEED, MADV_PAGEOUT, MADV_COLD, MADV_HUGEPAGE, MADV_NOHUGEPAGE };
		size_t page = page_random(&random, AREA), pages = 1 + page_random(&random, AREA - page);

		EXPECT(mprotect(shared + page * PAGE, pages * PAGE,
				page_random(&random, 2) ? PROT_READ : PROT_READ | PROT_WRITE) == 0);
		madvise(shared + page * PAGE, pages * PAGE, advices[page_random(&random, 5)]);
		if (page_random(&random, 50) == 0)
			evict_all();
	}
	stop = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	EXPECT_CONTENT(shared, 0, AREA, 1);
	unmap(shared, AREA);
}

/* ---- stacks ---- */

static size_t deep(size_t levels)
{
	volatile uint64_t here[WORDS];

	for (size_t i = 0; i < WORDS; i++)
		here[i] = mix(levels ^ i);
	if (levels > 0 && deep(levels - 1) != levels - 1)
		return SIZE_MAX;
	for (size_t i = 0; i < WORDS; i++)
		if (here[i] != mix(levels ^ i))
			return SIZE_MAX;
	return levels;
}

static void *go_deep(void *arg)
{
	evict_all();
	return (void *)(deep((uintptr_t)arg) == (uintptr_t)arg ? NULL : arg);
}

static void a_thread_runs_on_an_evicted_stack(void)
{
	unsigned char *stack = map_filled(AREA);
	pthread_attr_t attr;
	pthread_t thread;
	void *failed;

	pthread_attr_init(&attr);
	EXPECT(pthread_attr_setstack(&attr, stack, AREA * PAGE) == 0);
	EXPECT(pthread_create(&thread, &attr, go_deep, (void *)(uintptr_t)(AREA / 2)) == 0);
	EXPECT(pthread_join(thread, &failed) == 0 && failed == NULL);
	pthread_attr_destroy(&attr);
	unmap(stack, AREA);
}

static ucontext_t main_context, contexts[8];
static unsigned switches;

static void run_coroutine(int self)
{
	volatile uint64_t here[4 * WORDS];

	for (uint64_t i = 0; i < 4 * WORDS; i++)
		here[i] = mix(i ^ (uint64_t)self << 40);
	for (int round = 0; round < 4; round++) {
		swapcontext(&contexts[self], &main_context);
		for (uint64_t i = 0; i < 4 * WORDS; i++)
			EXPECT(here[i] == mix(i ^ (uint64_t)self << 40));
		switches++;
	}
}

static void coroutines_run_on_evicted_stacks(void)
{
	unsigned char *stacks = map_filled(AREA);

	for (int i = 0; i < 8; i++) {
		getcontext(&contexts[i]);
		contexts[i].uc_stack.ss_sp = stacks + i * (AREA / 8) * PAGE;
		contexts[i].uc_stack.ss_size = AREA / 8 * PAGE;
		contexts[i].uc_link = &main_context;
		makecontext(&contexts[i], (void (*)(void))run_coroutine, 1, i);
	}
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 8; i++)
			swapcontext(&main_context, &contexts[i]);
		evict_all();
	}
	EXPECT_SAME(switches, 32);
	unmap(stacks, AREA);
}

static volatile sig_atomic_t on_own_stack;
static unsigned char *signal_stack;

static void note_stack(int signal)
{
	unsigned char here;

	(void)signal;
	on_own_stack = &here >= signal_stack && &here < signal_stack + AREA * PAGE;
}

static void a_signal_runs_on_an_evicted_stack(void)
{
	struct sigaction action = { .sa_handler = note_stack, .sa_flags = SA_ONSTACK };
	stack_t stack = { .ss_size = AREA * PAGE };

	signal_stack = stack.ss_sp = map_filled(AREA);
	EXPECT(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
	for (int i = 0; i < 3; i++) {
		on_own_stack = 0;
		raise(SIGUSR1);
		EXPECT(on_own_stack);
		evict_all();
	}
	stack.ss_flags = SS_DISABLE;
	EXPECT(sigaltstack(&stack, NULL) == 0);
	unmap(signal_stack, AREA);
}

const struct check signal_checks[] = {
	CHECK(sigbus_of_a_file_is_the_programs),       CHECK(a_sigbus_handler_may_touch_and_map),
	CHECK(a_handler_maps_while_memory_is_mapped),  CHECK(a_handler_maps_while_memory_is_allocated),
	CHECK(a_handler_maps_while_memory_is_advised), CHECK(threads_map_and_unmap_at_once),
	CHECK(threads_have_pages_of_one_mapping),      CHECK(readers_notice_nothing),
	CHECK(a_thread_runs_on_an_evicted_stack),      CHECK(coroutines_run_on_evicted_stacks),
	CHECK(a_signal_runs_on_an_evicted_stack),      END_OF_CHECKS,
};
