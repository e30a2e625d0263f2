/*
 * The file tier, without pages or pools around it: what is written comes back, whatever is dropped, cleaned, read,
 * fails or is damaged meanwhile. Needs io_uring and a directory that is not in RAM. LARDER_TEST_SEED=n replays a run.
 */
#include "codec.h"
#include "content.h"
#include "disk.h"
#include "disk_log.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { ITEMS_MAX = 1 << 16, SCRATCHES = 4, GROUPS = 16 };
enum {
	BATCHES = 8,
	/* as in file.c: how many can be under way */ TURN_NS = 5000000,
	QUIET_NS = 20000000,
	COMPACT_BYTES = 256 << 10
};

#define SECOND_NS ((uint64_t)1000000000u)

enum item_state { ABSENT, WRITING, STORED };

/* A page that was given to the tier. In the test with threads, whoever sets `owned` may touch the rest. */
struct item {
	_Atomic int owned;
	enum item_state state;
	uint64_t handle, seed;
};

static const struct larder_backend_ops *const ops = &larder_backend_file;
static struct item items[ITEMS_MAX];
static size_t nitems;
static uint64_t random_state;

static struct {
	void *backend, *scratch;
	struct larder_batch *batch;
	struct larder_disk_stats stats;
	uint64_t put_bytes, failed_batches;
} tier;

/* ---- a disk that does as it is told ---- */

static struct {
	_Atomic int kind;	      /* what is hit: enum disk_kind */
	_Atomic uint32_t least_bytes; /* of the transfers that are counted */
	_Atomic int after;	      /* so many are let pass before one is hit */
	_Atomic int times;	      /* and so many are hit then */
	_Atomic int32_t verdict;      /* what submit() answers then */
	_Atomic uint64_t delay_ns;    /* and how long it delays it */
	_Atomic int damages;	      /* 1: a bit of what was read is changed then */
	_Atomic int hits, seen;
	_Atomic uint64_t offset; /* of what was hit */
	_Atomic int again;	 /* so often that was asked for later */
} plan;

static int is_hit(const struct disk_transfer *t)
{
	int n;

	if (t->kind != plan.kind || t->bytes < plan.least_bytes)
		return 0;
	n = atomic_fetch_add(&plan.seen, 1);
	if (plan.after < 0 || n < plan.after || n >= plan.after + plan.times) {
		plan.again += plan.hits && t->offset == plan.offset;
		return 0;
	}
	plan.offset = t->offset;
	atomic_fetch_add(&plan.hits, 1);
	return 1;
}

static int32_t on_submit(void *arg, const struct disk_transfer *t, uint64_t *delay_ns)
{
	(void)arg;
	if (plan.damages || !is_hit(t))
		return 0;
	*delay_ns = plan.delay_ns;
	return plan.verdict;
}

static void on_complete(void *arg, struct disk_transfer *t)
{
	(void)arg;
	if (plan.damages && is_hit(t))
		for (uint32_t i = 0; i < t->bytes; i += 512)
			((char *)t->buffer)[i] ^= 1;
}

static struct disk_seam seam = { .submit = on_submit, .complete = on_complete };

static void hit_nothing(void)
{
	plan.after = -1;
	plan.times = 1;
	plan.seen = plan.hits = plan.again = plan.verdict = plan.damages = 0;
	plan.delay_ns = 0;
	plan.least_bytes = 0;
}

static void hit(enum disk_kind kind, int after, int32_t verdict)
{
	hit_nothing();
	plan.kind = (int)kind;
	plan.verdict = verdict;
	plan.after = after;
}

/* ---- contents: four kinds of pages, from incompressible to hardly anything ---- */

/* Every page begins with it, and LZ4 leaves what comes first as it is. */
static const char plaintext[] = "larder plaintext";

enum { PLAINTEXT_BYTES = 16 };

static void make_page(void *to, uint64_t seed)
{
	static const unsigned random_words[4] = { WORDS, WORDS / 2, WORDS / 4, 3 };
	uint64_t *words = to;

	for (unsigned i = 0; i < WORDS; i++)
		words[i] = i < random_words[seed % 4] ? mix(seed << 10 ^ i) : seed;
	memcpy(words, plaintext, PLAINTEXT_BYTES);
}

static int is_right(const void *page, uint64_t seed)
{
	char expected[PAGE];

	make_page(expected, seed);
	return memcmp(page, expected, PAGE) == 0;
}

static uint64_t new_seed(void)
{
	return mix(random_state++) >> 12;
}

static uint64_t incompressible_seed(void)
{
	return new_seed() & ~(uint64_t)3;
}

/* ---- the tier ---- */

static const char *directory(void)
{
	const char *dir = getenv("TMPDIR");

	return dir && *dir ? dir : "/var/tmp";
}

