/*
 * The store. See store.h.
 */
#include "store.h"

#include "idle.h"
#include "log.h"
#include "sys.h"

enum { READ_TRIES = 3 };

enum { PAGE_WORDS = LARDER_PAGE_BYTES / 8 };

static void count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static uint64_t read(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static size_t round_up(size_t bytes)
{
	return (bytes + LARDER_PAGE_BYTES - 1) & ~(size_t)(LARDER_PAGE_BYTES - 1);
}

static int open_tier(struct larder_store *store, const struct larder_backend_ops *ops,
		     const struct larder_backend_setup *setup)
{
	struct store_tier *tier = &store->tiers[store->ntiers];
	int err;

	tier->backend = sys_map(round_up(ops->backend_bytes));
	if (!tier->backend)
		return -ENOMEM;
	err = ops->open(tier->backend, setup);
	if (err) {
		sys_munmap(tier->backend, round_up(ops->backend_bytes));
		return err;
	}
	tier->ops = ops;
	store->ntiers++;
	if (ops->is_on_disk)
		store->disk = tier;
	tier->scratch_offset = store->scratch_bytes;
	store->scratch_bytes += round_up(ops->scratch_bytes);
	return 0;
}

int store_open(struct larder_store *store, const struct larder_backend_ops *const *tiers, unsigned ntiers,
	       const struct larder_backend_setup *setup)
{
	int err = ntiers > LARDER_TIERS_MAX ? -EINVAL : 0;

	for (unsigned i = 0; i < ntiers && !err; i++)
		err = open_tier(store, tiers[i], setup);
	if (err)
		store_close(store);
	return err;
}

void store_close(struct larder_store *store)
{
	for (unsigned i = 0; i < store->ntiers; i++) {
		store->tiers[i].ops->close(store->tiers[i].backend);
		sys_munmap(store->tiers[i].backend, round_up(store->tiers[i].ops->backend_bytes));
	}
	store->ntiers = 0;
	store->disk = NULL;
}

void *store_scratch(const struct larder_store *store)
{
	return sys_map(round_up(store->scratch_bytes + 1));
}

void store_scratch_free(const struct larder_store *store, void *scratch)
{
	if (scratch)
		sys_munmap(scratch, round_up(store->scratch_bytes + 1));
}

void store_scratch_dontfork(const struct larder_store *store, void *scratch)
{
	sys_madvise(scratch, round_up(store->scratch_bytes + 1), MADV_DONTFORK);
}

/* Most pages differ in their first two words; the last one is looked at early because zeroed tails are common. */
int store_is_same_filled(const char *page, uint64_t *word)
{
	const uint64_t *words = (const void *)page;

	*word = words[0];
	if (words[PAGE_WORDS - 1] != *word)
		return 0;
	for (unsigned i = 1; i < PAGE_WORDS; i++)
		if (words[i] != *word)
			return 0;
	return 1;
}

static void fill(void *page, uint64_t word)
{
	uint64_t *words = page;

	for (unsigned i = 0; i < PAGE_WORDS; i++)
		words[i] = word;
}

struct larder_object store_object(struct larder_store *store, LZ4_stream_t *state, const char *page,
				  char bytes[CODEC_MOST_BYTES])
{
	for (unsigned i = 0; i < store->ntiers; i++) {
		const struct store_tier *tier = &store->tiers[i];

		if (tier->ops->object) /* one has such means */
			return tier->ops->object(tier->backend, state, page, bytes);
	}
	return codec_object(state, CODEC_FOR_RAM, page, bytes);
}

static struct store_tier *tier_of(struct larder_store *store, struct store_place place)
{
	larder_assert(place.tier >= STORE_TIER_FIRST && place.tier < STORE_TIER_FIRST + store->ntiers);
	return &store->tiers[place.tier - STORE_TIER_FIRST];
}

static int put_in_tier(struct store_tier *tier, const struct larder_object *object, uint64_t *handle)
{
	int err = tier->ops->put(tier->backend, object, handle);

	count(!err ? &tier->puts : err == -E2BIG ? &tier->rejected : &tier->errors);
	return err;
}

int store_put(struct larder_store *store, uint32_t tiers, const struct larder_object *object, struct store_place *place)
{
	int err = -E2BIG;

	if (tiers == 0)
		return err;
	if (store_is_same_filled(object->page, &place->handle)) {
		place->tier = STORE_TIER_SAME;
		atomic_fetch_add_explicit(&store->same_pages, 1, memory_order_relaxed);
		return 0;
	}
	for (unsigned i = 0; i < store->ntiers; i++) {
		int tier_err = -E2BIG;

		if (tiers >> i & 1 && !store->tiers[i].ops->is_on_disk)
			tier_err = put_in_tier(&store->tiers[i], object, &place->handle);
		place->tier = (uint8_t)(STORE_TIER_FIRST + i);
		if (!tier_err)
			return 0;
		if (tier_err != -E2BIG)
			err = tier_err;
	}
	return err;
}

int store_get(struct larder_store *store, void *scratch, struct store_place place, void *page)
{
	struct store_tier *tier;
	int err;

	if (place.tier == STORE_TIER_SAME) {
		fill(page, place.handle);
		return 0;
	}
	tier = tier_of(store, place);
	err = tier->ops->get(tier->backend, store_scratch_of(tier, scratch), place.handle, page);
	count(err ? &tier->errors : &tier->gets);
	return err;
}

/* All of one tier, or none. */
static void drop_run(struct larder_store *store, const struct store_place *places, size_t n)
{
	uint64_t handles[LARDER_DROPS_MAX];
	struct store_tier *tier;

	if (places[0].tier == STORE_TIER_SAME) {
		atomic_fetch_sub_explicit(&store->same_pages, (int64_t)n, memory_order_relaxed);
		return;
	}
	tier = tier_of(store, places[0]);
	for (size_t i = 0; i < n; i++)
		handles[i] = places[i].handle;
	tier->ops->drop(tier->backend, handles, n);
	atomic_fetch_add_explicit(&tier->drops, n, memory_order_relaxed);
}

static void drop_now(struct larder_store *store, const struct store_place *places, size_t n)
{
	for (size_t first = 0, end; first < n; first = end) {
		for (end = first + 1; end < n && end - first < LARDER_DROPS_MAX; end++)
			if (places[end].tier != places[first].tier)
				break;
		drop_run(store, places + first, end - first);
	}
}

/* ---- drops while the process forks ---- */

enum { DROPPED_BYTES = LARDER_PAGE_BYTES, DROPPED_PLACES = (DROPPED_BYTES - 16) / sizeof(struct store_place) };

struct store_dropped {
	struct store_dropped *next;
	unsigned n;
	struct store_place places[DROPPED_PLACES];
};

_Static_assert(sizeof(struct store_dropped) <= DROPPED_BYTES, "a page");

/* Memory is short: there is none to say it in, so the object's memory is lost, too. */
static void note_drop(struct larder_store *store, struct store_place place)
{
	struct store_dropped *d;

	mutex_lock(&store->dropped_lock);
	d = store->dropped;
	if (!d || d->n == DROPPED_PLACES) {
		d = sys_map(DROPPED_BYTES);
		if (d)
			d->next = store->dropped;
		store->dropped = d ? d : store->dropped;
	}
	if (d)
		d->places[d->n++] = place;
	mutex_unlock(&store->dropped_lock);
}

void store_at_work(struct larder_store *store, int is_at_work)
{
	atomic_store(&store->hurry, is_at_work ? LARDER_AT_WORK : LARDER_CALM);
}

int store_is_at_work(const struct larder_store *store)
{
	return atomic_load(&store->hurry) != LARDER_CALM;
}

void store_freeze(struct larder_store *store)
{
	int tid;

	atomic_store(&store->hurry, LARDER_FROZEN);
	tid = atomic_load(&store->recompressing);
	if (tid) /* it may be waiting for idle time */
		idle_end(tid);
	while (atomic_load(&store->dropping) > 0) /* none of them waits for anything */
		sys_yield();
}

void store_thaw(struct larder_store *store)
{
	struct store_dropped *d;

	atomic_store(&store->hurry, LARDER_AT_WORK);
	mutex_lock(&store->dropped_lock);
	d = store->dropped;
	store->dropped = NULL;
	mutex_unlock(&store->dropped_lock);
	while (d) {
		struct store_dropped *next = d->next;

		drop_now(store, d->places, d->n);
		sys_munmap(d, DROPPED_BYTES);
		d = next;
	}
}

void store_drop(struct larder_store *store, const struct store_place *places, size_t n)
{
	atomic_fetch_add(&store->dropping, 1);
	if (atomic_load(&store->hurry) != LARDER_FROZEN)
		drop_now(store, places, n);
	else
		for (size_t i = 0; i < n; i++)
			note_drop(store, places[i]);
	atomic_fetch_sub(&store->dropping, 1);
}

static void forget_dropped(struct larder_store *store)
{
	while (store->dropped) {
		struct store_dropped *next = store->dropped->next;

		sys_munmap(store->dropped, DROPPED_BYTES);
		store->dropped = next;
	}
}

struct inheritance {
	int (*named)(void *arg, unsigned tier, uint64_t handle);
	void *arg;
	unsigned tier;
};

static int is_named(void *arg, uint64_t handle)
{
	const struct inheritance *i = arg;

	return i->named(i->arg, i->tier, handle);
}

void store_inherit(struct larder_store *store, int (*named)(void *arg, unsigned tier, uint64_t handle), void *arg,
		   int64_t same_pages)
{
	struct inheritance inheritance = { .named = named, .arg = arg, .tier = STORE_TIER_FIRST };

	atomic_store(&store->hurry, LARDER_AT_WORK);
	atomic_store(&store->dropping, 0);
	store->dropped_lock = (struct larder_mutex){ 0 };
	forget_dropped(store);
	atomic_store(&store->same_pages, same_pages);
	for (unsigned i = 0; i < store->ntiers; i++, inheritance.tier++) {
		struct store_tier *tier = &store->tiers[i];

		tier->puts = tier->gets = tier->drops = tier->rejected = tier->errors = 0;
		tier->ops->inherit(tier->backend, is_named, &inheritance);
	}
}

int store_lend(struct larder_store *store, int fds[LARDER_LENT])
{
	return store->disk->ops->lend(store->disk->backend, fds);
}

void store_lent(struct larder_store *store, const int fds[LARDER_LENT])
{
	store->disk->ops->lent(store->disk->backend, fds);
}

void store_attach(struct larder_store *store, const int fds[LARDER_LENT])
{
	store->disk->ops->attach(store->disk->backend, fds);
}

void store_lose_disk(struct larder_store *store)
{
	if (store->disk)
		store->ntiers--;
	store->disk = NULL;
}

void store_drop_copy(struct larder_store *store, uint64_t handle)
{
	const struct store_place place = { .handle = handle, .tier = (uint8_t)store_disk_tier(store) };

	store_drop(store, &place, 1);
}

int store_thread_open(const struct larder_store *store, void *scratch)
{
	return store->disk ? store->disk->ops->thread_open(store->disk->backend, store_scratch_of(store->disk, scratch))
			   : 0;
}

uint64_t store_compact(struct larder_store *store, void *scratch, uint64_t budget_bytes)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < store->ntiers; i++) {
		const struct store_tier *tier = &store->tiers[i];
		uint64_t given = tier->ops->compact(tier->backend, scratch ? store_scratch_of(tier, scratch) : NULL,
						    budget_bytes);

		if (!tier->ops->is_on_disk)
			bytes += given;
	}
	return bytes;
}

