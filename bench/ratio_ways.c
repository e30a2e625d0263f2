/*
 * Ways to keep pages compressed: each page by itself, with a dictionary, or in clusters.
 *
 * Objects lie one after the other in the order of their pages; a page is expanded from there into one buffer, so what
 * is timed is the codec and the cache misses of its input, as in a store.
 */
#define LZ4_STATIC_LINKING_ONLY
#define LZ4_HC_STATIC_LINKING_ONLY
#include "ratio.h"

#include "clock.h"
#include "codec.h"
#include "pack.h"
#include "random.h"

#include <err.h>
#include <lz4.h>
#include <lz4hc.h>
#include <stdlib.h>
#include <string.h>

enum { CLUSTER_MAX_PAGES = 16, CLUSTER_MAX_BYTES = CLUSTER_MAX_PAGES * RATIO_PAGE_BYTES };
enum { DICTIONARY_MAX_BYTES = 64 << 10 };

struct dictionary {
	char *bytes;
	unsigned size;
	LZ4_stream_t *fast; /* prepared for one of the compressors */
	LZ4_streamHC_t *hc;
};

struct object {
	size_t at;
	uint32_t size;
	int is_raw; /* its pages did not compress, and are kept as they are */
};

struct run {
	const struct ratio_way *way;
	const struct ratio_pages *pages;
	struct dictionary *dictionaries;
	size_t ndictionaries;
	struct object *objects;
	char *bytes;
	LZ4_stream_t *fast;
	LZ4_streamHC_t *hc;
};

static void *allocate(size_t bytes)
{
	void *p = calloc(1, bytes);

	if (!p)
		err(2, "no memory");
	return p;
}

static unsigned cluster_of(const struct ratio_way *way)
{
	return way->cluster_pages ? way->cluster_pages : 1;
}

/* ---- making dictionaries ---- */

/* Pages [first, first + n), `take` of them evenly spread. */
static void sample(struct dictionary *d, const struct ratio_pages *pages, size_t first, size_t n, unsigned size)
{
	size_t take = size / RATIO_PAGE_BYTES;

	take = take < n ? take : n;
	for (size_t i = 0; i < take; i++)
		memcpy(d->bytes + i * RATIO_PAGE_BYTES, ratio_page(pages, first + i * n / take), RATIO_PAGE_BYTES);
	d->size = (unsigned)(take * RATIO_PAGE_BYTES);
}

/*
 * Training, after COVER (Liao, Petri, Moffat and Wirth, "Effective construction of relative Lempel-Ziv dictionaries",
 * 2016): a string of STRING_BYTES is worth in how many pages of the sample it occurs, a line is worth its strings, and
 * strings that are in the dictionary already are worth nothing. The sample is cut into as many stretches as there are
 * lines to choose, and the best line is taken from each.
 */
enum { STRING_BYTES = 6, LINE_BYTES = 64, TRAIN_PAGES = 512, COUNTS = 1 << 18 };

static uint32_t string_at(const char *p)
{
	uint64_t word = 0;

	memcpy(&word, p, STRING_BYTES);
	return (uint32_t)(word * 0x9e3779b97f4a7c15u >> (64 - 18));
}

static void count_strings(uint16_t *counts, uint32_t *last, const char *sampled, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		for (size_t at = 0; at + STRING_BYTES <= RATIO_PAGE_BYTES; at++) {
			uint32_t s = string_at(sampled + i * RATIO_PAGE_BYTES + at);

			if (last[s] != i + 1)
				counts[s]++;
			last[s] = (uint32_t)i + 1;
		}
}

static uint64_t line_value(const uint16_t *counts, const char *line)
{
	uint64_t value = 0;

	for (size_t at = 0; at + STRING_BYTES <= LINE_BYTES; at++) {
		uint16_t count = counts[string_at(line + at)];

		value += count > 1 ? count : 0;
	}
	return value;
}

