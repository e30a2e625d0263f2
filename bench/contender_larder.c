/*
 * Larder: with handler threads it is the heap, all of it managed; with inline faults a page range of a pool. Without a
 * limit and with a place on disk, both are pools that have no other tier, so that everything goes there.
 */
#include "clock.h"
#include "contender.h"

#include <larder/larder.h>

#include <err.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB (1ull << 20)

/* Nothing has changed for so long: more than two sweeps of recompression. */
enum { SETTLED_SECONDS = 6 };

enum { ALIGN_BYTES = 2 << 20, PATIENCE_SECONDS = 5, PAUSE_NS = 1000000 };

static const char disk_tier[] = "file";

static struct {
	const struct contender_setup *setup;
	const char *name;
	larder_pool *pool; /* NULL: the buffer is of the heap */
	char *buffer;
} larder;

/* ---- opening ---- */

static void start_larder(const struct contender_setup *s)
{
	const struct larder_options options = {
		.limit_bytes = s->limit_bytes,
		.swap_dir = s->disk_dir,
		.swap_bytes = s->disk_dir ? 2 * s->bytes + 64 * MIB : 0,
		.flags = LARDER_IGNORE_SYSTEM | (s->disk_dir && s->encrypts ? LARDER_SWAP_ENCRYPT : 0),
	};
	int err = larder_start(&options);

	if (err)
		errx(2, "larder_start: %s", strerror(-err));
}

static int all_goes_to_disk(const struct contender_setup *s)
{
	return s->disk_dir && !s->limit_bytes;
}

static void make_pool_buffer(const struct contender_setup *s, enum larder_fault_mode mode)
{
	const struct larder_pool_options options = {
		.fault_mode = mode,
		.tiers = all_goes_to_disk(s) ? LARDER_TIER_FILE : 0,
	};
	void *pages;
	int err = larder_pool_create(&larder.pool, &options);

	if (!err)
		err = larder_pages_alloc(larder.pool, s->bytes, &pages);
	if (err)
		errx(2, "a pool for %s: %s", larder.name, strerror(-err));
	larder.buffer = pages;
}

