/*
 * Resolve: what to do about one fault, whoever serves it: a handler (fault.h) or the thread that raised it (sigbus.h).
 */
#ifndef LARDER_RESOLVE_H
#define LARDER_RESOLVE_H

#include "restore.h"

enum resolve_outcome {
	RESOLVE_DONE,	 /* the page is resident, or the thread will find out why not when it tries again */
	RESOLVE_AGAIN,	 /* the page changed meanwhile */
	RESOLVE_BUSY,	 /* somebody owns it */
	RESOLVE_READING, /* it is being read from disk: the page is busy until then */
	RESOLVE_FULL,	 /* as many pages are being read as can be */
	RESOLVE_PUT_OFF, /* it would add a page while the cost is well above a limit */
	RESOLVE_TRAPPED, /* purged while volatile, and a touch must not read zeroes */
	RESOLVE_POISONED /* lost */
};

/* All of [first, first + pages) is about to be touched, from its start to its end: a hint, for few faults. Any thread.
 */
void resolve_expect(struct larder_memory *m, size_t first, size_t pages);

/* written: the page is going to be written to. */
enum resolve_outcome resolve(struct larder_memory *m, struct larder_restorer *w, size_t index, int written);

#endif
