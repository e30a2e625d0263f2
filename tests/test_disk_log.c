/*
 * The log of the tier on disk against a simple model: what is handed out is nobody else's, and the sums are exact.
 * Nothing is read or written here. LARDER_TEST_SEED=n replays a run.
 */
#include "content.h"
#include "disk_log.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	SEGMENT = DISK_LOG_SEGMENT_BYTES,
	SEGMENTS = 12,
	HANDLES = 12000,
	RESERVATIONS = 4,
	PINS = 32,
	BATCH = 256 << 10,
	LEAST = 16 << 10,
	BLOCK = 512,
	SPARE = 2,
#ifdef __SANITIZE_THREAD__ /* ten times as slow, and there is one thread only */
	STEPS = 24000,
#else
	STEPS = 72000,
#endif
	TIDE = 6000, /* so many steps it fills, so many it empties */
};

static struct disk_log the_log;
static uint64_t random_state;

static size_t below(size_t n)
{
	return page_random(&random_state, n);
}

static void log_open(unsigned segments, uint64_t handles)
{
	memset(&the_log, 0, sizeof(the_log));
	assert_int_equal(disk_log_open(&the_log, (uint64_t)segments * SEGMENT, handles), 0);
}

/* ---- the model ---- */

struct object {
	int live;
	uint64_t offset;
	uint32_t bytes;
	uint64_t checksum;
};

/* Reserved space that is being filled, or written. */
struct reservation {
	int taken, is_written;
	uint64_t offset;
	uint32_t reserved, used;
};

static struct object objects[HANDLES]; /* [handle] */
static uint64_t live_handles[HANDLES];
static size_t nlive;
static struct reservation reservations[RESERVATIONS];
static disk_log_place pins[PINS];
static size_t npins;
static int is_ebbing;
static struct {
	uint64_t added, dropped, moved, freed, full;
} did;

static int overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a_bytes && b_bytes && a < b + b_bytes && b < a + a_bytes;
}

static uint32_t whole_blocks(uint32_t bytes)
{
	return (bytes + BLOCK - 1) & ~(uint32_t)(BLOCK - 1);
}

/* What the log hands out belongs to nobody. */
static void expect_unused(uint64_t offset, uint32_t bytes)
{
	assert_true(offset / SEGMENT == (offset + bytes - 1) / SEGMENT);
	assert_true(offset / SEGMENT < the_log.nsegments);
	for (size_t i = 0; i < nlive; i++) {
		const struct object *o = &objects[live_handles[i]];

		assert_false(overlap(offset, bytes, o->offset, o->bytes));
	}
	for (struct reservation *r = reservations; r < reservations + RESERVATIONS; r++)
		assert_false(r->taken &&
			     overlap(offset, bytes, r->offset, r->is_written ? whole_blocks(r->used) : r->reserved));
	for (size_t i = 0; i < npins; i++)
		assert_false(overlap(offset, bytes, disk_log_offset(pins[i]), disk_log_bytes(pins[i])));
}

static void expect_sums(void)
{
	uint64_t live[SEGMENTS] = { 0 }, total = 0;
	uint32_t free_segments = 0, with_blocks = 0, readers[SEGMENTS] = { 0 }, writing[SEGMENTS] = { 0 };

	for (size_t i = 0; i < nlive; i++) {
		const struct object *o = &objects[live_handles[i]];

		live[o->offset / SEGMENT] += o->bytes;
		total += o->bytes;
		assert_int_equal(disk_log_place_now(&the_log, live_handles[i]), disk_log_place_of(o->offset, o->bytes));
		assert_int_equal(disk_log_checksum(&the_log, live_handles[i]), o->checksum);
	}
	for (size_t i = 0; i < npins; i++)
		readers[disk_log_offset(pins[i]) / SEGMENT]++;
	for (struct reservation *r = reservations; r < reservations + RESERVATIONS; r++)
		writing[r->offset / SEGMENT] += (uint32_t)r->taken;
	for (uint32_t i = 0; i < the_log.nsegments; i++) {
		const struct disk_log_segment *s = &the_log.segments[i];

		assert_int_equal(s->live_bytes, live[i]);
		assert_int_equal(s->readers, readers[i]);
		assert_int_equal(s->writing, writing[i]);
		assert_true(s->used_bytes <= SEGMENT && s->objects <= DISK_LOG_SEGMENT_OBJECTS);
		assert_true(s->state != DISK_LOG_FREE || (live[i] == 0 && readers[i] == 0 && writing[i] == 0));
		free_segments += s->state == DISK_LOG_FREE;
		with_blocks += s->has_blocks;
	}
	assert_int_equal(the_log.nfree, free_segments);
	assert_int_equal(disk_log_usage(&the_log).objects, nlive);
	assert_int_equal(disk_log_usage(&the_log).live_bytes, total);
	assert_int_equal(disk_log_usage(&the_log).occupied_bytes, (uint64_t)with_blocks * SEGMENT);
}

