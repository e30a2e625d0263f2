/*
 * The lz4 tier: pages compressed in RAM.
 *
 * A page is stored only when LZ4 brings it to 7/8 or less: keeping it costs that plus about 3 % of packing, a later fault and a compression;
 * a page that saves less than an eighth is not worth them, and stays resident for nothing. Acceleration is LZ4's default, 1: a page compresses in
 * about 2.7 us at ratio 2.2; acceleration 4 would take 1.6 us and lose a tenth of the ratio, so a tenth of the memory.
 */
#include "backend.h"
#include "pack.h"

#include <errno.h>
#include <lz4.h>

enum { ACCELERATION = 1 };

struct lz4_scratch {
	LZ4_stream_t state;
	char compressed[PACK_OBJECT_MAX_BYTES];
};

static int lz4_open(void *backend, uint64_t max_objects)
{
	return pack_open(backend, max_objects);
}

static void lz4_close(void *backend)
{
	pack_close(backend);
}

static int lz4_put(void *backend, void *scratch, const void *page, uint64_t *handle)
{
	struct lz4_scratch *s = scratch;
	uint32_t object;
	int length = LZ4_compress_fast_extState(&s->state, page, s->compressed, LARDER_PAGE_BYTES, sizeof(s->compressed),
						ACCELERATION);
	int err;

	if (length <= 0)
		return -E2BIG;
	err = pack_put(backend, s->compressed, (uint32_t)length, &object);
	if (!err)
		*handle = object;
	return err;
}

static int lz4_get(void *backend, void *scratch, uint64_t handle, void *page)
{
	uint32_t length;
	const void *object = pack_pin(backend, (uint32_t)handle, &length);
	int bytes = LZ4_decompress_safe(object, page, (int)length, LARDER_PAGE_BYTES);

	(void)scratch;
	pack_unpin(backend, (uint32_t)handle);
	return bytes == LARDER_PAGE_BYTES ? 0 : -EBADMSG;
}

static void lz4_drop(void *backend, uint64_t handle)
{
	pack_drop(backend, (uint32_t)handle);
}

static uint64_t lz4_compact(void *backend, uint64_t budget_bytes)
{
	return pack_compact(backend, budget_bytes);
}

static void lz4_usage(const void *backend, struct larder_backend_usage *usage)
{
	const struct pack *p = backend;

	usage->objects = atomic_load_explicit(&p->objects, memory_order_relaxed);
	usage->stored_bytes = atomic_load_explicit(&p->stored_bytes, memory_order_relaxed);
	usage->occupied_bytes = atomic_load_explicit(&p->resident_slabs, memory_order_relaxed) * PACK_SLAB_BYTES;
	usage->metadata_bytes = pack_metadata_bytes(p);
}

const struct larder_backend_ops larder_backend_lz4 = {
	.name = "lz4",
	.backend_bytes = sizeof(struct pack),
	.scratch_bytes = sizeof(struct lz4_scratch),
	.open = lz4_open,
	.close = lz4_close,
	.put = lz4_put,
	.get = lz4_get,
	.drop = lz4_drop,
	.compact = lz4_compact,
	.usage = lz4_usage,
};
