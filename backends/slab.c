/*
 * Slabs. See slab.h.
 *
 * Invariants, under the lock:
 *   used == popcount(taken) <= slots of the class;
 *   a slab in use is in the bin that its `used` says, unless it is full or draining: then it is in no list;
 *   a free slab is in free[n], and its first n pages count as resident;
 *   occupied_bytes == pages of all slabs in use + cached_bytes.
 */
#include "slab.h"

#include "log.h"
#include "sys.h"

/* struct larder_slab.bin, beyond the bins */
enum { BIN_FULL = SLAB_BINS, BIN_DRAINING, BIN_FREE };

/*
 * Classes are 1/32 apart where the geometry allows it. A longer slab must fit better by 1/128, since a longer one also
 * holds more when it is half empty. A slab shorter than 4 pages would waste address space, and with it the kernel's
 * page tables (8 bytes a page of the span, used or not); only slots so small that 64 of them are less get one.
 */
enum { CLASS_STEP_DIVISOR = 32, LONGER_SLAB_GAIN_DIVISOR = 128, SLAB_LIKED_PAGES = 4 };

/*
 * Draining begins when more than 1/64 of the occupied space is holes. Moving costs a copy: for 5 % of the bytes put
 * where the mix of sizes is steady (1/20: 2 %), half of them while it changes (docs/compression.md).
 */
enum { HOLES_DIVISOR = 64 };

/* Free slabs that keep their pages, so that opening one costs no page faults: 1/256 of the occupied space, at least 64
 * KiB. */
enum { CACHE_DIVISOR = 256, CACHE_MIN_BYTES = 64 << 10 };

enum { TRIM_BATCH = 32 };

/* Few objects leave partly filled slabs in many classes: spare slabs beyond what max_objects fill. */
enum { SPARE_DIVISOR = 20, SPARE_SLABS = 16 * SLAB_CLASSES_MAX, MIN_SLABS = 1024 };

/* Classes */

static uint32_t fewest_pages(uint32_t slot_bytes)
{
	uint32_t pages = SLAB_LIKED_PAGES;

	while (pages > 1 && pages * SLAB_PAGE_BYTES / slot_bytes > SLAB_MAX_SLOTS)
		pages--;
	return pages;
}

static struct slab_class class_for(uint32_t slot_bytes)
{
	struct slab_class best = { 0 };
	uint32_t best_bytes = UINT32_MAX; /* of slab for each object */

	for (uint32_t pages = fewest_pages(slot_bytes); pages <= SLAB_MAX_PAGES; pages++) {
		uint32_t bytes = pages * SLAB_PAGE_BYTES, slots = bytes / slot_bytes;

		if (slots > SLAB_MAX_SLOTS)
			slots = SLAB_MAX_SLOTS;
		if (bytes / slots >= best_bytes - best_bytes / LONGER_SLAB_GAIN_DIVISOR)
			continue;
		best_bytes = bytes / slots;
		best = (struct slab_class){
			.slot_bytes = best_bytes / SLAB_SLOT_ALIGN * SLAB_SLOT_ALIGN,
			.slots = (uint8_t)slots,
			.pages = (uint8_t)pages,
		};
	}
	for (unsigned bin = 0; bin < SLAB_BINS; bin++)
		best.partial[bin] = SLAB_NONE;
	return best;
}

static uint32_t step_down(uint32_t bytes)
{
	uint32_t next = (bytes - bytes / CLASS_STEP_DIVISOR) / SLAB_SLOT_ALIGN * SLAB_SLOT_ALIGN;

	return next < bytes ? next : bytes - SLAB_SLOT_ALIGN;
}

static void make_classes(struct larder_slabs *s)
{
	struct slab_class down[SLAB_CLASSES_MAX]; /* largest first */
	uint32_t n = 0;

	for (uint32_t bytes = SLAB_SLOT_MAX_BYTES; bytes >= SLAB_SLOT_MIN_BYTES; bytes = step_down(bytes)) {
		struct slab_class c = class_for(bytes);

		if (n < SLAB_CLASSES_MAX && (n == 0 || c.slot_bytes < down[n - 1].slot_bytes))
			down[n++] = c;
	}
	for (uint32_t i = 0; i < n; i++)
		s->classes[i] = down[n - 1 - i];
	s->classes_used = n;
	for (uint32_t bytes = 0, class = 0; bytes <= SLAB_SLOT_MAX_BYTES; bytes += SLAB_SLOT_ALIGN) {
		class += bytes > s->classes[class].slot_bytes;
		s->class_of[bytes / SLAB_SLOT_ALIGN] = (uint8_t) class;
	}
}

