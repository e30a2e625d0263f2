/*
 * Disk: one file or block device, read and written with O_DIRECT through io_uring (Axboe, "Efficient IO with io_uring",
 * 2019). It knows nothing of what the blocks hold.
 *
 * Threads: a disk is shared and constant once it is open; a queue belongs to one thread, which must be an internal one
 * (lib/thread.h): descriptors live in the internal threads' table. A transfer belongs to the disk from disk_submit()
 * until disk_reap() returns it. Nothing here allocates, uses stdio or touches managed memory: buffers are mappings of
 * the caller's.
 */
#ifndef LARDER_DISK_H
#define LARDER_DISK_H

#include <liburing.h>
#include <larder/stats.h>
#include <stdatomic.h>
#include <stdint.h>

/* A punch gives the space of a range of the file back to its filesystem, and transfers nothing. It, too, can take its
 * time, where the filesystem waits for its disk. */
enum disk_kind { DISK_READ, DISK_WRITE, DISK_PUNCH };

struct disk_transfer;

/*
 * The seam where tests make a disk fail: asked once for every transfer when it is submitted, by the submitting thread,
 * and again when it has completed.
 */
struct disk_seam {
	/* What becomes of the transfer: 0 = let it pass; a negative errno = it fails with that and nothing is
	 * transferred; a positive number = only so many bytes are transferred. *delay_ns, 0 at first, holds it up. */
	int32_t (*submit)(void *arg, const struct disk_transfer *t, uint64_t *delay_ns);
	void (*complete)(void *arg, struct disk_transfer *t); /* may damage what was read; NULL = nothing to do */
	void *arg;
	uint64_t refuse_ns; /* how long a device that failed is left alone at first; 0 = as in operation */
};

struct larder_disk {
	int fd;	    /* in the internal threads' table */
	int opener; /* thread that has that table for good */
	int is_device;
	uint32_t block_bytes; /* offsets and sizes of transfers, and addresses of buffers, are multiples of it */
	uint64_t bytes;	      /* of the device; of a file: as far as it may grow */
	const struct disk_seam *seam;
	struct larder_disk_stats *stats; /* what the queues count into; never NULL */
};

/* Where: a directory for a file without a name, or a block device. One of them is NULL. */
struct disk_place {
	const char *dir, *device;
	uint64_t bytes; /* of the file, at most; 0 for a device: all of it, up to LARDER_SWAP_MAX_BYTES */
};

/*
 * Open it. A file has mode 0600 and no name: it vanishes with the last descriptor. A device must not be in use
 * (O_EXCL). returns 0; -EOPNOTSUPP: no O_DIRECT there; -EBUSY: the device is in use; -ENOTBLK: no block device;
 * -ENODEV: the directory is in RAM (tmpfs); -ENOSPC: the device is smaller than bytes, or than LARDER_SWAP_MIN_BYTES;
 * else open(2)'s error.
 */
int disk_open(struct larder_disk *d, const struct disk_place *place);
void disk_close(struct larder_disk *d);

/* In a forked child: the descriptor in the table of its internal threads, of which the caller is the first. */
void disk_inherit(struct larder_disk *d, int fd);

/*
 * Wait until a device is not in use, or timeout_ns is over. When a process ends, or executes another program, the
 * kernel takes its rings apart in the background: its device is in use for some 10 ms more.
 */
enum { DISK_RELEASE_NS = 2000000000 };
void disk_await_device(const char *path, uint64_t timeout_ns);

struct disk_transfer {
	/* the caller's */
	uint64_t offset;
	void *buffer;
	uint32_t bytes;
	uint8_t kind; /* enum disk_kind */
	void *owner;  /* for the caller, untouched */

	/* the result: `bytes` or a negative errno. What was transferred in part is gone on with, until nothing more
	 * comes
	 * (-EIO). */
	int32_t result;

	/* the disk's */
	uint32_t done;
	int32_t forced; /* by the seam */
	uint8_t phase;
	uint64_t delay_ns, started_ns;
	struct __kernel_timespec delay;
	struct disk_transfer *next;
};

struct disk_queue {
	struct larder_disk *disk;
	struct io_uring ring;
	unsigned depth, in_flight;
	int registered_file;
	char *registered; /* buffers that are registered with the kernel: pinned once, not at each transfer */
	uint64_t registered_bytes;
	struct disk_transfer *completed; /* reaped but not asked for yet, oldest first; NULL = none */
	struct disk_transfer **completed_end;
	int waits_for_event; /* a wait for a futex is with the kernel */
	int done_fd;	     /* see disk_queue_notify(); -1: none */
};

/*
 * Make a queue for the calling thread, for up to `depth` transfers at once. `buffers`, NULL for none, are registered if
 * the kernel allows it (RLIMIT_MEMLOCK); if not, all goes on without. Returns 0 or a negative errno: -EPERM or -ENOSYS
 * where io_uring is forbidden or absent.
 */
int disk_queue_open(struct disk_queue *q, struct larder_disk *d, unsigned depth, void *buffers, uint64_t bytes);
void disk_queue_close(struct disk_queue *q);

/* Hand over a transfer; the kernel gets it with the next disk_flush() or disk_wait(). Returns 0 or -EBUSY: the queue is
 * full. */
int disk_submit(struct disk_queue *q, struct disk_transfer *t);

/* Have the kernel start what was submitted: one system call for all of it, none when there is nothing. */
void disk_flush(struct disk_queue *q);

/* A transfer that has completed, or NULL. No system call unless the kernel has completions waiting to be posted. */
struct disk_transfer *disk_reap(struct disk_queue *q);

/*
 * Flush, then sleep until something has completed, *word is not `seen` any more (word NULL: no matter; posted as by
 * futex wake, private), or timeout_ns (0 = no limit) is over. Returns at once when there is something to reap.
 */
void disk_wait(struct disk_queue *q, _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns);

/*
 * For a thread that waits for other things as well, and polls: an eventfd in its table, which does not block and is
 * posted when there may be something to reap; the queue's. Returns it, or a negative errno.
 */
int disk_queue_notify(struct disk_queue *q);

/* May there be something to reap? No system call. */
static inline int disk_is_ready(const struct disk_queue *q)
{
	return q->completed || io_uring_cq_ready(&q->ring) ||
	       IO_URING_READ_ONCE(*q->ring.sq.kflags) & IORING_SQ_TASKRUN;
}

/* Submit one transfer and wait for it; others that complete meanwhile wait to be reaped. Returns its result. */
int32_t disk_transfer_now(struct disk_queue *q, struct disk_transfer *t);

/* ---- for program threads, which have no queue ---- */

/* A descriptor for reading in the calling thread's own table, which the caller closes; or a negative errno. */
int disk_reopen(const struct larder_disk *d);

/* Read through it, waiting for the device. The result is as above; a descriptor that means something else by now gives
 * an error, or bytes that are not what was written. */
void disk_read_now(struct larder_disk *d, int fd, struct disk_transfer *t);

#endif
