/*
 * Leases: which segments of a disk are held by which of the processes that share it.
 *
 * A process that forks lends its disk to the child: both go on reading what was there, and both write, each to segments
 * that nobody else holds. Who holds what is said by locks of open file descriptions (fcntl(2), F_OFD_SETLK) on a file
 * in memory, one byte for each segment: a shared lock says that its owner holds the segment; an exclusive one is
 * granted if nobody does. Every process has a description of its own, and the kernel lets its locks go when the last
 * descriptor of it is closed, so a process that was killed holds nothing.
 *
 * Until the first fork there are no locks and no file. All functions are for the writer (backend.h).
 */
#ifndef LARDER_LEASE_H
#define LARDER_LEASE_H

#include <stdatomic.h>
#include <stdint.h>

/* What the processes share beside the disk. */
struct lease_page {
	_Atomic uint64_t openings; /* the number of the segment that was opened last, by any of them */
};

struct lease {
	int fd_plus_one; /* of the file, in the internal threads' table; 0 = the disk is not shared */
	struct lease_page *page;
};

/*
 * Hold all of `segments` segments, for this process and for a child. `openings` is the last number used. Returns a
 * descriptor for the child's own leases, to be closed here, or a negative errno.
 */
int lease_lend(struct lease *l, uint32_t segments, uint64_t openings);

/* In the child: what lease_lend() returned in the parent. */
void lease_inherit(struct lease *l, int fd);

/* Hold a segment if nobody else does. Returns 1 when it does. */
int lease_claim(struct lease *l, uint32_t segment);

/* Hold these no more. */
void lease_drop(struct lease *l, uint32_t first, uint32_t segments);

static inline int lease_is_shared(const struct lease *l)
{
	return l->fd_plus_one != 0;
}

#endif
