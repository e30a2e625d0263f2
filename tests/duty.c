/*
 * A handler that attends (lib/watch.h) goes on doing so after the program has run for long without a fault: it looks
 * late then, but nobody has waited for it. Run under larder run with a limit well below HEAP_BYTES.
 *
 * That a handler attends is seen by its policy. Somebody else may be busy on the CPU, so some rounds of all are enough;
 * a handler that stays away for long is not back before the last.
 */
#include "content.h"

#include <dirent.h>
#include <err.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

enum { HEAP_BYTES = 64 * MIB, PAGES = HEAP_BYTES / PAGE };

#define MS ((uint64_t)1000000)

/* DISTURBED: the CPU was taken away so often in RUN_MS, a third of what somebody else who never sleeps would do. */
enum {
	ROUNDS = 8,
	ENOUGH = 5,
	DISTURBED = 20,
	RUN_MS = 300,
	TOUCH_MS = 100,
	TOUCHES_BETWEEN_LOOKS = 64,
	HANDLERS_MAX = 64
};

static int handlers[HANDLERS_MAX], nhandlers;

static int is_handler(const char *tid)
{
	char path[64], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", tid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (!fgets(name, sizeof(name), f))
		name[0] = 0;
	fclose(f);
	return strcmp(name, "larder-fault\n") == 0;
}

static void find_handlers(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;

	if (!d)
		err(2, "/proc/self/task");
	while ((e = readdir(d)) && nhandlers < HANDLERS_MAX)
		if (is_handler(e->d_name))
			handlers[nhandlers++] = atoi(e->d_name);
	closedir(d);
}

static int attending(void)
{
	int n = 0;

	for (int i = 0; i < nhandlers; i++)
		n += sched_getscheduler(handlers[i]) == SCHED_IDLE;
	return n;
}

/* Returns whether a handler attended in the last half of the time. */
static int touch(const char *heap, unsigned ms)
{
	static uint64_t next;
	uint64_t start = now_ns(), now, n = 0;
	int seen = 0;

	while ((now = now_ns()) < start + ms * MS) {
		for (int i = 0; i < TOUCHES_BETWEEN_LOOKS; i++)
			n += *(const volatile uint64_t *)(heap + mix(next++) % PAGES * PAGE);
		if (now > start + ms * MS / 2)
			seen |= attending();
	}
	if (n == 0)
		errx(1, "the heap is not what was written");
	return seen;
}

/* Returns whether others wanted the CPU, too. */
static int run(unsigned ms)
{
	uint64_t end = now_ns() + ms * MS;
	struct rusage before, after;

	getrusage(RUSAGE_THREAD, &before);
	while (now_ns() < end)
		;
	getrusage(RUSAGE_THREAD, &after);
	return after.ru_nivcsw - before.ru_nivcsw > DISTURBED;
}

int main(void)
{
	char *heap = malloc(HEAP_BYTES);
	cpu_set_t here;
	int before = 0, again = 0, disturbed = 0;

	if (!heap)
		err(2, "no memory");
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof(here), &here);
	find_handlers();
	for (size_t at = 0; at < HEAP_BYTES; at += sizeof(uint64_t))
		*(uint64_t *)(heap + at) = at / 64 + 1;
	for (int i = 0; i < ROUNDS; i++) {
		before |= touch(heap, TOUCH_MS);
		disturbed += run(RUN_MS);
		again += touch(heap, TOUCH_MS);
	}
	printf("%d handlers; attending before: %d, and after %d ms without a fault %d times of %d\n", nhandlers,
	       !!before, RUN_MS, again, ROUNDS);
	if (disturbed > ROUNDS - ENOUGH) {
		printf("others had the CPU in %d rounds, so this says nothing\n", disturbed);
		return 0;
	}
	if (!before)
		errx(1, "no handler ever attended, so this says nothing");
	return again < ENOUGH;
}
