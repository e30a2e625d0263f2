/*
 * Larder: keeps a program's cold memory in cheaper places.
 *
 * A program either runs unmodified under `larder run`, or calls larder_start() early in main(). From then on what it
 * allocates with jemalloc (malloc and its family, when the program is linked with jemalloc) lies in one managed region:
 * its cold pages are compressed when the process comes near its limit, and come back by themselves when touched.
 *
 * A program can also say more: allocate from *pools* with limits of their own, *pin* what it hands to the kernel, and
 * mark what it could make again as *volatile*, so that it is dropped, not kept, when memory is short.
 *
 * All functions return 0 or a positive result on success and a negative errno on failure; none sets errno. Sizes are in
 * bytes. Unless a function says otherwise, any thread may call it, at any time, and none may be called from a signal
 * handler. In debug builds of the library, misuse (what the functions below answer with -EINVAL, -EFAULT, -EBADF,
 * -EBUSY, -EEXIST or -ENOENT) ends the program with a message instead.
 */
#ifndef LARDER_LARDER_H
#define LARDER_LARDER_H

#include <larder/stats.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LARDER_VERSION_MAJOR  0
#define LARDER_VERSION_MINOR  2
#define LARDER_VERSION_PATCH  0
#define LARDER_VERSION_STRING "0.2.0"

/* How to run. Zero a whole struct first: zero is the default of every field. */
struct larder_options {
	uint64_t limit_bytes; /* managed memory may cost this much RAM; 0 = no limit. At least 16 MiB. */
	unsigned
		limit_percent; /* 1..100: the limit as a share of what the program has allocated; 0 = see limit_bytes */
	unsigned flags;	       /* LARDER_IGNORE_SYSTEM, LARDER_SWAP_ENCRYPT, LARDER_FULL_CORE, or 0 */

	/*
	 * Swap: where pages go that stay cold, beyond what RAM can hold compressed. A file without a name in
	 * `swap_dir`, readable to nobody else, or a block device that holds nothing of value; both NULL = pages stay in
	 * RAM. Copied.
	 */
	const char *swap_dir, *swap_device;
	uint64_t swap_bytes; /* how large it may become, 64 MiB to 16 TiB; 0 = all of the device, or for a file 8 GiB */
};

/* Purge volatile memory for the limits and on request only, not when memory is short outside this process. */
#define LARDER_IGNORE_SYSTEM 1u

/* Encrypt what goes to swap, with a key that exists in this process's memory only. */
#define LARDER_SWAP_ENCRYPT 2u

/*
 * A core dump has all pages: those that were taken out come back first, whatever the limit. Larder handles the signals that
 * dump core, where the program does not. Without, pages that were compressed or on disk read as zeroes in a core dump.
 */
#define LARDER_FULL_CORE 4u

/*
 * Start the service in this process and put jemalloc's arenas into the managed region.
 *
 * options  copied; NULL = no limit.
 * returns  0; -EALREADY: already started, by this call or by `larder run`; -EINVAL: an option is out of range or both
 *          limits are given; -EPERM: userfaultfd is not permitted; -EOPNOTSUPP: kernel older than 6.8; -ENOSYS: kernel
 *          built without userfaultfd; -ENOMEM: no address space for the region; -ENOPKG: the program's malloc is not
 *          jemalloc with extent hooks; of swap: -ENODEV: swap_dir is in RAM; -ENOTBLK: swap_device is no block device;
 *          -EBUSY: it is in use; -ENOSPC: it is smaller than swap_bytes, or than 64 MiB; -ENOENT, -EACCES and others as
 *          open(2) says; -EOPNOTSUPP: no O_DIRECT there; -EPERM or -ENOSYS: io_uring is not permitted. On error nothing
 *          has changed.
 * threads  call once, before threads that allocate exist; any thread may call any other function.
 */
int larder_start(const struct larder_options *options);

/*
 * Take at least `bytes` of resident managed memory out to the tiers now, whatever the limit.
 * Blocks until done or until nothing more can be taken.
 * returns  bytes taken out of the program's mapping and stored, >= 0; -ENOTCONN: not started.
 * cost     about 3 us a page (LZ4 compression), on the reclaim thread.
 */
int64_t larder_reclaim(uint64_t bytes);

