#include "memory.h"

#include "fio.h"
#include "sysfile.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)

enum { TELL_EVERY = 1024 };

/* ---- who takes part ---- */

/* For all pages twice. Before the first turn: later the kernel would kill somebody. */
static void check_room(const struct contender *c, const struct options *o)
{
	uint64_t need = 2 * options_most_pages(o) * CONTENDER_PAGE_BYTES;
	uint64_t available = sysfile_kib_field("/proc/meminfo", "MemAvailable");

	if (need > available)
		errx(2,
		     "%s needs twice the memory of --pages, %llu MiB, and %llu MiB are available: leave it out (--contenders)",
		     c->name, (unsigned long long)(need / MIB), (unsigned long long)(available / MIB));
}

static void add(struct memory_entrants *e, struct table *t, const struct options *o, const struct contender *c,
		const char *name, const char *what)
{
	if (!options_want(o, name))
		return;
	if (c->has_two_buffers)
		check_room(c, o);
	e->contenders[table_add_column(t, name, what, c->kind == CONTENDER_BOUND)] = c;
}

void memory_begin(struct memory_entrants *e, struct table *t, const struct options *o,
		  const struct contender *const *bounds)
{
	if (o->peer)
		add(e, t, o, &contender_kernel, o->peer->name, o->peer->what);
	add(e, t, o, &contender_handlers, contender_handlers.name, contender_handlers.what);
	add(e, t, o, &contender_inline, contender_inline.name, contender_inline.what);
	if (o->peer && o->peer->needs_dir && fio_is_there())
		add(e, t, o, &contender_fio, contender_fio.name, contender_fio.what);
	for (; *bounds; bounds++)
		add(e, t, o, *bounds, (*bounds)->name, (*bounds)->what);
	if (!t->columns_count)
		errx(2, "--contenders: there is nobody called '%s' here", o->contenders);
	turns_begin(o->peer, o->dir, options_most_pages(o) * CONTENDER_PAGE_BYTES * 5 / 4 + 64 * MIB);
}

const struct peer *memory_peer(const struct memory *m)
{
	return m->contender->kind == CONTENDER_PEER ? m->options->peer : NULL;
}

/* Larder has a place on disk when its rival has. */
void memory_set_up(struct memory *m, const struct options *o, const struct contender *c, uint64_t pages,
		   const struct limit *limit)
{
	*m = (struct memory){ .options = o, .contender = c };
	m->setup = (struct contender_setup){
		.contents = o->contents,
		.bytes = pages * CONTENDER_PAGE_BYTES,
		.limit_bytes = limit_bytes(limit, pages * CONTENDER_PAGE_BYTES),
		.peer = o->peer,
		.disk_dir = o->peer && o->peer->needs_dir ? o->dir : NULL,
		.encrypts = o->encrypt,
	};
}

/* ---- the buffer ---- */

static uint64_t seed_of(const struct memory *m, const struct turn *t)
{
	return m->options->seed + t->run;
}

static void fill(const struct memory *m, struct turn *t)
{
	size_t pages = m->setup.bytes / CONTENDER_PAGE_BYTES;

	for (size_t i = 0; i < pages; i++) {
		contents_fill_page(m->setup.contents, m->buffer + i * CONTENDER_PAGE_BYTES, seed_of(m, t), i);
		if (i % TELL_EVERY == 0)
			atomic_store(&t->done, (double)i / (double)pages / 2);
	}
}

void memory_open(struct memory *m, struct turn *t)
{
	t->base_bytes = sysfile_kib_field("/proc/self/status", "RssAnon");
	m->buffer = m->contender->open(&m->setup);
	fill(m, t);
}

void memory_look(struct turn *t)
{
	atomic_store(&t->pid, (int)getpid());
}

void memory_settle(const struct memory *m)
{
	if (m->options->settle && m->contender->settle)
		m->contender->settle();
}

/*
 * The host of a virtual machine takes back what is free there within seconds (free page reporting, a balloon). The
 * first touch is then a fault of the host's, 20 us and more of CPU time: the contender's, if it has waited before, as
 * with --settle, and not if it has not. The kernel hands out which free pages it likes, so twice as many are touched,
 * and more: with as many, several in a hundred touches still were the host's.
 */
void memory_take_from_host(uint64_t bytes)
{
	uint64_t most = sysfile_kib_field("/proc/meminfo", "MemAvailable") / 4 * 3;
	uint64_t length = 2 * bytes + 64 * MIB;
	char *at;

	if (length > most)
		length = most;
	at = contender_map(length);
	for (uint64_t i = 0; i < length; i += CONTENDER_PAGE_BYTES)
		at[i] = 1;
	munmap(at, length);
}

void memory_check_out(const struct memory *m)
{
	size_t pages = m->setup.bytes / CONTENDER_PAGE_BYTES, present;

	if (m->contender->kind == CONTENDER_BOUND)
		return;
	present = contender_present_pages(m->buffer, m->setup.bytes);
	if (present > pages / 100)
		errx(2, "%s has left %zu of %zu pages in RAM: with these contents there is nothing to compare",
		     m->contender->kind == CONTENDER_PEER ? m->options->peer->name : m->contender->name, present,
		     pages);
}

void memory_verify(const struct memory *m, const struct turn *t)
{
	size_t wrong;

	if (m->contender->bring_back)
		m->contender->bring_back();
	wrong = contents_wrong_pages(m->setup.contents, m->buffer, m->setup.bytes, seed_of(m, t));
	if (wrong)
		errx(1, "%s: %zu pages are not as they were written", m->contender->name, wrong);
}
