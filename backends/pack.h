/*
 * The packing allocator: objects of any size up to 7/8 of a page, kept densely, under handles that never change.
 *
 * Its promise is density: at least 95 % of the space it occupies is stored bytes (of 16 MiB, where the last slab of
 * each class counts for more, 91 %), however the sizes change and whichever objects are dropped, as long as
 * pack_compact() is called regularly. malloc cannot promise that, because it may not move what it gave out. Here each
 * object is reached through its handle, an index into a table that says where the object is, so compaction may move it:
 * out of the emptiest slabs, into the holes of the fullest (slab.h). In front of its bytes each object carries its
 * handle: so compaction finds the table entry of what it moves, and a read notices when it is about to return something
 * else.
 *
 * What it costs: 8 bytes of table and 4 bytes of header for each object, 24 bytes for each slab of about 23 KiB: below
 * 16 bytes an object in all. The
 * table does not shrink: after most objects were dropped it still has the size that it needed at the peak.
 *
 * Threads: any may call anything at once, except two calls on one handle (backend.h); compactions exclude each other.
 * Locks, in the order in which they may nest (none does today):
 *   compacting       one compaction at a time; others return at once
 *   stripe[handle]   pins the object's place: held while it is read, moved or forgotten. 256 of them, so that a reader
 * waits only for the copy of one object of its own stripe handles_lock     the list of free handles slabs.lock the
 * slots
 */
#ifndef LARDER_PACK_H
#define LARDER_PACK_H

#include "slab.h"

#include <stdatomic.h>

enum {
	PACK_HEADER_BYTES = 4,
	PACK_MAX_BYTES = SLAB_SLOT_MAX_BYTES - PACK_HEADER_BYTES,
	PACK_STRIPES = 256,
	PACK_CACHE_LINE_BYTES = 64,
	PACK_TAG_MAX = 63,
	PACK_DROPS_MAX = 16,
};

struct pack_stripe {
	_Alignas(PACK_CACHE_LINE_BYTES) struct larder_mutex lock;
};

struct larder_pack {
	struct larder_slabs slabs;
	_Atomic uint64_t *entries; /* [handle]: where the object is. A live entry is written under its stripe, a free
				      one under handles_lock. */
	uint32_t max_handles;

	struct larder_mutex handles_lock;
	uint32_t free_handle;	       /* first of the list of free handles */
	_Atomic uint32_t handles_used; /* handles ever used; written under handles_lock, read without */

	struct larder_mutex compacting;
	_Atomic uint64_t objects, stored_bytes, moved_bytes; /* moved: by compaction, ever */
	struct pack_stripe stripes[PACK_STRIPES];
};

struct pack_usage {
	uint64_t objects;
	uint64_t stored_bytes;	 /* what was put, without headers */
	uint64_t occupied_bytes; /* resident slabs, free ones included */
	uint64_t metadata_bytes; /* handle table, slab table, the struct itself */
};

/* Prepare zeroed `p` for max_objects objects. Returns 0 or -ENOMEM, in which case nothing is left mapped. */
int pack_open(struct larder_pack *p, uint64_t max_objects);
void pack_close(struct larder_pack *p);

/* Keep a copy of `bytes` bytes (1 to PACK_MAX_BYTES). Returns 0 and *handle, or -ENOSPC. */
int pack_put(struct larder_pack *p, const void *object, size_t bytes, unsigned tag, uint64_t *handle);

/* The object will be read in a moment. A hint, for which nobody waits; any handle will do. */
void pack_prefetch(const struct larder_pack *p, uint64_t handle);

/*
 * Hold an object in its place and say where that is. Every pin is followed by pack_unpin() soon: compaction waits for
 * it. returns  the object and its size, or NULL when the handle or the object's header is damaged (then there is
 * nothing to unpin).
 */
const void *pack_pin(struct larder_pack *p, uint64_t handle, size_t *bytes);
void pack_unpin(struct larder_pack *p, uint64_t handle);

/* Forget objects, 1 to PACK_DROPS_MAX. Their tags go to `tags`. */
void pack_drop(struct larder_pack *p, const uint64_t *handles, size_t n, unsigned *tags);

/*
 * A tag is a small number (0 to PACK_TAG_MAX) that the caller keeps with an object; it takes no space. pack_tag() is
 * for a pinned object; pack_set_tag() changes it if it is still `from`.
 */
unsigned pack_tag(const struct larder_pack *p, uint64_t handle);
void pack_set_tag(struct larder_pack *p, uint64_t handle, unsigned from, unsigned to);

/*
 * For whoever looks at objects that are not its own, which may go and be others at any time. The first object at or
 * after *handle: returns 0 when there is none. Handles are below pack_handles().
 */
int pack_next(const struct larder_pack *p, uint64_t *handle, unsigned *tag);
uint64_t pack_handles(const struct larder_pack *p);

/*
 * Put an object in the place of another under the same handle, if the bytes and the tag there are still `old`. Whether
 * they are the same object as before does not matter then. Returns 0; -EAGAIN: they are not, or -ENOSPC: nothing has
 * changed.
 */
int pack_replace(struct larder_pack *p, uint64_t handle, const void *old, size_t old_bytes, unsigned old_tag,
		 const void *object, size_t bytes, unsigned tag);

/* Where holes are many, move about budget_bytes of objects to free slabs; return spare slabs to the kernel. Returns the
 * bytes given back. */
uint64_t pack_compact(struct larder_pack *p, uint64_t budget_bytes);

/* After a fork, in the child: drop what is not named. See backend.h. */
void pack_inherit(struct larder_pack *p, int (*named)(void *arg, uint64_t handle), void *arg);

struct pack_usage pack_usage(const struct larder_pack *p);

#endif
