/*
 * Volatile ranges: what an owner is told about each page, and that what it is told stays true until it acknowledges.
 * Each test is named for the claim that it proves. Needs userfaultfd.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "pools.h"

enum { PAGES = 256 };

static const struct larder_volatile_options by_page = { .unit_bytes = LARDER_UNIT_PAGE };

static int lost_pages(larder_pool *pool, char *base, size_t first, size_t pages)
{
	unsigned char lost[1024];
	int n = 0, said;

	said = larder_query(pool, base + first * PAGE, pages * PAGE, lost);
	for (size_t i = 0; i < pages; i++)
		n += lost[i];
	assert_int_equal(said, n > 0);
	return n;
}

static int unmark(larder_pool *pool, char *base, size_t first, size_t pages, unsigned flags)
{
	return larder_nonvolatile(pool, base + first * PAGE, pages * PAGE, flags, NULL);
}

/* ---- what is reported ---- */

static void without_pressure_everything_is_intact(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);

	(void)state;
	for (int round = 0; round < 10; round++) {
		mark(pool, base, 0, PAGES, NULL);
		assert_int_equal(unmark(pool, base, 0, PAGES, 0), LARDER_INTACT);
		verify_pages(base, 0, PAGES);
	}
	assert_int_equal(pool_stats(pool).priority[1].marks, 10);
	assert_int_equal(pool_stats(pool).priority[1].hits, 10);
	pool_end(pool);
}

/* One round: mark random disjoint spans with random units, purge some, end them in random pieces. */
static void random_round(larder_pool *pool, char *base, uint64_t *random)
{
	static const uint64_t units[] = { LARDER_UNIT_PAGE, 2 * PAGE, LARDER_UNIT_CHUNK, LARDER_UNIT_RANGE };
	unsigned char lost[PAGES];
	size_t end;
	int said;

	for (size_t i = 0; i < PAGES; i++)
		page_fill(base + i * PAGE, i, 0);
	for (size_t at = 0; at < PAGES; at = end) {
		struct larder_volatile_options o = { .unit_bytes = units[page_random(random, 4)] };

		end = at + random_length(random, PAGES - at);
		mark(pool, base, at, end - at, &o);
	}
	larder_purge(pool, 0, page_random(random, PAGES + 1) * PAGE);
	for (size_t at = 0; at < PAGES; at = end) {
		size_t n = random_length(random, PAGES - at);

		end = at + n;
		said = larder_nonvolatile(pool, base + at * PAGE, n * PAGE, LARDER_ACKNOWLEDGE, lost);
		assert_int_equal(said, memchr(lost, 1, n) != NULL);
		for (size_t i = 0; i < n; i++)
			lost[i] ? verify_zero(base, at + i, 1) : verify_pages(base, at + i, 1);
	}
}

static void pages_reported_lost_are_zero_and_all_others_intact(void **state)
{
	uint64_t seed = test_seed(), random = seed;

	(void)state;
	print_message("seed 0x%lx\n", seed);
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		larder_pool *pool = pool_of_mode(mode);
		char *base = pages_new(pool, PAGES);

		for (int round = 0; round < 200; round++)
			random_round(pool, base, &random);
		pool_end(pool);
	}
}

static void units_count_from_the_start_of_the_marked_range(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);
	unsigned char lost[PAGES];

	(void)state;
	mark(pool, base, 3, 20, &(struct larder_volatile_options){ .unit_bytes = LARDER_UNIT_CHUNK });
	assert_int_equal(larder_purge(pool, 0, 1), LARDER_UNIT_CHUNK);
	larder_query(pool, base, PAGES * PAGE, lost);
	for (size_t i = 0; i < PAGES; i++)
		assert_int_equal(lost[i], i >= 3 && i < 19);
	assert_int_equal(larder_purge(pool, 0, 1), 4 * PAGE); /* what is left of the second unit */
	assert_int_equal(lost_pages(pool, base, 0, PAGES), 20);
	pool_end(pool);
}