static void train(struct dictionary *d, const struct ratio_pages *pages, size_t first, size_t n, unsigned size)
{
	size_t take = n < TRAIN_PAGES ? n : TRAIN_PAGES, lines = size / LINE_BYTES;
	size_t all = take * RATIO_PAGE_BYTES / LINE_BYTES, at = size;
	char *sampled = allocate(take * RATIO_PAGE_BYTES);
	uint16_t *counts = allocate(COUNTS * sizeof(*counts));
	uint32_t *last = allocate(COUNTS * sizeof(*last));

	for (size_t i = 0; i < take; i++)
		memcpy(sampled + i * RATIO_PAGE_BYTES, ratio_page(pages, first + i * n / take), RATIO_PAGE_BYTES);
	count_strings(counts, last, sampled, take);
	for (size_t i = 0; i < lines; i++) {
		const char *best = NULL;
		uint64_t best_value = 0;

		for (size_t line = i * all / lines; line < (i + 1) * all / lines; line++) {
			uint64_t value = line_value(counts, sampled + line * LINE_BYTES);

			if (value > best_value) {
				best = sampled + line * LINE_BYTES;
				best_value = value;
			}
		}
		if (!best)
			continue;
		for (size_t j = 0; j + STRING_BYTES <= LINE_BYTES; j++)
			counts[string_at(best + j)] = 0;
		memcpy(d->bytes + (at -= LINE_BYTES), best, LINE_BYTES);
	}
	memmove(d->bytes, d->bytes + at, size - at);
	d->size = (unsigned)(size - at);
	free(sampled);
	free(counts);
	free(last);
}

static void prepare(struct dictionary *d, int hc_level)
{
	if (hc_level) {
		d->hc = allocate(sizeof(*d->hc));
		LZ4_initStreamHC(d->hc, sizeof(*d->hc));
		LZ4_setCompressionLevel(d->hc, hc_level);
		LZ4_loadDictHC(d->hc, d->bytes, (int)d->size);
	} else {
		d->fast = allocate(sizeof(*d->fast));
		LZ4_initStream(d->fast, sizeof(*d->fast));
		LZ4_loadDict(d->fast, d->bytes, (int)d->size);
	}
}

static void make_dictionaries(struct run *r)
{
	const struct ratio_way *w = r->way;
	size_t scope = w->scope_pages ? w->scope_pages : r->pages->n;

	r->ndictionaries =
		w->dictionary == RATIO_NONE || w->dictionary == RATIO_LEADER ? 0 : (r->pages->n + scope - 1) / scope;
	r->dictionaries = allocate((r->ndictionaries + 1) * sizeof(*r->dictionaries));
	for (size_t i = 0; i < r->ndictionaries; i++) {
		struct dictionary *d = &r->dictionaries[i];
		size_t n = r->pages->n - i * scope < scope ? r->pages->n - i * scope : scope;

		d->bytes = allocate(DICTIONARY_MAX_BYTES);
		(w->dictionary == RATIO_TRAINED ? train : sample)(d, r->pages, i * scope, n, w->dictionary_bytes);
		prepare(d, w->hc_level);
	}
}

static const struct dictionary *dictionary_of(const struct run *r, size_t page)
{
	if (r->ndictionaries == 0)
		return NULL;
	return &r->dictionaries[r->way->scope_pages ? page / r->way->scope_pages : 0];
}

static size_t leader_of(const struct run *r, size_t page)
{
	return page - page % r->way->scope_pages;
}

/* ---- compressing ---- */

static int compress_hc(struct run *r, const struct dictionary *d, const char *from, int bytes, char *to, int room)
{
	LZ4_resetStreamHC_fast(r->hc, r->way->hc_level);
	if (d)
		LZ4_attach_HC_dictionary(r->hc, d->hc);
	return LZ4_compress_HC_continue(r->hc, from, to, bytes, room);
}

static int compress_fast(struct run *r, const struct dictionary *d, const char *from, int bytes, char *to, int room)
{
	if (!d)
		return LZ4_compress_fast_extState(r->fast, from, to, bytes, room, 1);
	LZ4_resetStream_fast(r->fast);
	LZ4_attach_dictionary(r->fast, d->fast);
	return LZ4_compress_fast_continue(r->fast, from, to, bytes, room, 1);
}

