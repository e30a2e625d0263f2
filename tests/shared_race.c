/*
 * Processes that share a volatile range and die: does anybody ever see half-made or foreign content as intact?
 *
 * Workers pin random runs of units, make what is lost, verify what is said to be intact (every word follows from unit
 * and generation, and the generation is in the first word), and unpin with random priorities. One process purges at
 * full speed, on a program thread and on an internal thread. The parent kills one of them every 100 ms; besides, it
 * hands out tokens, and whoever comes to a random step of the code with a token to be had kills itself just there.
 * What has died is started again. Every two seconds the killing pauses until every worker has got on: a hang.
 *
 *   shared_race [--seconds S] [--processes N] [--units N] [--seed X]
 */
#include "mix.h"
#include "shared.h"
#include "thread.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { UNIT = 8192, WORDS = UNIT / 8, RUN_MAX = 3, THREADS = 2, PROCESSES_MAX = 16 };
enum { STEP_MS = 5, KILL_MS = 100, TOKEN_MS = 25, QUIET_MS = 2000, HANG_MS = 20000 };

/* In memory of the parent and all children. */
struct tally {
	_Atomic uint64_t pins, intact, lost, refused, given_up, wrong, nested;
	_Atomic uint64_t steps, tokens, deaths[SHARED_STEPS];
	_Atomic uint64_t progress[PROCESSES_MAX][THREADS];
	_Atomic int stop;
};

static struct tally *tally;
static larder_shared *range; /* in children: their own opening */
static int range_fd;
static unsigned processes = 5, seconds = 10; /* the last one purges */
static uint64_t units = 48, seed;
static pid_t pids[PROCESSES_MAX];

static void add(_Atomic uint64_t *to, uint64_t n)
{
	atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

static void wrong(const char *what, uint64_t unit, uint64_t word, uint64_t value)
{
	add(&tally->wrong, 1);
	fprintf(stderr, "%d: unit %lu, word %lu: %s (%#lx)\n", getpid(), unit, word, what, value);
}

/* ---- content ---- */

static uint64_t *words_of(uint64_t unit)
{
	return (uint64_t *)((char *)larder_shared_address(range) + unit * UNIT);
}

static uint64_t word_of(uint64_t unit, uint64_t generation, uint64_t i)
{
	return i ? mix(unit << 48 ^ i << 40 ^ generation) : generation;
}

static void make(uint64_t unit, uint64_t generation, int slowly)
{
	uint64_t *w = words_of(unit);

	for (uint64_t i = 0; i < WORDS; i++) {
		w[i] = word_of(unit, generation, i);
		if (slowly && i % (WORDS / 4) == 1)
			sys_yield();
	}
}

static void verify(uint64_t unit)
{
	const uint64_t *w = words_of(unit);
	uint64_t generation = w[0];

	if (!generation)
		wrong("zero, said to be intact", unit, 0, 0);
	for (uint64_t i = 1; generation && i < WORDS; i++)
		if (w[i] != word_of(unit, generation, i)) {
			wrong("not what belongs there, said to be intact", unit, i, w[i]);
			return;
		}
}

static void verify_zero(uint64_t unit)
{
	for (uint64_t i = 0; i < WORDS; i++)
		if (words_of(unit)[i]) {
			wrong("not zero, said to be lost", unit, i, words_of(unit)[i]);
			return;
		}
}

/* ---- workers ---- */

struct worker {
	unsigned process, thread;
	uint64_t random;
};

static uint64_t next_random(struct worker *w)
{
	return mix(w->random++);
}

static void check_call(int result, const char *call)
{
	if (result != 0)
		wrong(call, 0, 0, (uint64_t)(int64_t)result);
}

static void refill(struct worker *w, uint64_t first, uint64_t n, const unsigned char *lost)
{
	for (uint64_t i = 0; i < n; i++)
		if (lost[i]) {
			verify_zero(first + i);
			make(first + i, next_random(w) | 1, next_random(w) % 8 == 0);
			check_call(larder_shared_refilled(range, (first + i) * UNIT, UNIT), "refilled");
		}
}

/* Half of the content, and no word that it is there. */
static void give_up(struct worker *w, uint64_t first, uint64_t n, const unsigned char *lost)
{
	for (uint64_t i = 0; i < n; i++)
		if (lost[i])
			memset(words_of(first + i), (int)next_random(w) | 1, UNIT / 2);
	add(&tally->given_up, 1);
}

static void use(struct worker *w, uint64_t first, uint64_t n, int result, const unsigned char *lost)
{
	int priority = (int)(next_random(w) % LARDER_PRIORITIES) - 1;

	for (uint64_t i = 0; i < n; i++)
		if (!lost[i])
			verify(first + i);
	if (result == LARDER_PURGED && next_random(w) % 16 == 0) {
		give_up(w, first, n, lost);
	} else {
		refill(w, first, n, lost);
		if (next_random(w) % 8 == 0) {
			add(&tally->nested, 1);
			check_call(larder_shared_pin(range, first * UNIT, n * UNIT, 0, NULL), "nested pin");
			check_call(larder_shared_unpin(range, first * UNIT, n * UNIT, priority), "nested unpin");
		}
		if (next_random(w) % 4 == 0)
			sys_yield();
		for (uint64_t i = 0; i < n; i++)
			verify(first + i);
	}
	check_call(larder_shared_unpin(range, first * UNIT, n * UNIT, priority), "unpin");
}

static void turn(struct worker *w)
{
	uint64_t n = 1 + next_random(w) % RUN_MAX, first = next_random(w) % (units - n + 1);
	unsigned flags = next_random(w) % 4 == 0 ? LARDER_NOWAIT : 0;
	unsigned char lost[RUN_MAX] = { 0 };
	int result = larder_shared_pin(range, first * UNIT, n * UNIT, flags, lost);

	if (result == -EAGAIN && flags) {
		add(&tally->refused, 1);
		return;
	}
	if (result < 0) {
		check_call(result, "pin");
		return;
	}
	add(&tally->pins, 1);
	add(result == LARDER_INTACT ? &tally->intact : &tally->lost, 1);
	use(w, first, n, result, lost);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load_explicit(&tally->stop, memory_order_relaxed)) {
		turn(w);
		add(&tally->progress[w->process][w->thread], 1);
	}
	return NULL;
}

