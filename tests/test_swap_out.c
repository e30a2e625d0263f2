/*
 * Swap out, with a disk that writes when the test says so: what a page was when it was sent must not be taken for what
 * it is when the write is done. Needs nothing.
 */
#include "swap_out.h"
#include "content.h"
#include "stats.h"
#include "sys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- a disk in memory: one batch at a time ---- */

enum { OBJECTS = 64, TIER_LZ4 = STORE_TIER_FIRST, TIER_DISK };

static struct {
	struct larder_batch batch;
	int is_open, is_written, result;
	struct {
		char bytes[PAGE];
		size_t size;
	} objects[OBJECTS];
	unsigned used, drops;
} disk;

static int disk_open(void *backend, const struct larder_backend_setup *setup)
{
	(void)backend, (void)setup;
	return 0;
}

static void disk_close(void *backend)
{
	(void)backend;
}

static void disk_drop(void *backend, const uint64_t *handles, size_t n)
{
	(void)backend;
	for (size_t i = 0; i < n; i++) {
		assert_true(disk.objects[handles[i]].size > 0);
		disk.objects[handles[i]].size = 0;
		disk.drops++;
	}
}

static uint64_t disk_compact(void *backend, void *scratch, uint64_t budget)
{
	(void)backend, (void)scratch, (void)budget;
	return 0;
}

static void disk_usage(const void *backend, struct larder_backend_usage *usage)
{
	(void)backend;
	*usage = (struct larder_backend_usage){ 0 };
}

static uint64_t disk_checksum(const void *backend, const char *page)
{
	(void)backend, (void)page;
	return 0;
}

static int disk_batch_begin(void *backend, void *scratch, struct larder_batch **batch)
{
	(void)backend, (void)scratch;
	if (disk.is_open)
		return -EBUSY;
	disk.is_open = 1;
	disk.batch.objects = 0;
	*batch = &disk.batch;
	return 0;
}

static int disk_batch_add(void *backend, struct larder_batch *b, const struct larder_object *object, uint64_t tag)
{
	(void)backend;
	memcpy(disk.objects[disk.used].bytes, object->bytes, object->size);
	disk.objects[disk.used].size = object->size;
	b->handles[b->objects] = disk.used++;
	b->tags[b->objects++] = tag;
	return 0;
}

static void disk_batch_write(void *backend, void *scratch, struct larder_batch *b)
{
	(void)backend, (void)scratch, (void)b;
	disk.is_written = 1;
}

static struct larder_batch *disk_batch_reap(void *backend, void *scratch)
{
	(void)backend, (void)scratch;
	if (!disk.is_written)
		return NULL;
	disk.is_written = 0;
	disk.batch.result = disk.result;
	return &disk.batch;
}

static void disk_batch_end(void *backend, struct larder_batch *b)
{
	(void)backend, (void)b;
	disk.is_open = 0;
}

static const struct larder_backend_ops disk_ops = {
	.name = "test",
	.backend_bytes = PAGE,
	.scratch_bytes = 64,
	.is_on_disk = 1,
	.open = disk_open,
	.close = disk_close,
	.drop = disk_drop,
	.compact = disk_compact,
	.usage = disk_usage,
	.checksum = disk_checksum,
	.batch_begin = disk_batch_begin,
	.batch_add = disk_batch_add,
	.batch_write = disk_batch_write,
	.batch_reap = disk_batch_reap,
	.batch_end = disk_batch_end,
};

/* ---- pages that are compressed in RAM ---- */

static struct larder_memory memory;
static struct larder_swap_out swap_out;
static void *scratch;

static struct larder_page *page_at(size_t index)
{
	return &memory.region.pages[index];
}

/* As evict.c leaves it. */
static void put_in_ram(size_t index, uint64_t generation)
{
	static LZ4_stream_t lz4;
	uint64_t words[WORDS];
	char bytes[CODEC_MOST_BYTES];
	struct larder_object object;
	struct store_place place;

	page_fill(words, index, generation);
	object = codec_object(&lz4, CODEC_FOR_RAM, (const char *)words, bytes);
	assert_int_equal(store_put(&memory.store, 1, &object, &place), 0);
	page_at(index)->handle = place.handle;
	atomic_store(&page_at(index)->word, age_stamp(&memory.age, 0, place.tier));
}

/* As restore.c does it for a touch. */
static void take_back(size_t index)
{
	store_drop(&memory.store, &(struct store_place){ .handle = page_at(index)->handle, .tier = TIER_LZ4 }, 1);
	atomic_store(&page_at(index)->word, page_word_resident(0));
}

static size_t send_on(size_t want)
{
	int err;
	size_t sent = swap_out_demote(&memory, &swap_out, scratch, REGION_HEAP, want, &err);

	assert_int_equal(err, 0);
	return sent;
}

static size_t send(size_t want)
{
	swap_out.hand = 0;
	return send_on(want);
}

