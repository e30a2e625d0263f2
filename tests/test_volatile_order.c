/*
 * What goes first: a model of a few dozen lines predicts, for thousands of random operations, exactly which pages
 * larder_purge() takes, for each order, purge unit and priority. The model and the pool must agree on the lost pages
 * after every purge, on every return value, and on the statistics after every step. Needs userfaultfd.
 *
 * The seed is printed; LARDER_TEST_SEED repeats it.
 */
#include "pools.h"

enum { PAGES = 2048, STEPS = 4000 };

struct range {
	size_t first, pages, unit_pages;
	int priority;
	uint64_t marked, used; /* times, by the model's clock */
	uint64_t page_cost;    /* to make one page again */
	uint64_t h;	       /* of GreedyDual-Size */
};

static struct {
	enum larder_order order;
	larder_pool *pool;
	char *base;
	struct range ranges[PAGES]; /* no two overlap; in no order */
	size_t nranges;
	unsigned char lost[PAGES];
	uint64_t clock, inflation;
	uint64_t seed, random;
	size_t step, purged_pages;
} m;

#define wrong(...)                                                                                                     \
	do {                                                                                                           \
		print_error("order %d, seed 0x%lx, step %zu: ", m.order, m.seed, m.step);                              \
		fail_msg(__VA_ARGS__);                                                                                 \
	} while (0)

/* ---- the model ---- */

static struct range *range_at(size_t page)
{
	for (struct range *r = m.ranges; r < m.ranges + m.nranges; r++)
		if (page - r->first < r->pages)
			return r;
	return NULL;
}

/* Let no range reach across the start of `page`. The parts keep their times. */
static void model_cut(size_t page)
{
	struct range *r = range_at(page), *second = &m.ranges[m.nranges];
	size_t before = r ? page - r->first : 0;

	if (before == 0)
		return;
	*second = *r;
	second->first += before;
	second->pages -= before;
	r->pages = before;
	m.nranges++;
}

static void model_end(size_t first, size_t pages)
{
	model_cut(first);
	model_cut(first + pages);
	for (size_t i = m.nranges; i-- > 0;)
		if (m.ranges[i].first - first < pages)
			m.ranges[i] = m.ranges[--m.nranges];
}

static void model_use(struct range *r)
{
	r->used = m.clock;
	r->h = m.inflation + r->page_cost;
}

static void model_mark(size_t first, size_t pages, const struct larder_volatile_options *o)
{
	struct range *r;

	model_end(first, pages);
	r = &m.ranges[m.nranges++];
	*r = (struct range){ .first = first, .pages = pages, .priority = o->priority, .marked = ++m.clock };
	r->unit_pages = o->unit_bytes ? o->unit_bytes / PAGE : pages;
	r->page_cost = o->cost_ns / pages;
	model_use(r);
}

/* Below zero when a goes before b, zero when nothing says so. */
static int compare(const struct range *a, const struct range *b)
{
	uint64_t key_a = a->used, key_b = b->used;

	if (a->priority != b->priority)
		return a->priority < b->priority ? -1 : 1;
	if (m.order == LARDER_ORDER_COST && a->h != b->h)
		return a->h < b->h ? -1 : 1;
	if (m.order == LARDER_ORDER_FIFO)
		key_a = a->marked, key_b = b->marked;
	if (m.order == LARDER_ORDER_LIFO)
		key_a = b->marked, key_b = a->marked;
	return key_a < key_b ? -1 : key_a > key_b;
}

/* The pages that go when `want` pages are taken from the front of a range, unit by unit. With `lose` they do go. */
static size_t take(const struct range *r, size_t want, int lose)
{
	size_t gone = 0;

	for (size_t at = 0; at < r->pages && gone < want; at += r->unit_pages) {
		size_t end = r->first + (at + r->unit_pages < r->pages ? at + r->unit_pages : r->pages);

		for (size_t i = r->first + at; i < end; i++) {
			gone += !m.lost[i];
			m.lost[i] |= (unsigned char)lose;
		}
	}
	return gone;
}

static int can_go(const struct range *r, int upto)
{
	return r->priority <= upto && memchr(m.lost + r->first, 0, r->pages) != NULL;
}

static int went_whole(const struct range *r, const unsigned char *seen)
{
	return memchr(seen + r->first, 0, r->pages) == NULL;
}

/* Pages of the ranges that went as a whole and of which nothing says that they go before or after `r`. */
static size_t pages_of_tied(const struct range *r, const unsigned char *seen)
{
	size_t pages = 0;

	for (const struct range *o = m.ranges; o < m.ranges + m.nranges; o++)
		if (o != r && compare(o, r) == 0 && went_whole(o, seen))
			pages += take(o, PAGES, 0);
	return pages;
}

