/*
 * Recompression. See recompress.h.
 */
#define LZ4_HC_STATIC_LINKING_ONLY /* LZ4_attach_HC_dictionary(); the library is linked statically */
#include "recompress.h"

#include "codec.h"
#include "idle.h"
#include "sys.h"

#include <lz4hc.h>

/* A tag: the dictionary's number in the low bits, and the age. */
enum age { AGE_NEW, AGE_OLD, AGE_DONE };
enum { TAG_DICTIONARY_MASK = DICTIONARIES - 1, TAG_AGE_SHIFT = 4 };

_Static_assert(DICTIONARIES == 1 << TAG_AGE_SHIFT, "a number fits");
_Static_assert(AGE_DONE << TAG_AGE_SHIFT <= PACK_TAG_MAX, "a tag fits");

/* LZ4HC's effort. Each level more costs a fifth and saves a hundredth; from 10 on it would allocate. */
enum { HC_LEVEL = 4 };

/* Of a call: objects recompressed, handles looked at, and bytes moved by compaction, at most. */
enum { BATCH = 16, LOOK_AT = 4096, COMPACT_BYTES = 64 << 10 };

/* An object must become a sixteenth smaller. */
enum { GAIN_DIVISOR = 16 };

/* What a dictionary saves is judged over so many objects, in 1/1024; where that is not worth it, there is a rest. */
enum { JUDGED_OBJECTS = 512, SHARE_ONE = 1024 };

/* A dictionary and what it takes to work with it are 4 % of 16 MiB; with more than that behind it, less. */
#ifdef LARDER_DEBUG
enum { ENOUGH_BYTES = 256 << 10 };
static const uint64_t sweep_ns = 20000000, fruitless_rest_ns = 100000000;
#else
enum { ENOUGH_BYTES = 16 << 20 };
static const uint64_t sweep_ns = 2000000000, fruitless_rest_ns = 60000000000;
#endif

/* A dictionary that fewer objects use, and is not the current one, is given up. */
enum { USERS_MIN = 2048 };

/* There is not much to find in a page that compresses to less than a sixteenth. */
enum { DICTIONARY_PAGES = DICTIONARY_BYTES / LARDER_PAGE_BYTES, SAMPLE_MIN_BYTES = LARDER_PAGE_BYTES / 16 };

struct larder_recompress_work {
	LZ4_streamHC_t dictionary, state; /* prepared with the current dictionary; for each page */
	unsigned prepared;		  /* number of that dictionary */
	int may_idle;			  /* the thread may come back from SCHED_IDLE */
	char object[PACK_MAX_BYTES], denser[PACK_MAX_BYTES], page[LARDER_PAGE_BYTES];
};

static unsigned dictionary_of(unsigned tag)
{
	return tag & TAG_DICTIONARY_MASK;
}

static enum age age_of(unsigned tag)
{
	return (enum age)(tag >> TAG_AGE_SHIFT);
}

static unsigned tag_make(unsigned dictionary, enum age age)
{
	return dictionary | (unsigned)age << TAG_AGE_SHIFT;
}

static size_t round_up(size_t bytes)
{
	return (bytes + SLAB_PAGE_BYTES - 1) / SLAB_PAGE_BYTES * SLAB_PAGE_BYTES;
}

int recompress_is_tagged(unsigned tag)
{
	return dictionary_of(tag) != 0;
}

int recompress_expand(const struct larder_recompress *r, unsigned tag, const void *object, size_t bytes, void *page)
{
	const struct larder_dictionary *d = &r->dictionaries[dictionary_of(tag)];

	if (!dictionary_of(tag))
		return codec_expand(object, bytes, page);
	return LZ4_decompress_safe_usingDict(object, page, (int)bytes, LARDER_PAGE_BYTES, d->bytes, (int)d->size) ==
			       LARDER_PAGE_BYTES
		       ? 0
		       : -EBADMSG;
}

/* Release: whoever finds that there are no users left has seen the last of them end. */
void recompress_dropped(struct larder_recompress *r, unsigned tag)
{
	if (dictionary_of(tag))
		atomic_fetch_sub_explicit(&r->dictionaries[dictionary_of(tag)].users, 1, memory_order_release);
}

static uint64_t users_of(const struct larder_recompress *r, unsigned number)
{
	return atomic_load_explicit(&r->dictionaries[number].users, memory_order_acquire);
}

