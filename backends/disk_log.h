/*
 * The log: where objects lie on a disk, and which parts of it are free. All of it is in RAM; file.c does the reading
 * and writing.
 *
 * The disk is cut into segments, which are filled from start to end and freed as a whole (Rosenblum and Ousterhout,
 * "The Design and Implementation of a Log-Structured File System", 1992): so writes are large and sequential, and
 * space, write volume and requests are those of the compressed size. A segment that has lost most of its objects is
 * cleaned: what is left moves to another one. The file dies with the process, so nothing on disk has to say what is
 * there: the table of handles, and for each segment the list of handles that were written to it, say it from RAM, and a
 * checksum in the table notices everything that a disk may return in the place of what was written.
 *
 * It costs 20 bytes of RAM for each object, and 48 for each segment of 1 MiB. Nothing that is done often looks at all
 * segments.
 *
 * Threads: disk_log_drop(), disk_log_pin(), disk_log_unpin() and disk_log_checksum(): any, but one at a time for a
 * handle (backend.h). All else belongs to the writer.
 */
#ifndef LARDER_DISK_LOG_H
#define LARDER_DISK_LOG_H

#include "futex.h"
#include "lease.h"

#include <stdint.h>

enum { DISK_LOG_SEGMENT_BYTES = 1 << 20, DISK_LOG_SEGMENT_OBJECTS = 4096, DISK_LOG_NO_SEGMENT = -1 };

enum disk_log_segment_state {
	DISK_LOG_FREE,
	DISK_LOG_OPEN,
	DISK_LOG_FULL,
	DISK_LOG_GIVING, /* its blocks are being given back to the filesystem */
};

/* Two are filled at a time, so that what has survived for long does not mix with what is new. */
enum disk_log_stream { DISK_LOG_NEW, DISK_LOG_CLEANED, DISK_LOG_STREAMS };

struct disk_log_segment {
	_Atomic uint32_t live_bytes, readers;
	/* the writer's */
	uint32_t used_bytes; /* handed out by disk_log_reserve() */
	uint32_t objects;    /* in its summary */
	uint32_t writing;    /* writes under way */
	uint8_t state;	     /* enum disk_log_segment_state */
	uint8_t has_blocks;  /* it was written to since it was last given back to the filesystem */
	uint64_t opening;    /* number of its opening: never the same twice */
	uint64_t written_ns;
	uint64_t leave_until_ns; /* it could not be cleaned: it is left alone until then */
};

/* A place: where an object is. 0 = none. */
typedef uint64_t disk_log_place;
enum { DISK_LOG_PLACE_SHIFT = 44 };
#define DISK_LOG_MAX_BYTES ((uint64_t)1 << DISK_LOG_PLACE_SHIFT)

static inline disk_log_place disk_log_place_of(uint64_t offset, uint32_t bytes)
{
	return offset | (uint64_t)bytes << DISK_LOG_PLACE_SHIFT;
}

static inline uint64_t disk_log_offset(disk_log_place place)
{
	return place & (DISK_LOG_MAX_BYTES - 1);
}

static inline uint32_t disk_log_bytes(disk_log_place place)
{
	return (uint32_t)(place >> DISK_LOG_PLACE_SHIFT);
}

struct disk_log_entry {
	_Atomic disk_log_place place;
	_Atomic uint64_t checksum; /* of a free handle: the next free one, plus one */
};

struct disk_log {
	struct disk_log_segment *segments;
	uint32_t *summaries; /* [segment][DISK_LOG_SEGMENT_OBJECTS]: handles in the order of writing */
	uint32_t nsegments, nfree;
	int32_t open[DISK_LOG_STREAMS];	   /* being filled, or DISK_LOG_NO_SEGMENT */
	uint32_t next_free;		   /* where the search for a free one goes on */
	uint32_t next_giving, next_victim; /* the same for one with blocks, and for one to clean */
	uint64_t openings;		   /* while the disk is not shared */
	struct lease lease;
	uint64_t claim_after_ns; /* others hold all that is free here: no use in asking before */

	struct disk_log_entry *entries; /* [handle] */
	uint32_t max_handles;
	struct larder_mutex handles_lock; /* free_handle, handles_used, free entries */
	uint32_t free_handle;		  /* plus one */
	_Atomic uint32_t handles_used;	  /* ever used; written under the lock */

