/*
 * Swap out: pages go to disk, in batches that are written while reclaim goes on.
 *
 * A page that is on its way stays where it is until the batch is on disk: in its staging slot, or compressed in RAM. So
 * a batch that fails, or takes for ever, costs nothing but time; and a page that is touched meanwhile comes back from
 * RAM. What says that it is still the same content when the batch is there is a ticket, which no other object has: it
 * stands in the slot's entry (staging.h: writing) or in the page's word (page_ticket()), and goes when the page does.
 * (The number of the batch would not do: a page that is touched, changed and sent again may be in one batch twice.)
 *
 * What is compressed in RAM goes on in order of age (age.h), as exactly as going over the page table allows: pages that
 * were compressed one after the other are a generation, and while there are pages of the oldest one no others go.
 *
 * Reclaim thread only.
 */
#ifndef LARDER_SWAP_OUT_H
#define LARDER_SWAP_OUT_H

#include "codec.h"
#include "restore.h"

struct larder_swap_out {
	struct larder_batch *batch; /* being filled; NULL = none */
	uint32_t next_ticket;
	size_t hand;   /* demotion goes on from this page */
	size_t passed; /* pages that the hand has gone over looking for the oldest generation */
	char object[LARDER_OBJECT_MAX_BYTES], page[LARDER_PAGE_BYTES]; /* on the way from RAM to disk */
};

/*
 * Send the object of a staged page to disk; in its slot it is marked as being written. Returns 0; -EBUSY: as much is
 * being written as can be, try again when something is done; another negative errno: not now.
 */
int swap_out_staged(struct larder_memory *m, struct larder_swap_out *so, void *scratch, size_t index, uint32_t slot,
		    const struct larder_object *object);

/*
 * Send up to `want` pages that are compressed in RAM on to disk, of one pool or (REGION_HEAP) of all, the oldest
 * generation first. Returns how many were sent; *err says why not more: 0:
 * there are no more; else as for swap_out_staged().
 */
size_t swap_out_demote(struct larder_memory *m, struct larder_swap_out *so, void *scratch, unsigned pool, size_t want,
		       int *err);

/* Settle what has been written. Returns the pages that are on disk now and were not. */
size_t swap_out_settle(struct larder_memory *m, void *scratch);

/* Write the batch that is being filled, full or not. */
void swap_out_flush(struct larder_memory *m, struct larder_swap_out *so, void *scratch);

/* Is anything being written? */
int swap_out_is_busy(const struct larder_memory *m, const struct larder_swap_out *so);

/* Sleep until something has been written, or the event is not `seen` any more, or timeout_ns is over. */
void swap_out_wait(struct larder_memory *m, void *scratch, struct larder_event *event, uint32_t seen,
		   uint64_t timeout_ns);

/* A page is about to become something else than its copy on disk: forget the copy. The page's word, which the caller
 * owns or is going to change, must not say COPY any more. */
void swap_out_forget_copy(struct larder_memory *m, size_t index);

/* Drop the copy of a page that is resident, or compressed in RAM, and has one. Returns 1 when it had. */
int swap_out_drop_copy(struct larder_memory *m, size_t index);

/* Drop copies of up to `want` such pages, to make room on disk. Returns how many. */
size_t swap_out_drop_copies(struct larder_memory *m, size_t *hand, size_t want);

#endif