static void tier_open(unsigned mib, uint64_t max_objects, int encrypt)
{
	const struct larder_backend_setup setup = {
		.max_objects = max_objects,
		.dir = directory(),
		.bytes = (uint64_t)mib * MIB,
		.encrypt = encrypt,
		.stats = &tier.stats,
		.seam = &seam,
	};
	int err;

	hit_nothing();
	seam.refuse_ns = 1000000;
	memset(&tier, 0, sizeof(tier));
	memset(items, 0, sizeof(items));
	nitems = 0;
	tier.backend = sys_map(ops->backend_bytes);
	tier.scratch = sys_map(ops->scratch_bytes);
	assert_non_null(tier.backend);
	assert_non_null(tier.scratch);
	err = ops->open(tier.backend, &setup);
	if (err == -ENODEV || err == -EOPNOTSUPP) {
		print_message("  %s: %s\n", directory(), strerror(-err));
		skip();
	}
	assert_int_equal(err, 0);
	err = ops->thread_open(tier.backend, tier.scratch);
	if (err == -EPERM || err == -ENOSYS)
		skip();
	assert_int_equal(err, 0);
}

static void tier_close(void)
{
	ops->thread_close(tier.backend, tier.scratch);
	ops->close(tier.backend);
	sys_munmap(tier.backend, ops->backend_bytes);
	sys_munmap(tier.scratch, ops->scratch_bytes);
}

static struct larder_backend_usage usage(void)
{
	struct larder_backend_usage u;

	ops->usage(tier.backend, &u);
	return u;
}

static void settle_item(struct item *item, uint64_t handle, int result)
{
	item->handle = handle;
	item->state = result ? ABSENT : STORED;
	atomic_store(&item->owned, 0);
}

static void settle(void)
{
	struct larder_batch *b;

	while ((b = ops->batch_reap(tier.backend, tier.scratch))) {
		tier.failed_batches += b->result != 0;
		for (unsigned i = 0; i < b->objects; i++)
			settle_item(&items[b->tags[i]], b->handles[i], b->result);
		ops->batch_end(tier.backend, b);
	}
}

static void flush(void)
{
	struct larder_batch *b = tier.batch;

	tier.batch = NULL;
	if (b)
		ops->batch_write(tier.backend, tier.scratch, b);
}

/* What the writer does between batches. */
static void turn(void)
{
	ops->compact(tier.backend, tier.scratch, COMPACT_BYTES);
	settle();
	if (ops->writing(tier.backend) > 0)
		ops->wait(tier.backend, tier.scratch, NULL, 0, TURN_NS);
}

static void finish(void)
{
	uint64_t until = now_ns() + 10 * SECOND_NS;

	flush();
	while (ops->writing(tier.backend) > 0 && now_ns() < until)
		turn();
	assert_int_equal(ops->writing(tier.backend), 0);
}

/* A batch, as soon as there is room and the device is not left alone. */
static int begin(void)
{
	uint64_t until = now_ns() + 10 * SECOND_NS;
	int err;

	while ((err = ops->batch_begin(tier.backend, tier.scratch, &tier.batch)) && now_ns() < until)
		turn();
	if (err)
		tier.batch = NULL;
	return err;
}

static int add(size_t i, const struct larder_object *object)
{
	int err = -ENOSPC;

	for (int tries = 0; tries < 2 && err == -ENOSPC; tries++) {
		err = tier.batch ? 0 : begin();
		if (err)
			return err;
		err = ops->batch_add(tier.backend, tier.batch, object, i);
		if (err == -ENOSPC)
			flush();
	}
	return err;
}

static int try_put(size_t i, uint64_t seed)
{
	static LZ4_stream_t lz4;
	char page[PAGE], bytes[CODEC_MOST_BYTES];
	struct larder_object object;
	int err;

	make_page(page, seed);
	object = codec_object(&lz4, CODEC_FOR_RAM, page, bytes);
	object.checksum = ops->checksum(tier.backend, page);
	err = add(i, &object);
	if (err)
		return err;
	items[i].seed = seed;
	items[i].state = WRITING;
	tier.put_bytes += object.size;
	return 0;
}

static void put(size_t i, uint64_t seed)
{
	assert_int_equal(items[i].state, ABSENT);
	assert_int_equal(try_put(i, seed), 0);
	if (i >= nitems)
		nitems = i + 1;
}

static void drop(size_t i)
{
	assert_int_equal(items[i].state, STORED);
	ops->drop(tier.backend, &items[i].handle, 1);
	items[i].state = ABSENT;
}

static int get_by(void *scratch, size_t i)
{
	char page[PAGE];
	int err = ops->get(tier.backend, scratch, items[i].handle, page);

	return err ? err : is_right(page, items[i].seed) ? 0 : 1;
}

static int get(size_t i)
{
	return get_by(tier.scratch, i);
}

/* Every item that is stored is right, and nothing else is there. */
static void verify_all(void)
{
	uint64_t stored = 0;

	for (size_t i = 0; i < nitems; i++) {
		if (items[i].state != STORED)
			continue;
		stored++;
		if (get(i))
			fail_msg("item %zu of seed %lx: %d", i, items[i].seed, get(i));
	}
	assert_int_equal(usage().objects, stored);
	assert_true(usage().occupied_bytes <= tier.stats.limit_bytes);
}

/* Clean as long as that gives anything, and devices are left alone for some time only. */
static void clean_all(void)
{
	uint64_t quiet_since = now_ns();

	while (now_ns() - quiet_since < QUIET_NS) {
		turn();
		if (ops->writing(tier.backend) > 0)
			quiet_since = now_ns();
	}
}

/* ---- reading ---- */

