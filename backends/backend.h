/*
 * The interface between the store and a tier.
 *
 * A backend keeps page-sized objects under handles that it chooses. It knows nothing of who owns a page, of
 * page states, or of other tiers: the store decides which tier takes a page and asks the right one for it back.
 * A second backend is a second `const struct larder_backend_ops`, added to the store's tier list; no caller of the
 * store changes.
 *
 * Contract that every backend keeps:
 *  - A handle stays valid, and names the same bytes, until drop(). The backend may move the bytes behind it
 *    (compaction, cleaning); the handle does not change. Every 64-bit value is a legal handle.
 *  - put() either stores the whole object and returns 0, or stores nothing and returns a negative errno.
 *  - put, get and drop may be called by several threads at once, but never for one handle at once: the owner of a
 *    handle (whoever holds its page, see lib/page.h) serialises the calls on it.
 *  - Nothing here allocates from malloc, uses stdio, or touches errno: callers are threads that must never wait for the
 *    memory they serve. State lives in mappings that the backend made itself (see lib/sys.h).
 */
#ifndef LARDER_BACKEND_H
#define LARDER_BACKEND_H

#include <larder/stats.h>
#include <lz4.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { LARDER_PAGE_BYTES = 4096 };

/*
 * What one tier holds and costs. All fields are instantaneous values; they need not be consistent with each other
 * to the last byte.
 */
struct larder_backend_usage {
	uint64_t objects;	 /* live handles */
	uint64_t stored_bytes;	 /* sum of the sizes of live objects, as stored (compressed) */
	uint64_t occupied_bytes; /* RAM (or disk) taken for them: whole slabs or segments, resident */
	uint64_t metadata_bytes; /* RAM taken by the backend's own tables and buffers, resident */
};

/* How a backend is opened. The texts are the caller's and need not outlive the call. */
struct larder_backend_setup {
	uint64_t max_objects;
	/* for tiers on disk */
	const char *dir, *device; /* one of them is NULL */
	uint64_t bytes;		  /* how large it may become; for a device 0 = all of it */
	int encrypt;
	struct larder_disk_stats *stats; /* what is counted, never NULL */
	const struct disk_seam *seam;	 /* tests: see disk.h; else NULL */
};

/* Handles are below this: two of them fit in a word (page.h: COPY). */
#define LARDER_HANDLES_MAX ((uint64_t)UINT32_MAX)

/* An *object* is a page as a tier keeps it: codec.h says how a page becomes one. */
enum { LARDER_OBJECT_MAX_BYTES = LARDER_PAGE_BYTES };

/* So many are dropped at once, at most: what guards a tier is taken once for all of them. */
enum { LARDER_DROPS_MAX = 16 };

struct larder_object {
	const char *bytes; /* the page itself if it is as large as one */
	size_t size;
	const char *page;
	uint64_t checksum; /* of the page, from the tier on disk; for batch_add alone */
	/* What it needs to become the page again; else NULL. Then it is of use in the tier alone that made it, and
	 * whoever has it holds the dictionary. */
	struct larder_dictionary *dictionary;
};

enum { LARDER_LENT = 2 }; /* descriptors that a disk takes */

enum { LARDER_FETCH_MAX_PAGES = 32, LARDER_BATCH_MAX_OBJECTS = 256 };

/*
 * A fetch: pages on their way from a disk. Begun by one thread and reaped by the same one. Zero it before its first
 * use; it can be used again after fetch_end.
 */
struct larder_fetch {
	/* the caller's, untouched */
	void *owner;
	/* the caller's, set before fetch_begin and constant until fetch_end */
	unsigned pages;
	uint64_t handles[LARDER_FETCH_MAX_PAGES]; /* in the order in which they were written, if possible */

	void *state; /* the backend's */
};

/*
 * A batch: objects that are written together. Filled, written and reaped by one thread, the writer. An object's handle
 * is valid, but for get and fetch, from batch_add on; the object is stored when the batch has been reaped with result
 * 0, and was never stored when it has another result.
 */
struct larder_batch {
	unsigned objects;
	uint32_t first_ticket; /* the caller's, untouched: that of object i is i more */
	uint64_t handles[LARDER_BATCH_MAX_OBJECTS];
	uint64_t tags[LARDER_BATCH_MAX_OBJECTS]; /* the caller's, untouched */
	int result;				 /* 0 or a negative errno; set when it is reaped */
};

/* Who is waiting while a tier recompresses: nobody; reclaim, which is at work; a fork, for its end. */
enum larder_hurry { LARDER_CALM, LARDER_AT_WORK, LARDER_FROZEN };

