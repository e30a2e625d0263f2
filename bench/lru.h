/*
 * A list of numbered things in the order of their last use: links in an array, no memory of the things themselves.
 */
#ifndef BENCH_LRU_H
#define BENCH_LRU_H

#include <stddef.h>
#include <stdint.h>

#define LRU_NONE UINT32_MAX

struct lru_link {
	uint32_t newer, older; /* LRU_NONE: at that end */
};

struct lru {
	struct lru_link *links;
	uint32_t newest, oldest, count;
};

/* Empty, for things 0 .. n-1. Exits with 2 when there is no memory. */
void lru_open(struct lru *l, uint32_t n);

/* Give back the links of lru_open(l, n). */
void lru_close(struct lru *l, uint32_t n);

/* A thing that is not in the list becomes the newest. */
void lru_add(struct lru *l, uint32_t thing);

/* Take a thing out that is in the list. */
void lru_remove(struct lru *l, uint32_t thing);

/* A thing in the list becomes the newest. */
void lru_use(struct lru *l, uint32_t thing);

/* RAM for the links. */
size_t lru_bytes(uint32_t n);

#endif