static void lower_priorities_go_first_and_higher_ones_only_when_asked_for(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, LARDER_PRIORITIES);

	(void)state;
	for (size_t i = 0; i < LARDER_PRIORITIES; i++) /* the last marked first to go */
		mark(pool, base, i, 1, &(struct larder_volatile_options){ .priority = LARDER_PRIORITY_MAX - (int)i });
	for (int upto = LARDER_PRIORITY_OBSOLETE; upto <= LARDER_PRIORITY_MAX; upto++) {
		assert_int_equal(larder_purge(pool, upto, EVERYTHING), PAGE);
		assert_int_equal(lost_pages(pool, base, (size_t)(LARDER_PRIORITY_MAX - upto), 1), 1);
		assert_int_equal(lost_pages(pool, base, 0, LARDER_PRIORITIES), upto + 2);
	}
	pool_end(pool);
}

static void a_purge_of_all_priorities_begins_with_the_lowest(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, LARDER_PRIORITIES);

	(void)state;
	for (size_t i = 0; i < LARDER_PRIORITIES; i++)
		mark(pool, base, i, 1, &(struct larder_volatile_options){ .priority = LARDER_PRIORITY_MAX - (int)i });
	for (size_t gone = 1; gone <= LARDER_PRIORITIES; gone++) {
		assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, PAGE), PAGE);
		assert_int_equal(lost_pages(pool, base, LARDER_PRIORITIES - gone, gone), gone);
	}
	pool_end(pool);
}

static void purging_every_pool_leaves_none_out(void **state)
{
	larder_pool *pools[3];
	char *bases[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		pools[i] = pool_new(NULL);
		bases[i] = pages_new(pools[i], 16);
		mark(pools[i], bases[i], 0, 16, NULL);
	}
	assert_int_equal(larder_purge(NULL, 0, EVERYTHING), 3 * 16 * PAGE);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(lost_pages(pools[i], bases[i], 0, 16), 16);
		pool_end(pools[i]);
	}
}

static void memory_that_is_not_volatile_is_never_purged(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);

	(void)state;
	assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING), 0);
	mark(pool, base, 64, 64, NULL);
	assert_int_equal(unmark(pool, base, 96, 32, 0), LARDER_INTACT);
	assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING), 32 * PAGE);
	verify_pages(base, 0, 64);
	verify_pages(base, 96, PAGES - 96);
	pool_end(pool);
}

/* ---- what was lost stays lost ---- */

static void a_loss_sticks_until_it_is_acknowledged(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 4);

	(void)state;
	mark(pool, base, 0, 4, &by_page);
	assert_int_equal(larder_purge(pool, 0, PAGE), PAGE);
	verify_zero(base, 0, 1); /* a read does not change it */
	assert_int_equal(lost_pages(pool, base, 0, 4), 1);
	page_fill(base, 0, 0); /* nor does a write */
	assert_int_equal(lost_pages(pool, base, 0, 4), 1);
	assert_int_equal(unmark(pool, base, 0, 4, 0), LARDER_PURGED);
	assert_int_equal(lost_pages(pool, base, 0, 4), 1); /* nor the end of volatility */
	mark(pool, base, 0, 4, &by_page);
	assert_int_equal(lost_pages(pool, base, 0, 4), 1); /* nor marking it again */
	assert_int_equal(
		larder_volatile(pool, base, 4 * PAGE, &(struct larder_volatile_options){ .flags = LARDER_REMARK }), 0);
	assert_int_equal(unmark(pool, base, 0, 4, 0), LARDER_PURGED);
	verify_pages(base, 0, 4); /* what was written is there all the same */
	assert_int_equal(larder_refilled(pool, base, 4 * PAGE), 0);
	assert_int_equal(lost_pages(pool, base, 0, 4), 0);
	mark(pool, base, 0, 4, &by_page);
	assert_int_equal(unmark(pool, base, 0, 4, 0), LARDER_INTACT);
	pool_end(pool);
}

static void an_acknowledged_loss_is_reported_once(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 4);

	(void)state;
	mark(pool, base, 0, 4, NULL);
	purge_all(pool);
	assert_int_equal(unmark(pool, base, 0, 2, LARDER_ACKNOWLEDGE), LARDER_PURGED);
	assert_int_equal(lost_pages(pool, base, 0, 2), 0);
	assert_int_equal(lost_pages(pool, base, 2, 2), 2);
	mark(pool, base, 0, 2, NULL);
	assert_int_equal(unmark(pool, base, 0, 2, 0), LARDER_INTACT);
	verify_zero(base, 0, 2);
	pool_end(pool);
}

