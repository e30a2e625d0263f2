/*
 * The public functions of pools and volatile ranges. See larder/larder.h.
 *
 * Everything is checked here; what lies below gets good values only.
 */
#include "api.h"

#include "discard.h"
#include "pin.h"
#include "process.h"
#include "range.h"
#include "refill.h"
#include "resolve.h"
#include "service.h"
#include "sigbus.h"
#include "stats.h"
#include "volatile.h"

#include <limits.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { POOL_LIMIT_MIN_BYTES = 1 << 20, OBJECT_ALIGNMENT = 16 };

/* From this size on jemalloc gives an object pages of its own (its smallest large size class). */
enum { OBJECT_OWN_PAGES_BYTES = 16 << 10 };

#define POOL_TIERS_KNOWN (LARDER_TIER_LZ4 | LARDER_TIER_FILE | LARDER_TIERS_NONE)

/* Guards the pools' states and what belongs to them alone: their events, the userfaultfd for SIGBUS. Taken before any
 * other lock. */
static struct larder_mutex pools_lock;

void pool_lock(void)
{
	mutex_lock(&pools_lock);
}

void pool_unlock(void)
{
	mutex_unlock(&pools_lock);
}

/* A program's mistake: an error, or in a debug build its end. */
static int misuse(int err, const char *what)
{
#ifdef LARDER_DEBUG
	log_misuse(what, err);
#else
	(void)what;
	return err;
#endif
}

static struct larder_memory *memory(void)
{
	struct larder_service *service = process_service();

	return service ? &service->memory : NULL;
}

/* The number of a live pool, or 0. */
static unsigned pool_number(const larder_pool *pool)
{
	const struct larder_memory *m = memory();

	if (!m || pool <= &m->pools[REGION_HEAP] || pool >= &m->pools[REGION_POOLS] ||
	    ((uintptr_t)pool - (uintptr_t)m->pools) % sizeof(*pool))
		return 0;
	return atomic_load_explicit(&pool->state, memory_order_acquire) == POOL_LIVE ? (unsigned)(pool - m->pools) : 0;
}

static enum chunk_kind kind_of(const struct larder_memory *m, unsigned pool, const void *addr)
{
	const struct larder_chunk *chunk;

	if (!region_contains(&m->region, addr))
		return CHUNK_HEAP;
	chunk = &m->region.chunks[region_index(&m->region, addr) / CHUNK_PAGES];
	return chunk->owner.pool == pool ? (enum chunk_kind)chunk->owner.kind : CHUNK_HEAP;
}

/* ---- spans ---- */

/*
 * A page-aligned range of a pool, as a span. Returns 0, -EBADF, -EINVAL or -EFAULT (not in the pool at all; whether it
 * is one page range is seen under the lock).
 */
static int aligned_span(const larder_pool *pool, const void *addr, size_t bytes, struct span *span)
{
	unsigned number = pool_number(pool);

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if ((uintptr_t)addr % PAGE_BYTES || bytes % PAGE_BYTES || bytes == 0)
		return misuse(-EINVAL, "the range is empty or not aligned to 4096");
	if (kind_of(memory(), number, addr) != CHUNK_RANGES)
		return misuse(-EFAULT, "not in a page range of this pool");
	*span = (struct span){ number, region_index(&memory()->region, addr), bytes / PAGE_BYTES };
	return 0;
}

/* Any range of a pool, rounded outwards to pages. Returns its kind (enum chunk_kind), -EBADF, -EINVAL or -EFAULT. */
static int rounded_span(const larder_pool *pool, const void *addr, size_t bytes, struct span *span)
{
	unsigned number = pool_number(pool);
	size_t offset = (uintptr_t)addr % PAGE_BYTES;
	enum chunk_kind kind;

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if (bytes == 0)
		return misuse(-EINVAL, "the range is empty");
	kind = kind_of(memory(), number, addr);
	if (kind == CHUNK_HEAP || bytes > memory()->region.bytes)
		return misuse(-EFAULT, "not in memory of this pool");
	*span = (struct span){ number, region_index(&memory()->region, addr),
			       (offset + bytes + PAGE_BYTES - 1) / PAGE_BYTES };
	return kind;
}

