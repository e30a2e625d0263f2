/*
 * What a program can do with the kernel alone: objects in plain memory, MADV_FREE on each that is not in use, in a
 * memory cgroup of the limit's size. The kernel then drops pages as it needs them, one by one.
 *
 * MADV_POPULATE_WRITE makes the pages of an object dirty, after which they cannot go any more; only then is it safe to
 * look at what is left. As pages go one by one, each must say for itself that it is still there.
 */
#include "cache.h"
#include "cgroup.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct {
	const struct cache_setup *setup;
	char *memory;
} cache;

static void open_cache(const struct cache_setup *s)
{
	size_t bytes = s->objects * s->object_bytes;
	int failed = cgroup_limit(s->cgroup, s->limit_bytes);

	if (!failed)
		failed = cgroup_forbid_swap(s->cgroup, s->limit_bytes);
	if (!failed)
		failed = cgroup_join(s->cgroup);
	if (failed)
		errx(2, "cannot limit the cgroup %s: %s", s->cgroup, strerror(-failed));
	cache.setup = s;
	cache.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (cache.memory == MAP_FAILED)
		err(2, "no memory");
	madvise(cache.memory, bytes, MADV_NOHUGEPAGE); /* else an object would bring its neighbours' pages */
}

static void *object_at(uint32_t id)
{
	return cache.memory + id * cache.setup->object_bytes;
}

static void *get(uint32_t id, int *hit)
{
	void *object = object_at(id);

	if (madvise(object, cache.setup->object_bytes, MADV_POPULATE_WRITE))
		err(2, "MADV_POPULATE_WRITE");
	*hit = object_is_whole(cache.setup, id, object);
	return object;
}

static void put(uint32_t id, int was_hit)
{
	(void)was_hit;
	if (madvise(object_at(id), cache.setup->object_bytes, MADV_FREE))
		err(2, "MADV_FREE");
}

const struct cache_contender cache_madv_free = {
	.name = "madv_free",
	.what = "plain memory, MADV_FREE on what is not in use, in a cgroup of the limit; no swap",
	.needs = CACHE_NEEDS_CGROUP,
	.open = open_cache,
	.get = get,
	.put = put,
};
