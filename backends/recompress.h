/*
 * Recompression: what has stayed in RAM for a while is compressed once more, at an effort that nobody could wait for
 * when the page was put. docs/compression.md has the figures behind each choice here.
 *
 * Pages of one heap resemble each other, and LZ4 sees 4 KiB at a time. So it gets a *dictionary*: 64 KiB of pages that
 * are in the store, evenly spread, which it treats as if they stood in front of each page; and it searches longer
 * (LZ4HC). Together they save a quarter to a third, for ten times the time of the first compression, and expanding
 * takes half a microsecond more. Either of them alone saves a twelfth.
 *
 * Age: an object is new; the sweep over all handles that meets it first marks it old; the next one recompresses what is
 * still there and old. Sweeps begin RECOMPRESS_SWEEP_NS apart at least, so what comes and goes costs nothing. An object
 * that gains less than a sixteenth stays as it is, and is not tried again.
 *
 * A dictionary has a number, which is in the tag of each object made with it (pack.h), and a count of those objects.
 * It never changes. When what it saves has become a quarter less than at first, the contents have changed: another one
 * is made, of what is to be recompressed at that time. Objects of one that few use any more are recompressed with the
 * current one. Without objects it is freed.
 *
 * Threads: one recompresses; others return at once. It shares the objects with whoever gets and drops them: it works on
 * a copy, and the result takes the place of the object if the bytes there are still the same, which says all that
 * matters (pack_replace()). A dictionary that an object names stays as long as the object does; the recompressing
 * thread alone frees dictionaries, so it can use those of objects that have gone meanwhile.
 */
#ifndef LARDER_RECOMPRESS_H
#define LARDER_RECOMPRESS_H

#include "pack.h"

enum {
	DICTIONARIES = 16, /* number 0 is none */
	DICTIONARY_BYTES = 64 << 10,
};

struct larder_dictionary {
	char *bytes; /* NULL: the number is free; the recompressing thread changes it, when nobody can look */
	uint32_t size;
	_Atomic uint64_t users; /* objects that name it */
};

struct larder_recompress_work;

struct larder_recompress {
	struct larder_dictionary dictionaries[DICTIONARIES];
	uint64_t enough_bytes, sweep_ns; /* constant: stored bytes for each dictionary at least; between sweeps */
	int is_patient;			 /* constant: works in idle time, if it may */

	struct larder_mutex running;   /* guards what follows; a leaf but for the pack's locks */
	const _Atomic uint32_t *hurry; /* of this call */
	unsigned current;	       /* number of the dictionary in use; 0: none */
	uint64_t hand;		       /* of the sweep: the next handle */
	uint64_t found;		       /* objects that this sweep has marked or tried */
	uint64_t begun_ns, rest_until_ns;
	uint64_t tried, before_bytes, after_bytes; /* of the last objects that were tried with the current dictionary */
	uint64_t first_share;		     /* after / before of the first of them, in 1/1024; 0: not yet known */
	struct larder_recompress_work *work; /* mapped while there is something to do */
	_Atomic uint64_t metadata_bytes;     /* dictionaries and work */
	_Atomic uint64_t recompressed;	     /* objects that have become smaller */
};

void recompress_open(struct larder_recompress *r);
void recompress_close(struct larder_recompress *r);

/* Recompress a few objects of p, in idle time if that is possible (backend.h: hurry). Returns in how many ns there is
 * more to do (1: at once); 0: not before something has been put. */
uint64_t recompress_some(struct larder_recompress *r, struct larder_pack *p, const _Atomic uint32_t *hurry);

/* The page of an object with this tag. Returns 0 or -EBADMSG. */
int recompress_expand(const struct larder_recompress *r, unsigned tag, const void *object, size_t bytes, void *page);

/* Does an object with this tag need a dictionary? */
int recompress_is_tagged(unsigned tag);

/* An object with this tag has been dropped. */
void recompress_dropped(struct larder_recompress *r, unsigned tag);

/* After a fork, in the child: p has been settled. */
void recompress_inherit(struct larder_recompress *r, const struct larder_pack *p);

#endif