/*
 * Copy the statistics of this process. See larder/stats.h for their meaning and consistency.
 * returns  0; -ENOTCONN: not started.
 */
int larder_get_stats(struct larder_stats *stats);

/*
 * ---- Pools ----
 *
 * A pool is memory that belongs together: a cache, a table, an index. It has its own limit, choice of tiers and order
 * of purging. It hands out objects of any size, as malloc does, and page ranges, which are what can be pinned by the
 * page and marked volatile. Pools need larder_start(), or a program run by `larder run`.
 *
 * A forked child keeps the contents of every pool and goes on with it by itself.
 */
typedef struct larder_pool larder_pool;

enum larder_fault_mode {
	/* Larder's threads bring pages back. Memory of the pool can be used like any other, by the kernel too. */
	LARDER_FAULT_HANDLERS,
	/*
	 * The thread that touches an absent page brings it back itself, in a SIGBUS handler that Larder installs when
	 * the first such pool is made: about half the time of LARDER_FAULT_HANDLERS. The price is a promise: memory of
	 * the pool is handed to the kernel (read(2), a futex, io_uring) only while it is pinned; unpinned, system calls
	 * may fail with EFAULT. Threads that touch the pool must not block SIGBUS (the kernel would end the process).
	 */
	LARDER_FAULT_INLINE
};

/* Which volatile range goes next, among those of one priority. */
enum larder_order {
	LARDER_ORDER_LRU,  /* the one whose last use is longest ago: marked, unpinned, or larder_used() */
	LARDER_ORDER_FIFO, /* the one marked first */
	LARDER_ORDER_LIFO, /* the one marked last */
	/*
	 * The one that is cheapest to make again for its size, aged by use: GreedyDual-Size (Cao and Irani, "Cost-Aware
	 * WWW Proxy Caching Algorithms", USITS 1997) with the cost given when it was marked.
	 */
	LARDER_ORDER_COST
};

/* Where pages of a pool may go when memory is short. */
#define LARDER_TIER_LZ4	  1u	      /* compressed, in RAM */
#define LARDER_TIER_FILE  2u	      /* on disk, if there is swap (struct larder_options) */
#define LARDER_TIERS_NONE 0x80000000u /* nowhere: only volatile ranges make room */

/* Zero a whole struct first: zero is the default of every field. */
struct larder_pool_options {
	uint64_t limit_bytes; /* what the pool may cost in RAM, compressed pages at their average size; 0 = no limit of
				 its own. At least 1 MiB. The limit of the process holds as well. */
	uint32_t tiers;	      /* LARDER_TIER_*, or LARDER_TIERS_NONE; 0 = every tier of the process */
	uint32_t fault_mode;  /* enum larder_fault_mode */
	uint32_t order;	      /* enum larder_order */
	uint32_t flags;	      /* must be 0 */
	uint64_t reserved[4]; /* must be 0 */
};

/*
 * Make a pool.
 * options  copied; NULL = all defaults.
 * returns  0 and *pool, which the caller destroys; -EINVAL: an option is out of range, or pool is NULL; -ENOTCONN: not
 *          started; -EMFILE: LARDER_POOLS_MAX pools exist (addresses that a pool has used stay
 * set aside for pools of its fault mode, so with both modes it may be fewer); -ENOMEM; for LARDER_FAULT_INLINE also
 *          what userfaultfd(2) and sigaction(2) say.
 * cost     some 100 us: jemalloc makes an arena.
 */
enum { LARDER_POOLS_MAX = 256 };
int larder_pool_create(larder_pool **pool, const struct larder_pool_options *options);

/*
 * Give back all that the pool holds, and the pool. Pointers into it are invalid afterwards. No other thread may be in a
 * call for this pool.
 * returns  0; -EBUSY: something in it is pinned: nothing has changed; -EBADF: not a pool, or destroyed before.
 */
int larder_pool_destroy(larder_pool *pool);

/*
 * Allocate an object: `bytes` of uninitialised memory, aligned as malloc aligns.
 * returns  0 and *object; -ENOMEM; -EINVAL: bytes is 0 or object is NULL; -EBADF: not a pool.
 */
int larder_alloc(larder_pool *pool, size_t bytes, void **object);

