/*
 * The ordinary way: malloc'ed objects, a list in the order of their last use, and as many as fit. Its own tables are
 * paid for out of the limit.
 */
#include "cache.h"
#include "lru.h"

#include <err.h>
#include <stdlib.h>
#include <sys/mman.h>

static struct {
	const struct cache_setup *setup;
	struct lru used;
	void **objects; /* [id]: NULL = not in the cache */
	uint32_t most;
} cache;

static void open_cache(const struct cache_setup *s)
{
	size_t tables = s->objects * sizeof(*cache.objects) + lru_bytes(s->objects);

	cache.setup = s;
	if (s->limit_bytes < tables + s->object_bytes)
		errx(2, "the limit is too small for the tables of the list");
	cache.most = (uint32_t)((s->limit_bytes - tables) / s->object_bytes);
	cache.objects = calloc(s->objects, sizeof(*cache.objects));
	if (!cache.objects)
		err(2, "no memory");
	lru_open(&cache.used, s->objects);
}

static void *evict(void)
{
	uint32_t id = cache.used.oldest;
	void *object = cache.objects[id];

	lru_remove(&cache.used, id);
	cache.objects[id] = NULL;
	return object;
}

/*
 * All objects are of one size: one that is evicted is as good as a new one, and cheaper. Aligned to pages, since
 * jemalloc would otherwise let each reach into a page more, for the sake of caches.
 */
static void *new_object(void)
{
	void *object;

	if (cache.used.count == cache.most)
		return evict();
	object = aligned_alloc(CACHE_PAGE_BYTES, cache.setup->object_bytes);
	if (!object)
		err(2, "no memory");
	return object;
}

static void *get(uint32_t id, int *hit)
{
	*hit = cache.objects[id] != NULL;
	if (*hit) {
		lru_use(&cache.used, id);
		return cache.objects[id];
	}
	cache.objects[id] = new_object();
	lru_add(&cache.used, id);
	return cache.objects[id];
}

static void put(uint32_t id, int was_hit)
{
	(void)id;
	(void)was_hit;
}

const struct cache_contender cache_lru = {
	.name = "lru",
	.what = "malloc'ed objects, the least recently used are freed to stay within the limit",
	.open = open_cache,
	.get = get,
	.put = put,
};