static void every_pin_says_purged_until_the_content_is_made_again(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 8);

	(void)state;
	mark(pool, base, 0, 8, NULL);
	assert_int_equal(larder_pin(pool, base, 8 * PAGE), LARDER_INTACT);
	assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING), 0);
	assert_int_equal(larder_unpin(pool, base, 8 * PAGE), 0);
	purge_all(pool);
	assert_int_equal(larder_pin(pool, base + 100, 3 * PAGE), LARDER_PURGED); /* pages 0 to 3 */
	assert_int_equal(larder_pin(pool, base + PAGE, PAGE), LARDER_PURGED);
	assert_int_equal(present_pages(base, 8), 4); /* what is lost is not brought along with its neighbours */
	for (size_t i = 0; i < 4; i++)
		page_fill(base + i * PAGE, i, 0);
	assert_int_equal(larder_pin(pool, base + PAGE, PAGE), LARDER_PURGED); /* nobody has said that it is complete */
	assert_int_equal(larder_refilled(pool, base, 4 * PAGE), 0);
	assert_int_equal(larder_pin(pool, base + PAGE, PAGE), LARDER_INTACT);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(larder_unpin(pool, base + PAGE, PAGE), 0);
		assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING), 0);
	}
	assert_int_equal(larder_unpin(pool, base + 100, 3 * PAGE), 0);
	verify_pages(base, 0, 4);
	assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING), 4 * PAGE);
	pool_end(pool);
}

struct pinner {
	larder_pool *pool;
	char *base;
	int said;
};

static void *pin_once(void *arg)
{
	struct pinner *p = arg;

	p->said = larder_pin(p->pool, p->base, PAGE);
	larder_unpin(p->pool, p->base, PAGE);
	return NULL;
}

static int pin_in_another_thread(larder_pool *pool, char *base)
{
	struct pinner p = { pool, base, -1 };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, pin_once, &p), 0);
	pthread_join(thread, NULL);
	return p.said;
}

static void no_thread_takes_half_made_content_for_intact(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 1);

	(void)state;
	mark(pool, base, 0, 1, NULL);
	purge_all(pool);
	assert_int_equal(larder_pin(pool, base, PAGE), LARDER_PURGED);
	*base = 1; /* half-made */
	assert_int_equal(pin_in_another_thread(pool, base), LARDER_PURGED);
	assert_int_equal(larder_refilled(pool, base, PAGE), 0);
	assert_int_equal(pin_in_another_thread(pool, base), LARDER_INTACT);
	assert_int_equal(larder_unpin(pool, base, PAGE), 0);
	purge_all(pool);
	assert_int_equal(unmark(pool, base, 0, 1, 0), LARDER_PURGED);
	assert_int_equal(pin_in_another_thread(pool, base), LARDER_PURGED); /* nonvolatile, but as lost as before */
	assert_int_equal(larder_refilled(pool, base, PAGE), 0);
	assert_int_equal(pin_in_another_thread(pool, base), LARDER_INTACT);
	pool_end(pool);
}

static size_t pages_present(char *base, size_t first, size_t pages)
{
	unsigned char present[PAGES];
	size_t n = 0;

	assert_int_equal(mincore(base + first * PAGE, pages * PAGE, present), 0);
	for (size_t i = 0; i < pages; i++)
		n += present[i] & 1;
	return n;
}

/* A pin says how far the owner is going to fill what was lost; going on behind it page by page says nothing of what
 * follows, and zeroes in its place would be memory for nothing. */
static void lost_pages_stay_absent_until_they_are_asked_for(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);

	(void)state;
	mark(pool, base, 0, PAGES, NULL);
	purge_all(pool);
	assert_int_equal(unmark(pool, base, 0, PAGES, 0), LARDER_PURGED);
	assert_int_equal(larder_pin(pool, base, 16 * PAGE), LARDER_PURGED);
	assert_int_equal(pages_present(base, 0, PAGES), 16);
	for (size_t i = 16; i < 20; i++) {
		page_fill(base + i * PAGE, i, 0);
		assert_int_equal(pages_present(base, 0, PAGES), i + 1);
	}
	assert_int_equal(larder_unpin(pool, base, 16 * PAGE), 0);
	pool_end(pool);
}

static void what_the_owner_drops_is_not_lost(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 8);

	(void)state;
	mark(pool, base, 0, 8, &by_page);
	assert_int_equal(larder_discard(pool, base, 2 * PAGE), 0);
	assert_int_equal(lost_pages(pool, base, 0, 8), 0);
	verify_zero(base, 0, 2);
	assert_int_equal(pool_stats(pool).priority[1].bytes, 8 * PAGE);
	assert_int_equal(unmark(pool, base, 0, 8, 0), LARDER_INTACT);
	verify_pages(base, 2, 6);
	pool_end(pool);
}

