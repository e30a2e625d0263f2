/*
 * Pack. See pack.h for the idea and the locks.
 *
 * A slab is in one of four places: on a bin list of its class (partly filled), full (on no list), on the empty list (resident, for the next
 * object of any class), or on the absent list (given back). A slab being compacted is `isolated`: on no list, so that nothing
 * is put into it; what is dropped from it just leaves.
 *
 * Invariants, under `lock`: a class's partial_slabs and partial_live sum over its bin lists; resident_slabs counts all but absent slabs;
 * locations[h] of a live handle names a slot whose header names h.
 */
#include "pack.h"

#include "sys.h"

#ifdef LARDER_DEBUG
#define pack_assert(condition) ((condition) ? (void)0 : __builtin_trap())
#else
#define pack_assert(condition) ((void)0)
#endif

enum {
	SLOT_HEADER_BYTES = 8,
	SLOT_MIN_BYTES = 64,
	SLOT_ALIGN = 16,
	NO_SLOT = 0xffff,
	CLASS_SPACING_DIVISOR = 32, /* slot sizes are at least 1/32 apart */
};

/* In front of each slot's bytes. */
struct slot_header {
	uint32_t handle; /* PACK_NONE = free */
	uint16_t length; /* of the object */
	uint16_t next;	 /* free: the next free slot of the slab */
};

struct pack_slab {
	uint32_t next, prev; /* on a list */
	uint16_t live;	     /* objects */
	uint16_t touched;    /* slots [touched, slots) were never used since the slab was taken: free without being on the list */
	uint16_t free_slot;  /* list of free slots */
	uint8_t class_index;
	uint8_t isolated;
};

_Static_assert(sizeof(struct slot_header) == SLOT_HEADER_BYTES, "slot header");

/* ---- size classes ---- */

static uint32_t slot_bytes_of(uint32_t slots)
{
	return PACK_SLAB_BYTES / slots / SLOT_ALIGN * SLOT_ALIGN;
}

/* From the largest slot down, so that the last class written for a size is the smallest that fits. */
static void make_classes(struct pack *p)
{
	uint32_t slots = PACK_SLAB_BYTES / (PACK_OBJECT_MAX_BYTES + SLOT_HEADER_BYTES);

	while (slot_bytes_of(slots) >= SLOT_MIN_BYTES && p->nclasses < PACK_CLASSES_MAX) {
		struct pack_class *c = &p->classes[p->nclasses];
		uint32_t fits = (slot_bytes_of(slots) - SLOT_HEADER_BYTES) / SLOT_ALIGN;

		c->slot_bytes = slot_bytes_of(slots);
		c->slots = slots;
		for (unsigned bin = 0; bin < PACK_BINS; bin++)
			c->bins[bin] = PACK_NONE;
		for (uint32_t step = 0; step <= fits && step < sizeof(p->class_of); step++)
			p->class_of[step] = (uint8_t)p->nclasses;
		p->nclasses++;
		slots += slots / CLASS_SPACING_DIVISOR > 1 ? slots / CLASS_SPACING_DIVISOR : 1;
		while (slot_bytes_of(slots) == c->slot_bytes)
			slots++;
	}
}

static unsigned class_for(const struct pack *p, uint32_t length)
{
	return p->class_of[(length + SLOT_ALIGN - 1) / SLOT_ALIGN];
}

/* ---- lists of slabs ---- */

static void list_push(struct pack *p, uint32_t *head, uint32_t slab)
{
	p->slabs[slab].prev = PACK_NONE;
	p->slabs[slab].next = *head;
	if (*head != PACK_NONE)
		p->slabs[*head].prev = slab;
	*head = slab;
}

static void list_remove(struct pack *p, uint32_t *head, uint32_t slab)
{
	struct pack_slab *s = &p->slabs[slab];

	if (s->prev == PACK_NONE)
		*head = s->next;
	else
		p->slabs[s->prev].next = s->next;
	if (s->next != PACK_NONE)
		p->slabs[s->next].prev = s->prev;
}

static unsigned bin_of(const struct pack_class *c, uint32_t live)
{
	return live * PACK_BINS / c->slots; /* live < slots for slabs on a list */
}

static int is_on_bin(const struct pack_class *c, const struct pack_slab *s)
{
	return !s->isolated && s->live > 0 && s->live < c->slots;
}

static void bin_add(struct pack *p, uint32_t slab)
{
	struct pack_slab *s = &p->slabs[slab];
	struct pack_class *c = &p->classes[s->class_index];

	if (!is_on_bin(c, s))
		return;
	list_push(p, &c->bins[bin_of(c, s->live)], slab);
	c->partial_slabs++;
	c->partial_live += s->live;
}

