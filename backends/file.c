/*
 * The file tier: pages on disk, in a log (disk_log.h) over a file or a block device (disk.h).
 *
 * Writes: objects are gathered in a batch, back to back, and a batch is one write of up to 256 KiB. Reads: just the
 * blocks that an object lies in; what lies close together is read at once. Every page that comes back is compared with
 * the checksum of what was written, XXH3 (Collet) with a seed of the process's own, of the page itself: it notices
 * damage, blocks of something else, and blocks that were never written.
 *
 * Threads: the writer owns batches and cleaning. Each thread that reads has its own queue, in its scratch.
 */
#include "codec.h"
#include "disk.h"
#include "disk_log.h"
#include "log.h"
#include "seal.h"

#include <xxhash.h>

enum {
	BATCH_BYTES = 256 << 10,
	BATCHES = 8,
	BATCH_LEAST_BYTES = 16 << 10, /* less is not left over at the end of a segment */
	RESERVE_SEGMENTS = 2,	      /* kept free for cleaning */
	KEPT_BLOCKS_SEGMENTS = 8,     /* free segments whose blocks are kept, to be written to again */

	QUEUE_DEPTH = 128,
	FETCHES = 64,
	ARENA_BYTES = 512 << 10,
	ARENA_UNIT = 4096,
	ARENA_UNITS = ARENA_BYTES / ARENA_UNIT,
	RUN_GAP_BYTES = 4 << 10,
	RUN_MAX_BYTES = 256 << 10,
	TRIES = 3,
	READ_BYTES = 4096,
	DIRECT_BYTES = 16 << 10,
	SEALED_MAX_BYTES = LARDER_OBJECT_MAX_BYTES + SEAL_TAG_BYTES,
	BLOCK_MOST_BYTES = 4096,
	SINGLE_BYTES = 16 << 10, /* an object's blocks */
};

/* What one fetch may need at most must fit into an empty arena, or it would wait for ever. An object that is not
 * aligned lies in three units. */
_Static_assert(LARDER_FETCH_MAX_PAGES *(3 * ARENA_UNIT + RUN_GAP_BYTES) <= ARENA_BYTES &&
		       (int)SEALED_MAX_BYTES <= 2 * ARENA_UNIT,
	       "a fetch fits into the arena");

#define REFUSE_MIN_NS	((uint64_t)1000000000u)
#define REFUSE_MAX_NS	((uint64_t)64000000000u)
#define SAY_INTERVAL_NS ((uint64_t)60000000000u)
#define STALL_NS	((uint64_t)500000000u)

/* Whose a transfer is: the first member of every owner. */
enum owner_kind { OWNER_FETCH, OWNER_BATCH, OWNER_CLEANER, OWNER_PUNCHER, OWNER_SINGLE };

struct owner {
	enum owner_kind kind;
};

struct batch {
	struct owner owner;
	struct larder_batch public;
	struct disk_transfer write;
	char *buffer;
	uint64_t offset;
	uint32_t reserved, used;
	int taken, is_sent, is_done;
};

/* Cleaning goes round in these steps, one victim at a time. */
enum cleaner_step { CLEANER_IDLE, CLEANER_READS, CLEANER_COPIES, CLEANER_WRITES };

enum { CHUNK_OBJECTS = 1024 };

struct cleaner {
	struct owner owner;
	enum cleaner_step step;
	struct disk_transfer transfer;
	int is_done;
	int32_t victim;
	uint32_t next; /* of the victim's summary */
	char *segment, *chunk;
	uint64_t offset; /* of the chunk */
	uint32_t reserved, used, objects;
	uint64_t handles[CHUNK_OBJECTS];
	disk_log_place from[CHUNK_OBJECTS];
	uint64_t to[CHUNK_OBJECTS];
};

/* A segment whose blocks are being given back. */
struct puncher {
	struct owner owner;
	int is_busy, said;
	int32_t segment;
	uint64_t not_before_ns;
	struct disk_transfer transfer;
};

struct larder_file {
	struct larder_disk disk;
	struct disk_log log;
	struct larder_seal *seal; /* NULL = nothing is encrypted */
	uint64_t seed;
	_Atomic unsigned threads; /* that have an arena */
	uint32_t read_bytes;	  /* reads are of multiples of it */
	struct larder_disk_stats *stats;

	/* the writer's */
	char *buffers;
	struct batch batches[BATCHES];
	struct cleaner cleaner;
	struct puncher puncher;
	_Atomic unsigned writing; /* batches, a cleaner and a puncher at work */
	uint64_t refuse_ns, refuse_until_ns;
	uint64_t said_at_ns; /* when it was last said that the device refuses */
	int said;	     /* it has been said, and not yet that it is over */
};

enum { BUFFERS_BYTES = BATCHES * BATCH_BYTES + DISK_LOG_SEGMENT_BYTES + BATCH_BYTES };

struct fetch_state;

struct run {
	struct disk_transfer read;
	struct fetch_state *fetch;
	unsigned first_unit, units;
};

struct fetch_state {
	struct owner owner;
	struct larder_fetch *public;
	struct fetch_state *next;
	int taken;
	unsigned pending, runs;
	struct run run[LARDER_FETCH_MAX_PAGES];
	uint8_t run_of[LARDER_FETCH_MAX_PAGES];
	disk_log_place place[LARDER_FETCH_MAX_PAGES];
};

struct file_scratch {
	struct disk_queue queue;
	char *arena, *single;
	uint64_t units_taken[ARENA_UNITS / 64];
	struct fetch_state *reaped, **reaped_end;
	unsigned batches_done; /* but not reaped: the writer's */
	struct fetch_state fetches[FETCHES];
	struct owner single_owner;
	char object[SEALED_MAX_BYTES], page[LARDER_PAGE_BYTES];
	_Alignas(4096) char direct[DIRECT_BYTES]; /* program threads */
};

