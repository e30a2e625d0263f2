/*
 * Packed objects. See pack.h.
 *
 * An entry of the handle table is one word. Live: bit 63 | class (bits 56-62) | tag (50-55) | slab (18-49) | bytes
 * (6-17) | slot (0-5). Free: the next free handle.
 *
 * Invariant: a live entry names a slot that is taken and whose header is the entry's handle; no two entries name one
 * slot. So a slot's header need not be trusted to find its object: if the entry of the handle found there names the
 * slot, it is the object's, else the slot is about to be filled or has just been emptied, and the header is an old one.
 * That is why put and drop need no lock in common with compaction but the stripe.
 *
 * Order of events, so that the invariant holds for whoever looks at an entry:
 *   put   take a slot, fill it, publish the entry (release)
 *   move  under the stripe: look at the entry, copy to the new slot, change the entry; then give the old slot back
 *   replace  the same, but the new slot is filled before
 *   drop  under the stripe: clear the entry; then give the slot back, then the handle
 */
#include "pack.h"

#include "log.h"
#include "sys.h"

#define ENTRY_LIVE  ((uint64_t)1 << 63)
#define HANDLE_NONE UINT32_MAX

enum {
	ENTRY_BYTES_SHIFT = 6,
	ENTRY_BYTES_MASK = 4095,
	ENTRY_SLAB_SHIFT = 18,
	ENTRY_TAG_SHIFT = 50,
	ENTRY_CLASS_SHIFT = 56,
	ENTRY_CLASS_MASK = 127
};

_Static_assert((int)SLAB_MAX_SLOTS <= 1 << ENTRY_BYTES_SHIFT, "a slot fits an entry");
_Static_assert((int)SLAB_CLASSES_MAX <= ENTRY_CLASS_MASK + 1, "a class fits an entry");
_Static_assert((int)PACK_MAX_BYTES <= (int)ENTRY_BYTES_MASK, "a size fits an entry");

static uint64_t entry_make(struct larder_slot slot, size_t bytes, unsigned tag)
{
	return ENTRY_LIVE | (uint64_t)slot.class << ENTRY_CLASS_SHIFT | (uint64_t)tag << ENTRY_TAG_SHIFT |
	       (uint64_t)slot.slab << ENTRY_SLAB_SHIFT | bytes << ENTRY_BYTES_SHIFT | slot.slot;
}

static unsigned entry_tag(uint64_t entry)
{
	return entry >> ENTRY_TAG_SHIFT & PACK_TAG_MAX;
}

static struct larder_slot entry_slot(uint64_t entry)
{
	return (struct larder_slot){ .slab = (uint32_t)(entry >> ENTRY_SLAB_SHIFT),
				     .class = entry >> ENTRY_CLASS_SHIFT & ENTRY_CLASS_MASK,
				     .slot = entry & (SLAB_MAX_SLOTS - 1) };
}

static size_t entry_bytes(uint64_t entry)
{
	return entry >> ENTRY_BYTES_SHIFT & ENTRY_BYTES_MASK;
}

static uint64_t entry_load(const struct larder_pack *p, uint64_t handle)
{
	return atomic_load_explicit(&p->entries[handle], memory_order_acquire);
}

static void entry_store(struct larder_pack *p, uint64_t handle, uint64_t entry)
{
	atomic_store_explicit(&p->entries[handle], entry, memory_order_release);
}

/* The header is read by compaction while a put may be writing it, so it is atomic; nothing is ordered by it. */
static _Atomic uint32_t *header(const struct larder_pack *p, struct larder_slot slot)
{
	return (_Atomic uint32_t *)slabs_address(&p->slabs, slot);
}

static uint32_t header_load(const struct larder_pack *p, struct larder_slot slot)
{
	return atomic_load_explicit(header(p, slot), memory_order_relaxed);
}

static char *object_address(const struct larder_pack *p, struct larder_slot slot)
{
	return slabs_address(&p->slabs, slot) + PACK_HEADER_BYTES;
}