static void bin_remove(struct pack *p, uint32_t slab)
{
	struct pack_slab *s = &p->slabs[slab];
	struct pack_class *c = &p->classes[s->class_index];

	if (!is_on_bin(c, s))
		return;
	list_remove(p, &c->bins[bin_of(c, s->live)], slab);
	c->partial_slabs--;
	c->partial_live -= s->live;
}

/* The fullest partly filled slab, or PACK_NONE. */
static uint32_t fullest(const struct pack_class *c)
{
	for (int bin = PACK_BINS - 1; bin >= 0; bin--)
		if (c->bins[bin] != PACK_NONE)
			return c->bins[bin];
	return PACK_NONE;
}

static uint32_t emptiest(const struct pack_class *c)
{
	for (unsigned bin = 0; bin < PACK_BINS; bin++)
		if (c->bins[bin] != PACK_NONE)
			return c->bins[bin];
	return PACK_NONE;
}

/* ---- slabs ---- */

static char *slab_address(const struct pack *p, uint32_t slab)
{
	return p->memory + (size_t)slab * PACK_SLAB_BYTES;
}

static struct slot_header *slot_at(const struct pack *p, uint32_t slab, uint32_t slot)
{
	return (struct slot_header *)(slab_address(p, slab) +
				      (size_t)slot * p->classes[p->slabs[slab].class_index].slot_bytes);
}

static uint32_t pop(struct pack *p, uint32_t *head)
{
	uint32_t slab = *head;

	if (slab != PACK_NONE)
		list_remove(p, head, slab);
	return slab;
}

/* An empty slab for a class: on no list, resident. PACK_NONE when there is no address space left. */
static uint32_t take_slab(struct pack *p, unsigned class_index)
{
	uint32_t slab = pop(p, &p->empty_slabs);

	if (slab != PACK_NONE) {
		p->empty_count--;
	} else {
		slab = pop(p, &p->absent_slabs);
		if (slab == PACK_NONE && p->slabs_used < p->slabs_max)
			slab = p->slabs_used++;
		if (slab == PACK_NONE)
			return PACK_NONE;
		atomic_fetch_add_explicit(&p->resident_slabs, 1, memory_order_relaxed);
	}
	p->slabs[slab] = (struct pack_slab){ .class_index = (uint8_t)class_index, .free_slot = NO_SLOT };
	return slab;
}

/* A slab whose last object left: keep it for the next, or name it for give_back(). */
static uint32_t retire(struct pack *p, uint32_t slab)
{
	if (p->empty_count >= PACK_CACHE_SLABS)
		return slab;
	list_push(p, &p->empty_slabs, slab);
	p->empty_count++;
	return PACK_NONE;
}

/* Unmap a retired slab, which is on no list, without holding `lock`; then it can be taken again. */
static void give_back(struct pack *p, uint32_t slab)
{
	if (slab == PACK_NONE)
		return;
	sys_madvise(slab_address(p, slab), PACK_SLAB_BYTES, MADV_DONTNEED);
	mutex_lock(&p->lock);
	list_push(p, &p->absent_slabs, slab);
	atomic_fetch_sub_explicit(&p->resident_slabs, 1, memory_order_relaxed);
	mutex_unlock(&p->lock);
}

/* ---- slots and handles ---- */

/* A free slot of the class in a slab that is not isolated; *slab and *slot are set. False when there is no memory. */
static int take_slot(struct pack *p, unsigned class_index, uint32_t *slab, uint32_t *slot)
{
	struct pack_class *c = &p->classes[class_index];
	struct pack_slab *s;

	*slab = fullest(c);
	if (*slab == PACK_NONE)
		*slab = take_slab(p, class_index);
	if (*slab == PACK_NONE)
		return 0;
	bin_remove(p, *slab);
	s = &p->slabs[*slab];
	if (s->free_slot != NO_SLOT) {
		*slot = s->free_slot;
		s->free_slot = slot_at(p, *slab, *slot)->next;
	} else {
		*slot = s->touched++;
	}
	pack_assert(*slot < c->slots);
	s->live++;
	bin_add(p, *slab);
	return 1;
}

/* Returns a slab for give_back(), or PACK_NONE. */
static uint32_t free_slot(struct pack *p, uint32_t slab, uint32_t slot)
{
	struct pack_slab *s = &p->slabs[slab];
	struct slot_header *header = slot_at(p, slab, slot);

	bin_remove(p, slab);
	header->handle = PACK_NONE;
	header->next = s->free_slot;
	s->free_slot = (uint16_t)slot;
	s->live--;
	bin_add(p, slab);
	return s->live == 0 && !s->isolated ? retire(p, slab) : PACK_NONE;
}