/* ---- opening ---- */

static void close_all(struct larder_file *f)
{
	if (f->buffers)
		sys_munmap(f->buffers, BUFFERS_BYTES);
	if (f->seal)
		seal_close(f->seal);
	if (f->log.segments)
		disk_log_close(&f->log);
	disk_close(&f->disk);
}

static void set_buffers(struct larder_file *f)
{
	for (unsigned i = 0; i < BATCHES; i++) {
		f->batches[i].owner.kind = OWNER_BATCH;
		f->batches[i].buffer = f->buffers + i * BATCH_BYTES;
	}
	f->cleaner.owner.kind = OWNER_CLEANER;
	f->puncher.owner.kind = OWNER_PUNCHER;
	f->cleaner.segment = f->buffers + BATCHES * BATCH_BYTES;
	f->cleaner.chunk = f->cleaner.segment + DISK_LOG_SEGMENT_BYTES;
}

static void say_what_it_is(const struct larder_file *f)
{
	f->stats->limit_bytes = f->disk.bytes;
	f->stats->is_device = (uint64_t)f->disk.is_device;
	f->stats->is_encrypted = f->seal != NULL;
}

static int file_open(void *backend, const struct larder_backend_setup *setup)
{
	struct larder_file *f = backend;
	const struct disk_place place = { .dir = setup->dir, .device = setup->device, .bytes = setup->bytes };
	int err;

	f->stats = f->disk.stats = setup->stats;
	f->disk.seam = setup->seam;
	err = disk_open(&f->disk, &place);
	if (err)
		return err;
	if (f->disk.bytes > DISK_LOG_MAX_BYTES) /* the rest of such a device is not used */
		f->disk.bytes = DISK_LOG_MAX_BYTES;
	err = disk_log_open(&f->log, f->disk.bytes, setup->max_objects);
	f->buffers = sys_map(BUFFERS_BYTES);
	if (f->buffers)
		sys_madvise(f->buffers, BUFFERS_BYTES, MADV_WIPEONFORK); /* what is being written is not the child's */
	f->seal = setup->encrypt ? seal_open() : NULL;
	if (!f->buffers || (setup->encrypt && !f->seal))
		err = -ENOMEM;
	if (f->disk.block_bytes > BLOCK_MOST_BYTES)
		err = -EOPNOTSUPP;
	if (sys_call3(SYS_getrandom, (long)&f->seed, sizeof(f->seed), 0) != sizeof(f->seed))
		err = -EIO;
	if (err) {
		close_all(f);
		return err;
	}
	set_buffers(f);
	f->read_bytes = f->disk.block_bytes > READ_BYTES ? f->disk.block_bytes : READ_BYTES;
	say_what_it_is(f);
	return 0;
}

static void file_close(void *backend)
{
	close_all(backend);
}

static int file_thread_open(void *backend, void *scratch)
{
	struct larder_file *f = backend;
	struct file_scratch *s = scratch;
	int err;

	s->arena = sys_map(ARENA_BYTES + SINGLE_BYTES);
	if (!s->arena)
		return -ENOMEM;
	sys_madvise(s->arena, ARENA_BYTES + SINGLE_BYTES, MADV_DONTFORK);
	s->single = s->arena + ARENA_BYTES;
	s->single_owner.kind = OWNER_SINGLE;
	s->reaped_end = &s->reaped;
	for (unsigned i = 0; i < FETCHES; i++)
		s->fetches[i].owner.kind = OWNER_FETCH;
	err = disk_queue_open(&s->queue, &f->disk, QUEUE_DEPTH, s->arena, ARENA_BYTES + SINGLE_BYTES);
	if (err)
		sys_munmap(s->arena, ARENA_BYTES + SINGLE_BYTES);
	else
		atomic_fetch_add(&f->threads, 1);
	return err;
}

static void file_thread_close(void *backend, void *scratch)
{
	struct file_scratch *s = scratch;

	atomic_fetch_sub(&((struct larder_file *)backend)->threads, 1);
	disk_queue_close(&s->queue);
	sys_munmap(s->arena, ARENA_BYTES + SINGLE_BYTES);
}

/* ---- objects ---- */

static uint64_t checksum(const struct larder_file *f, const void *page)
{
	return XXH3_64bits_withSeed(page, LARDER_PAGE_BYTES, f->seed);
}

static uint32_t sealed_bytes(const struct larder_file *f, size_t bytes)
{
	return (uint32_t)bytes + (f->seal ? SEAL_TAG_BYTES : 0);
}

/* Write an object as it lies on disk. */
static void put_object(const struct larder_file *f, uint64_t offset, const void *object, size_t bytes, char *to)
{
	if (f->seal)
		seal(f->seal, disk_log_segment_at(&f->log, offset)->opening,
		     (uint32_t)(offset % DISK_LOG_SEGMENT_BYTES), object, bytes, to);
	else
		__builtin_memcpy(to, object, bytes);
}

/* The object that lies at `place`, of which `from` was read. Returns its size, or 0: damaged. */
static size_t get_object(const struct larder_file *f, disk_log_place place, const char *from,
			 char object[LARDER_OBJECT_MAX_BYTES])
{
	uint64_t offset = disk_log_offset(place);
	size_t bytes = disk_log_bytes(place);

	if (f->seal) {
		bytes -= SEAL_TAG_BYTES;
		if (unseal(f->seal, disk_log_segment_at(&f->log, offset)->opening,
			   (uint32_t)(offset % DISK_LOG_SEGMENT_BYTES), from, bytes, object))
			return 0;
	} else {
		__builtin_memcpy(object, from, bytes);
	}
	return bytes;
}

