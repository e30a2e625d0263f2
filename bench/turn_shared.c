/*
 * What a contender's process needs of turn.h, wherever it runs.
 */
#include "turn.h"

#include <err.h>
#include <sys/mman.h>
#include <time.h>

struct turn *turn_map(int descriptor)
{
	struct turn *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);

	if (t == MAP_FAILED)
		err(2, "descriptor %d is not a turn", descriptor);
	return t;
}

double turn_cpu_seconds(const struct turn *t, pid_t pid)
{
	clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
	struct timespec now = { 0 };

	if (pid)
		clock_getcpuclockid(pid, &clock);
	clock_gettime(clock, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9 + (double)atomic_load(&t->limiter_cpu_ns) / 1e9;
}
