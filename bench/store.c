/*
 * Do the lz4 tier's costs grow with what it holds? For each size of a heap that is compressed in full: the time of a
 * get, and of a replacement (a drop, a put, a share of compaction), all in random order, once the store has been turned
 * over so that its holes are where they would be. The pages are compressed before; LZ4's time is in the get alone.
 *
 * The larger the store, the more a random access misses caches and TLB, whatever the data structure: "copy" is the time
 * of copying as many bytes from a random place in a plain array as large as the store, for comparison.
 */
#include "clock.h"
#include "codec.h"
#include "contents.h"
#include "random.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { KINDS = 4096, PAGE_BYTES = LARDER_PAGE_BYTES, OPERATIONS = 400000, COMPACT_BYTES = 256 << 10, BATCH = 64 };

static const struct larder_backend_ops *const ops = &larder_backend_lz4;

static struct larder_object objects[KINDS];

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	return p;
}

static void make_objects(enum contents kind)
{
	static LZ4_stream_t state;
	char *pages = map((size_t)KINDS * PAGE_BYTES), *bytes = map((size_t)KINDS * PAGE_BYTES);

	contents_fill(kind, pages, (size_t)KINDS * PAGE_BYTES, 1);
	for (size_t i = 0; i < KINDS; i++)
		objects[i] = codec_object(&state, CODEC_FOR_RAM, pages + i * PAGE_BYTES, bytes + i * PAGE_BYTES);
}

/* One that the tier takes. */
static uint64_t put(void *backend, struct random *r)
{
	uint64_t handle;

	while (ops->put(backend, &objects[random_below(r, KINDS)], &handle))
		;
	return handle;
}

static void replace(void *backend, uint64_t *handles, size_t n, size_t count, struct random *r)
{
	for (size_t i = 1; i <= count; i++) {
		uint64_t *handle = &handles[random_below(r, (uint32_t)n)];

		ops->drop(backend, handle, 1);
		*handle = put(backend, r);
		if (i % BATCH == 0)
			ops->compact(backend, NULL, COMPACT_BYTES);
	}
}

static double get_ns(void *backend, const uint64_t *handles, size_t n, struct random *r)
{
	static char page[PAGE_BYTES];
	uint64_t start = clock_ns();

	for (size_t i = 0; i < OPERATIONS; i++)
		if (ops->get(backend, NULL, handles[random_below(r, (uint32_t)n)], page))
			errx(1, "a page is not there");
	return seconds_since(start) * 1e9 / OPERATIONS;
}

static double replace_ns(void *backend, uint64_t *handles, size_t n, struct random *r)
{
	uint64_t start = clock_ns();

	replace(backend, handles, n, OPERATIONS, r);
	return seconds_since(start) * 1e9 / OPERATIONS;
}

static double copy_ns(size_t array_bytes, size_t bytes, struct random *r)
{
	static char to[PAGE_BYTES];
	char *array = map(array_bytes);
	uint32_t places = (uint32_t)(array_bytes / PAGE_BYTES);
	double ns;
	uint64_t start;

	madvise(array, array_bytes, MADV_NOHUGEPAGE);
	memset(array, 1, array_bytes);
	start = clock_ns();
	for (size_t i = 0; i < OPERATIONS; i++) {
		memcpy(to, array + (size_t)random_below(r, places) * PAGE_BYTES, bytes);
		__asm__ volatile("" ::"r"(to) : "memory");
	}
	ns = seconds_since(start) * 1e9 / OPERATIONS;
	munmap(array, array_bytes);
	return ns;
}

static void measure(size_t megabytes)
{
	size_t n = (megabytes << 20) / PAGE_BYTES;
	void *backend = map(ops->backend_bytes);
	uint64_t *handles = map(n * sizeof(*handles));
	struct larder_backend_usage usage;
	struct random r = { 1 };
	double get, change;

	if (ops->open(backend, &(struct larder_backend_setup){ .max_objects = n + 1 }))
		errx(2, "no memory for a store of %zu MiB", megabytes);
	for (size_t i = 0; i < n; i++)
		handles[i] = put(backend, &r);
	replace(backend, handles, n, n / 2, &r);
	get = get_ns(backend, handles, n, &r);
	change = replace_ns(backend, handles, n, &r);
	ops->usage(backend, &usage);
	ops->close(backend);
	munmap(handles, n * sizeof(*handles));
	printf("%10zu%12.0f%12.0f%12.0f%12.1f%14.1f\n", megabytes, get, change,
	       copy_ns(usage.occupied_bytes, usage.stored_bytes / n, &r),
	       100.0 * (double)usage.stored_bytes / (double)usage.occupied_bytes,
	       (double)usage.metadata_bytes / (double)usage.objects);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { 64, 512, 4096, 12288 };
	size_t most = argc > 1 ? strtoul(argv[1], NULL, 0) : 12288;

	if (argc > 2 || most < sizes[0]) {
		fputs("Usage: bench_store [MEGABYTES]\nHow the lz4 tier's costs grow from a heap of 64 MiB to one of "
		      "MEGABYTES (12288 at most).\n",
		      stderr);
		return 2;
	}
	make_objects(CONTENTS_MIXED);
	printf("%10s%12s%12s%12s%12s%14s\n", "heap, MiB", "get, ns", "replace, ns", "copy, ns", "density, %",
	       "tables, bytes");
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && sizes[i] <= most; i++)
		measure(sizes[i]);
	return 0;
}