/*
 * Scratch memory for one calling thread. A backend says how much it wants in ops->scratch_bytes; the caller maps it
 * once per thread and passes it to each call, so that no backend needs thread-local storage.
 */
struct larder_backend_ops {
	const char *name;     /* as shown by `larder stat`: "lz4", "file", ... */
	size_t backend_bytes; /* size of the backend's state, which the store maps, zeroed */
	size_t scratch_bytes; /* per calling thread; zeroed and page-aligned when handed over */
	int is_on_disk;	      /* occupied_bytes are not RAM; objects are written in batches */

	/*
	 * Prepare `backend` (backend_bytes of zeroes) to hold up to max_objects objects. Address space for the
	 * worst case may be reserved, but RAM is taken only as objects arrive.
	 * Returns 0 or a negative errno, in which case nothing is left mapped. Called before any other thread uses it,
	 * for a tier on disk on an internal thread.
	 */
	int (*open)(void *backend, const struct larder_backend_setup *setup);

	/* Unmap everything. No other call may be under way. */
	void (*close)(void *backend);

	/*
	 * The object of a page, for this tier: by better means than codec_object(). `state` is initialised or zeroed
	 * and valid afterwards; `bytes` may be used. Any thread. Its dictionary is held until dictionary_release(),
	 * put or not. NULL: there are no better means.
	 */
	struct larder_object (*object)(void *backend, LZ4_stream_t *state, const char *page, char *bytes);

	/* Store one object.
	 * returns  0 and *handle; -E2BIG: this tier would gain nothing by holding the page (incompressible);
	 *          -ENOSPC or -ENOMEM: no room; -EIO and others as the device reports. On error nothing is stored.
	 * NULL for a tier on disk.
	 */
	int (*put)(void *backend, const struct larder_object *object, uint64_t *handle);

	/*
	 * Fetch one page into `page` (LARDER_PAGE_BYTES, written in full on success). The object stays stored. A tier
	 * on disk waits for the device, and tries more than once before it gives up. returns  0; -EIO or -EBADMSG when
	 * the bytes cannot be had or are damaged: `page` is then undefined and must not reach the program.
	 */
	int (*get)(void *backend, void *scratch, uint64_t handle, void *page);

	/* The object will be fetched in a moment: a hint, for which nobody waits. It may be gone by now. NULL for a
	 * tier on disk. */
	void (*prefetch)(const void *backend, uint64_t handle);

	/* Copy an object for the next tier: as it is stored, or, if that is of use in this tier alone, the page.
	 * Returns its size, or 0 when it is damaged. NULL for a tier on disk. */
	size_t (*copy)(void *backend, uint64_t handle, char object[LARDER_OBJECT_MAX_BYTES]);

	/* Forget objects, 1 to LARDER_DROPS_MAX, and free their space. Cannot fail. Not while their batch is under
	 * way. */
	void (*drop)(void *backend, const uint64_t *handles, size_t n);

	/*
	 * Give occupied space back where objects have left holes, moving live objects. At most about `budget_bytes`
	 * of objects are moved in a call, so that the caller can spread the work. Runs beside put, get and drop. On
	 * disk it belongs to the writer and moves nothing: cleaning goes on with each batch_reap(). Returns the bytes
	 * of occupied space given back.
	 */
	uint64_t (*compact)(void *backend, void *scratch, uint64_t budget_bytes);

	/*
	 * Make what has been stored for a while smaller, by means that put() has no time for: a few hundred
	 * microseconds of it. Runs beside put, get and drop, but not while the process forks; one thread at a time.
	 * Comes back soon when *hurry (enum larder_hurry) is not LARDER_CALM. The thread may be under SCHED_IDLE for a
	 * time, but not when it is LARDER_FROZEN: then somebody waits for it, and may have taken it out already.
	 * Returns in how many ns there is more to do; 0: not before something has been put. NULL: there is no such
	 * means.
	 */
	uint64_t (*recompress)(void *backend, const _Atomic uint32_t *hurry);

	/* Look at what is stored for what object() can make use of, if that has not been done. Called often, beside all
	 * else, but not while the process forks. NULL: there is nothing to learn. */
	void (*learn)(void *backend);

	void (*usage)(const void *backend, struct larder_backend_usage *usage);

	/* ---- tiers on disk only ---- */

	/* Prepare a thread's scratch, and let go of it. Called on the thread itself. Returns 0 or a negative errno. */
	int (*thread_open)(void *backend, void *scratch);
	void (*thread_close)(void *backend, void *scratch);

