/*
 * The parts of torture: what a thread owns and what must be in it (torture_model.c, torture_heap.c, torture_map.c), who
 * lives and forks (torture.c), and who watches that all go on (torture_watch.c).
 */
#ifndef LARDER_TEST_TORTURE_H
#define LARDER_TEST_TORTURE_H

#include "content.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { OBJECTS = 192, OBJECT_PAGES = 512, WORKERS = 16, SLOTS = 128, FILE_PAGES = 256 };

/* ---- the model: in static memory, which nobody takes out ---- */

enum kind { NOTHING, HEAP, MAPPING };

enum page_flag {
	MAYBE_FREED = 1, /* MADV_FREE: its content, or zeroes */
	LOCKED = 2,
	NOT_FORKED = 4, /* MADV_DONTFORK */
	WIPED = 8,	/* MADV_WIPEONFORK */
};

struct page {
	uint64_t token; /* what is in it: 0 = zeroes */
	uint32_t piece; /* neighbours with the same number are certainly in one mapping of the kernel's */
	uint16_t file;	/* page of the file that shows when the content is thrown away, + 1; 0 = anonymous */
	uint8_t protection;
	uint8_t flags;
};

struct object {
	enum kind kind;
	unsigned char *at;
	size_t bytes;	/* of a HEAP: a multiple of 8 */
	uint64_t token; /* of a HEAP */
	size_t npages;
	struct page pages[OBJECT_PAGES];
};

/* A thread, in some process. What it does follows from its random state and its objects alone. */
struct worker {
	unsigned id, depth; /* of forks */
	uint64_t random;
	uint64_t operations, most_operations;
	size_t budget_pages, used_pages;
	uint32_t next_piece;
	unsigned nlocked;
	size_t away_pages, content_pages; /* at its end: not in RAM, of how many with content */
	struct slot *slot;
	pthread_t thread;
	struct object objects[OBJECTS];
};

extern struct worker workers[WORKERS];
extern unsigned nworkers;
extern uint64_t seed;
extern _Atomic int stop;

/* Decisions: every draw is from the thread's own stream. */
size_t draw(struct worker *w, size_t below);
uint64_t draw_token(struct worker *w); /* never 0 */

uint64_t token_word(uint64_t token, size_t i);
uint64_t file_token(unsigned page);

__attribute__((noreturn, format(printf, 2, 3))) void fail(const struct worker *w, const char *format, ...);

#define EXPECT(w, condition)                                                                                           \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			fail((w), "%s:%d: %s (errno %d)", __FILE__, __LINE__, #condition, errno);                      \
	} while (0)

void fill_words(void *at, uint64_t token, size_t first, size_t words);
void check_words(const struct worker *w, const void *at, uint64_t token, size_t first, size_t words, const char *what);

/* An object's slot, or NULL when all are taken; of its kind, by lot, or NULL when there is none. */
struct object *new_object(struct worker *w);
struct object *draw_object(struct worker *w, enum kind kind);
unsigned free_objects(const struct worker *w);

/* ---- what can be done with an object ---- */

/* Does one operation with objects of that kind. */
void heap_operate(struct worker *w);
void map_operate(struct worker *w);

void heap_check(struct worker *w, const struct object *o);
void map_check(struct worker *w, struct object *o);
void check_all_objects(struct worker *w);
void count_away(struct worker *w);

void heap_drop(struct worker *w, struct object *o);
void map_drop(struct worker *w, struct object *o);

/* In a child, before anything else: what was not to be inherited is gone, or wiped. */
void map_inherit(struct worker *w);

void map_start(void); /* the file */
void catch_signals(void);

/* ---- progress ---- */

/* One for each thread of the whole family that lives; in memory that all share. */
struct slot {
	_Atomic pid_t pid, tid; /* 0 = free */
	_Atomic uint64_t progress;
	const char *_Atomic doing;
	_Atomic unsigned worker;
};

extern struct slot *slots;

void slots_create(void);
struct slot *slot_take(unsigned worker);
void slot_release(struct slot *s);
void slots_release_of(pid_t pid); /* which has ended */

static inline void note(struct slot *s, const char *doing)
{
	s->doing = doing;
	s->progress++;
}

/*
 * Waits for the process, which leads a process group of its own; kills the group when a thread of it stands still for
 * `hang_seconds`, after having printed where everybody is. Returns 0 if it ended with status 0.
 */
int watch(pid_t pid, unsigned hang_seconds, const char *stat_command);

#endif