/* ---- work ---- */

static int need_work(struct larder_recompress *r)
{
	if (r->work)
		return 1;
	r->work = slabs_map(round_up(sizeof(*r->work)));
	if (!r->work)
		return 0;
	sys_madvise(r->work, round_up(sizeof(*r->work)), MADV_DONTFORK);
	LZ4_initStreamHC(&r->work->state, sizeof(r->work->state));
	r->work->may_idle = r->is_patient && idle_may_return();
	gauge_add(&r->metadata_bytes, round_up(sizeof(*r->work)));
	return 1;
}

static void end_work(struct larder_recompress *r)
{
	if (!r->work)
		return;
	sys_munmap(r->work, round_up(sizeof(*r->work)));
	gauge_add(&r->metadata_bytes, -(uint64_t)round_up(sizeof(*r->work)));
	r->work = NULL;
}

/* ---- dictionaries ---- */

static void forget_dictionary(struct larder_recompress *r, unsigned number)
{
	sys_munmap(r->dictionaries[number].bytes, DICTIONARY_BYTES);
	r->dictionaries[number].bytes = NULL;
	gauge_add(&r->metadata_bytes, -(uint64_t)DICTIONARY_BYTES);
}

static void forget_unused(struct larder_recompress *r)
{
	for (unsigned number = 1; number < DICTIONARIES; number++)
		if (r->dictionaries[number].bytes && number != r->current && users_of(r, number) == 0)
			forget_dictionary(r, number);
}

/* A free number, if what is stored is worth one more dictionary; else 0. */
static unsigned free_number(const struct larder_recompress *r, const struct larder_pack *p)
{
	uint64_t made = 0;
	unsigned number = 0;

	for (unsigned i = DICTIONARIES - 1; i > 0; i--) {
		made += r->dictionaries[i].bytes != NULL;
		if (!r->dictionaries[i].bytes)
			number = i;
	}
	return pack_usage(p).stored_bytes >= (made + 1) * r->enough_bytes ? number : 0;
}

/* Copy an object out of the pack, if it is there. */
static int copy_object(struct larder_pack *p, uint64_t handle, char *to, size_t *bytes, unsigned *tag)
{
	const char *object = pack_pin(p, handle, bytes);

	if (!object)
		return 0;
	*tag = pack_tag(p, handle);
	__builtin_memcpy(to, object, *bytes);
	pack_unpin(p, handle);
	return 1;
}

/* The page of the first object in [*handle, end) that is to be recompressed and has something in it. */
static int sample_page(struct larder_recompress *r, struct larder_pack *p, uint64_t *handle, uint64_t end, char *page)
{
	unsigned tag;
	size_t bytes;

	for (; pack_next(p, handle, &tag) && *handle < end; ++*handle) {
		if (age_of(tag) != AGE_OLD || !copy_object(p, *handle, r->work->object, &bytes, &tag))
			continue;
		if (bytes >= SAMPLE_MIN_BYTES && !recompress_expand(r, tag, r->work->object, bytes, page))
			return 1;
	}
	return 0;
}

/*
 * Pages from all over the rest of the sweep: handles are given out in the order of eviction, so neighbours resemble
 * each other. Where a stretch has none, the others give more.
 */
static uint32_t sample(struct larder_recompress *r, struct larder_pack *p, char *to)
{
	uint64_t n = pack_handles(p) - r->hand;
	uint32_t pages = 0;

	for (uint32_t i = 0; i < DICTIONARY_PAGES; i++) {
		uint64_t handle = r->hand + n * i / DICTIONARY_PAGES, end = r->hand + n * (i + 1) / DICTIONARY_PAGES;
		uint32_t stretches = DICTIONARY_PAGES - i,
			 wanted = (DICTIONARY_PAGES - pages + stretches - 1) / stretches;

		while (wanted-- && sample_page(r, p, &handle, end, to + (size_t)pages * LARDER_PAGE_BYTES)) {
			handle++;
			pages++;
		}
	}
	return pages * LARDER_PAGE_BYTES;
}

