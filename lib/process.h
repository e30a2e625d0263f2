/*
 * The process under Larder: one managed memory, its internal threads, and what ties them to the program's life.
 */
#ifndef LARDER_PROCESS_H
#define LARDER_PROCESS_H

#include "arena.h"

#include <larder/larder.h>

/* The allocator to manage is passed in by whoever was loaded: liblarder.so or the preload object. See larder_start(). */
int process_start(const struct larder_options *options, const struct arena_allocator *allocator);

/* 1 when process_start() has succeeded in this process, and it is not a forked child. */
int process_is_managed(void);

/* madvise(2) for the program: 1 and the result in *result when the advice concerned managed memory and is done, else 0. */
int process_advise(void *addr, size_t bytes, int advice, int *result);

int64_t process_reclaim(uint64_t bytes);
int process_get_stats(struct larder_stats *to);

/* Around fork: before it, then after it in the parent and in the child. */
void process_before_fork(void);
void process_after_fork_parent(void);
void process_after_fork_child(void);

/* Check the page table against its invariants; panics. No other thread may use managed memory. For tests. */
void process_check(void);

#endif