/* Free an object of this pool. returns 0; -EFAULT: not in an object area of this pool; -EBUSY: pinned (smaller ones
 * than 16 KiB share pages, so there it is not noticed, and does no harm); -EBADF. */
int larder_free(larder_pool *pool, void *object);

/*
 * Allocate a page range: zeroed, aligned to 4096. bytes is rounded up to pages.
 * returns  0 and *pages; -ENOMEM; -EINVAL: bytes is 0 or pages is NULL; -EBADF: not a pool.
 * cost     about 1 us, and 4 bytes of RAM a page for as long as it lives.
 */
int larder_pages_alloc(larder_pool *pool, size_t bytes, void **pages);

/*
 * Free a page range, as returned by larder_pages_alloc(); volatile parts too. The RAM is given back at once.
 * returns  0; -EFAULT: not the start of a page range of this pool (freed already, say); -EBUSY: part of it is pinned;
 *          -EBADF.
 */
int larder_pages_free(larder_pool *pool, void *pages);

/*
 * Drop the content of [addr, addr + bytes), which lies in one page range: the pages go at once, wherever they are, and
 * read as zeroes from then on. The mapping is not split, unlike by munmap or mprotect. Volatile pages stay volatile;
 * pages dropped by their owner do not count as purged.
 *
 * returns  0; -EINVAL: not aligned to 4096, or empty; -EFAULT: not in one page range of this pool; -EBUSY: part of it
 * is pinned; -EBADF.
 *
 * cost     2 us for one page, 0.4 us a page for 64 and more.
 */
int larder_discard(larder_pool *pool, void *addr, size_t bytes);

/*
 * Pin: make [addr, addr + bytes) resident and keep it so until unpinned, so that it may be handed to system calls and
 * devices. Alignment is free: every page that the range touches is pinned. Pins nest, page by page. Volatile pages are
 * not purged while pinned. Lost pages that have a refill callback are made again by it first, on this thread.
 *
 * returns  LARDER_INTACT; LARDER_PURGED: pinned, but some volatile page of it had been purged (see
 * larder_nonvolatile()); -EFAULT: not in one page range, nor in objects, of this pool; -EINVAL: empty; -EBADF.
 *
 * cost     about 100 ns, 2 ns a page, and a fault for up to 32 pages that are absent.
 */
int larder_pin(larder_pool *pool, void *addr, size_t bytes);

/* Undo one larder_pin() of the same range. returns 0; -ENOENT: some page of it is not pinned: nothing has changed;
 * -EFAULT; -EINVAL; -EBADF. */
int larder_unpin(larder_pool *pool, void *addr, size_t bytes);

enum larder_advice {
	LARDER_ADVICE_NORMAL,	  /* undo LARDER_ADVICE_SEQUENTIAL */
	LARDER_ADVICE_SEQUENTIAL, /* bring back many neighbours at each fault; a hint for the 2 MiB around each page */
	LARDER_ADVICE_COLD,	  /* take the pages out to the tiers now; returns when done. Volatile pages stay. */
	LARDER_ADVICE_WILL_NEED	  /* bring the pages back now; returns when done */
};

/*
 * Advise about [addr, addr + bytes) in one page range or in objects; rounded inwards for COLD, outwards otherwise.
 * returns  0, for COLD the bytes taken out (at most INT_MAX), >= 0; -EINVAL: unknown advice or empty; -EFAULT; -EBADF.
 */
int larder_advise(larder_pool *pool, void *addr, size_t bytes, enum larder_advice advice);

/*
 * ---- Volatile ranges ----
 *
 * See larder-volatile(7) for a worked example. A volatile page is one that its owner can make again. When memory is
 * short it is *purged*: dropped, not compressed and not written anywhere. Until its owner acknowledges, the page is
 * *lost*, whatever is written to it meanwhile, and no call says LARDER_INTACT for a range that holds it.
 *
 *   explicit use     larder_nonvolatile() before using the content; it says whether all of it is still there
 *   optimistic use   go on using it while it is volatile; a touch of a purged page does what `on_touch` says
 *
 * All calls are all-or-nothing: on an error nothing has changed.
 */
enum { LARDER_INTACT = 0, LARDER_PURGED = 1 };

