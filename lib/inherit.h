/*
 * Inherit: what a forked child does with the managed memory that it has from its parent.
 *
 * While a process forks, its reclaim thread rests: no page leaves, nothing in the store is put, moved or dropped
 * (store_freeze()). But its handlers go on, since the thread that forks, and threads that it waits for, may fault at
 * any time. So the child gets the pages, the table of pages and the store as they were at moments that differ a little,
 * and none of the parent's internal threads. Two things make that sufficient:
 *
 *  - Restoring a page only adds: the content is in the mapping before the table says so, and stays in the store until
 *    the thaw. So a page that is present in the child's mapping has its newest content there, whatever the table says;
 *    and of one that is absent, the holder that the table names has it, busy or not.
 *  - Discarding takes away, and could make a page absent that the table still says to be stored. But the table lies
 *    above the pages (region.c), so it is copied after them, and from when they are copied nobody can discard any.
 *
 * The child then has what nobody names (objects of pages that came back, batches on their way to disk) dropped, and
 * starts internal threads of its own. Where it cannot, it brings everything back and is plain memory from then on.
 */
#ifndef LARDER_INHERIT_H
#define LARDER_INHERIT_H

#include "memory.h"

/* Make the inherited memory consistent. keep_disk = 0: the tier on disk is not the child's; nothing is in it. Forked
 * child, before it has other threads. */
void inherit(struct larder_memory *m, int keep_disk);

/* There will be no internal threads: bring every page back, into mappings that are registered with nothing. What cannot
 * be restored becomes inaccessible: a touch raises SIGSEGV. disk_fd: of the disk, if there is one. */
void inherit_restore(struct larder_memory *m, int disk_fd);

#endif
