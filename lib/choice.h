/*
 * Choice: of many candidates that are shown one by one, the few that go first.
 *
 * A heap with the one that goes last on top, so that a better candidate takes its place; sorted when all have been
 * shown.
 */
#ifndef LARDER_CHOICE_H
#define LARDER_CHOICE_H

#include <stdint.h>

enum { CHOICE_MAX = 4096 };

struct larder_candidate {
	uint64_t rank, key, age; /* compared in this order: the smallest goes first */
	uint64_t what;		 /* compared last, so that the order never depends on that of showing */
	void *where;
};

struct larder_choice {
	uint32_t count, capacity;
	uint32_t more; /* 1: there were more than are kept */
	struct larder_candidate kept[CHOICE_MAX];
};

static inline int choice_goes_before(const struct larder_candidate *a, const struct larder_candidate *b)
{
	if (a->rank != b->rank)
		return a->rank < b->rank;
	if (a->key != b->key)
		return a->key < b->key;
	if (a->age != b->age)
		return a->age < b->age;
	return a->what < b->what;
}

static inline void choice_swap(struct larder_candidate *a, struct larder_candidate *b)
{
	struct larder_candidate t = *a;

	*a = *b;
	*b = t;
}

static inline void choice_sift_down(struct larder_candidate *heap, uint32_t count, uint32_t i)
{
	for (uint32_t child = 2 * i + 1; child < count; i = child, child = 2 * i + 1) {
		if (child + 1 < count && choice_goes_before(&heap[child], &heap[child + 1]))
			child++;
		if (!choice_goes_before(&heap[i], &heap[child]))
			return;
		choice_swap(&heap[i], &heap[child]);
	}
}

static inline void choice_sift_up(struct larder_candidate *heap, uint32_t i)
{
	for (; i > 0 && choice_goes_before(&heap[(i - 1) / 2], &heap[i]); i = (i - 1) / 2)
		choice_swap(&heap[(i - 1) / 2], &heap[i]);
}

/* Begin: keep `most` candidates, CHOICE_MAX at most. */
static inline void choice_begin(struct larder_choice *c, uint64_t most)
{
	c->count = 0;
	c->more = 0;
	c->capacity = most < CHOICE_MAX ? (uint32_t)most : CHOICE_MAX;
}

static inline void choice_show(struct larder_choice *c, const struct larder_candidate *candidate)
{
	if (c->count < c->capacity) {
		c->kept[c->count] = *candidate;
		choice_sift_up(c->kept, c->count++);
		return;
	}
	c->more = 1;
	if (choice_goes_before(candidate, &c->kept[0])) {
		c->kept[0] = *candidate;
		choice_sift_down(c->kept, c->count, 0);
	}
}

/* All have been shown: kept[0 .. count) is in the order of going. */
static inline void choice_end(struct larder_choice *c)
{
	for (uint32_t n = c->count; n > 1; n--) {
		choice_swap(&c->kept[0], &c->kept[n - 1]);
		choice_sift_down(c->kept, n - 1, 0);
	}
}

#endif
