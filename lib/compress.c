/*
 * Compress. See compress.h.
 */
#include "compress.h"

#include "dictionary.h"
#include "memory.h"
#include "sys.h"
#include "thread.h"
#include "watch.h"

/* A compressor is woken for so many slots: fewer are done before it runs. */
enum { WAKE_SLOTS = 32 };

/* After recompressing it rests seven times as long: it takes an eighth of a CPU at most. */
enum { RECOMPRESS_REST = 7 };

/* It rests so long at least; and so long when there is no CPU for it. */
#define RECOMPRESS_REST_MIN_NS 500000u
#define RECOMPRESS_LATER_NS    5000000u

/* While another thread compresses a page, which takes it some microseconds unless it has lost its CPU. */
enum { SPINS_MAX = 2000 };

/* While a slot is done the one after the next is asked for: the next may be another thread's. */
enum { PREFETCH_AHEAD = 2, CACHE_LINE_BYTES = 64 };

static struct larder_compressed *entry_of(const struct larder_compress *c, uint64_t position)
{
	return &c->ahead[position % COMPRESS_AHEAD];
}

static int is_done(const struct larder_compress *c, uint64_t position)
{
	return atomic_load_explicit(&entry_of(c, position)->done, memory_order_acquire) == position + 1;
}

/* Take the next slot that is offered. Returns 0 when there is none. */
static int claim(struct larder_compress *c, uint64_t *position)
{
	*position = atomic_load(&c->claimed);
	do {
		if (*position >= atomic_load(&c->end))
			return 0;
	} while (!atomic_compare_exchange_weak(&c->claimed, position, *position + 1));
	return 1;
}

/* Has the disk nothing above it that could take the page first? */
static enum codec_effort effort_for(struct larder_memory *m, size_t index)
{
	uint32_t tiers = pressure_tiers(m, region_chunk(&m->region, index)->owner.pool);

	return tiers && tiers == store_disk_bit(&m->store) ? CODEC_FOR_DISK : CODEC_FOR_RAM;
}

/* Is the page that became an object of `size` bytes likely to go to disk as soon as it is written out? */
static int is_for_disk(struct larder_memory *m, size_t index, uint32_t size)
{
	uint32_t tiers = pressure_tiers(m, region_chunk(&m->region, index)->owner.pool);

	return tiers & store_disk_bit(&m->store) && (size == PAGE_BYTES || effort_for(m, index) == CODEC_FOR_DISK);
}

static void sum(const struct larder_memory *m, struct larder_compressed *e, const char *page)
{
	e->checksum = store_checksum(&m->store, page);
	e->is_summed = 1;
}

/*
 * Is it worth more time to make the page denser? Where memory is short and pages come back soon (age.h), it saves
 * faults; else it would only make them longer. What goes on to disk has to be compressed anew then, but with a disk
 * each fault that is saved is dearer.
 */
static int denser_pays(struct larder_memory *m, size_t index)
{
	unsigned pool = region_chunk(&m->region, index)->owner.pool;

	return effort_for(m, index) == CODEC_FOR_RAM && age_room_pays(&m->age, m->store.disk != NULL) &&
	       !pressure_has_room(m, pool);
}

static struct larder_object make_object(struct larder_memory *m, LZ4_stream_t *lz4, size_t index, const char *page,
					char *bytes)
{
	return denser_pays(m, index) ? store_object(&m->store, lz4, page, bytes)
				     : codec_object(lz4, effort_for(m, index), page, bytes);
}

/* Fill an entry for a staged page. What has a copy on disk that will do is compressed for RAM only. */
static void compress_page(struct larder_memory *m, LZ4_stream_t *lz4, uint32_t slot, int has_copy,
			  struct larder_compressed *e)
{
	const char *page = staging_address(&m->staging, slot);
	size_t index = m->staging.owner[slot];
	struct larder_object object;
	uint64_t filling;