/* ---- parts of ranges ---- */

static void ending_a_part_leaves_the_rest_volatile(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);

	(void)state;
	mark(pool, base, 0, PAGES, NULL);
	for (size_t i = 1; i < PAGES; i += 2) /* every other page: as many parts as possible */
		assert_int_equal(unmark(pool, base, i, 1, 0), LARDER_INTACT);
	assert_int_equal(pool_stats(pool).priority[1].bytes, PAGES / 2 * PAGE);
	assert_int_equal(larder_purge(pool, 0, EVERYTHING), PAGES / 2 * PAGE);
	for (size_t i = 0; i < PAGES; i++)
		assert_int_equal(lost_pages(pool, base, i, 1), i % 2 == 0);
	for (size_t i = 1; i < PAGES; i += 2)
		verify_pages(base, i, 1);
	pool_end(pool);
}

static void ranges_that_touch_can_be_ended_together(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 30);
	unsigned char lost[30];

	(void)state;
	for (size_t i = 0; i < 3; i++)
		mark(pool, base, 10 * i, 10, &(struct larder_volatile_options){ .priority = i == 1 ? 0 : 5 });
	assert_int_equal(larder_purge(pool, 4, EVERYTHING), 10 * PAGE);
	assert_int_equal(larder_nonvolatile(pool, base + 5 * PAGE, 20 * PAGE, 0, lost), LARDER_PURGED);
	for (size_t i = 0; i < 20; i++)
		assert_int_equal(lost[i], i >= 5 && i < 15);
	assert_int_equal(larder_purge(pool, LARDER_PRIORITY_MAX, EVERYTHING), 10 * PAGE);
	verify_pages(base, 5, 5);
	verify_pages(base, 20, 5);
	pool_end(pool);
}

static void remarking_changes_the_part_named_and_no_other(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 32);
	struct larder_volatile_options o = { .priority = 7, .flags = LARDER_REMARK };

	(void)state;
	mark(pool, base, 0, 20, NULL);
	mark(pool, base, 10, 20, &o); /* half of it volatile before */
	assert_int_equal(pool_stats(pool).priority[1].bytes, 10 * PAGE);
	assert_int_equal(pool_stats(pool).priority[8].bytes, 20 * PAGE);
	assert_int_equal(larder_purge(pool, 6, EVERYTHING), 10 * PAGE);
	assert_int_equal(lost_pages(pool, base, 0, 10), 10);
	assert_int_equal(lost_pages(pool, base, 10, 22), 0);
	verify_pages(base, 10, 22);
	pool_end(pool);
}

static void many_small_ranges_are_as_exact_as_few_large_ones(void **state)
{
	larder_pool *pool = pool_new(NULL);
	size_t pages = 4096;
	char *base = pages_new(pool, pages);

	(void)state;
	for (size_t i = 0; i < pages; i++)
		mark(pool, base, i, 1, &(struct larder_volatile_options){ .priority = (int)(i % 8) });
	assert_int_equal(larder_purge(pool, 3, EVERYTHING), pages / 2 * PAGE);
	for (size_t i = 0; i < pages; i++)
		assert_int_equal(unmark(pool, base, i, 1, 0), i % 8 < 4);
	for (size_t i = 4; i < pages; i += 8)
		verify_pages(base, i, 4);
	pool_end(pool);
}

static void purging_page_by_page_does_not_split_the_mapping(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, 1024);
	size_t before;

	(void)state;
	mark(pool, base, 0, 1, &by_page); /* whatever the first purge needs is there */
	purge_all(pool);
	before = count_mappings();
	for (size_t i = 1; i < 1024; i += 2)
		mark(pool, base, i, 1, &by_page);
	for (size_t i = 0; i < 512; i++)
		assert_int_equal(larder_purge(pool, 0, PAGE), PAGE);
	assert_int_equal(present_pages(base, 1024), 1024 - 513);
	assert_int_equal(count_mappings(), before);
	pool_end(pool);
}

/* ---- events ---- */

static int readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

