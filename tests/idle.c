/*
 * A program under Larder that does nothing costs nothing: no internal thread runs while nothing faults, whether or not
 * memory was ever short. Run under larder run with a limit well below HEAP_BYTES.
 *
 * Every thread of the process is looked at, so the program's own main thread, which sleeps, is included; what the
 * kernel counts for it is time on a CPU and how often it got one (/proc/self/task/TID/schedstat).
 */
#include <dirent.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HEAP_BYTES = 64 << 20, PAGE_BYTES = 4096, SECONDS = 10, SETTLE_SECONDS = 20 };

/* In SECONDS: a stray wake-up or two of the C library or the allocator are no polling. */
enum { RUNS_MAX = 20 };
#define CPU_MAX_NS 2000000u

struct usage {
	uint64_t cpu_ns, runs;
};

static struct usage usage_of(const char *tid)
{
	char path[300];
	unsigned long long cpu, wait, runs;
	struct usage u = { 0 };
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", tid);
	f = fopen(path, "r");
	if (!f)
		return u;
	if (fscanf(f, "%llu %llu %llu", &cpu, &wait, &runs) == 3)
		u = (struct usage){ cpu, runs };
	fclose(f);
	return u;
}

/* Of all threads but this one, whose own looking is not what is asked about. */
static struct usage usage_of_others(void)
{
	DIR *d = opendir("/proc/self/task");
	struct usage sum = { 0 };
	struct dirent *e;

	if (!d)
		err(2, "/proc/self/task");
	while ((e = readdir(d))) {
		struct usage u;

		if (e->d_name[0] == '.' || atoi(e->d_name) == getpid())
			continue;
		u = usage_of(e->d_name);
		sum.cpu_ns += u.cpu_ns;
		sum.runs += u.runs;
	}
	closedir(d);
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

/* Reclaim has things to finish; how long that takes is another matter. */
static void settle(void)
{
	struct usage before = usage_of_others(), now;

	for (int i = 0; i < SETTLE_SECONDS; i++) {
		sleep(1);
		now = usage_of_others();
		if (now.runs - before.runs <= 1)
			return;
		before = now;
	}
}

int main(void)
{
	char *heap = malloc(HEAP_BYTES);
	struct usage before, after;
	uint64_t cpu_ns, runs;

	if (!heap)
		err(2, "no memory");
	fill(heap);
	if (sum(heap) == 0)
		errx(1, "the heap is not what was written");
	settle();
	before = usage_of_others();
	sleep(SECONDS);
	after = usage_of_others();
	cpu_ns = after.cpu_ns - before.cpu_ns;
	runs = after.runs - before.runs;
	printf("idle: in %d s the other threads ran %llu times, for %.3f ms; before, for %.1f ms\n", SECONDS,
	       (unsigned long long)runs, (double)cpu_ns / 1e6, (double)before.cpu_ns / 1e6);
	if (before.cpu_ns < 1000000)
		errx(1, "there were no threads at work before, so this says nothing");
	return runs > RUNS_MAX || cpu_ns > CPU_MAX_NS;
}