/* ---- what the model does ---- */

/* Is -ENOSPC right? */
static int has_no_room(enum disk_log_stream stream, uint32_t spare)
{
	int32_t open = the_log.open[stream];

	return the_log.nfree <= spare && open == DISK_LOG_NO_SEGMENT;
}

static void try_reserve(void)
{
	struct reservation *r = &reservations[below(RESERVATIONS)];
	uint32_t got, bytes = LEAST + BLOCK * (uint32_t)below((BATCH - LEAST) / BLOCK + 1), before = the_log.nfree;
	uint64_t offset;
	int err;

	if (r->taken)
		return;
	err = disk_log_reserve(&the_log, DISK_LOG_NEW, bytes, LEAST, SPARE, &offset, &got);
	if (err) {
		assert_int_equal(err, -ENOSPC);
		assert_true(has_no_room(DISK_LOG_NEW, SPARE));
		did.full++;
		return;
	}
	assert_true(got >= LEAST && got <= bytes);
	assert_true(the_log.nfree == before || the_log.nfree >= SPARE);
	expect_unused(offset, got);
	*r = (struct reservation){ .taken = 1, .offset = offset, .reserved = got };
	disk_log_write_begins(&the_log, offset);
}

static int note(uint64_t offset, uint32_t bytes)
{
	uint64_t handle = UINT64_MAX, checksum = mix(random_state++);
	int err = disk_log_add(&the_log, offset, bytes, checksum, &handle);

	if (err) {
		assert_int_equal(err, -ENOSPC);
		assert_true(nlive == HANDLES ||
			    disk_log_segment_at(&the_log, offset)->objects == DISK_LOG_SEGMENT_OBJECTS);
		return err;
	}
	assert_true(handle < HANDLES);
	assert_false(objects[handle].live);
	objects[handle] = (struct object){ 1, offset, bytes, checksum };
	live_handles[nlive++] = handle;
	did.added++;
	return 0;
}

static void try_add(void)
{
	struct reservation *r = &reservations[below(RESERVATIONS)];

	for (size_t n = below(32); n && r->taken && !r->is_written; n--) {
		uint32_t bytes = 1 + (uint32_t)below(below(2) ? 4112 : 600);

		if (r->used + bytes > r->reserved || note(r->offset + r->used, bytes))
			return;
		r->used += bytes;
	}
}

/* Sent to the device, and back from it. */
static void try_write(void)
{
	struct reservation *r = &reservations[below(RESERVATIONS)];

	if (!r->taken)
		return;
	if (!r->is_written) {
		disk_log_trim(&the_log, r->offset, r->reserved, whole_blocks(r->used));
		r->is_written = 1;
		return;
	}
	disk_log_write_ends(&the_log, r->offset);
	r->taken = 0;
}

/* Objects of a write that is under way are not dropped (backend.h). */
static int is_being_written(const struct object *o)
{
	for (struct reservation *r = reservations; r < reservations + RESERVATIONS; r++)
		if (r->taken && overlap(o->offset, o->bytes, r->offset, r->reserved))
			return 1;
	return 0;
}

static void drop(size_t i)
{
	uint64_t handle = live_handles[i];

	disk_log_drop(&the_log, handle);
	objects[handle].live = 0;
	live_handles[i] = live_handles[--nlive];
	did.dropped++;
}

