#include "job.h"

enum { MOST_ROUNDS = 10 };

void job_settle(struct turn *t, pid_t pid, void (*round)(void *arg), void *arg)
{
	round(arg);
	for (int i = 1; i < MOST_ROUNDS && !atomic_load(&t->is_settled); i++)
		round(arg);
	atomic_store(&t->pid, (int)pid);
}

void job_set_figures(struct turn *t, pid_t pid, double seconds, double operations, double cpu_seconds)
{
	atomic_store(&t->pid, 0);
	t->figures[APP_OPERATIONS_S] = operations / seconds;
	t->figures[APP_P50] = latency_quantile_us(&t->latency, 0.5);
	t->figures[APP_P99] = latency_quantile_us(&t->latency, 0.99);
	t->figures[APP_P999] = latency_quantile_us(&t->latency, 0.999);
	t->figures[APP_MEAN] = latency_mean_us(&t->latency);
	t->figures[APP_CPU_US] = (turn_cpu_seconds(t, pid) - cpu_seconds) * 1e6 / operations;
}
