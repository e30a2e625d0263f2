/*
 * A program that does little but malloc, realloc and free: the worst case for what Larder adds to an allocator. For
 * overhead.sh.
 *
 * It keeps SLOTS objects, replaces, grows and frees them at random, and writes to what it gets. Most are small, some
 * take pages, a few take megabytes. The work is the same for the same number of operations; the sum printed proves it.
 */
#include "random.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 200000, DEFAULT_MILLIONS = 8 };

static struct slot {
	unsigned char *object;
	size_t bytes;
} slots[SLOTS];

/* 16 B to 1 KiB nine hundred times in a thousand, to 16 KiB nearly always, now and then to 2 MiB. */
static size_t draw_bytes(struct random *r)
{
	uint32_t draw = random_below(r, 10000);

	if (draw < 9000)
		return 16 + random_below(r, 1008);
	if (draw < 9998)
		return 1024 + random_below(r, 15360);
	return 65536 + random_below(r, 2 << 20);
}

/* A byte in each 512, and the last: an object is used at least that much. */
static void write_to(struct slot *s, unsigned char value)
{
	for (size_t at = 0; at < s->bytes; at += 512)
		s->object[at] = value;
	s->object[s->bytes - 1] = value;
}

static void resize(struct slot *s, size_t bytes)
{
	unsigned char *object = realloc(s->object, bytes);

	if (!object)
		err(2, "no memory");
	*s = (struct slot){ object, bytes };
}

static void replace(struct slot *s, size_t bytes)
{
	free(s->object);
	*s = (struct slot){ 0 };
	resize(s, bytes);
}

static uint64_t step(struct slot *s, struct random *r)
{
	uint64_t seen = s->object ? s->object[s->bytes - 1] : 0;
	uint32_t draw = random_below(r, 10);

	if (draw < 6)
		replace(s, draw_bytes(r));
	else if (draw < 8)
		resize(s, draw_bytes(r));
	else {
		free(s->object);
		*s = (struct slot){ 0 };
		return seen;
	}
	write_to(s, (unsigned char)draw_bytes(r));
	return seen;
}

int main(int argc, char **argv)
{
	long millions = argc > 1 ? atol(argv[1]) : DEFAULT_MILLIONS;
	struct random r = { 1 };
	uint64_t sum = 0;

	if (argc > 2 || millions < 1)
		errx(2, "usage: %s [MILLIONS OF OPERATIONS]", argv[0]);
	for (long i = 0; i < millions * 1000000; i++)
		sum = sum * 31 + step(&slots[random_below(&r, SLOTS)], &r);
	printf("%016llx\n", (unsigned long long)sum);
	return 0;
}