static void try_drop(void)
{
	for (size_t n = below(is_ebbing ? 80 : 8); n && nlive; n--) {
		size_t i = below(nlive);

		if (!is_being_written(&objects[live_handles[i]]))
			drop(i);
	}
}

static void try_pin(void)
{
	if (npins && (npins == PINS || below(2))) {
		size_t i = below(npins);

		disk_log_unpin(&the_log, pins[i]);
		pins[i] = pins[--npins];
	} else if (nlive) {
		const uint64_t handle = live_handles[below(nlive)];

		pins[npins] = disk_log_pin(&the_log, handle);
		assert_int_equal(pins[npins], disk_log_place_of(objects[handle].offset, objects[handle].bytes));
		npins++;
	}
}

static void free_empty(void)
{
	uint32_t before = the_log.nfree;

	disk_log_free_empty(&the_log);
	did.freed += the_log.nfree - before;
	for (uint32_t i = 0; i < the_log.nsegments; i++) {
		const struct disk_log_segment *s = &the_log.segments[i];

		if (s->state == DISK_LOG_FULL)
			assert_true(s->live_bytes || s->readers || s->writing);
	}
}

static void take_blocks(void)
{
	uint32_t spare = (uint32_t)below(6), kept = 0;
	int32_t taken = disk_log_take_blocks(&the_log, spare);
	int given;

	for (uint32_t i = 0; i < the_log.nsegments; i++)
		kept += the_log.segments[i].state == DISK_LOG_FREE && the_log.segments[i].has_blocks;
	if (taken == DISK_LOG_NO_SEGMENT) {
		assert_true(kept <= spare);
		return;
	}
	assert_true(kept >= spare);
	assert_int_equal(the_log.segments[taken].state, DISK_LOG_GIVING);
	assert_int_equal(the_log.segments[taken].has_blocks, 0);
	expect_sums();
	given = (int)below(2);
	disk_log_blocks_given(&the_log, taken, given);
	assert_int_equal(the_log.segments[taken].state, DISK_LOG_FREE);
	assert_int_equal(the_log.segments[taken].has_blocks, !given);
}

/* (1 - u) * age / (1 + u); < 0: not to be cleaned. */
static double score(const struct disk_log_segment *s, uint64_t now)
{
	double u = (double)s->live_bytes / s->used_bytes;

	if (s->state != DISK_LOG_FULL || s->live_bytes == 0 || s->writing || s->live_bytes > s->used_bytes / 8 * 7 ||
	    s->leave_until_ns > now)
		return -1;
	return (1 - u) * ((double)(now - s->written_ns) + 1e6) / (1 + u);
}

static int32_t best_victim(void)
{
	uint64_t now = sys_now_ns();
	int32_t victim = disk_log_victim(&the_log, now);

	for (uint32_t i = 0; i < the_log.nsegments; i++) {
		double most = victim == DISK_LOG_NO_SEGMENT ? -1 : score(&the_log.segments[victim], now);

		assert_true(score(&the_log.segments[i], now) <= most + 1e-6 * fabs(most));
	}
	if (victim != DISK_LOG_NO_SEGMENT)
		assert_true(score(&the_log.segments[victim], now) > 0);
	return victim;
}

/* As the cleaner does it, all at once; some objects are dropped between their being copied and moved. */
static void move_one(size_t i, uint64_t to)
{
	uint64_t handle = live_handles[i];
	struct object *o = &objects[handle];
	disk_log_place from = disk_log_place_of(o->offset, o->bytes);

	if (below(16) == 0) {
		drop(i);
		assert_int_equal(disk_log_move(&the_log, handle, from, to), 0);
		return;
	}
	assert_int_equal(disk_log_move(&the_log, handle, from, to), 1);
	o->offset = to;
	did.moved++;
}

