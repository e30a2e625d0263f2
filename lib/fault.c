/*
 * The fault service.
 *
 * One handler thread is pinned to each CPU, at normal priority. All block in read() on the one userfaultfd; a fault
 * wakes them all, and the one on the faulting CPU runs as soon as the faulting thread sleeps, without a wake-up across
 * CPUs. Whichever reads the message serves it, so a CPU that is busy starves nobody. (bench/handlers.c measures this
 * against SCHED_IDLE handlers, which starve when every CPU is busy, and against unpinned ones; docs/architecture.md has
 * the figures.) Beyond HANDLERS_MAX CPUs waking every handler for every fault would cost more than it saves, so there
 * the handlers are few and unpinned.
 *
 * A handler never waits for a page that somebody else owns, nor for memory: it leaves the fault unanswered, and whoever
 * ends the condition wakes the faulting thread, which faults again (page.h: WAITERS; pressure.h: put_off).
 */
#include "fault.h"

#include "linux_userfaultfd.h"
#include "restore.h"
#include "stats.h"
#include "sys.h"
#include "thread.h"
#include "uffd.h"

#include <sys/resource.h>

enum { HANDLERS_MAX = 8, CPUS_MAX = 1024, NO_CPU = -1, PUBLISH_EVERY = 256, AROUND_GAP_MAX = 4 };

/* Passes of the clock that a page is spared after it was: first touched, fetched from a tier, wanted back while staged.
 */
enum { CREDIT_ZERO = 1, CREDIT_STORED = 1, CREDIT_STAGED = 3 };

struct handler {
	struct larder_memory *memory;
	struct larder_restorer restorer;
	int cpu;
	unsigned served;
};

static struct handler handlers[HANDLERS_MAX];

/*
 * Fault-around: a fault on the page where the last one ended, or just behind it (pages in between may have been
 * resident), suggests a sequential reader; each such fault doubles the number of pages brought in. The hints lie in the
 * chunk of the last page brought in, and are racy: a wrong hint costs time only.
 */
static size_t around_window(struct larder_memory *m, size_t index)
{
	struct larder_chunk *before = region_chunk(&m->region, index ? index - 1 : 0);
	size_t window = 2 * (size_t)atomic_load_explicit(&before->around_window, memory_order_relaxed);
	size_t to_end = CHUNK_PAGES - index % CHUNK_PAGES;

	uint32_t gap = (uint32_t)index - atomic_load_explicit(&before->around_next, memory_order_relaxed);

	if (gap > AROUND_GAP_MAX || window == 0)
		return 1;
	if (window > RESTORE_MAX_PAGES)
		window = RESTORE_MAX_PAGES;
	return window < to_end ? window : to_end;
}

static void around_remember(struct larder_memory *m, size_t first, size_t pages)
{
	struct larder_chunk *last = region_chunk(&m->region, first + pages - 1);

	atomic_store_explicit(&last->around_next, (uint32_t)(first + pages), memory_order_relaxed);
	atomic_store_explicit(&last->around_window, (uint32_t)pages, memory_order_relaxed);
}

static void count_fault(enum page_state was, size_t restored)
{
	switch (was) {
	case PAGE_FRESH:
		STATS_ADD(faults_zero, 1);
		break;
	case PAGE_STAGED:
		STATS_ADD(faults_staged, 1);
		break;
	case PAGE_STORED:
		STATS_ADD(faults_stored, 1);
		break;
	default:
		STATS_ADD(faults_raced, 1);
		break;
	}
	if (restored > 1)
		STATS_ADD(fault_around, restored - 1);
}

static unsigned credit_of(enum page_state was)
{
	return was == PAGE_STAGED ? CREDIT_STAGED : was == PAGE_STORED ? CREDIT_STORED : CREDIT_ZERO;
}

/* Which neighbours may come along with a page that was in state `was`. */
static unsigned company(enum page_state was)
{
	if (was == PAGE_FRESH || was == PAGE_RESIDENT)
		return 1u << was;
	return 1u << PAGE_STAGED | 1u << PAGE_STORED;
}

/* Leave the fault for the reclaim thread to wake. Setting the flag comes before waking reclaim, which tests it before
 * it sleeps. */
static void put_off(struct larder_memory *m)
{
	STATS_ADD(faults_throttled, 1);
	atomic_store(&m->pressure.put_off, 1);
	pressure_wake_reclaim(m);
}

