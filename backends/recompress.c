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
static const uint64_t sweep_ns = 20000000, fruitless_rest_ns = 100000000, renew_rest_ns = 10000000;
#else
enum { ENOUGH_BYTES = 16 << 20 };
static const uint64_t sweep_ns = 2000000000, fruitless_rest_ns = 60000000000, renew_rest_ns = 1000000000;
#endif

/* A dictionary that fewer objects use, and is not the current one, is given up. */
enum { USERS_MIN = 2048 };

/* There is not much to find in a page that compresses to less than a sixteenth. */
enum { DICTIONARY_PAGES = DICTIONARY_BYTES / LARDER_PAGE_BYTES, SAMPLE_MIN_BYTES = LARDER_PAGE_BYTES / 16 };

struct larder_recompress_work {
	LZ4_streamHC_t dictionary, state; /* prepared with the current dictionary; for each page */
	LZ4_stream_t plain;
	unsigned prepared; /* number of that dictionary */
	int may_idle;	   /* the thread may come back from SCHED_IDLE */
	char object[PACK_MAX_BYTES], denser[CODEC_MOST_BYTES], page[LARDER_PAGE_BYTES];
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
	return dictionaries_expand(&r->dictionaries, dictionary_of(tag), object, bytes, page);
}

unsigned recompress_tag(const struct larder_recompress *r, const struct larder_dictionary *dictionary)
{
	return tag_make(dictionary_number(&r->dictionaries, dictionary), AGE_NEW);
}

void recompress_put(struct larder_recompress *r, unsigned tag)
{
	if (dictionary_of(tag))
		dictionary_hold(&r->dictionaries.all[dictionary_of(tag)]);
}

void recompress_dropped(struct larder_recompress *r, unsigned tag)
{
	if (dictionary_of(tag))
		dictionary_release(&r->dictionaries.all[dictionary_of(tag)]);
}

uint64_t recompress_metadata_bytes(const struct larder_recompress *r)
{
	return atomic_load_explicit(&r->dictionaries.metadata_bytes, memory_order_relaxed) +
	       atomic_load_explicit(&r->work_bytes, memory_order_relaxed);
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
	gauge_add(&r->work_bytes, round_up(sizeof(*r->work)));
	return 1;
}

static void end_work(struct larder_recompress *r)
{
	if (!r->work)
		return;
	sys_munmap(r->work, round_up(sizeof(*r->work)));
	gauge_add(&r->work_bytes, -(uint64_t)round_up(sizeof(*r->work)));
	r->work = NULL;
}

/* ---- dictionaries ---- */

