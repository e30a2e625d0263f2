/*
 * Compress: what staged pages become before a tier takes them, made by several threads at once.
 *
 * Compressing is half of what it costs to evict a page, and it needs nothing but the page, which stays in its slot
 * until the reclaim thread has been there. So the slots next to be written out are offered to anybody who has time: a
 * compressor claims one slot after the other; the reclaim thread, when it comes to a slot that nobody has claimed,
 * does it itself, and while it has to wait for one that is claimed, does others. Where no CPU is free it so does
 * nearly all, as if it were alone.
 *
 *     tail ......... cursor ... claimed ......... end ............ head
 *      written out     |  compressed   |  offered   |   staged only
 *
 * While nothing is offered, the first compressor makes smaller what is stored already (backend.h: recompress).
 *
 * Slots are claimed in order, COMPRESS_AHEAD of them at most are ahead of the cursor, and the cursor does not pass one
 * that is being compressed: so an entry is free when its turn comes again, and no slot is emptied while it is read.
 */
#ifndef LARDER_COMPRESS_H
#define LARDER_COMPRESS_H

#include "codec.h"
#include "futex.h"

#include <stdatomic.h>

struct larder_memory;

/* Two keep up with all else that the reclaim thread has to do for a page. */
enum { COMPRESSORS_MAX = 2, COMPRESS_AHEAD = 128 };

/*
 * After so many pages, some tens of microseconds, whoever compresses them offers its CPU to others. The scheduler of
 * Linux lets a thread that wakes wait for the end of another's slice if it has had a little more than its share, and so
 * a fault, or the handler that serves it, waited 1.4 ms. When nobody wants the CPU an offer costs less than one.
 */
enum { COMPRESS_YIELD_PAGES = 8 };

/* An object made ahead; of positions that are equal modulo COMPRESS_AHEAD. */
struct larder_compressed {
	_Atomic uint64_t done; /* the position that this is of, plus one; whoever claimed it stores it last */
	uint64_t checksum;     /* of the page, if it is of use */
	uint32_t size;	       /* of the object; LARDER_PAGE_BYTES: it is the page; 0: not made */
	uint32_t is_summed;    /* the checksum has been made */
	struct larder_dictionary *dictionary; /* of the object; held until the entry is used again. NULL: none */
	char bytes[CODEC_MOST_BYTES];
};

struct larder_compressor {
	struct larder_memory *memory;
	int tid;
	_Atomic uint64_t off_cpus; /* see watch_keep_off() */
	LZ4_stream_t lz4;
};

struct larder_compress {
	struct larder_compressed *ahead; /* [COMPRESS_AHEAD] */
	_Atomic uint64_t claimed;	 /* positions below are somebody's, or done */
	_Atomic uint64_t end;		 /* positions below may be claimed; the reclaim thread stores it */
	_Atomic uint32_t asleep;	 /* 1: a compressor sleeps until `wanted` is posted */
	struct larder_event wanted;
	struct larder_compressor *compressors; /* [COMPRESSORS_MAX] */
	unsigned started;

	/* The reclaim thread's. */
	LZ4_stream_t lz4;
	char bytes[CODEC_MOST_BYTES];
};

/* Map what is needed. Returns 0 or -ENOMEM. */
int compress_open(struct larder_compress *c);
void compress_close(struct larder_compress *c);

/* Start compressors, one for each CPU but one. None, if there is no thread to be had, is no error. Reclaim thread. */
void compress_start(struct larder_memory *m);

/* The life of a compressor (struct larder_compressor *); does not return. */
void compress_run(void *compressor);

/* After a fork, in the child, which has no compressors: nothing from `cursor` on has been compressed. */
void compress_inherit(struct larder_compress *c, uint64_t cursor);

/* RAM that it takes. */
uint64_t compress_cost_bytes(const struct larder_compress *c);

/* Have the slots at the cursor compressed. Returns when that at the cursor is, if it is used. Reclaim thread. */
void compress_ahead(struct larder_memory *m);

/* The checksum of the page in a slot at or behind the cursor. There is a disk. Reclaim thread. */
uint64_t compress_checksum(const struct larder_memory *m, uint64_t position);

/* The object of a slot at or behind the cursor, without its checksum; valid until the next call. Reclaim thread. */
struct larder_object compress_object(struct larder_memory *m, uint64_t position);

#endif