static void clean(void)
{
	int32_t victim = best_victim();

	if (victim == DISK_LOG_NO_SEGMENT || the_log.nfree > SEGMENTS / 2)
		return;
	disk_log_hold(&the_log, victim);
	for (size_t i = 0; i < nlive; i++) {
		const struct object *o = &objects[live_handles[i]];
		uint64_t offset;
		uint32_t got;

		if (o->offset / SEGMENT != (uint64_t)victim)
			continue;
		if (disk_log_reserve(&the_log, DISK_LOG_CLEANED, o->bytes, o->bytes, 0, &offset, &got)) {
			assert_true(has_no_room(DISK_LOG_CLEANED, 0));
			break;
		}
		assert_int_equal(got, o->bytes);
		assert_int_not_equal(offset / SEGMENT, victim);
		expect_unused(offset, got);
		disk_log_write_begins(&the_log, offset);
		move_one(i, offset);
		disk_log_write_ends(&the_log, offset);
	}
	disk_log_free_empty(&the_log);
	assert_int_not_equal(the_log.segments[victim].state, DISK_LOG_FREE);
	disk_log_release(&the_log, victim);
}

static void step(void)
{
	switch (below(64)) {
	case 0:
		clean();
		break;
	case 1:
		take_blocks();
		break;
	case 2:
	case 3:
		free_empty();
		break;
	default:
		switch (below(8)) {
		case 0:
			try_reserve();
			break;
		case 1:
			try_drop();
			break;
		case 2:
			try_pin();
			break;
		case 3:
			try_write();
			break;
		default:
			try_add();
			break;
		}
	}
}

static void whatever_happens_it_agrees_with_the_model(void **state)
{
	(void)state;
	log_open(SEGMENTS, HANDLES);
	nlive = npins = 0;
	memset(objects, 0, sizeof(objects));
	memset(reservations, 0, sizeof(reservations));
	for (int i = 0; i < STEPS; i++) {
		is_ebbing = i / TIDE % 2;
		step();
		if (i % 256 == 0)
			expect_sums();
	}
	expect_sums();
	print_message("  added %lu, dropped %lu, moved %lu, segments freed %lu, full %lu times\n", did.added,
		      did.dropped, did.moved, did.freed, did.full);
	assert_true(did.moved > 0 && did.freed > 0 && did.full > 0);
	disk_log_close(&the_log);
}

/* ---- one thing at a time ---- */

static uint64_t reserve(enum disk_log_stream stream, uint32_t bytes)
{
	uint64_t offset;
	uint32_t got;

	assert_int_equal(disk_log_reserve(&the_log, stream, bytes, bytes, 0, &offset, &got), 0);
	assert_int_equal(got, bytes);
	return offset;
}

static uint64_t add(uint64_t offset, uint32_t bytes)
{
	uint64_t handle;

	assert_int_equal(disk_log_add(&the_log, offset, bytes, 1, &handle), 0);
	return handle;
}

static void the_spare_segments_are_for_cleaning(void **state)
{
	uint64_t offset;
	uint32_t got;

	(void)state;
	log_open(4, 100);
	for (int i = 0; i < 2; i++)
		assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_NEW, SEGMENT, SEGMENT, 2, &offset, &got), 0);
	assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_NEW, SEGMENT, SEGMENT, 2, &offset, &got), -ENOSPC);
	for (int i = 0; i < 2; i++)
		assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_CLEANED, SEGMENT, SEGMENT, 0, &offset, &got), 0);
	assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_CLEANED, SEGMENT, SEGMENT, 0, &offset, &got), -ENOSPC);
	disk_log_close(&the_log);
}

/* The end of a segment is used, unless it is shorter than what is wanted at least. */
static void the_end_of_a_segment_is_used(void **state)
{
	uint64_t offset;
	uint32_t got;

	(void)state;
	log_open(4, 100);
	reserve(DISK_LOG_NEW, SEGMENT - LEAST);
	assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_NEW, BATCH, LEAST, 0, &offset, &got), 0);
	assert_int_equal(got, LEAST);
	assert_int_equal(offset, SEGMENT - LEAST);
	assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_NEW, BATCH, LEAST, 0, &offset, &got), 0);
	assert_int_equal(got, BATCH);
	assert_int_equal(offset, SEGMENT);
	reserve(DISK_LOG_NEW, SEGMENT - BATCH - BLOCK);
	assert_int_equal(disk_log_reserve(&the_log, DISK_LOG_NEW, BATCH, LEAST, 0, &offset, &got), 0);
	assert_int_equal(offset, 2 * SEGMENT);
	disk_log_close(&the_log);
}