static int check_page(struct larder_file *f, struct file_scratch *s, uint64_t handle, disk_log_place place,
		      const char *from, void *page)
{
	const char *object = from;
	size_t bytes = disk_log_bytes(place);

	if (f->seal) {
		bytes = get_object(f, place, from, s->object);
		object = s->object;
	}
	if (bytes && codec_expand(object, bytes, page) == 0 && checksum(f, page) == disk_log_checksum(&f->log, handle))
		return 0;
	return -EBADMSG;
}

static int get_page(struct larder_file *f, struct file_scratch *s, uint64_t handle, disk_log_place place,
		    const char *from, void *page)
{
	int err = check_page(f, s, handle, place, from, page);

	if (err)
		__atomic_fetch_add(&f->stats->mismatches, 1, __ATOMIC_RELAXED);
	return err;
}

/* What is read for an object: a device that is asked for less than 4 KiB is no faster, and what lies around the object
 * comes for nothing. */
static uint64_t block_start(const struct larder_file *f, disk_log_place place)
{
	return disk_log_offset(place) & ~(uint64_t)(f->read_bytes - 1);
}

static uint64_t block_end(const struct larder_file *f, disk_log_place place)
{
	return (disk_log_offset(place) + disk_log_bytes(place) + f->read_bytes - 1) & ~(uint64_t)(f->read_bytes - 1);
}

/* ---- what has completed ---- */

static void run_completed(struct file_scratch *s, struct run *run)
{
	struct fetch_state *fetch = run->fetch;

	if (--fetch->pending)
		return;
	fetch->next = NULL;
	*s->reaped_end = fetch;
	s->reaped_end = &fetch->next;
}

static void batch_done(struct file_scratch *s, struct batch *b)
{
	b->is_done = 1;
	s->batches_done++;
}

static void punch_ended(struct larder_file *f);

/* Give everything that has completed to its owner. */
static void dispatch(struct larder_file *f, struct file_scratch *s)
{
	struct disk_transfer *t;

	while ((t = disk_reap(&s->queue))) {
		const struct owner *owner = t->owner;

		switch (owner->kind) {
		case OWNER_FETCH:
			run_completed(s, (struct run *)t);
			break;
		case OWNER_BATCH:
			batch_done(s, t->owner);
			break;
		case OWNER_CLEANER:
			f->cleaner.is_done = 1;
			break;
		case OWNER_PUNCHER:
			punch_ended(f);
			break;
		case OWNER_SINGLE: /* disk_transfer_now() takes it */
			break;
		}
	}
}

static void file_wait(void *backend, void *scratch, _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
	struct file_scratch *s = scratch;

	(void)backend;
	if (s->reaped || s->batches_done)
		disk_flush(&s->queue);
	else
		disk_wait(&s->queue, word, seen, timeout_ns);
}

static int file_notify(void *scratch)
{
	return disk_queue_notify(&((struct file_scratch *)scratch)->queue);
}

static int file_is_ready(const void *scratch)
{
	const struct file_scratch *s = scratch;

	return s->reaped || disk_is_ready(&s->queue);
}

/* ---- one page, now ---- */

/* Read an object that stays where it is, to s->single. */
static int read_place(struct larder_file *f, struct file_scratch *s, uint64_t handle, disk_log_place place, void *page)
{
	uint64_t start = block_start(f, place);
	struct disk_transfer t = {
		.offset = start,
		.buffer = s->single,
		.bytes = (uint32_t)(block_end(f, place) - start),
		.kind = DISK_READ,
		.owner = &s->single_owner,
	};
	int32_t result = disk_transfer_now(&s->queue, &t);

	return result < 0 ? result : get_page(f, s, handle, place, s->single + (disk_log_offset(place) - start), page);
}

static int read_once(struct larder_file *f, struct file_scratch *s, uint64_t handle, void *page)
{
	disk_log_place place = disk_log_pin(&f->log, handle);
	int err = read_place(f, s, handle, place, page);

	disk_log_unpin(&f->log, place);
	return err;
}

/* Only what is lost for good is said here: the page is named by whoever wanted it. */
static void report_unreadable(const struct larder_file *f, uint64_t handle, int err)
{
	disk_log_place place = disk_log_place_now(&f->log, handle);
	struct larder_text t = { 0 };

	text_string(&t, "swap: ");
	text_number(&t, disk_log_bytes(place));
	text_string(&t, " bytes at offset ");
	text_number(&t, disk_log_offset(place));
	text_string(&t, err == -EBADMSG ? " are not what was written there (errno " : " cannot be read (errno ");
	text_signed(&t, -err);
	text_string(&t, ")");
	log_line(&t);
}

static int file_get(void *backend, void *scratch, uint64_t handle, void *page)
{
	struct larder_file *f = backend;
	int err = -EIO;

	for (int i = 0; i < TRIES && err; i++) {
		if (i)
			__atomic_fetch_add(&f->stats->retries, 1, __ATOMIC_RELAXED);
		err = read_once(f, scratch, handle, page);
	}
	if (err)
		report_unreadable(f, handle, err);
	return err;
}

/* ---- program threads ---- */

static int file_reopen(const void *backend)
{
	return disk_reopen(&((const struct larder_file *)backend)->disk);
}