static void verify_fetch(struct larder_fetch *fetch, const size_t *wanted)
{
	char page[PAGE];

	for (unsigned i = 0; i < fetch->pages; i++) {
		assert_int_equal(ops->fetch_page(tier.backend, tier.scratch, fetch, i, page), 0);
		assert_true(is_right(page, items[wanted[i]].seed));
	}
	ops->fetch_end(tier.backend, tier.scratch, fetch);
}

struct group {
	struct larder_fetch fetch;
	size_t wanted[LARDER_FETCH_MAX_PAGES];
	int busy;
};

static struct group groups[GROUPS];

static void group_choose(struct group *g, size_t first, int in_order)
{
	g->fetch.pages = 1 + (unsigned)page_random(&random_state, LARDER_FETCH_MAX_PAGES);
	g->fetch.owner = g;
	for (unsigned i = 0; i < g->fetch.pages; i++) {
		g->wanted[i] = in_order ? (first + i) % nitems : page_random(&random_state, nitems);
		g->fetch.handles[i] = items[g->wanted[i]].handle;
	}
}

static size_t reap_groups(void)
{
	struct larder_fetch *fetch;
	size_t pages = 0;

	while ((fetch = ops->fetch_reap(tier.backend, tier.scratch))) {
		struct group *g = fetch->owner;

		pages += fetch->pages;
		verify_fetch(fetch, g->wanted);
		g->busy = 0;
	}
	return pages;
}

/* Fetch `pages` pages or more, in groups, with as many under way as there may be. */
static void fetch_many(size_t pages, int in_order)
{
	uint64_t until = now_ns() + 20 * SECOND_NS;

	for (size_t begun = 0, fetched = 0; fetched < pages || begun > fetched;) {
		for (struct group *g = groups; g < groups + GROUPS && begun < pages; g++) {
			if (g->busy)
				continue;
			group_choose(g, begun, in_order);
			if (ops->fetch_begin(tier.backend, tier.scratch, &g->fetch) == -EBUSY)
				break;
			g->busy = 1;
			begun += g->fetch.pages;
		}
		ops->fetch_flush(tier.backend, tier.scratch);
		ops->wait(tier.backend, tier.scratch, NULL, 0, TURN_NS);
		fetched += reap_groups();
		assert_true(now_ns() < until);
	}
}

/* ---- tests: what is written comes back ---- */

static void write_and_read(int encrypt)
{
	tier_open(64, 10000, encrypt);
	for (size_t i = 0; i < 8000; i++)
		put(i, new_seed());
	finish();
	verify_all();
	fetch_many(10000, 1);
	fetch_many(10000, 0);
	assert_true(tier.stats.write_bytes >= tier.put_bytes);
	assert_int_equal(tier.stats.is_encrypted, encrypt);
	assert_int_equal(tier.stats.reads_in_flight + tier.stats.writes_in_flight, 0);
	assert_int_equal(tier.stats.mismatches + tier.stats.retries, 0);
	assert_true(tier.stats.peak_reads_in_flight > 1);
	tier_close();
}

static void what_is_written_comes_back(void **state)
{
	(void)state;
	write_and_read(0);
}

static void what_is_written_comes_back_encrypted(void **state)
{
	(void)state;
	write_and_read(1);
}

static void same_is_for_same_content_only(void **state)
{
	char page[PAGE];

	(void)state;
	tier_open(64, 100, 0);
	for (size_t i = 0; i < 100; i++)
		put(i, new_seed());
	finish();
	for (size_t i = 0; i < 100; i++) {
		size_t bit = page_random(&random_state, PAGE * 8);

		make_page(page, items[i].seed);
		assert_true(ops->checksum(tier.backend, page) == ops->kept_checksum(tier.backend, items[i].handle));
		page[bit / 8] ^= (char)(1 << bit % 8);
		assert_true(ops->checksum(tier.backend, page) != ops->kept_checksum(tier.backend, items[i].handle));
	}
	tier_close();
}

static void a_full_table_says_so_and_recovers(void **state)
{
	(void)state;
	tier_open(64, 50, 0);
	for (size_t i = 0; i < 50; i++)
		put(i, new_seed());
	finish();
	assert_int_equal(try_put(50, 1), -ENOSPC);
	finish();
	drop(7);
	put(7, new_seed());
	finish();
	verify_all();
	tier_close();
}

/* A place has 44 bits: what is larger is used that far. */
static void a_disk_may_be_larger_than_places_reach(void **state)
{
	(void)state;
	tier_open(1u << 25, 100, 0);
	assert_int_equal(tier.stats.limit_bytes, DISK_LOG_MAX_BYTES);
	for (size_t i = 0; i < 100; i++)
		put(i, new_seed());
	finish();
	verify_all();
	tier_close();
}

/* Pages that lie in the same blocks cost one read. */
static void neighbours_share_blocks(void **state)
{
	(void)state;
	tier_open(64, 100, 0);
	put(0, 3); /* tiny */
	put(1, 7);
	put(2, 4); /* whole pages */
	put(3, 8);
	finish();
	assert_true(ops->shares_blocks(tier.backend, items[0].handle, items[1].handle));
	assert_false(ops->shares_blocks(tier.backend, items[2].handle, items[3].handle));
	tier_close();
}

static uint64_t time_of_wait(void)
{
	uint64_t start = now_ns();

	ops->wait(tier.backend, tier.scratch, NULL, 0, SECOND_NS);
	return now_ns() - start;
}

