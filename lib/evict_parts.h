/*
 * What sweep.c and evict.c share: both end the eviction of a page that does not leave.
 */
#ifndef LARDER_EVICT_PARTS_H
#define LARDER_EVICT_PARTS_H

#include "evict.h"

/* End a page's move. Its copy on disk stays what it was, unless it is forgotten before. */
void evict_release(struct larder_memory *m, size_t index, uint64_t to);

/* An owned page is not tried again before some time, which doubles with each refusal in a row. */
void evict_hold(struct larder_page *page, unsigned refusals);

/* May pages of this chunk leave for a tier? */
int evict_may_take(const struct larder_memory *m, const struct larder_chunk *c, unsigned pool);

/* Sweep up to `end`, all in one chunk whose lock is held. */
void evict_sweep_chunk(struct larder_memory *m, struct evict_sweep *s, size_t end);

#endif