static void make_heap_buffer(size_t bytes)
{
	larder.buffer = aligned_alloc(ALIGN_BYTES, (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES);
	if (!larder.buffer)
		err(2, "no memory");
}

static void begin(const struct contender_setup *s, const char *name)
{
	larder.setup = s;
	larder.name = name;
	start_larder(s);
}

static char *open_handlers(const struct contender_setup *s)
{
	begin(s, "handlers");
	if (all_goes_to_disk(s))
		make_pool_buffer(s, LARDER_FAULT_HANDLERS);
	else
		make_heap_buffer(s->bytes);
	return larder.buffer;
}

static char *open_inline(const struct contender_setup *s)
{
	begin(s, "inline");
	make_pool_buffer(s, LARDER_FAULT_INLINE);
	return larder.buffer;
}

/* ---- out ---- */

static struct larder_stats read_stats(void)
{
	struct larder_stats s;
	int err = larder_get_stats(&s);

	if (err)
		errx(2, "larder_get_stats: %s", strerror(-err));
	return s;
}

static void advise_cold(void)
{
	int done = larder_advise(larder.pool, larder.buffer, larder.setup->bytes, LARDER_ADVICE_COLD);

	if (done < 0)
		errx(2, "larder_advise: %s", strerror(-done));
}

/* The other managed pages (libc's, ours) are few; what they displace from the request is asked for again. */
static void reclaim_all(void)
{
	uint64_t missing = larder.setup->bytes;

	while (missing && larder_reclaim(missing) > 0)
		missing = contender_present_pages(larder.buffer, larder.setup->bytes) * CONTENDER_PAGE_BYTES;
}

/* Pages that need no RAM: on disk, with no write under way, or stored as one word, as the kernel does it, too. */
static uint64_t pages_on_disk(const struct larder_stats *s)
{
	uint64_t pages = s->pages[LARDER_PAGES_SAME];

	if (s->disk.writes_in_flight)
		return 0;
	for (unsigned i = 0; i < LARDER_TIERS_MAX; i++)
		if (!strcmp(s->tiers[i].name, disk_tier))
			pages += s->tiers[i].objects;
	return pages < s->copies ? 0 : pages - s->copies;
}

static void fail_on_disk(const struct larder_stats *s, uint64_t pages)
{
	errx(2, "%s: %llu of %llu pages are on disk and nothing more goes there: %llu write errors, refusing: %s",
	     larder.name, (unsigned long long)pages_on_disk(s), (unsigned long long)pages,
	     (unsigned long long)s->disk.write_errors, s->disk.refusing ? strerror((int)s->disk.refusing) : "no");
}

/* Something else of the process, or nothing at all, may be all that is written: give up when the count stands still. */
static void wait_until_on_disk(uint64_t pages)
{
	uint64_t moved = clock_ns(), most = 0;

	for (;;) {
		struct larder_stats s = read_stats();
		uint64_t gone = pages_on_disk(&s);

		if (gone >= pages - pages / 1000)
			return;
		if (gone > most)
			most = gone, moved = clock_ns();
		if (seconds_since(moved) > PATIENCE_SECONDS)
			fail_on_disk(&s, pages);
		nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
	}
}

static void check_stored(uint64_t pages)
{
	struct larder_stats s = read_stats();
	uint64_t stored = s.pages[LARDER_PAGES_STORED] + s.pages[LARDER_PAGES_SAME];

	if (stored < pages / 100 * 99)
		errx(2, "%s has stored only %llu of %llu pages: with these contents there is nothing to compare",
		     larder.name, (unsigned long long)stored, (unsigned long long)pages);
}

static double out(void)
{
	uint64_t start = clock_ns(), pages = larder.setup->bytes / CONTENDER_PAGE_BYTES;
	double seconds;

	if (larder.pool)
		advise_cold();
	else
		reclaim_all();
	seconds = seconds_since(start);
	if (all_goes_to_disk(larder.setup))
		wait_until_on_disk(pages);
	else
		check_stored(pages);
	return seconds;
}

static uint64_t stored_bytes(void)
{
	struct larder_stats s = read_stats();

	return s.tiers[0].stored_bytes;
}

static void settle(void)
{
	uint64_t before = 0;

	for (uint64_t now = stored_bytes(); now != before; now = stored_bytes()) {
		before = now;
		sleep(SETTLED_SECONDS);
	}
}

/* ---- stats ---- */

/* The tier on disk takes RAM for its tables only. */
static void stats(struct contender_stats *to)
{
	struct larder_stats s = read_stats();
	double stored = 0, occupied = 0, tables = (double)s.metadata_bytes;

	for (int i = 0; i < LARDER_TIERS_MAX; i++) {
		tables += (double)s.tiers[i].metadata_bytes;
		if (!strcmp(s.tiers[i].name, disk_tier))
			continue;
		stored += (double)s.tiers[i].stored_bytes;
		occupied += (double)s.tiers[i].occupied_bytes;
	}
	to->content_bytes = (double)(s.pages[LARDER_PAGES_STORED] + s.pages[LARDER_PAGES_SAME]) * CONTENDER_PAGE_BYTES;
	to->held_bytes = occupied + tables;
	to->metadata_bytes = tables;
	to->density = occupied > 0 ? stored / occupied : NAN;
	to->written_bytes = larder.setup->disk_dir ? (double)s.disk.write_bytes : NAN;
}

const struct contender contender_handlers = {
	.name = "handlers",
	.what = "Larder, faults served by its threads",
	.kind = CONTENDER_LARDER,
	.open = open_handlers,
	.out = out,
	.settle = settle,
	.stats = stats,
};

const struct contender contender_inline = {
	.name = "inline",
	.what = "Larder, faults served by the touching thread",
	.kind = CONTENDER_LARDER,
	.open = open_inline,
	.out = out,
	.settle = settle,
	.stats = stats,
};