	if (has_copy) {
		sum(m, e, page);
		if (e->checksum == m->staging.checksum[slot] && effort_for(m, index) == CODEC_FOR_DISK)
			return;
	}
	if (store_is_same_filled(page, &filling)) {
		e->size = PAGE_BYTES; /* nobody looks at it */
	} else {
		object = make_object(m, lz4, index, page, e->bytes);
		e->size = (uint32_t)object.size;
		e->dictionary = object.dictionary;
	}
	if (!e->is_summed && is_for_disk(m, index, e->size))
		sum(m, e, page);
}

/* A page that is moved out has not been looked at for long. Here it need not even be mapped. */
static void prefetch_slot(const struct larder_staging *s, uint32_t slot)
{
	const char *page = staging_address(s, slot);

	for (unsigned i = 0; i < PAGE_BYTES; i += CACHE_LINE_BYTES)
		__builtin_prefetch(page + i, 0, 2); /* not into the first cache, where LZ4's table is */
}

/* Do a claimed slot, if its page has not gone elsewhere. */
static void compress(struct larder_memory *m, LZ4_stream_t *lz4, uint64_t position)
{
	struct larder_compressed *e = entry_of(&m->compress, position);
	uint32_t slot = staging_slot(position);
	uint64_t word = page_load(&m->region.pages[m->staging.owner[slot]]);

	prefetch_slot(&m->staging, staging_slot(position + PREFETCH_AHEAD));
	dictionary_release(e->dictionary);
	e->dictionary = NULL;
	e->size = e->is_summed = 0;
	if (page_is_staged_in(word, slot))
		compress_page(m, lz4, slot, (word & PAGE_COPY) != 0, e);
	atomic_store_explicit(&e->done, position + 1, memory_order_release);
}

/* ---- compressors ---- */

/* For timeout_ns at most; 0: no limit. Returns 0 when nobody wants it. */
static int sleep_until_wanted(struct larder_compress *c, uint64_t timeout_ns)
{
	uint32_t seen = event_count(&c->wanted);

	atomic_store(&c->asleep, 1);
	event_wait(&c->wanted, seen, timeout_ns);
	return event_count(&c->wanted) != seen;
}

/* With nothing else to do, the first compressor takes some time for what is stored. Returns how long to rest, 0: until
 * there is something to compress. */
static uint64_t recompress(struct larder_compressor *self)
{
	uint64_t start, more_ns, rest_ns;

	if (self != self->memory->compress.compressors)
		return 0;
	if (store_is_at_work(&self->memory->store) || !watch_keep_off(self->tid, WATCH_NO_CPU, &self->off_cpus))
		return RECOMPRESS_LATER_NS;
	start = sys_thread_ns();
	more_ns = store_recompress(&self->memory->store);
	rest_ns = (sys_thread_ns() - start) * RECOMPRESS_REST;
	if (rest_ns < RECOMPRESS_REST_MIN_NS)
		rest_ns = RECOMPRESS_REST_MIN_NS;
	return more_ns == 0 || more_ns > rest_ns ? more_ns : rest_ns;
}

void compress_run(void *compressor)
{
	struct larder_compressor *self = compressor;
	struct larder_memory *m = self->memory;
	uint64_t position;

	for (;;) {
		if (!sleep_until_wanted(&m->compress, recompress(self)))
			continue;
		while (claim(&m->compress, &position)) {
			compress(m, &self->lz4, position);
			if (position % COMPRESS_YIELD_PAGES == 0)
				sys_yield();
		}
	}
}

void compress_start(struct larder_memory *m)
{
	struct larder_compress *c = &m->compress;
	int cpus = thread_cpus(NULL, 0);

	while (c->started < COMPRESSORS_MAX && (int)c->started < cpus - 1) {
		struct larder_compressor *new = &c->compressors[c->started];

		new->memory = m;
		new->tid = thread_start("larder-compress", compress_run, new, 0);
		if (new->tid < 0)
			break;
		c->started++;
	}
}

/* ---- the reclaim thread ---- */