static void only_the_last_reservation_can_be_trimmed(void **state)
{
	uint64_t a, b;

	(void)state;
	log_open(4, 100);
	a = reserve(DISK_LOG_NEW, BATCH);
	b = reserve(DISK_LOG_NEW, BATCH);
	disk_log_trim(&the_log, a, BATCH, BLOCK);
	disk_log_trim(&the_log, b, BATCH, BLOCK);
	assert_int_equal(reserve(DISK_LOG_NEW, BATCH), b + BLOCK);
	disk_log_close(&the_log);
}

static void a_full_table_says_so(void **state)
{
	uint64_t offset, handle, first;

	(void)state;
	log_open(4, 3);
	offset = reserve(DISK_LOG_NEW, BATCH);
	first = add(offset, 10);
	for (uint32_t i = 1; i < 3; i++)
		add(offset + i * 10, 10);
	assert_int_equal(disk_log_add(&the_log, offset + 30, 10, 1, &handle), -ENOSPC);
	disk_log_drop(&the_log, first);
	assert_int_equal(add(offset + 30, 10), first);
	assert_int_equal(disk_log_add(&the_log, offset + 40, 10, 1, &handle), -ENOSPC);
	disk_log_close(&the_log);
}

static void a_full_summary_says_so(void **state)
{
	uint64_t offset, handle, moving;

	(void)state;
	log_open(4, 10000);
	offset = reserve(DISK_LOG_NEW, SEGMENT);
	for (uint32_t i = 0; i < DISK_LOG_SEGMENT_OBJECTS; i++)
		handle = add(offset + i, 1);
	assert_int_equal(disk_log_add(&the_log, offset + 5000, 1, 1, &handle), -ENOSPC);
	moving = add(reserve(DISK_LOG_NEW, BATCH), 1);
	assert_int_equal(disk_log_move(&the_log, moving, disk_log_place_now(&the_log, moving), offset + 5000), 0);
	assert_int_equal(disk_log_usage(&the_log).objects, DISK_LOG_SEGMENT_OBJECTS + 1);
	disk_log_close(&the_log);
}

static void a_dropped_object_does_not_move(void **state)
{
	disk_log_place from;
	uint64_t handle;

	(void)state;
	log_open(4, 100);
	handle = add(reserve(DISK_LOG_NEW, BATCH), 100);
	from = disk_log_place_now(&the_log, handle);
	disk_log_drop(&the_log, handle);
	assert_int_equal(disk_log_move(&the_log, handle, from, reserve(DISK_LOG_CLEANED, BATCH)), 0);
	assert_int_equal(the_log.segments[0].live_bytes, 0);
	assert_int_equal(the_log.segments[1].live_bytes, 0);
	disk_log_close(&the_log);
}

/* A segment with readers, or that is held, is not freed; with neither it is. */
static void a_segment_in_use_is_not_freed(void **state)
{
	disk_log_place place;
	uint64_t handle;

	(void)state;
	log_open(4, 100);
	handle = add(reserve(DISK_LOG_NEW, SEGMENT), 100);
	reserve(DISK_LOG_NEW, BATCH); /* so the first one is full */
	place = disk_log_pin(&the_log, handle);
	disk_log_hold(&the_log, 0);
	disk_log_drop(&the_log, handle);
	disk_log_free_empty(&the_log);
	assert_int_equal(the_log.segments[0].state, DISK_LOG_FULL);
	disk_log_unpin(&the_log, place);
	disk_log_free_empty(&the_log);
	assert_int_equal(the_log.segments[0].state, DISK_LOG_FULL);
	disk_log_release(&the_log, 0);
	disk_log_free_empty(&the_log);
	assert_int_equal(the_log.segments[0].state, DISK_LOG_FREE);
	disk_log_close(&the_log);
}

