/*
 * Core dumps that have everything: what was taken out comes back before the process is dumped.
 */
#ifndef LARDER_CORE_DUMP_H
#define LARDER_CORE_DUMP_H

struct larder_memory;
struct larder_reclaim;

/*
 * From now on a signal that ends the process with a core dump, and that the program does not handle itself, brings all
 * pages back first, whatever the limit. Once, before the program has threads.
 */
void core_dump_open(struct larder_memory *m, struct larder_reclaim *r);

#endif