/* True when the fault is answered, or somebody will wake the thread. */
static int try_serve(struct handler *h, size_t index)
{
	struct larder_memory *m = h->memory;
	struct larder_page *page = &m->region.pages[index];
	uint64_t word = page_load(page), words[RESTORE_MAX_PAGES];
	enum page_state was = page_state(word);
	size_t n, restored;

	if (page_is_busy(word)) {
		STATS_ADD(faults_raced, 1);
		return page_await(page, word);
	}
	if (was == PAGE_POISONED) { /* the poison is in place; the thread has not seen it yet */
		restore_wake(m, index);
		return 1;
	}
	if ((was == PAGE_FRESH || was == PAGE_STORED) && pressure_should_put_off(m)) {
		put_off(m);
		return 1;
	}
	n = restore_acquire(m, index, was == PAGE_RESIDENT ? 1 : around_window(m, index), company(was), words);
	if (n == 0)
		return 0;
	was = page_state(words[0]);
	restored = restore_pages(m, &h->restorer, index, words, n, credit_of(was));
	if (restored)
		around_remember(m, index, restored);
	count_fault(was, restored);
	return 1;
}

static void serve(struct handler *h, const struct uffd_msg *msg)
{
	struct larder_memory *m = h->memory;
	char *addr = (char *)(uintptr_t)(msg->arg.pagefault.address & ~(uint64_t)(PAGE_BYTES - 1));
	uint64_t start = sys_now_ns();

#ifdef LARDER_DEBUG
	if (thread_is_internal((int)msg->arg.pagefault.feat.ptid))
		log_panic("an internal thread touched managed memory: thread", msg->arg.pagefault.feat.ptid);
#endif
	if (!region_contains(&m->region, addr))
		log_panic("fault on a staging slot that is empty: slot address", (int64_t)(uintptr_t)addr);
	while (!try_serve(h, region_index(&m->region, addr)))
		;
	STATS_ADD(faults, 1);
	STATS_ADD(fault_latency[stats_latency_bucket(sys_now_ns() - start)], 1);
	pressure_notice(m);
	if (++h->served % PUBLISH_EVERY == 0)
		pressure_publish(m, stats);
}

static void pin(int cpu)
{
	unsigned long mask[CPUS_MAX / 64] = { 0 };

	mask[cpu / 64] = 1ul << cpu % 64;
	sys_call3(SYS_sched_setaffinity, 0, sizeof(mask), (long)mask);
}

static void handler_main(void *arg)
{
	struct handler *h = arg;
	struct uffd_msg msg;

	/* The program may run niced; the threads it waits for should not. Without the privilege they stay as they are.
	 */
	sys_call3(SYS_setpriority, PRIO_PROCESS, 0, 0);
	if (h->cpu != NO_CPU)
		pin(h->cpu);
	for (;;) {
		long n = sys_read(h->memory->uffd, &msg, sizeof(msg));

		if (n == (long)sizeof(msg) && msg.event == UFFD_EVENT_PAGEFAULT)
			serve(h, &msg);
		else if (n < 0 && n != -EINTR && n != -EAGAIN)
			log_panic("reading the userfaultfd failed with errno", -n);
	}
}

static int start_handler(struct larder_memory *m, struct handler *h, int cpu)
{
	int err;

	h->memory = m;
	h->cpu = cpu;
	err = restorer_open(&h->restorer, m);
	return err ? err : thread_start("larder-fault", handler_main, h, 0);
}

/* The CPUs that this process may use. Returns how many; cpus[] holds the first `max`. */
static int allowed_cpus(int *cpus, int max)
{
	unsigned long mask[CPUS_MAX / 64] = { 0 };
	int n = 0;

	if (sys_call3(SYS_sched_getaffinity, 0, sizeof(mask), (long)mask) < 0)
		return 0;
	for (int cpu = 0; cpu < CPUS_MAX; cpu++)
		if (mask[cpu / 64] >> cpu % 64 & 1) {
			if (n < max)
				cpus[n] = cpu;
			n++;
		}
	return n;
}

int fault_start(struct larder_memory *m)
{
	int cpus[HANDLERS_MAX];
	int ncpus = allowed_cpus(cpus, HANDLERS_MAX);
	int pinned = ncpus > 0 && ncpus <= HANDLERS_MAX;
	int wanted = pinned ? ncpus : HANDLERS_MAX, started = 0, err = 0;

	for (int i = 0; i < wanted && err >= 0; i++) {
		err = start_handler(m, &handlers[started], pinned ? cpus[i] : NO_CPU);
		started += err >= 0;
	}
	return started ? started : err;
}