static void fill_slot(struct larder_pack *p, struct larder_slot slot, uint32_t handle, const void *object, size_t bytes)
{
	atomic_store_explicit(header(p, slot), handle, memory_order_relaxed);
	__builtin_memcpy(object_address(p, slot), object, bytes);
}

static struct larder_mutex *stripe(struct larder_pack *p, uint64_t handle)
{
	return &p->stripes[handle % PACK_STRIPES].lock;
}

static uint32_t handles_used(const struct larder_pack *p)
{
	return atomic_load_explicit(&p->handles_used, memory_order_relaxed);
}

/* Handles */

static uint32_t handle_take(struct larder_pack *p)
{
	uint32_t handle, used;

	mutex_lock(&p->handles_lock);
	handle = p->free_handle;
	used = handles_used(p);
	if (handle != HANDLE_NONE) {
		p->free_handle = (uint32_t)entry_load(p, handle);
	} else if (used < p->max_handles) {
		handle = used;
		atomic_store_explicit(&p->handles_used, used + 1, memory_order_relaxed);
	}
	mutex_unlock(&p->handles_lock);
	return handle;
}

static void handles_give(struct larder_pack *p, const uint64_t *handles, size_t n)
{
	mutex_lock(&p->handles_lock);
	for (size_t i = 0; i < n; i++) {
		entry_store(p, handles[i], p->free_handle);
		p->free_handle = (uint32_t)handles[i];
	}
	mutex_unlock(&p->handles_lock);
}

/* Objects */

int pack_put(struct larder_pack *p, const void *object, size_t bytes, unsigned tag, uint64_t *handle)
{
	uint32_t h = handle_take(p);
	struct larder_slot slot;

	larder_assert(bytes > 0 && bytes <= PACK_MAX_BYTES);
	if (h == HANDLE_NONE)
		return -ENOSPC;
	if (slabs_take(&p->slabs, bytes + PACK_HEADER_BYTES, &slot)) {
		handles_give(p, &(uint64_t){ h }, 1);
		return -ENOSPC;
	}
	fill_slot(p, slot, h, object, bytes);
	entry_store(p, h, entry_make(slot, bytes, tag));
	gauge_add(&p->objects, 1);
	gauge_add(&p->stored_bytes, bytes);
	*handle = h;
	return 0;
}

/* Whoever reads an object reads all of it, most often for the first time in long: the lines may come together. */
void pack_prefetch(const struct larder_pack *p, uint64_t handle)
{
	uint64_t entry = handle < handles_used(p) ? atomic_load_explicit(&p->entries[handle], memory_order_relaxed) : 0;
	const char *line, *end;

	if (!(entry & ENTRY_LIVE))
		return;
	line = (const char *)header(p, entry_slot(entry));
	end = object_address(p, entry_slot(entry)) + entry_bytes(entry);
	for (; line < end; line += PACK_CACHE_LINE_BYTES)
		__builtin_prefetch(line);
}

const void *pack_pin(struct larder_pack *p, uint64_t handle, size_t *bytes)
{
	uint64_t entry;

	if (handle >= handles_used(p))
		return NULL;
	mutex_lock(stripe(p, handle));
	entry = entry_load(p, handle);
	if (entry & ENTRY_LIVE && header_load(p, entry_slot(entry)) == handle) {
		*bytes = entry_bytes(entry);
		return object_address(p, entry_slot(entry));
	}
	mutex_unlock(stripe(p, handle));
	return NULL;
}

void pack_unpin(struct larder_pack *p, uint64_t handle)
{
	mutex_unlock(stripe(p, handle));
}

static uint64_t clear_entry(struct larder_pack *p, uint64_t handle)
{
	uint64_t entry;

	mutex_lock(stripe(p, handle));
	entry = entry_load(p, handle);
	larder_assert(entry & ENTRY_LIVE);
	entry_store(p, handle, HANDLE_NONE);
	mutex_unlock(stripe(p, handle));
	return entry;
}

