/*
 * Latencies: every sample is kept and quantiles are read from the sorted array, so there is no bucket error to explain.
 *
 * The samples lie in a mapping of their own, not in malloc's memory: a benchmark that pushes its heap out must not page
 * in its own notes. One thread adds to one struct.
 */
#ifndef BENCH_LATENCY_H
#define BENCH_LATENCY_H

#include <stddef.h>
#include <stdint.h>

struct latency {
	uint32_t *ns; /* saturates at 4.29 s */
	size_t count, capacity;
};

/* Empty, with room for `capacity` samples, already in RAM. More room is made as needed. Exits when there is no memory.
 */
void latency_open(struct latency *l, size_t capacity);
void latency_close(struct latency *l);

void latency_grow(struct latency *l);

static inline void latency_add(struct latency *l, uint64_t ns)
{
	if (l->count == l->capacity)
		latency_grow(l);
	l->ns[l->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

void latency_append(struct latency *to, const struct latency *from);

/* Sort before asking for quantiles. Both are 0 when there are no samples. */
void latency_sort(struct latency *l);
double latency_quantile_us(const struct latency *l, double quantile);
double latency_mean_us(const struct latency *l);

#endif