	_Atomic uint64_t objects, live_bytes;
	_Atomic uint32_t occupied;    /* segments with blocks in the filesystem */
	_Atomic uint64_t *emptied;    /* a bit for each segment: it may have lost its last object */
	_Atomic uint32_t any_emptied; /* 1: a bit is set */
};

/* Prepare a zeroed log over `bytes`, at most DISK_LOG_MAX_BYTES, for max_objects objects. Returns 0 or -ENOMEM, with
 * nothing left mapped. */
int disk_log_open(struct disk_log *log, uint64_t bytes, uint64_t max_objects);
void disk_log_close(struct disk_log *log);

/*
 * Reserve up to `bytes` at the end of a stream, at least `least`. Returns 0 with *offset and *got, or -ENOSPC: no
 * segment is free. The last `spare` free segments are not taken. disk_log_trim() gives back what was not needed of the
 * last reservation of that stream.
 */
int disk_log_reserve(struct disk_log *log, enum disk_log_stream stream, uint32_t bytes, uint32_t least, uint32_t spare,
		     uint64_t *offset, uint32_t *got);
void disk_log_trim(struct disk_log *log, uint64_t offset, uint32_t reserved, uint32_t used);

/* A write to the segment that holds `offset` begins, or has ended. */
void disk_log_write_begins(struct disk_log *log, uint64_t offset);
void disk_log_write_ends(struct disk_log *log, uint64_t offset);

/* Note an object of `bytes` at `offset`. Returns 0 and *handle, or -ENOSPC: the segment's summary or the table is full.
 */
int disk_log_add(struct disk_log *log, uint64_t offset, uint32_t bytes, uint64_t checksum, uint64_t *handle);
void disk_log_drop(struct disk_log *log, uint64_t handle);

/* Where an object is; it is not overwritten there until disk_log_unpin(). */
disk_log_place disk_log_pin(struct disk_log *log, uint64_t handle);
void disk_log_unpin(struct disk_log *log, disk_log_place place);

static inline uint64_t disk_log_checksum(const struct disk_log *log, uint64_t handle)
{
	return atomic_load_explicit(&log->entries[handle].checksum, memory_order_relaxed);
}

static inline disk_log_place disk_log_place_now(const struct disk_log *log, uint64_t handle)
{
	return atomic_load_explicit(&log->entries[handle].place, memory_order_acquire);
}

static inline struct disk_log_segment *disk_log_segment_at(const struct disk_log *log, uint64_t offset)
{
	return &log->segments[offset / DISK_LOG_SEGMENT_BYTES];
}

/* The segment that is best to clean now, or DISK_LOG_NO_SEGMENT: the best of the next DISK_LOG_VICTIMS that could be,
 * so that a large disk does not take longer. */
enum { DISK_LOG_VICTIMS = 4096 };
int32_t disk_log_victim(struct disk_log *log, uint64_t now_ns);

/* Between the two, a segment is not freed, so that no place in it comes to mean another object. */
void disk_log_hold(struct disk_log *log, int32_t segment);
void disk_log_release(struct disk_log *log, int32_t segment);

/* An object has been copied from one place, in a segment that has been held since before it was read, to another.
 * Returns 1, or 0: it was dropped meanwhile. */
int disk_log_move(struct disk_log *log, uint64_t handle, disk_log_place from, uint64_t to_offset);

/* Free the segments that hold nothing any more. */
void disk_log_free_empty(struct disk_log *log);

/* A free segment whose blocks can be given back to the filesystem, when there are more than `spare`; else
 * DISK_LOG_NO_SEGMENT. It is nobody's until disk_log_blocks_given(), which says whether they were. */
int32_t disk_log_take_blocks(struct disk_log *log, uint32_t spare);
void disk_log_blocks_given(struct disk_log *log, int32_t segment, int given);

/* ---- sharing the disk with a child ---- */

/* Before a fork: hold every segment for the child, too. Returns a descriptor for the child, to be closed here, or a
 * negative errno. */
int disk_log_lend(struct disk_log *log);

/*
 * In the child. inherit: nothing is under way; drop what is not named (backend.h). Then take_leases, with the
 * descriptor that disk_log_lend() returned.
 */
void disk_log_inherit(struct disk_log *log, int (*named)(void *arg, uint64_t handle), void *arg);
void disk_log_take_leases(struct disk_log *log, int fd);

struct disk_log_usage {
	uint64_t objects, live_bytes, occupied_bytes, metadata_bytes;
};

struct disk_log_usage disk_log_usage(const struct disk_log *log);

#endif