/* What the functions below answer, explained once more for debug builds. */
static int explain(int result)
{
	switch (result) {
	case -EFAULT:
		return misuse(result, "not in one page range, or in objects, of this pool");
	case -EBUSY:
		return misuse(result, "some page of it is pinned");
	case -EEXIST:
		return misuse(result, "some page of it is volatile already");
	case -ENOENT:
		return misuse(result, "some page of it is not pinned, or not volatile");
	default:
		return result;
	}
}

/* ---- pools ---- */

static int check_pool_options(const struct larder_pool_options *o)
{
	if (o->limit_bytes && o->limit_bytes < POOL_LIMIT_MIN_BYTES)
		return misuse(-EINVAL, "a pool's limit is 0 or at least 1 MiB");
	if (o->tiers & ~POOL_TIERS_KNOWN || (o->tiers & LARDER_TIERS_NONE && o->tiers != LARDER_TIERS_NONE))
		return misuse(-EINVAL, "unknown tiers");
	if (o->fault_mode > LARDER_FAULT_INLINE || o->order > LARDER_ORDER_COST)
		return misuse(-EINVAL, "unknown fault mode or order");
	if (o->flags || o->reserved[0] || o->reserved[1] || o->reserved[2] || o->reserved[3])
		return misuse(-EINVAL, "flags and reserved fields must be 0");
	return 0;
}

/* A slot that is not live: one that was used in the same fault mode before, else a new one. 0 when there is none. */
static unsigned find_slot(const struct larder_memory *m, uint32_t fault_mode)
{
	unsigned unused = 0;

	for (unsigned i = REGION_POOLS - 1; i > REGION_HEAP; i--) {
		uint32_t state = atomic_load(&m->pools[i].state);

		if (state == POOL_FREE && m->pools[i].fault_mode == fault_mode)
			return i;
		if (state == POOL_UNUSED)
			unused = i;
	}
	return unused;
}

static int open_slot(struct larder_memory *m, const struct larder_pool_options *o, larder_pool **pool)
{
	unsigned slot = find_slot(m, o->fault_mode);
	struct larder_pool *p = &m->pools[slot];
	int err;

	if (!slot)
		return -EMFILE;
	err = segments_add_pool(&m->segments, slot);
	if (!err && o->fault_mode == LARDER_FAULT_INLINE)
		err = sigbus_open(m, &process_service()->reclaim);
	if (err)
		return err;
	p->fault_mode = o->fault_mode;
	p->order = o->order;
	p->tiers = o->tiers == 0 ? STORE_ALL_TIERS : o->tiers & ~LARDER_TIERS_NONE;
	p->budget.limit_bytes = o->limit_bytes;
	atomic_store(&p->budget.attained_bytes, 0);
	atomic_store(&p->inflation, 0);
	atomic_store_explicit(&p->state, POOL_LIVE, memory_order_release);
	pressure_notice(m, slot); /* the slot may hold unwatched memory, whose touches nobody would see */
	*pool = p;
	return 0;
}

LARDER_PUBLIC int larder_pool_create(larder_pool **pool, const struct larder_pool_options *options)
{
	static const struct larder_pool_options defaults;
	int err;

	if (!pool)
		return misuse(-EINVAL, "pool is NULL");
	err = check_pool_options(options ? options : &defaults);
	if (err)
		return err;
	if (!process_is_managed())
		return -ENOTCONN;
	process_watch_system();
	pool_lock();
	err = open_slot(memory(), options ? options : &defaults, pool);
	pool_unlock();
	return err;
}

static void close_events(struct larder_events *e)
{
	int internal_fd = atomic_exchange(&e->internal_fd, 0);

	if (!e->ring)
		return;
	if (process_is_managed() && internal_fd)
		reclaim_ask(&process_service()->reclaim,
			    &(struct reclaim_request){ .kind = REQUEST_DISOWN, .fd = internal_fd });
	close(e->program_fd);
	sys_munmap(e->ring, LARDER_PURGE_EVENTS * sizeof(*e->ring));
	*e = (struct larder_events){ 0 };
}