/* Lists of slabs */

static void list_push(struct larder_slabs *s, uint32_t *head, uint32_t slab)
{
	s->table[slab].prev = SLAB_NONE;
	s->table[slab].next = *head;
	if (*head != SLAB_NONE)
		s->table[*head].prev = slab;
	*head = slab;
}

static void list_remove(struct larder_slabs *s, uint32_t *head, uint32_t slab)
{
	const struct larder_slab *b = &s->table[slab];

	if (b->prev == SLAB_NONE)
		*head = b->next;
	else
		s->table[b->prev].next = b->next;
	if (b->next != SLAB_NONE)
		s->table[b->next].prev = b->prev;
}

static uint32_t list_pop(struct larder_slabs *s, uint32_t *head)
{
	uint32_t slab = *head;

	if (slab != SLAB_NONE)
		list_remove(s, head, slab);
	return slab;
}

static void bin_enter(struct larder_slabs *s, uint32_t slab, uint8_t bin)
{
	struct larder_slab *b = &s->table[slab];

	b->bin = bin;
	if (bin < SLAB_BINS)
		list_push(s, &s->classes[b->class].partial[bin], slab);
}

static void bin_leave(struct larder_slabs *s, uint32_t slab)
{
	const struct larder_slab *b = &s->table[slab];

	if (b->bin < SLAB_BINS)
		list_remove(s, &s->classes[b->class].partial[b->bin], slab);
}

/* `used` has changed: into the bin where the slab belongs now. */
static void bin_update(struct larder_slabs *s, uint32_t slab)
{
	const struct larder_slab *b = &s->table[slab];
	const struct slab_class *c = &s->classes[b->class];
	uint8_t bin = (uint8_t)(b->used * SLAB_BINS / c->slots);

	if (b->bin == BIN_DRAINING || b->bin == bin)
		return;
	bin_leave(s, slab);
	bin_enter(s, slab, bin);
}

static uint32_t fullest(const struct slab_class *c)
{
	for (int bin = SLAB_BINS - 1; bin >= 0; bin--)
		if (c->partial[bin] != SLAB_NONE)
			return c->partial[bin];
	return SLAB_NONE;
}

static uint32_t emptiest(const struct slab_class *c)
{
	for (int bin = 0; bin < SLAB_BINS; bin++)
		if (c->partial[bin] != SLAB_NONE)
			return c->partial[bin];
	return SLAB_NONE;
}

/* Slabs in and out of use */

static uint32_t free_slab(struct larder_slabs *s, unsigned pages)
{
	uint32_t slab = list_pop(s, &s->free[pages]), used = atomic_load_explicit(&s->slabs_used, memory_order_relaxed);

	if (slab != SLAB_NONE) {
		s->cached_bytes -= pages * SLAB_PAGE_BYTES;
		return slab;
	}
	slab = list_pop(s, &s->free[0]);
	if (slab == SLAB_NONE && used < s->max_slabs) {
		slab = used;
		atomic_store_explicit(&s->slabs_used, used + 1, memory_order_relaxed);
	}
	if (slab != SLAB_NONE)
		gauge_add(&s->occupied_bytes, pages * SLAB_PAGE_BYTES);
	return slab;
}

static uint32_t begin_slab(struct larder_slabs *s, uint8_t class)
{
	struct slab_class *c = &s->classes[class];
	uint32_t slab = free_slab(s, c->pages);

	if (slab == SLAB_NONE)
		return SLAB_NONE;
	s->table[slab] = (struct larder_slab){ .class = class };
	bin_enter(s, slab, 0);
	c->slabs++;
	s->hole_bytes += c->slots * c->slot_bytes;
	return slab;
}

/* The slab is empty and in no list. */
static void end_slab(struct larder_slabs *s, uint32_t slab)
{
	struct slab_class *c = &s->classes[s->table[slab].class];

	larder_assert(s->table[slab].taken == 0);
	c->slabs--;
	s->hole_bytes -= c->slots * c->slot_bytes;
	s->cached_bytes += c->pages * SLAB_PAGE_BYTES;
	s->table[slab].bin = BIN_FREE;
	list_push(s, &s->free[c->pages], slab);
}

