#include "contents.h"

#include "random.h"
#include "records.h"
#include "words.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, SEGMENT_BYTES = 256, RATIO_SAMPLE_PAGES = 1024 };

static const char *const names[] = {
	[CONTENTS_MIXED] = "mixed",   [CONTENTS_TEXT] = "text", [CONTENTS_JSON] = "json", [CONTENTS_BINARY] = "binary",
	[CONTENTS_RANDOM] = "random", [CONTENTS_ZERO] = "zero", [CONTENTS_FILE] = "FILE",
};

/* CONTENTS_FILE: the file's whole pages. */
static struct {
	const char *name, *pages;
	size_t count;
} file;

static void open_file(const char *name)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map;

	if (fd < 0 && errno == ENOENT && !strchr(name, '/'))
		errx(2, "there are no contents '%s': choose mixed, text, json, binary, random, zero, or name a file",
		     name);
	if (fd < 0 || fstat(fd, &st))
		err(2, "cannot read the contents '%s'", name);
	if (!S_ISREG(st.st_mode) || st.st_size < PAGE_BYTES)
		errx(2, "the contents '%s' must be a file of at least %d bytes", name, PAGE_BYTES);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		err(2, "cannot map the contents '%s'", name);
	close(fd);
	file.name = name;
	file.pages = map;
	file.count = (size_t)st.st_size / PAGE_BYTES;
}

enum contents contents_parse(const char *name)
{
	for (unsigned i = 0; i < CONTENTS_FILE; i++)
		if (!strcmp(name, names[i]))
			return (enum contents)i;
	open_file(name);
	return CONTENTS_FILE;
}

const char *contents_name(enum contents kind)
{
	return kind == CONTENTS_FILE ? file.name : names[kind];
}

static void fill_words(char *p, size_t bytes, struct random *r)
{
	char room[PAGE_BYTES + WORD_MAX_BYTES * 2], *q = room;

	while (q < room + bytes) {
		q = word_put(q, r);
		*q++ = ' ';
	}
	memcpy(p, room, bytes);
}

static void fill_random(char *p, size_t bytes, struct random *r)
{
	for (size_t at = 0; at < bytes; at += 8) {
		uint64_t bits = random_next(r);

		memcpy(p + at, &bits, 8);
	}
}

/* Objects of 32 bytes: one of a few types, a small count, a length, the address of another object. */
static void fill_objects(char *p, size_t bytes, struct random *r)
{
	for (size_t at = 0; at < bytes; at += 32) {
		uint64_t object[4] = {
			0x55d0a1b3c000u + 0x1a0ull * random_below(r, 8),
			1 + random_below(r, 3),
			random_below(r, 100),
			0x7f3a64000000u + (random_next(r) & 0x3fffff0),
		};

		memcpy(p + at, object, 32);
	}
}

static void fill_small_numbers(char *p, size_t bytes, struct random *r)
{
	for (size_t at = 0; at < bytes; at += 4) {
		uint32_t number = random_below(r, 1000);

		memcpy(p + at, &number, 4);
	}
}

/* Runs of 256 bytes of one kind. The shares make the LZ4 ratio. */
static void fill_segment(char *p, struct random *r)
{
	uint32_t draw = random_below(r, 100);

	if (draw < 25)
		fill_words(p, SEGMENT_BYTES, r);
	else if (draw < 55)
		fill_objects(p, SEGMENT_BYTES, r);
	else if (draw < 60)
		fill_small_numbers(p, SEGMENT_BYTES, r);
	else if (draw < 95)
		memset(p, 0, SEGMENT_BYTES);
	else
		fill_random(p, SEGMENT_BYTES, r);
}

static void fill_mixed(char *page, struct random *r)
{
	for (size_t at = 0; at < PAGE_BYTES; at += SEGMENT_BYTES)
		fill_segment(page + at, r);
}

/* Documents in a row, the last one cut off. One has 100 bytes at least, so no page needs more than 64. */
static void fill_json(char *page, uint64_t seed, uint64_t index)
{
	char room[PAGE_BYTES + RECORD_ROOM_BYTES];
	size_t used = 0;

	for (uint32_t i = 0; used < PAGE_BYTES; i++)
		used += record_document(room + used, seed, (uint32_t)index * 64 + i, 0);
	memcpy(page, room, PAGE_BYTES);
}

static void fill_binary(char *page, struct random *r)
{
	for (size_t at = 0; at < PAGE_BYTES; at += SEGMENT_BYTES) {
		uint32_t draw = random_below(r, 100);

		if (draw < 50)
			fill_objects(page + at, SEGMENT_BYTES, r);
		else if (draw < 85)
			fill_small_numbers(page + at, SEGMENT_BYTES, r);
		else
			fill_random(page + at, SEGMENT_BYTES, r);
	}
}

void contents_fill_page(enum contents kind, char *page, uint64_t seed, uint64_t index)
{
	struct random r = { random_mix(random_mix(seed) ^ index) };

	switch (kind) {
	case CONTENTS_MIXED:
		fill_mixed(page, &r);
		break;
	case CONTENTS_TEXT:
		fill_words(page, PAGE_BYTES, &r);
		break;
	case CONTENTS_JSON:
		fill_json(page, seed, index);
		break;
	case CONTENTS_BINARY:
		fill_binary(page, &r);
		break;
	case CONTENTS_RANDOM:
		fill_random(page, PAGE_BYTES, &r);
		break;
	case CONTENTS_ZERO:
		memset(page, 0, PAGE_BYTES);
		break;
	case CONTENTS_FILE:
		memcpy(page, file.pages + (seed + index) % file.count * PAGE_BYTES, PAGE_BYTES);
		break;
	}
}

void contents_fill(enum contents kind, void *buffer, size_t bytes, uint64_t seed)
{
	for (size_t i = 0; i < bytes / PAGE_BYTES; i++)
		contents_fill_page(kind, (char *)buffer + i * PAGE_BYTES, seed, i);
}

size_t contents_wrong_pages(enum contents kind, const void *buffer, size_t bytes, uint64_t seed)
{
	char expected[PAGE_BYTES];
	size_t wrong = 0;

	for (size_t i = 0; i < bytes / PAGE_BYTES; i++) {
		contents_fill_page(kind, expected, seed, i);
		wrong += memcmp((const char *)buffer + i * PAGE_BYTES, expected, PAGE_BYTES) != 0;
	}
	return wrong;
}

double contents_lz4_ratio(enum contents kind, uint64_t seed)
{
	char page[PAGE_BYTES], packed[LZ4_COMPRESSBOUND(PAGE_BYTES)];
	size_t total = 0;

	for (size_t i = 0; i < RATIO_SAMPLE_PAGES; i++) {
		contents_fill_page(kind, page, seed, i);
		total += (size_t)LZ4_compress_default(page, packed, PAGE_BYTES, sizeof(packed));
	}
	return (double)RATIO_SAMPLE_PAGES * PAGE_BYTES / (double)total;
}
