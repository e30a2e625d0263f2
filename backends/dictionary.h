/*
 * Dictionaries: pages of one heap resemble each other, and LZ4 sees 4 KiB at a time. So it gets 64 KiB of pages that
 * are in the store, evenly spread, which it treats as if they stood in front of each page. docs/compression.md has the
 * figures behind it.
 *
 * One dictionary is *current*. Pages are compressed with it when they are put, if it pays: that takes 2 us more, and
 * one page in DICTIONARY_TRY_EVERY, compressed both ways, says what is saved. What stays is compressed with it once
 * more, at more effort (recompress.h), which is also where a dictionary is made, found out of date, and replaced.
 *
 * A dictionary has a number, which is kept with each object made with it, and a count of its *users*: those objects,
 * and whoever compresses with it or has an object that has not been put yet (dictionary_release()). It never changes.
 * It is freed when it is not the current one and nobody uses it.
 *
 * Threads: any may compress, expand and count. One at a time, the recompressing thread, makes, replaces and frees.
 */
#ifndef LARDER_DICTIONARY_H
#define LARDER_DICTIONARY_H

#include "codec.h"

#include <stdatomic.h>

enum {
	DICTIONARIES = 16, /* number 0 is none */
	DICTIONARY_BYTES = 64 << 10,
	DICTIONARY_TRY_EVERY = 64,
};

struct larder_dictionary_content {
	LZ4_stream_t table; /* of what is where in `bytes` */
	char bytes[DICTIONARY_BYTES];
};

struct larder_dictionary {
	struct larder_dictionary_content *content; /* NULL: the number is free */
	uint32_t size;
	_Atomic uint64_t users;
};

struct larder_dictionaries {
	struct larder_dictionary all[DICTIONARIES];
	_Atomic uint32_t current; /* its number, 0: none; the recompressing thread writes it */
	_Atomic uint32_t pays;	  /* the current one does, for pages that are put */
	_Atomic uint32_t puts;	  /* pages compressed for the tier, to tell which are tried */

	/* Of the pages tried since the last verdict. Updates of several threads may mix: then a verdict is a little
	 * off. */
	_Atomic uint32_t tried;
	_Atomic uint64_t plain_bytes, dense_bytes;

	_Atomic uint64_t metadata_bytes;
};

/*
 * The object of a page, for a tier in RAM. If it has a dictionary, that is held until dictionary_release(). `state` is
 * initialised or zeroed, and valid afterwards. `bytes` is used when the page can be compressed.
 */
struct larder_object dictionaries_object(struct larder_dictionaries *d, LZ4_stream_t *state, const char *page,
					 char bytes[CODEC_MOST_BYTES]);

/* One user less (NULL: there is none), or more, which a user may add. */
void dictionary_release(struct larder_dictionary *dictionary);
void dictionary_hold(struct larder_dictionary *dictionary);

/* The page of an object that was made with dictionary `number`; 0: without. Returns 0 or -EBADMSG. */
int dictionaries_expand(const struct larder_dictionaries *d, unsigned number, const void *object, size_t bytes,
			void *page);

static inline unsigned dictionary_number(const struct larder_dictionaries *d,
					 const struct larder_dictionary *dictionary)
{
	return dictionary ? (unsigned)(dictionary - d->all) : 0;
}

/* ---- the recompressing thread ---- */

unsigned dictionaries_current(const struct larder_dictionaries *d);
uint64_t dictionaries_users(const struct larder_dictionaries *d, unsigned number);

/* How many there are, and a number that is free, or 0. */
unsigned dictionaries_count(const struct larder_dictionaries *d, unsigned *free_number);

/* Memory for the bytes of a new one. NULL: there is none. */
char *dictionaries_begin(struct larder_dictionaries *d, unsigned number);

/* `size` of them have been written: it is the current one from now on; with less than half of DICTIONARY_BYTES there is
 * none after all. Returns 0 then. */
int dictionaries_finish(struct larder_dictionaries *d, unsigned number, uint32_t size);

/* There is no current one any more. */
void dictionaries_retire(struct larder_dictionaries *d);

/* Free those without users. */
void dictionaries_forget_unused(struct larder_dictionaries *d);

/* Free all of them. */
void dictionaries_close(struct larder_dictionaries *d);

#endif
