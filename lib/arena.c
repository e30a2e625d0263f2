/*
 * Arena. See arena.h.
 *
 * The hooks run on program threads inside jemalloc, under its locks. jemalloc retains what it frees (opt.retain), so
 * `dalloc` declines and jemalloc purges instead: the range is discarded and reads as zeroes when it is used again.
 * Extents that an arena got before it was hooked lie outside the region; the hooks treat them as jemalloc's own would.
 *
 * The purging thread is an ordinary program thread in every respect but its origin: it calls into jemalloc and may wait
 * for jemalloc's locks. Reclaim asks it to purge and waits for it for a bounded time only. It starts before any arena
 * is hooked, so that what libc and jemalloc allocate for it, its thread cache above all, lies outside the region: a
 * page of that which could not be restored would end the program, whose memory it is not.
 */
#include "arena.h"

#include "discard.h"
#include "mapping.h"
#include "memory.h"
#include "reclaim.h"
#include "stats.h"
#include "sys.h"

#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "thread.h"

enum { MALLCTL_NAME_BYTES = 64 };

static struct larder_memory *memory;
static struct larder_reclaim *reclaim;
static struct arena_allocator allocator;

static int is_managed(const void *addr)
{
	return region_contains(&memory->region, addr);
}

/* An arena's hooks, and whose it is. jemalloc passes the address of the hooks to each of them. */
struct arena_hooks {
	extent_hooks_t hooks;
	struct region_owner owner;
	unsigned index; /* of a pool's arena; 0 until it is made */
};

static void *hook_alloc(extent_hooks_t *hooks, void *at, size_t bytes, size_t alignment, bool *zero, bool *commit,
			unsigned arena)
{
	struct region_owner owner = ((struct arena_hooks *)hooks)->owner;
	uint64_t signals;
	void *p;

	(void)arena;
	sys_block_signals(&signals); /* mmap() takes the same locks, and may be called in a handler */
	if (owner.pool == REGION_HEAP)
		p = region_alloc(&memory->region, bytes, alignment, at);
	else
		p = at ? NULL : region_alloc_chunks(&memory->region, owner, bytes, alignment);
	sys_restore_signals(&signals);
	if (!p)
		return NULL;
	*zero = true;
	*commit = true;
	if (!atomic_load_explicit(&memory->region.detached, memory_order_relaxed)) {
		mapping_handed_out(p, bytes);
		pressure_admit(memory, owner.pool);
		pressure_publish(memory, stats);
	}
	return p;
}

/* true: jemalloc keeps the addresses, after it has purged them. */
static bool hook_dalloc(extent_hooks_t *hooks, void *addr, size_t bytes, bool committed, unsigned arena)
{
	(void)hooks, (void)addr, (void)bytes, (void)committed, (void)arena;
	return true;
}

static bool hook_purge(extent_hooks_t *hooks, void *addr, size_t bytes, size_t offset, size_t length, unsigned arena)
{
	char *from = (char *)addr + offset;

	(void)hooks, (void)bytes, (void)arena;
	if (is_managed(from))
		return discard(memory, from, length) != 0;
	return sys_madvise(from, length, MADV_DONTNEED) != 0;
}

/* An arena is destroyed: its memory goes, its addresses stay reserved. */
static void hook_destroy(extent_hooks_t *hooks, void *addr, size_t bytes, bool committed, unsigned arena)
{
	(void)committed;
	hook_purge(hooks, addr, bytes, 0, bytes, arena);
}

static bool hook_split(extent_hooks_t *hooks, void *addr, size_t bytes, size_t a, size_t b, bool committed,
		       unsigned arena)
{
	(void)hooks, (void)addr, (void)bytes, (void)a, (void)b, (void)committed, (void)arena;
	return false;
}

/* Extents merge when both lie in the region, or neither. */
static bool hook_merge(extent_hooks_t *hooks, void *a, size_t a_bytes, void *b, size_t b_bytes, bool committed,
		       unsigned arena)
{
	(void)hooks, (void)a_bytes, (void)b_bytes, (void)committed, (void)arena;
	return is_managed(a) != is_managed(b);
}