/* A segment's summary is full of small objects, of which all are live: nothing would be gained by moving them. */
static void a_segment_of_small_objects_is_no_victim(void **state)
{
	uint64_t handles[2048], offset;

	(void)state;
	log_open(4, 10000);
	offset = reserve(DISK_LOG_NEW, 64 << 10);
	for (uint32_t i = 0; i < 2048; i++)
		handles[i] = add(offset + i * 32, 32);
	reserve(DISK_LOG_NEW, LEAST); /* closes it */
	assert_int_equal(the_log.segments[0].state, DISK_LOG_FULL);
	assert_int_equal(disk_log_victim(&the_log, sys_now_ns()), DISK_LOG_NO_SEGMENT);
	for (uint32_t i = 0; i < 1024; i++)
		disk_log_drop(&the_log, handles[i]);
	assert_int_equal(disk_log_victim(&the_log, sys_now_ns()), 0);
	the_log.segments[0].leave_until_ns = sys_now_ns() + 1000000000u;
	assert_int_equal(disk_log_victim(&the_log, sys_now_ns()), DISK_LOG_NO_SEGMENT);
	assert_int_equal(disk_log_victim(&the_log, sys_now_ns() + 2000000000u), 0);
	disk_log_close(&the_log);
}

static void openings_are_never_the_same(void **state)
{
	uint64_t last = 0;

	(void)state;
	log_open(4, 100);
	for (int i = 0; i < 100; i++) {
		uint64_t offset = reserve(DISK_LOG_NEW, SEGMENT);

		assert_true(disk_log_segment_at(&the_log, offset)->opening > last);
		last = disk_log_segment_at(&the_log, offset)->opening;
		disk_log_free_empty(&the_log);
	}
	disk_log_close(&the_log);
}

static void metadata_is_small(void **state)
{
	(void)state;
	assert_int_equal(sizeof(struct disk_log_segment), 48); /* as disk_log.h says */
	assert_int_equal(sizeof(struct disk_log_entry), 16);
}

/* ---- with threads ---- */

enum { THREADS = 3, ITEMS = 2000, RACE_SEGMENTS = 6, GRANULE = 512 };

/* Whoever sets `owned` may touch the rest. */
struct item {
	_Atomic int owned;
	int live;
	uint64_t handle, tag;
};

static struct item items[ITEMS];
static uint64_t shadow[RACE_SEGMENTS * SEGMENT / GRANULE]; /* the disk: plain memory, so that sanitizers see races */
static _Atomic int stopping;
static _Atomic uint64_t wrong, reads;

static int own(struct item *item)
{
	int nobody = 0;

	return atomic_compare_exchange_strong(&item->owned, &nobody, 1);
}

static void disown(struct item *item)
{
	atomic_store(&item->owned, 0);
}

static void read_item(const struct item *item)
{
	disk_log_place place = disk_log_pin(&the_log, item->handle);

	for (uint32_t i = 0; i < disk_log_bytes(place) / GRANULE; i++)
		if (shadow[disk_log_offset(place) / GRANULE + i] != item->tag)
			atomic_fetch_add(&wrong, 1);
	if (disk_log_checksum(&the_log, item->handle) != ~item->tag)
		atomic_fetch_add(&wrong, 1);
	disk_log_unpin(&the_log, place);
	atomic_fetch_add_explicit(&reads, 1, memory_order_relaxed);
}

static void *reader(void *arg)
{
	uint64_t random = (uintptr_t)arg;

	while (!atomic_load(&stopping)) {
		struct item *item = &items[page_random(&random, ITEMS)];

		if (!own(item))
			continue;
		if (item->live) {
			read_item(item);
			if (page_random(&random, 256) == 0) {
				disk_log_drop(&the_log, item->handle);
				item->live = 0;
			}
		}
		disown(item);
	}
	return NULL;
}

static void write_shadow(uint64_t offset, uint32_t bytes, uint64_t tag)
{
	for (uint32_t i = 0; i < bytes / GRANULE; i++)
		shadow[offset / GRANULE + i] = tag;
}

