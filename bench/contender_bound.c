/*
 * What the machine can do at best, by the same touches: LZ4 alone on the same pages, without anything around it;
 * copying a page; and memory that is there.
 */
#include "clock.h"
#include "contender.h"

#include <err.h>
#include <lz4.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct {
	size_t bytes, pages;
	char *buffer;
	char *packed;	   /* all pages, compressed, one behind the other; or copied */
	uint64_t *offsets; /* of pages + 1; where each begins */
} bound;

static char *open_bound(const struct contender_setup *s)
{
	bound.bytes = s->bytes;
	bound.pages = s->bytes / CONTENDER_PAGE_BYTES;
	bound.buffer = contender_map(s->bytes);
	return bound.buffer;
}

/* Room is mapped before, as the others have it: a fresh page a page would be part of the time otherwise. */
static void map_packed(size_t bytes)
{
	if (bound.packed)
		return;
	bound.packed = contender_map(bytes);
	madvise(bound.packed, bytes, MADV_POPULATE_WRITE);
}

/* ---- LZ4 ---- */

static char *open_lz4(const struct contender_setup *s)
{
	char *buffer = open_bound(s);

	bound.offsets = (uint64_t *)contender_map((bound.pages + 1) * sizeof(*bound.offsets));
	map_packed(bound.pages * LZ4_COMPRESSBOUND(CONTENDER_PAGE_BYTES));
	return buffer;
}

static double lz4_out(void)
{
	static LZ4_stream_t state;
	uint64_t start = clock_ns(), at = 0;

	for (size_t i = 0; i < bound.pages; i++) {
		bound.offsets[i] = at;
		at += (uint64_t)LZ4_compress_fast_extState(&state, bound.buffer + i * CONTENDER_PAGE_BYTES,
							   bound.packed + at, CONTENDER_PAGE_BYTES,
							   LZ4_COMPRESSBOUND(CONTENDER_PAGE_BYTES), 1);
	}
	bound.offsets[bound.pages] = at;
	return seconds_since(start);
}

static void lz4_unpack(size_t page, char *to)
{
	int size = (int)(bound.offsets[page + 1] - bound.offsets[page]);

	if (LZ4_decompress_safe(bound.packed + bound.offsets[page], to, size, CONTENDER_PAGE_BYTES) !=
	    CONTENDER_PAGE_BYTES)
		errx(1, "LZ4: page %zu cannot be decompressed", page);
}

static void lz4_touch(size_t page)
{
	static _Thread_local char to[CONTENDER_PAGE_BYTES];

	lz4_unpack(page, to);
}

static void lz4_bring_back(void)
{
	memset(bound.buffer, 0, bound.bytes);
	for (size_t i = 0; i < bound.pages; i++)
		lz4_unpack(i, bound.buffer + i * CONTENDER_PAGE_BYTES);
}

static void lz4_stats(struct contender_stats *s)
{
	s->content_bytes = (double)bound.bytes;
	s->held_bytes = (double)bound.offsets[bound.pages];
	s->metadata_bytes = 0;
	s->density = 1;
	s->written_bytes = NAN;
}

/* ---- memcpy ---- */

static char *open_memcpy(const struct contender_setup *s)
{
	char *buffer = open_bound(s);

	map_packed(s->bytes);
	return buffer;
}

static double memcpy_out(void)
{
	uint64_t start = clock_ns();

	for (size_t i = 0; i < bound.bytes; i += CONTENDER_PAGE_BYTES)
		memcpy(bound.packed + i, bound.buffer + i, CONTENDER_PAGE_BYTES);
	return seconds_since(start);
}

static void memcpy_touch(size_t page)
{
	static _Thread_local char to[CONTENDER_PAGE_BYTES];

	memcpy(to, bound.packed + page * CONTENDER_PAGE_BYTES, CONTENDER_PAGE_BYTES);
	__asm__ volatile("" : : "r"(to) : "memory"); /* somebody may look at it */
}

static void memcpy_bring_back(void)
{
	memcpy(bound.buffer, bound.packed, bound.bytes);
}

static void no_stats(struct contender_stats *s)
{
	*s = (struct contender_stats){ NAN, NAN, NAN, NAN, NAN };
}

static double nothing_out(void)
{
	return 0;
}

const struct contender contender_lz4 = {
	.name = "LZ4",
	.what = "the bound: LZ4 alone on the same pages, one thread a page",
	.kind = CONTENDER_BOUND,
	.has_two_buffers = 1,
	.open = open_lz4,
	.out = lz4_out,
	.touch = lz4_touch,
	.bring_back = lz4_bring_back,
	.stats = lz4_stats,
};

const struct contender contender_memcpy = {
	.name = "memcpy",
	.what = "the bound: copying the page",
	.kind = CONTENDER_BOUND,
	.has_two_buffers = 1,
	.open = open_memcpy,
	.out = memcpy_out,
	.touch = memcpy_touch,
	.bring_back = memcpy_bring_back,
	.stats = no_stats,
};

const struct contender contender_ram = {
	.name = "RAM",
	.what = "the bound: the same memory without any limit",
	.kind = CONTENDER_BOUND,
	.open = open_bound,
	.out = nothing_out,
	.stats = no_stats,
};

const struct contender contender_fio = {
	.name = "fio",
	.what = "the bound: the disk, by fio with io_uring and O_DIRECT",
	.kind = CONTENDER_BOUND,
};
