/*
 * The process under Larder: one managed memory, its internal threads, and what ties them to the program's life.
 */
#ifndef LARDER_PROCESS_H
#define LARDER_PROCESS_H

#include "arena.h"
#include "backend.h"

#include <larder/larder.h>

struct larder_service;

struct process_setup {
	const struct larder_options *options;	       /* NULL = no limit */
	const struct arena_allocator *allocator;       /* the jemalloc of this process */
	const struct larder_backend_ops *const *tiers; /* NULL = lz4 */
	unsigned ntiers;
	int manages_mappings;	      /* the program's calls of mmap() and the like come to mapping.h */
	const struct disk_seam *seam; /* tests: makes the disk fail (disk.h) */
};

/* See larder_start() for what it returns. */
int process_start(const struct process_setup *setup);

/* 1 when process_start() has succeeded in this process, or in its parent before it forked. */
int process_is_managed(void);

/* madvise(2) for the program: 1 and the result in *result when the advice concerned managed memory and is done, else 0.
 */
int process_advise(void *addr, size_t bytes, int advice, int *result);

/* The service, once it has been started; in a forked child too. Else NULL. */
struct larder_service *process_service(void);

/*
 * From now on volatile memory goes when memory is short outside the process, too. Programs that have none are spared
 * the thread. Called when the first pool is made and when shared memory is first used; does nothing the second time.
 */
void process_watch_system(void);

int process_get_stats(struct larder_stats *to);

/* After a fork, in the child, before it touches managed memory: the service begins anew there (fork.h). lent:
 * see service.h. */
void process_inherit(const int lent[LARDER_LENT]);

/* Check the page table against its invariants; panics. No other thread may use managed memory. For tests. */
void process_check(void);

#endif