static uint32_t take_handle(struct pack *p)
{
	uint32_t handle = p->free_handles;

	if (handle != PACK_NONE)
		p->free_handles = (uint32_t)p->locations[handle];
	else if (p->handles_used < p->handles_max)
		handle = p->handles_used++;
	return handle;
}

static void free_handle(struct pack *p, uint32_t handle)
{
	p->locations[handle] = p->free_handles;
	p->free_handles = handle;
}

static struct larder_mutex *stripe_of(struct pack *p, uint32_t handle)
{
	return &p->stripes[handle % PACK_STRIPES];
}

static struct slot_header *slot_of(const struct pack *p, uint32_t handle)
{
	uint64_t at = p->locations[handle];
	struct slot_header *header = slot_at(p, (uint32_t)(at >> 16), at & 0xffff);

	pack_assert(header->handle == handle);
	return header;
}

/* ---- public functions ---- */

int pack_open(struct pack *p, uint64_t max_objects)
{
	p->handles_max = max_objects < PACK_NONE ? max_objects : PACK_NONE - 1;
	p->slabs_max = p->handles_max * (PACK_OBJECT_MAX_BYTES + SLOT_HEADER_BYTES) / PACK_SLAB_BYTES + PACK_CLASSES_MAX;
	p->memory = sys_map(p->slabs_max * PACK_SLAB_BYTES);
	p->slabs = sys_map(p->slabs_max * sizeof(*p->slabs));
	p->locations = sys_map(p->handles_max * sizeof(*p->locations));
	if (!p->memory || !p->slabs || !p->locations) {
		pack_close(p);
		return -ENOMEM;
	}
	/* Slabs are given back one by one; a huge page would have to be split for each. */
	sys_madvise(p->memory, p->slabs_max * PACK_SLAB_BYTES, MADV_NOHUGEPAGE);
	p->free_handles = p->empty_slabs = p->absent_slabs = PACK_NONE;
	make_classes(p);
	return 0;
}

void pack_close(struct pack *p)
{
	if (p->memory)
		sys_munmap(p->memory, p->slabs_max * PACK_SLAB_BYTES);
	if (p->slabs)
		sys_munmap(p->slabs, p->slabs_max * sizeof(*p->slabs));
	if (p->locations)
		sys_munmap(p->locations, p->handles_max * sizeof(*p->locations));
	p->memory = NULL;
	p->slabs = NULL;
	p->locations = NULL;
}

static int put_locked(struct pack *p, const void *bytes, uint32_t length, uint32_t *handle)
{
	struct slot_header *header;
	uint32_t slab, slot;

	*handle = take_handle(p);
	if (*handle == PACK_NONE)
		return -ENOSPC;
	if (!take_slot(p, class_for(p, length), &slab, &slot)) {
		free_handle(p, *handle);
		return -ENOSPC;
	}
	p->locations[*handle] = (uint64_t)slab << 16 | slot;
	header = slot_at(p, slab, slot);
	header->handle = *handle;
	header->length = (uint16_t)length;
	/* Under the lock: compaction may pick the slot as soon as it is visible. */
	__builtin_memcpy(header + 1, bytes, length);
	atomic_fetch_add_explicit(&p->objects, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->stored_bytes, length, memory_order_relaxed);
	return 0;
}

int pack_put(struct pack *p, const void *bytes, uint32_t length, uint32_t *handle)
{
	int err;

	mutex_lock(&p->lock);
	err = put_locked(p, bytes, length, handle);
	mutex_unlock(&p->lock);
	return err;
}

const void *pack_pin(struct pack *p, uint32_t handle, uint32_t *length)
{
	const struct slot_header *header;

	mutex_lock(stripe_of(p, handle));
	header = slot_of(p, handle);
	*length = header->length;
	return header + 1;
}

void pack_unpin(struct pack *p, uint32_t handle)
{
	mutex_unlock(stripe_of(p, handle));
}

void pack_drop(struct pack *p, uint32_t handle)
{
	uint32_t retired;
	uint64_t at;

	mutex_lock(stripe_of(p, handle));
	mutex_lock(&p->lock);
	at = p->locations[handle];
	atomic_fetch_sub_explicit(&p->objects, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&p->stored_bytes, slot_of(p, handle)->length, memory_order_relaxed);
	retired = free_slot(p, (uint32_t)(at >> 16), at & 0xffff);
	free_handle(p, handle);
	mutex_unlock(&p->lock);
	mutex_unlock(stripe_of(p, handle));
	give_back(p, retired);
}

