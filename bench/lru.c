#include "lru.h"

#include <err.h>
#include <sys/mman.h>

size_t lru_bytes(uint32_t n)
{
	return n * sizeof(struct lru_link);
}

/* Not malloc's memory, which one of the contenders has managed. */
void lru_open(struct lru *l, uint32_t n)
{
	void *p = mmap(NULL, lru_bytes(n), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		err(2, "no memory");
	*l = (struct lru){ .links = p, .newest = LRU_NONE, .oldest = LRU_NONE };
}

void lru_close(struct lru *l, uint32_t n)
{
	munmap(l->links, lru_bytes(n));
}

void lru_add(struct lru *l, uint32_t thing)
{
	l->links[thing] = (struct lru_link){ .newer = LRU_NONE, .older = l->newest };
	if (l->newest == LRU_NONE)
		l->oldest = thing;
	else
		l->links[l->newest].newer = thing;
	l->newest = thing;
	l->count++;
}

void lru_remove(struct lru *l, uint32_t thing)
{
	struct lru_link link = l->links[thing];

	if (link.newer == LRU_NONE)
		l->newest = link.older;
	else
		l->links[link.newer].older = link.older;
	if (link.older == LRU_NONE)
		l->oldest = link.newer;
	else
		l->links[link.older].newer = link.newer;
	l->count--;
}

void lru_use(struct lru *l, uint32_t thing)
{
	if (l->newest == thing)
		return;
	lru_remove(l, thing);
	lru_add(l, thing);
}
