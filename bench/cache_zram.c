/*
 * Plain memory and zram swap (lz4): objects are kept, compressed by the kernel when RAM is short.
 *
 * The sum of the cgroup's RAM and of what zram takes for the compressed pages is held at the limit: what zram takes is
 * taken away from the cgroup. At least --resident per cent stay RAM: all memory spent on compressed pages would leave
 * none to use them in. When not all objects fit even so, the least recently used are dropped; nothing else is.
 */
#include "cache.h"
#include "cgroup.h"
#include "lru.h"
#include "peer.h"

#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A change of the cgroup's limit smaller than this share is not worth a system call. */
enum { LIMIT_STEPS = 512, TICKS_A_LOOK = 8 };

static struct {
	const struct cache_setup *setup;
	char *memory;
	struct lru kept;
	unsigned char *is_kept; /* [id] */
	uint64_t ram_bytes;	/* the cgroup's limit now */
	unsigned ticks;
} cache;

static void set_ram_bytes(uint64_t bytes)
{
	int err = cgroup_limit(cache.setup->cgroup, bytes);

	/* What cannot be reclaimed at this moment (version 1 says EBUSY) can be soon. */
	if (err == -EBUSY)
		return;
	if (err)
		errx(2, "cannot limit the cgroup %s: %s", cache.setup->cgroup, strerror(-err));
	cache.ram_bytes = bytes;
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	return p;
}

static void open_cache(const struct cache_setup *s)
{
	size_t bytes = s->objects * s->object_bytes;
	int err;

	cache.setup = s;
	lru_open(&cache.kept, s->objects);
	cache.is_kept = map(s->objects);
	memset(cache.is_kept, 0, s->objects);
	set_ram_bytes(s->limit_bytes);
	err = cgroup_join(s->cgroup);
	if (err)
		errx(2, "cannot join the cgroup %s: %s", s->cgroup, strerror(-err));
	cache.memory = map(bytes);
	madvise(cache.memory, bytes, MADV_NOHUGEPAGE);
}

static void *get(uint32_t id, int *hit)
{
	*hit = cache.is_kept[id];
	if (*hit) {
		lru_use(&cache.kept, id);
	} else {
		cache.is_kept[id] = 1;
		lru_add(&cache.kept, id);
	}
	return cache.memory + id * cache.setup->object_bytes;
}

static void put(uint32_t id, int was_hit)
{
	(void)id;
	(void)was_hit;
}

static void drop_oldest(void)
{
	uint32_t id = cache.kept.oldest;

	lru_remove(&cache.kept, id);
	cache.is_kept[id] = 0;
	if (madvise(cache.memory + id * cache.setup->object_bytes, cache.setup->object_bytes, MADV_DONTNEED))
		err(2, "MADV_DONTNEED");
}

/* Objects give less than their size, compressed: some more go at the next tick, if need be. */
static void drop(uint64_t bytes)
{
	for (uint64_t dropped = 0; dropped < bytes && cache.kept.count > 1; dropped += cache.setup->object_bytes)
		drop_oldest();
}

static void balance(void)
{
	const struct cache_setup *s = cache.setup;
	uint64_t most = s->limit_bytes / 100 * (100 - s->resident_percent), used = peer_zram.pool_bytes();
	uint64_t ram = s->limit_bytes - (used < most ? used : most);
	uint64_t change = ram > cache.ram_bytes ? ram - cache.ram_bytes : cache.ram_bytes - ram;

	if (used > most)
		drop(used - most);
	if (change > s->limit_bytes / LIMIT_STEPS)
		set_ram_bytes(ram);
}

static void tick(void)
{
	if (cache.ticks++ % TICKS_A_LOOK == 0)
		balance();
}

static uint64_t compressed_bytes(void)
{
	return peer_zram.pool_bytes();
}

const struct cache_contender cache_zram = {
	.name = "zram",
	.what = "plain memory, compressed by zram swap (lz4); cgroup RAM + compressed = the limit",
	.needs = CACHE_NEEDS_ZRAM,
	.open = open_cache,
	.get = get,
	.put = put,
	.tick = tick,
	.compressed_bytes = compressed_bytes,
};