/* ---- compaction ---- */

/*
 * Would emptying a slab pay? A slab's worth of holes means that the emptiest slab's objects fit into the others of its class; a quarter
 * more, so that a class in steady state is not moved about for nothing.
 */
static int worth_compacting(const struct pack_class *c)
{
	return c->partial_slabs > 1 && c->partial_slabs * c->slots - c->partial_live >= c->slots + c->slots / 4;
}

static uint32_t isolate_victim(struct pack *p, struct pack_class *c)
{
	uint32_t slab = PACK_NONE;

	mutex_lock(&p->lock);
	if (worth_compacting(c))
		slab = emptiest(c);
	if (slab != PACK_NONE) {
		bin_remove(p, slab);
		p->slabs[slab].isolated = 1;
	}
	mutex_unlock(&p->lock);
	return slab;
}

/* The handle of the object in a slot of an isolated slab, or PACK_NONE. */
static uint32_t handle_in(struct pack *p, uint32_t slab, uint32_t slot)
{
	uint32_t handle = PACK_NONE;

	mutex_lock(&p->lock);
	if (slot < p->slabs[slab].touched)
		handle = slot_at(p, slab, slot)->handle;
	mutex_unlock(&p->lock);
	return handle;
}

static uint32_t move_locked(struct pack *p, uint32_t handle, uint32_t slab, uint32_t slot)
{
	struct slot_header *from = slot_at(p, slab, slot), *to;
	uint32_t new_slab, new_slot, length = from->length;

	/* The object may have been dropped, and its handle used again elsewhere, before its stripe was ours. */
	if (from->handle != handle || p->locations[handle] != ((uint64_t)slab << 16 | slot))
		return 0;
	if (!take_slot(p, p->slabs[slab].class_index, &new_slab, &new_slot))
		return 0;
	to = slot_at(p, new_slab, new_slot);
	to->handle = handle;
	to->length = (uint16_t)length;
	__builtin_memcpy(to + 1, from + 1, length);
	p->locations[handle] = (uint64_t)new_slab << 16 | new_slot;
	free_slot(p, slab, slot);
	return length;
}

/* Returns the bytes moved. */
static uint32_t move_object(struct pack *p, uint32_t slab, uint32_t slot)
{
	uint32_t handle = handle_in(p, slab, slot), moved;

	if (handle == PACK_NONE)
		return 0;
	mutex_lock(stripe_of(p, handle));
	mutex_lock(&p->lock);
	moved = move_locked(p, handle, slab, slot);
	mutex_unlock(&p->lock);
	mutex_unlock(stripe_of(p, handle));
	return moved;
}

/* Back to its list, or away when it is empty. */
static uint64_t release_victim(struct pack *p, uint32_t slab)
{
	uint32_t retired = PACK_NONE;

	mutex_lock(&p->lock);
	p->slabs[slab].isolated = 0;
	if (p->slabs[slab].live == 0)
		retired = retire(p, slab);
	else
		bin_add(p, slab);
	mutex_unlock(&p->lock);
	give_back(p, retired);
	return retired == PACK_NONE ? 0 : PACK_SLAB_BYTES;
}

static uint64_t compact_class(struct pack *p, struct pack_class *c, uint64_t *budget)
{
	uint64_t given_back = 0;

	while (*budget > 0) {
		uint32_t victim = isolate_victim(p, c);
		uint64_t moved = 0;

		if (victim == PACK_NONE)
			break;
		for (uint32_t slot = 0; slot < c->slots; slot++)
			moved += move_object(p, victim, slot);
		given_back += release_victim(p, victim);
		*budget -= moved < *budget ? moved : *budget;
	}
	return given_back;
}

uint64_t pack_compact(struct pack *p, uint64_t budget_bytes)
{
	uint64_t given_back = 0;

	for (unsigned i = 0; i < p->nclasses && budget_bytes > 0; i++) {
		given_back += compact_class(p, &p->classes[p->compact_class % p->nclasses], &budget_bytes);
		if (budget_bytes > 0)
			p->compact_class++;
	}
	return given_back;
}

uint64_t pack_metadata_bytes(const struct pack *p)
{
	return (uint64_t)p->slabs_used * sizeof(*p->slabs) + (uint64_t)p->handles_used * sizeof(*p->locations) + sizeof(*p);
}