/* A batch that can be reaped is not slept on: neither one whose completion came to light while fetches were reaped, nor
 * one that had nothing to write. */
static void wait_returns_when_a_batch_can_be_reaped(void **state)
{
	(void)state;
	tier_open(64, 100, 0);
	put(0, new_seed());
	flush();
	while (tier.stats.writes_in_flight)
		assert_null(ops->fetch_reap(tier.backend, tier.scratch));
	assert_true(time_of_wait() < SECOND_NS / 2);
	settle();
	assert_int_equal(items[0].state, STORED);
	assert_int_equal(begin(), 0);
	flush();
	assert_true(time_of_wait() < SECOND_NS / 2);
	settle();
	assert_int_equal(ops->writing(tier.backend), 0);
	assert_true(time_of_wait() > SECOND_NS / 2);
	tier_close();
}

/* ---- tests: cleaning ---- */

/* Overwrite at random until several times the disk has been written. */
static void overwrite(size_t live, uint64_t bytes, int encrypt)
{
	tier_open(24, live + 1000, encrypt);
	for (size_t i = 0; i < live; i++)
		put(i, new_seed());
	while (tier.put_bytes < bytes) {
		size_t i = page_random(&random_state, live);

		if (items[i].state == WRITING)
			finish();
		if (page_random(&random_state, 64) == 0)
			assert_int_equal(get(i), 0);
		drop(i);
		put(i, new_seed());
	}
	finish();
	print_message("  wrote %lu MiB for %lu, cleaned %lu\n", tier.stats.write_bytes >> 20, tier.put_bytes >> 20,
		      tier.stats.cleaned_bytes >> 20);
	verify_all();
	assert_true(tier.stats.cleaned_bytes > 0);
	assert_true(tier.stats.write_bytes >= tier.put_bytes + tier.stats.cleaned_bytes);
	assert_int_equal(tier.stats.mismatches + tier.stats.retries, 0);
	tier_close();
}

static void overwriting_several_times_the_disk(void **state)
{
	(void)state;
	overwrite(7000, (uint64_t)96 * MIB, 0);
}

static void overwriting_several_times_the_disk_encrypted(void **state)
{
	(void)state;
	overwrite(7000, (uint64_t)96 * MIB, 1);
}

/* The cleaner has begun to read a segment: wait until then. Returns 0 when it does not. */
static int cleaner_reads(void)
{
	uint64_t until = now_ns() + SECOND_NS;

	while (plan.hits == 0 && now_ns() < until)
		settle();
	return plan.hits > 0;
}

/* Batches of one segment each: as many whole pages as fit. */
static void fill_segment(size_t first)
{
	for (size_t i = 0; i < DISK_LOG_SEGMENT_BYTES / PAGE; i++)
		put(first + i, incompressible_seed());
	finish();
}

/* Segment after segment, of which every other page is dropped: there is something to clean. Returns the items. */
static size_t fill_and_thin(size_t segments)
{
	enum { SEGMENT_ITEMS = DISK_LOG_SEGMENT_BYTES / PAGE };

	for (size_t i = 0; i < segments; i++)
		fill_segment(i * SEGMENT_ITEMS);
	for (size_t i = 0; i < segments * SEGMENT_ITEMS; i += 2)
		drop(i);
	return segments * SEGMENT_ITEMS;
}

/* Drop what is left and write something else in its place, while the cleaner's transfer is under way. */
static void replace_all(size_t n)
{
	for (size_t i = 1; i < n; i += 2)
		drop(i);
	for (size_t i = 0; i < n; i++) {
		if (!tier.batch && ops->batch_begin(tier.backend, tier.scratch, &tier.batch))
			break;
		put(i, incompressible_seed());
		if (i % 32 == 31) {
			flush();
			ops->wait(tier.backend, tier.scratch, NULL, 0, TURN_NS);
			settle();
		}
	}
}

/*
 * Once the cleaner has read a segment, its last objects are dropped, and their handles and its space are wanted for
 * other objects: what it has read is not theirs.
 */
static void a_segment_that_is_being_cleaned_is_not_reused(void **state)
{
	size_t n;

	(void)state;
	tier_open(8, 10000, 0);
	n = fill_and_thin(5);
	hit(DISK_READ, 0, 0);
	assert_true(cleaner_reads());
	while (tier.stats.reads_in_flight) /* it has read, but not copied */
		settle();
	replace_all(n);
	finish();
	clean_all();
	verify_all();
	tier_close();
}

/* The same, with the drops and new objects while the copies of its objects are being written. */
static void objects_that_are_being_moved_can_be_dropped(void **state)
{
	size_t n;

	(void)state;
	tier_open(8, 10000, 0);
	n = fill_and_thin(5);
	hit(DISK_WRITE, 0, 0);
	plan.delay_ns = SECOND_NS;
	assert_true(cleaner_reads());
	for (size_t i = 1; i < n; i += 2)
		drop(i);
	ops->compact(tier.backend, tier.scratch, COMPACT_BYTES);
	for (size_t i = 0; i < n; i++) {
		if (tier.batch || ops->batch_begin(tier.backend, tier.scratch, &tier.batch) == 0)
			put(i, incompressible_seed());
		if (i % 64 == 63) {
			flush();
			settle();
			ops->wait(tier.backend, tier.scratch, NULL, 0, TURN_NS);
			settle();
		}
	}
	finish();
	clean_all();
	verify_all();
	tier_close();
}

