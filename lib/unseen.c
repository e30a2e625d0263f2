/*
 * Unseen. See unseen.h.
 */
#include "unseen.h"

#include "discard.h"
#include "linux_userfaultfd.h"
#include "sys.h"
#include "uffd.h"

void unseen_note(struct larder_memory *m, const struct uffd_msg *message)
{
	struct larder_unseen *u = &m->unseen;
	struct larder_unseen_event event = { 0 };

	if (message->event == UFFD_EVENT_REMAP)
		event = (struct larder_unseen_event){ message->arg.remap.from, message->arg.remap.to,
						      message->arg.remap.len };
	else if (message->event == UFFD_EVENT_UNMAP)
		event = (struct larder_unseen_event){ message->arg.remove.start, 0,
						      message->arg.remove.end - message->arg.remove.start };
	else
		return;
	for (;;) {
		mutex_lock(&u->lock);
		if (u->count < UNSEEN_MAX)
			break;
		mutex_unlock(&u->lock);
		pressure_wake_reclaim(m); /* it never waits for this thread */
		sys_yield();
	}
	u->events[u->count] = event;
	atomic_fetch_add(&u->count, 1);
	mutex_unlock(&u->lock);
	pressure_wake_reclaim(m);
}

int unseen_lets_serve(struct larder_memory *m, const char *addr)
{
	if (!region_contains(&m->region, addr) || region_bit(m->region.foreign, region_index(&m->region, addr)))
		return 0;
	if (!unseen_is_pending(m))
		return 1;
	pressure_ask_to_wake(m);
	return 0;
}

/* What is at [start, start + bytes) of the region, as pages: it may begin before it and end behind it. */
static size_t first_page(const struct larder_memory *m, uintptr_t start)
{
	uintptr_t base = (uintptr_t)m->region.base;

	return start > base ? (start - base) / PAGE_BYTES : 0;
}

static size_t end_page(const struct larder_memory *m, uintptr_t start, size_t bytes)
{
	uintptr_t base = (uintptr_t)m->region.base, end = start + bytes;

	if (end <= base)
		return 0;
	return end - base < m->region.bytes ? (end - base) / PAGE_BYTES : m->region.bytes / PAGE_BYTES;
}

/* ---- what has been carried away ---- */

static int content_of(struct larder_memory *m, struct larder_restorer *w, int disk_fd, size_t index, uint64_t word)
{
	struct store_place place = store_place_of(&m->region.pages[index], word);

	if (page_state(word) == PAGE_STAGED)
		__builtin_memcpy(w->bounce, staging_address(&m->staging, page_slot(word)), PAGE_BYTES);
	else if (restore_needs_disk(m, word))
		return store_read_now(&m->store, w->scratch, disk_fd, place, w->bounce);
	else
		return store_get(&m->store, w->scratch, place, w->bounce);
	return 0;
}

/* A page that is away comes back at its new address; one that cannot raises SIGBUS there. */
static void bring_to(struct larder_memory *m, struct larder_restorer *w, int disk_fd, size_t index, uintptr_t to)
{
	uint64_t word = page_load(&m->region.pages[index]);
	long err;

	if (page_is_busy(word))
		word = page_word_before(word);
	if (page_state(word) != PAGE_STAGED && page_state(word) != PAGE_STORED)
		return;
	if (content_of(m, w, disk_fd, index, word)) {
		uffd_poison(m->uffd, (void *)to, PAGE_BYTES);
		return;
	}
	do
		err = uffd_copy(m->uffd, (void *)to, w->bounce, PAGE_BYTES);
	while (err == -EAGAIN && (sys_yield(), 1));
}

static void carry(struct larder_memory *m, struct larder_restorer *w, const struct larder_unseen_event *event)
{
	int disk_fd = m->store.disk ? m->store.disk->ops->reopen(m->store.disk->backend) : -1;
	size_t end = end_page(m, event->start, event->bytes);

	for (size_t i = first_page(m, event->start); i < end; i++)
		bring_to(m, w, disk_fd, i, event->to + ((uintptr_t)region_address(&m->region, i) - event->start));
	if (disk_fd >= 0)
		sys_close(disk_fd);
	uffd_unregister(m->uffd, (void *)event->to, event->bytes); /* wakes whoever waits there */
}

void unseen_settle(struct larder_memory *m, struct larder_restorer *w)
{
	struct larder_unseen *u = &m->unseen;

	while (unseen_is_pending(m)) {
		struct larder_unseen_event event;
		size_t first, end;

		mutex_lock(&u->lock);
		event = u->events[0];
		__builtin_memmove(u->events, u->events + 1, (UNSEEN_MAX - 1) * sizeof(*u->events));
		atomic_fetch_sub(&u->count, 1);
		mutex_unlock(&u->lock);
		if (event.to)
			carry(m, w, &event);
		first = first_page(m, event.start);
		end = end_page(m, event.start, event.bytes);
		if (first < end)
			discard_unmapped(m, first, end - first);
	}
}