/*
 * Parts of one range have one time, and so have ranges that were unpinned together: which of them is first is free, so
 * what went is looked at (`seen`). A range of which a part went was the last; if there is none, any that would have
 * gone as a whole if it had been the last can have been.
 */
static int rank_of_tied(const struct range *r, size_t want, const unsigned char *seen)
{
	size_t others = pages_of_tied(r, seen), kept = take(r, PAGES, 0), stays = 0;

	if (went_whole(r, seen))
		return others < want && take(r, want - others, 0) == kept;
	for (size_t i = r->first; i < r->first + r->pages; i++)
		stays += !seen[i];
	return stays < kept ? 2 : 3;
}

/* The range to go next when `want` pages are still wanted, or NULL. */
static struct range *next_to_go(int upto, size_t want, const unsigned char *seen)
{
	struct range *best = NULL;

	for (struct range *r = m.ranges; r < m.ranges + m.nranges; r++) {
		int order;

		if (!can_go(r, upto))
			continue;
		order = best ? compare(r, best) : -1;
		if (order < 0 || (order == 0 && rank_of_tied(r, want, seen) < rank_of_tied(best, want, seen)))
			best = r;
	}
	return best;
}

/* Returns the pages that go. */
static size_t model_purge(int upto, size_t pages, const unsigned char *seen)
{
	size_t gone = 0;
	struct range *r;

	while (gone < pages && (r = next_to_go(upto, pages - gone, seen))) {
		m.inflation = r->h;
		gone += take(r, pages - gone, 1);
	}
	return gone;
}

static int model_any_lost(size_t first, size_t pages)
{
	return memchr(m.lost + first, 1, pages) != NULL;
}

/* ---- the same on the pool ---- */

static uint64_t *word_at(size_t page)
{
	return (uint64_t *)(m.base + page * PAGE);
}

static char *address(size_t page)
{
	return m.base + page * PAGE;
}

static void expect(const char *what, int64_t got, int64_t want)
{
	if (got != want)
		wrong("%s returned %ld, not %ld", what, got, want);
}

static void compare_lost(const char *what, const unsigned char *seen, size_t first, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		if (seen[i] != m.lost[first + i]) {
			struct range *r = range_at(first + i);

			print_error("page %zu, in a range of pages %zd + %zd, unit %zd, priority %d\n", first + i,
				    r ? (ssize_t)r->first : -1, r ? (ssize_t)r->pages : -1,
				    r ? (ssize_t)r->unit_pages : -1, r ? r->priority : -9);
			wrong("after %s: page %zu is %s, should be %s", what, first + i, seen[i] ? "lost" : "kept",
			      m.lost[first + i] ? "lost" : "kept");
		}
}

/* Make the lost pages of a nonvolatile or pinned range again. */
static void refill(size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++)
		*word_at(i) = i + 1;
	memset(m.lost + first, 0, pages);
}

static struct larder_volatile_options random_options(size_t pages)
{
	static const uint64_t units[] = { LARDER_UNIT_RANGE, LARDER_UNIT_PAGE,	LARDER_UNIT_CHUNK, MIB,
					  2 * PAGE,	     LARDER_UNIT_RANGE, 32 * PAGE,	   4ull * MIB };

	return (struct larder_volatile_options){
		.priority = (int)page_random(&m.random, LARDER_PRIORITIES) - 1,
		.unit_bytes = units[page_random(&m.random, 8)],
		/* few different costs a page, so that ties occur */
		.cost_ns = (1 + page_random(&m.random, 8)) * 1000 * pages + page_random(&m.random, pages),
	};
}

static void random_span(size_t *first, size_t *pages)
{
	*pages = random_length(&m.random, 700);
	*first = page_random(&m.random, PAGES - *pages + 1);
}

/* Mark a span, REMARK deciding what becomes of the part that is volatile already. */
static void do_mark(void)
{
	struct larder_volatile_options o;
	size_t first, pages, overlap = 0;

	random_span(&first, &pages);
	o = random_options(pages);
	for (size_t i = first; i < first + pages; i++)
		overlap += range_at(i) != NULL;
	if (overlap) {
		if (page_random(&m.random, 2)) /* do not let everything be one range */
			return;
		o.flags = LARDER_REMARK;
	} else if (page_random(&m.random, 2)) {
		refill(first, pages);
		expect("refilled", larder_refilled(m.pool, address(first), pages * PAGE), 0);
	}
	expect("volatile", larder_volatile(m.pool, address(first), pages * PAGE, &o), 0);
	model_mark(first, pages, &o);
}