static size_t written(int result)
{
	disk.result = result;
	swap_out_flush(&memory, &swap_out, scratch);
	return swap_out_settle(&memory, scratch);
}

static void assert_on_disk(size_t index, uint64_t generation)
{
	uint64_t words[WORDS], handle = page_at(index)->handle;

	assert_int_equal(page_load(page_at(index)), page_word_stored(TIER_DISK));
	assert_true(disk.objects[handle].size > 0);
	assert_int_equal(codec_expand(disk.objects[handle].bytes, disk.objects[handle].size, words), 0);
	assert_int_equal(page_wrong_word(words, index, generation), WORDS);
}

static void assert_in_ram(size_t index, uint64_t generation)
{
	uint64_t words[WORDS];
	const struct store_place place = { .handle = page_at(index)->handle, .tier = TIER_LZ4 };

	assert_int_equal(page_with_tick(page_load(page_at(index)), 0), page_word_stored(TIER_LZ4));
	assert_int_equal(store_get(&memory.store, scratch, place, words), 0);
	assert_int_equal(page_wrong_word(words, index, generation), WORDS);
}

/* ---- tests ---- */

static void pages_go_on_from_ram(void **state)
{
	(void)state;
	for (size_t i = 0; i < 8; i++)
		put_in_ram(i, 1);
	assert_int_equal(send(100), 8);
	assert_int_equal(send(100), 0); /* they are on their way */
	assert_int_equal(written(0), 8);
	for (size_t i = 0; i < 8; i++)
		assert_on_disk(i, 1);
}

static void a_failed_write_leaves_pages_where_they_are(void **state)
{
	(void)state;
	put_in_ram(0, 1);
	assert_int_equal(send(1), 1);
	assert_int_equal(written(-EIO), 0);
	assert_in_ram(0, 1);
	assert_int_equal(send(1), 1); /* and they can go again */
	assert_int_equal(written(0), 1);
	assert_on_disk(0, 1);
}

static void a_page_that_was_taken_back_is_not_settled(void **state)
{
	(void)state;
	put_in_ram(0, 1);
	assert_int_equal(send(1), 1);
	take_back(0);
	assert_int_equal(written(0), 0);
	assert_int_equal(page_load(page_at(0)), page_word_resident(0));
	assert_int_equal(disk.drops, 1);
}

/* Once with its old content, which was sent first and is settled first, and once with its new. */
static void a_page_can_be_in_one_batch_twice(void **state)
{
	(void)state;
	put_in_ram(0, 1);
	assert_int_equal(send(1), 1);
	take_back(0);
	put_in_ram(0, 2);
	assert_int_equal(send(1), 1);
	assert_int_equal(written(0), 1);
	assert_on_disk(0, 2);
	assert_int_equal(disk.drops, 1);
}

static void old_content_is_not_settled_for_new_in_ram(void **state)
{
	(void)state;
	put_in_ram(0, 1);
	assert_int_equal(send(1), 1);
	take_back(0);
	put_in_ram(0, 2);
	assert_int_equal(written(0), 0);
	assert_in_ram(0, 2);
	assert_int_equal(disk.drops, 1);
}

/* A page on disk is compressed in RAM as well, as evict.c leaves one that was fetched and has not changed. */
static void put_in_ram_with_copy(size_t index, uint64_t generation)
{
	uint64_t copy = page_at(index)->handle;

	assert_on_disk(index, generation);
	put_in_ram(index, generation);
	page_at(index)->handle = page_both_handles(page_at(index)->handle, copy);
	atomic_fetch_or(&page_at(index)->word, PAGE_COPY);
}

static uint64_t objects_in_ram(void)
{
	struct larder_tier_stats tiers[LARDER_TIERS_MAX];
	uint64_t same;

	store_stats(&memory.store, tiers, &same);
	return tiers[0].objects;
}

static void what_is_on_disk_goes_there_without_being_written(void **state)
{
	(void)state;
	for (size_t i = 0; i < 8; i++)
		put_in_ram(i, 1);
	assert_int_equal(send(8), 8);
	assert_int_equal(written(0), 8);
	for (size_t i = 0; i < 8; i++)
		put_in_ram_with_copy(i, 1);
	assert_int_equal(objects_in_ram(), 8);
	assert_int_equal(send(8), 8);
	for (size_t i = 0; i < 8; i++)
		assert_on_disk(i, 1);
	assert_int_equal(disk.used, 8);
	assert_false(disk.is_open);
	assert_int_equal(objects_in_ram(), 0);
}

static void a_copy_that_is_dropped_leaves_the_page_in_ram(void **state)
{
	size_t hand = 0;

	(void)state;
	put_in_ram(0, 1);
	assert_int_equal(send(1), 1);
	assert_int_equal(written(0), 1);
	put_in_ram_with_copy(0, 1);
	assert_int_equal(swap_out_drop_copies(&memory, &hand, 1), 1);
	assert_int_equal(disk.drops, 1);
	assert_in_ram(0, 1);
	assert_int_equal(send(1), 1); /* it is written again */
	assert_int_equal(written(0), 1);
	assert_on_disk(0, 1);
}

