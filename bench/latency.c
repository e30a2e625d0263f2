#include "latency.h"

#include <err.h>
#include <math.h>
#include <stddef.h>
#include <sys/mman.h>

struct latency *latency_create(void)
{
	struct latency *l =
		mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (l == MAP_FAILED)
		err(2, "no memory for latencies");
	mlock(l, sizeof(*l));
	return l;
}

void latency_destroy(struct latency *l)
{
	munmap(l, sizeof(*l));
}

void latency_append(struct latency *to, const struct latency *from)
{
	for (unsigned i = 0; i < LATENCY_BINS; i++)
		to->bins[i] += from->bins[i];
	to->count += from->count;
	to->sum_ns += from->sum_ns;
	if (from->max_ns > to->max_ns)
		to->max_ns = from->max_ns;
}

/* The middle of a bin: the inverse of what latency_add() does. */
static double bin_us(unsigned bin)
{
	unsigned shift = bin >> (LATENCY_HALF_BITS + 1) ? (bin >> LATENCY_HALF_BITS) - 1 : 0;
	uint64_t low = (uint64_t)(bin - (shift << LATENCY_HALF_BITS)) << shift;

	return ((double)low + (double)((1ull << shift) - 1) / 2) / 1000;
}

double latency_quantile_us(const struct latency *l, double quantile)
{
	uint64_t rank = (uint64_t)(quantile * (double)l->count), seen = 0;

	if (rank >= l->count)
		return (double)l->max_ns / 1000;
	for (unsigned i = 0; i < LATENCY_BINS; i++) {
		seen += l->bins[i];
		if (seen > rank)
			return fmin(bin_us(i), (double)l->max_ns / 1000);
	}
	return (double)l->max_ns / 1000;
}

double latency_mean_us(const struct latency *l)
{
	return l->count ? (double)l->sum_ns / (double)l->count / 1000 : 0;
}