/* Objects so small that a segment's summary is full long before its space: moving them gains nothing. */
static void small_objects_are_not_moved_for_ever(void **state)
{
	uint64_t cleaned;

	(void)state;
	tier_open(8, 20000, 0);
	for (size_t i = 0; i < 9000; i++)
		put(i, new_seed() | 3);
	finish();
	print_message("  %lu KiB live in %lu KiB\n", usage().stored_bytes >> 10, usage().occupied_bytes >> 10);
	for (int i = 0; i < 200; i++)
		turn();
	cleaned = tier.stats.cleaned_bytes;
	print_message("  cleaned %lu KiB\n", cleaned >> 10);
	assert_true(cleaned <= usage().stored_bytes);
	finish();
	verify_all();
	tier_close();
}

/* ---- tests: readers beside the writer ---- */

enum { READERS = 2, SHARED_ITEMS = 5000, SHARED_MIB = 16, READER_GROUP = 8 };

static _Atomic int stopping;
static _Atomic uint64_t wrong, fetched, dropped;

static int own(size_t i)
{
	int nobody = 0;

	return atomic_compare_exchange_strong(&items[i].owned, &nobody, 1);
}

static void disown(size_t i)
{
	atomic_store(&items[i].owned, 0);
}

/* Own some items that are stored. Returns how many. */
static unsigned own_stored(uint64_t *random, size_t *owned, uint64_t *handles)
{
	unsigned n = 0;

	for (int tries = 0; tries < READER_GROUP; tries++) {
		size_t i = page_random(random, SHARED_ITEMS);

		if (!own(i))
			continue;
		if (items[i].state != STORED) {
			disown(i);
			continue;
		}
		handles[n] = items[i].handle;
		owned[n++] = i;
	}
	return n;
}

static void fetch_by(void *scratch, struct larder_fetch *fetch, const size_t *owned)
{
	char page[PAGE];

	if (ops->fetch_begin(tier.backend, scratch, fetch)) {
		atomic_fetch_add(&wrong, 1);
		return;
	}
	while (!ops->fetch_reap(tier.backend, scratch))
		ops->wait(tier.backend, scratch, NULL, 0, TURN_NS);
	for (unsigned i = 0; i < fetch->pages; i++)
		if (ops->fetch_page(tier.backend, scratch, fetch, i, page) || !is_right(page, items[owned[i]].seed))
			atomic_fetch_add(&wrong, 1);
	ops->fetch_end(tier.backend, scratch, fetch);
	atomic_fetch_add(&fetched, fetch->pages);
}

static void reader_turn(void *scratch, uint64_t *random)
{
	struct larder_fetch fetch = { 0 };
	size_t owned[READER_GROUP];

	fetch.pages = own_stored(random, owned, fetch.handles);
	if (fetch.pages == 1 && get_by(scratch, owned[0]))
		atomic_fetch_add(&wrong, 1);
	if (fetch.pages > 1)
		fetch_by(scratch, &fetch, owned);
	for (unsigned i = 0; i < fetch.pages; i++) {
		if (page_random(random, 4) == 0) {
			ops->drop(tier.backend, &items[owned[i]].handle, 1);
			items[owned[i]].state = ABSENT;
			atomic_fetch_add(&dropped, 1);
		}
		disown(owned[i]);
	}
}

static void *reader(void *arg)
{
	uint64_t random = (uintptr_t)arg;
	void *scratch = sys_map(ops->scratch_bytes);

	if (!scratch || ops->thread_open(tier.backend, scratch)) {
		atomic_fetch_add(&wrong, 1);
		return NULL;
	}
	while (!atomic_load(&stopping))
		reader_turn(scratch, &random);
	ops->thread_close(tier.backend, scratch);
	sys_munmap(scratch, ops->scratch_bytes);
	return NULL;
}

static void writer_turn(void)
{
	size_t i = page_random(&random_state, SHARED_ITEMS);

	if (!own(i))
		return;
	if (items[i].state != ABSENT)
		disown(i);
	else if (try_put(i, new_seed())) /* else it is owned until its batch is settled */
		disown(i);
	if (page_random(&random_state, 256) == 0)
		turn();
}

static void race(int encrypt)
{
	uint64_t until = now_ns() + 2 * SECOND_NS;
	pthread_t threads[READERS];

	tier_open(SHARED_MIB, SHARED_ITEMS + 1000, encrypt);
	nitems = SHARED_ITEMS;
	stopping = 0;
	fetched = dropped = 0;
	for (uintptr_t i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, (void *)(random_state + i)), 0);
	while (now_ns() < until)
		writer_turn();
	finish();
	stopping = 1;
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	print_message("  wrote %lu MiB, cleaned %lu KiB, fetched %lu pages, dropped %lu\n",
		      tier.stats.write_bytes >> 20, tier.stats.cleaned_bytes >> 10, fetched, dropped);
	assert_int_equal(wrong, 0);
	assert_int_equal(tier.stats.mismatches + tier.stats.retries, 0);
	assert_true(fetched > 0 && dropped > 0);
	verify_all();
	tier_close();
}

static void readers_beside_the_writer(void **state)
{
	(void)state;
	race(0);
}