/* Like a drop, it takes nothing away while the process forks. */
uint64_t store_recompress(struct larder_store *store)
{
	uint64_t rest_ns = 0;

	atomic_fetch_add(&store->dropping, 1);
	atomic_store(&store->recompressing, sys_gettid());
	for (unsigned i = 0; i < store->ntiers && atomic_load(&store->hurry) == LARDER_CALM; i++) {
		const struct store_tier *tier = &store->tiers[i];
		uint64_t ns = tier->ops->recompress ? tier->ops->recompress(tier->backend, &store->hurry) : 0;

		if (ns && (!rest_ns || ns < rest_ns))
			rest_ns = ns;
	}
	atomic_store(&store->recompressing, 0);
	atomic_fetch_sub(&store->dropping, 1);
	return rest_ns;
}

void store_learn(struct larder_store *store)
{
	for (unsigned i = 0; i < store->ntiers; i++)
		if (store->tiers[i].ops->learn)
			store->tiers[i].ops->learn(store->tiers[i].backend);
}

static struct larder_backend_usage usage_of(const struct store_tier *tier)
{
	struct larder_backend_usage usage = { 0 };

	tier->ops->usage(tier->backend, &usage);
	return usage;
}

uint64_t store_cost_bytes(const struct larder_store *store)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < store->ntiers; i++) {
		struct larder_backend_usage usage = usage_of(&store->tiers[i]);

		bytes += usage.metadata_bytes;
		if (!store->tiers[i].ops->is_on_disk)
			bytes += usage.occupied_bytes;
	}
	return bytes;
}