	/* Begin to read pages. The owner of each handle stays its owner until fetch_end. Returns 0, or -EBUSY: too much
	 * is under way on this thread; reap first. What was begun is sent to the device by fetch_wait, or fetch_flush.
	 */
	int (*fetch_begin)(void *backend, void *scratch, struct larder_fetch *fetch);
	void (*fetch_flush)(void *backend, void *scratch);

	/* A fetch of which everything has been read, or has failed; NULL: none yet. Does not sleep. */
	struct larder_fetch *(*fetch_reap)(void *backend, void *scratch);

	/* Sleep until a fetch (or a batch) can be reaped, or *word is not `seen` any more (a futex that is posted with
	 * FUTEX_WAKE_PRIVATE; NULL: no matter), or timeout_ns (0 = no limit) is over. May return for no reason. */
	void (*wait)(void *backend, void *scratch, _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns);

	/* For a thread that waits for other things as well. notify: an eventfd in its table, to be polled and read,
	 * that is posted when there may be something to reap; or a negative errno. is_ready: may there be? It looks at
	 * memory only, so that it can be asked all the time. */
	int (*notify)(void *scratch);
	int (*is_ready)(const void *scratch);

	/* For program threads, which cannot use what belongs to internal ones: a descriptor of their own, which the
	 * caller closes, or a negative errno; and reading a fetch with it, waiting for the device. Returns 0 when all
	 * of it is in `pages`, or the first error: nothing is tried again, and the descriptor may mean something else
	 * by now. */
	int (*reopen)(const void *backend);
	int (*fetch_now)(void *backend, void *scratch, int fd, struct larder_fetch *fetch, char *pages);

	/* Page i of a reaped fetch: as get(), trying again where it failed. */
	int (*fetch_page)(void *backend, void *scratch, struct larder_fetch *fetch, unsigned i, void *page);
	void (*fetch_end)(void *backend, void *scratch, struct larder_fetch *fetch);

	/* Do the blocks that are read for `handle` hold all of `other`, too? Then reading both costs no more than
	 * reading one. */
	int (*shares_blocks)(void *backend, uint64_t handle, uint64_t other);

	/*
	 * After a fork, in the child, where no other thread runs: locks and gauges may be anything, objects that no
	 * page names (`named(arg, handle)` = 0) are to be dropped. Nothing was put and nothing moved while the fork
	 * happened.
	 */
	void (*inherit)(void *backend, int (*named)(void *arg, uint64_t handle), void *arg);

	/* ---- tiers on disk: around a fork ---- */

	/* lend: before it, get descriptors for a child, in the calling thread's table. lent: they have been sent. The
	 * writer. Returns 0 or a negative errno: the child can have no disk. */
	int (*lend)(void *backend, int fds[LARDER_LENT]);
	void (*lent)(void *backend, const int fds[LARDER_LENT]);

	/* In the child, after inherit(), on the first internal thread: these are the descriptors. */
	void (*attach)(void *backend, const int fds[LARDER_LENT]);

	/* The checksum of a page, 64 bits with a secret seed, and that of what is kept under a handle: whether the two
	 * are the same page. */
	uint64_t (*checksum)(const void *backend, const char *page);
	uint64_t (*kept_checksum)(const void *backend, uint64_t handle);

	/*
	 * Begin a batch. Returns 0 and *batch; -EBUSY: too many are under way, or room is being made: reap first;
	 * -ENOSPC: nothing is free; another errno: the device failed lately, and is left alone for a while. The writer
	 * only, as are the following.
	 */
	int (*batch_begin)(void *backend, void *scratch, struct larder_batch **batch);

	/* Add an object; its checksum is kept, too. Returns 0, or -ENOSPC: the batch is full. */
	int (*batch_add)(void *backend, struct larder_batch *batch, const struct larder_object *object, uint64_t tag);

	/* Send it to the device. */
	void (*batch_write)(void *backend, void *scratch, struct larder_batch *batch);

	/* A batch that has been written, or has failed; NULL: none yet. Of a failed one all handles are invalid. Does
	 * not sleep. */
	struct larder_batch *(*batch_reap)(void *backend, void *scratch);

	/* The batch can be used again. */
	void (*batch_end)(void *backend, struct larder_batch *batch);

	/* Batches and moves that are under way. */
	unsigned (*writing)(const void *backend);
};

/* Tiers in this build. */
extern const struct larder_backend_ops larder_backend_lz4;
extern const struct larder_backend_ops larder_backend_file;

#endif
