/*
 * Compressing ahead, with and without compressors: whoever compresses a page, the object is that of the page, and what
 * need not be compressed is not. Needs nothing.
 */
#include "compress.h"
#include "content.h"
#include "lz4_tier.h"
#include "memory.h"
#include "stats.h"
#include "sys.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = CHUNK_PAGES, POSITIONS = 3 * STAGING_MAX_SLOTS / 8, TIER_DISK = STORE_TIER_FIRST, POOL = 1 };

/* ---- a disk that only sums ---- */

static int disk_open(void *backend, const struct larder_backend_setup *setup)
{
	(void)backend, (void)setup;
	return 0;
}

static void disk_close(void *backend)
{
	(void)backend;
}

static uint64_t sum_of(const char *page)
{
	uint64_t sum = 1, word;

	for (unsigned i = 0; i < PAGE; i += sizeof(word)) {
		memcpy(&word, page + i, sizeof(word));
		sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
	}
	return sum;
}

static uint64_t disk_checksum(const void *backend, const char *page)
{
	(void)backend;
	return sum_of(page);
}

static void disk_usage(const void *backend, struct larder_backend_usage *usage)
{
	(void)backend;
	*usage = (struct larder_backend_usage){ 0 };
}

static const struct larder_backend_ops disk_ops = {
	.name = "test",
	.backend_bytes = PAGE,
	.is_on_disk = 1,
	.open = disk_open,
	.close = disk_close,
	.checksum = disk_checksum,
	.usage = disk_usage,
};

/* ---- staging, as evict.c fills it ---- */

static struct larder_memory *memory;

/* The content of a position, which tells all of them apart: compressible, noise, or same-filled. */
static void fill(char *page, uint64_t position)
{
	uint64_t word;

	for (unsigned i = 0; i < PAGE; i += sizeof(word)) {
		word = (position + 1) * (position % 3 == 1 ? (i + 1) * 0x9e3779b97f4a7c15u : 0x0101010101010101u);
		if (position % 3 == 0)
			word += i / 64;
		memcpy(page + i, &word, sizeof(word));
	}
}

static struct larder_page *page_of(uint64_t position)
{
	return &memory->region.pages[position % PAGES];
}

static void stage(uint64_t copy_bit)
{
	struct larder_staging *s = &memory->staging;
	uint32_t slot = staging_slot(s->head);

	fill(staging_address(s, slot), s->head);
	s->owner[slot] = (uint32_t)(s->head % PAGES);
	atomic_store(&page_of(s->head)->word, page_word_staged(slot) | copy_bit);
	s->head++;
}

/* The slot at the cursor has been written out; who looks at it from now on sees something else. */
static void pass(void)
{
	struct larder_staging *s = &memory->staging;

	memset(staging_address(s, staging_slot(s->cursor)), 0xa5, PAGE);
	s->tail = ++s->cursor;
}

static void assert_object(uint64_t position)
{
	struct larder_object object = compress_object(memory, position);
	char expected[PAGE], page[PAGE];

	fill(expected, position);
	assert_memory_equal(object.page, expected, PAGE);
	if (position % 3 != 2 && !object.dictionary) {
		assert_int_equal(codec_expand(object.bytes, object.size, page), 0);
		assert_memory_equal(page, expected, PAGE);
	}
	if (position % 3 == 0)
		assert_true(object.size < PAGE);
	else if (position % 3 == 1)
		assert_true(object.size == PAGE && compress_checksum(memory, position) == sum_of(expected));
}

/* ---- tests ---- */

static void work_through(void)
{
	struct larder_staging *s = &memory->staging;

	while (s->cursor < POSITIONS) {
		while (s->head < POSITIONS && s->head < s->cursor + 300)
			stage(0);
		for (unsigned i = 0; i < 64 && s->cursor < s->head; i++) {
			compress_ahead(memory);
			assert_object(s->cursor);
			pass();
		}
	}
}

static void the_reclaim_thread_does_all_if_it_is_alone(void **state)
{
	(void)state;
	work_through();
}

static void *run(void *compressor)
{
	compress_run(compressor);
	return NULL;
}

/* Threads that the sanitizers know. They never end. */
static void start_compressors(void)
{
	struct larder_compress *c = &memory->compress;
	pthread_t thread;

	for (; c->started < COMPRESSORS_MAX; c->started++) {
		c->compressors[c->started].memory = memory;
		c->compressors[c->started].tid = -1; /* they may run anywhere */
		assert_int_equal(pthread_create(&thread, NULL, run, &c->compressors[c->started]), 0);
	}
}

static void compressors_and_the_reclaim_thread_do_each_page_once(void **state)
{
	(void)state;
	start_compressors();
	work_through();
}

static _Atomic int stop;