/* Slots */

static struct larder_slot take_slot(struct larder_slabs *s, uint32_t slab)
{
	struct larder_slab *b = &s->table[slab];
	struct slab_class *c = &s->classes[b->class];
	uint32_t slot = (uint32_t)__builtin_ctzll(~b->taken);

	larder_assert(slot < c->slots);
	b->taken |= (uint64_t)1 << slot;
	b->used++;
	c->used++;
	s->hole_bytes -= c->slot_bytes;
	bin_update(s, slab);
	return slabs_slot(s, slab, slot);
}

int slabs_take(struct larder_slabs *s, size_t bytes, struct larder_slot *slot)
{
	uint8_t class = s->class_of[(bytes + SLAB_SLOT_ALIGN - 1) / SLAB_SLOT_ALIGN];
	uint32_t slab;

	mutex_lock(&s->lock);
	slab = fullest(&s->classes[class]);
	if (slab == SLAB_NONE)
		slab = begin_slab(s, class);
	if (slab != SLAB_NONE)
		*slot = take_slot(s, slab);
	mutex_unlock(&s->lock);
	return slab == SLAB_NONE ? -ENOSPC : 0;
}

int slabs_take_hole(struct larder_slabs *s, uint32_t draining, struct larder_slot *slot)
{
	uint32_t slab;

	mutex_lock(&s->lock);
	slab = fullest(&s->classes[s->table[draining].class]);
	if (slab != SLAB_NONE)
		*slot = take_slot(s, slab);
	mutex_unlock(&s->lock);
	return slab == SLAB_NONE ? -ENOSPC : 0;
}

static void give_slot(struct larder_slabs *s, struct larder_slot slot)
{
	struct larder_slab *b = &s->table[slot.slab];
	struct slab_class *c = &s->classes[b->class];

	larder_assert(b->taken >> slot.slot & 1);
	b->taken &= ~((uint64_t)1 << slot.slot);
	b->used--;
	c->used--;
	s->hole_bytes += c->slot_bytes;
	if (b->used == 0 && b->bin != BIN_DRAINING) {
		bin_leave(s, slot.slab);
		end_slab(s, slot.slab);
	} else {
		bin_update(s, slot.slab);
	}
}

void slabs_give(struct larder_slabs *s, const struct larder_slot *slots, size_t n)
{
	mutex_lock(&s->lock);
	for (size_t i = 0; i < n; i++)
		give_slot(s, slots[i]);
	mutex_unlock(&s->lock);
}

/* Draining */

static uint64_t class_holes(const struct slab_class *c)
{
	return c->slabs * c->slots - c->used;
}

/*
 * The class with the largest share of holes: its emptiest slab has the fewest objects to move. It must have a slab's
 * worth of holes, so that the others can take what the emptiest holds.
 */
static struct slab_class *class_to_drain(struct larder_slabs *s)
{
	struct slab_class *best = NULL;

	for (struct slab_class *c = s->classes; c < s->classes + s->classes_used; c++) {
		if (class_holes(c) < c->slots)
			continue;
		if (!best || class_holes(c) * best->slabs * best->slots > class_holes(best) * c->slabs * c->slots)
			best = c;
	}
	return best;
}

uint32_t slabs_drain(struct larder_slabs *s, uint64_t *taken)
{
	uint64_t occupied = atomic_load_explicit(&s->occupied_bytes, memory_order_relaxed);
	struct slab_class *c = NULL;
	uint32_t slab = SLAB_NONE;

	mutex_lock(&s->lock);
	if (s->hole_bytes > occupied / HOLES_DIVISOR)
		c = class_to_drain(s);
	if (c)
		slab = emptiest(c);
	if (slab != SLAB_NONE) {
		bin_leave(s, slab);
		s->table[slab].bin = BIN_DRAINING;
		*taken = s->table[slab].taken;
	}
	mutex_unlock(&s->lock);
	return slab;
}

void slabs_drained(struct larder_slabs *s, uint32_t draining)
{
	struct larder_slab *b = &s->table[draining];

	mutex_lock(&s->lock);
	larder_assert(b->bin == BIN_DRAINING);
	b->bin = BIN_FULL; /* in no list, whatever it holds */
	if (b->used == 0)
		end_slab(s, draining);
	else
		bin_update(s, draining);
	mutex_unlock(&s->lock);
}

/* Back to the kernel */