/* ---- the purger ---- */

static void purge_on_internal_thread(void *arg)
{
	uint64_t random = (uint64_t)(uintptr_t)arg;

	for (;;) {
		shared_purge_volatile((int)(mix(random++) % LARDER_PRIORITIES) - 1, UNIT);
		sys_yield();
	}
}

/* So that slots change hands by closing too. */
static void open_and_close(void)
{
	larder_shared *other = NULL;

	check_call(larder_shared_open(&other, range_fd), "open");
	if (other)
		check_call(larder_shared_close(other), "close");
}

static void *purge(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load_explicit(&tally->stop, memory_order_relaxed)) {
		if (next_random(w) % 256 == 0)
			open_and_close();
		larder_shared_purge(range, (int)(next_random(w) % LARDER_PRIORITIES) - 1, 2 * UNIT);
		add(&tally->progress[w->process][w->thread], 1);
		sys_yield();
	}
	return NULL;
}

/* ---- processes ---- */

/* Once in how many times a step is deadly while there is a token: rare steps must get their share. */
static const uint16_t deadly_once_in[SHARED_STEPS] = {
	[SHARED_STEP_CLAIMED] = 8,	   [SHARED_STEP_FILL_BEGUN] = 8192,  [SHARED_STEP_FILL_DONE] = 8192,
	[SHARED_STEP_REFILLED] = 8192,	   [SHARED_STEP_RANKED] = 32768,     [SHARED_STEP_UNPINNED] = 32768,
	[SHARED_STEP_DROP_BEGUN] = 512,	   [SHARED_STEP_PURGE_BEGUN] = 8192, [SHARED_STEP_PUNCHED] = 8192,
	[SHARED_STEP_PURGED] = 8192,	   [SHARED_STEP_RECOVER_BEGUN] = 4,  [SHARED_STEP_RECOVER_UNIT] = 4,
	[SHARED_STEP_RECOVER_PURGING] = 2, [SHARED_STEP_RECOVERED] = 4,	     [SHARED_STEP_LEAVING] = 8,
};