/* Make another dictionary the current one, if there is room for it and enough to make it of. Returns 0 if not. */
static int renew_dictionary(struct larder_recompress *r, struct larder_pack *p)
{
	unsigned number = free_number(r, p);
	struct larder_dictionary *d = &r->dictionaries[number];

	r->tried = r->before_bytes = r->after_bytes = r->first_share = 0;
	if (!number || !(d->bytes = slabs_map(DICTIONARY_BYTES)))
		return 0;
	gauge_add(&r->metadata_bytes, DICTIONARY_BYTES);
	d->size = sample(r, p, d->bytes);
	if (d->size < DICTIONARY_BYTES / 2) {
		forget_dictionary(r, number);
		return 0;
	}
	r->current = number;
	return 1;
}

static void prepare_dictionary(struct larder_recompress *r)
{
	const struct larder_dictionary *d = &r->dictionaries[r->current];
	struct larder_recompress_work *w = r->work;

	if (w->prepared == r->current)
		return;
	LZ4_initStreamHC(&w->dictionary, sizeof(w->dictionary));
	LZ4_setCompressionLevel(&w->dictionary, HC_LEVEL);
	LZ4_loadDictHC(&w->dictionary, d->bytes, (int)d->size);
	w->prepared = r->current;
}

/* ---- objects ---- */

/* Compress the page in `work` into `denser`. Returns its size, or 0 when it is more than `room`. */
static size_t compress(struct larder_recompress_work *w, size_t room)
{
	int size;

	LZ4_resetStreamHC_fast(&w->state, HC_LEVEL);
	LZ4_attach_HC_dictionary(&w->state, &w->dictionary);
	size = LZ4_compress_HC_continue(&w->state, w->page, w->denser, LARDER_PAGE_BYTES, (int)room);
	return size > 0 ? (size_t)size : 0;
}

/*
 * This is nearly all of the time that recompression takes, and nothing is held meanwhile that anybody waits for. Others
 * want the CPU for what cannot wait: at normal priority, a Redis server at half of its memory had p99 latencies of 0.6
 * ms instead of 0.3, and p99.9 of 4 ms instead of 1.
 */
static size_t compress_idly(struct larder_recompress *r, size_t room)
{
	struct larder_recompress_work *w = r->work;
	int is_idle = w->may_idle && idle_begin() == 0;
	size_t bytes;

	if (is_idle && atomic_load(r->hurry) == LARDER_FROZEN)
		idle_end(0);
	bytes = compress(w, room);
	if (is_idle)
		idle_end(0);
	return bytes;
}

static void replace(struct larder_recompress *r, struct larder_pack *p, uint64_t handle, size_t bytes, unsigned tag,
		    size_t denser_bytes)
{
	unsigned denser_tag = tag_make(r->current, AGE_DONE);

	atomic_fetch_add_explicit(&r->dictionaries[r->current].users, 1, memory_order_relaxed);
	if (pack_replace(p, handle, r->work->object, bytes, tag, r->work->denser, denser_bytes, denser_tag)) {
		recompress_dropped(r, denser_tag);
		return;
	}
	recompress_dropped(r, tag);
	gauge_add(&r->recompressed, 1);
}

/* Is the dictionary of an object about to be given up? */
static int is_outdated(const struct larder_recompress *r, unsigned tag)
{
	unsigned number = dictionary_of(tag);

	return number && number != r->current && users_of(r, number) < USERS_MIN;
}

static void recompress(struct larder_recompress *r, struct larder_pack *p, uint64_t handle)
{
	struct larder_recompress_work *w = r->work;
	size_t bytes, denser_bytes = 0;
	unsigned tag;

	if (!copy_object(p, handle, w->object, &bytes, &tag))
		return;
	if (!recompress_expand(r, tag, w->object, bytes, w->page))
		denser_bytes = compress_idly(r, is_outdated(r, tag) ? PACK_MAX_BYTES : bytes - bytes / GAIN_DIVISOR);
	if (denser_bytes)
		replace(r, p, handle, bytes, tag, denser_bytes);
	else
		pack_set_tag(p, handle, tag, tag_make(dictionary_of(tag), AGE_DONE));
	r->tried++;
	r->before_bytes += bytes;
	r->after_bytes += denser_bytes ? denser_bytes : bytes;
}

/* ---- sweeps ---- */

/* Look at what the last objects have gained: is it still worth it, and is the dictionary still the right one? */
static void judge(struct larder_recompress *r, struct larder_pack *p, uint64_t now)
{
	uint64_t share;

	if (r->tried < JUDGED_OBJECTS)
		return;
	share = r->after_bytes * SHARE_ONE / r->before_bytes;
	r->tried = r->before_bytes = r->after_bytes = 0;
	if (r->first_share == 0)
		r->first_share = share;
	if (share > r->first_share + (SHARE_ONE - r->first_share) / 4 && renew_dictionary(r, p))
		return;
	if (share > SHARE_ONE - SHARE_ONE / GAIN_DIVISOR)
		r->rest_until_ns = now + fruitless_rest_ns;
}

