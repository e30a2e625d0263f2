/*
 * torture: the mmap family. Each page of a mapping has a token, and what the calls do to it is told here as the manual
 * tells it. No address is used again by this program's choice once it has been given back, because another thread may
 * have got it; so a mapping with a hole is two objects.
 *
 * mremap takes pages of one mapping of the kernel's. Which those are is known from `piece`: what came from one call and
 * was never treated differently has one number. The kernel may have merged more; that is not relied on.
 */
#include "torture.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS, READ_WRITE = PROT_READ | PROT_WRITE };
enum { LOCKED_MOST = 128 }; /* pages that a thread locks at a time */

static int file = -1;

void map_start(void)
{
	static uint64_t page[WORDS];

	file = memfd_create("torture", MFD_CLOEXEC);
	for (unsigned i = 0; i < FILE_PAGES; i++) {
		fill_words(page, file_token(i), 0, WORDS);
		EXPECT(&workers[0], pwrite(file, page, PAGE, (off_t)i * PAGE) == PAGE);
	}
}

/* ---- faults that are expected ---- */

static __thread sigjmp_buf after_fault;
static __thread volatile sig_atomic_t is_fault_expected;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (is_fault_expected)
		siglongjmp(after_fault, signal);
	fail(&workers[0], "signal %d at %p (of whichever thread)", signal, info->si_addr);
}

