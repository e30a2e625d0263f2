/*
 * Which threads should serve userfaultfd faults? The measurement behind Larder's choice: one handler pinned to each
 * CPU, at normal priority while faults are rare; and what no choice can get below.
 *
 * Where a handler runs matters more than what it does: a fault handed to another CPU costs two wake-ups across CPUs,
 * and a handler of low priority waits while others use the CPU. So each arrangement of handlers is measured with the
 * machine idle and with busy threads that want all of it. This program stands alone: plain threads, a userfaultfd,
 * UFFDIO_COPY of one page, no Larder.
 *
 * A cell (arrangement, load) runs in a process of its own for at most CELL_SECONDS; rounds interleave all cells, and
 * medians of the rounds are printed. Needs the right to set real nice values (root).
 */
#include "clock.h"
#include "latency.h"

#include <argp.h>
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE_BYTES = 4096,
	FAULTS = 20000, /* of each faulting thread, unless time runs out */
	MAX_FAULTERS = 8,
	MAX_BUSY = 4,
	MAX_CPUS = 8,
	MAX_ROUNDS = 99,
	WORK = 1000, /* turns of an empty loop between faults: a program does something with a page */
};
static const double CELL_SECONDS = 0.7;

static const struct arrangement {
	const char *name;
	int pinned; /* one handler on each CPU; else as many, anywhere */
	int policy, nice;
	int backstop; /* one more handler, unpinned, at nice -10 */
	int attends;  /* handlers do not sleep, they yield */
	int raises;   /* no handlers: a fault raises SIGBUS, and the thread copies the page itself */
} arrangements[] = {
	{ .name = "pinned, SCHED_IDLE", .pinned = 1, .policy = SCHED_IDLE },
	{ .name = "pinned, SCHED_IDLE + backstop", .pinned = 1, .policy = SCHED_IDLE, .backstop = 1 },
	{ .name = "pinned, SCHED_IDLE, attending", .pinned = 1, .policy = SCHED_IDLE, .attends = 1 },
	{ .name = "pinned, nice 0", .pinned = 1 },
	{ .name = "pinned, nice -20", .pinned = 1, .nice = -20 },
	{ .name = "unpinned, nice -10", .nice = -10 },
	{ .name = "none, SIGBUS", .raises = 1 },
};

static const struct load {
	unsigned busy, faulters; /* threads */
} loads[] = { { 0, 1 }, { 0, 2 }, { 0, 4 }, { 0, 8 }, { 1, 1 }, { 2, 1 }, { 2, 2 } };

enum { ARRANGEMENTS = sizeof(arrangements) / sizeof(arrangements[0]), LOADS = sizeof(loads) / sizeof(loads[0]) };
enum figure { P50, P90, P99, MEAN, RATE, FIGURES };

typedef double figures[FIGURES];

/* Shared with the processes that measure. */
static figures (*results)[ARRANGEMENTS][LOADS]; /* [round] */

static unsigned rounds = 3;
static int work = WORK;

/* ---- one cell; everything below is that process's ---- */

static int uffd;
static char *region; /* FAULTS pages for each faulter */
static char page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static uint64_t deadline_ns;
static atomic_int over;

static void open_region(const struct arrangement *a)
{
	struct uffdio_api api = { .api = UFFD_API, .features = a->raises ? UFFD_FEATURE_SIGBUS : 0 };
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t bytes = (size_t)MAX_FAULTERS * FAULTS * PAGE_BYTES;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | (a->attends ? O_NONBLOCK : 0));
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		err(2, "userfaultfd");
	region = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (region == MAP_FAILED)
		err(2, "no address space");
	madvise(region, bytes, MADV_NOHUGEPAGE);
	r.range = (struct uffdio_range){ (uintptr_t)region, bytes };
	if (ioctl(uffd, UFFDIO_REGISTER, &r))
		err(2, "UFFDIO_REGISTER");
}

struct handler {
	int cpu; /* -1: anywhere */
	int policy, nice;
};

static void take_place(const struct handler *h)
{
	struct sched_param none = { 0 };
	cpu_set_t set;

	CPU_ZERO(&set);
	if (h->cpu >= 0)
		CPU_SET((unsigned)h->cpu, &set);
	if (h->cpu >= 0 && sched_setaffinity(0, sizeof(set), &set))
		err(2, "cannot pin a thread to CPU %d", h->cpu);
	if (sched_setscheduler(0, h->policy, &none))
		err(2, "cannot set the scheduling policy");
	if (h->nice && setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), h->nice))
		err(2, "cannot set nice %d; run as root", h->nice);
}

static void serve(uint64_t address)
{
	struct uffdio_copy copy = {
		.dst = address & ~(uint64_t)(PAGE_BYTES - 1),
		.src = (uintptr_t)page,
		.len = PAGE_BYTES,
	};

	ioctl(uffd, UFFDIO_COPY, &copy);
}

static void *handler_thread(void *arg)
{
	struct uffd_msg m;

	take_place(arg);
	for (;;)
		if (read(uffd, &m, sizeof(m)) == sizeof(m))
			serve(m.arg.pagefault.address);
		else /* attending */
			sched_yield();
	return NULL;
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	serve((uintptr_t)info->si_addr);
}

static void *busy_thread(void *unused)
{
	(void)unused;
	while (!atomic_load_explicit(&over, memory_order_relaxed))
		;
	return NULL;
}

struct faulter {
	pthread_t thread;
	const char *pages;
	struct latency *latency;
};

