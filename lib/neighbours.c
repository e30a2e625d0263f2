/*
 * Neighbours. See neighbours.h.
 */
#include "neighbours.h"

/* Pages of a group; one group in SAMPLE is of the sample. */
enum { GROUP_PAGES = 8, SAMPLE = 8 };

/*
 * Groups of the sample that were read are remembered until about NEIGHBOURS_LATELY others were: 2048 reads of all.
 * Where so little memory is resident that pages are hardly there for longer, one group in four has to be wanted again;
 * measured with Redis at a third of its memory, where it is one in six and neighbours are a tenth of the CPU time.
 */
enum { ENOUGH = SHARE_ALL / 4 };

/* An average over about the last 32 pages; at first all are taken to pay. */
enum { WEIGHT_SHIFT = 5 };

/* By the finalizer of splitmix64: groups that follow each other are as good as random. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

int neighbours_pay(struct larder_neighbours *n, size_t index)
{
	uint64_t group = index / GROUP_PAGES, hash = mix(group + 1), before;

	if (hash % SAMPLE)
		return share_of(&n->useless) <= SHARE_ALL - ENOUGH;
	before = atomic_exchange_explicit(&n->lately[hash / SAMPLE % NEIGHBOURS_LATELY], index + 1,
					  memory_order_relaxed);
	share_count(&n->useless, !(before && before != index + 1 && (before - 1) / GROUP_PAGES == group), WEIGHT_SHIFT);
	return 0;
}
