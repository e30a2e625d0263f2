/*
 * The LZ4 tier: pages compressed into RAM. LZ4 (Collet) makes the sequence of literals and matches, the packing
 * allocator (pack.h) keeps it.
 *
 * A page is taken only if it could be compressed (codec.h). Else reclaim would have to evict more than ten pages to
 * free one, and had better look for others; a page stored as it is would free nothing at all.
 *
 * Pages are compressed with a dictionary of others where that pays (dictionary.h); what stays for a while is compressed
 * once more (recompress.h).
 *
 * A fetch decompresses in place, with the object pinned: under a microsecond, during which only compaction of this very
 * stripe waits.
 */
#include "lz4_tier.h"

#include "codec.h"

_Static_assert((int)LARDER_PAGE_BYTES == (int)SLAB_PAGE_BYTES, "slabs are made of pages");
_Static_assert((int)CODEC_MOST_BYTES <= (int)PACK_MAX_BYTES, "only a page itself is refused: never for the disk a "
							     "dictionary's object");
_Static_assert((int)LARDER_DROPS_MAX <= (int)PACK_DROPS_MAX, "what is dropped at once");

static int lz4_open(void *backend, const struct larder_backend_setup *setup)
{
	struct larder_lz4 *lz4 = backend;

	if (LZ4_sizeofState() > (int)sizeof(LZ4_stream_t)) /* a library newer than its header */
		return -EINVAL;
	recompress_open(&lz4->recompress);
	return pack_open(&lz4->pack, setup->max_objects);
}

static void lz4_close(void *backend)
{
	struct larder_lz4 *lz4 = backend;

	recompress_close(&lz4->recompress);
	pack_close(&lz4->pack);
}

static struct larder_object lz4_object(void *backend, LZ4_stream_t *state, const char *page, char *bytes)
{
	struct larder_lz4 *lz4 = backend;

	return dictionaries_object(&lz4->recompress.dictionaries, state, page, bytes);
}

static int lz4_put(void *backend, const struct larder_object *object, uint64_t *handle)
{
	struct larder_lz4 *lz4 = backend;
	unsigned tag = recompress_tag(&lz4->recompress, object->dictionary);
	int err;

	if (object->size > PACK_MAX_BYTES)
		return -E2BIG;
	recompress_put(&lz4->recompress, tag);
	err = pack_put(&lz4->pack, object->bytes, object->size, tag, handle);
	if (err)
		recompress_dropped(&lz4->recompress, tag);
	return err;
}

static void lz4_prefetch(const void *backend, uint64_t handle)
{
	const struct larder_lz4 *lz4 = backend;

	pack_prefetch(&lz4->pack, handle);
}

static int lz4_get(void *backend, void *scratch, uint64_t handle, void *page)
{
	struct larder_lz4 *lz4 = backend;
	size_t bytes;
	const void *object = pack_pin(&lz4->pack, handle, &bytes);
	int err;

	(void)scratch;
	if (!object)
		return -EBADMSG;
	err = recompress_expand(&lz4->recompress, pack_tag(&lz4->pack, handle), object, bytes, page);
	pack_unpin(&lz4->pack, handle);
	return err;
}

/* An object that needs a dictionary is of no use elsewhere: its page is. */
static size_t lz4_copy(void *backend, uint64_t handle, char object[LARDER_OBJECT_MAX_BYTES])
{
	struct larder_lz4 *lz4 = backend;
	size_t bytes;
	const void *stored = pack_pin(&lz4->pack, handle, &bytes);
	unsigned tag;

	if (!stored)
		return 0;
	tag = pack_tag(&lz4->pack, handle);
	if (!recompress_is_tagged(tag))
		__builtin_memcpy(object, stored, bytes);
	else
		bytes = recompress_expand(&lz4->recompress, tag, stored, bytes, object) ? 0 : LARDER_PAGE_BYTES;
	pack_unpin(&lz4->pack, handle);
	return bytes;
}

static void lz4_drop(void *backend, const uint64_t *handles, size_t n)
{
	struct larder_lz4 *lz4 = backend;
	unsigned tags[LARDER_DROPS_MAX];

	pack_drop(&lz4->pack, handles, n, tags);
	for (size_t i = 0; i < n; i++)
		recompress_dropped(&lz4->recompress, tags[i]);
}

static void lz4_inherit(void *backend, int (*named)(void *arg, uint64_t handle), void *arg)
{
	struct larder_lz4 *lz4 = backend;

	pack_inherit(&lz4->pack, named, arg);
	recompress_inherit(&lz4->recompress, &lz4->pack);
}

static uint64_t lz4_compact(void *backend, void *scratch, uint64_t budget_bytes)
{
	struct larder_lz4 *lz4 = backend;

	(void)scratch;
	return pack_compact(&lz4->pack, budget_bytes);
}

static uint64_t lz4_recompress(void *backend, const _Atomic uint32_t *hurry)
{
	struct larder_lz4 *lz4 = backend;

	return recompress_some(&lz4->recompress, &lz4->pack, hurry);
}

static void lz4_learn(void *backend)
{
	struct larder_lz4 *lz4 = backend;

	recompress_learn(&lz4->recompress, &lz4->pack);
}

static void lz4_usage(const void *backend, struct larder_backend_usage *usage)
{
	const struct larder_lz4 *lz4 = backend;
	struct pack_usage u = pack_usage(&lz4->pack);

	*usage = (struct larder_backend_usage){
		.objects = u.objects,
		.stored_bytes = u.stored_bytes,
		.occupied_bytes = u.occupied_bytes,
		.metadata_bytes =
			u.metadata_bytes + sizeof(lz4->recompress) + recompress_metadata_bytes(&lz4->recompress),
	};
}

const struct larder_backend_ops larder_backend_lz4 = {
	.name = "lz4",
	.backend_bytes = sizeof(struct larder_lz4),
	.open = lz4_open,
	.close = lz4_close,
	.object = lz4_object,
	.put = lz4_put,
	.get = lz4_get,
	.prefetch = lz4_prefetch,
	.copy = lz4_copy,
	.drop = lz4_drop,
	.inherit = lz4_inherit,
	.compact = lz4_compact,
	.recompress = lz4_recompress,
	.learn = lz4_learn,
	.usage = lz4_usage,
};
