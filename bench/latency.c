#include "latency.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void latency_open(struct latency *l, size_t capacity)
{
	size_t bytes = (capacity ? capacity : 1) * sizeof(*l->ns);

	*l = (struct latency){ .capacity = bytes / sizeof(*l->ns) };
	l->ns = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (l->ns == MAP_FAILED)
		err(2, "no memory for %zu latency samples", capacity);
}

void latency_close(struct latency *l)
{
	munmap(l->ns, l->capacity * sizeof(*l->ns));
	*l = (struct latency){ 0 };
}

void latency_grow(struct latency *l)
{
	size_t bytes = l->capacity * sizeof(*l->ns);

	l->ns = mremap(l->ns, bytes, 2 * bytes, MREMAP_MAYMOVE);
	if (l->ns == MAP_FAILED)
		err(2, "no memory for %zu latency samples", 2 * l->capacity);
	l->capacity *= 2;
}

void latency_append(struct latency *to, const struct latency *from)
{
	for (size_t i = 0; i < from->count; i++)
		latency_add(to, from->ns[i]);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

void latency_sort(struct latency *l)
{
	qsort(l->ns, l->count, sizeof(*l->ns), compare);
}

double latency_quantile_us(const struct latency *l, double quantile)
{
	size_t i = (size_t)(quantile * (double)l->count);

	if (!l->count)
		return 0;
	return (double)l->ns[i < l->count ? i : l->count - 1] / 1000;
}

double latency_mean_us(const struct latency *l)
{
	double sum = 0;

	for (size_t i = 0; i < l->count; i++)
		sum += l->ns[i];
	return l->count ? sum / (double)l->count / 1000 : 0;
}