#define EXTENT_HOOKS                                                                                                   \
	{                                                                                                              \
		.alloc = hook_alloc, .dalloc = hook_dalloc, .destroy = hook_destroy, .purge_forced = hook_purge,       \
		.split = hook_split, .merge = hook_merge,                                                              \
	}

static struct arena_hooks heap_hooks = { .hooks = EXTENT_HOOKS };
static struct arena_hooks pool_hooks[REGION_POOLS][CHUNK_RANGES + 1]; /* [pool][kind]; see arena_pool_alloc() */

static int read_unsigned(const char *name, unsigned *value)
{
	size_t bytes = sizeof(*value);

	return -allocator.mallctl(name, value, &bytes, NULL, 0);
}

static int read_size(const char *name, size_t *value)
{
	size_t bytes = sizeof(*value);

	return -allocator.mallctl(name, value, &bytes, NULL, 0);
}

static int hook_arena(unsigned index, extent_hooks_t *hooks)
{
	char name[MALLCTL_NAME_BYTES];

	snprintf(name, sizeof(name), "arena.%u.extent_hooks", index);
	return -allocator.mallctl(name, NULL, NULL, &hooks, sizeof(hooks));
}

/*
 * jemalloc makes its arena for very large allocations at the first of them, and only then can it be hooked. So make
 * one; its addresses are kept for ever, because freeing them would let the arena use them again outside the region. No
 * page of it is touched.
 */
static void create_huge_arena(void)
{
	size_t threshold = 0;

	if (read_size("opt.oversize_threshold", &threshold) == 0 && threshold > 0 && threshold < (size_t)1 << 40)
		allocator.mallocx(threshold, MALLOCX_TCACHE_NONE);
}

/*
 * jemalloc allocates what it keeps about an arena through the hooks that the arena is made with, and lets later hooks
 * have the rest. Its locks and lists must not be managed memory: a page of them that could not be restored would end
 * the program, and the kernel must never find a lock absent that is used where faults are inline. So every arena is
 * made with jemalloc's own hooks. Naming those of an automatic arena that no thread has used yet makes it.
 */
static int hook_arenas(void)
{
	extent_hooks_t *own = NULL;
	size_t bytes = sizeof(own);
	unsigned arenas = 0;
	int err;

	create_huge_arena();
	err = -allocator.mallctl("arena.0.extent_hooks", &own, &bytes, NULL, 0);
	if (!err)
		err = read_unsigned("arenas.narenas", &arenas);
	for (unsigned i = 0; !err && i < arenas; i++) {
		err = hook_arena(i, own);
		if (!err)
			err = hook_arena(i, &heap_hooks.hooks);
		if (err == -EFAULT) /* an index without an arena */
			err = 0;
	}
	return err;
}

int arena_check(const struct arena_allocator *a)
{
	extent_hooks_t *hooks;
	size_t bytes = sizeof(hooks);

	if (!a || !a->mallctl || !a->mallocx || !a->dallocx || !a->sallocx)
		return -ENOPKG;
	return a->mallctl("arena.0.extent_hooks", &hooks, &bytes, NULL, 0) ? -ENOPKG : 0;
}

void arena_created(const char *name, const unsigned *index, const void *hooks)
{
	if (memory && !hooks && __builtin_strcmp(name, "arenas.create") == 0)
		hook_arena(*index, &heap_hooks.hooks);
}

/* ---- pools ---- */

/* With jemalloc's own hooks, and ours before it allocates: see hook_arenas(). */
static int make_arena(struct arena_hooks *hooks, struct region_owner owner)
{
	unsigned index;
	int err = read_unsigned("arenas.create", &index);

	if (err)
		return err == -EAGAIN ? -ENOMEM : err;
	*hooks = (struct arena_hooks){ .hooks = EXTENT_HOOKS, .owner = owner };
	err = hook_arena(index, &hooks->hooks);
	if (!err)
		hooks->index = index;
	return err;
}