static void *faulter_thread(void *arg)
{
	struct faulter *f = arg;
	uint64_t now = clock_ns();

	for (size_t i = 0; i < FAULTS && now < deadline_ns; i++) {
		uint64_t start = clock_ns();

		(void)*(const volatile char *)(f->pages + i * PAGE_BYTES);
		now = clock_ns();
		latency_add(f->latency, now - start);
		for (volatile int turn = 0; turn < work; turn++)
			;
	}
	return NULL;
}

static pthread_t start(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, arg))
		errx(2, "cannot create a thread");
	return thread;
}

static void start_handlers(const struct arrangement *a)
{
	static struct handler handlers[MAX_CPUS + 1];
	cpu_set_t allowed;
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER };
	int count = 0;

	if (a->raises) {
		sigaction(SIGBUS, &action, NULL);
		return;
	}
	sched_getaffinity(0, sizeof(allowed), &allowed);
	for (int cpu = 0; cpu < CPU_SETSIZE && count < MAX_CPUS; cpu++)
		if (CPU_ISSET((unsigned)cpu, &allowed))
			handlers[count++] = (struct handler){ a->pinned ? cpu : -1, a->policy, a->nice };
	if (a->backstop)
		handlers[count++] = (struct handler){ -1, SCHED_OTHER, -10 };
	while (count--)
		start(handler_thread, &handlers[count]);
}

static void summarise(struct faulter *faulters, unsigned count, uint64_t start, figures result)
{
	struct latency *all = latency_create();
	double seconds = seconds_since(start);

	for (unsigned i = 0; i < count; i++)
		latency_append(all, faulters[i].latency);
	result[P50] = latency_quantile_us(all, 0.5);
	result[P90] = latency_quantile_us(all, 0.9);
	result[P99] = latency_quantile_us(all, 0.99);
	result[MEAN] = latency_mean_us(all);
	result[RATE] = (double)all->count / seconds / 1000;
}

static void measure(const struct arrangement *a, const struct load *l, figures result)
{
	static struct faulter faulters[MAX_FAULTERS];
	uint64_t start_ns;

	open_region(a);
	start_handlers(a);
	for (unsigned i = 0; i < l->busy; i++)
		start(busy_thread, NULL);
	usleep(50000); /* let everything find its place */
	start_ns = clock_ns();
	deadline_ns = start_ns + (uint64_t)(CELL_SECONDS * 1e9);
	for (unsigned i = 0; i < l->faulters; i++) {
		faulters[i].pages = region + (size_t)i * FAULTS * PAGE_BYTES;
		faulters[i].latency = latency_create();
		faulters[i].thread = start(faulter_thread, &faulters[i]);
	}
	for (unsigned i = 0; i < l->faulters; i++)
		pthread_join(faulters[i].thread, NULL);
	atomic_store(&over, 1);
	summarise(faulters, l->faulters, start_ns, result);
}

/* ---- all cells ---- */

static void measure_in_child(unsigned round, unsigned a, unsigned l)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		measure(&arrangements[a], &loads[l], results[round][a][l]);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status)
		errx(2, "a measurement failed");
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(unsigned a, unsigned l, enum figure f)
{
	double values[MAX_ROUNDS];

	for (unsigned i = 0; i < rounds; i++)
		values[i] = results[i][a][l][f];
	qsort(values, rounds, sizeof(*values), compare);
	return (values[(rounds - 1) / 2] + values[rounds / 2]) / 2;
}

static void print_table(void)
{
	printf("%-32s%6s%10s%10s%10s%10s%10s%10s\n", "handlers", "busy", "faulting", "p50 us", "p90", "p99", "mean",
	       "1000/s");
	for (unsigned l = 0; l < LOADS; l++)
		for (unsigned a = 0; a < ARRANGEMENTS; a++) {
			printf("%-32s%6u%10u", arrangements[a].name, loads[l].busy, loads[l].faulters);
			for (int f = 0; f < FIGURES; f++)
				printf("%10.1f", median(a, l, f));
			printf("%s", a + 1 < ARRANGEMENTS ? "\n" : "\n\n");
		}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	char *end;
	unsigned long n = arg ? strtoul(arg, &end, 10) : 0;

	if (key != 'r' && key != 'w')
		return ARGP_ERR_UNKNOWN;
	if (*end || end == arg || *arg == '-' || (key == 'r' ? n < 1 || n > MAX_ROUNDS : n > INT_MAX))
		argp_error(state, "%s is not a number that will do", arg);
	if (key == 'r')
		rounds = (unsigned)n;
	else
		work = (int)n;
	return 0;
}

int main(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "rounds", 'r', "N", 0, "medians of so many, 1 to 99 (3)", 0 },
		{ "work", 'w', "N", 0, "turns of an empty loop between two faults of a thread (1000)", 0 },
		{ 0 },
	};
	const struct argp argp = { options, parse, NULL, "Compare threads that serve userfaultfd faults.",
				   NULL,    NULL,  NULL };

	argp_parse(&argp, argc, argv, 0, NULL, NULL);
	results = mmap(NULL, rounds * sizeof(*results), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		err(2, "no memory");
	for (unsigned round = 0; round < rounds; round++)
		for (unsigned l = 0; l < LOADS; l++)
			for (unsigned a = 0; a < ARRANGEMENTS; a++)
				measure_in_child(round, a, l);
	print_table();
	return 0;
}