/* Read the blocks from the first page's on that the fetch's pages lie in, all of which must be pinned. */
static int read_span(struct larder_file *f, struct file_scratch *s, int fd, const struct larder_fetch *fetch,
		     const disk_log_place *places, char *pages)
{
	struct disk_transfer t = { .offset = UINT64_MAX, .buffer = s->direct, .kind = DISK_READ };
	uint64_t end = 0;
	int err = 0;

	for (unsigned i = 0; i < fetch->pages; i++) {
		t.offset = block_start(f, places[i]) < t.offset ? block_start(f, places[i]) : t.offset;
		end = block_end(f, places[i]) > end ? block_end(f, places[i]) : end;
	}
	if (end - t.offset > DIRECT_BYTES)
		return -E2BIG;
	t.bytes = (uint32_t)(end - t.offset);
	disk_read_now(&f->disk, fd, &t);
	if (t.result < 0)
		return t.result;
	for (unsigned i = 0; i < fetch->pages && !err; i++)
		err = get_page(f, s, fetch->handles[i], places[i], s->direct + (disk_log_offset(places[i]) - t.offset),
			       pages + i * LARDER_PAGE_BYTES);
	return err;
}

static int file_fetch_now(void *backend, void *scratch, int fd, struct larder_fetch *fetch, char *pages)
{
	struct larder_file *f = backend;
	disk_log_place places[LARDER_FETCH_MAX_PAGES];
	int err;

	for (unsigned i = 0; i < fetch->pages; i++)
		places[i] = disk_log_pin(&f->log, fetch->handles[i]);
	err = read_span(f, scratch, fd, fetch, places, pages);
	for (unsigned i = 0; i < fetch->pages; i++)
		disk_log_unpin(&f->log, places[i]);
	return err;
}

/* ---- fetches ---- */

static int units_are_free(const struct file_scratch *s, unsigned first, unsigned units)
{
	for (unsigned i = first; i < first + units; i++)
		if (s->units_taken[i / 64] >> i % 64 & 1)
			return 0;
	return 1;
}

static void mark_units(struct file_scratch *s, unsigned first, unsigned units)
{
	for (unsigned i = first; i < first + units; i++)
		s->units_taken[i / 64] ^= (uint64_t)1 << i % 64;
}

/* First fit. Returns 0 and the run has its buffer, or -EBUSY. */
static int take_units(struct file_scratch *s, struct run *run)
{
	run->units = (run->read.bytes + ARENA_UNIT - 1) / ARENA_UNIT;
	for (unsigned first = 0; first + run->units <= ARENA_UNITS; first++) {
		if (s->units_taken[first / 64] == UINT64_MAX && first % 64 == 0) {
			first += 63;
			continue;
		}
		if (units_are_free(s, first, run->units)) {
			mark_units(s, first, run->units);
			run->first_unit = first;
			run->read.buffer = s->arena + first * ARENA_UNIT;
			return 0;
		}
	}
	return -EBUSY;
}

/* Page i joins the last run, or begins another. */
static void plan_page(const struct larder_file *f, struct fetch_state *fetch, unsigned i)
{
	uint64_t start = block_start(f, fetch->place[i]), end = block_end(f, fetch->place[i]);
	struct run *run = fetch->runs ? &fetch->run[fetch->runs - 1] : NULL;

	if (run && start >= run->read.offset && start <= run->read.offset + run->read.bytes + RUN_GAP_BYTES &&
	    end - run->read.offset <= RUN_MAX_BYTES) {
		if (end > run->read.offset + run->read.bytes)
			run->read.bytes = (uint32_t)(end - run->read.offset);
	} else {
		run = &fetch->run[fetch->runs++];
		*run = (struct run){ .fetch = fetch };
		run->read.offset = start;
		run->read.bytes = (uint32_t)(end - start);
		run->read.kind = DISK_READ;
		run->read.owner = fetch;
	}
	fetch->run_of[i] = (uint8_t)(fetch->runs - 1);
}

static struct fetch_state *take_fetch(struct file_scratch *s)
{
	for (unsigned i = 0; i < FETCHES; i++)
		if (!s->fetches[i].taken)
			return &s->fetches[i];
	return NULL;
}

static void release_fetch(struct larder_file *f, struct file_scratch *s, struct fetch_state *fetch, unsigned runs)
{
	for (unsigned i = 0; i < runs; i++)
		mark_units(s, fetch->run[i].first_unit, fetch->run[i].units);
	for (unsigned i = 0; i < fetch->public->pages; i++)
		disk_log_unpin(&f->log, fetch->place[i]);
	fetch->taken = 0;
}

static int file_fetch_begin(void *backend, void *scratch, struct larder_fetch *public)
{
	struct larder_file *f = backend;
	struct file_scratch *s = scratch;
	struct fetch_state *fetch = take_fetch(s);
	unsigned ready = 0;

	if (!fetch)
		return -EBUSY;
	fetch->taken = 1;
	fetch->public = public;
	fetch->runs = 0;
	for (unsigned i = 0; i < public->pages; i++) {
		fetch->place[i] = disk_log_pin(&f->log, public->handles[i]);
		plan_page(f, fetch, i);
	}
	if (s->queue.in_flight + fetch->runs <= QUEUE_DEPTH - BATCHES - 3)
		while (ready < fetch->runs && take_units(s, &fetch->run[ready]) == 0)
			ready++;
	if (ready < fetch->runs) {
		release_fetch(f, s, fetch, ready);
		return -EBUSY;
	}
	public->state = fetch;
	fetch->pending = fetch->runs;
	for (unsigned i = 0; i < fetch->runs; i++)
		disk_submit(&s->queue, &fetch->run[i].read);
	return 0;
}

static void file_fetch_flush(void *backend, void *scratch)
{
	struct file_scratch *s = scratch;

	(void)backend;
	disk_flush(&s->queue);
}

static struct larder_fetch *file_fetch_reap(void *backend, void *scratch)
{
	struct file_scratch *s = scratch;
	struct fetch_state *fetch;

	dispatch(backend, s);
	fetch = s->reaped;
	if (!fetch)
		return NULL;
	s->reaped = fetch->next;
	if (!s->reaped)
		s->reaped_end = &s->reaped;
	return fetch->public;
}