void catch_signals(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

static int signal_of(unsigned char *at, int writes)
{
	int signal = sigsetjmp(after_fault, 1);

	if (signal == 0) {
		is_fault_expected = 1;
		if (writes)
			__atomic_fetch_or(at, 0, __ATOMIC_SEQ_CST);
		else
			(void)*(volatile unsigned char *)at;
	}
	is_fault_expected = 0;
	return signal;
}

/* ---- pages ---- */

/* A part of a mapping. */
struct part {
	struct object *o;
	size_t first, npages;
};

static unsigned char *part_at(const struct part *p)
{
	return p->o->at + p->first * PAGE;
}

static struct page *part_pages(const struct part *p)
{
	return p->o->pages + p->first;
}

static uint64_t thrown_away(const struct page *page)
{
	return page->file ? file_token(page->file - 1u) : 0;
}

/* The kernel may take a page that was freed at any time: from one word on it reads as zeroes, and then for ever. */
static void check_freed_page(struct worker *w, struct page *page, const unsigned char *at)
{
	const volatile uint64_t *words = (const volatile uint64_t *)(const void *)at;
	size_t i = 0;

	while (i < WORDS && words[i] == token_word(page->token, i))
		i++;
	if (i == WORDS)
		return;
	check_words(w, at + i * 8, 0, i, WORDS - i, "a page that was freed");
	page->token = 0;
	page->flags &= (uint8_t)~MAYBE_FREED;
}

static void check_page(struct worker *w, struct object *o, size_t i)
{
	struct page *page = &o->pages[i];
	const unsigned char *at = o->at + i * PAGE;

	if (!(page->protection & PROT_READ))
		return;
	if (page->flags & MAYBE_FREED)
		check_freed_page(w, page, at);
	else
		check_words(w, at, page->token, 0, WORDS, page->file ? "a page of a file" : "a page");
}

static void check_part(struct worker *w, const struct part *p)
{
	for (size_t i = p->first; i < p->first + p->npages; i++)
		check_page(w, p->o, i);
}

void map_check(struct worker *w, struct object *o)
{
	note(w->slot, "checks a mapping");
	check_part(w, &(struct part){ o, 0, o->npages });
}

static int any_page(const struct part *p, int flags)
{
	for (size_t i = 0; i < p->npages; i++)
		if (part_pages(p)[i].flags & flags)
			return 1;
	return 0;
}

static int any_file(const struct part *p)
{
	for (size_t i = 0; i < p->npages; i++)
		if (part_pages(p)[i].file)
			return 1;
	return 0;
}

/* Do all pages allow that? */
static int all_allow(const struct part *p, int protection)
{
	for (size_t i = 0; i < p->npages; i++)
		if ((part_pages(p)[i].protection & protection) != protection)
			return 0;
	return 1;
}

/* The part is treated differently from now on: the pieces that it cuts are pieces of their own. */
static void cut_pieces(struct worker *w, const struct part *p)
{
	struct page *pages = p->o->pages;
	size_t end = p->first + p->npages;
	uint32_t last = pages[end - 1].piece, was = 0;

	for (size_t i = p->first; i < end; i++) {
		uint32_t piece = pages[i].piece;

		w->next_piece += i == p->first || piece != was;
		pages[i].piece = w->next_piece;
		was = piece;
	}
	w->next_piece++;
	for (size_t i = end; i < p->o->npages && pages[i].piece == last; i++)
		pages[i].piece = w->next_piece;
	w->next_piece++;
}

static void set_fresh(struct worker *w, const struct part *p, int protection, unsigned file_page)
{
	cut_pieces(w, p);
	for (size_t i = 0; i < p->npages; i++) {
		struct page *page = &part_pages(p)[i];

		*page = (struct page){ .piece = w->next_piece, .protection = (uint8_t)protection };
		page->file = file_page ? (uint16_t)(file_page + i) : 0;
		page->token = thrown_away(page);
	}
	w->next_piece++;
}

/* ---- objects ---- */

static struct object *add_mapping(struct worker *w, unsigned char *at, size_t npages)
{
	struct object *o = new_object(w);

	o->kind = MAPPING;
	o->at = at;
	o->npages = npages;
	w->used_pages += npages;
	return o;
}

/* Takes the part out of the model: what is left of it is one object, or two, or none. Needs a free object. */
static void forget_part(struct worker *w, const struct part *p)
{
	struct object *o = p->o, *rest;
	size_t end = p->first + p->npages, nrest = o->npages - end;

	if (p->first && nrest) {
		rest = add_mapping(w, o->at + end * PAGE, nrest);
		memcpy(rest->pages, o->pages + end, nrest * sizeof(rest->pages[0]));
		w->used_pages -= o->npages - p->first;
		o->npages = p->first;
	} else if (p->first) {
		w->used_pages -= o->npages - p->first;
		o->npages = p->first;
	} else {
		memmove(o->pages, o->pages + end, nrest * sizeof(o->pages[0]));
		o->at += end * PAGE;
		o->npages = nrest;
		w->used_pages -= end;
		o->kind = nrest ? MAPPING : NOTHING;
	}
}

void map_drop(struct worker *w, struct object *o)
{
	EXPECT(w, munmap(o->at, o->npages * PAGE) == 0);
	w->used_pages -= o->npages;
	o->kind = NOTHING;
}

/* Small ones often, so that some are none of Larder's. */
static size_t draw_pages(struct worker *w)
{
	return 1 + draw(w, draw(w, 2) ? OBJECT_PAGES : (size_t)1 << draw(w, 9));
}

static struct part draw_part(struct worker *w, struct object *o)
{
	struct part p = { .o = o, .first = draw(w, o->npages) };

	p.npages = 1 + draw(w, o->npages - p.first);
	if (draw(w, 4) == 0)
		p = (struct part){ o, 0, o->npages };
	return p;
}

static void write_page(struct worker *w, struct object *o, size_t i)
{
	o->pages[i].token = draw_token(w);
	o->pages[i].flags &= (uint8_t)~MAYBE_FREED;
	fill_words(o->at + i * PAGE, o->pages[i].token, 0, WORDS);
}

/* ---- operations: each on a part that was drawn ---- */

static void write_part(struct worker *w, const struct part *p)
{
	for (size_t i = p->first; i < p->first + p->npages; i++)
		if (p->o->pages[i].protection == READ_WRITE)
			write_page(w, p->o, i);
}

/* A word in each page is read, or is wrong to read. */
static void touch_part(struct worker *w, const struct part *p)
{
	for (size_t i = 0; i < p->npages; i += 1 + p->npages / 16) {
		const struct page *page = &part_pages(p)[i];
		int got = signal_of(part_at(p) + i * PAGE, 0);

		if (got != (page->protection & PROT_READ ? 0 : SIGSEGV))
			fail(w, "reading a page with protection %d raises %d", page->protection, got);
		if (page->protection & PROT_WRITE || page->flags & MAYBE_FREED)
			continue;
		got = signal_of(part_at(p) + i * PAGE, 1);
		if (got != SIGSEGV)
			fail(w, "writing a page with protection %d raises %d", page->protection, got);
	}
}

static void protect_part(struct worker *w, const struct part *p)
{
	static const uint8_t protections[] = { PROT_NONE, PROT_READ, READ_WRITE, READ_WRITE };
	uint8_t protection = protections[draw(w, 4)];

	EXPECT(w, mprotect(part_at(p), p->npages * PAGE, protection) == 0);
	cut_pieces(w, p);
	for (size_t i = 0; i < p->npages; i++)
		part_pages(p)[i].protection = protection;
}

static void throw_away(struct worker *w, const struct part *p)
{
	if (any_page(p, LOCKED))
		return;
	EXPECT(w, madvise(part_at(p), p->npages * PAGE, MADV_DONTNEED) == 0);
	for (size_t i = 0; i < p->npages; i++) {
		part_pages(p)[i].token = thrown_away(&part_pages(p)[i]);
		part_pages(p)[i].flags &= (uint8_t)~MAYBE_FREED;
	}
	check_part(w, p);
}

static void free_part(struct worker *w, const struct part *p)
{
	if (any_page(p, LOCKED) || any_file(p))
		return;
	EXPECT(w, madvise(part_at(p), p->npages * PAGE, MADV_FREE) == 0);
	for (size_t i = 0; i < p->npages; i++)
		if (part_pages(p)[i].token)
			part_pages(p)[i].flags |= MAYBE_FREED;
}

/* May be refused; changes nothing. */
static void advise_part(struct worker *w, const struct part *p)
{
	static const int advices[] = { MADV_COLD,	MADV_PAGEOUT,	 MADV_WILLNEED,	    MADV_HUGEPAGE,
				       MADV_NOHUGEPAGE, MADV_SEQUENTIAL, MADV_RANDOM,	    MADV_NORMAL,
				       MADV_DONTDUMP,	MADV_DODUMP,	 25 /* COLLAPSE */, MADV_POPULATE_READ };

	madvise(part_at(p), p->npages * PAGE, advices[draw(w, sizeof(advices) / sizeof(advices[0]))]);
	cut_pieces(w, p);
	check_part(w, p);
}

static void populate_part(struct worker *w, const struct part *p)
{
	if (!all_allow(p, READ_WRITE))
		return;
	EXPECT(w, madvise(part_at(p), p->npages * PAGE, MADV_POPULATE_WRITE) == 0);
	check_part(w, p);
}

static void set_fork_advice(struct worker *w, const struct part *p)
{
	static const struct {
		int on, off;
		uint8_t flag;
	} advices[] = { { MADV_DONTFORK, MADV_DOFORK, NOT_FORKED }, { MADV_WIPEONFORK, MADV_KEEPONFORK, WIPED } };
	size_t which = draw(w, 2), is_on = draw(w, 2);

	if (advices[which].flag == WIPED && any_file(p))
		return;
	EXPECT(w, madvise(part_at(p), p->npages * PAGE, is_on ? advices[which].on : advices[which].off) == 0);
	cut_pieces(w, p);
	for (size_t i = 0; i < p->npages; i++)
		if (is_on)
			part_pages(p)[i].flags |= advices[which].flag;
		else
			part_pages(p)[i].flags &= (uint8_t)~advices[which].flag;
}

static void unlock_part(struct worker *w, const struct part *p)
{
	EXPECT(w, munlock(part_at(p), p->npages * PAGE) == 0);
	cut_pieces(w, p);
	for (size_t i = 0; i < p->npages; i++) {
		w->nlocked -= (part_pages(p)[i].flags & LOCKED) != 0;
		part_pages(p)[i].flags &= (uint8_t)~LOCKED;
	}
}

static void expect_in_core(struct worker *w, const struct part *p)
{
	unsigned char is_there[OBJECT_PAGES];

	EXPECT(w, mincore(part_at(p), p->npages * PAGE, is_there) == 0);
	for (size_t i = 0; i < p->npages; i++)
		if (part_pages(p)[i].flags & LOCKED && !(is_there[i] & 1))
			fail(w, "a locked page at %p is away", (void *)(part_at(p) + i * PAGE));
}

static void lock_part(struct worker *w, const struct part *p)
{
	expect_in_core(w, p);
	if (!all_allow(p, PROT_READ) || w->nlocked + p->npages > LOCKED_MOST) {
		unlock_part(w, p);
		return;
	}
	if (mlock(part_at(p), p->npages * PAGE))
		return; /* RLIMIT_MEMLOCK */
	cut_pieces(w, p);
	for (size_t i = 0; i < p->npages; i++) {
		w->nlocked += !(part_pages(p)[i].flags & LOCKED);
		part_pages(p)[i].flags |= LOCKED;
	}
	expect_in_core(w, p);
	check_part(w, p);
}

static void unmap_part(struct worker *w, const struct part *p)
{
	if (free_objects(w) == 0)
		return;
	for (size_t i = 0; i < p->npages; i++)
		w->nlocked -= (part_pages(p)[i].flags & LOCKED) != 0;
	EXPECT(w, munmap(part_at(p), p->npages * PAGE) == 0);
	forget_part(w, p);
}

static void map_over(struct worker *w, const struct part *p)
{
	size_t kind = draw(w, 3);
	int protection = kind == 0 ? PROT_NONE : READ_WRITE;
	unsigned file_page = 0;

	if (kind == 2 && p->npages < FILE_PAGES)
		file_page = 1 + (unsigned)draw(w, FILE_PAGES - p->npages);
	for (size_t i = 0; i < p->npages; i++)
		w->nlocked -= (part_pages(p)[i].flags & LOCKED) != 0;
	EXPECT(w, mmap(part_at(p), p->npages * PAGE, protection,
		       file_page ? MAP_PRIVATE | MAP_FIXED : ANONYMOUS | MAP_FIXED, file_page ? file : -1,
		       file_page ? (off_t)(file_page - 1) * PAGE : 0) == part_at(p));
	set_fresh(w, p, protection, file_page);
	check_part(w, p);
}

/* ---- mremap ---- */

static struct part one_piece(struct part p)
{
	size_t n = 1;

	while (n < p.npages && part_pages(&p)[n].piece == part_pages(&p)[0].piece)
		n++;
	p.npages = n;
	return p;
}

/* The part has become an object of its own, elsewhere. */
static struct object *move_in_model(struct worker *w, const struct part *p, unsigned char *to, size_t npages)
{
	struct object *moved = add_mapping(w, to, npages);
	size_t kept = p->npages < npages ? p->npages : npages;

	memcpy(moved->pages, part_pages(p), kept * sizeof(moved->pages[0]));
	w->next_piece++;
	for (size_t i = 0; i < npages; i++) {
		if (i >= kept) { /* what grows is like what it grows from */
			moved->pages[i] = moved->pages[0];
			moved->pages[i].token = 0;
			moved->pages[i].flags &= (uint8_t)~MAYBE_FREED;
		}
		moved->pages[i].piece = w->next_piece;
	}
	w->next_piece++;
	forget_part(w, p);
	return moved;
}

static void resize_part(struct worker *w, const struct part *p)
{
	size_t npages = draw_pages(w);
	unsigned char *to;

	if (npages > p->npages && part_pages(p)[0].file)
		npages = p->npages;
	if (npages == p->npages)
		return;
	to = mremap(part_at(p), p->npages * PAGE, npages * PAGE, MREMAP_MAYMOVE, NULL);
	EXPECT(w, to != MAP_FAILED);
	map_check(w, move_in_model(w, p, to, npages));
}

static unsigned char *reserve(struct worker *w, size_t npages)
{
	unsigned char *p = mmap(NULL, npages * PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0);

	EXPECT(w, p != MAP_FAILED);
	return p;
}

static void move_part(struct worker *w, const struct part *p)
{
	unsigned char *to = reserve(w, p->npages);
	size_t bytes = p->npages * PAGE;

	EXPECT(w, mremap(part_at(p), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	map_check(w, move_in_model(w, p, to, p->npages));
}

/* Over a part of another mapping. */
static void move_part_over(struct worker *w, const struct part *p)
{
	struct object *other = draw_object(w, MAPPING);
	struct part target = { .o = other };
	size_t bytes = p->npages * PAGE;

	if (other == p->o || other->npages < p->npages)
		return;
	target = (struct part){ other, draw(w, other->npages - p->npages + 1), p->npages };
	for (size_t i = 0; i < p->npages; i++)
		w->nlocked -= (part_pages(&target)[i].flags & LOCKED) != 0;
	EXPECT(w,
	       mremap(part_at(p), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, part_at(&target)) == part_at(&target));
	cut_pieces(w, &target);
	memcpy(part_pages(&target), part_pages(p), p->npages * sizeof(struct page));
	for (size_t i = 0; i < p->npages; i++)
		part_pages(&target)[i].piece = w->next_piece;
	w->next_piece++;
	check_part(w, &target);
	forget_part(w, p);
}

static void move_content(struct worker *w, const struct part *p)
{
	size_t bytes = p->npages * PAGE;
	unsigned char *to = mremap(part_at(p), bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	struct object *moved;

	EXPECT(w, to != MAP_FAILED);
	moved = add_mapping(w, to, p->npages);
	memcpy(moved->pages, part_pages(p), p->npages * sizeof(struct page));
	w->next_piece++;
	for (size_t i = 0; i < p->npages; i++) {
		moved->pages[i].piece = w->next_piece;
		part_pages(p)[i].token = thrown_away(&part_pages(p)[i]);
		part_pages(p)[i].flags &= (uint8_t)~MAYBE_FREED;
	}
	w->next_piece++;
	cut_pieces(w, p);
	map_check(w, moved);
	check_part(w, p);
}

static void remap_part(struct worker *w, const struct part *drawn)
{
	static void (*const ways[])(struct worker *, const struct part *) = { resize_part, move_part, move_part_over,
									      move_content };
	struct part p = one_piece(*drawn);
	size_t way = draw(w, sizeof(ways) / sizeof(ways[0]));

	if (free_objects(w) < 2)
		return;
	if (any_page(&p, LOCKED)) {
		unlock_part(w, &p);
		p = one_piece(p);
	}
	ways[way](w, &p);
}

/* ---- all of them ---- */

static void make(struct worker *w)
{
	size_t npages = draw_pages(w), way = draw(w, 4);
	unsigned char *at;
	struct object *o;

	at = mmap(NULL, npages * PAGE, way == 0 ? PROT_NONE : READ_WRITE,
		  ANONYMOUS | (way < 2 ? MAP_NORESERVE : 0) | (way == 3 ? MAP_POPULATE : 0), -1, 0);
	EXPECT(w, at != MAP_FAILED);
	o = add_mapping(w, at, npages);
	memset(o->pages, 0, npages * sizeof(o->pages[0]));
	set_fresh(w, &(struct part){ o, 0, npages }, way == 0 ? PROT_NONE : READ_WRITE, 0);
	write_part(w, &(struct part){ o, 0, npages - npages / 4 });
	check_part(w, &(struct part){ o, 0, npages });
}

static const struct {
	const char *name;
	unsigned weight;
	void (*run)(struct worker *w, const struct part *p);
} operations[] = {
	{ "writes pages", 16, write_part },    { "checks pages", 12, check_part },
	{ "touches pages", 4, touch_part },    { "mprotect", 6, protect_part },
	{ "MADV_DONTNEED", 4, throw_away },    { "MADV_FREE", 2, free_part },
	{ "madvise", 4, advise_part },	       { "MADV_POPULATE_WRITE", 2, populate_part },
	{ "fork advice", 2, set_fork_advice }, { "mlock", 2, lock_part },
	{ "munmap", 4, unmap_part },	       { "MAP_FIXED", 4, map_over },
	{ "mremap", 8, remap_part },
};

enum { OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

static size_t draw_operation(struct worker *w)
{
	unsigned sum = 0;
	size_t at;
	int i = 0;

	for (int k = 0; k < OPERATIONS; k++)
		sum += operations[k].weight;
	for (at = draw(w, sum); at >= operations[i].weight; i++)
		at -= operations[i].weight;
	return (size_t)i;
}

void map_operate(struct worker *w)
{
	struct object *o = draw_object(w, MAPPING);
	size_t what = draw_operation(w), may_make = draw(w, 4) == 0;
	int is_full = w->used_pages >= w->budget_pages || free_objects(w) < OBJECTS / 4;
	struct part p;

	if (!o || (may_make && !is_full)) {
		note(w->slot, "mmap");
		make(w);
	} else if (may_make || is_full) {
		note(w->slot, "munmap of all");
		for (size_t i = 0; i < o->npages; i++)
			w->nlocked -= (o->pages[i].flags & LOCKED) != 0;
		map_drop(w, o);
	} else {
		p = draw_part(w, o);
		note(w->slot, operations[what].name);
		operations[what].run(w, &p);
	}
}

/* ---- in a child ---- */

/* The first pages of `o` that were not to be inherited are none of the model's. Returns whether there were any. */
static int forget_not_forked(struct worker *w, struct object *o)
{
	struct part p = { .o = o };

	while (p.first < o->npages && !(o->pages[p.first].flags & NOT_FORKED))
		p.first++;
	if (o->kind != MAPPING || p.first == o->npages)
		return 0;
	while (p.first + p.npages < o->npages && o->pages[p.first + p.npages].flags & NOT_FORKED)
		p.npages++;
	if (free_objects(w) == 0)
		p.npages = o->npages - p.first; /* what comes behind is not looked at */
	forget_part(w, &p);
	return 1;
}

void map_inherit(struct worker *w)
{
	w->nlocked = 0; /* locks are not inherited */
	for (int k = 0; k < OBJECTS; k++)
		if (forget_not_forked(w, &w->objects[k]))
			k = -1; /* what was behind may be any object now */
	for (int k = 0; k < OBJECTS; k++)
		for (size_t i = 0; w->objects[k].kind == MAPPING && i < w->objects[k].npages; i++) {
			struct page *page = &w->objects[k].pages[i];

			page->flags &= (uint8_t)~LOCKED;
			if (page->flags & WIPED) {
				page->token = 0;
				page->flags &= (uint8_t)~MAYBE_FREED;
			}
		}
}