/* Priority: what goes first. OBSOLETE is of no use to anybody any more; 0 goes next, 7 last. (In larder/stats.h:
 * LARDER_PRIORITY_OBSOLETE = -1, LARDER_PRIORITY_MIN = 0, LARDER_PRIORITY_MAX = 7.) */

/* What a touch of a purged page does while it is volatile and not pinned. (Nonvolatile, it reads as zeroes.) */
enum larder_on_touch {
	LARDER_TOUCH_ZERO,   /* reads as zeroes; it can be written, and stays lost */
	LARDER_TOUCH_REFILL, /* the callback makes the content again, and the page is not lost any more */
	LARDER_TOUCH_SIGBUS  /* SIGBUS with the address in si_addr; system calls fail with EFAULT */
};

/*
 * How much goes at once: any power of two from a page up, counted from where the marked range starts; or all of it. A
 * call for a part of a marked range splits it there: each part then counts its units from its own start, and is a range
 * of its own.
 */
enum { LARDER_UNIT_RANGE = 0, LARDER_UNIT_PAGE = 4096, LARDER_UNIT_CHUNK = 65536 };

/*
 * Make content again: fill `buffer` with what belongs at [addr, addr + bytes), which is one purge unit or what is left
 * of it. Called on the thread that touched the page, before its access returns, from within a SIGBUS handler: so it may
 * not take a lock that a thread holds while it touches volatile memory. It must not touch [addr, addr + bytes) itself.
 * System calls do not call it: they fail with EFAULT on a purged page, so pin what is handed to the kernel. Several
 * threads may be asked for the same unit at once; what the first returns is taken.
 *
 * returns  0, or anything else: the content cannot be made, and the access raises SIGBUS.
 */
typedef int larder_refill_fn(void *cookie, void *addr, void *buffer, size_t bytes);

/* Zero a whole struct first: zero is the default of every field. */
struct larder_volatile_options {
	int32_t priority;    /* LARDER_PRIORITY_OBSOLETE, or 0 to 7 */
	uint32_t on_touch;   /* enum larder_on_touch */
	uint64_t unit_bytes; /* LARDER_UNIT_* */
	uint64_t cost_ns;    /* what it takes to make the whole range again; for LARDER_ORDER_COST */
	larder_refill_fn *refill;
	void *cookie;	      /* handed to refill */
	uint32_t flags;	      /* LARDER_REMARK, LARDER_EMPTY */
	uint32_t reserved[3]; /* must be 0 */
};

/* Pages that are volatile already are accepted and get the new options; otherwise -EEXIST. */
#define LARDER_REMARK 1u

/* There is no content yet, or none worth keeping: every page is lost from the start, as if purged. */
#define LARDER_EMPTY 2u

/*
 * Mark [addr, addr + bytes) volatile. From now on its content may go at any time. Pages that are lost already stay
 * lost. Where touches are trapped (refill, SIGBUS), what their owner has written to them without larder_refilled() is
 * dropped; so it is when they are unpinned.
 *
 * options  copied; NULL = priority 0, whole range at once, zero-fill. A refill callback goes with LARDER_TOUCH_REFILL,
 * and with nothing else.
 *
 * returns  0; -EINVAL: not aligned to 4096, empty, or an option out of range; -EFAULT: not in one page range of this
 * pool; -EEXIST: some page of it is volatile already; -EBUSY: some page of it is pinned; -ENOMEM: no memory for the
 *          record; -EBADF; for LARDER_TOUCH_REFILL also what userfaultfd(2) and sigaction(2) say.
 *
 * cost     below 100 ns for a range that was marked with the same bounds before; no system call. Splitting a range adds
 *          less than 1 ns a page.
 */
int larder_volatile(larder_pool *pool, void *addr, size_t bytes, const struct larder_volatile_options *options);

/* Take over purged pages as they are (zeroes): they are not lost any more. */
#define LARDER_ACKNOWLEDGE 1u

/*
 * End volatility of [addr, addr + bytes), all of which must be volatile, and say what happened to its content.
 * flags    0: lost pages stay lost until larder_refilled(), so that no thread takes half-made content for intact;
 *          LARDER_ACKNOWLEDGE: they are not lost from now on.
 * lost     NULL, or one byte for each page: 1 when it was lost, else 0.
 * returns  LARDER_INTACT or LARDER_PURGED (all or some of it); -EINVAL: unaligned, empty, unknown flags; -EFAULT;
 *          -ENOENT: some page of it is not volatile; -EBUSY: some page of it is pinned (the pins' owner uses it as it
 *          is); -ENOMEM; -EBADF.
 * cost     below 100 ns when intact; no system call.
 */