/* What was kept is still there. */
static void check_kept(size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++)
		if (!m.lost[i] && *word_at(i) != i + 1)
			wrong("page %zu was not lost but holds %lx", i, *word_at(i));
}

/* A span of volatile pages, across ranges where they touch. Returns 0 when there are none. */
static int volatile_span(size_t *first, size_t *pages)
{
	struct range *r;
	size_t most;

	if (m.nranges == 0)
		return 0;
	r = &m.ranges[page_random(&m.random, m.nranges)];
	*first = r->first + page_random(&m.random, 2) * page_random(&m.random, r->pages);
	most = random_length(&m.random, 300);
	for (*pages = 0; *pages < most && *first + *pages < PAGES && range_at(*first + *pages);)
		++*pages;
	return 1;
}

static void do_unmark(void)
{
	unsigned char seen[PAGES];
	size_t first, pages;
	unsigned flags = page_random(&m.random, 2) ? LARDER_ACKNOWLEDGE : 0;
	int lost;

	if (!volatile_span(&first, &pages))
		return;
	lost = model_any_lost(first, pages);
	expect("nonvolatile", larder_nonvolatile(m.pool, address(first), pages * PAGE, flags, seen), lost);
	compare_lost("nonvolatile", seen, first, pages);
	model_end(first, pages);
	check_kept(first, pages);
	if (flags) {
		refill(first, pages);
	} else if (lost && page_random(&m.random, 2)) {
		refill(first, pages);
		expect("refilled", larder_refilled(m.pool, address(first), pages * PAGE), 0);
	}
}

static void do_use(void)
{
	struct range *r;

	if (m.nranges == 0)
		return;
	r = &m.ranges[page_random(&m.random, m.nranges)];
	expect("used", larder_used(m.pool, address(r->first + page_random(&m.random, r->pages)) + 17), 0);
	m.clock++;
	model_use(r);
}

/* Pin any span, volatile or not. The parts of ranges in it are ranges of their own from then on, and count as used when
 * it is unpinned. */
static void do_pin(void)
{
	size_t first, pages;
	int lost;

	random_span(&first, &pages);
	lost = model_any_lost(first, pages);
	expect("pin", larder_pin(m.pool, address(first), pages * PAGE), lost);
	check_kept(first, pages);
	if (lost) { /* always: what a purge gives back is what it takes, as long as no lost page is resident */
		refill(first, pages);
		expect("refilled", larder_refilled(m.pool, address(first), pages * PAGE), 0);
	}
	expect("unpin", larder_unpin(m.pool, address(first), pages * PAGE), 0);
	m.clock++;
	model_cut(first);
	model_cut(first + pages);
	for (struct range *r = m.ranges; r < m.ranges + m.nranges; r++)
		if (r->first - first < pages)
			model_use(r);
}

static void do_purge(void)
{
	int upto = page_random(&m.random, 3) ? LARDER_PRIORITY_MAX : (int)page_random(&m.random, LARDER_PRIORITIES) - 1;
	size_t pages = random_length(&m.random, 256), gone;
	unsigned char seen[PAGES];
	int64_t given_back;
	int said;

	if (page_random(&m.random, 30) == 0)
		pages = PAGES;
	given_back = larder_purge(m.pool, upto, pages * PAGE);
	said = larder_query(m.pool, m.base, sizeof(seen) * PAGE, seen);
	expect("query", said, memchr(seen, 1, PAGES) != NULL);
	gone = model_purge(upto, pages, seen);
	compare_lost("purge", seen, 0, PAGES);
	if (given_back != (int64_t)gone * PAGE)
		wrong("purge of %zu pages up to %d gave back %ld bytes, not %zu", pages, upto, given_back, gone * PAGE);
	m.purged_pages += gone;
}

static void compare_stats(void)
{
	struct larder_pool_stats s = pool_stats(m.pool);
	uint64_t bytes[LARDER_PRIORITIES] = { 0 }, lost[LARDER_PRIORITIES] = { 0 };

	for (const struct range *r = m.ranges; r < m.ranges + m.nranges; r++) {
		bytes[1 + r->priority] += r->pages * PAGE;
		for (size_t i = r->first; i < r->first + r->pages; i++)
			lost[1 + r->priority] += m.lost[i] * (uint64_t)PAGE;
	}
	for (int i = 0; i < LARDER_PRIORITIES; i++)
		if (s.priority[i].bytes != bytes[i] || s.priority[i].lost_bytes != lost[i])
			wrong("priority %d: %lu volatile and %lu lost bytes, should be %lu and %lu", i - 1,
			      s.priority[i].bytes, s.priority[i].lost_bytes, bytes[i], lost[i]);
	if (s.pinned_bytes)
		wrong("%lu bytes pinned", s.pinned_bytes);
}