static void events_say_what_was_purged_and_why(void **state)
{
	larder_pool *pool = pool_new(NULL);
	char *base = pages_new(pool, PAGES);
	struct larder_purge_event events[PAGES];
	unsigned char lost[PAGES], told[PAGES] = { 0 };
	uint64_t before = now_ns();
	int n, fd = larder_purge_fd(pool);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(larder_purge_fd(pool), fd);
	assert_false(readable(fd));
	assert_int_equal(larder_purge_events(pool, events, PAGES), 0);
	mark(pool, base, 0, 100, &(struct larder_volatile_options){ .priority = 2, .unit_bytes = LARDER_UNIT_CHUNK });
	mark(pool, base, 150, 50, &(struct larder_volatile_options){ .priority = 3 });
	assert_true(larder_purge(pool, 3, 110 * PAGE) >= 110 * PAGE);
	assert_true(readable(fd));
	n = larder_purge_events(pool, events, PAGES);
	assert_true(n > 0);
	for (int i = 0; i < n; i++) {
		size_t first = (size_t)((char *)events[i].addr - base) / PAGE;

		assert_true(first < PAGES && events[i].bytes % PAGE == 0 && events[i].bytes > 0);
		assert_int_equal(events[i].priority, first < 100 ? 2 : 3);
		assert_int_equal(events[i].reason, LARDER_PURGE_REQUESTED);
		assert_int_equal(events[i].missed, 0);
		assert_true(events[i].time_ns >= before && events[i].time_ns <= now_ns());
		for (size_t p = first; p < first + events[i].bytes / PAGE; p++)
			told[p]++;
	}
	larder_query(pool, base, PAGES * PAGE, lost);
	assert_memory_equal(told, lost, PAGES);
	assert_false(readable(fd));
	assert_int_equal(larder_purge_events(pool, events, PAGES), 0);
	pool_end(pool);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* closed with the pool */
}

static void what_goes_by_the_limit_is_told_as_such(void **state)
{
	larder_pool *pool = pool_new(&(struct larder_pool_options){ .limit_bytes = 4 * MIB });
	struct larder_purge_event event;
	int fd = larder_purge_fd(pool);
	char *base;

	(void)state;
	for (int i = 0; i < 8; i++) {
		base = pages_new(pool, PAGES_PER_MIB);
		mark(pool, base, 0, PAGES_PER_MIB, NULL);
	}
	for (int i = 0; i < 100 && !readable(fd); i++)
		usleep(10000);
	assert_int_equal(larder_purge_events(pool, &event, 1), 1);
	assert_int_equal(event.reason, LARDER_PURGE_POOL_LIMIT);
	pool_end(pool);
}

/* Events read, plus what they say was missed. */
static uint64_t drain(larder_pool *pool, uint64_t *missed)
{
	struct larder_purge_event events[100];
	uint64_t read = 0;
	int n;

	while ((n = larder_purge_events(pool, events, 100)) > 0) {
		read += (uint64_t)n;
		for (int i = 0; i < n; i++)
			*missed += events[i].missed;
	}
	assert_int_equal(n, 0);
	return read;
}

static void events_that_nobody_reads_are_counted(void **state)
{
	enum { LOST = LARDER_PURGE_EVENTS + 1000 };
	larder_pool *pool = pool_new(NULL);
	void *base;
	uint64_t missed = 0, read;

	(void)state;
	assert_true(larder_purge_fd(pool) >= 0);
	assert_int_equal(larder_pages_alloc(pool, 2 * (LOST + 1) * (size_t)PAGE, &base), 0);
	for (size_t i = 0; i < LOST; i++) { /* with gaps, so that no two can be told as one */
		page_fill((char *)base + 2 * i * PAGE, i, 0);
		mark(pool, base, 2 * i, 1, NULL);
	}
	purge_all(pool);
	read = drain(pool, &missed);
	page_fill((char *)base + 2 * LOST * PAGE, 0, 0);
	mark(pool, base, 2 * LOST, 1, NULL);
	purge_all(pool);
	read += drain(pool, &missed);
	assert_int_equal(read + missed, LOST + 1);
	assert_true(read >= LARDER_PURGE_EVENTS && missed > 0);
	pool_end(pool);
}

/* ---- fork ---- */

struct family {
	larder_pool *pool;
	char *base;
};

#define child_expect(condition)                                                                                        \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "child: not so: %s\n", #condition);                                            \
			return 1;                                                                                      \
		}                                                                                                      \
	} while (0)