/* What to do with an object. Returns 1 when it was recompressed, or tried. */
static int visit(struct larder_recompress *r, struct larder_pack *p, uint64_t handle, unsigned tag)
{
	if (age_of(tag) == AGE_NEW) {
		pack_set_tag(p, handle, tag, tag_make(dictionary_of(tag), AGE_OLD));
		r->found++;
		return 0;
	}
	if (age_of(tag) == AGE_DONE && !is_outdated(r, tag))
		return 0;
	r->found++;
	if (!r->current)
		renew_dictionary(r, p);
	if (!r->current)
		return 0;
	prepare_dictionary(r);
	recompress(r, p, handle);
	return 1;
}

/* Go on with the sweep. Returns 0 at its end. */
static int sweep(struct larder_recompress *r, struct larder_pack *p)
{
	unsigned recompressed = 0, tag;

	for (unsigned looked_at = 0;
	     looked_at < LOOK_AT && recompressed < BATCH && atomic_load(r->hurry) == LARDER_CALM; looked_at++) {
		if (!pack_next(p, &r->hand, &tag))
			return 0;
		recompressed += (unsigned)visit(r, p, r->hand++, tag);
	}
	return 1;
}

static uint64_t end_sweep(struct larder_recompress *r, uint64_t now)
{
	int is_idle = r->found == 0;

	r->hand = r->found = 0;
	r->rest_until_ns = r->begun_ns + r->sweep_ns > now ? r->begun_ns + r->sweep_ns : now + 1;
	end_work(r);
	return is_idle ? 0 : r->rest_until_ns - now;
}

/* With much less than was enough, even the current dictionary is too much. */
static int is_enough(struct larder_recompress *r, const struct larder_pack *p)
{
	uint64_t bytes = pack_usage(p).stored_bytes;

	if (bytes < r->enough_bytes / 2) {
		r->current = 0;
		forget_unused(r);
	}
	return bytes >= r->enough_bytes;
}

static uint64_t go_on(struct larder_recompress *r, struct larder_pack *p)
{
	uint64_t now = sys_now_ns();
	int goes_on;

	if (now < r->rest_until_ns)
		return r->rest_until_ns - now;
	if (!is_enough(r, p) || !need_work(r)) {
		end_work(r);
		return 0;
	}
	if (r->hand == 0)
		r->begun_ns = now;
	goes_on = sweep(r, p);
	judge(r, p, now);
	forget_unused(r);
	pack_compact(p, COMPACT_BYTES);
	return goes_on ? 1 : end_sweep(r, now);
}

uint64_t recompress_some(struct larder_recompress *r, struct larder_pack *p, const _Atomic uint32_t *hurry)
{
	uint64_t rest;

	if (!mutex_trylock(&r->running))
		return 0;
	r->hurry = hurry;
	rest = go_on(r, p);
	mutex_unlock(&r->running);
	return rest;
}

/* ---- open, close, fork ---- */

void recompress_open(struct larder_recompress *r)
{
	r->enough_bytes = ENOUGH_BYTES;
	r->sweep_ns = sweep_ns;
	r->is_patient = 1;
}

void recompress_close(struct larder_recompress *r)
{
	end_work(r);
	for (unsigned number = 1; number < DICTIONARIES; number++)
		if (r->dictionaries[number].bytes)
			forget_dictionary(r, number);
}

void recompress_inherit(struct larder_recompress *r, const struct larder_pack *p)
{
	uint64_t users[DICTIONARIES] = { 0 };
	unsigned tag;

	r->running = (struct larder_mutex){ 0 };
	if (r->work)
		gauge_add(&r->metadata_bytes, -(uint64_t)round_up(sizeof(*r->work)));
	r->work = NULL; /* it was MADV_DONTFORK */
	for (uint64_t handle = 0; pack_next(p, &handle, &tag); handle++)
		users[dictionary_of(tag)]++;
	for (unsigned number = 1; number < DICTIONARIES; number++)
		atomic_store(&r->dictionaries[number].users, users[number]);
}
