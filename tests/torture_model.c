/*
 * torture: contents and objects. A token stands for a content: words that follow from it and from their place. Most
 * compress, some are one repeated word, some do not compress.
 */
#include "torture.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct worker workers[WORKERS];
unsigned nworkers = 3;
uint64_t seed;
_Atomic int stop;

size_t draw(struct worker *w, size_t below)
{
	return mix(w->random++) % below;
}

uint64_t draw_token(struct worker *w)
{
	return mix(w->random++) | 1;
}

uint64_t token_word(uint64_t token, size_t i)
{
	if (token == 0)
		return 0;
	switch (token >> 1 & 31) {
	case 0:
		return mix(token ^ i << 32);
	case 1 ... 3:
		return token;
	default:
		return (mix(token) & ~(uint64_t)0xffff) | ((i / 32 + 1) & 0xffff);
	}
}

uint64_t file_token(unsigned page)
{
	return mix(seed ^ 0xf11e ^ page) | 1;
}

void fail(const struct worker *w, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	dprintf(STDERR_FILENO,
		"torture: process %d, thread %u at fork depth %u, operation %" PRIu64 " (%s): %s\n"
		"torture: replay with --seed 0x%" PRIx64 " --threads %u\n",
		(int)getpid(), w->id, w->depth, w->operations, w->slot ? w->slot->doing : "-", text, seed, nworkers);
	_exit(1);
}

void fill_words(void *at, uint64_t token, size_t first, size_t words)
{
	for (size_t i = 0; i < words; i++)
		((volatile uint64_t *)at)[i] = token_word(token, first + i);
}

/* `at` is where word `first` is. */
void check_words(const struct worker *w, const void *at, uint64_t token, size_t first, size_t words, const char *what)
{
	const volatile uint64_t *got = at;
	size_t wrong = 0, zeroes = 0, at_word = 0;
	uint64_t seen = 0;

	for (size_t i = 0; i < words; i++) {
		uint64_t word = got[i];

		if (word == token_word(token, first + i))
			continue;
		if (wrong++ == 0) {
			at_word = first + i;
			seen = word;
		}
		zeroes += word == 0;
	}
	if (wrong)
		fail(w, "%s at %p: word %zu is 0x%" PRIx64 ", not 0x%" PRIx64 "; %zu of %zu words are wrong, %zu zero",
		     what, at, at_word, seen, token_word(token, at_word), wrong, words, zeroes);
}

/* ---- objects ---- */

struct object *new_object(struct worker *w)
{
	for (int i = 0; i < OBJECTS; i++)
		if (w->objects[i].kind == NOTHING)
			return &w->objects[i];
	return NULL;
}

unsigned free_objects(const struct worker *w)
{
	unsigned count = 0;

	for (int i = 0; i < OBJECTS; i++)
		count += w->objects[i].kind == NOTHING;
	return count;
}

struct object *draw_object(struct worker *w, enum kind kind)
{
	size_t start = draw(w, OBJECTS);

	for (size_t i = 0; i < OBJECTS; i++) {
		struct object *o = &w->objects[(start + i) % OBJECTS];

		if (o->kind == kind)
			return o;
	}
	return NULL;
}

static void count_away_of(struct worker *w, const struct object *o)
{
	size_t npages = o->kind == HEAP ? o->bytes / PAGE : o->npages;

	for (size_t i = 0; i < npages; i++)
		if (o->kind == HEAP || (o->pages[i].token && !o->pages[i].file && !(o->pages[i].flags & MAYBE_FREED))) {
			w->content_pages++;
			w->away_pages += !present_pages(o->at + i * PAGE, 1);
		}
}

void count_away(struct worker *w)
{
	for (int i = 0; i < OBJECTS; i++)
		if (w->objects[i].kind != NOTHING)
			count_away_of(w, &w->objects[i]);
}

void check_all_objects(struct worker *w)
{
	for (int i = 0; i < OBJECTS; i++) {
		struct object *o = &w->objects[i];

		if (o->kind == HEAP)
			heap_check(w, o);
		else if (o->kind == MAPPING)
			map_check(w, o);
	}
}
