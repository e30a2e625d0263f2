/*
 * Unseen: what the program does to managed memory by system call instructions of its own, past libc and so past
 * mapping.h.
 *
 * The kernel tells of munmap() and mremap(), and of mmap() over it, by events of the userfaultfd, and holds the caller
 * until a handler has read the event. Handlers note it here; the reclaim thread, which alone takes pages out, makes the
 * table say what is there now: nothing of ours. Without that, reclaim would go on taking pages out of whatever the
 * kernel maps there next. What mremap() has carried away and had been taken out is brought back where it is now,
 * outside of the region, and stays there; a thread that touches it before is woken then.
 *
 * While an event waits to be read, UFFDIO_COPY fails with EAGAIN (uffd.h), so a handler gives the page up, lets the
 * thread try again, and reads what there is to read.
 *
 * Of madvise() the kernel could tell, too (UFFD_FEATURE_EVENT_REMOVE), but each of our own discards would send an event
 * and wait for it; and the caller goes on when the event has been read, so it could still touch what was thrown away
 * before that is known here.
 */
#ifndef LARDER_UNSEEN_H
#define LARDER_UNSEEN_H

#include "memory.h"
#include "restore.h"

struct uffd_msg;

/* An event that is not a fault. Handlers. */
void unseen_note(struct larder_memory *m, const struct uffd_msg *message);

static inline int unseen_is_pending(const struct larder_memory *m)
{
	return atomic_load(&m->unseen.count) > 0;
}

/*
 * May a fault be served? Not while an event is pending, which may be about that page: then the thread is woken
 * afterwards. Nor where something of ours has been carried to, which is registered until it is whole: whoever waits
 * there is woken by the end of that. Handlers.
 */
int unseen_lets_serve(struct larder_memory *m, const char *addr);

/* Make the table say what is there now. Reclaim thread. */
void unseen_settle(struct larder_memory *m, struct larder_restorer *w);

#endif