/* On internal threads too. */
static void maybe_die(enum shared_step step)
{
	uint64_t tokens = atomic_load_explicit(&tally->tokens, memory_order_relaxed);

	if (!tokens || mix(atomic_fetch_add(&tally->steps, 1) ^ seed) % deadly_once_in[step])
		return;
	if (!atomic_compare_exchange_strong(&tally->tokens, &tokens, tokens - 1))
		return;
	add(&tally->deaths[step], 1);
	sys_call3(SYS_kill, sys_getpid(), SIGKILL, 0);
}

static int run_process(unsigned process, uint64_t random)
{
	int is_purger = process == processes - 1;
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	int err, n = is_purger ? 1 : THREADS;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	shared_test_step = maybe_die;
	err = larder_shared_open(&range, range_fd);
	if (err) {
		check_call(err, "open");
		return 1;
	}
	if (is_purger &&
	    thread_start("purge", purge_on_internal_thread, (void *)(uintptr_t)random, THREAD_OWN_FILES) < 0)
		return 1;
	for (int i = 0; i < n; i++) {
		workers[i] = (struct worker){ process, (unsigned)i, mix(random + (uint64_t)i) };
		if (pthread_create(&threads[i], NULL, is_purger ? purge : work, &workers[i]) != 0)
			return 1;
	}
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	return larder_shared_close(range) != 0;
}

static void start_process(unsigned process)
{
	static uint64_t starts;
	uint64_t random = mix(seed + ++starts);

	pids[process] = fork();
	if (pids[process] == 0)
		_exit(run_process(process, random));
	if (pids[process] < 0) {
		perror("fork");
		exit(1);
	}
}

/* returns how many have died since; 0 when none. Ends the test when one died of anything but a SIGKILL. */
static unsigned reap(int restart)
{
	unsigned n = 0;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (unsigned i = 0; i < processes; i++)
			if (pids[i] == pid) {
				if (status && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
					fprintf(stderr, "process %u died: status %#x\n", i, status);
					exit(1);
				}
				pids[i] = 0;
				n++;
				if (restart)
					start_process(i);
			}
	return n;
}

/* ---- the parent ---- */

static void show_units(void)
{
	for (uint64_t i = 0; i < units; i++)
		if (range->header->unit[i].word)
			fprintf(stderr, "unit %lu: %#lx\n", i, range->header->unit[i].word);
	fprintf(stderr, "slots used: %#lx\n", range->header->slots_used);
}

/* Nobody is killed now: everybody must get on. */
static void expect_progress(void)
{
	uint64_t seen[PROCESSES_MAX][THREADS], start = sys_now_ns();
	unsigned behind = 1;

	atomic_store(&tally->tokens, 0);
	sys_sleep_ns(10000000);
	reap(1); /* who took the last token */
	for (unsigned i = 0; i < processes; i++)
		for (unsigned t = 0; t < THREADS; t++)
			seen[i][t] = tally->progress[i][t];
	while (behind) {
		sys_sleep_ns(STEP_MS * 1000000u);
		reap(1);
		behind = 0;
		for (unsigned i = 0; i < processes; i++)
			for (unsigned t = 0; t < (i == processes - 1 ? 1 : THREADS); t++)
				behind += seen[i][t] == tally->progress[i][t];
		if (behind && sys_now_ns() - start > HANG_MS * 1000000ull) {
			fprintf(stderr, "%u threads hang\n", behind);
			show_units();
			exit(1);
		}
	}
}

static uint64_t kill_them(void)
{
	uint64_t end = sys_now_ns() + seconds * 1000000000ull, kills = 0;

	for (uint64_t ms = STEP_MS; sys_now_ns() < end && !tally->wrong; ms += STEP_MS) {
		sys_sleep_ns(STEP_MS * 1000000u);
		reap(1);
		if (ms % TOKEN_MS == 0)
			atomic_store(&tally->tokens, 1);
		if (ms % KILL_MS == 0) {
			kill(pids[mix(seed ^ ms) % processes], SIGKILL);
			kills++;
		}
		if (ms % QUIET_MS == 0)
			expect_progress();
	}
	expect_progress();
	return kills;
}

static void stop_all(void)
{
	uint64_t start = sys_now_ns();
	unsigned left = processes;

	atomic_store(&tally->stop, 1);
	while (left) {
		sys_sleep_ns(STEP_MS * 1000000u);
		left -= reap(0);
		if (sys_now_ns() - start > HANG_MS * 1000000ull) {
			fprintf(stderr, "%u processes do not end\n", left);
			show_units();
			exit(1);
		}
	}
}

