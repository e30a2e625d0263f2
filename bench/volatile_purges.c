/*
 * Purges. Every run writes all of the memory anew, marks it range by range, and has it purged by one call. The kernel's
 * side writes as much and lets go of the same ranges by MADV_DONTNEED, which does nothing but free pages: what it takes
 * is the least that anybody could.
 */
#include "clock.h"
#include "numbers.h"
#include "progress.h"
#include "volatile.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static const double target_gb_s = 8;
static const size_t sizes[] = { 1 << 20, 65536, 4096 }; /* the first is judged */

enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
enum side { LARDER, PLAIN, SIDES };

struct purges_case {
	struct volatile_bench *bench;
	size_t range_bytes, ranges;
	char **larder_ranges;
	char *plain;
	struct samples gb_s[SIDES];
};

static size_t total_bytes(const struct purges_case *c)
{
	return c->ranges * c->range_bytes;
}

static void write_and_mark(const struct purges_case *c)
{
	for (size_t i = 0; i < c->ranges; i++) {
		volatile_write(c->larder_ranges[i], c->range_bytes);
		volatile_check(larder_volatile(c->bench->pool, c->larder_ranges[i], c->range_bytes, NULL),
			       "larder_volatile");
	}
}

/* Every range must say that it is gone: else less was done than was timed. */
static void take_back(const struct purges_case *c)
{
	for (size_t i = 0; i < c->ranges; i++) {
		int64_t answer = larder_nonvolatile(c->bench->pool, c->larder_ranges[i], c->range_bytes,
						    LARDER_ACKNOWLEDGE, NULL);

		if (volatile_check(answer, "larder_nonvolatile") != LARDER_PURGED)
			errx(1, "a range was not purged");
		if (volatile_wrong_pages(c->larder_ranges[i], c->range_bytes) != c->range_bytes / 4096)
			errx(1, "a purged range still has content");
	}
}

static double purge_larder(const struct purges_case *c)
{
	uint64_t start;
	int64_t purged;
	double seconds;

	write_and_mark(c);
	start = clock_ns();
	purged = larder_purge(c->bench->pool, LARDER_PRIORITY_MAX, total_bytes(c));
	seconds = seconds_since(start);
	volatile_check(purged, "larder_purge");
	if ((size_t)purged != total_bytes(c))
		errx(1, "larder_purge gave back %lld of %zu bytes", (long long)purged, total_bytes(c));
	take_back(c);
	return (double)purged / seconds / 1e9;
}

static double drop_plain(const struct purges_case *c)
{
	uint64_t start;
	double seconds;

	volatile_write(c->plain, total_bytes(c));
	start = clock_ns();
	for (size_t i = 0; i < c->ranges; i++)
		if (madvise(c->plain + i * c->range_bytes, c->range_bytes, MADV_DONTNEED))
			err(2, "MADV_DONTNEED");
	seconds = seconds_since(start);
	return (double)total_bytes(c) / seconds / 1e9;
}

static void run_case(struct purges_case *c, struct progress *progress, unsigned *done)
{
	c->larder_ranges = calloc(c->ranges, sizeof(*c->larder_ranges));
	if (!c->larder_ranges)
		err(2, "no memory");
	for (size_t i = 0; i < c->ranges; i++)
		c->larder_ranges[i] = volatile_map_larder(c->bench, c->range_bytes);
	c->plain = volatile_map_plain(total_bytes(c));
	for (unsigned run = 0; run < c->bench->runs; run++) {
		for (unsigned i = 0; i < SIDES; i++) {
			enum side side = (run + i) % SIDES;

			samples_add(&c->gb_s[side], side == LARDER ? purge_larder(c) : drop_plain(c));
		}
		progress_show(progress, ++*done);
	}
	munmap(c->plain, total_bytes(c));
	for (size_t i = 0; i < c->ranges; i++)
		volatile_check(larder_pages_free(c->bench->pool, c->larder_ranges[i]), "larder_pages_free");
	free(c->larder_ranges);
}

static const char *judge(const struct purges_case *c)
{
	static char text[64];

	*text = 0;
	if (c->range_bytes == sizes[0])
		snprintf(text, sizeof(text), ">= %.0f GB/s: %s", target_gb_s,
			 volatile_verdict(c->bench, samples_median(&c->gb_s[LARDER]) >= target_gb_s));
	return text;
}

static void print_case(const struct purges_case *c)
{
	struct samples ratio = samples_ratio(&c->gb_s[LARDER], &c->gb_s[PLAIN]);

	printf("%-8s%-8zu", volatile_size_text(c->range_bytes), c->ranges);
	for (int side = 0; side < SIDES; side++)
		printf("%10.2f (%.2f-%.2f)", samples_median(&c->gb_s[side]), samples_min(&c->gb_s[side]),
		       samples_max(&c->gb_s[side]));
	printf("%18.2f (%.2f-%.2f)  %s\n", samples_median(&ratio), samples_min(&ratio), samples_max(&ratio), judge(c));
	fflush(stdout);
}

static void report_case(const struct purges_case *c, struct json_object *list)
{
	struct samples ratio = samples_ratio(&c->gb_s[LARDER], &c->gb_s[PLAIN]);
	struct json_object *o = json_object_new_object();
	const char *verdict = judge(c);

	json_object_object_add(o, "range_bytes", json_object_new_int64((int64_t)c->range_bytes));
	json_object_object_add(o, "ranges", json_object_new_int64((int64_t)c->ranges));
	samples_to_json(&c->gb_s[LARDER], o, "larder");
	samples_to_json(&c->gb_s[PLAIN], o, "madvise");
	samples_to_json(&ratio, o, "larder_to_madvise");
	if (*verdict)
		json_object_object_add(o, "target", json_object_new_string(verdict));
	json_object_array_add(list, o);
}

void volatile_measure_purges(struct volatile_bench *b)
{
	struct json_object *list = b->report ? json_object_new_array() : NULL;
	struct progress progress;
	unsigned done = 0;

	if (!list)
		printf("\n%-16s%-22s%-22s%-28s%s\n", "purge, GB/s", "      larder (min-max)",
		       "      DONTNEED (min-max)", "  larder / DONTNEED (min-max)", "target");
	progress_start(&progress, "purges", "runs", b->runs * SIZES);
	for (unsigned i = 0; i < SIZES; i++) {
		struct purges_case c = {
			.bench = b,
			.range_bytes = sizes[i],
			.ranges = b->purge_bytes / sizes[i],
		};

		run_case(&c, &progress, &done);
		if (list)
			report_case(&c, list);
		else
			print_case(&c);
	}
	progress_end(&progress);
	if (list)
		json_object_object_add(b->report, "purges", list);
}