static int file_fetch_page(void *backend, void *scratch, struct larder_fetch *public, unsigned i, void *page)
{
	struct larder_file *f = backend;
	const struct fetch_state *fetch = public->state;
	const struct run *run = &fetch->run[fetch->run_of[i]];
	disk_log_place place = fetch->place[i];

	if (run->read.result > 0 &&
	    get_page(f, scratch, public->handles[i], place,
		     (char *)run->read.buffer + (disk_log_offset(place) - run->read.offset), page) == 0)
		return 0;
	__atomic_fetch_add(&f->stats->retries, 1, __ATOMIC_RELAXED);
	return file_get(backend, scratch, public->handles[i], page);
}

static void file_fetch_end(void *backend, void *scratch, struct larder_fetch *public)
{
	struct fetch_state *fetch = public->state;

	release_fetch(backend, scratch, fetch, fetch->runs);
}

static int file_shares_blocks(void *backend, uint64_t handle, uint64_t other)
{
	const struct larder_file *f = backend;
	disk_log_place a = disk_log_place_now(&f->log, handle), b = disk_log_place_now(&f->log, other);

	return block_start(f, b) >= block_start(f, a) && block_end(f, b) <= block_end(f, a);
}

static uint64_t file_checksum(const void *backend, const char *page)
{
	return checksum(backend, page);
}

static uint64_t file_kept_checksum(const void *backend, uint64_t handle)
{
	return disk_log_checksum(&((const struct larder_file *)backend)->log, handle);
}

static void file_drop(void *backend, const uint64_t *handles, size_t n)
{
	for (size_t i = 0; i < n; i++)
		disk_log_drop(&((struct larder_file *)backend)->log, handles[i]);
}

/* ---- a device that fails ---- */

/* Once in a while: a device that fails now and then would fill the log. */
static void report_refusal(struct larder_file *f, int err)
{
	uint64_t now = sys_now_ns();
	struct larder_text t = { 0 };

	if (f->said || (f->said_at_ns && now - f->said_at_ns < SAY_INTERVAL_NS))
		return;
	f->said = 1;
	f->said_at_ns = now;
	text_string(&t, "swap: writing ");
	text_string(&t, err == -ETIMEDOUT ? "takes very long" : "has failed");
	text_string(&t, " (errno ");
	text_signed(&t, -err);
	text_string(&t, err == -ENOSPC	    ? ": no space is left"
			: err == -ETIMEDOUT ? ": the device does not answer"
					    : "");
	text_string(&t, "); pages stay in RAM until it works again");
	log_line(&t);
}

static void report_recovery(struct larder_file *f)
{
	struct larder_text t = { 0 };

	if (!f->said)
		return;
	f->said = 0;
	text_string(&t, "swap: writing works again");
	log_line(&t);
}

static int is_late(const struct disk_transfer *t, int is_under_way, uint64_t now)
{
	return is_under_way && now - t->started_ns > STALL_NS;
}

/* Is a write under way that should have been done long ago? */
static int is_stalled(const struct larder_file *f)
{
	const struct cleaner *c = &f->cleaner;
	uint64_t now = sys_now_ns();

	for (unsigned i = 0; i < BATCHES; i++)
		if (is_late(&f->batches[i].write, f->batches[i].is_sent && !f->batches[i].is_done, now))
			return 1;
	return is_late(&c->transfer, (c->step == CLEANER_READS || c->step == CLEANER_WRITES) && !c->is_done, now);
}

/* Why nothing is written now; 0: it is. A device that stalls gets no more until it has done what it has. */
static int refuses(struct larder_file *f)
{
	if (is_stalled(f)) {
		report_refusal(f, -ETIMEDOUT);
		__atomic_store_n(&f->stats->refusing, (uint64_t)ETIMEDOUT, __ATOMIC_RELAXED);
		return -ETIMEDOUT;
	}
	if (f->refuse_until_ns == 0 || sys_now_ns() >= f->refuse_until_ns)
		return 0;
	return -(int)__atomic_load_n(&f->stats->refusing, __ATOMIC_RELAXED);
}

/* A device that has failed is left alone for a second, then for twice as long each time. Writes that were under way
 * when it failed, and fail too, are not another time. */
static void refuse(struct larder_file *f, int err)
{
	uint64_t first = f->disk.seam && f->disk.seam->refuse_ns ? f->disk.seam->refuse_ns : REFUSE_MIN_NS;

	if (f->refuse_until_ns && sys_now_ns() < f->refuse_until_ns)
		return;
	f->refuse_ns = f->refuse_ns ? 2 * f->refuse_ns : first;
	if (f->refuse_ns > REFUSE_MAX_NS)
		f->refuse_ns = REFUSE_MAX_NS;
	f->refuse_until_ns = sys_now_ns() + f->refuse_ns;
	report_refusal(f, err);
	__atomic_store_n(&f->stats->refusing, (uint64_t)-err, __ATOMIC_RELAXED);
}

static void has_written(struct larder_file *f)
{
	f->refuse_ns = f->refuse_until_ns = 0;
	report_recovery(f);
	__atomic_store_n(&f->stats->refusing, 0, __ATOMIC_RELAXED);
}

/* ---- cleaning ---- */

static uint32_t whole_blocks(const struct larder_file *f, uint32_t bytes)
{
	return (bytes + f->disk.block_bytes - 1) & ~(f->disk.block_bytes - 1);
}

static void begin_transfer(struct file_scratch *s, struct cleaner *c, enum disk_kind kind, uint64_t offset,
			   char *buffer, uint32_t bytes)
{
	c->is_done = 0;
	c->transfer = (struct disk_transfer){
		.offset = offset, .buffer = buffer, .bytes = bytes, .kind = (uint8_t)kind, .owner = c
	};
	while (disk_submit(&s->queue, &c->transfer) == -EBUSY)
		disk_wait(&s->queue, NULL, 0, 0);
	disk_flush(&s->queue);
}