int larder_nonvolatile(larder_pool *pool, void *addr, size_t bytes, unsigned flags, unsigned char *lost);

/*
 * The content of [addr, addr + bytes), nonvolatile or pinned, has been made again: acknowledge the loss of its pages.
 * returns 0; -ENOENT: some page of it is neither nonvolatile nor pinned; -EINVAL; -EFAULT; -EBADF.
 */
int larder_refilled(larder_pool *pool, void *addr, size_t bytes);

/*
 * What became of [addr, addr + bytes), without changing anything. Volatile pages may be purged at any moment after.
 * returns  LARDER_INTACT, LARDER_PURGED; -EINVAL; -EFAULT; -ENOMEM (with `lost`, above 16 MiB); -EBADF. `lost` as for
 *          larder_nonvolatile().
 */
int larder_query(larder_pool *pool, void *addr, size_t bytes, unsigned char *lost);

/* A volatile range has been used: it goes later, by LARDER_ORDER_LRU and LARDER_ORDER_COST. addr: anywhere in it.
 * returns 0; -ENOENT: not volatile; -EFAULT; -EBADF. */
int larder_used(larder_pool *pool, void *addr);

/*
 * Purge volatile memory now: ranges of priority `upto` and below, in the pool's order, until `bytes` are gone. For
 * tests and for programs that know that memory is short. pool     NULL = every pool. returns  bytes of RAM given back,
 * >= 0; -EINVAL: upto is out of range; -EBADF; -ENOTCONN: not started.
 */
int64_t larder_purge(larder_pool *pool, int upto, uint64_t bytes);

/* Why something was purged. */
enum larder_purge_reason {
	LARDER_PURGE_REQUESTED,	    /* larder_purge() */
	LARDER_PURGE_POOL_LIMIT,    /* the pool's limit */
	LARDER_PURGE_PROCESS_LIMIT, /* the process's limit */
	LARDER_PURGE_SYSTEM	    /* memory is short outside this process */
};

struct larder_purge_event {
	void *addr; /* what went: [addr, addr + bytes) */
	uint64_t bytes;
	uint64_t time_ns; /* CLOCK_MONOTONIC */
	int32_t priority;
	uint32_t reason; /* enum larder_purge_reason */
	uint64_t missed; /* events dropped before this one because nobody read them */
};

/*
 * A descriptor that polls readable while purge events wait. It belongs to the pool: it is closed with it. Events are
 * kept from the first call on, LARDER_PURGE_EVENTS of them. returns  a descriptor (close-on-exec); -EBADF; -EMFILE,
 * -ENFILE, -ENOMEM; -ENOTCONN: not started.
 */
enum { LARDER_PURGE_EVENTS = 4096 };
int larder_purge_fd(larder_pool *pool);

/* Read up to `max` events, oldest first. returns how many, 0 when there are none; -EBADF; -EINVAL. */
int larder_purge_events(larder_pool *pool, struct larder_purge_event *events, unsigned max);

struct larder_pool_stats {
	uint64_t limit_bytes;
	uint64_t usage_bytes; /* what counts against it; memory that no pressure has reached yet counts in full, freed
				 or not */
	uint64_t pages[LARDER_PAGES_KINDS]; /* where the pool's pages are: see larder/stats.h */
	uint64_t pinned_bytes;
	struct larder_volatile_stats priority[LARDER_PRIORITIES]; /* [0] = obsolete, [1 + p] = priority p */
};

/* Copy the statistics of a pool. Not a snapshot: other threads go on. returns 0; -EINVAL: stats is NULL; -EBADF. */
int larder_pool_get_stats(larder_pool *pool, struct larder_pool_stats *stats);

/*
 * For programs with a SIGBUS handler of their own, installed after Larder's: call this first in it, with the siginfo_t.
 * May be called from a signal handler; errno is kept. (Larder's own handler calls the one that was there before it for
 * faults that are not Larder's.)
 * returns  1: the fault was Larder's and is dealt with, return and go on; 0: not Larder's.
 */
