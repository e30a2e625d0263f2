/*
 * What `bench fault` and `bench reclaim` compare: who keeps the pages of a buffer elsewhere, behind one interface.
 *
 * A contender lives in a process of its own, so each keeps its state in static variables. Everything that fails ends
 * the process with 2 and a message.
 */
#ifndef BENCH_CONTENDER_H
#define BENCH_CONTENDER_H

#include "contents.h"
#include "peer.h"

#include <stddef.h>
#include <stdint.h>

enum { CONTENDER_PAGE_BYTES = 4096 };

struct contender_setup {
	enum contents contents;
	size_t bytes;	      /* of the buffer */
	uint64_t limit_bytes; /* of RAM in total; 0 = none: pages leave when they are told to */
	const struct peer *peer;
	const char *disk_dir; /* where a tier on disk may be; NULL = none */
	int encrypts;	      /* what goes there */
};

/* What a contender holds when pages are out. NAN where it does not say. */
struct contender_stats {
	double held_bytes;     /* RAM that it takes for them, tables included */
	double content_bytes;  /* the pages' size */
	double metadata_bytes; /* of held_bytes, tables */
	double density;	       /* of the space for compressed pages, how much is them */
	double written_bytes;  /* to disk, so far */
};

enum contender_kind {
	CONTENDER_PEER, /* what one would use instead of Larder: others are compared with it */
	CONTENDER_LARDER,
	CONTENDER_BOUND /* what the machine can do at best; nobody's alternative */
};

struct contender {
	const char *name, *what;
	enum contender_kind kind;
	/* Keeps the pages and as much again for what becomes of them, all in RAM, whatever the limit. */
	int has_two_buffers;
	/* Start, and return the buffer of s->bytes. */
	char *(*open)(const struct contender_setup *s);
	/* Take everything in the buffer out; returns when its RAM is free, and until when the call took, in seconds. */
	double (*out)(void);
	void (*settle)(void);	    /* NULL, or wait until what is out has become as small as it does by itself */
	void (*touch)(size_t page); /* NULL: touching the buffer is what brings a page back */
	void (*bring_back)(void);   /* NULL, or so that the buffer can be compared */
	void (*stats)(struct contender_stats *);
};

extern const struct contender contender_kernel, contender_handlers, contender_inline, contender_lz4, contender_memcpy,
	contender_ram;

/* The disk itself, which has no pages: what it is called. Its figures are fio's (fio.h). */
extern const struct contender contender_fio;

/* Pages of the buffer that are in this process's mapping, as /proc/self/pagemap says, which knows all contenders. */
size_t contender_present_pages(const char *buffer, size_t bytes);

/* Plain anonymous memory without huge pages: a fault brings its page only. */
char *contender_map(size_t bytes);

#endif