static void readers_beside_the_writer_encrypted(void **state)
{
	(void)state;
	race(1);
}

/* ---- tests: what lies on the disk ---- */

/* The file has no name: it is found among what is open. */
static int file_descriptor(void)
{
	for (int fd = 3; fd < 256; fd++) {
		struct stat s;

		if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_nlink == 0 && fcntl(fd, F_GETFL) & O_DIRECT)
			return fd;
	}
	fail_msg("no file");
	return -1;
}

/* All of the disk, as far as it was written. */
static char *read_disk(size_t *bytes)
{
	int fd = file_descriptor();
	struct stat s;
	char *all;

	assert_int_equal(fstat(fd, &s), 0);
	*bytes = (size_t)s.st_size;
	all = sys_map(*bytes);
	assert_non_null(all);
	assert_int_equal(pread(fd, all, *bytes, 0), *bytes);
	return all;
}

static size_t count_plaintext(void)
{
	size_t bytes, n = 0;
	char *all = read_disk(&bytes);

	for (const char *at = all; (at = memmem(at, bytes - (size_t)(at - all), plaintext, PLAINTEXT_BYTES)); at++)
		n++;
	sys_munmap(all, bytes);
	return n;
}

/* Objects that were written, and ones that were moved. */
static size_t plaintext_on_disk(int encrypt)
{
	size_t n;

	tier_open(8, 10000, encrypt);
	n = fill_and_thin(5);
	clean_all();
	for (size_t i = 0; i < n; i += 8)
		put(i, new_seed());
	finish();
	assert_true(tier.stats.cleaned_bytes > 0);
	verify_all();
	n = count_plaintext();
	tier_close();
	return n;
}

static void nothing_on_disk_is_plain_when_encrypted(void **state)
{
	(void)state;
	assert_true(plaintext_on_disk(0) > 640);
	assert_int_equal(plaintext_on_disk(1), 0);
}

/* What lies on disk for a page, written first and second, in 16-byte blocks. */
static void two_objects_on_disk(int encrypt, char to[2][PAGE])
{
	size_t bytes;
	char *all;

	tier_open(64, 10, encrypt);
	put(0, 4);
	put(1, 4);
	finish();
	all = read_disk(&bytes);
	memcpy(to[0], all, PAGE);
	memcpy(to[1], all + PAGE + (encrypt ? 16 : 0), PAGE);
	sys_munmap(all, bytes);
	tier_close();
}

static size_t equal_blocks(const char *a, const char *b)
{
	size_t n = 0;

	for (size_t i = 0; i < PAGE; i += 16)
		n += memcmp(a + i, b + i, 16) == 0;
	return n;
}

/* Neither in one process nor in the next does the same page look the same. */
static void keys_and_nonces_differ(void **state)
{
	char first[2][PAGE], second[2][PAGE];

	(void)state;
	two_objects_on_disk(0, first);
	assert_int_equal(equal_blocks(first[0], first[1]), PAGE / 16);
	two_objects_on_disk(1, first);
	two_objects_on_disk(1, second);
	assert_int_equal(equal_blocks(first[0], first[1]), 0);
	assert_int_equal(equal_blocks(first[0], second[0]), 0);
	assert_int_equal(equal_blocks(first[1], second[1]), 0);
}

/* Change a bit at the same place of each 4096 bytes: so every object of a whole page has one changed. */
static void flip_bits(size_t at, int bit)
{
	size_t bytes;
	char *all = read_disk(&bytes);

	for (size_t i = at; i < bytes; i += PAGE)
		all[i] ^= (char)(1 << bit);
	assert_int_equal(pwrite(file_descriptor(), all, bytes, 0), bytes);
	sys_munmap(all, bytes);
}

static void damage(int encrypt)
{
	struct larder_fetch fetch = { .pages = 1 };
	char page[PAGE];
	size_t at = page_random(&random_state, PAGE);

	tier_open(64, 1000, encrypt);
	fill_segment(0);
	flip_bits(at, 3);
	for (size_t i = 0; i < nitems - 1; i++) /* the last may end before its bit */
		assert_int_equal(get(i), -EBADMSG);
	assert_true(tier.stats.mismatches >= nitems - 1);
	fetch.handles[0] = items[0].handle;
	assert_int_equal(ops->fetch_begin(tier.backend, tier.scratch, &fetch), 0);
	while (!ops->fetch_reap(tier.backend, tier.scratch))
		ops->wait(tier.backend, tier.scratch, NULL, 0, TURN_NS);
	assert_int_equal(ops->fetch_page(tier.backend, tier.scratch, &fetch, 0, page), -EBADMSG);
	ops->fetch_end(tier.backend, tier.scratch, &fetch);
	flip_bits(at, 3);
	verify_all();
	tier_close();
}

static void damage_on_disk_is_noticed(void **state)
{
	(void)state;
	damage(0);
	damage(1);
}

/* A read that fails or is damaged once is tried again. */
static void a_read_is_tried_again(void **state)
{
	(void)state;
	tier_open(64, 1000, 0);
	fill_segment(0);
	hit(DISK_READ, 0, -EIO);
	assert_int_equal(get(0), 0);
	assert_int_equal(tier.stats.retries, 1);
	hit(DISK_READ, 0, 0);
	plan.damages = 1;
	assert_int_equal(get(1), 0);
	assert_int_equal(tier.stats.retries, 2);
	assert_int_equal(tier.stats.mismatches, 1);
	hit(DISK_READ, 0, -EIO);
	plan.times = 100;
	assert_int_equal(get(2), -EIO);
	assert_true(plan.hits > 1);
	tier_close();
}

