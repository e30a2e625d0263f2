/*
 * A debug build stops at once when an internal thread touches managed memory, instead of hanging: the tier in one test
 * does just that. And a program whose every page is lost lives on as long as it touches none itself. Needs userfaultfd,
 * and a build with LARDER_DEBUG_CHECKS for the former.
 */
#include "limit.h"
#include "start.h"

#include <errno.h>
#include <jemalloc/jemalloc.h>
#include <larder/larder.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 4096, PAGES = 512 };

static char *volatile evicted; /* managed memory that put() reads; NULL = it behaves */
static volatile char seen;

static int touching_put(void *backend, const struct larder_object *object, uint64_t *handle)
{
	if (evicted)
		seen = *evicted;
	return larder_backend_lz4.put(backend, object, handle);
}

static int losing_get(void *backend, void *scratch, uint64_t handle, void *page)
{
	(void)backend, (void)scratch, (void)handle, (void)page;
	return -EIO;
}

static void start(const struct larder_backend_ops *ops, uint64_t limit_bytes)
{
	const struct larder_backend_ops *const tiers[] = { ops };
	const struct larder_options o = { .limit_bytes = limit_bytes, .flags = LARDER_IGNORE_SYSTEM };

	if (start_process((struct process_setup){ .options = &o, .tiers = tiers, .ntiers = 1 }))
		_exit(2);
}

/* In a child of its own: evict a buffer, then let the reclaim thread touch it while it evicts another. */
static void touch_from_reclaim_thread(void)
{
	static struct larder_backend_ops ops;
	char *a, *b;

	ops = larder_backend_lz4;
	ops.put = touching_put;
	start(&ops, 0);
	a = mallocx(PAGES * PAGE, MALLOCX_ALIGN(PAGE));
	b = mallocx(PAGES * PAGE, MALLOCX_ALIGN(PAGE));
	for (int i = 0; i < PAGES * PAGE; i++)
		a[i] = (char)(i / 100);
	larder_reclaim((uint64_t)1 << 40);
	for (int i = 0; i < PAGES * PAGE; i++)
		b[i] = (char)(i / 100);
	evicted = a;
	larder_reclaim((uint64_t)1 << 40);
	_exit(0);
}

/* In a child of its own: lose every page of the heap, and have the allocator purged while pages come and go. */
static void purge_among_lost_pages(void)
{
	static struct larder_backend_ops ops;
	struct larder_stats before, now;
	int result;
	char *p;

	ops = larder_backend_lz4;
	ops.get = losing_get;
	start(&ops, LARDER_LIMIT_MIN_BYTES);
	p = mallocx(4 * LARDER_LIMIT_MIN_BYTES, MALLOCX_ALIGN(PAGE));
	larder_reclaim((uint64_t)1 << 40);
	larder_get_stats(&before);
	do {
		process_advise(p, 4 * LARDER_LIMIT_MIN_BYTES, MADV_DONTNEED, &result);
		for (size_t i = 0; i < 4 * LARDER_LIMIT_MIN_BYTES; i += PAGE)
			p[i] = (char)(i / PAGE | 1);
		larder_get_stats(&now);
	} while (now.purges < before.purges + 3);
	_exit(0);
}

static int status_of(void (*child)(void))
{
	int status = -1;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(20); /* hanging is another way to fail */
		child();
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void an_internal_thread_that_touches_managed_memory_stops_the_process(void **state)
{
	int status;

	(void)state;
#ifndef LARDER_DEBUG
	skip();
#endif
	status = status_of(touch_from_reclaim_thread);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void the_allocator_is_purged_when_every_page_is_lost(void **state)
{
	(void)state;
	assert_int_equal(status_of(purge_among_lost_pages), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_internal_thread_that_touches_managed_memory_stops_the_process),
		cmocka_unit_test(the_allocator_is_purged_when_every_page_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