static int compress_follower(struct run *r, size_t page, char *to, int room)
{
	LZ4_loadDict(r->fast, ratio_page(r->pages, leader_of(r, page)), RATIO_PAGE_BYTES);
	return LZ4_compress_fast_continue(r->fast, ratio_page(r->pages, page), to, RATIO_PAGE_BYTES, room, 1);
}

static int compress(struct run *r, size_t page, int bytes, char *to)
{
	int room = bytes / 8 * 7;

	if (r->way->dictionary == RATIO_LEADER && leader_of(r, page) != page)
		return compress_follower(r, page, to, room);
	return (r->way->hc_level ? compress_hc : compress_fast)(r, dictionary_of(r, page), ratio_page(r->pages, page),
								bytes, to, room);
}

static void compress_all(struct run *r)
{
	unsigned cluster = cluster_of(r->way);
	size_t at = 0;

	for (size_t page = 0; page < r->pages->n; page += cluster) {
		struct object *o = &r->objects[page / cluster];
		size_t n = r->pages->n - page < cluster ? r->pages->n - page : cluster;
		int size = compress(r, page, (int)(n * RATIO_PAGE_BYTES), r->bytes + at);

		*o = (struct object){ .at = at, .size = (uint32_t)size, .is_raw = size <= 0 };
		if (o->is_raw) {
			o->size = (uint32_t)(n * RATIO_PAGE_BYTES);
			memcpy(r->bytes + at, ratio_page(r->pages, page), o->size);
		}
		at += o->size;
	}
}

/* ---- expanding ---- */

/* Returns where in `to` the page is. */
static const char *expand_cluster(const struct run *r, size_t page, char *to)
{
	unsigned cluster = cluster_of(r->way);
	const struct object *o = &r->objects[page / cluster];
	int within = (int)(page % cluster * RATIO_PAGE_BYTES), end = within + RATIO_PAGE_BYTES;

	if (o->is_raw)
		return r->bytes + o->at + within;
	if (r->way->partial)
		LZ4_decompress_safe_partial(r->bytes + o->at, to, (int)o->size, end, CLUSTER_MAX_BYTES);
	else
		LZ4_decompress_safe(r->bytes + o->at, to, (int)o->size, CLUSTER_MAX_BYTES);
	return to + within;
}

static void expand_with(const struct object *o, const char *bytes, const char *dictionary, unsigned size, char *to)
{
	if (o->is_raw)
		memcpy(to, bytes + o->at, RATIO_PAGE_BYTES);
	else if (size)
		LZ4_decompress_safe_usingDict(bytes + o->at, to, (int)o->size, RATIO_PAGE_BYTES, dictionary, (int)size);
	else
		LZ4_decompress_safe(bytes + o->at, to, (int)o->size, RATIO_PAGE_BYTES);
}

static const char *expand(const struct run *r, size_t page, char *to)
{
	const struct dictionary *d = dictionary_of(r, page);
	static char leader[RATIO_PAGE_BYTES];

	if (cluster_of(r->way) > 1)
		return expand_cluster(r, page, to);
	if (r->way->dictionary == RATIO_LEADER && leader_of(r, page) != page) {
		expand_with(&r->objects[leader_of(r, page)], r->bytes, NULL, 0, leader);
		expand_with(&r->objects[page], r->bytes, leader, RATIO_PAGE_BYTES, to);
	} else {
		expand_with(&r->objects[page], r->bytes, d ? d->bytes : NULL, d ? d->size : 0, to);
	}
	return to;
}

static void verify(const struct run *r)
{
	static char to[CLUSTER_MAX_BYTES];

	for (size_t i = 0; i < r->pages->n; i++)
		if (memcmp(expand(r, i, to), ratio_page(r->pages, i), RATIO_PAGE_BYTES))
			errx(1, "%s: page %zu is not what it was", r->way->name, i);
}

/* ---- what it takes ---- */

/*
 * zsmalloc (Linux 6.x): classes 16 bytes apart from 32 bytes on; an object has a handle of 8 bytes in front, unless it
 * is huge; a zspage is 1 to 8 pages, whichever leaves least of it over.
 */
