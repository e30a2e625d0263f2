/*
 * A debug build stops at once when an internal thread touches managed memory, instead of hanging. The tier in this test
 * does just that. Needs userfaultfd, and a build with LARDER_DEBUG_CHECKS.
 */
#include "process.h"

#include <jemalloc/jemalloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
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

/* In a child of its own: evict a buffer, then let the reclaim thread touch it while it evicts another. */
static void touch_from_reclaim_thread(void)
{
	static const struct arena_allocator jemalloc = {
		.mallctl = mallctl, .mallocx = mallocx, .dallocx = dallocx, .sallocx = sallocx
	};
	static struct larder_backend_ops ops;
	static const struct larder_backend_ops *const tiers[] = { &ops };
	char *a, *b;

	ops = larder_backend_lz4;
	ops.put = touching_put;
	if (process_start(&(struct process_setup){ .allocator = &jemalloc, .tiers = tiers, .ntiers = 1 }) < 0)
		_exit(2);
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

static void an_internal_thread_that_touches_managed_memory_stops_the_process(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
#ifndef LARDER_DEBUG
	skip();
#endif
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(20); /* hanging is the other way to fail */
		touch_from_reclaim_thread();
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_internal_thread_that_touches_managed_memory_stops_the_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
