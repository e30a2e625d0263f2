/*
 * Objects: each is a function of (seed, id). What an object must add up to is remembered when it is made first, outside
 * of all cache memory, so that a reader need not make it again to check it.
 */
#include "cache.h"

#include "clock.h"
#include "random.h"

#include <err.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t page_word(const struct cache_setup *s, uint32_t id, size_t page)
{
	return random_mix(s->seed + ((uint64_t)id << 20) + page + 1) | 1;
}

/* The sum depends on the order of the words, so that exchanged pages show. */
static uint64_t checksum(const void *object, size_t bytes)
{
	const uint64_t *words = object;
	uint64_t sums[4] = { 0 };

	for (size_t i = 0; i < bytes / sizeof(*words); i += 4)
		for (size_t lane = 0; lane < 4; lane++)
			sums[lane] = sums[lane] * 0x9e3779b97f4a7c15u + words[i + lane];
	return random_mix(sums[0] ^ random_mix(sums[1] ^ random_mix(sums[2] ^ random_mix(sums[3])))) | 1;
}

static uint64_t *known_sums; /* [id]: 0 = not made yet */

void object_prepare(const struct cache_setup *s)
{
	known_sums = mmap(NULL, s->objects * sizeof(*known_sums), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (known_sums == MAP_FAILED)
		err(2, "no memory");
}

void object_make(const struct cache_setup *s, uint32_t id, void *object)
{
	uint64_t *known = &known_sums[id];

	contents_fill(s->contents, object, s->object_bytes, random_mix(s->seed) + id);
	for (size_t page = 0; page < s->object_bytes / CACHE_PAGE_BYTES; page++) {
		uint64_t word = page_word(s, id, page);

		memcpy((char *)object + page * CACHE_PAGE_BYTES, &word, sizeof(word));
	}
	if (*known == 0)
		*known = checksum(object, s->object_bytes);
}

int object_is_whole(const struct cache_setup *s, uint32_t id, const void *object)
{
	for (size_t page = 0; page < s->object_bytes / CACHE_PAGE_BYTES; page++) {
		uint64_t word = page_word(s, id, page);

		if (memcmp((const char *)object + page * CACHE_PAGE_BYTES, &word, sizeof(word)))
			return 0;
	}
	return 1;
}

int object_is_right(const struct cache_setup *s, uint32_t id, const void *object)
{
	uint64_t sum = checksum(object, s->object_bytes);

	return object_is_whole(s, id, object) && sum == known_sums[id];
}

/* Log-uniform between the cheapest and the dearest, so that the mean is as asked. */
uint64_t object_cost_ns(const struct cache_setup *s, uint32_t id)
{
	struct random r = { random_mix(s->seed ^ 0xc057) + id };
	double spread = s->cost_spread, mean_ns = s->cost_us * 1e3;

	if (s->cost_spread == 1)
		return (uint64_t)mean_ns;
	return (uint64_t)(mean_ns * log(spread) / (spread - 1) * pow(spread, random_unit(&r)));
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void object_spend(uint64_t cpu_ns)
{
	uint64_t start = thread_cpu_ns();

	while (thread_cpu_ns() - start < cpu_ns)
		;
}