int arena_pool_alloc(struct region_owner owner, size_t bytes, size_t alignment, void **p)
{
	static struct larder_mutex making; /* one arena at a time; the index is read without it */
	struct arena_hooks *hooks = &pool_hooks[owner.pool][owner.kind];
	int err = 0;

	if (!__atomic_load_n(&hooks->index, __ATOMIC_ACQUIRE)) {
		mutex_lock(&making);
		if (!hooks->index)
			err = make_arena(hooks, owner);
		mutex_unlock(&making);
	}
	if (err)
		return err;
	*p = allocator.mallocx(bytes, MALLOCX_ARENA(hooks->index) | MALLOCX_TCACHE_NONE | MALLOCX_ALIGN(alignment));
	return *p ? 0 : -ENOMEM;
}

void arena_pool_free(void *p)
{
	allocator.dallocx(p, MALLOCX_TCACHE_NONE);
}

size_t arena_pool_size(const void *p)
{
	return allocator.sallocx(p, 0);
}

static void control_arena(unsigned index, const char *what)
{
	char name[MALLCTL_NAME_BYTES];

	snprintf(name, sizeof(name), "arena.%u.%s", index, what);
	allocator.mallctl(name, NULL, NULL, NULL, 0);
}

void arena_pool_reset(unsigned pool)
{
	for (int kind = CHUNK_OBJECTS; kind <= CHUNK_RANGES; kind++)
		if (pool_hooks[pool][kind].index) {
			control_arena(pool_hooks[pool][kind].index, "reset");
			control_arena(pool_hooks[pool][kind].index, "purge");
		}
}

/* ---- the purging thread ---- */

static void purge_arenas(void)
{
	control_arena(MALLCTL_ARENAS_ALL, "purge");
}

static _Atomic int main_thread_exited;

/* True when the ended main thread, this one and the internal ones are all that is left of the process. */
static int is_last_thread(void)
{
	struct stat task;

	return stat("/proc/self/task", &task) == 0 && (int)task.st_nlink - 2 <= thread_count() + 2;
}

static void *purger_main(void *arg)
{
	static const uint64_t poll_ns = 50000000;
	unsigned arenas;

	(void)arg;
	pthread_setname_np(pthread_self(), "larder-purge");
	read_unsigned("arenas.narenas", &arenas); /* any call makes jemalloc's cache for the thread */
	atomic_store(&reclaim->purger_ready, 1);
	event_post(&reclaim->purge_done);
	for (;;) {
		uint32_t seen = event_count(&reclaim->purge_wanted);
		int alone = atomic_load(&main_thread_exited);

		if (alone && is_last_thread())
			return NULL; /* the last thread to end ends the process */
		event_wait(&reclaim->purge_wanted, seen, alone ? poll_ns : 0);
		if (event_count(&reclaim->purge_wanted) == seen || atomic_load(&main_thread_exited) != alone)
			continue;
		purge_arenas();
		event_post(&reclaim->purge_done);
	}
}

void arena_main_thread_exits(void)
{
	if (!memory)
		return;
	atomic_store(&main_thread_exited, 1);
	event_post(&reclaim->purge_wanted);
}

static void wait_for_purger(uint32_t seen)
{
	while (!atomic_load(&reclaim->purger_ready)) {
		event_wait(&reclaim->purge_done, seen, 0);
		seen = event_count(&reclaim->purge_done);
	}
}

/* Returns when the thread has what it needs. */
static int start_purger(void)
{
	uint32_t seen = event_count(&reclaim->purge_done);
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the program's own threads */
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, purger_main, NULL);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		wait_for_purger(seen);
	return -err;
}

/* Without the thread the allocator keeps what is free for longer. AddressSanitizer does not make its locks free in a
 * forked child, so a thread that is made there may wait for one that the parent's threads held. */
void arena_inherit(void)
{
#ifndef __SANITIZE_ADDRESS__
	start_purger();
#endif
}

int arena_install(const struct arena_allocator *a, struct larder_memory *m, struct larder_reclaim *r)
{
	int err;

	allocator = *a;
	memory = m;
	reclaim = r;
	err = start_purger();
	return err ? err : hook_arenas();
}