static double zsmalloc_bytes(uint32_t size)
{
	enum { CLASS_STEP = 16, HANDLE_BYTES = 8, CHAIN_MAX = 8, SMALLEST = 32, HUGE = 3264 };
	uint32_t class = size + HANDLE_BYTES < SMALLEST ? SMALLEST : size + HANDLE_BYTES, best = 1, least = UINT32_MAX;

	class = (class + CLASS_STEP - 1) / CLASS_STEP * CLASS_STEP;
	if (class > HUGE)
		return RATIO_PAGE_BYTES;
	for (uint32_t pages = 1; pages <= CHAIN_MAX; pages++)
		if (pages * RATIO_PAGE_BYTES % class < least) {
			best = pages;
			least = pages * RATIO_PAGE_BYTES % class;
		}
	return (double)best * RATIO_PAGE_BYTES / (best * RATIO_PAGE_BYTES / class);
}

/* An object of one page has a slot; larger ones, for which there are no slots, are given a waste of 1/64. */
static double slot_bytes(const struct larder_slabs *s, uint32_t size)
{
	const struct slab_class *c;

	if (size == RATIO_PAGE_BYTES)
		return size;
	if (size + PACK_HEADER_BYTES > SLAB_SLOT_MAX_BYTES)
		return size * (1 + 1.0 / 64);
	c = &s->classes[s->class_of[(size + PACK_HEADER_BYTES + SLAB_SLOT_ALIGN - 1) / SLAB_SLOT_ALIGN]];
	return (double)c->pages * SLAB_PAGE_BYTES / c->slots;
}

static void sum_up(const struct run *r, struct ratio_result *result)
{
	struct larder_slabs *slabs = allocate(sizeof(*slabs));
	unsigned cluster = cluster_of(r->way);

	if (slabs_open(slabs, 1000))
		errx(2, "no memory");
	for (size_t i = 0; i < (r->pages->n + cluster - 1) / cluster; i++) {
		result->compressed_bytes += r->objects[i].size;
		result->stored_bytes += slot_bytes(slabs, r->objects[i].size);
		result->zram_bytes += zsmalloc_bytes(r->objects[i].size);
	}
	for (size_t i = 0; i < r->ndictionaries; i++) {
		result->compressed_bytes += r->dictionaries[i].size;
		result->stored_bytes += r->dictionaries[i].size;
	}
	slabs_close(slabs);
	free(slabs);
}

/* ---- measuring ---- */

static double expand_random_us(const struct run *r)
{
	static char to[CLUSTER_MAX_BYTES];
	struct random random = { 1 };
	uint64_t start = clock_ns();

	for (size_t i = 0; i < r->pages->n; i++)
		expand(r, random_below(&random, (uint32_t)r->pages->n), to);
	return seconds_since(start) * 1e6 / (double)r->pages->n;
}

static void close_run(struct run *r)
{
	for (size_t i = 0; i < r->ndictionaries; i++) {
		free(r->dictionaries[i].bytes);
		free(r->dictionaries[i].fast);
		free(r->dictionaries[i].hc);
	}
	free(r->dictionaries);
	free(r->objects);
	free(r->bytes);
	free(r->fast);
	free(r->hc);
}

struct ratio_result ratio_measure(const struct ratio_way *way, const struct ratio_pages *pages)
{
	struct run r = { .way = way, .pages = pages };
	struct ratio_result result = { 0 };
	uint64_t start;

	r.objects = allocate(pages->n * sizeof(*r.objects));
	r.bytes = allocate(pages->n * RATIO_PAGE_BYTES + CLUSTER_MAX_BYTES);
	memset(r.bytes, 1, pages->n * RATIO_PAGE_BYTES);
	r.fast = allocate(sizeof(*r.fast));
	r.hc = allocate(sizeof(*r.hc));
	LZ4_initStream(r.fast, sizeof(*r.fast));
	LZ4_initStreamHC(r.hc, sizeof(*r.hc));
	make_dictionaries(&r);
	start = clock_ns();
	compress_all(&r);
	result.compress_us = seconds_since(start) * 1e6 / (double)pages->n;
	verify(&r);
	result.expand_us = expand_random_us(&r);
	sum_up(&r, &result);
	close_run(&r);
	return result;
}
