/*
 * Recompression: what has stayed in RAM for a while is compressed once more, at an effort that nobody could wait for
 * when the page was put: with the current dictionary (dictionary.h), and searching longer (LZ4HC). Together they save a
 * quarter to a third, for ten times the time of plain compression, and expanding takes half a microsecond more.
 * docs/compression.md has the figures behind each choice here.
 *
 * Age: an object is new; the sweep over all handles that meets it first marks it old; the next one recompresses what is
 * still there and old. Sweeps begin RECOMPRESS_SWEEP_NS apart at least, so what comes and goes costs nothing. An object
 * that gains less than a sixteenth stays as it is, and is not tried again.
 *
 * Dictionaries are made here: the first one as soon as enough is stored, since what is put is compressed with it. When
 * both together save a quarter less than at first, the contents have changed: another one is made, of what is to be
 * recompressed at that time. Objects of one that few use any more are recompressed with the current one. The number of
 * an object's dictionary is in its tag (pack.h).
 *
 * Threads: one recompresses; others return at once. It shares the objects with whoever gets and drops them: it works on
 * a copy, and the result takes the place of the object if the bytes there are still the same, which says all that
 * matters (pack_replace()). The recompressing thread alone frees dictionaries, so it can use those of objects that have
 * gone meanwhile.
 */
#ifndef LARDER_RECOMPRESS_H
#define LARDER_RECOMPRESS_H

#include "dictionary.h"
#include "pack.h"

struct larder_recompress_work;

struct larder_recompress {
	struct larder_dictionaries dictionaries;
	uint64_t enough_bytes, sweep_ns; /* constant: stored bytes for each dictionary at least; between sweeps */
	int is_patient;			 /* constant: works in idle time, if it may */

	struct larder_mutex running;   /* guards what follows; a leaf but for the pack's locks */
	const _Atomic uint32_t *hurry; /* of this call */
	uint64_t hand;		       /* of the sweep: the next handle */
	uint64_t found;		       /* objects that this sweep has marked or tried */
	uint64_t begun_ns, rest_until_ns;
	/* There was too little to make a dictionary of: not before, and not before something has been put. */
	uint64_t renew_at_ns;
	uint32_t renew_puts;
	/* Of the last objects that were tried with the current dictionary: plainly compressed, as they were, as they
	   are. */
	uint64_t tried, plain_bytes, before_bytes, after_bytes;
	uint64_t first_share;		     /* after / plain of the first of them, in 1/1024; 0: not yet known */
	struct larder_recompress_work *work; /* mapped while there is something to do */
	_Atomic uint64_t work_bytes;
	_Atomic uint64_t recompressed; /* objects that have become smaller */
};

void recompress_open(struct larder_recompress *r);
void recompress_close(struct larder_recompress *r);

/* Recompress a few objects of p, in idle time if that is possible (backend.h: hurry). Returns in how many ns there is
 * more to do (1: at once); 0: not before something has been put. */
uint64_t recompress_some(struct larder_recompress *r, struct larder_pack *p, const _Atomic uint32_t *hurry);

/* Make the first dictionary, if there is enough to make it of. */
void recompress_learn(struct larder_recompress *r, struct larder_pack *p);

/* The tag of a new object that was made with this dictionary, or without (NULL). */
unsigned recompress_tag(const struct larder_recompress *r, const struct larder_dictionary *dictionary);

/* The page of an object with this tag. Returns 0 or -EBADMSG. */
int recompress_expand(const struct larder_recompress *r, unsigned tag, const void *object, size_t bytes, void *page);

/* Does an object with this tag need a dictionary? */
int recompress_is_tagged(unsigned tag);

/* An object with this tag is put, or has been dropped. */
void recompress_put(struct larder_recompress *r, unsigned tag);
void recompress_dropped(struct larder_recompress *r, unsigned tag);

uint64_t recompress_metadata_bytes(const struct larder_recompress *r);

/* After a fork, in the child: p has been settled. */
void recompress_inherit(struct larder_recompress *r, const struct larder_pack *p);

#endif