static void end_cleaning(struct larder_file *f)
{
	f->cleaner.step = CLEANER_IDLE;
	disk_log_release(&f->log, f->cleaner.victim);
	atomic_fetch_sub(&f->writing, 1);
}

/* Few are free, or much of what is taken is dead. */
static int should_clean(const struct larder_file *f)
{
	const struct disk_log *log = &f->log;
	uint32_t low = log->nsegments / 8 > 4 ? log->nsegments / 8 : 4;
	uint64_t taken = (uint64_t)(log->nsegments - log->nfree) * DISK_LOG_SEGMENT_BYTES;

	return log->nfree < low && atomic_load(&log->live_bytes) < taken / 8 * 7;
}

static void find_victim(struct larder_file *f, struct file_scratch *s)
{
	struct cleaner *c = &f->cleaner;

	if (!should_clean(f) || refuses(f))
		return;
	c->victim = disk_log_victim(&f->log, sys_now_ns());
	if (c->victim == DISK_LOG_NO_SEGMENT)
		return;
	/* Without this reader the segment could lose all it has, be filled again, and have an object of the same handle
	 * and size at the same place, which would be taken for the one that was copied. */
	disk_log_hold(&f->log, c->victim);
	c->next = 0;
	c->step = CLEANER_READS;
	atomic_fetch_add(&f->writing, 1);
	begin_transfer(s, c, DISK_READ, (uint64_t)c->victim * DISK_LOG_SEGMENT_BYTES, c->segment,
		       whole_blocks(f, f->log.segments[c->victim].used_bytes));
}

/* The victim, or some of it, cannot be read now. That may pass, and its dead space is wanted. */
static void leave_victim(struct larder_file *f)
{
	uint64_t ns = f->disk.seam && f->disk.seam->refuse_ns ? f->disk.seam->refuse_ns : REFUSE_MAX_NS;

	f->log.segments[f->cleaner.victim].leave_until_ns = sys_now_ns() + ns;
}

/* What was read of an object is not what was written: read it by itself. Returns 0, -EBADMSG: it is damaged for good,
 * or why it cannot be read. */
static int read_again(struct larder_file *f, struct file_scratch *s, uint64_t handle, disk_log_place place)
{
	int err = -EBADMSG;

	__atomic_fetch_add(&f->stats->mismatches, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < TRIES && err; i++) {
		__atomic_fetch_add(&f->stats->retries, 1, __ATOMIC_RELAXED);
		err = read_place(f, s, handle, place, s->page);
	}
	return err;
}

static void add_to_chunk(struct larder_file *f, uint64_t handle, disk_log_place place, const char *from,
			 const char *plain)
{
	struct cleaner *c = &f->cleaner;

	c->handles[c->objects] = handle;
	c->from[c->objects] = place;
	c->to[c->objects++] = c->offset + c->used;
	if (plain)
		put_object(f, c->offset + c->used, plain, disk_log_bytes(place) - SEAL_TAG_BYTES, c->chunk + c->used);
	else
		__builtin_memcpy(c->chunk + c->used, from, disk_log_bytes(place));
	c->used += disk_log_bytes(place);
}

/*
 * Copy one object of the victim into the chunk, if it is live. Returns 0, or -ENOSPC: the chunk is full. One that is
 * damaged for good moves as it is, and whoever wants it will be told; else it would keep its segment.
 */
static int copy_object(struct larder_file *f, struct file_scratch *s, uint64_t handle)
{
	struct cleaner *c = &f->cleaner;
	disk_log_place place = disk_log_place_now(&f->log, handle);
	const char *from = c->segment + disk_log_offset(place) % DISK_LOG_SEGMENT_BYTES;
	int err;

	if (place == 0 || disk_log_offset(place) / DISK_LOG_SEGMENT_BYTES != (uint64_t)c->victim)
		return 0;
	if (c->objects == CHUNK_OBJECTS || c->used + disk_log_bytes(place) > c->reserved)
		return -ENOSPC;
	err = check_page(f, s, handle, place, from, s->page);
	if (err && disk_log_place_now(&f->log, handle) == place) {
		err = read_again(f, s, handle, place);
		from = err ? from : s->single + (disk_log_offset(place) - block_start(f, place));
	}
	if (disk_log_place_now(&f->log, handle) != place)
		return 0; /* it was dropped meanwhile, and so was its checksum */
	if (err && err != -EBADMSG)
		leave_victim(f); /* it stays where it may be read later */
	else
		add_to_chunk(f, handle, place, from, f->seal && !err ? s->object : NULL);
	return 0;
}

/* Fill a chunk from the victim, and write it; or end. */
static void copy_chunk(struct larder_file *f, struct file_scratch *s)
{
	struct cleaner *c = &f->cleaner;
	const struct disk_log_segment *victim = &f->log.segments[c->victim];
	const uint32_t *summary = f->log.summaries + (size_t)c->victim * DISK_LOG_SEGMENT_OBJECTS;
	uint32_t bytes;

	c->objects = c->used = 0;
	if (c->next >= victim->objects ||
	    disk_log_reserve(&f->log, DISK_LOG_CLEANED, BATCH_BYTES, BATCH_LEAST_BYTES, 0, &c->offset, &c->reserved)) {
		end_cleaning(f);
		return;
	}
	while (c->next < victim->objects && copy_object(f, s, summary[c->next]) == 0)
		c->next++;
	bytes = whole_blocks(f, c->used);
	__builtin_memset(c->chunk + c->used, 0, bytes - c->used);
	disk_log_trim(&f->log, c->offset, c->reserved, bytes);
	if (bytes == 0) {
		end_cleaning(f);
		return;
	}
	disk_log_write_begins(&f->log, c->offset);
	c->step = CLEANER_WRITES;
	begin_transfer(s, c, DISK_WRITE, c->offset, c->chunk, bytes);
}

