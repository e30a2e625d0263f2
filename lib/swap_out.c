/*
 * Swap out. See swap_out.h.
 */
#include "swap_out.h"

#include "codec.h"
#include "stats.h"
#include "sys.h"

/* A batch's tag for each of its pages: index, and staging slot plus one (0: it was compressed in RAM). */
static uint64_t tag_of(size_t index, uint32_t slot_plus_one)
{
	return (uint64_t)slot_plus_one << 32 | index;
}

static const struct larder_backend_ops *ops_of(const struct larder_memory *m)
{
	return m->store.disk->ops;
}

static void *backend_of(const struct larder_memory *m)
{
	return m->store.disk->backend;
}

static void *scratch_of(const struct larder_memory *m, void *scratch)
{
	return store_scratch_of(m->store.disk, scratch);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- filling batches ---- */

static int need_batch(struct larder_memory *m, struct larder_swap_out *so, void *scratch)
{
	int err;

	if (so->batch)
		return 0;
	err = ops_of(m)->batch_begin(backend_of(m), scratch_of(m, scratch), &so->batch);
	if (err) {
		so->batch = NULL;
		return err;
	}
	if (so->next_ticket == 0 || so->next_ticket > UINT32_MAX - LARDER_BATCH_MAX_OBJECTS)
		so->next_ticket = 1;
	so->batch->first_ticket = so->next_ticket;
	return 0;
}

void swap_out_flush(struct larder_memory *m, struct larder_swap_out *so, void *scratch)
{
	struct larder_batch *batch = so->batch;

	if (!batch)
		return;
	so->batch = NULL;
	ops_of(m)->batch_write(backend_of(m), scratch_of(m, scratch), batch);
}

/* Add an object to the batch that is being filled. Returns 0 and *ticket, -ENOSPC: it is full, or why there is none. */
static int add_to_batch(struct larder_memory *m, struct larder_swap_out *so, void *scratch,
			const struct larder_object *object, uint64_t tag, uint32_t *ticket)
{
	int err = need_batch(m, so, scratch);

	if (!err)
		err = ops_of(m)->batch_add(backend_of(m), so->batch, object, tag);
	if (!err)
		*ticket = so->next_ticket++;
	return err;
}

/* The same, or to the next one when it is full. */
static int add(struct larder_memory *m, struct larder_swap_out *so, void *scratch, const struct larder_object *object,
	       uint64_t tag, uint32_t *ticket)
{
	int err = add_to_batch(m, so, scratch, object, tag, ticket);

	if (err != -ENOSPC || !so->batch)
		return err;
	swap_out_flush(m, so, scratch);
	return add_to_batch(m, so, scratch, object, tag, ticket);
}

int swap_out_staged(struct larder_memory *m, struct larder_swap_out *so, void *scratch, size_t index, uint32_t slot,
		    const struct larder_object *object)
{
	return add(m, so, scratch, object, tag_of(index, slot + 1), &m->staging.writing[slot]);
}

/* The page is compressed in RAM, owned, and to go on. */
static int send_stored(struct larder_memory *m, struct larder_swap_out *so, void *scratch, size_t index, uint64_t word,
		       uint32_t *ticket)
{
	struct store_tier *from = &m->store.tiers[page_tier(word) - STORE_TIER_FIRST];
	struct larder_object object = {
		.bytes = so->object,
		.size = from->ops->copy(from->backend, m->region.pages[index].handle, so->object),
		.page = so->page,
	};

	if (object.size == 0 || codec_expand(object.bytes, object.size, so->page))
		return -EBADMSG; /* damaged: whoever wants it back will be told */
	if (object.size == PAGE_BYTES)
		object = codec_object(&m->compress.lz4, CODEC_FOR_DISK, so->page, so->object);
	object.checksum = store_checksum(&m->store, so->page);
	return add(m, so, scratch, &object, tag_of(index, 0), ticket);
}

static void release(struct larder_memory *m, size_t index, uint64_t to)
{
	if (page_release(&m->region.pages[index], to))
		restore_wake(m, index);
}

/* ---- generations ---- */

/* So many are told apart. With 5/8 of a limit of a third compressed in RAM, 3 to 1, that is half of all pages; where
 * all are wanted alike, more than half of those that are put there do not stay, so that what does is of forty. */
enum { GENERATIONS = 64 };

static uint64_t present_generation(const struct larder_memory *m)
{
	return age_now(&m->age) / AGE_GENERATION_TICKS;
}

/* Pages of this generation go on from now on, and all that are older. */
static void set_oldest(struct larder_memory *m, struct larder_swap_out *so, uint64_t generation)
{
	atomic_store_explicit(&m->age.oldest, generation, memory_order_relaxed);
	so->passed = 0;
}

/* There may be more of them by now than are told apart. */
static void forget_oldest(struct larder_memory *m, struct larder_swap_out *so)
{
	uint64_t now = present_generation(m);

	if (now >= age_oldest(&m->age) + GENERATIONS)
		set_oldest(m, so, now - (GENERATIONS - 1));
}

/* The hand has been round: nothing of the oldest generation is left, or it cannot go. Returns 0: that was the last. */
static int try_next_generation(struct larder_memory *m, struct larder_swap_out *so)
{
	uint64_t oldest = age_oldest(&m->age), last = present_generation(m);

	set_oldest(m, so, oldest == last ? oldest : oldest + 1);
	return oldest != last;
}

/* An owned page that is compressed in RAM is on disk, too: from now on only there. */
static void change_to_disk(struct larder_memory *m, size_t index, uint64_t word, uint64_t handle)
{
	struct larder_page *page = &m->region.pages[index];
	struct store_place old = store_place_of(page, word);

	page->handle = handle;
	release(m, index, store_word_on_disk(&m->store));
	store_drop(&m->store, &old, 1);
	STATS_ADD(demoted, 1);
}

/* The page is compressed in RAM, owned, and to go on; it may be there already. Returns 0 or a negative errno. */
static int send_on(struct larder_memory *m, struct larder_swap_out *so, void *scratch, size_t index, uint64_t word)
{
	uint32_t ticket = 0;
	int err;

	if (word & PAGE_COPY) {
		change_to_disk(m, index, word, page_copy_handle(&m->region.pages[index]));
		STATS_ADD(copies, -1);
		STATS_ADD(clean_evictions, 1);
		return 0;
	}
	err = send_stored(m, so, scratch, index, word, &ticket);
	release(m, index, page_with_ticket(word, ticket));
	return err;
}

/* Send the page on if it is compressed in RAM. Returns 1, 0: it is not, or an errno. See memory.h: writing. */
static int demote(struct larder_memory *m, struct larder_swap_out *so, void *scratch, size_t index)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page);
	int err = 0, sent = 0;

	if (page_state(word) != PAGE_STORED || page_ticket(word) || page_tier(word) == STORE_TIER_SAME ||
	    store_is_on_disk(&m->store, page_tier(word)) || age_generation(&m->age, word) > age_oldest(&m->age))
		return 0;
	atomic_store(&m->writing, index + 1);
	if (!region_bit(m->region.kept, index) && page_acquire(page, &word, PAGE_RESTORING)) {
		err = send_on(m, so, scratch, index, word);
		sent = !err;
	}
	atomic_store_explicit(&m->writing, 0, memory_order_release);
	return err == -EBADMSG ? 0 : err ? err : sent;
}

