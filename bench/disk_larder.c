/*
 * Larder with a tier on disk, its faults served by handler threads or inline.
 */
#include "disk_run.h"

#include "clock.h"

#include <larder/larder.h>

#include <err.h>
#include <string.h>
#include <time.h>

enum { PATIENCE_SECONDS = 5, PAUSE_NS = 1000000 };

static const char disk_tier[] = "file";

static struct larder_stats read_stats(void)
{
	struct larder_stats s;
	int err = larder_get_stats(&s);

	if (err)
		errx(2, "larder_get_stats: %s", strerror(-err));
	return s;
}

/* Pages that need no RAM: on disk, with no write under way, or stored as one word, as the kernel does it, too. */
static uint64_t pages_gone(const struct larder_stats *s)
{
	uint64_t pages = s->pages[LARDER_PAGES_SAME];

	if (s->disk.writes_in_flight)
		return 0;
	for (unsigned i = 0; i < LARDER_TIERS_MAX; i++)
		if (!strcmp(s->tiers[i].name, disk_tier))
			pages += s->tiers[i].objects;
	return pages < s->copies ? 0 : pages - s->copies;
}

static void fail(const struct larder_stats *s, const char *name, uint64_t pages)
{
	if (!s->disk.limit_bytes)
		errx(2, "%s: there is no tier on disk", name);
	errx(2,
	     "%s: %llu of %llu pages are on disk and nothing more goes there: %llu are resident, %llu stored, "
	     "%llu writes under way, %llu write errors, refusing: %s",
	     name, (unsigned long long)pages_gone(s), (unsigned long long)pages,
	     (unsigned long long)s->pages[LARDER_PAGES_RESIDENT], (unsigned long long)s->pages[LARDER_PAGES_STORED],
	     (unsigned long long)s->disk.writes_in_flight, (unsigned long long)s->disk.write_errors,
	     s->disk.refusing ? strerror((int)s->disk.refusing) : "no");
}

/* Something else of the process, or nothing at all, may be all that is written: give up when the count stands still. */
static void wait_until_on_disk(const char *name, uint64_t pages)
{
	uint64_t moved = clock_ns(), most = 0;

	for (;;) {
		struct larder_stats s = read_stats();
		uint64_t gone = pages_gone(&s);

		if (gone >= pages - pages / 1000)
			return;
		if (gone > most)
			most = gone, moved = clock_ns();
		if (!s.disk.limit_bytes || seconds_since(moved) > PATIENCE_SECONDS)
			fail(&s, name, pages);
		nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
	}
}

/* All pages to disk. When the call returns the last of them may still be being written. */
static void all_to_disk(const struct disk_setup *s, enum peer peer, struct disk_out *out)
{
	uint64_t start = clock_ns();

	paging_push_out(&s->paging, peer);
	out->call_seconds = seconds_since(start);
	wait_until_on_disk(paging_name(peer), s->paging.bytes / PAGING_PAGE_BYTES);
	out->free_seconds = seconds_since(start);
}

static void out(const struct disk_setup *s, enum peer peer, struct disk_out *out)
{
	uint64_t before = read_stats().disk.write_bytes;

	all_to_disk(s, peer, out);
	out->written_bytes = read_stats().disk.write_bytes - before;
}

const struct disk_contender disk_larder = { "larder", PEER_LARDER, out };
const struct disk_contender disk_inline = { "inline", PEER_INLINE, out };
