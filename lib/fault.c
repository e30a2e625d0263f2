/*
 * The fault service.
 *
 * One handler thread is pinned to each CPU. The one on the faulting CPU runs as soon as the faulting thread sleeps,
 * without a wake-up across CPUs; which of them wait for faults, and how, is watch.h's affair. Whichever reads the
 * message serves it, so a CPU that is busy starves nobody. (bench/handlers.c measures this against unpinned handlers;
 * docs/performance.md has the figures.) Beyond HANDLERS_MAX CPUs waking every handler for every fault would cost more
 * than it saves, so there the handlers are few and unpinned.
 *
 * A handler never waits for a page that somebody else owns, nor for memory: it leaves the fault unanswered, and whoever
 * ends the condition wakes the faulting thread, which faults again (page.h: WAITERS; pressure.h: put_off). Nor does it
 * call into the program: a touch of a page that is to be made again by the program gets SIGBUS (sigbus.h).
 */
#include "fault.h"

#include "direct.h"
#include "linux_userfaultfd.h"
#include "resolve.h"
#include "stats.h"
#include "swap_in.h"
#include "sys.h"
#include "thread.h"
#include "unseen.h"
#include "watch.h"

#include <sys/resource.h>

enum { HANDLERS_MAX = 8, PUBLISH_EVERY = 256 };

struct handler {
	struct larder_memory *memory;
	struct larder_restorer own, *restorer;
	struct watcher watcher;
	struct uffd_msg message;
	int cpu;
	unsigned served;
	int result;
	struct larder_event started;
};

static struct handler handlers[HANDLERS_MAX];

/* Not zero when the fault is answered, or somebody will wake the thread. */
static int try_serve(struct handler *h, size_t index, int written)
{
	struct larder_memory *m = h->memory;

	switch (resolve(m, h->restorer, index, written)) {
	case RESOLVE_BUSY:
		return page_await(&m->region.pages[index], page_load(&m->region.pages[index]));
	case RESOLVE_FULL:
		swap_in_put_off(m);
		return 1;
	case RESOLVE_PUT_OFF:
		pressure_put_off(m);
		return 1;
	case RESOLVE_TRAPPED:
		restore_trap(m, index);
		return 1;
	case RESOLVE_POISONED: /* the poison is in place; the thread has not seen it yet */
		restore_wake(m, index);
		return 1;
	case RESOLVE_AGAIN:
		return 0;
	default:
		return 1;
	}
}

/* See direct.h. */
static void sweep(struct handler *h)
{
	watch_hurry(&h->watcher);
	direct_help(h->memory);
}

static void serve(struct handler *h, const struct uffd_msg *msg)
{
	struct larder_memory *m = h->memory;
	char *addr = (char *)(uintptr_t)(msg->arg.pagefault.address & ~(uint64_t)(PAGE_BYTES - 1));
	int written = (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
	size_t index;

#ifdef LARDER_DEBUG
	if (thread_is_internal((int)msg->arg.pagefault.feat.ptid))
		log_panic("an internal thread touched managed memory: thread", msg->arg.pagefault.feat.ptid);
#endif
	if (staging_contains(&m->staging, addr))
		log_panic("fault on a staging slot that is empty: slot address", (int64_t)(uintptr_t)addr);
	if (!unseen_lets_serve(m, addr))
		return;
	index = region_index(&m->region, addr);
	STATS_ADD(faults, 1);
	if (direct_is_wanted(m) && (!h->restorer->reader || direct_is_overdue(m)))
		sweep(h);
	restorer_begin_fault(h->restorer);
	while (!try_serve(h, index, written))
		;
	restorer_end_fault(h->restorer);
	pressure_notice(m, region_chunk(&m->region, index)->owner.pool);
	if (++h->served % PUBLISH_EVERY == 0)
		pressure_publish(m, stats);
}

/* With a disk a handler is a reader, too. */
static int open_handler(struct handler *h)
{
	struct larder_memory *m = h->memory;
	struct larder_reader *reader;
	int err;

	h->restorer = &h->own;
	if (!m->store.disk)
		return restorer_open(&h->own, m);
	err = swap_in_reader(m, h->cpu, &reader);
	if (!err)
		h->restorer = swap_in_restorer(reader);
	return err;
}

static long next_message(struct handler *h)
{
	struct larder_reader *reader = h->restorer->reader;

	if (reader && swap_in_go_on(reader))
		return -EAGAIN;
	if (reader && swap_in_is_busy(reader) && direct_is_wanted(h->memory))
		sweep(h);
	if (!h->watcher.attends)
		restorer_flush(h->restorer, h->memory);
	return watch_read(&h->watcher, &h->message);
}

static void handler_main(void *arg)
{
	struct handler *h = arg;

	/* The program may run niced; the threads it waits for should not. Without the privilege they stay as they are.
	 */
	sys_call3(SYS_setpriority, PRIO_PROCESS, 0, 0);
	if (h->cpu != WATCH_NO_CPU)
		thread_pin(h->cpu);
	h->result = open_handler(h);
	h->restorer->reads_messages = 1;
	if (!h->result)
		watch_join(&h->watcher, h->memory->uffd, h->restorer->reader, h->cpu);
	event_post(&h->started);
	if (h->result)
		sys_call3(SYS_exit, 0, 0, 0);
	for (;;) {
		long n = next_message(h);

		if (n == (long)sizeof(h->message) && h->message.event == UFFD_EVENT_PAGEFAULT)
			serve(h, &h->message);
		else if (n == (long)sizeof(h->message))
			unseen_note(h->memory, &h->message);
		else if (n < 0 && n != -EINTR && n != -EAGAIN)
			log_panic("reading the userfaultfd failed with errno", -n);
	}
}

static int start_handler(struct larder_memory *m, struct handler *h, int cpu)
{
	uint32_t seen = event_count(&h->started);
	int tid;

	h->memory = m;
	h->cpu = cpu;
	tid = thread_start("larder-fault", handler_main, h, 0);
	if (tid < 0)
		return tid;
	while (event_count(&h->started) == seen)
		event_wait(&h->started, seen, 0);
	return h->result ? h->result : tid;
}

int fault_start(struct larder_memory *m)
{
	int cpus[HANDLERS_MAX];
	int ncpus = thread_cpus(cpus, HANDLERS_MAX);
	int pinned = ncpus > 0 && ncpus <= HANDLERS_MAX;
	int wanted = pinned ? ncpus : HANDLERS_MAX, started = 0, err = watch_open();

	for (int i = 0; i < wanted && m->store.disk && !err; i++)
		err = swap_in_start(m, &(int){ pinned ? cpus[i] : WATCH_NO_CPU }, 1);
	for (int i = 0; i < wanted && err >= 0; i++) {
		err = start_handler(m, &handlers[started], pinned ? cpus[i] : WATCH_NO_CPU);
		started += err >= 0;
	}
	return started ? started : err;
}
