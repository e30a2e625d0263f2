/*
 * Little but malloc, realloc and free: the worst case for what Larder adds to an allocator.
 *
 * Each thread keeps SLOTS objects, replaces, grows and frees them at random, and writes to what it gets. Most are
 * small, some take pages, a few take megabytes. The work is the same for the same number of operations, and the sum of
 * what was read back says so.
 */
#include "job.h"
#include "random.h"

#include <err.h>
#include <pthread.h>
#include <stdlib.h>

enum { SLOTS = 200000, THREADS_MAX = 64, TELL_EVERY = 1 << 16 };

struct slot {
	unsigned char *object;
	size_t bytes;
};

struct churner {
	pthread_t thread;
	struct turn *turn;
	unsigned number;
	long operations;
	struct slot *slots;
	uint64_t sum;
};

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

/* An object's last byte is that of its last writing; a shorter one's may be any that was written. */
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

static void *churn(void *arg)
{
	struct churner *c = arg;
	struct random r = { random_mix(c->number + 1) };

	c->slots = calloc(SLOTS, sizeof(*c->slots));
	if (!c->slots)
		err(2, "no memory");
	for (long i = 0; i < c->operations; i++) {
		c->sum = c->sum * 31 + step(&c->slots[random_below(&r, SLOTS)], &r);
		if (c->number == 0 && i % TELL_EVERY == 0)
			atomic_store(&c->turn->done, (double)i / (double)c->operations);
	}
	return NULL;
}

/* The sum is the one figure that a job tells: it must be the same for all contenders. */
int job_churn(struct turn *t, int argc, char **argv)
{
	static struct churner churners[THREADS_MAX];
	long operations = atol(argv[0]), threads = atol(argv[1]);
	uint64_t sum = 0;

	if (argc != 2 || operations < 1 || threads < 1 || threads > THREADS_MAX)
		errx(2, "churn OPERATIONS THREADS");
	for (long i = 0; i < threads; i++) {
		churners[i] = (struct churner){ .turn = t, .number = (unsigned)i, .operations = operations / threads };
		if (pthread_create(&churners[i].thread, NULL, churn, &churners[i]))
			errx(2, "cannot create a thread");
	}
	for (long i = 0; i < threads; i++) {
		pthread_join(churners[i].thread, NULL);
		sum = sum * 31 + churners[i].sum;
	}
	t->figures[0] = (double)(sum >> 11); /* exact in a double */
	return 0;
}