/* ---- tests: failures ---- */

static uint64_t late_ns; /* how long what is hit is delayed */

/* Write three segments, drop most of it, clean. Everything that was stored must be right in the end. */
static void small_workload(enum disk_kind kind, int n, int32_t verdict, int damages, int encrypt)
{
	tier_open(6, 2000, encrypt);
	hit(kind, n, verdict);
	plan.damages = damages;
	plan.delay_ns = late_ns;
	for (size_t i = 0; i < 3 * 256; i++)
		put(i, incompressible_seed());
	finish();
	for (size_t i = 0; i < nitems; i++)
		if (items[i].state == STORED && mix(i) % 5 < 3)
			drop(i);
	clean_all();
	finish();
	plan.after = -1;
	verify_all();
}

/* The workload again and again, with transfer 0, 1, 2 ... of a kind failing, until there are no more. */
static void fail_each(enum disk_kind kind, int32_t verdict, int damages, int encrypt)
{
	int n = 0, hits;

	do {
		small_workload(kind, n++, verdict, damages, encrypt);
		hits = plan.hits;
		tier_close();
	} while (hits);
	print_message("  %d transfers\n", n - 1);
	assert_true(n > 2);
}

static void no_failing_write_loses_anything(void **state)
{
	(void)state;
	fail_each(DISK_WRITE, -EIO, 0, 0);
	fail_each(DISK_WRITE, -ENOSPC, 0, 1);
}

static void no_short_write_loses_anything(void **state)
{
	(void)state;
	fail_each(DISK_WRITE, 4096, 0, 0);
}

static void no_failing_read_loses_anything(void **state)
{
	(void)state;
	fail_each(DISK_READ, -EIO, 0, 0);
	fail_each(DISK_READ, 4096, 0, 1);
}

/* The workload with transfer 0, 1, 2 ... of a kind taking so long that what follows overtakes it. */
static void delay_each(enum disk_kind kind)
{
	int n = 0, hits;

	late_ns = 30000000;
	do {
		small_workload(kind, n++, 0, 0, 0);
		hits = plan.hits;
		tier_close();
	} while (hits);
	late_ns = 0;
	assert_true(n > 2);
}

static void no_late_transfer_loses_anything(void **state)
{
	(void)state;
	delay_each(DISK_WRITE);
	delay_each(DISK_READ);
}

static void start_batch(size_t first)
{
	assert_int_equal(ops->batch_begin(tier.backend, tier.scratch, &tier.batch), 0);
	put(first, incompressible_seed());
	flush();
}

/* Batches that fail together are one failure of the device: it is left alone for the shortest time. Then it is tried
 * again, and once that succeeds, all is as before. */
static void a_failing_device_is_left_alone_for_a_while(void **state)
{
	struct larder_batch *b;
	uint64_t start = now_ns(), alone_ns;

	(void)state;
	tier_open(64, 100, 0);
	seam.refuse_ns = 100000000;
	hit(DISK_WRITE, 0, -EIO);
	plan.times = BATCHES;
	for (size_t i = 0; i < BATCHES; i++)
		start_batch(i);
	assert_int_equal(ops->batch_begin(tier.backend, tier.scratch, &b), -EBUSY);
	while (tier.failed_batches < BATCHES)
		turn();
	assert_int_equal(usage().objects, 0);
	assert_int_equal(tier.stats.refusing, EIO);
	assert_int_equal(begin(), 0);
	alone_ns = now_ns() - start;
	print_message("  left alone for %.1f ms\n", (double)alone_ns / 1e6);
	assert_true(alone_ns >= seam.refuse_ns && alone_ns < 4 * seam.refuse_ns);
	put(0, new_seed());
	finish();
	assert_int_equal(tier.stats.refusing, 0);
	verify_all();
	tier_close();
}

/* Where objects are encrypted, the cleaner sees what is damaged, and leaves it where it is. */
static void a_damaged_read_moves_nothing(void **state)
{
	(void)state;
	small_workload(DISK_READ, 0, 0, 1, 1);
	assert_int_equal(plan.hits, 1);
	tier_close();
}

/* What is damaged for good goes with the rest, and is noticed where it is then: it does not keep its segment. */
static void damage_moves(int encrypt)
{
	size_t n;

	tier_open(8, 10000, encrypt);
	n = fill_and_thin(5);
	flip_bits(100, 3);
	clean_all();
	print_message("  %lu KiB moved\n", tier.stats.cleaned_bytes >> 10);
	assert_true(tier.stats.cleaned_bytes >= DISK_LOG_SEGMENT_BYTES / 4);
	for (size_t i = 1; i < n; i += 128)
		assert_int_equal(get(i), -EBADMSG);
	tier_close();
}

static void a_damaged_object_does_not_keep_its_segment(void **state)
{
	(void)state;
	damage_moves(0);
	damage_moves(1);
}