/* The hand looks at one page, or passes a chunk that is not the pool's. Returns as demote(). */
static int advance(struct larder_memory *m, struct larder_swap_out *so, void *scratch, unsigned pool)
{
	const struct larder_chunk *c;
	size_t end;

	if (so->hand >= region_used_pages(&m->region))
		so->hand = 0;
	c = region_chunk(&m->region, so->hand);
	if (chunk_is_watched(c) && chunk_is_used(c) && (pool == REGION_HEAP || c->owner.pool == pool) &&
	    pressure_tiers(m, c->owner.pool) & store_disk_bit(&m->store)) {
		so->passed++;
		return demote(m, so, scratch, so->hand++);
	}
	end = so->hand - so->hand % CHUNK_PAGES + CHUNK_PAGES;
	so->passed += end - so->hand;
	so->hand = end;
	return 0;
}

size_t swap_out_demote(struct larder_memory *m, struct larder_swap_out *so, void *scratch, unsigned pool, size_t want,
		       int *err)
{
	size_t used = region_used_pages(&m->region), sent = 0, looked_at = 0;

	*err = 0;
	forget_oldest(m, so);
	while (sent < want) {
		size_t passed = so->passed;
		int result;

		if (passed >= used) {
			int is_last = !try_next_generation(m, so);

			if (is_last && looked_at >= used)
				break; /* the last one, too, and from start to end */
			looked_at = is_last ? looked_at : 0;
			continue;
		}
		result = advance(m, so, scratch, pool);
		looked_at += so->passed - passed;
		if (result < 0) {
			so->hand--;
			so->passed--;
			*err = result;
			break;
		}
		sent += (size_t)result;
	}
	return sent;
}

/* ---- settling what has been written ---- */

/* Wait until nobody owns the page. Whoever does brings it back from RAM, so this is short. */
static uint64_t load_settled(struct larder_memory *m, size_t index)
{
	struct larder_wait wait = { 0 };
	uint64_t word;

	while (page_is_busy(word = page_load(&m->region.pages[index])))
		pressure_wait_turn(m, &wait);
	pressure_wait_end(m, &wait);
	return word;
}

/* Is the page still staged in the slot, as it was when it was added to the batch? Then it is on disk from now on. */
static int settle_staged(struct larder_memory *m, size_t index, uint32_t slot, uint32_t ticket, uint64_t handle)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word;

	if (m->staging.writing[slot] != ticket)
		return 0;
	m->staging.writing[slot] = 0;
	word = load_settled(m, index);
	if (word != page_word_staged(slot) || region_bit(m->region.kept, index))
		return 0;
	page->handle = handle;
	if (!page_change(page, &word, store_word_on_disk(&m->store)))
		return 0;
	region_count(&m->region, index, LARDER_PAGES_STAGED, -1);
	region_count(&m->region, index, LARDER_PAGES_STORED, 1);
	STATS_ADD(evictions, 1);
	STATS_ADD(direct, 1);
	return 1;
}

