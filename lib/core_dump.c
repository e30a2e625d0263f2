/*
 * Core dumps. See core_dump.h.
 *
 * The kernel dumps what is present and does not wait for userfaultfd. So while the process is still whole, on the
 * thread that got the signal, reclaim is made to rest - as for a fork: nothing leaves, what is on disk is fetched - and
 * the rest is touched. Then the signal takes its course. Pages that are lost stay so.
 */
#include "core_dump.h"

#include "memory.h"
#include "reclaim.h"

#include <signal.h>

/* Those that signal(7) says dump core. */
static const int signals[] = { SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS };

static struct larder_memory *memory;
static struct larder_reclaim *reclaim;

static int is_away(size_t index)
{
	uint64_t word = page_load(&memory->region.pages[index]);
	enum page_state state = page_holder(word);

	return state == PAGE_STAGED || state == PAGE_STORED;
}

/* Inaccessible memory has to become readable: nobody will miss the difference any more. */
static void bring_back(size_t index)
{
	char *page = region_address(&memory->region, index);

	if (sys_madvise(page, PAGE_BYTES, MADV_POPULATE_READ) == 0)
		return;
	sys_mprotect(page, PAGE_BYTES, PROT_READ);
	sys_madvise(page, PAGE_BYTES, MADV_POPULATE_READ);
}

static void bring_all_back(void)
{
	size_t chunks = region_used_chunks(&memory->region);

	reclaim_freeze(reclaim);
	for (size_t c = 0; c < chunks; c++)
		if (chunk_is_watched(&memory->region.chunks[c]) && chunk_is_used(&memory->region.chunks[c]))
			for (size_t i = c * CHUNK_PAGES; i < (c + 1) * CHUNK_PAGES; i++)
				if (is_away(i))
					bring_back(i);
}

/* Another thread has begun, and the process will end when it is done. */
__attribute__((noreturn)) static void wait_for_the_end(void)
{
	for (;;)
		sys_sleep_ns(1000000000);
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	static _Atomic int begun;
	const struct sigaction by_default = { .sa_handler = SIG_DFL };

	(void)context;
	if (atomic_exchange(&begun, 1))
		wait_for_the_end();
	if (!atomic_load_explicit(&memory->region.detached, memory_order_relaxed))
		bring_all_back();
	sigaction(signal, &by_default, NULL);
	if (info->si_code <= 0) /* sent: it does not come again by itself */
		raise(signal);
}

void core_dump_open(struct larder_memory *m, struct larder_reclaim *r)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK }, old;

	memory = m;
	reclaim = r;
	sigfillset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_DFL)
			sigaction(signals[i], &action, NULL);
}