/* What stalls is not given more; when it has answered, all is as before. */
static void a_device_that_stalls_gets_no_more(void **state)
{
	uint64_t start;
	int err;

	(void)state;
	tier_open(64, 1000, 0);
	hit(DISK_WRITE, 0, 0);
	plan.delay_ns = 2 * SECOND_NS;
	start = now_ns();
	start_batch(0);
	for (size_t i = 1; (err = ops->batch_begin(tier.backend, tier.scratch, &tier.batch)) == 0; i++) {
		put(i, new_seed());
		flush();
		usleep(QUIET_NS / 1000);
		settle();
	}
	assert_int_equal(err, -ETIMEDOUT);
	assert_int_equal(tier.stats.refusing, ETIMEDOUT);
	assert_in_range(now_ns() - start, SECOND_NS / 4, SECOND_NS);
	tier.batch = NULL;
	assert_int_equal(begin(), 0);
	assert_true(now_ns() - start >= 2 * SECOND_NS);
	put(nitems, new_seed());
	finish();
	assert_int_equal(tier.stats.refusing, 0);
	verify_all();
	tier_close();
}

static uint64_t blocks_of_the_file(void)
{
	struct stat s;

	assert_int_equal(fstat(file_descriptor(), &s), 0);
	return (uint64_t)s.st_blocks * 512;
}

/* Freed space goes back to the filesystem, but for some; where it cannot, it is tried again. */
static void freed_space_is_given_back(void **state)
{
	enum { FILLED = 20, KEPT = 8 };
	uint64_t full;

	(void)state;
	tier_open(64, 10000, 0);
	for (size_t i = 0; i < FILLED; i++)
		fill_segment(i * (DISK_LOG_SEGMENT_BYTES / PAGE));
	full = blocks_of_the_file();
	hit(DISK_PUNCH, 0, -EIO);
	plan.times = 1000;
	for (size_t i = nitems; i-- > 0;)
		drop(i);
	clean_all();
	assert_true(plan.hits > 0);
	assert_int_equal(tier.stats.freed_bytes, 0);
	assert_int_equal(blocks_of_the_file(), full);
	assert_true(usage().occupied_bytes >= (uint64_t)FILLED * DISK_LOG_SEGMENT_BYTES);
	hit_nothing();
	for (uint64_t until = now_ns() + 5 * SECOND_NS; now_ns() < until && tier.stats.freed_bytes == 0;)
		turn();
	clean_all();
	assert_in_range(tier.stats.freed_bytes, (FILLED - KEPT - 2) * DISK_LOG_SEGMENT_BYTES,
			(FILLED - KEPT + 2) * DISK_LOG_SEGMENT_BYTES);
	assert_true(usage().occupied_bytes <= (uint64_t)(KEPT + 2) * DISK_LOG_SEGMENT_BYTES);
	assert_true(blocks_of_the_file() <= full - tier.stats.freed_bytes + DISK_LOG_SEGMENT_BYTES);
	tier_close();
}

/* A segment that could not be read is cleaned later. */
static void an_unreadable_segment_is_tried_again(void **state)
{
	uint64_t until = now_ns() + 5 * SECOND_NS;

	(void)state;
	tier_open(8, 10000, 0);
	fill_and_thin(5);
	hit(DISK_READ, 0, -EIO);
	assert_true(cleaner_reads());
	while (!plan.again && now_ns() < until)
		turn();
	assert_true(plan.again);
	finish();
	verify_all();
	tier_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_comes_back),
		cmocka_unit_test(what_is_written_comes_back_encrypted),
		cmocka_unit_test(same_is_for_same_content_only),
		cmocka_unit_test(a_full_table_says_so_and_recovers),
		cmocka_unit_test(neighbours_share_blocks),
		cmocka_unit_test(a_disk_may_be_larger_than_places_reach),
		cmocka_unit_test(wait_returns_when_a_batch_can_be_reaped),
		cmocka_unit_test(overwriting_several_times_the_disk),
		cmocka_unit_test(overwriting_several_times_the_disk_encrypted),
		cmocka_unit_test(a_segment_that_is_being_cleaned_is_not_reused),
		cmocka_unit_test(objects_that_are_being_moved_can_be_dropped),
		cmocka_unit_test(readers_beside_the_writer),
		cmocka_unit_test(readers_beside_the_writer_encrypted),
		cmocka_unit_test(nothing_on_disk_is_plain_when_encrypted),
		cmocka_unit_test(keys_and_nonces_differ),
		cmocka_unit_test(damage_on_disk_is_noticed),
		cmocka_unit_test(a_read_is_tried_again),
		cmocka_unit_test(small_objects_are_not_moved_for_ever),
		cmocka_unit_test(no_failing_write_loses_anything),
		cmocka_unit_test(no_short_write_loses_anything),
		cmocka_unit_test(no_failing_read_loses_anything),
		cmocka_unit_test(no_late_transfer_loses_anything),
		cmocka_unit_test(a_failing_device_is_left_alone_for_a_while),
		cmocka_unit_test(a_damaged_read_moves_nothing),
		cmocka_unit_test(an_unreadable_segment_is_tried_again),
		cmocka_unit_test(a_damaged_object_does_not_keep_its_segment),
		cmocka_unit_test(a_device_that_stalls_gets_no_more),
		cmocka_unit_test(freed_space_is_given_back),
	};

	random_state = test_seed();
	print_message("LARDER_TEST_SEED=%lu\n", random_state);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