/* Takes pages back all the time, as their program would. */
static void *take_back(void *arg)
{
	(void)arg;
	for (uint64_t i = 0; !atomic_load(&stop); i++)
		atomic_store(&page_of(i * 7)->word, page_word_resident(0));
	return NULL;
}

static void a_page_that_is_taken_back_meanwhile_has_its_object_all_the_same(void **state)
{
	pthread_t taker;

	(void)state;
	atomic_store(&stop, 0);
	start_compressors();
	assert_int_equal(pthread_create(&taker, NULL, take_back, NULL), 0);
	work_through();
	atomic_store(&stop, 1);
	pthread_join(taker, NULL);
}

static int are_claimed(uint64_t positions)
{
	for (int ms = 0; ms < 5000 && atomic_load(&memory->compress.claimed) < positions; ms++)
		usleep(1000);
	return atomic_load(&memory->compress.claimed) >= positions;
}

/* Only who was woken knows that it is on a CPU where it does no harm. */
static void who_wakes_by_itself_leaves_alone_what_is_offered(void **state)
{
	enum { OFFERED = 8, RESTS = 20 };
	struct larder_compress *c = &memory->compress;

	(void)state;
	store_at_work(&memory->store, 1); /* so nothing is recompressed, and the first looks again in 5 ms */
	start_compressors();
	for (int i = 0; i < OFFERED; i++)
		stage(0);
	atomic_store(&c->end, OFFERED);
	usleep(RESTS * 5000);
	assert_int_equal(atomic_load(&c->claimed), 0);
	event_post(&c->wanted);
	assert_true(are_claimed(OFFERED));
	for (int i = 0; i < OFFERED; i++, pass()) {
		compress_ahead(memory);
		assert_object(memory->staging.cursor);
	}
}

static const struct larder_compressed *at_cursor(void)
{
	return &memory->compress.ahead[memory->staging.cursor % COMPRESS_AHEAD];
}

static void what_is_not_staged_any_more_is_not_compressed(void **state)
{
	(void)state;
	stage(0);
	atomic_store(&page_of(0)->word, page_word_resident(0));
	compress_ahead(memory);
	assert_int_equal(at_cursor()->size, 0);
	assert_object(0);
}

static void what_has_a_good_copy_is_not_compressed_for_disk(void **state)
{
	(void)state;
	region_chunk(&memory->region, 0)->owner.pool = POOL;
	memory->pools[POOL].tiers = store_disk_bit(&memory->store);
	for (unsigned i = 0; i < 2; i++) {
		stage(PAGE_COPY);
		memory->staging.checksum[i] = sum_of(staging_address(&memory->staging, i)) + i; /* the second is bad */
	}
	compress_ahead(memory);
	assert_int_equal(at_cursor()->size, 0);
	assert_true(compress_checksum(memory, 0) == memory->staging.checksum[0]);
	memory->staging.cursor++;
	compress_ahead(memory);
	assert_true(at_cursor()->size > 0);
	assert_true(compress_checksum(memory, 1) != memory->staging.checksum[1]);
	assert_object(1);
}

static void what_has_a_good_copy_is_compressed_for_ram(void **state)
{
	(void)state;
	stage(PAGE_COPY);
	memory->staging.checksum[0] = sum_of(staging_address(&memory->staging, 0));
	compress_ahead(memory);
	assert_true(at_cursor()->size > 0);
	assert_true(compress_checksum(memory, 0) == memory->staging.checksum[0]);
	assert_object(0);
}

static void a_slot_behind_the_cursor_can_be_written_again(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		stage(0);
	for (unsigned i = 0; i < 4; i++) {
		compress_ahead(memory);
		memory->staging.cursor++;
	}
	for (unsigned i = 0; i < 4; i++)
		assert_object(i);
}

/* ---- dictionaries ---- */

/* A store in which pages like those at positions 0, 3, 6 ... have been put, and a dictionary been made of them. */
static void open_lz4(struct larder_lz4 **lz4)
{
	static const struct larder_backend_ops *const tiers[] = { &larder_backend_lz4, &disk_ops };
	static LZ4_stream_t stream;
	char page[PAGE], bytes[CODEC_MOST_BYTES];
	struct store_place place;

	memory->pools[REGION_HEAP].budget.limit_bytes = PAGE; /* memory is short */
	store_close(&memory->store);
	memory->store = (struct larder_store){ 0 };
	assert_int_equal(store_open(&memory->store, tiers, 2, &(struct larder_backend_setup){ .max_objects = 1024 }),
			 0);
	*lz4 = memory->store.tiers[0].backend;
	(*lz4)->recompress.enough_bytes = 4096;
	for (unsigned i = 0; i < 300; i += 3) {
		struct larder_object object;

		fill(page, i);
		object = store_object(&memory->store, &stream, page, bytes);
		assert_int_equal(store_put(&memory->store, 1, &object, &place), 0);
		dictionary_release(object.dictionary);
	}
	store_learn(&memory->store);
	assert_int_equal(dictionaries_current(&(*lz4)->recompress.dictionaries), 1);
	region_chunk(&memory->region, 0)->owner.pool = POOL;
	memory->pools[POOL].tiers = 1; /* not on disk */
}