static void do_step(void)
{
	switch (page_random(&m.random, 16)) {
	case 0 ... 4:
		do_mark();
		break;
	case 5 ... 6:
		do_unmark();
		break;
	case 7 ... 8:
		do_use();
		break;
	case 9 ... 10:
		do_pin();
		break;
	default:
		do_purge();
		break;
	}
	compare_stats();
}

static void what_goes_is_what_the_model_says(enum larder_order order)
{
	memset(&m, 0, sizeof(m));
	m.order = order;
	m.seed = test_seed();
	m.random = mix(m.seed); /* seeds in a row would draw the same numbers, shifted */
	print_message("order %d, seed 0x%lx\n", order, m.seed);
	m.pool = pool_new(&(struct larder_pool_options){ .order = order });
	m.base = pages_new(m.pool, PAGES);
	refill(0, PAGES);
	for (m.step = 0; m.step < STEPS; m.step++)
		do_step();
	assert_true(m.purged_pages > 10 * PAGES); /* or little was tested */
	pool_end(m.pool);
}

static void least_recently_used_goes_first(void **state)
{
	(void)state;
	what_goes_is_what_the_model_says(LARDER_ORDER_LRU);
}

static void first_marked_goes_first(void **state)
{
	(void)state;
	what_goes_is_what_the_model_says(LARDER_ORDER_FIFO);
}

static void last_marked_goes_first(void **state)
{
	(void)state;
	what_goes_is_what_the_model_says(LARDER_ORDER_LIFO);
}

static void cheapest_for_its_size_goes_first(void **state)
{
	(void)state;
	what_goes_is_what_the_model_says(LARDER_ORDER_COST);
}

/* The same with few words, for the reader of a failure: three ranges, marked in this order, the first used again. */
static void the_orders_differ_as_their_names_say(void **state)
{
	static const struct {
		enum larder_order order;
		size_t first_to_go;
	} expected[] = {
		{ LARDER_ORDER_LRU, 1 }, { LARDER_ORDER_FIFO, 0 }, { LARDER_ORDER_LIFO, 2 }, { LARDER_ORDER_COST, 2 }
	};

	(void)state;
	for (size_t e = 0; e < 4; e++) {
		larder_pool *pool = pool_new(&(struct larder_pool_options){ .order = expected[e].order });
		char *base = pages_new(pool, 3);
		unsigned char lost[3];

		for (size_t i = 0; i < 3; i++)
			mark(pool, base, i, 1, &(struct larder_volatile_options){ .cost_ns = 9000 - 1000 * i });
		assert_int_equal(larder_used(pool, base), 0);
		assert_int_equal(larder_purge(pool, 0, PAGE), PAGE);
		assert_int_equal(larder_query(pool, base, 3 * PAGE, lost), LARDER_PURGED);
		for (size_t i = 0; i < 3; i++)
			assert_int_equal(lost[i], i == expected[e].first_to_go);
		pool_end(pool);
	}
}

/* Age counts: what was used since the last purge outlives something dearer that was not. */
static void cost_is_aged_by_use(void **state)
{
	larder_pool *pool = pool_new(&(struct larder_pool_options){ .order = LARDER_ORDER_COST });
	char *base = pages_new(pool, 4);
	unsigned char lost[4];

	(void)state;
	mark(pool, base, 0, 1, &(struct larder_volatile_options){ .cost_ns = 100 });
	mark(pool, base, 1, 1, &(struct larder_volatile_options){ .cost_ns = 150 });
	mark(pool, base, 2, 1, &(struct larder_volatile_options){ .cost_ns = 80 });
	assert_int_equal(larder_purge(pool, 0, PAGE), PAGE); /* page 2; from now on marks begin at 80 */
	mark(pool, base, 3, 1, &(struct larder_volatile_options){ .cost_ns = 60 }); /* 140 */
	assert_int_equal(larder_used(pool, base), 0);				    /* 180 */
	assert_int_equal(larder_purge(pool, 0, 2 * PAGE), 2 * PAGE);
	assert_int_equal(larder_query(pool, base, sizeof(lost) * PAGE, lost), LARDER_PURGED);
	assert_int_equal(lost[0], 0);
	assert_int_equal(lost[1], 1);
	assert_int_equal(lost[3], 1);
	pool_end(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_orders_differ_as_their_names_say),
		cmocka_unit_test(cost_is_aged_by_use),
		cmocka_unit_test(least_recently_used_goes_first),
		cmocka_unit_test(first_marked_goes_first),
		cmocka_unit_test(last_marked_goes_first),
		cmocka_unit_test(cheapest_for_its_size_goes_first),
	};

	return cmocka_run_group_tests(tests, start_unlimited, check_table);
}
