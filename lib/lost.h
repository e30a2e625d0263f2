/*
 * Lost pages: what is known of them, what a touch of them does, and what calls say of them. Shard locked, all of it.
 */
#ifndef LARDER_LOST_H
#define LARDER_LOST_H

#include "span.h"

/* The statistics of a segment's priority. */
struct larder_volatile_stats *lost_stats(struct larder_shard *shard, const struct larder_segment *s);

/* A volatile segment begins (sign 1) or ends (-1) to count. */
void lost_account(struct larder_shard *shard, const struct larder_segment *s, int sign);

/* LARDER_INTACT or LARDER_PURGED was the answer to a pin or to the end of volatility. */
void lost_count_answer(struct larder_shard *shard, const struct larder_segment *s, int answer);

/* A volatile segment has been used: it goes later. */
void lost_use(struct larder_memory *m, unsigned pool, struct larder_segment *s);

/* Pages of a segment are not lost any more. */
void lost_clear(struct larder_memory *m, struct larder_shard *shard, struct larder_segment *s, size_t first,
		size_t pages);

/* Does a touch of the segment's lost pages do anything but read zeroes, while it is volatile? */
int lost_is_trapped(const struct larder_segment *s);

/* The segment is volatile again while pages of it are lost: what its owner left in them is worth nothing, and touches
 * are trapped, if they are to be. */
void lost_trap(struct larder_memory *m, const struct larder_segment *s);

/* Lost pages of the segment read as zeroes from now on. A handler may be about to raise SIGBUS for one. */
void lost_untrap(struct larder_memory *m, const struct larder_segment *s);

/*
 * What a call tells its caller of each page is taken down under the lock and written when it is released: the caller's
 * buffer may be absent, and whoever brings it back may wait for reclaim, or in its SIGBUS handler for this very lock.
 */
enum { NOTES_FEW_WORDS = 65 };

struct notes {
	uint64_t few[NOTES_FEW_WORDS]; /* for 4096 pages, however they lie */
	uint64_t *words;	       /* the LOST bits of the words that hold the span; NULL = nobody wants to know */
};

/* Returns 0 or -ENOMEM. Without a lock. */
int notes_open(struct notes *notes, struct span span, int wanted);
void notes_close(struct notes *notes, struct span span);

/* Write them down for the caller: one byte a page. Without a lock. */
void notes_tell(const struct notes *notes, struct span span, unsigned char *lost);

/* Which pages of a locked span are lost. Returns LARDER_INTACT or LARDER_PURGED. */
int lost_report(const struct larder_memory *m, struct span span, struct notes *notes);

#endif
