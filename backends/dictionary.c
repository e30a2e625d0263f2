/*
 * Dictionaries. See dictionary.h.
 *
 * Whoever wants to compress with the current one adds itself to its users, and looks again whether it still is the
 * current one; whoever frees one has made another the current one before, and then looks at its users. Each does the
 * one before the other for all to see, so at least one of them notices.
 */
#define LZ4_STATIC_LINKING_ONLY /* LZ4_attach_dictionary(); the library is linked statically */
#include "dictionary.h"

#include "slab.h"

/* A verdict after so many pages tried. A dictionary pays if it saves a sixteenth. */
enum { JUDGED_PAGES = 256, GAIN_DIVISOR = 16 };

enum { CONTENT_BYTES = (sizeof(struct larder_dictionary_content) + SLAB_PAGE_BYTES - 1) & -SLAB_PAGE_BYTES };

/* ---- users ---- */

void dictionary_hold(struct larder_dictionary *dictionary)
{
	atomic_fetch_add(&dictionary->users, 1);
}

void dictionary_release(struct larder_dictionary *dictionary)
{
	if (dictionary)
		atomic_fetch_sub(&dictionary->users, 1);
}

unsigned dictionaries_current(const struct larder_dictionaries *d)
{
	return atomic_load(&d->current);
}

uint64_t dictionaries_users(const struct larder_dictionaries *d, unsigned number)
{
	return atomic_load(&d->all[number].users);
}

static struct larder_dictionary *hold_current(struct larder_dictionaries *d)
{
	unsigned number = dictionaries_current(d);
	struct larder_dictionary *dictionary = &d->all[number];

	if (!number)
		return NULL;
	dictionary_hold(dictionary);
	if (dictionaries_current(d) == number)
		return dictionary;
	dictionary_release(dictionary);
	return NULL;
}

/* ---- pages ---- */

static struct larder_object dense_object(LZ4_stream_t *state, struct larder_dictionary *dictionary, const char *page,
					 char bytes[CODEC_MOST_BYTES])
{
	struct larder_object object;
	int size;

	LZ4_resetStream_fast(state);
	LZ4_attach_dictionary(state, &dictionary->content->table);
	size = LZ4_compress_fast_continue(state, page, bytes, LARDER_PAGE_BYTES, CODEC_MOST_BYTES, CODEC_FOR_RAM);
	object = codec_made(state, size, page, bytes);
	object.dictionary = size > 0 ? dictionary : NULL;
	return object;
}

static void judge(struct larder_dictionaries *d, size_t plain_bytes, size_t dense_bytes)
{
	uint64_t plain = atomic_fetch_add_explicit(&d->plain_bytes, plain_bytes, memory_order_relaxed) + plain_bytes;
	uint64_t dense = atomic_fetch_add_explicit(&d->dense_bytes, dense_bytes, memory_order_relaxed) + dense_bytes;

	if (atomic_fetch_add_explicit(&d->tried, 1, memory_order_relaxed) + 1 != JUDGED_PAGES)
		return;
	atomic_store_explicit(&d->pays, dense <= plain - plain / GAIN_DIVISOR, memory_order_relaxed);
	atomic_store_explicit(&d->plain_bytes, 0, memory_order_relaxed);
	atomic_store_explicit(&d->dense_bytes, 0, memory_order_relaxed);
	atomic_store_explicit(&d->tried, 0, memory_order_relaxed);
}

struct larder_object dictionaries_object(struct larder_dictionaries *d, LZ4_stream_t *state, const char *page,
					 char bytes[CODEC_MOST_BYTES])
{
	uint32_t puts = atomic_fetch_add_explicit(&d->puts, 1, memory_order_relaxed);
	int is_tried = puts % DICTIONARY_TRY_EVERY == 0;
	struct larder_dictionary *dictionary =
		is_tried || atomic_load_explicit(&d->pays, memory_order_relaxed) ? hold_current(d) : NULL;
	struct larder_object plain = { 0 }, dense;

	if (is_tried || !dictionary)
		plain = codec_object(state, CODEC_FOR_RAM, page, bytes);
	if (!dictionary)
		return plain;
	dense = dense_object(state, dictionary, page, bytes);
	if (is_tried)
		judge(d, plain.size, dense.size);
	if (!dense.dictionary)
		dictionary_release(dictionary);
	return dense;
}

int dictionaries_expand(const struct larder_dictionaries *d, unsigned number, const void *object, size_t bytes,
			void *page)
{
	const struct larder_dictionary *dictionary = &d->all[number];

	if (!number)
		return codec_expand(object, bytes, page);
	return LZ4_decompress_safe_usingDict(object, page, (int)bytes, LARDER_PAGE_BYTES, dictionary->content->bytes,
					     (int)dictionary->size) == LARDER_PAGE_BYTES
		       ? 0
		       : -EBADMSG;
}

/* ---- making and freeing ---- */

unsigned dictionaries_count(const struct larder_dictionaries *d, unsigned *free_number)
{
	unsigned n = 0;

	*free_number = 0;
	for (unsigned number = DICTIONARIES - 1; number > 0; number--)
		if (d->all[number].content)
			n++;
		else
			*free_number = number;
	return n;
}

static void forget(struct larder_dictionaries *d, unsigned number)
{
	sys_munmap(d->all[number].content, CONTENT_BYTES);
	d->all[number].content = NULL;
	gauge_add(&d->metadata_bytes, -(uint64_t)CONTENT_BYTES);
}

char *dictionaries_begin(struct larder_dictionaries *d, unsigned number)
{
	d->all[number].content = slabs_map(CONTENT_BYTES);
	if (!d->all[number].content)
		return NULL;
	gauge_add(&d->metadata_bytes, CONTENT_BYTES);
	return d->all[number].content->bytes;
}

int dictionaries_finish(struct larder_dictionaries *d, unsigned number, uint32_t size)
{
	struct larder_dictionary *dictionary = &d->all[number];

	if (size < DICTIONARY_BYTES / 2) {
		forget(d, number);
		return 0;
	}
	dictionary->size = size;
	LZ4_initStream(&dictionary->content->table, sizeof(dictionary->content->table));
	LZ4_loadDict(&dictionary->content->table, dictionary->content->bytes, (int)size);
	atomic_store(&d->current, number);
	atomic_store_explicit(&d->pays, 1, memory_order_relaxed);
	return 1;
}

void dictionaries_retire(struct larder_dictionaries *d)
{
	atomic_store(&d->current, 0);
}

void dictionaries_forget_unused(struct larder_dictionaries *d)
{
	for (unsigned number = 1; number < DICTIONARIES; number++)
		if (d->all[number].content && number != dictionaries_current(d) && dictionaries_users(d, number) == 0)
			forget(d, number);
}

void dictionaries_close(struct larder_dictionaries *d)
{
	for (unsigned number = 1; number < DICTIONARIES; number++)
		if (d->all[number].content)
			forget(d, number);
}
