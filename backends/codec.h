/*
 * The codec: what a page becomes when a tier keeps it. An *object* is the page compressed with LZ4 (Collet), or the
 * page itself, which its size tells apart. So an object can go from one tier to the next as it is.
 */
#ifndef LARDER_CODEC_H
#define LARDER_CODEC_H

#include "backend.h"
#include "sys.h"

#include <lz4.h>

/*
 * LZ4's acceleration: compressing is most of what storing a page costs. In RAM a worse ratio costs RAM for as long as
 * the page stays. A disk has room, and is faster than LZ4: 4 makes reclaim a fifth faster, and writes 0.49 bytes for a
 * byte instead of 0.45 (larder bench reclaim --peer swapfile).
 */
enum codec_effort { CODEC_FOR_RAM = 1, CODEC_FOR_DISK = 4 };

/*
 * Above 7/8 of a page, compressing is not worth it. The gain is below 512 bytes a page before slots, tables and holes
 * take their share (in RAM together about 8 %, 300 bytes), while the page costs the same to compress and expand as one
 * that saves 2 KiB. LZ4 gives up as soon as its output exceeds the limit. With the header of a slot (pack.h) it is just
 * 7/8: a tier in RAM has room for all that is compressed.
 */
enum { CODEC_MOST_BYTES = LARDER_PAGE_BYTES / 8 * 7 - 4 };

/* The object that LZ4 has made in `bytes`, `size` of them; or, when it did not succeed, the page, with a valid state.
 */
static inline struct larder_object codec_made(LZ4_stream_t *state, int size, const char *page, const char *bytes)
{
	if (size > 0)
		return (struct larder_object){ .bytes = bytes, .size = (size_t)size, .page = page };
	LZ4_initStream(state, sizeof(*state)); /* after a failure it is undefined */
	return (struct larder_object){ .bytes = page, .size = LARDER_PAGE_BYTES, .page = page };
}

/* The object of a page. `bytes` is used when it can be compressed. The state need not be valid before, but is
 * afterwards. */
static inline struct larder_object codec_object(LZ4_stream_t *state, enum codec_effort effort, const char *page,
						char bytes[CODEC_MOST_BYTES])
{
	int size = LZ4_compress_fast_extState(state, page, bytes, LARDER_PAGE_BYTES, CODEC_MOST_BYTES, (int)effort);

	return codec_made(state, size, page, bytes);
}

/* The page of an object, whatever its bytes are: nothing is written beyond the page nor read beyond the object. Returns
 * 0 or -EBADMSG. */
static inline int codec_expand(const void *object, size_t bytes, void *page)
{
	if (bytes == LARDER_PAGE_BYTES) {
		__builtin_memcpy(page, object, LARDER_PAGE_BYTES);
		return 0;
	}
	return LZ4_decompress_safe(object, page, (int)bytes, LARDER_PAGE_BYTES) == LARDER_PAGE_BYTES ? 0 : -EBADMSG;
}

#endif