struct larder_store_ram store_in_ram(const struct larder_store *store)
{
	struct larder_store_ram ram = { 0 };

	for (unsigned i = 0; i < store->ntiers; i++) {
		struct larder_backend_usage usage = { 0 };

		if (!store->tiers[i].ops->is_on_disk)
			usage = usage_of(&store->tiers[i]);
		ram.pages += usage.objects;
		ram.bytes += usage.occupied_bytes;
	}
	return ram;
}

static void tier_stats(const struct store_tier *tier, struct larder_tier_stats *to)
{
	struct larder_backend_usage usage = usage_of(tier);
	size_t i;

	for (i = 0; tier->ops->name[i] && i < LARDER_TIER_NAME_BYTES - 1; i++)
		to->name[i] = tier->ops->name[i];
	to->name[i] = 0;
	to->objects = usage.objects;
	to->stored_bytes = usage.stored_bytes;
	to->occupied_bytes = usage.occupied_bytes;
	to->metadata_bytes = usage.metadata_bytes;
	to->puts = read(&tier->puts);
	to->gets = read(&tier->gets);
	to->drops = read(&tier->drops);
	to->rejected = read(&tier->rejected);
	to->errors = read(&tier->errors);
}

void store_stats(const struct larder_store *store, struct larder_tier_stats tiers[LARDER_TIERS_MAX],
		 uint64_t *same_pages)
{
	int64_t same = atomic_load_explicit(&store->same_pages, memory_order_relaxed);

	for (unsigned i = 0; i < store->ntiers; i++)
		tier_stats(&store->tiers[i], &tiers[i]);
	*same_pages = same > 0 ? (uint64_t)same : 0;
}

int store_read_now(struct larder_store *store, void *scratch, int fd, struct store_place place, void *page)
{
	struct store_tier *disk = store->disk;
	struct larder_fetch fetch = { .pages = 1, .handles = { place.handle } };
	int err = -EIO;

	for (int tries = 0; tries < READ_TRIES && err; tries++)
		err = disk->ops->fetch_now(disk->backend, store_scratch_of(disk, scratch), fd, &fetch, page);
	return err;
}