static void write_item(struct item *item)
{
	uint32_t bytes = (uint32_t)(1 + below(8)) * GRANULE, got;
	uint64_t offset;

	if (disk_log_reserve(&the_log, DISK_LOG_NEW, bytes, bytes, SPARE, &offset, &got))
		return;
	item->tag = mix(random_state++);
	disk_log_write_begins(&the_log, offset);
	write_shadow(offset, bytes, item->tag);
	item->live = disk_log_add(&the_log, offset, bytes, ~item->tag, &item->handle) == 0;
	disk_log_write_ends(&the_log, offset);
}

/* An object that was read in the victim, which is held, goes on to another segment, if it is still there. */
static void move_item(uint64_t handle, uint64_t victim)
{
	disk_log_place from = disk_log_place_now(&the_log, handle);
	uint64_t to;
	uint32_t got;

	if (from == 0 || disk_log_offset(from) / SEGMENT != victim ||
	    disk_log_reserve(&the_log, DISK_LOG_CLEANED, disk_log_bytes(from), disk_log_bytes(from), 0, &to, &got))
		return;
	disk_log_write_begins(&the_log, to);
	write_shadow(to, disk_log_bytes(from), shadow[disk_log_offset(from) / GRANULE]);
	disk_log_move(&the_log, handle, from, to);
	disk_log_write_ends(&the_log, to);
}

static void clean_shadow(void)
{
	int32_t victim = disk_log_victim(&the_log, sys_now_ns());
	const uint32_t *summary = the_log.summaries + (size_t)victim * DISK_LOG_SEGMENT_OBJECTS;

	if (victim == DISK_LOG_NO_SEGMENT)
		return;
	disk_log_hold(&the_log, victim);
	for (uint32_t i = 0; i < the_log.segments[victim].objects; i++)
		move_item(summary[i], (uint64_t)victim);
	disk_log_release(&the_log, victim);
}

static void writer_turn(void)
{
	struct item *item = &items[below(ITEMS)];
	int32_t taken;

	if (own(item)) {
		if (!item->live)
			write_item(item);
		disown(item);
	}
	disk_log_free_empty(&the_log);
	if (below(64) == 0)
		clean_shadow();
	if (below(64) == 0 && (taken = disk_log_take_blocks(&the_log, 0)) != DISK_LOG_NO_SEGMENT)
		disk_log_blocks_given(&the_log, taken, (int)below(2));
}

static void readers_and_droppers_beside_the_writer(void **state)
{
	pthread_t threads[THREADS];
	uint64_t live = 0;

	(void)state;
	log_open(RACE_SEGMENTS, ITEMS);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, (void *)(random_state + i)), 0);
	for (uint64_t until = now_ns() + 3000000000u; now_ns() < until;)
		writer_turn();
	stopping = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	print_message("  %lu reads, %lu openings of segments\n", reads, the_log.openings);
	assert_int_equal(wrong, 0);
	assert_true(reads > 0);
	for (int i = 0; i < ITEMS; i++)
		if (items[i].live) {
			live++;
			read_item(&items[i]);
			disk_log_drop(&the_log, items[i].handle);
		}
	assert_int_equal(wrong, 0);
	assert_true(live > 0);
	assert_int_equal(disk_log_usage(&the_log).objects + disk_log_usage(&the_log).live_bytes, 0);
	for (uint32_t i = 0; i < the_log.nsegments; i++)
		assert_int_equal(the_log.segments[i].readers + the_log.segments[i].live_bytes, 0);
	disk_log_close(&the_log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whatever_happens_it_agrees_with_the_model),
		cmocka_unit_test(the_spare_segments_are_for_cleaning),
		cmocka_unit_test(the_end_of_a_segment_is_used),
		cmocka_unit_test(only_the_last_reservation_can_be_trimmed),
		cmocka_unit_test(a_full_table_says_so),
		cmocka_unit_test(a_full_summary_says_so),
		cmocka_unit_test(a_dropped_object_does_not_move),
		cmocka_unit_test(a_segment_in_use_is_not_freed),
		cmocka_unit_test(a_segment_of_small_objects_is_no_victim),
		cmocka_unit_test(openings_are_never_the_same),
		cmocka_unit_test(metadata_is_small),
		cmocka_unit_test(readers_and_droppers_beside_the_writer),
	};

	random_state = test_seed();
	print_message("LARDER_TEST_SEED=%lu\n", random_state);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
