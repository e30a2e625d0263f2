/*
 * A program under Larder that does nothing costs nothing: no internal thread runs while nothing faults, whether or not
 * memory was ever short. Run under larder run with a limit well below HEAP_BYTES.
 *
 * Handlers that expect the next fault (lib/watch.h) go to sleep at once when none comes.
 *
 * Every thread of the process is looked at, so the program's own main thread, which sleeps, is included; what the
 * kernel counts for it is time on a CPU and how often it got one (/proc/self/task/TID/schedstat).
 */
#include "mix.h"

#include <dirent.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEAP_BYTES = 64 << 20, PAGE_BYTES = 4096, SECONDS = 10, SETTLE_SECONDS = 20 };

/* In SECONDS: a stray wake-up or two of the C library or the allocator are no polling. */
enum { RUNS_MAX = 20 };
#define CPU_MAX_NS 2000000u

/* Touches at random, one after the other, and then nothing. What threads use then is little: to finish what they are
 * at, and to recompress; in some rounds somebody else may be late, but not in half of them. */
enum { TOUCHES = 20000, ROUNDS = 12, AFTERWARDS_MS = 300, AFTERWARDS_MOST_NS = 75000000 };

enum { THREADS_MAX = 64 };

struct usage {
	int tid;
	uint64_t cpu_ns, runs;
};

/* Threads at one moment. */
struct snapshot {
	size_t count;
	struct usage usage[THREADS_MAX];
};

static struct usage usage_of(int tid)
{
	char path[64];
	unsigned long long cpu, wait, runs;
	struct usage u = { .tid = tid };
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid);
	f = fopen(path, "r");
	if (!f)
		return u;
	if (fscanf(f, "%llu %llu %llu", &cpu, &wait, &runs) == 3)
		u = (struct usage){ tid, cpu, runs };
	fclose(f);
	return u;
}

/* Of all threads but this one, whose own looking is not what is asked about. */
static void look(struct snapshot *s)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;

	if (!d)
		err(2, "/proc/self/task");
	s->count = 0;
	while ((e = readdir(d)) && s->count < THREADS_MAX)
		if (atoi(e->d_name) > 0 && atoi(e->d_name) != getpid())
			s->usage[s->count++] = usage_of(atoi(e->d_name));
	closedir(d);
}

/* What threads have used between two looks. The kernel ends workers of its own (io_uring's) meanwhile: those are not
 * counted. */
static struct usage between(const struct snapshot *before, const struct snapshot *after)
{
	struct usage sum = { 0 };

	for (size_t i = 0; i < before->count; i++)
		for (size_t j = 0; j < after->count; j++)
			if (before->usage[i].tid == after->usage[j].tid && after->usage[j].runs) {
				sum.cpu_ns += after->usage[j].cpu_ns - before->usage[i].cpu_ns;
				sum.runs += after->usage[j].runs - before->usage[i].runs;
			}
	return sum;
}

static void fill(char *heap)
{
	for (size_t at = 0; at < HEAP_BYTES; at += sizeof(uint64_t))
		*(uint64_t *)(heap + at) = at / 64;
}

static uint64_t sum(const char *heap)
{
	uint64_t n = 0;

	for (size_t at = 0; at < HEAP_BYTES; at += PAGE_BYTES)
		n += *(const uint64_t *)(heap + at);
	return n;
}

static uint64_t touch_at_random(const char *heap)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < TOUCHES; i++)
		n += *(const uint64_t *)(heap + mix(i) % (HEAP_BYTES / PAGE_BYTES) * PAGE_BYTES);
	return n;
}

/* The rounds in which threads used much just after faults had come thick and fast. */
static int busy_rounds(const char *heap)
{
	static struct snapshot before, after;
	int busy = 0;

	for (int i = 0; i < ROUNDS; i++) {
		if (touch_at_random(heap) == 0)
			errx(1, "the heap is not what was written");
		look(&before);
		usleep(AFTERWARDS_MS * 1000);
		look(&after);
		busy += between(&before, &after).cpu_ns > AFTERWARDS_MOST_NS;
	}
	return busy;
}

/* Reclaim has things to finish; how long that takes is another matter. */
static void settle(void)
{
	static struct snapshot before, now;

	look(&now);
	for (int i = 0; i < SETTLE_SECONDS; i++) {
		before = now;
		sleep(1);
		look(&now);
		if (between(&before, &now).runs <= 1)
			return;
	}
}

int main(void)
{
	static struct snapshot none, before, after;
	char *heap = malloc(HEAP_BYTES);
	struct usage used;
	int busy;

	if (!heap)
		err(2, "no memory");
	look(&none);
	fill(heap);
	if (sum(heap) == 0)
		errx(1, "the heap is not what was written");
	busy = busy_rounds(heap);
	printf("idle: threads went on after the last of many faults in %d rounds of %d\n", busy, ROUNDS);
	if (busy >= ROUNDS / 2)
		errx(1, "threads go on working when there is nothing to do");
	settle();
	look(&before);
	if (between(&none, &before).cpu_ns < 1000000)
		errx(1, "no thread was at work before, so this says nothing");
	sleep(SECONDS);
	look(&after);
	used = between(&before, &after);
	printf("idle: in %d s %zu other threads ran %llu times, for %.3f ms\n", SECONDS, before.count,
	       (unsigned long long)used.runs, (double)used.cpu_ns / 1e6);
	return used.runs > RUNS_MAX || used.cpu_ns > CPU_MAX_NS;
}