static int close_slot(struct larder_memory *m, unsigned slot)
{
	if (pool_is_pinned(m, slot))
		return misuse(-EBUSY, "the pool that is destroyed has pinned memory");
	atomic_store(&m->pools[slot].state, POOL_FREE);
	ranges_forget(m, slot);
	arena_pool_reset(slot);
	sigbus_flush();
	close_events(&m->pools[slot].events);
	return 0;
}

LARDER_PUBLIC int larder_pool_destroy(larder_pool *pool)
{
	unsigned slot;
	int err;

	pool_lock();
	slot = pool_number(pool);
	err = slot ? close_slot(memory(), slot) : misuse(-EBADF, "not a pool, or a destroyed one");
	pool_unlock();
	return err;
}

/* ---- objects and page ranges ---- */

static struct region_owner owner_of(const larder_pool *pool, unsigned number, enum chunk_kind kind)
{
	return (struct region_owner){
		.pool = (uint16_t)number,
		.kind = (uint8_t)kind,
		.inline_faults = pool->fault_mode == LARDER_FAULT_INLINE,
	};
}

LARDER_PUBLIC int larder_alloc(larder_pool *pool, size_t bytes, void **object)
{
	unsigned number = pool_number(pool);

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if (bytes == 0 || !object)
		return misuse(-EINVAL, "an object of 0 bytes, or nowhere to return it");
	if (bytes > PTRDIFF_MAX)
		return -ENOMEM;
	return arena_pool_alloc(owner_of(pool, number, CHUNK_OBJECTS), bytes, OBJECT_ALIGNMENT, object);
}

LARDER_PUBLIC int larder_free(larder_pool *pool, void *object)
{
	unsigned number = pool_number(pool);
	struct span span;

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if (kind_of(memory(), number, object) != CHUNK_OBJECTS)
		return misuse(-EFAULT, "not an object of this pool");
	if (arena_pool_size(object) >= OBJECT_OWN_PAGES_BYTES) {
		rounded_span(pool, object, arena_pool_size(object), &span);
		if (objects_are_pinned(memory(), span))
			return misuse(-EBUSY, "the object that is freed is pinned");
	}
	arena_pool_free(object);
	return 0;
}