/* Own a page that is compressed in RAM and has the ticket still. */
static int acquire_sent(struct larder_memory *m, size_t index, uint32_t ticket, uint64_t *word)
{
	do {
		*word = load_settled(m, index);
		if (page_state(*word) != PAGE_STORED || page_ticket(*word) != ticket)
			return 0;
	} while (!page_acquire(&m->region.pages[index], word, PAGE_RESTORING));
	return 1;
}

/* The same for a page that is compressed in RAM: its object there can go. */
static int settle_stored(struct larder_memory *m, size_t index, uint32_t ticket, uint64_t handle)
{
	uint64_t word;

	if (!acquire_sent(m, index, ticket, &word))
		return 0;
	if (region_bit(m->region.kept, index)) {
		release(m, index, page_with_ticket(word, 0));
		return 0;
	}
	change_to_disk(m, index, word, handle);
	return 1;
}

static int settle(struct larder_memory *m, uint64_t tag, uint32_t ticket, uint64_t handle)
{
	size_t index = tag & UINT32_MAX;
	int settled;

	atomic_store(&m->writing, index + 1);
	if (tag >> 32)
		settled = settle_staged(m, index, (uint32_t)(tag >> 32) - 1, ticket, handle);
	else
		settled = settle_stored(m, index, ticket, handle);
	atomic_store_explicit(&m->writing, 0, memory_order_release);
	if (!settled)
		store_drop_copy(&m->store, handle);
	return settled;
}

/* The page stays where it is, and is on its way no more: it can be sent again. */
static void settle_failed(struct larder_memory *m, uint64_t tag, uint32_t ticket)
{
	uint32_t slot = (uint32_t)(tag >> 32) - 1;
	size_t index = tag & UINT32_MAX;
	uint64_t word;

	if (tag >> 32 == 0) {
		if (acquire_sent(m, index, ticket, &word))
			release(m, index, page_with_ticket(word, 0));
	} else if (m->staging.writing[slot] == ticket) {
		m->staging.writing[slot] = 0;
	}
}

static size_t settle_batch(struct larder_memory *m, const struct larder_batch *batch)
{
	size_t settled = 0;

	for (unsigned i = 0; i < batch->objects; i++)
		if (batch->result)
			settle_failed(m, batch->tags[i], batch->first_ticket + i);
		else
			settled += (size_t)settle(m, batch->tags[i], batch->first_ticket + i, batch->handles[i]);
	if (batch->result) {
		STATS_ADD(disk.refused, batch->objects);
		count(&m->store.disk->errors, batch->objects);
		return 0;
	}
	count(&m->store.disk->puts, batch->objects);
	return settled;
}

size_t swap_out_settle(struct larder_memory *m, void *scratch)
{
	struct larder_batch *batch;
	size_t settled = 0;

	if (!m->store.disk)
		return 0;
	while ((batch = ops_of(m)->batch_reap(backend_of(m), scratch_of(m, scratch)))) {
		settled += settle_batch(m, batch);
		ops_of(m)->batch_end(backend_of(m), batch);
	}
	return settled;
}

int swap_out_is_busy(const struct larder_memory *m, const struct larder_swap_out *so)
{
	return m->store.disk && (so->batch || ops_of(m)->writing(backend_of(m)) > 0);
}

void swap_out_wait(struct larder_memory *m, void *scratch, struct larder_event *event, uint32_t seen,
		   uint64_t timeout_ns)
{
	ops_of(m)->wait(backend_of(m), scratch_of(m, scratch), event ? &event->count : NULL, seen, timeout_ns);
}

/* ---- copies ---- */

void swap_out_forget_copy(struct larder_memory *m, size_t index)
{
	store_drop_copy(&m->store, page_copy_handle(&m->region.pages[index]));
	STATS_ADD(copies, -1);
}

int swap_out_drop_copy(struct larder_memory *m, size_t index)
{
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page);

	if ((page_state(word) != PAGE_RESIDENT && page_state(word) != PAGE_STORED) || !(word & PAGE_COPY) ||
	    !page_acquire(page, &word, PAGE_RESTORING))
		return 0;
	swap_out_forget_copy(m, index);
	page->handle = page_handle(page, word);
	release(m, index, word & ~PAGE_COPY);
	return 1;
}

size_t swap_out_drop_copies(struct larder_memory *m, size_t *hand, size_t want)
{
	size_t used = region_used_pages(&m->region), dropped = 0;

	for (size_t examined = 0; examined < used && dropped < want; examined++) {
		if (*hand >= used)
			*hand = 0;
		dropped += (size_t)swap_out_drop_copy(m, (*hand)++);
	}
	return dropped;
}