static void volatile_pages_do_not_go_on(void **state)
{
	(void)state;
	put_in_ram(0, 1);
	assert_int_equal(send(1), 1);
	atomic_fetch_or(&memory.region.kept[0], 1);
	assert_int_equal(written(0), 0);
	assert_in_ram(0, 1);
	assert_int_equal(send(1), 0);
	atomic_fetch_and(&memory.region.kept[0], ~(uint64_t)1);
}

/* Whatever their addresses, and also where the ticks in their words begin anew. */
static void what_was_compressed_first_goes_first(void **state)
{
	enum { OLD = 300, YOUNG = 100, AT_ONCE = 50 };
	enum { TICK = AGE_TICK_LEAST_PAGES, OF_FIRST = OLD % (AGE_GENERATION_TICKS * TICK) };
	size_t sent = 0;

	(void)state;
	for (int begun = 0; begun < 600; begun++) {
		atomic_store(&memory.age.oldest, (uint64_t)begun);
		memory.age.now = (uint64_t)(begun + 1) * AGE_GENERATION_TICKS - (OF_FIRST + TICK - 1) / TICK;
		memory.age.pages = (TICK - OF_FIRST % TICK) % TICK;
		for (size_t i = 0; i < OLD; i++)
			put_in_ram(YOUNG + i, 1);
		for (size_t i = 0; i < YOUNG; i++)
			put_in_ram(i, 1);
		assert_int_equal(memory.age.now / AGE_GENERATION_TICKS - age_oldest(&memory.age), 2);
		for (sent = 0; sent < OLD; sent += AT_ONCE, disk.used = 0) {
			assert_int_equal(send_on(AT_ONCE), AT_ONCE);
			assert_int_equal(written(0), AT_ONCE);
		}
		for (size_t i = 0; i < YOUNG; i++)
			assert_in_ram(i, 1);
		for (size_t i = YOUNG; i < YOUNG + OLD; i++)
			assert_int_equal(page_tier(page_load(page_at(i))), TIER_DISK);
		for (sent = 0; sent < YOUNG; sent += AT_ONCE, disk.used = 0) {
			assert_int_equal(send_on(AT_ONCE), AT_ONCE);
			assert_int_equal(written(0), AT_ONCE);
		}
		assert_int_equal(send_on(AT_ONCE), 0);
	}
}

/* Also where numbers begin anew. */
static void tickets_are_never_none(void **state)
{
	(void)state;
	for (uint32_t first = UINT32_MAX - 2; first != 2; first++) {
		swap_out.next_ticket = first;
		for (size_t i = 0; i < 8; i++)
			put_in_ram(i, first);
		assert_int_equal(send(8), 8);
		for (size_t i = 0; i < 8; i++)
			assert_true(page_ticket(page_load(page_at(i))) != 0);
		assert_int_equal(written(0), 8);
		disk.used = 0;
	}
}

static int open_memory(void **state)
{
	static const struct larder_backend_ops *const tiers[] = { &larder_backend_lz4, &disk_ops };
	const struct larder_backend_setup setup = { .max_objects = 1024 };
	void *chunk;

	(void)state;
	memset(&memory, 0, sizeof(memory));
	memset(&swap_out, 0, sizeof(swap_out));
	memset(&disk, 0, sizeof(disk));
	assert_int_equal(stats_open(), 0);
	assert_int_equal(region_open(&memory.region, (size_t)1 << 30), 0);
	assert_int_equal(store_open(&memory.store, tiers, 2, &setup), 0);
	chunk = region_alloc(&memory.region, CHUNK_BYTES, CHUNK_BYTES, NULL);
	scratch = store_scratch(&memory.store);
	atomic_store(&memory.region.chunks[0].watched, 1);
	region_use(&memory.region, &memory.region.chunks[0]);
	assert_non_null(chunk);
	assert_non_null(scratch);
	return 0;
}

static int close_memory(void **state)
{
	(void)state;
	store_scratch_free(&memory.store, scratch);
	store_close(&memory.store);
	region_close(&memory.region);
	stats_close();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pages_go_on_from_ram, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(a_failed_write_leaves_pages_where_they_are, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(a_page_that_was_taken_back_is_not_settled, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(a_page_can_be_in_one_batch_twice, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(old_content_is_not_settled_for_new_in_ram, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(what_is_on_disk_goes_there_without_being_written, open_memory,
						close_memory),
		cmocka_unit_test_setup_teardown(a_copy_that_is_dropped_leaves_the_page_in_ram, open_memory,
						close_memory),
		cmocka_unit_test_setup_teardown(volatile_pages_do_not_go_on, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(what_was_compressed_first_goes_first, open_memory, close_memory),
		cmocka_unit_test_setup_teardown(tickets_are_never_none, open_memory, close_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