LARDER_PUBLIC int larder_pages_alloc(larder_pool *pool, size_t bytes, void **pages)
{
	unsigned number = pool_number(pool);
	size_t rounded = (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
	void *p;
	int err;

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if (bytes == 0 || !pages)
		return misuse(-EINVAL, "a page range of 0 bytes, or nowhere to return it");
	if (bytes > PTRDIFF_MAX)
		return -ENOMEM;
	err = arena_pool_alloc(owner_of(pool, number, CHUNK_RANGES), rounded, PAGE_BYTES, &p);
	if (err)
		return err;
	err = range_add(memory(), (struct span){ number, region_index(&memory()->region, p), rounded / PAGE_BYTES });
	if (err)
		arena_pool_free(p);
	else
		*pages = p;
	return err;
}

/* The content goes before jemalloc gets the addresses, so that every new range is zeroed. */
LARDER_PUBLIC int larder_pages_free(larder_pool *pool, void *pages)
{
	unsigned number = pool_number(pool);
	int64_t removed;

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if ((uintptr_t)pages % PAGE_BYTES || kind_of(memory(), number, pages) != CHUNK_RANGES)
		return misuse(-EFAULT, "not the start of a page range of this pool");
	removed = range_remove(memory(), number, region_index(&memory()->region, pages));
	if (removed < 0)
		return explain((int)removed);
	discard(memory(), pages, (size_t)removed * PAGE_BYTES);
	arena_pool_free(pages);
	return 0;
}

LARDER_PUBLIC int larder_discard(larder_pool *pool, void *addr, size_t bytes)
{
	struct span span;
	int err = aligned_span(pool, addr, bytes, &span);

	return err ? err : explain(volatile_discard(memory(), span));
}

/* ---- pins and advice ---- */

/*
 * Bring a page back that may be absent, and that leaves no more (KEPT) once it has. A touch alone does not do: a page
 * that is MOVING when it is touched is still mapped, and leaves just after. Pages of unwatched chunks are the kernel's
 * to fill.
 */
static void make_page_resident(const struct larder_memory *m, size_t index)
{
	const struct larder_chunk *chunk = &m->region.chunks[index / CHUNK_PAGES];
	uint64_t word;

	while (page_state(word = page_load(&m->region.pages[index])) != PAGE_RESIDENT) {
		int leaves_no_more =
			!chunk_is_watched(chunk) || atomic_load_explicit(&m->region.detached, memory_order_relaxed);

		if (leaves_no_more || !page_is_busy(word))
			(void)*(const volatile char *)region_address(&m->region, index);
		else
			sys_yield();
		if (leaves_no_more)
			return;
	}
}

static void make_resident(struct larder_memory *m, struct span span)
{
	size_t end = span.first + span.pages;
	int expected = 0;

	for (size_t i = span.first; i < end; i++) {
		if (page_state(page_load(&m->region.pages[i])) == PAGE_RESIDENT)
			continue;
		if (!expected++)
			resolve_expect(m, i, end - i);
		make_page_resident(m, i);
	}
}

/* What is lost of a pinned span is made again, where there is a callback for it: so pins serve optimistic users too. */
static int refill_pinned(struct larder_memory *m, struct span span)
{
	for (size_t i = span.first; i < span.first + span.pages; i++)
		if (region_bit(m->region.lost, i))
			sigbus_refill(i);
	return refill_give_up(m, span);
}

LARDER_PUBLIC int larder_pin(larder_pool *pool, void *addr, size_t bytes)
{
	struct span span;
	int kind = rounded_span(pool, addr, bytes, &span), result;

	if (kind < 0)
		return kind;
	result = kind == CHUNK_OBJECTS ? pin_objects(memory(), span) : pin_pages(memory(), span);
	if (result == LARDER_PURGED)
		result = refill_pinned(memory(), span);
	if (result < 0)
		return explain(result);
	make_resident(memory(), span);
	return result;
}

LARDER_PUBLIC int larder_unpin(larder_pool *pool, void *addr, size_t bytes)
{
	struct span span;
	int kind = rounded_span(pool, addr, bytes, &span);

	if (kind < 0)
		return kind;
	return explain(kind == CHUNK_OBJECTS ? unpin_objects(memory(), span) : unpin_pages(memory(), span));
}

static void advise_sequential(struct larder_memory *m, struct span span, uint32_t sequential)
{
	for (size_t c = span.first / CHUNK_PAGES; c <= (span.first + span.pages - 1) / CHUNK_PAGES; c++)
		atomic_store_explicit(&m->region.chunks[c].sequential, sequential, memory_order_relaxed);
}

static void bring_back(const struct larder_memory *m, struct span span)
{
	for (size_t i = span.first; i < span.first + span.pages; i++) {
		enum page_state state = page_state(page_load(&m->region.pages[i]));

		if (state == PAGE_STORED || state == PAGE_STAGED)
			(void)*(const volatile char *)region_address(&m->region, i);
	}
}

/* Take out the pages that lie in [addr, addr + bytes) as a whole. */
static int take_out(struct span span, const void *addr, size_t bytes)
{
	size_t head = -(uintptr_t)addr % PAGE_BYTES, pages = bytes > head ? (bytes - head) / PAGE_BYTES : 0;
	int64_t done;

	if (pages == 0 || !process_is_managed())
		return 0;
	done = reclaim_ask(&process_service()->reclaim, &(struct reclaim_request){
								.kind = REQUEST_EVICT_RANGE,
								.pool = span.pool,
								.first = span.first + (head != 0),
								.pages = pages,
							});
	return done > INT_MAX ? INT_MAX : (int)done;
}

LARDER_PUBLIC int larder_advise(larder_pool *pool, void *addr, size_t bytes, enum larder_advice advice)
{
	struct span span;
	int kind = rounded_span(pool, addr, bytes, &span), err = 0;

	if (kind < 0)
		return kind;
	if (kind == CHUNK_RANGES)
		err = range_check(memory(), span);
	else if (kind_of(memory(), span.pool, (const char *)addr + bytes - 1) != CHUNK_OBJECTS)
		err = -EFAULT;
	if (err)
		return explain(err);
	switch (advice) {
	case LARDER_ADVICE_NORMAL:
	case LARDER_ADVICE_SEQUENTIAL:
		advise_sequential(memory(), span, advice == LARDER_ADVICE_SEQUENTIAL);
		return 0;
	case LARDER_ADVICE_COLD:
		return take_out(span, addr, bytes);
	case LARDER_ADVICE_WILL_NEED:
		bring_back(memory(), span);
		return 0;
	}
	return misuse(-EINVAL, "unknown advice");
}

/* ---- volatile ranges ---- */

static int check_volatile_options(const struct larder_volatile_options *o)
{
	if (o->priority < LARDER_PRIORITY_OBSOLETE || o->priority > LARDER_PRIORITY_MAX)
		return misuse(-EINVAL, "a priority is LARDER_PRIORITY_OBSOLETE or 0 to 7");
	if (o->on_touch > LARDER_TOUCH_SIGBUS)
		return misuse(-EINVAL, "unknown on_touch");
	if ((o->on_touch == LARDER_TOUCH_REFILL) != (o->refill != NULL))
		return misuse(-EINVAL, "LARDER_TOUCH_REFILL and a callback go together");
	if (o->unit_bytes && (o->unit_bytes < PAGE_BYTES || o->unit_bytes & (o->unit_bytes - 1) ||
			      o->unit_bytes / PAGE_BYTES > UINT32_MAX))
		return misuse(-EINVAL, "a unit is 0 or a power of two from 4096 up");
	if (o->flags & ~(LARDER_REMARK | LARDER_EMPTY) || o->reserved[0] || o->reserved[1] || o->reserved[2])
		return misuse(-EINVAL, "unknown flags, or a reserved field is not 0");
	return 0;
}

/* The userfaultfd with which the callback's content is installed. */
static int prepare_refill(void)
{
	int err;

	if (!process_is_managed())
		return 0;
	pool_lock();
	err = sigbus_open(memory(), &process_service()->reclaim);
	pool_unlock();
	return err;
}

LARDER_PUBLIC int larder_volatile(larder_pool *pool, void *addr, size_t bytes,
				  const struct larder_volatile_options *options)
{
	static const struct larder_volatile_options defaults;
	const struct larder_volatile_options *o = options ? options : &defaults;
	struct span span;
	int err = aligned_span(pool, addr, bytes, &span);

	if (!err)
		err = check_volatile_options(o);
	if (!err && o->refill)
		err = prepare_refill();
	if (!err && o->flags & LARDER_EMPTY && process_is_managed())
		err = (int)reclaim_ask(
			&process_service()->reclaim,
			&(struct reclaim_request){ .kind = REQUEST_WATCH, .first = span.first, .pages = span.pages });
	return err ? err : explain(volatile_mark(memory(), span, o));
}

LARDER_PUBLIC int larder_nonvolatile(larder_pool *pool, void *addr, size_t bytes, unsigned flags, unsigned char *lost)
{
	struct span span;
	int err = aligned_span(pool, addr, bytes, &span);

	if (!err && flags & ~LARDER_ACKNOWLEDGE)
		err = misuse(-EINVAL, "unknown flags");
	return err ? err : explain(volatile_end(memory(), span, flags, lost));
}

LARDER_PUBLIC int larder_refilled(larder_pool *pool, void *addr, size_t bytes)
{
	struct span span;
	int err = aligned_span(pool, addr, bytes, &span);

	return err ? err : explain(volatile_refilled(memory(), span));
}

LARDER_PUBLIC int larder_query(larder_pool *pool, void *addr, size_t bytes, unsigned char *lost)
{
	struct span span;
	int err = aligned_span(pool, addr, bytes, &span);

	return err ? err : explain(volatile_query(memory(), span, lost));
}

LARDER_PUBLIC int larder_used(larder_pool *pool, void *addr)
{
	struct span span;
	int kind = rounded_span(pool, addr, 1, &span);

	if (kind < 0)
		return kind;
	return explain(kind == CHUNK_RANGES ? volatile_used(memory(), span.pool, span.first) : -EFAULT);
}

LARDER_PUBLIC int64_t larder_purge(larder_pool *pool, int upto, uint64_t bytes)
{
	unsigned number = pool ? pool_number(pool) : REGION_HEAP;

	if (pool && !number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if (upto < LARDER_PRIORITY_OBSOLETE || upto > LARDER_PRIORITY_MAX)
		return misuse(-EINVAL, "a priority is LARDER_PRIORITY_OBSOLETE or 0 to 7");
	if (!process_is_managed())
		return -ENOTCONN;
	return reclaim_ask(&process_service()->reclaim, &(struct reclaim_request){
								.kind = REQUEST_PURGE,
								.pool = number,
								.upto = (unsigned)(upto - LARDER_PRIORITY_OBSOLETE),
								.bytes = bytes,
							});
}

/* ---- events ---- */

static int open_events(struct larder_events *e)
{
	struct larder_purge_event *ring = sys_map(LARDER_PURGE_EVENTS * sizeof(*ring));
	int fd = ring ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	int64_t internal_fd = !ring ? -ENOMEM : -errno;

	if (fd >= 0)
		internal_fd = reclaim_ask(&process_service()->reclaim,
					  &(struct reclaim_request){ .kind = REQUEST_ADOPT, .fd = fd });
	if (internal_fd < 0) {
		if (fd >= 0)
			close(fd);
		if (ring)
			sys_munmap(ring, LARDER_PURGE_EVENTS * sizeof(*ring));
		return (int)internal_fd;
	}
	e->ring = ring;
	e->program_fd = fd;
	atomic_store_explicit(&e->internal_fd, (int)internal_fd, memory_order_release);
	return 0;
}

LARDER_PUBLIC int larder_purge_fd(larder_pool *pool)
{
	struct larder_events *e;
	int err = 0;

	pool_lock();
	if (!pool_number(pool)) {
		pool_unlock();
		return misuse(-EBADF, "not a pool, or a destroyed one");
	}
	e = &pool->events;
	if (!e->ring)
		err = process_is_managed() ? open_events(e) : -ENOTCONN;
	pool_unlock();
	return err ? err : e->program_fd;
}

LARDER_PUBLIC int larder_purge_events(larder_pool *pool, struct larder_purge_event *events, unsigned max)
{
	uint64_t posted;
	int n = 0;

	if (!events && max)
		return misuse(-EINVAL, "events is NULL");
	pool_lock();
	if (!pool_number(pool)) {
		pool_unlock();
		return misuse(-EBADF, "not a pool, or a destroyed one");
	}
	if (pool->events.ring) {
		struct larder_events *e = &pool->events;

		if (read(e->program_fd, &posted, sizeof(posted)) < 0)
			posted = 0;
		n = (int)events_take(e, events, max < INT_MAX ? max : INT_MAX);
		if (atomic_load(&e->tail) != atomic_load(&e->head)) { /* more is waiting: poll says so */
			posted = 1;
			if (write(e->program_fd, &posted, sizeof(posted)) < 0)
				posted = 0;
		}
	}
	pool_unlock();
	return n;
}

/* ---- statistics and the rest ---- */

LARDER_PUBLIC int larder_pool_get_stats(larder_pool *pool, struct larder_pool_stats *to)
{
	unsigned number = pool_number(pool);

	if (!number)
		return misuse(-EBADF, "not a pool, or a destroyed one");
	if (!to)
		return misuse(-EINVAL, "stats is NULL");
	*to = (struct larder_pool_stats){
		.limit_bytes = pool->budget.limit_bytes,
		.usage_bytes = pressure_usage_bytes(memory(), number),
	};
	for (int kind = 0; kind < LARDER_PAGES_KINDS; kind++)
		to->pages[kind] = (uint64_t)region_pool_counted(&memory()->region, number, (enum larder_page_kind)kind);
	ranges_stats(memory(), number, to);
	return 0;
}

LARDER_PUBLIC int larder_handle_sigbus(void *siginfo)
{
	int saved_errno = errno, served = sigbus_serve(siginfo);

	errno = saved_errno;
	return served;
}

LARDER_PUBLIC int64_t larder_reclaim(uint64_t bytes)
{
	if (!process_is_managed())
		return -ENOTCONN;
	return reclaim_ask(&process_service()->reclaim,
			   &(struct reclaim_request){ .kind = REQUEST_EVICT, .bytes = bytes });
}

LARDER_PUBLIC int larder_get_stats(struct larder_stats *to)
{
	return process_get_stats(to);
}

LARDER_PUBLIC const char *larder_version(void)
{
	return LARDER_VERSION_STRING;
}
