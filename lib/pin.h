/*
 * Pins: pages that neither leave nor are purged. The caller makes them resident.
 */
#ifndef LARDER_PIN_H
#define LARDER_PIN_H

#include "span.h"

/* Of page ranges. See larder_pin() and larder_unpin(). */
int pin_pages(struct larder_memory *m, struct span span);
int unpin_pages(struct larder_memory *m, struct span span);

/* Of the pages that objects lie in. */
int pin_objects(struct larder_memory *m, struct span span);
int unpin_objects(struct larder_memory *m, struct span span);
int objects_are_pinned(struct larder_memory *m, struct span span);

/* Is anything of the pool pinned? */
int pool_is_pinned(struct larder_memory *m, unsigned pool);

#endif