/* Nobody but the parent is left: every unit is intact or zero, and nobody's. */
static void verify_all(void)
{
	uint64_t start = sys_now_ns();

	while (range->header->slots_used != range->bit && sys_now_ns() - start < 1000000000u)
		larder_shared_purge(range, -1, 1); /* sweeps */
	if (range->header->slots_used != range->bit)
		wrong("slots of the dead are in use", 0, 0, range->header->slots_used);
	for (uint64_t i = 0; i < units; i++) {
		uint64_t word = range->header->unit[i].word;

		if (word == shared_word(SHARED_VALID, 0))
			verify(i);
		else if (word == shared_word(SHARED_LOST, 0))
			verify_zero(i);
		else
			wrong("busy, but nobody lives", i, 0, word);
	}
}

static uint64_t purged_units(void)
{
	struct larder_volatile_stats st[LARDER_PRIORITIES];
	uint64_t n = 0;

	larder_shared_get_stats(range, st);
	for (int i = 0; i < LARDER_PRIORITIES; i++)
		n += st[i].purges;
	return n;
}

/* What an uncontended pin and unpin of an intact unit take together. */
static void measure(void)
{
	enum { TURNS = 1000000 };
	uint64_t start;

	larder_shared_pin(range, 0, UNIT, 0, NULL);
	make(0, 1, 0);
	larder_shared_refilled(range, 0, UNIT);
	larder_shared_unpin(range, 0, UNIT, 0);
	start = sys_now_ns();
	for (int i = 0; i < TURNS; i++) {
		larder_shared_pin(range, 0, UNIT, 0, NULL);
		larder_shared_unpin(range, 0, UNIT, 0);
	}
	printf("pin and unpin, nobody else: %.1f ns\n", (double)(sys_now_ns() - start) / TURNS);
}

static int report(uint64_t kills)
{
	const struct {
		const char *name;
		uint64_t n;
	} counts[] = {
		{ "pins", tally->pins },
		{ "intact", tally->intact },
		{ "lost", tally->lost },
		{ "nested", tally->nested },
		{ "refused by NOWAIT", tally->refused },
		{ "given up", tally->given_up },
		{ "units purged", purged_units() },
		{ "kills", kills },
		{ "half-made units dropped for the dead", range->header->abandoned },
		{ "slots recovered", range->header->recovered },
	};
	uint64_t deaths = 0;
	int bad = tally->wrong != 0;

	for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		printf("%s: %lu\n", counts[i].name, counts[i].n);
		if (!counts[i].n) {
			fprintf(stderr, "%s: none, so nothing is proven\n", counts[i].name);
			bad = 1;
		}
	}
	printf("deaths at each step:");
	for (unsigned i = 0; i < SHARED_STEPS; i++) {
		printf(" %lu", tally->deaths[i]);
		deaths += tally->deaths[i];
	}
	printf(" = %lu\nwrong: %lu\n", deaths, tally->wrong);
	return bad || !deaths;
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = { { "seconds", 1, NULL, 's' },
						 { "processes", 1, NULL, 'p' },
						 { "units", 1, NULL, 'u' },
						 { "seed", 1, NULL, 'x' },
						 { 0 } };
	int c;

	seed = sys_now_ns();
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (c == 's')
			seconds = (unsigned)n;
		else if (c == 'p')
			processes = (unsigned)n;
		else if (c == 'u')
			units = n;
		else if (c == 'x')
			seed = n;
		else
			exit(2);
	}
	if (processes < 2 || processes > PROCESSES_MAX || units < RUN_MAX)
		exit(2);
}

int main(int argc, char **argv)
{
	uint64_t kills;
	int err;

	parse(argc, argv);
	printf("--seed %#lx --seconds %u --processes %u --units %lu\n", seed, seconds, processes, units);
	fflush(stdout);
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	err = larder_shared_create(&range, units * UNIT, UNIT);
	if (tally == MAP_FAILED || err) {
		fprintf(stderr, "create: %s\n", strerror(-err));
		return 1;
	}
	measure();
	fflush(stdout);
	range_fd = larder_shared_fd(range);
	for (unsigned i = 0; i < processes; i++)
		start_process(i);
	kills = kill_them();
	stop_all();
	verify_all();
	return report(kills);
}