static uint64_t cache_limit_bytes(const struct larder_slabs *s)
{
	uint64_t share = atomic_load_explicit(&s->occupied_bytes, memory_order_relaxed) / CACHE_DIVISOR;

	return share > CACHE_MIN_BYTES ? share : CACHE_MIN_BYTES;
}

struct trim_batch {
	unsigned n;
	uint64_t bytes;
	uint32_t slab[TRIM_BATCH];
	uint8_t pages[TRIM_BATCH];
};

/* Take the free slabs that are too many off the lists, longest first. */
static void trim_collect(struct larder_slabs *s, struct trim_batch *batch)
{
	batch->n = 0;
	batch->bytes = 0;
	mutex_lock(&s->lock);
	for (unsigned pages = SLAB_MAX_PAGES; pages > 0 && batch->n < TRIM_BATCH;) {
		if (s->cached_bytes <= cache_limit_bytes(s))
			break;
		if (s->free[pages] == SLAB_NONE) {
			pages--;
			continue;
		}
		batch->slab[batch->n] = list_pop(s, &s->free[pages]);
		batch->pages[batch->n++] = (uint8_t)pages;
		batch->bytes += pages * SLAB_PAGE_BYTES;
		s->cached_bytes -= pages * SLAB_PAGE_BYTES;
	}
	mutex_unlock(&s->lock);
}

static void trim_finish(struct larder_slabs *s, const struct trim_batch *batch)
{
	mutex_lock(&s->lock);
	for (unsigned i = 0; i < batch->n; i++)
		list_push(s, &s->free[0], batch->slab[i]);
	gauge_add(&s->occupied_bytes, -batch->bytes);
	mutex_unlock(&s->lock);
}

uint64_t slabs_trim(struct larder_slabs *s)
{
	struct trim_batch batch;
	uint64_t given = 0;

	for (;;) {
		trim_collect(s, &batch);
		if (batch.n == 0)
			return given;
		for (unsigned i = 0; i < batch.n; i++)
			sys_madvise(s->base + (size_t)batch.slab[i] * SLAB_SPAN_BYTES,
				    (size_t)batch.pages[i] * SLAB_PAGE_BYTES, MADV_DONTNEED);
		trim_finish(s, &batch);
		given += batch.bytes;
	}
}

/* Open and close */

void *slabs_map(size_t bytes)
{
	void *p = sys_map(bytes);

	if (p)
		sys_madvise(p, bytes, MADV_NOHUGEPAGE); /* refused only by kernels without huge pages */
	return p;
}

/* The class with the fewest slots needs the most slabs. */
static uint32_t fewest_slots(const struct larder_slabs *s)
{
	uint32_t fewest = SLAB_MAX_SLOTS;

	for (uint32_t class = 0; class < s->classes_used; class ++)
		if (s->classes[class].slots < fewest)
			fewest = s->classes[class].slots;
	return fewest;
}

int slabs_open(struct larder_slabs *s, uint64_t max_objects)
{
	uint64_t most;

	make_classes(s);
	most = max_objects / fewest_slots(s);
	for (unsigned pages = 0; pages <= SLAB_MAX_PAGES; pages++)
		s->free[pages] = SLAB_NONE;
	s->max_slabs = most + most / SPARE_DIVISOR + SPARE_SLABS;
	if (s->max_slabs > SLAB_NONE)
		s->max_slabs = SLAB_NONE;
	while (!(s->base = slabs_map(s->max_slabs * SLAB_SPAN_BYTES)) && s->max_slabs > MIN_SLABS)
		s->max_slabs /= 2;
	s->table = s->base ? slabs_map(s->max_slabs * sizeof(*s->table)) : NULL;
	if (s->table)
		return 0;
	slabs_close(s);
	return -ENOMEM;
}

void slabs_close(struct larder_slabs *s)
{
	if (s->base)
		sys_munmap(s->base, s->max_slabs * SLAB_SPAN_BYTES);
	if (s->table)
		sys_munmap(s->table, s->max_slabs * sizeof(*s->table));
	s->base = NULL;
	s->table = NULL;
}

uint64_t slabs_metadata_bytes(const struct larder_slabs *s)
{
	uint64_t bytes = atomic_load_explicit(&s->slabs_used, memory_order_relaxed) * sizeof(*s->table);

	return (bytes + SLAB_PAGE_BYTES - 1) / SLAB_PAGE_BYTES * SLAB_PAGE_BYTES;
}
