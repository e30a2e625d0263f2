/*
 * torture: malloc and its family.
 */
#include "torture.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

static size_t pages_of(size_t bytes)
{
	return (bytes + PAGE - 1) / PAGE;
}

/* Small ones often, up to 1 MiB. */
static size_t draw_bytes(struct worker *w)
{
	size_t most = (size_t)1 << (4 + draw(w, 17));

	return (8 + draw(w, most)) & ~(size_t)7;
}

void heap_check(struct worker *w, const struct object *o)
{
	note(w->slot, "checks heap memory");
	check_words(w, o->at, o->token, 0, o->bytes / 8, "heap memory");
}

void heap_drop(struct worker *w, struct object *o)
{
	free(o->at);
	w->used_pages -= pages_of(o->bytes);
	o->kind = NOTHING;
}

static void *draw_way_to_allocate(struct worker *w, size_t bytes)
{
	void *p = NULL;

	switch (draw(w, 4)) {
	case 0:
		p = calloc(1, bytes);
		EXPECT(w, p != NULL);
		check_words(w, p, 0, 0, bytes / 8, "calloc's memory");
		break;
	case 1:
		EXPECT(w, posix_memalign(&p, (size_t)16 << draw(w, 10), bytes) == 0);
		break;
	default:
		p = malloc(bytes);
	}
	EXPECT(w, p != NULL && malloc_usable_size(p) >= bytes);
	return p;
}

static void make(struct worker *w)
{
	struct object *o = new_object(w);

	EXPECT(w, o != NULL);
	note(w->slot, "allocates");
	o->bytes = draw_bytes(w);
	o->token = draw_token(w);
	o->at = draw_way_to_allocate(w, o->bytes);
	o->kind = HEAP;
	fill_words(o->at, o->token, 0, o->bytes / 8);
	w->used_pages += pages_of(o->bytes);
}

static void resize(struct worker *w, struct object *o)
{
	size_t bytes = draw_bytes(w), kept = bytes < o->bytes ? bytes : o->bytes;

	note(w->slot, "reallocates");
	o->at = realloc(o->at, bytes);
	EXPECT(w, o->at != NULL);
	check_words(w, o->at, o->token, 0, kept / 8, "reallocated memory");
	fill_words(o->at + kept, o->token, kept / 8, (bytes - kept) / 8);
	w->used_pages += pages_of(bytes) - pages_of(o->bytes);
	o->bytes = bytes;
}

static void rewrite(struct worker *w, struct object *o)
{
	heap_check(w, o);
	note(w->slot, "writes heap memory");
	o->token = draw_token(w);
	fill_words(o->at, o->token, 0, o->bytes / 8);
}

void heap_operate(struct worker *w)
{
	size_t what = draw(w, 10);
	struct object *o = draw_object(w, HEAP);

	if (!o || (what < 4 && w->used_pages < w->budget_pages && free_objects(w) >= OBJECTS / 4)) {
		make(w);
	} else if (what < 6) {
		rewrite(w, o);
	} else if (what < 8) {
		resize(w, o);
	} else if (what == 8 || w->used_pages >= w->budget_pages) {
		heap_check(w, o);
		note(w->slot, "frees");
		heap_drop(w, o);
	} else {
		heap_check(w, o);
	}
}