int larder_handle_sigbus(void *siginfo);

/*
 * ---- Shared volatile ranges ----
 *
 * Memory that several processes map, over a memfd, with one volatile state that all of them see. It is divided into
 * units of one size. A unit that no process has pinned is volatile: any of the processes may purge it, when its own
 * limit or the system is short of memory. Units are zero and lost at first. A process that dies releases its pins; what
 * it was making again is lost still. Explicit use only: an unpinned unit must not be touched.
 *
 * Needs larder_start() for units to be purged under this process's limit and under system pressure; without, pins and
 * states work, and other processes purge.
 */
typedef struct larder_shared larder_shared;

/*
 * Make one. bytes is rounded up to units; unit_bytes: a power of two from 4096 up.
 * returns 0 and *shared, which the caller closes; -EINVAL; -ENOMEM, also for more than 2^26 units; -EMFILE and others
 * of memfd_create(2). Needs /proc, as opening does.
 */
int larder_shared_create(larder_shared **shared, size_t bytes, size_t unit_bytes);

/* Open one that another process made, from its descriptor (inherited, or received over a socket; still the caller's).
 * returns 0 and *shared; -EINVAL: not a shared volatile range, or of another version; -EAGAIN: 62 processes have it
 * open; -EACCES: the descriptor cannot be opened for writing; -ENOMEM. */
int larder_shared_open(larder_shared **shared, int fd);

/* Close: unmap it here, drop this process's pins. returns 0; -EBUSY: this process has something pinned. */
int larder_shared_close(larder_shared *shared);

int larder_shared_fd(const larder_shared *shared); /* to hand to other processes; belongs to `shared` */
void *larder_shared_address(const larder_shared *shared);
size_t larder_shared_bytes(const larder_shared *shared);
size_t larder_shared_unit_bytes(const larder_shared *shared);

/* Do not wait for another process that is making the content again. */
#define LARDER_NOWAIT 1u

/*
 * Pin units. Nests. While one process makes lost units again, others that pin them wait; when it dies, one of them
 * takes over. offset, bytes  multiples of the unit. lost     NULL, or one byte for each unit: 1 when the caller has to
 * make it again. returns  LARDER_INTACT; LARDER_PURGED: some units are lost and it is this thread's duty to make them
 * again and then call larder_shared_refilled(); -EAGAIN: LARDER_NOWAIT, and somebody else is making a unit of it again;
 * -EINVAL: out of range, not multiples, unknown flags; -ENOTCONN: in a forked child, which must open its own.
 *
 * Against deadlock: units are pinned in ascending order, and what is pinned already is kept while waiting. So while a
 * thread has lost units to make, it may wait only for units behind them: pin in ascending order, or with LARDER_NOWAIT.
 */
int larder_shared_pin(larder_shared *shared, size_t offset, size_t bytes, unsigned flags, unsigned char *lost);

/* The units that larder_shared_pin() called lost are made again. returns 0; -ENOENT: some unit is not being made again
 * by this process: nothing has changed; -EINVAL; -ENOTCONN. */
int larder_shared_refilled(larder_shared *shared, size_t offset, size_t bytes);

/* Undo one pin. Units whose last pin it was become volatile with this priority; units not refilled stay lost.
 * returns 0; -ENOENT: some unit is not pinned by this process: nothing has changed; -EINVAL; -ENOTCONN. */
int larder_shared_unpin(larder_shared *shared, size_t offset, size_t bytes, int priority);

/* Purge units of priority `upto` and below, those unpinned longest ago first, until `bytes` are gone.
 * returns bytes given back; -EINVAL; -ENOTCONN. */
int64_t larder_shared_purge(larder_shared *shared, int upto, uint64_t bytes);

/* Statistics of all processes together; the fields of struct larder_volatile_stats, per priority as in a pool's.
 * Hits and losses count pin calls, under the priority of their first unit; units not used yet count as priority 0.
 * returns 0; -EINVAL; -ENOTCONN. */
int larder_shared_get_stats(const larder_shared *shared, struct larder_volatile_stats priority[LARDER_PRIORITIES]);

/* "0.2.0": of the library that runs, which may be newer than the header. */
const char *larder_version(void);

#ifdef __cplusplus
}
#endif
#endif