/* A chunk is on disk: its objects are there from now on. */
static void move_chunk(struct larder_file *f)
{
	struct cleaner *c = &f->cleaner;

	for (uint32_t i = 0; i < c->objects; i++)
		if (disk_log_move(&f->log, c->handles[i], c->from[i], c->to[i]))
			__atomic_fetch_add(&f->stats->cleaned_bytes, disk_log_bytes(c->from[i]), __ATOMIC_RELAXED);
	disk_log_write_ends(&f->log, c->offset);
	c->step = CLEANER_COPIES;
}

static void go_on_cleaning(struct larder_file *f, struct file_scratch *s)
{
	struct cleaner *c = &f->cleaner;

	if (c->step == CLEANER_READS && c->is_done) {
		c->step = CLEANER_COPIES;
		if (c->transfer.result < 0) {
			leave_victim(f);
			end_cleaning(f);
		}
	}
	if (c->step == CLEANER_WRITES && c->is_done) {
		if (c->transfer.result < 0) {
			disk_log_write_ends(&f->log, c->offset);
			refuse(f, c->transfer.result);
			end_cleaning(f);
		} else {
			move_chunk(f);
		}
	}
	if (c->step == CLEANER_COPIES)
		copy_chunk(f, s);
	if (c->step == CLEANER_IDLE)
		find_victim(f, s);
}

/* ---- batches ---- */

static struct batch *batch_of(struct larder_batch *public)
{
	return (struct batch *)((char *)public - offsetof(struct batch, public));
}

static int file_batch_begin(void *backend, void *scratch, struct larder_batch **public)
{
	struct larder_file *f = backend;
	struct batch *b = NULL;
	int err = refuses(f);

	if (err)
		return err;
	for (unsigned i = 0; i < BATCHES && !b; i++)
		if (!f->batches[i].taken)
			b = &f->batches[i];
	if (!b)
		return -EBUSY;
	disk_log_free_empty(&f->log);
	err = disk_log_reserve(&f->log, DISK_LOG_NEW, BATCH_BYTES, BATCH_LEAST_BYTES, RESERVE_SEGMENTS, &b->offset,
			       &b->reserved);
	if (err) {
		go_on_cleaning(f, scratch);
		return f->cleaner.step == CLEANER_IDLE ? err : -EBUSY;
	}
	disk_log_write_begins(&f->log, b->offset);
	b->taken = 1;
	b->is_sent = b->is_done = 0;
	b->used = 0;
	b->public.objects = 0;
	b->public.result = 0;
	*public = &b->public;
	atomic_fetch_add(&f->writing, 1);
	return 0;
}

static int file_batch_add(void *backend, struct larder_batch *public, const struct larder_object *object, uint64_t tag)
{
	struct larder_file *f = backend;
	struct batch *b = batch_of(public);
	uint32_t sealed = sealed_bytes(f, object->size);
	int err;

	if (public->objects == LARDER_BATCH_MAX_OBJECTS || b->used + sealed > b->reserved)
		return -ENOSPC;
	err = disk_log_add(&f->log, b->offset + b->used, sealed, object->checksum, &public->handles[public->objects]);
	if (err)
		return err;
	put_object(f, b->offset + b->used, object->bytes, object->size, b->buffer + b->used);
	public->tags[public->objects++] = tag;
	b->used += sealed;
	return 0;
}

static void file_batch_write(void *backend, void *scratch, struct larder_batch *public)
{
	struct larder_file *f = backend;
	struct file_scratch *s = scratch;
	struct batch *b = batch_of(public);
	uint32_t bytes = whole_blocks(f, b->used);

	__builtin_memset(b->buffer + b->used, 0, bytes - b->used);
	disk_log_trim(&f->log, b->offset, b->reserved, bytes);
	b->write = (struct disk_transfer){
		.offset = b->offset,
		.buffer = b->buffer,
		.bytes = bytes,
		.kind = DISK_WRITE,
		.owner = b,
	};
	if (bytes == 0) {
		batch_done(s, b);
		return;
	}
	b->is_sent = 1;
	while (disk_submit(&s->queue, &b->write) == -EBUSY) /* fetches leave room for batches */
		disk_wait(&s->queue, NULL, 0, 0);
	disk_flush(&s->queue);
}

static struct larder_batch *file_batch_reap(void *backend, void *scratch)
{
	struct larder_file *f = backend;
	struct file_scratch *s = scratch;

	dispatch(f, s);
	for (unsigned i = 0; i < BATCHES; i++) {
		struct batch *b = &f->batches[i];

		if (!b->taken || !b->is_done)
			continue;
		b->is_sent = b->is_done = 0;
		s->batches_done--;
		b->public.result = b->write.bytes && b->write.result < 0 ? b->write.result : 0;
		disk_log_write_ends(&f->log, b->offset);
		if (b->public.result) {
			for (unsigned n = 0; n < b->public.objects; n++)
				disk_log_drop(&f->log, b->public.handles[n]);
			refuse(f, b->public.result);
		} else if (b->write.bytes) {
			has_written(f);
		}
		return &b->public;
	}
	go_on_cleaning(f, scratch);
	return NULL;
}

static void file_batch_end(void *backend, struct larder_batch *public)
{
	struct larder_file *f = backend;

	batch_of(public)->taken = 0;
	atomic_fetch_sub(&f->writing, 1);
}

static unsigned file_writing(const void *backend)
{
	return atomic_load(&((const struct larder_file *)backend)->writing);
}

/* ---- space ---- */