/* Pages 0 to 9 intact and volatile, 10 to 19 lost and volatile, 20 to 29 never volatile. */
static int child_looks(void *arg)
{
	struct family *f = arg;
	larder_pool *another;
	unsigned char lost[30];

	for (size_t i = 0; i < 30; i++)
		if (i / 10 != 1)
			child_expect(page_wrong_word(f->base + i * PAGE, i, 0) == WORDS);
	child_expect(larder_nonvolatile(f->pool, f->base, 20 * PAGE, 0, lost) == LARDER_PURGED);
	for (size_t i = 0; i < 20; i++)
		child_expect(lost[i] == (i >= 10));
	child_expect(page_nonzero_word(f->base + 10 * PAGE) == WORDS);
	child_expect(larder_query(f->pool, f->base, 10 * PAGE, NULL) == LARDER_INTACT);
	child_expect(larder_purge(f->pool, LARDER_PRIORITY_MAX, EVERYTHING) >= 0);
	child_expect(page_wrong_word(f->base, 0, 0) == WORDS);
	memset(f->base, 1, 30 * PAGE);
	child_expect(larder_volatile(f->pool, f->base, 30 * PAGE, &by_page) == 0);
	child_expect(larder_purge(f->pool, LARDER_PRIORITY_MAX, EVERYTHING) >= 30 * PAGE);
	child_expect(larder_nonvolatile(f->pool, f->base, 30 * PAGE, LARDER_ACKNOWLEDGE, lost) == LARDER_PURGED);
	child_expect(larder_pool_create(&another, NULL) == 0 && larder_pool_destroy(another) == 0);
	return 0;
}

static void a_forked_child_sees_the_contents_and_is_told_the_losses(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		struct family f = { .pool = pool_of_mode(mode) };

		f.base = pages_new(f.pool, 30);
		assert_true(larder_advise(f.pool, f.base + 20 * PAGE, 10 * PAGE, LARDER_ADVICE_COLD) >= 0);
		mark(f.pool, f.base, 10, 10, NULL);
		purge_all(f.pool);
		mark(f.pool, f.base, 0, 10, NULL);
		for (int i = 0; i < 3; i++)
			assert_int_equal(in_child(child_looks, &f), 0);
		verify_pages(f.base, 0, 10);
		verify_pages(f.base, 20, 10);
		assert_int_equal(lost_pages(f.pool, f.base, 0, 20), 10);
		assert_int_equal(larder_purge(f.pool, 0, EVERYTHING), 10 * PAGE); /* the parent purges as before */
		assert_int_equal(lost_pages(f.pool, f.base, 0, 20), 20);
		pool_end(f.pool);
	}
}

static _Atomic int stop;

/* Owner of a range of priority 0. */
static void *keep_marking(void *arg)
{
	larder_pool *pool = arg;
	uint64_t random = (uint64_t)(uintptr_t)&random;
	void *base;

	if (larder_pages_alloc(pool, PAGES * PAGE, &base))
		return (void *)1;
	while (!atomic_load(&stop)) {
		size_t n = random_length(&random, PAGES), first = page_random(&random, PAGES - n + 1);
		char *at = (char *)base + first * PAGE;

		memset(at, 1, n * PAGE);
		if (larder_volatile(pool, at, n * PAGE, &by_page) || larder_pin(pool, at, n * PAGE) < 0 ||
		    larder_unpin(pool, at, n * PAGE) ||
		    larder_nonvolatile(pool, at, n * PAGE, LARDER_ACKNOWLEDGE, NULL) < 0)
			return (void *)1;
	}
	return NULL;
}

static void *keep_purging(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop))
		if (larder_purge(NULL, 0, 64 * PAGE) < 0)
			return (void *)1;
	return NULL;
}

static void fork_while_others_mark_pin_and_purge(void **state)
{
	(void)state;
	for (int mode = LARDER_FAULT_HANDLERS; mode <= LARDER_FAULT_INLINE; mode++) {
		struct family f = { .pool = pool_of_mode(mode) };
		pthread_t threads[3];
		void *failed;

		f.base = pages_new(f.pool, 30);
		mark(f.pool, f.base, 10, 10, NULL);
		purge_all(f.pool);
		mark(f.pool, f.base, 0, 10, &(struct larder_volatile_options){ .priority = LARDER_PRIORITY_MAX });
		atomic_store(&stop, 0);
		for (int i = 0; i < 3; i++)
			pthread_create(&threads[i], NULL, i ? keep_marking : keep_purging, f.pool);
		for (int i = 0; i < 50; i++)
			assert_int_equal(in_child(child_looks, &f), 0);
		atomic_store(&stop, 1);
		for (int i = 0; i < 3; i++) {
			pthread_join(threads[i], &failed);
			assert_null(failed);
		}
		verify_pages(f.base, 0, 10);
		pool_end(f.pool);
	}
}

