/*
 * Readahead. See readahead.h.
 */
#include "readahead.h"

#include "stats.h"

enum { GAP_MAX = 4, NEIGHBOURS_MAX = 8, CREDIT_STORED = 0 };

/*
 * The hints: where a program that reads in order would fault next, and how many pages came last time. They lie in the
 * chunk of the last page that came, and are racy: a wrong hint costs time only.
 */
static void expect(struct larder_memory *m, size_t next, size_t pages)
{
	struct larder_chunk *last = region_chunk(&m->region, next - 1);

	atomic_store_explicit(&last->around_next, (uint32_t)next, memory_order_relaxed);
	atomic_store_explicit(&last->around_window, (uint32_t)pages, memory_order_relaxed);
	atomic_store_explicit(&last->wanted_end, (uint32_t)next, memory_order_relaxed);
}

static size_t twice(size_t window)
{
	return 2 * window < READAHEAD_MAX_PAGES ? 2 * window : READAHEAD_MAX_PAGES;
}

/* How much to read behind a fault, and whether it goes on in order. The first that does reads nothing yet. */
static size_t window_behind(struct larder_memory *m, size_t index, int *in_order)
{
	const struct larder_chunk *before = region_chunk(&m->region, index ? index - 1 : 0);
	uint32_t gap = (uint32_t)index - atomic_load_explicit(&before->around_next, memory_order_relaxed);
	int sequential = (int)atomic_load_explicit(&region_chunk(&m->region, index)->sequential, memory_order_relaxed);

	*in_order = sequential || gap <= GAP_MAX;
	if (sequential)
		return READAHEAD_MAX_PAGES;
	return *in_order ? twice(atomic_load_explicit(&before->around_window, memory_order_relaxed)) : 0;
}

/* Own a page if it is on disk. */
static int acquire(struct larder_memory *m, struct larder_restorer *w, size_t index, uint64_t *word)
{
	if (!restore_acquire(m, index, 1, 1u << PAGE_STORED, 0, word))
		return 0;
	if (restore_needs_disk(m, *word))
		return 1;
	restore_give_up(m, w, index, word, 1);
	return 0;
}

/* The same, if it lies in the blocks that are read for page `of`. */
static int acquire_neighbour(struct larder_memory *m, struct larder_restorer *w, size_t index, size_t of,
			     uint64_t *word)
{
	const struct store_tier *disk = m->store.disk;
	const struct larder_page *pages = m->region.pages;

	if (!acquire(m, w, index, word))
		return 0;
	if (disk->ops->shares_blocks(disk->backend, pages[of].handle, pages[index].handle))
		return 1;
	restore_give_up(m, w, index, word, 1);
	return 0;
}

/* Read up to `window` pages from `first` on, as long as they are on disk. Returns how many. */
static size_t read_ahead(struct larder_memory *m, struct larder_restorer *w, size_t first, size_t window)
{
	size_t used = region_used_pages(&m->region), done = 0;

	if (first + window > used)
		window = first < used ? used - first : 0;
	while (done < window && !pressure_should_put_off(m, region_chunk(&m->region, first + done)->owner.pool)) {
		size_t at = first + done, most = CHUNK_PAGES - at % CHUNK_PAGES, n;
		uint64_t words[RESTORE_MAX_PAGES];

		most = most < window - done ? most : window - done;
		n = restore_acquire(m, at, most < RESTORE_MAX_PAGES ? most : RESTORE_MAX_PAGES, 1u << PAGE_STORED, 0,
				    words);
		if (n == 0)
			break;
		if (!restore_needs_disk(m, words[0]) ||
		    swap_in(m, w, at, words, n, &(struct swap_in_request){ .wanted = at })) {
			restore_give_up(m, w, at, words, n);
			break;
		}
		done += n;
	}
	return done;
}

/* Pages around a fault that one read brings, all owned. */
struct cluster {
	size_t first, pages;
	uint64_t *words, all[2 * NEIGHBOURS_MAX + 1];
};

/* Returns 0 when the page at `index` cannot be had: it has changed. */
static size_t acquire_cluster(struct larder_memory *m, struct larder_restorer *w, size_t index, struct cluster *c)
{
	size_t in_chunk = index % CHUNK_PAGES, before = 0, end = 1, most = 0;
	uint64_t *words = c->all + NEIGHBOURS_MAX;

	if (!acquire(m, w, index, words))
		return 0;
	if (pressure_has_room(m, region_chunk(&m->region, index)->owner.pool) || neighbours_pay(&m->neighbours, index))
		most = NEIGHBOURS_MAX;
	while (before < most && before < in_chunk &&
	       acquire_neighbour(m, w, index - before - 1, index, words - before - 1))
		before++;
	while (end <= most && in_chunk + end < CHUNK_PAGES && acquire_neighbour(m, w, index + end, index, words + end))
		end++;
	c->first = index - before;
	c->words = words - before;
	c->pages = before + end;
	return c->pages;
}

/* Read what a fault wants; RESOLVE_DONE when it is there already. */
static enum resolve_outcome read_cluster(struct larder_memory *m, struct larder_restorer *w, const struct cluster *c,
					 const struct swap_in_request *request)
{
	if (w->disk_fd >= 0 && swap_in_now(m, w, c->first, c->words, c->pages, request) == 0)
		return RESOLVE_DONE;
	if (swap_in(m, w, c->first, c->words, c->pages, request) == 0)
		return RESOLVE_READING;
	restore_give_up(m, w, c->first, c->words, c->pages);
	return RESOLVE_FULL;
}

enum resolve_outcome readahead_fault(struct larder_memory *m, struct larder_restorer *w, size_t index, int written)
{
	const struct swap_in_request request = {
		.since_ns = sys_now_ns(), .wanted = index, .credit = CREDIT_STORED, .written = written
	};
	int in_order;
	size_t window = window_behind(m, index, &in_order), end;
	struct cluster c;

	if (!acquire_cluster(m, w, index, &c))
		return RESOLVE_AGAIN;
	STATS_ADD(faults_stored, 1);
	end = c.first + c.pages;
	if (window)
		window = read_ahead(m, w, end, window);
	expect(m, end + window, in_order ? end + window - index : 0);
	return read_cluster(m, w, &c, &request);
}

/* Does the window that was asked for last, and ends in this chunk, hold the page? */
static int read_next(struct larder_memory *m, struct larder_restorer *w, const struct larder_chunk *c, size_t index)
{
	size_t next = atomic_load_explicit(&c->around_next, memory_order_relaxed);
	size_t window = atomic_load_explicit(&c->around_window, memory_order_relaxed), done;

	if (next <= index || next - index > window)
		return 0;
	done = read_ahead(m, w, next, twice(window));
	if (done)
		expect(m, next + done, done);
	return 1;
}

void readahead_caught_up(struct larder_memory *m, struct larder_restorer *w, size_t index)
{
	size_t last = index + READAHEAD_MAX_PAGES - 1;

	if (!read_next(m, w, region_chunk(&m->region, index), index) && last < region_used_pages(&m->region))
		read_next(m, w, region_chunk(&m->region, last), index);
}