/* Of four pages alike: one stays in RAM, one may go on to disk, one goes to disk at once, and for one there is room. */
static void dictionaries_are_for_what_goes_to_ram_where_it_is_short(void **state)
{
	static const struct {
		uint32_t tiers;
		int is_short, dense;
	} pages[] = { { 1, 1, 1 }, { 1 | 2, 1, 1 }, { 2, 1, 0 }, { 1, 0, 0 } };
	struct larder_lz4 *lz4;

	(void)state;
	open_lz4(&lz4);
	assert_int_equal(store_disk_bit(&memory->store), 2);
	for (unsigned i = 0; i < sizeof(pages) / sizeof(*pages); i++) {
		memory->pools[POOL].tiers = pages[i].tiers;
		memory->pools[REGION_HEAP].budget.limit_bytes = pages[i].is_short ? PAGE : 0;
		memory->staging.head = memory->staging.cursor = memory->staging.tail = 3 * i;
		atomic_store(&memory->compress.claimed, 3 * i);
		stage(0);
		compress_ahead(memory);
		assert_true((compress_object(memory, 3 * i).dictionary != NULL) == pages[i].dense);
	}
}

/* They come back after so many others that no dictionary could have kept them. */
static void where_pages_go_round_there_are_no_dictionaries(void **state)
{
	struct larder_lz4 *lz4;
	uint64_t word;

	(void)state;
	open_lz4(&lz4);
	word = age_stamp(&memory->age, 1 << 20, STORE_TIER_FIRST);
	atomic_store(&memory->age.now, AGE_NEAR + 1);
	for (unsigned i = 0; i < 10000; i++)
		age_note(&memory->age, 32 * (size_t)i, 32, age_is_far(&memory->age, word));
	stage(0);
	compress_ahead(memory);
	assert_true(compress_object(memory, 0).size < PAGE);
	assert_null(compress_object(memory, 0).dictionary);
}

static void dictionaries_are_held_until_an_entry_is_used_again(void **state)
{
	struct larder_lz4 *lz4;
	uint64_t users;

	(void)state;
	open_lz4(&lz4);
	users = dictionaries_users(&lz4->recompress.dictionaries, 1);
	work_through(); /* nothing is put */
	assert_in_range(dictionaries_users(&lz4->recompress.dictionaries, 1) - users, 1, COMPRESS_AHEAD);
}

/* Compressors are never stopped, so what they wait in is not unmapped. */
static int open_memory(void **state)
{
	static const struct larder_backend_ops *const tiers[] = { &disk_ops };
	const struct larder_backend_setup setup = { .max_objects = 1024 };

	(void)state;
	memory = sys_map((sizeof(*memory) + PAGE - 1) / PAGE * PAGE);
	assert_non_null(memory);
	assert_int_equal(stats_open(), 0);
	assert_int_equal(region_open(&memory->region, (size_t)1 << 30), 0);
	assert_int_equal(staging_open(&memory->staging), 0);
	assert_int_equal(compress_open(&memory->compress), 0);
	assert_int_equal(store_open(&memory->store, tiers, 1, &setup), 0);
	assert_non_null(region_alloc(&memory->region, CHUNK_BYTES, CHUNK_BYTES, NULL));
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(who_wakes_by_itself_leaves_alone_what_is_offered, open_memory),
		cmocka_unit_test_setup(what_is_not_staged_any_more_is_not_compressed, open_memory),
		cmocka_unit_test_setup(what_has_a_good_copy_is_not_compressed_for_disk, open_memory),
		cmocka_unit_test_setup(what_has_a_good_copy_is_compressed_for_ram, open_memory),
		cmocka_unit_test_setup(a_slot_behind_the_cursor_can_be_written_again, open_memory),
		cmocka_unit_test_setup(dictionaries_are_for_what_goes_to_ram_where_it_is_short, open_memory),
		cmocka_unit_test_setup(where_pages_go_round_there_are_no_dictionaries, open_memory),
		cmocka_unit_test_setup(dictionaries_are_held_until_an_entry_is_used_again, open_memory),
		cmocka_unit_test_setup(the_reclaim_thread_does_all_if_it_is_alone, open_memory),
		cmocka_unit_test_setup(compressors_and_the_reclaim_thread_do_each_page_once, open_memory),
		cmocka_unit_test_setup(a_page_that_is_taken_back_meanwhile_has_its_object_all_the_same, open_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