/* A free number, if what is stored is worth one more dictionary; else 0. */
static unsigned free_number(const struct larder_recompress *r, const struct larder_pack *p)
{
	unsigned number;
	uint64_t made = dictionaries_count(&r->dictionaries, &number);

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

/* The page of the first object in [*handle, end) that is to be recompressed now or later and has something in it. */
static int sample_page(struct larder_recompress *r, struct larder_pack *p, uint64_t *handle, uint64_t end, char *page)
{
	char object[PACK_MAX_BYTES];
	unsigned tag;
	size_t bytes;

	for (; pack_next(p, handle, &tag) && *handle < end; ++*handle) {
		if (age_of(tag) == AGE_DONE || !copy_object(p, *handle, object, &bytes, &tag))
			continue;
		if (bytes >= SAMPLE_MIN_BYTES && !recompress_expand(r, tag, object, bytes, page))
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

static void forget_tried(struct larder_recompress *r)
{
	r->tried = r->plain_bytes = r->before_bytes = r->after_bytes = 0;
}

static uint32_t puts_of(const struct larder_recompress *r)
{
	return atomic_load_explicit(&r->dictionaries.puts, memory_order_relaxed);
}

/* Make another dictionary the current one, if there is room for it and enough to make it of. Returns 0 if not. */
static int renew_dictionary(struct larder_recompress *r, struct larder_pack *p, uint64_t now)
{
	unsigned number;
	char *bytes;

	if (now < r->renew_at_ns)
		return 0;
	number = free_number(r, p);
	bytes = number ? dictionaries_begin(&r->dictionaries, number) : NULL;
	if (bytes && dictionaries_finish(&r->dictionaries, number, sample(r, p, bytes))) {
		forget_tried(r);
		r->first_share = 0;
		return 1;
	}
	r->renew_at_ns = now + renew_rest_ns;
	r->renew_puts = puts_of(r);
	return 0;
}

/* There is a dictionary, or one is made. */
static int need_dictionary(struct larder_recompress *r, struct larder_pack *p, uint64_t now)
{
	if (dictionaries_current(&r->dictionaries))
		return 1;
	r->hand = 0;
	return renew_dictionary(r, p, now);
}

/* In how many ns it may be tried again; 0: not before something has been put. */
static uint64_t until_renewal(const struct larder_recompress *r, uint64_t now)
{
	return puts_of(r) != r->renew_puts && r->renew_at_ns > now ? r->renew_at_ns - now : 0;
}

static void prepare_dictionary(struct larder_recompress *r)
{
	unsigned current = dictionaries_current(&r->dictionaries);
	const struct larder_dictionary *d = &r->dictionaries.all[current];
	struct larder_recompress_work *w = r->work;

	if (w->prepared == current)
		return;
	LZ4_initStreamHC(&w->dictionary, sizeof(w->dictionary));
	LZ4_setCompressionLevel(&w->dictionary, HC_LEVEL);
	LZ4_loadDictHC(&w->dictionary, d->content->bytes, (int)d->size);
	w->prepared = current;
}

/* ---- objects ---- */

/* Compress the page in `work` into `denser`. Returns its size, or 0 when it is more than `room`; and *plain, its size
 * without all that is done here, unless it is known. */
static size_t compress(struct larder_recompress_work *w, size_t room, size_t *plain)
{
	int size;

	if (!*plain)
		*plain = codec_object(&w->plain, CODEC_FOR_RAM, w->page, w->denser).size;
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
static size_t compress_idly(struct larder_recompress *r, size_t room, size_t *plain)
{
	struct larder_recompress_work *w = r->work;
	int is_idle = w->may_idle && idle_begin() == 0;
	size_t bytes;

	if (is_idle && atomic_load(r->hurry) == LARDER_FROZEN)
		idle_end(0);
	bytes = compress(w, room, plain);
	if (is_idle)
		idle_end(0);
	return bytes;
}

static void replace(struct larder_recompress *r, struct larder_pack *p, uint64_t handle, size_t bytes, unsigned tag,
		    size_t denser_bytes)
{
	unsigned denser_tag = tag_make(dictionaries_current(&r->dictionaries), AGE_DONE);

	recompress_put(r, denser_tag);
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

	return number && number != dictionaries_current(&r->dictionaries) &&
	       dictionaries_users(&r->dictionaries, number) < USERS_MIN;
}

static void recompress(struct larder_recompress *r, struct larder_pack *p, uint64_t handle)
{
	struct larder_recompress_work *w = r->work;
	size_t bytes, plain_bytes, denser_bytes = 0;
	unsigned tag;

	if (!copy_object(p, handle, w->object, &bytes, &tag))
		return;
	plain_bytes = recompress_is_tagged(tag) ? 0 : bytes;
	if (recompress_expand(r, tag, w->object, bytes, w->page)) /* damaged: whoever fetches it will be told */
		plain_bytes = bytes;
	else
		denser_bytes = compress_idly(r, is_outdated(r, tag) ? PACK_MAX_BYTES : bytes - bytes / GAIN_DIVISOR,
					     &plain_bytes);
	if (denser_bytes)
		replace(r, p, handle, bytes, tag, denser_bytes);
	else
		pack_set_tag(p, handle, tag, tag_make(dictionary_of(tag), AGE_DONE));
	r->tried++;
	r->plain_bytes += plain_bytes;
	r->before_bytes += bytes;
	r->after_bytes += denser_bytes ? denser_bytes : bytes;
}

/* ---- sweeps ---- */

/* Look at what the last objects have gained: is it still worth it, and is the dictionary still the right one? */
static void judge(struct larder_recompress *r, struct larder_pack *p, uint64_t now)
{
	uint64_t share, gain_share;

	if (r->tried < JUDGED_OBJECTS)
		return;
	share = r->after_bytes * SHARE_ONE / r->plain_bytes;
	gain_share = r->after_bytes * SHARE_ONE / r->before_bytes;
	forget_tried(r);
	if (r->first_share == 0)
		r->first_share = share;
	if (share > r->first_share + (SHARE_ONE - r->first_share) / 4 && renew_dictionary(r, p, now))
		return;
	if (gain_share > SHARE_ONE - SHARE_ONE / GAIN_DIVISOR)
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
		dictionaries_retire(&r->dictionaries);
		dictionaries_forget_unused(&r->dictionaries);
	}
	return bytes >= r->enough_bytes;
}

static uint64_t go_on(struct larder_recompress *r, struct larder_pack *p)
{
	uint64_t now = sys_now_ns();
	int goes_on;

	if (!is_enough(r, p)) {
		end_work(r);
		return 0;
	}
	if (!need_dictionary(r, p, now))
		return until_renewal(r, now);
	if (now < r->rest_until_ns)
		return r->rest_until_ns - now;
	if (!need_work(r))
		return 0;
	if (r->hand == 0)
		r->begun_ns = now;
	goes_on = sweep(r, p);
	judge(r, p, now);
	dictionaries_forget_unused(&r->dictionaries);
	pack_compact(p, COMPACT_BYTES);
	return goes_on ? 1 : end_sweep(r, now);
}

void recompress_learn(struct larder_recompress *r, struct larder_pack *p)
{
	if (dictionaries_current(&r->dictionaries) || pack_usage(p).stored_bytes < r->enough_bytes ||
	    !mutex_trylock(&r->running))
		return;
	need_dictionary(r, p, sys_now_ns());
	mutex_unlock(&r->running);
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
	dictionaries_close(&r->dictionaries);
}

void recompress_inherit(struct larder_recompress *r, const struct larder_pack *p)
{
	uint64_t users[DICTIONARIES] = { 0 };
	unsigned tag;

	r->running = (struct larder_mutex){ 0 };
	if (r->work)
		gauge_add(&r->work_bytes, -(uint64_t)round_up(sizeof(*r->work)));
	r->work = NULL; /* it was MADV_DONTFORK */
	for (uint64_t handle = 0; pack_next(p, &handle, &tag); handle++)
		users[dictionary_of(tag)]++;
	for (unsigned number = 1; number < DICTIONARIES; number++)
		atomic_store(&r->dictionaries.all[number].users, users[number]);
}
