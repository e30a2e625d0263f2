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
 *  - put() either stores the whole page and returns 0, or stores nothing and returns a negative errno.
 *  - put, get and drop may be called by several threads at once, but never for one handle at once: the owner of a
 *    handle (whoever holds its page, see lib/page.h) serialises the calls on it.
 *  - Nothing here allocates from malloc, uses stdio, or touches errno: callers are threads that must never wait for the
 *    memory they serve. State lives in mappings that the backend made itself (see lib/sys.h).
 */
#ifndef LARDER_BACKEND_H
#define LARDER_BACKEND_H

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
	uint64_t metadata_bytes; /* RAM taken by the backend's own tables, resident */
};

/*
 * Scratch memory for one calling thread. A backend says how much it wants in ops->scratch_bytes; the caller maps it
 * once per thread and passes it to each call, so that no backend needs thread-local storage.
 */
struct larder_backend_ops {
	const char *name;     /* as shown by `larder stat`: "lz4", "file", ... */
	size_t backend_bytes; /* size of the backend's state, which the store maps, zeroed */
	size_t scratch_bytes; /* per calling thread; page-aligned when handed over */

	/*
	 * Prepare `backend` (backend_bytes of zeroes) to hold up to max_objects objects. Address space for the
	 * worst case may be reserved, but RAM is taken only as objects arrive.
	 * Returns 0 or a negative errno, in which case nothing is left mapped. Called before any other thread exists.
	 */
	int (*open)(void *backend, uint64_t max_objects);

	/* Unmap everything. No other call may be under way. */
	void (*close)(void *backend);

	/*
	 * Store one page.
	 * returns  0 and *handle; -E2BIG: this tier would gain nothing by holding the page (incompressible);
	 *          -ENOSPC or -ENOMEM: no room; -EIO and others as the device reports. On error nothing is stored.
	 */
	int (*put)(void *backend, void *scratch, const void *page, uint64_t *handle);

	/*
	 * Fetch one page into `page` (LARDER_PAGE_BYTES, written in full on success). The object stays stored.
	 * returns  0; -EIO or -EBADMSG when the bytes cannot be had or are damaged: `page` is then undefined and
	 *          must not reach the program.
	 */
	int (*get)(void *backend, void *scratch, uint64_t handle, void *page);

	/* Forget one object and free its space. Cannot fail. */
	void (*drop)(void *backend, uint64_t handle);

	/*
	 * Give occupied space back where objects have left holes, moving live objects. At most about `budget_bytes`
	 * of objects are moved in a call, so that the caller can spread the work. Runs beside put, get and drop.
	 * Returns the bytes of occupied space given back.
	 */
	uint64_t (*compact)(void *backend, uint64_t budget_bytes);

	void (*usage)(const void *backend, struct larder_backend_usage *usage);
};

/* Tiers in this build. */
extern const struct larder_backend_ops larder_backend_lz4;

#endif