void pack_drop(struct larder_pack *p, const uint64_t *handles, size_t n, unsigned *tags)
{
	struct larder_slot slots[PACK_DROPS_MAX] = { 0 };
	uint64_t bytes = 0;

	larder_assert(n > 0 && n <= PACK_DROPS_MAX);
	for (size_t i = 0; i < n; i++) {
		uint64_t entry = clear_entry(p, handles[i]);

		slots[i] = entry_slot(entry);
		tags[i] = entry_tag(entry);
		bytes += entry_bytes(entry);
	}
	slabs_give(&p->slabs, slots, n);
	handles_give(p, handles, n);
	gauge_add(&p->objects, -(uint64_t)n);
	gauge_add(&p->stored_bytes, -bytes);
}

unsigned pack_tag(const struct larder_pack *p, uint64_t handle)
{
	return entry_tag(entry_load(p, handle));
}

void pack_set_tag(struct larder_pack *p, uint64_t handle, unsigned from, unsigned to)
{
	uint64_t entry;

	mutex_lock(stripe(p, handle));
	entry = entry_load(p, handle);
	if (entry & ENTRY_LIVE && entry_tag(entry) == from)
		entry_store(p, handle, entry_make(entry_slot(entry), entry_bytes(entry), to));
	mutex_unlock(stripe(p, handle));
}

uint64_t pack_handles(const struct larder_pack *p)
{
	return handles_used(p);
}

int pack_next(const struct larder_pack *p, uint64_t *handle, unsigned *tag)
{
	for (uint64_t used = handles_used(p); *handle < used; ++*handle) {
		uint64_t entry = atomic_load_explicit(&p->entries[*handle], memory_order_relaxed);

		if (entry & ENTRY_LIVE) {
			*tag = entry_tag(entry);
			return 1;
		}
	}
	return 0;
}

static int is_object(const struct larder_pack *p, uint64_t entry, const void *object, size_t bytes, unsigned tag)
{
	return entry & ENTRY_LIVE && entry_bytes(entry) == bytes && entry_tag(entry) == tag &&
	       !__builtin_memcmp(object_address(p, entry_slot(entry)), object, bytes);
}

int pack_replace(struct larder_pack *p, uint64_t handle, const void *old, size_t old_bytes, unsigned old_tag,
		 const void *object, size_t bytes, unsigned tag)
{
	struct larder_slot slot;
	uint64_t entry;
	int is_same;

	if (slabs_take(&p->slabs, bytes + PACK_HEADER_BYTES, &slot))
		return -ENOSPC;
	fill_slot(p, slot, (uint32_t)handle, object, bytes);
	mutex_lock(stripe(p, handle));
	entry = entry_load(p, handle);
	is_same = is_object(p, entry, old, old_bytes, old_tag);
	if (is_same) {
		entry_store(p, handle, entry_make(slot, bytes, tag));
		slot = entry_slot(entry);
	}
	mutex_unlock(stripe(p, handle));
	slabs_give(&p->slabs, &slot, 1);
	if (is_same)
		gauge_add(&p->stored_bytes, (uint64_t)bytes - old_bytes);
	return is_same ? 0 : -EAGAIN;
}

/* Compaction */

/* Move the object in `from`, if there is one, to `to`. Returns its size; 0: `from` holds no object (any more), `to` is
 * not used. */
static size_t move_object(struct larder_pack *p, struct larder_slot from, struct larder_slot to)
{
	uint32_t handle = header_load(p, from);
	uint64_t entry;
	size_t bytes = 0;

	if (handle >= handles_used(p))
		return 0;
	mutex_lock(stripe(p, handle));
	entry = entry_load(p, handle);
	if (entry & ENTRY_LIVE && entry == entry_make(from, entry_bytes(entry), entry_tag(entry))) {
		bytes = entry_bytes(entry);
		fill_slot(p, to, handle, object_address(p, from), bytes);
		entry_store(p, handle, entry_make(to, bytes, entry_tag(entry)));
	}
	mutex_unlock(stripe(p, handle));
	return bytes;
}