int compress_open(struct larder_compress *c)
{
	c->ahead = sys_map(COMPRESS_AHEAD * sizeof(*c->ahead));
	c->compressors = sys_map(COMPRESSORS_MAX * sizeof(*c->compressors));
	if (!c->ahead || !c->compressors)
		return -ENOMEM;
	/* A forked child gets neither what is half done nor a compressor's state. */
	sys_madvise(c->ahead, COMPRESS_AHEAD * sizeof(*c->ahead), MADV_WIPEONFORK);
	sys_madvise(c->compressors, COMPRESSORS_MAX * sizeof(*c->compressors), MADV_WIPEONFORK);
	return 0;
}

void compress_inherit(struct larder_compress *c, uint64_t cursor)
{
	c->started = 0;
	atomic_store(&c->claimed, cursor);
	atomic_store(&c->end, cursor);
	atomic_store(&c->asleep, 0);
}

void compress_close(struct larder_compress *c)
{
	if (c->ahead)
		sys_munmap(c->ahead, COMPRESS_AHEAD * sizeof(*c->ahead));
	if (c->compressors)
		sys_munmap(c->compressors, COMPRESSORS_MAX * sizeof(*c->compressors));
	*c = (struct larder_compress){ 0 };
}

uint64_t compress_cost_bytes(const struct larder_compress *c)
{
	return sizeof(*c) + COMPRESS_AHEAD * sizeof(*c->ahead) +
	       c->started * (sizeof(*c->compressors) + THREAD_COST_BYTES);
}

/*
 * A compressor on the reclaim thread's own CPU would be of no use, but some schedulers keep threads that wake each
 * other together: with both on one of two CPUs, evicting to disk was no faster than without compressors. Where
 * threads fault all the time it would do harm.
 */
static void wake(struct larder_compress *c)
{
	int cpu = WATCH_NO_CPU;

	sys_call3(SYS_getcpu, (long)&cpu, 0, 0);
	for (unsigned i = 0; i < c->started; i++)
		if (!watch_keep_off(c->compressors[i].tid, cpu, &c->compressors[i].off_cpus))
			return;
	atomic_store(&c->asleep, 0);
	event_post(&c->wanted);
}

/* Offer what is staged, as far as there are entries for it. */
static void offer(struct larder_memory *m)
{
	struct larder_compress *c = &m->compress;
	uint64_t end = m->staging.cursor + COMPRESS_AHEAD;

	if (end > m->staging.head)
		end = m->staging.head;
	atomic_store(&c->end, end);
	if (c->started && atomic_load_explicit(&c->asleep, memory_order_relaxed) &&
	    end >= atomic_load(&c->claimed) + WAKE_SLOTS)
		wake(c);
}

void compress_ahead(struct larder_memory *m)
{
	struct larder_compress *c = &m->compress;
	uint64_t position;

	offer(m);
	for (unsigned spins = 0; !is_done(c, m->staging.cursor); spins++) {
		if (claim(c, &position))
			compress(m, &c->lz4, position);
		else if (spins > SPINS_MAX)
			sys_yield();
		else
			__builtin_ia32_pause();
	}
}

uint64_t compress_checksum(const struct larder_memory *m, uint64_t position)
{
	const struct larder_compressed *e = entry_of(&m->compress, position);

	if (position < m->staging.cursor || !e->is_summed)
		return store_checksum(&m->store, staging_address(&m->staging, staging_slot(position)));
	return e->checksum;
}

struct larder_object compress_object(struct larder_memory *m, uint64_t position)
{
	struct larder_compress *c = &m->compress;
	const struct larder_compressed *e = entry_of(c, position);
	uint32_t slot = staging_slot(position);
	size_t index = m->staging.owner[slot];
	const char *page = staging_address(&m->staging, slot);
	struct larder_object object = {
		.bytes = e->size == PAGE_BYTES ? page : e->bytes,
		.size = e->size,
		.page = page,
		.dictionary = e->dictionary,
	};

	if (position < m->staging.cursor || e->size == 0)
		object = codec_object(&c->lz4, effort_for(m, index), page, c->bytes);
	return object;
}
