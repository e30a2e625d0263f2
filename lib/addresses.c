/*
 * Free addresses. See addresses.h.
 */
#include "addresses.h"

#include "log.h"
#include "sys.h"

#include <stdint.h>

int addresses_open(struct larder_addresses *a)
{
	a->free = sys_map(ADDRESSES_MAX * sizeof(*a->free));
	a->count = 0;
	return a->free ? 0 : -ENOMEM;
}

/* The number of the first extent that ends beyond `page`. */
static size_t find(const struct larder_addresses *a, size_t page)
{
	size_t low = 0, high = a->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (a->free[middle].end <= page)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void insert(struct larder_addresses *a, size_t at, struct larder_extent extent)
{
	if (a->count == ADDRESSES_MAX)
		return;
	__builtin_memmove(a->free + at + 1, a->free + at, (a->count - at) * sizeof(*a->free));
	a->free[at] = extent;
	a->count++;
}

static void drop(struct larder_addresses *a, size_t at, size_t n)
{
	__builtin_memmove(a->free + at, a->free + at + n, (a->count - at - n) * sizeof(*a->free));
	a->count -= n;
}

void addresses_add(struct larder_addresses *a, size_t first, size_t end)
{
	size_t at = find(a, first);
	int joins_next, joins_last;

	larder_assert(at == a->count || a->free[at].first >= end);
	joins_next = at < a->count && a->free[at].first == end;
	joins_last = at > 0 && a->free[at - 1].end == first;
	if (joins_last && joins_next) {
		a->free[at - 1].end = a->free[at].end;
		drop(a, at, 1);
	} else if (joins_last) {
		a->free[at - 1].end = end;
	} else if (joins_next) {
		a->free[at].first = first;
	} else {
		insert(a, at, (struct larder_extent){ first, end });
	}
}

void addresses_take_range(struct larder_addresses *a, size_t first, size_t end)
{
	size_t at = find(a, first), n = 0;

	if (at < a->count && a->free[at].first < first) {
		size_t rest = a->free[at].end;

		a->free[at].end = first;
		at++;
		if (rest > end) {
			insert(a, at, (struct larder_extent){ end, rest });
			return;
		}
	}
	while (at + n < a->count && a->free[at + n].end <= end)
		n++;
	drop(a, at, n);
	if (at < a->count && a->free[at].first < end)
		a->free[at].first = end;
}

size_t addresses_take(struct larder_addresses *a, size_t pages, size_t alignment)
{
	for (size_t at = 0; at < a->count; at++) {
		size_t first = (a->free[at].first + alignment - 1) & ~(alignment - 1);

		if (first >= a->free[at].end || a->free[at].end - first < pages)
			continue;
		addresses_take_range(a, first, first + pages);
		return first;
	}
	return SIZE_MAX;
}

int addresses_are_free(const struct larder_addresses *a, size_t first, size_t end)
{
	size_t at = find(a, first);

	return at < a->count && a->free[at].first <= first && a->free[at].end >= end;
}

size_t addresses_next_taken(const struct larder_addresses *a, size_t first, size_t end, size_t *at)
{
	size_t next = find(a, first);

	if (next < a->count && a->free[next].first <= first)
		first = a->free[next++].end;
	if (next < a->count && a->free[next].first < end)
		end = a->free[next].first;
	*at = first;
	return first < end ? end - first : 0;
}