/* Once: it would be said again and again. */
static void report_unpunched(struct larder_file *f, int err)
{
	struct larder_text t = { 0 };

	if (f->puncher.said)
		return;
	f->puncher.said = 1;
	text_string(&t, "swap: free space in the file cannot be given back to the filesystem (errno ");
	text_signed(&t, -err);
	text_string(&t, "); it is used again");
	log_line(&t);
}

/* What could not be given back is tried again later, but where it can never be. */
static void punch_ended(struct larder_file *f)
{
	struct puncher *p = &f->puncher;
	int err = p->transfer.result < 0 ? p->transfer.result : 0;
	uint64_t first = f->disk.seam && f->disk.seam->refuse_ns ? f->disk.seam->refuse_ns : REFUSE_MAX_NS;

	p->is_busy = 0;
	atomic_fetch_sub(&f->writing, 1);
	disk_log_blocks_given(&f->log, p->segment, !err);
	if (err) {
		report_unpunched(f, err);
		p->not_before_ns = err == -EOPNOTSUPP || err == -ENOSYS ? UINT64_MAX : sys_now_ns() + first;
	} else {
		__atomic_fetch_add(&f->stats->freed_bytes, DISK_LOG_SEGMENT_BYTES, __ATOMIC_RELAXED);
	}
}

/* Blocks of free segments, but for some, go back to the filesystem, one segment at a time. */
static void punch(struct larder_file *f, struct file_scratch *s)
{
	struct puncher *p = &f->puncher;

	if (p->is_busy || f->disk.is_device || (p->not_before_ns && sys_now_ns() < p->not_before_ns))
		return;
	p->segment = disk_log_take_blocks(&f->log, KEPT_BLOCKS_SEGMENTS);
	if (p->segment == DISK_LOG_NO_SEGMENT)
		return;
	p->transfer = (struct disk_transfer){
		.offset = (uint64_t)p->segment * DISK_LOG_SEGMENT_BYTES,
		.bytes = DISK_LOG_SEGMENT_BYTES,
		.kind = DISK_PUNCH,
		.owner = p,
	};
	p->is_busy = 1;
	atomic_fetch_add(&f->writing, 1);
	while (disk_submit(&s->queue, &p->transfer) == -EBUSY)
		disk_wait(&s->queue, NULL, 0, 0);
	disk_flush(&s->queue);
}

static uint64_t file_compact(void *backend, void *scratch, uint64_t budget_bytes)
{
	struct larder_file *f = backend;

	(void)budget_bytes; /* one segment at a time */
	dispatch(f, scratch);
	disk_log_free_empty(&f->log);
	punch(f, scratch);
	return 0; /* of RAM */
}

static void file_usage(const void *backend, struct larder_backend_usage *usage)
{
	const struct larder_file *f = backend;
	struct disk_log_usage u = disk_log_usage(&f->log);

	*usage = (struct larder_backend_usage){
		.objects = u.objects,
		.stored_bytes = u.live_bytes,
		.occupied_bytes = u.occupied_bytes,
		.metadata_bytes = u.metadata_bytes + BUFFERS_BYTES +
				  atomic_load(&f->threads) * (uint64_t)(ARENA_BYTES + SINGLE_BYTES),
	};
}

/* ---- fork ---- */

static int file_lend(void *backend, int fds[LARDER_LENT])
{
	struct larder_file *f = backend;

	fds[0] = f->disk.fd;
	fds[1] = disk_log_lend(&f->log);
	return fds[1] < 0 ? fds[1] : 0;
}

static void file_lent(void *backend, const int fds[LARDER_LENT])
{
	(void)backend;
	sys_close(fds[1]);
}

static void file_inherit(void *backend, int (*named)(void *arg, uint64_t handle), void *arg)
{
	struct larder_file *f = backend;

	for (unsigned i = 0; i < BATCHES; i++)
		f->batches[i].taken = f->batches[i].is_sent = f->batches[i].is_done = 0;
	f->cleaner.step = CLEANER_IDLE;
	f->cleaner.is_done = 0;
	f->puncher.is_busy = 0;
	f->threads = f->writing = 0;
	f->refuse_ns = f->refuse_until_ns = f->said_at_ns = 0;
	f->said = 0;
	disk_log_inherit(&f->log, named, arg);
}

static void file_attach(void *backend, const int fds[LARDER_LENT])
{
	struct larder_file *f = backend;

	say_what_it_is(f);
	if (f->seal)
		seal_inherit(f->seal);
	disk_inherit(&f->disk, fds[0]);
	disk_log_take_leases(&f->log, fds[1]);
}

const struct larder_backend_ops larder_backend_file = {
	.name = "file",
	.backend_bytes = sizeof(struct larder_file),
	.scratch_bytes = sizeof(struct file_scratch),
	.is_on_disk = 1,
	.open = file_open,
	.close = file_close,
	.get = file_get,
	.drop = file_drop,
	.inherit = file_inherit,
	.lend = file_lend,
	.lent = file_lent,
	.attach = file_attach,
	.compact = file_compact,
	.usage = file_usage,
	.thread_open = file_thread_open,
	.thread_close = file_thread_close,
	.fetch_begin = file_fetch_begin,
	.fetch_flush = file_fetch_flush,
	.fetch_reap = file_fetch_reap,
	.wait = file_wait,
	.reopen = file_reopen,
	.fetch_now = file_fetch_now,
	.notify = file_notify,
	.is_ready = file_is_ready,
	.fetch_page = file_fetch_page,
	.fetch_end = file_fetch_end,
	.shares_blocks = file_shares_blocks,
	.checksum = file_checksum,
	.kept_checksum = file_kept_checksum,
	.batch_begin = file_batch_begin,
	.batch_add = file_batch_add,
	.batch_write = file_batch_write,
	.batch_reap = file_batch_reap,
	.batch_end = file_batch_end,
	.writing = file_writing,
};
