/*
 * What the tests of pools and volatile ranges share: page contents that can be recognised word by word, and looking at
 * the process from outside. Nothing here allocates.
 */
#ifndef LARDER_TEST_CONTENT_H
#define LARDER_TEST_CONTENT_H

#include "mix.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, MIB = 1 << 20, PAGES_PER_MIB = MIB / PAGE };

#define EVERYTHING ((uint64_t)1 << 40)

/*
 * Word i of page `page` in its generation `generation`; never 0. Compresses 10 to 1, so that small limits can be met,
 * but is not same-filled, so that an evicted page goes to the tier.
 */
static inline uint64_t word_of(uint64_t page, uint64_t generation, size_t i)
{
	return (mix(page ^ generation << 32) & ~(uint64_t)0xffff) | (i / 32 + 1);
}

static inline void page_fill(void *at, uint64_t page, uint64_t generation)
{
	for (size_t i = 0; i < WORDS; i++)
		((uint64_t *)at)[i] = word_of(page, generation, i);
}

/* The first word that is not as page_fill() made it, or WORDS. */
static inline size_t page_wrong_word(const void *at, uint64_t page, uint64_t generation)
{
	for (size_t i = 0; i < WORDS; i++)
		if (((const volatile uint64_t *)at)[i] != word_of(page, generation, i))
			return i;
	return WORDS;
}

/* The first word that is not zero, or WORDS. */
static inline size_t page_nonzero_word(const void *at)
{
	for (size_t i = 0; i < WORDS; i++)
		if (((const volatile uint64_t *)at)[i])
			return i;
	return WORDS;
}

static inline size_t page_random(uint64_t *state, size_t below)
{
	return mix((*state)++) % below;
}

/* Small more often than large: 1 to `most`. */
static inline size_t random_length(uint64_t *state, size_t most)
{
	size_t cap = (size_t)1 << page_random(state, 64 - (unsigned)__builtin_clzll(most));

	return 1 + page_random(state, cap < most ? cap : most);
}

/* The seed of a test: new each time, unless the environment repeats one. */
static inline uint64_t test_seed(void)
{
	const char *text = getenv("LARDER_TEST_SEED");

	return text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) << 16 ^ (uint64_t)getpid();
}

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Pages of [at, at + pages) in the mapping of the process now. */
static inline size_t present_pages(const void *at, size_t pages)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t present = 0;

	for (size_t i = 0; i < pages; i++) {
		uint64_t entry = 0;

		if (pread(fd, &entry, 8, (off_t)(((uintptr_t)at / PAGE + i) * 8)) == 8)
			present += entry >> 63;
	}
	close(fd);
	return present;
}

/* Lines of /proc/self/maps. */
static inline size_t count_mappings(void)
{
	static char buffer[4096];
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t lines = 0;
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		for (ssize_t i = 0; i < n; i++)
			lines += buffer[i] == '\n';
	close(fd);
	return lines;
}

struct footprint {
	size_t size_pages, resident_pages;
};

static inline struct footprint footprint(void)
{
	struct footprint f = { 0 };
	char text[128] = "";
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

	if (read(fd, text, sizeof(text) - 1) > 0)
		sscanf(text, "%zu %zu", &f.size_pages, &f.resident_pages);
	close(fd);
	return f;
}

#endif
