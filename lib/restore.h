/*
 * Restore: bring content back into the program's mapping. The only code that makes pages resident.
 * Used by the fault handlers; by the reclaim thread, for pages that no tier will take and before a fork; and by program
 * threads that serve their own faults (sigbus.h).
 */
#ifndef LARDER_RESTORE_H
#define LARDER_RESTORE_H

#include "memory.h"

enum { RESTORE_MAX_PAGES = 32 }; /* in one UFFDIO_COPY */

/* Reading the clock takes 20 ns, and waking apart from copying a system call: one fault in so many is timed, and counts
 * for them all. */
enum { RESTORE_TIMED_EVERY = 8 };

/* One thread's buffers, mapped once. */
struct larder_restorer {
	void *scratch;	    /* for the store */
	char *bounce;	    /* RESTORE_MAX_PAGES pages */
	int uffd;	    /* in the thread's own descriptor table */
	int reads_messages; /* 1 on a handler: it must not wait until the address space has been changed (unseen.h) */
	int internal;	    /* 1 on an internal thread, which can wake the waiters of m->uffd and write to the log */
	struct larder_reader *reader; /* the thread reads from disk by itself; NULL = it asks one of the readers */
	int disk_fd;		      /* a program thread reads through it by itself; -1 = it asks a reader */
	size_t written; /* index plus one of a page that is about to be written to, so that a copy on disk is no use */
	struct store_drops drops; /* of pages that are resident again */
	unsigned faults;	  /* served with it; the first and every RESTORE_TIMED_EVERYth after it are timed */
	uint64_t since_ns;	  /* when the fault that is being served was seen, if it is timed; else 0 */
};

/* What is in `drops` goes. Internal threads do so before they sleep, for how long nobody knows. */
static inline void restorer_flush(struct larder_restorer *w, struct larder_memory *m)
{
	store_drop_all(&m->store, &w->drops);
}

/* For an internal thread. Returns 0 or -ENOMEM. */
int restorer_open(struct larder_restorer *w, struct larder_memory *m);
/* For program threads; any userfaultfd of the process will do. */
int restorer_open_program(struct larder_restorer *w, struct larder_memory *m, int uffd);
void restorer_close(struct larder_restorer *w, struct larder_memory *m);

/* A fault is going to be served with `w`, now; and has been. Other pages that it restores are not timed. */
static inline void restorer_begin_fault(struct larder_restorer *w)
{
	w->since_ns = w->faults++ % RESTORE_TIMED_EVERY ? 0 : sys_now_ns();
}

static inline void restorer_end_fault(struct larder_restorer *w)
{
	w->since_ns = 0;
}

/*
 * Make pages [first, first + n) resident. The caller owns them all (RESTORING); words[i] is what page first + i was
 * before. The first page gets `credit`, the rest none. On return nobody owns any of them: each is RESIDENT, or POISONED
 * when its content is lost, or what it was when its mapping is gone or a page before it failed. Threads that wait for
 * them are woken. returns  pages made resident.
 */
size_t restore_pages(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		     unsigned credit);

/*
 * Pages [first, first + n) were purged while volatile and a touch of them is trapped: put `content` there instead.
 * Pages that are not trapped any more are left as they are. Returns the pages installed.
 */
size_t restore_install(struct larder_memory *m, struct larder_restorer *w, size_t first, size_t n, const char *content);

/* A fault hit a trapped page: from now on a touch raises SIGBUS. Internal threads. */
void restore_trap(struct larder_memory *m, size_t index);

/*
 * Own up to `max` consecutive pages from `first` on, all in the states of the mask (1 << state) and not trapped; all on
 * disk or none. Fresh
 * ones that are lost, but for the first, only among the first `wanted`: nobody wants zeroes in the place of what was
 * purged, unless he asks for them. Returns how many.
 */
size_t restore_acquire(struct larder_memory *m, size_t first, size_t max, unsigned states, size_t wanted,
		       uint64_t *words);

/* Nobody owns these pages any more: they are what they were before. Threads that wait for them are woken. */
void restore_give_up(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n);

/*
 * As restore_pages(), with the content in `content` already. errors[i], if not 0, says why there is none for page i.
 * Page `wanted` gets the credit.
 */
void restore_contents(struct larder_memory *m, struct larder_restorer *w, size_t first, const uint64_t *words, size_t n,
		      const char *content, const int *errors, size_t wanted, unsigned credit);

/* Is a stored page in the tier on disk? */
static inline int restore_needs_disk(const struct larder_memory *m, uint64_t word)
{
	return page_state(word) == PAGE_STORED && store_is_on_disk(&m->store, page_tier(word));
}

/*
 * What is stored of a page, which is as `word` says, will be wanted in a moment. A hint: so the caller need not own the
 * page, and the handle may be another's by now.
 */
static inline void restore_expect(const struct larder_memory *m, size_t index, uint64_t word)
{
	if (page_state(word) == PAGE_STORED)
		store_prefetch(&m->store, store_place_of(&m->region.pages[index], word));
}

/* Log what a program thread could not restore. Internal threads. */
void restore_report(struct larder_memory *m);

/* Wake threads that fault on the page. Internal threads only: they have the descriptor. */
void restore_wake(struct larder_memory *m, size_t index);

#endif
