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
 * Acceleration 1: compressing is most of what storing a page costs, but 4 makes it 40 % cheaper at the price of a worse
 * ratio, which costs RAM as long as the page stays.
 */
enum { CODEC_ACCELERATION = 1 };

/* Compress a page into at most `most` bytes (below LARDER_PAGE_BYTES). Returns the size, or 0: it does not fit. LZ4
 * gives up as soon as its output exceeds the limit. */
static inline size_t codec_compress(LZ4_stream_t *state, const void *page, char *object, size_t most)
{
	int bytes = LZ4_compress_fast_extState(state, page, object, LARDER_PAGE_BYTES, (int)most, CODEC_ACCELERATION);

	return bytes > 0 ? (size_t)bytes : 0;
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
