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
 * It costs 20 bytes of RAM for each object, and 48 for each segment of 1 MiB.
 *
 * Threads: log_drop(), log_pin(), log_unpin() and log_checksum(): any, but one at a time for a handle (backend.h). All
 * else belongs to the writer.
 */
#ifndef LARDER_LOG_H
#define LARDER_LOG_H

#include "futex.h"

#include <stdint.h>

enum { LOG_SEGMENT_BYTES = 1 << 20, LOG_SEGMENT_OBJECTS = 4096, LOG_NO_SEGMENT = -1 };

enum log_segment_state { LOG_FREE, LOG_OPEN, LOG_FULL };

/* Two are filled at a time, so that what has survived for long does not mix with what is new. */
enum log_stream { LOG_NEW, LOG_CLEANED, LOG_STREAMS };

struct log_segment {
	_Atomic uint32_t live_bytes, readers;
	/* the writer's */
	uint32_t state;
	uint32_t used_bytes; /* handed out by log_reserve() */
	uint32_t objects;    /* in its summary */
	uint32_t writing;    /* writes under way */
	uint64_t opening;    /* number of its opening: never the same twice */
	uint64_t written_ns;
	uint8_t has_blocks; /* it was written to since it was last given back to the filesystem */
	uint8_t unreadable; /* it could not be cleaned: not tried again while it has objects */
};

/* A place: where an object is. 0 = none. */
typedef uint64_t log_place;
enum { LOG_PLACE_SHIFT = 44 };

static inline log_place log_place_of(uint64_t offset, uint32_t bytes)
{
	return offset | (uint64_t)bytes << LOG_PLACE_SHIFT;
}

static inline uint64_t log_offset(log_place place)
{
	return place & (((uint64_t)1 << LOG_PLACE_SHIFT) - 1);
}

static inline uint32_t log_bytes(log_place place)
{
	return (uint32_t)(place >> LOG_PLACE_SHIFT);
}

struct log_entry {
	_Atomic log_place place;
	_Atomic uint64_t checksum; /* of a free handle: the next free one, plus one */
};

struct larder_log {
	struct log_segment *segments;
	uint32_t *summaries; /* [segment][LOG_SEGMENT_OBJECTS]: handles in the order of writing */
	uint32_t nsegments, nfree;
	int32_t open[LOG_STREAMS]; /* being filled, or LOG_NO_SEGMENT */
	uint32_t next_free;	   /* where the search for a free one goes on */
	uint64_t openings;

	struct log_entry *entries; /* [handle] */
	uint32_t max_handles;
	struct larder_mutex handles_lock; /* free_handle, handles_used, free entries */
	uint32_t free_handle;		  /* plus one */
	_Atomic uint32_t handles_used;	  /* ever used; written under the lock */

	_Atomic uint64_t objects, live_bytes;
	_Atomic uint32_t occupied; /* segments with blocks in the filesystem */
	_Atomic uint32_t emptied;  /* 1: a segment may have lost its last object */
};

/* Prepare a zeroed log over `bytes` for max_objects objects. Returns 0 or -ENOMEM, with nothing left mapped. */
int log_open_space(struct larder_log *log, uint64_t bytes, uint64_t max_objects);
void log_close_space(struct larder_log *log);

/*
 * Reserve up to `bytes` at the end of a stream, at least `least`. Returns 0 with *offset and *got, or -ENOSPC: no
 * segment is free. The last `spare` free segments are not taken. log_trim() gives back what was not needed of the last
 * reservation of that stream.
 */
int log_reserve(struct larder_log *log, enum log_stream stream, uint32_t bytes, uint32_t least, uint32_t spare,
		uint64_t *offset, uint32_t *got);
void log_trim(struct larder_log *log, uint64_t offset, uint32_t reserved, uint32_t used);

/* A write to the segment that holds `offset` begins, or has ended. */
void log_write_begins(struct larder_log *log, uint64_t offset);
void log_write_ends(struct larder_log *log, uint64_t offset);

/* Note an object of `bytes` at `offset`. Returns 0 and *handle, or -ENOSPC: the segment's summary or the table is full.
 */
int log_add(struct larder_log *log, uint64_t offset, uint32_t bytes, uint64_t checksum, uint64_t *handle);
void log_drop(struct larder_log *log, uint64_t handle);

/* Where an object is; it is not overwritten there until log_unpin(). */
log_place log_pin(struct larder_log *log, uint64_t handle);
void log_unpin(struct larder_log *log, log_place place);

static inline uint64_t log_checksum(const struct larder_log *log, uint64_t handle)
{
	return atomic_load_explicit(&log->entries[handle].checksum, memory_order_relaxed);
}

static inline log_place log_place_now(const struct larder_log *log, uint64_t handle)
{
	return atomic_load_explicit(&log->entries[handle].place, memory_order_acquire);
}

static inline struct log_segment *log_segment_at(const struct larder_log *log, uint64_t offset)
{
	return &log->segments[offset / LOG_SEGMENT_BYTES];
}

/* The segment that is best to clean now, or LOG_NO_SEGMENT. */
int32_t log_victim(const struct larder_log *log, uint64_t now_ns);

/* An object has been copied from one place to another. Returns 1, or 0: it was dropped meanwhile. */
int log_move(struct larder_log *log, uint64_t handle, log_place from, uint64_t to_offset);

/* Free the segments that hold nothing any more. */
void log_free_empty(struct larder_log *log);

/* A free segment whose blocks can be given back to the filesystem, when there are more than `spare`; else
 * LOG_NO_SEGMENT. It counts as given back from now on. */
int32_t log_take_blocks(struct larder_log *log, uint32_t spare);

struct log_usage {
	uint64_t objects, live_bytes, occupied_bytes, metadata_bytes;
};

struct log_usage log_usage(const struct larder_log *log);

#endif
