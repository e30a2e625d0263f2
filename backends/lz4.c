/*
 * The LZ4 tier: pages compressed into RAM. LZ4 (Collet) makes the sequence of literals and matches, the packing
 * allocator (pack.h) keeps it.
 *
 * A page is taken only if it could be compressed (codec.h). Else reclaim would have to evict more than ten pages to
 * free one, and had better look for others; a page stored as it is would free nothing at all.
 *
 * A fetch decompresses in place, with the object pinned: under a microsecond, during which only compaction of this very
 * stripe waits.
 */
#include "codec.h"
#include "pack.h"

_Static_assert((int)LARDER_PAGE_BYTES == (int)SLAB_PAGE_BYTES, "slabs are made of pages");

static int lz4_open(void *backend, const struct larder_backend_setup *setup)
{
	if (LZ4_sizeofState() > (int)sizeof(LZ4_stream_t)) /* a library newer than its header */
		return -EINVAL;
	return pack_open(backend, setup->max_objects);
}

static void lz4_close(void *backend)
{
	pack_close(backend);
}

static int lz4_put(void *backend, const struct larder_object *object, uint64_t *handle)
{
	return object->size <= PACK_MAX_BYTES ? pack_put(backend, object->bytes, object->size, handle) : -E2BIG;
}

static int lz4_get(void *backend, void *scratch, uint64_t handle, void *page)
{
	size_t bytes;
	const void *object = pack_pin(backend, handle, &bytes);
	int err;

	(void)scratch;
	if (!object)
		return -EBADMSG;
	err = codec_expand(object, bytes, page);
	pack_unpin(backend, handle);
	return err;
}

static size_t lz4_copy(void *backend, uint64_t handle, char object[LARDER_OBJECT_MAX_BYTES])
{
	size_t bytes;
	const void *stored = pack_pin(backend, handle, &bytes);

	if (!stored)
		return 0;
	__builtin_memcpy(object, stored, bytes);
	pack_unpin(backend, handle);
	return bytes;
}

static void lz4_drop(void *backend, uint64_t handle)
{
	pack_drop(backend, handle);
}

static void lz4_inherit(void *backend, int (*named)(void *arg, uint64_t handle), void *arg)
{
	pack_inherit(backend, named, arg);
}

static uint64_t lz4_compact(void *backend, void *scratch, uint64_t budget_bytes)
{
	(void)scratch;
	return pack_compact(backend, budget_bytes);
}

static void lz4_usage(const void *backend, struct larder_backend_usage *usage)
{
	struct pack_usage u = pack_usage(backend);

	*usage = (struct larder_backend_usage){
		.objects = u.objects,
		.stored_bytes = u.stored_bytes,
		.occupied_bytes = u.occupied_bytes,
		.metadata_bytes = u.metadata_bytes,
	};
}

const struct larder_backend_ops larder_backend_lz4 = {
	.name = "lz4",
	.backend_bytes = sizeof(struct larder_pack),
	.open = lz4_open,
	.close = lz4_close,
	.put = lz4_put,
	.get = lz4_get,
	.copy = lz4_copy,
	.drop = lz4_drop,
	.inherit = lz4_inherit,
	.compact = lz4_compact,
	.usage = lz4_usage,
};