/* From now on a system call of this thread, but for the one that ends it, ends the process with SIGSYS. */
static int forbid_system_calls(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

struct silent {
	larder_pool *pool;
	char *base;
	_Atomic int wrong, done;
};

/* Marks, ends, pins, asks; whole ranges and parts. Must not return: that would make system calls. */
static void *use_silently(void *arg)
{
	struct silent *s = arg;

	if (forbid_system_calls()) {
		s->done = 2;
		return NULL;
	}
	for (int i = 0; i < 1000; i++) {
		size_t first = i % 2 ? 0 : (size_t)i % PAGES, pages = i % 2 ? PAGES : 1;
		char *at = s->base + first * PAGE;

		s->wrong += larder_volatile(s->pool, at, pages * PAGE, NULL) != 0;
		s->wrong += larder_pin(s->pool, at, pages * PAGE) != LARDER_INTACT;
		s->wrong += larder_unpin(s->pool, at, pages * PAGE) != 0;
		s->wrong += larder_used(s->pool, at) != 0;
		s->wrong += larder_query(s->pool, at, pages * PAGE, NULL) != LARDER_INTACT;
		s->wrong += larder_nonvolatile(s->pool, at, pages * PAGE, 0, NULL) != LARDER_INTACT;
	}
	s->done = 1;
	syscall(SYS_exit, 0);
	return NULL;
}

static void marking_and_pinning_make_no_system_call(void **state)
{
	struct silent s = { .pool = pool_new(NULL) };
	pthread_t thread;

	(void)state;
	s.base = pages_new(s.pool, PAGES);
	assert_int_equal(pthread_create(&thread, NULL, use_silently, &s), 0);
	while (!s.done)
		usleep(1000);
	pthread_detach(thread);
	assert_int_equal(s.done, 1);
	assert_int_equal(s.wrong, 0);
	usleep(10000); /* the thread is on its last instructions */
	pool_end(s.pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(marking_and_pinning_make_no_system_call),
		cmocka_unit_test(without_pressure_everything_is_intact),
		cmocka_unit_test(pages_reported_lost_are_zero_and_all_others_intact),
		cmocka_unit_test(units_count_from_the_start_of_the_marked_range),
		cmocka_unit_test(lower_priorities_go_first_and_higher_ones_only_when_asked_for),
		cmocka_unit_test(a_purge_of_all_priorities_begins_with_the_lowest),
		cmocka_unit_test(purging_every_pool_leaves_none_out),
		cmocka_unit_test(memory_that_is_not_volatile_is_never_purged),
		cmocka_unit_test(a_loss_sticks_until_it_is_acknowledged),
		cmocka_unit_test(an_acknowledged_loss_is_reported_once),
		cmocka_unit_test(every_pin_says_purged_until_the_content_is_made_again),
		cmocka_unit_test(no_thread_takes_half_made_content_for_intact),
		cmocka_unit_test(lost_pages_stay_absent_until_they_are_asked_for),
		cmocka_unit_test(what_the_owner_drops_is_not_lost),
		cmocka_unit_test(ending_a_part_leaves_the_rest_volatile),
		cmocka_unit_test(ranges_that_touch_can_be_ended_together),
		cmocka_unit_test(remarking_changes_the_part_named_and_no_other),
		cmocka_unit_test(many_small_ranges_are_as_exact_as_few_large_ones),
		cmocka_unit_test(purging_page_by_page_does_not_split_the_mapping),
		cmocka_unit_test(events_say_what_was_purged_and_why),
		cmocka_unit_test(what_goes_by_the_limit_is_told_as_such),
		cmocka_unit_test(events_that_nobody_reads_are_counted),
		cmocka_unit_test(a_forked_child_sees_the_contents_and_is_told_the_losses),
		cmocka_unit_test(fork_while_others_mark_pin_and_purge),
	};

	return cmocka_run_group_tests(tests, start_unlimited, check_table);
}