/* Move what a draining slab holds into holes of others. Returns the bytes moved. */
static size_t empty_slab(struct larder_pack *p, uint32_t slab, uint64_t taken)
{
	size_t moved = 0;

	for (; taken; taken &= taken - 1) {
		struct larder_slot from = slabs_slot(&p->slabs, slab, (unsigned)__builtin_ctzll(taken)), to;
		size_t bytes;

		if (slabs_take_hole(&p->slabs, slab, &to))
			break;
		bytes = move_object(p, from, to);
		slabs_give(&p->slabs, bytes ? &from : &to, 1);
		moved += bytes;
	}
	return moved;
}

uint64_t pack_compact(struct larder_pack *p, uint64_t budget_bytes)
{
	uint64_t moved = 0, taken, given;

	if (!mutex_trylock(&p->compacting))
		return 0;
	while (moved < budget_bytes) {
		uint32_t slab = slabs_drain(&p->slabs, &taken);
		size_t bytes;

		if (slab == SLAB_NONE)
			break;
		bytes = empty_slab(p, slab, taken);
		slabs_drained(&p->slabs, slab);
		moved += bytes;
		if (bytes == 0) /* puts are filling it at this moment: do not insist */
			break;
	}
	gauge_add(&p->moved_bytes, moved);
	given = slabs_trim(&p->slabs);
	mutex_unlock(&p->compacting);
	return given;
}

/* Fork */

/* Another thread of the parent may have held any of the locks, but none was changing what they guard: that is what
 * freezing the store means. The gauges may have been read in the middle of a sum. */
void pack_inherit(struct larder_pack *p, int (*named)(void *arg, uint64_t handle), void *arg)
{
	uint64_t objects = 0, stored_bytes = 0;
	uint32_t used = handles_used(p);
	unsigned tag;

	slabs_inherit(&p->slabs);
	p->handles_lock = (struct larder_mutex){ 0 };
	p->compacting = (struct larder_mutex){ 0 };
	for (unsigned i = 0; i < PACK_STRIPES; i++)
		p->stripes[i].lock = (struct larder_mutex){ 0 };
	for (uint64_t handle = 0; handle < used; handle++) {
		uint64_t entry = entry_load(p, handle);

		if (!(entry & ENTRY_LIVE))
			continue;
		if (named(arg, handle)) {
			objects++;
			stored_bytes += entry_bytes(entry);
		} else {
			pack_drop(p, &handle, 1, &tag);
		}
	}
	atomic_store(&p->objects, objects);
	atomic_store(&p->stored_bytes, stored_bytes);
}

/* Open, close, usage */

int pack_open(struct larder_pack *p, uint64_t max_objects)
{
	int err = slabs_open(&p->slabs, max_objects);

	if (err)
		return err;
	p->max_handles = max_objects < HANDLE_NONE ? (uint32_t)max_objects : HANDLE_NONE;
	p->free_handle = HANDLE_NONE;
	p->entries = slabs_map(p->max_handles * sizeof(*p->entries));
	if (p->entries)
		return 0;
	slabs_close(&p->slabs);
	return -ENOMEM;
}

void pack_close(struct larder_pack *p)
{
	sys_munmap(p->entries, p->max_handles * sizeof(*p->entries));
	slabs_close(&p->slabs);
}

struct pack_usage pack_usage(const struct larder_pack *p)
{
	uint64_t table = handles_used(p) * sizeof(*p->entries);

	table = (table + SLAB_PAGE_BYTES - 1) / SLAB_PAGE_BYTES * SLAB_PAGE_BYTES;
	return (struct pack_usage){
		.objects = atomic_load_explicit(&p->objects, memory_order_relaxed),
		.stored_bytes = atomic_load_explicit(&p->stored_bytes, memory_order_relaxed),
		.occupied_bytes = atomic_load_explicit(&p->slabs.occupied_bytes, memory_order_relaxed),
		.metadata_bytes = table + slabs_metadata_bytes(&p->slabs) + sizeof(*p),
	};
}
