/*
 * Leases: a segment is one process's to write to, or nobody's; and what a process held that is no more is free.
 */
#include "lease.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SEGMENTS = 1000, PROCESSES = 4 };

static void without_a_child_everything_is_ones_own(void **state)
{
	struct lease lease = { 0 };

	(void)state;
	assert_false(lease_is_shared(&lease));
	assert_int_equal(lease_claim(&lease, 3), 1);
	lease_drop(&lease, 3, 1);
	assert_int_equal(lease_claim(&lease, 3), 1);
}

/* Two leases in one process are as those of two processes: what counts is the open file description. */
static void a_segment_is_claimed_by_one(void **state)
{
	struct lease parent = { 0 }, child;
	int fd = lease_lend(&parent, SEGMENTS, 41);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(parent.page->openings, 41);
	child = parent;
	lease_inherit(&child, fd);
	for (uint32_t i = 0; i < SEGMENTS; i++) {
		assert_int_equal(lease_claim(&parent, i), 0);
		assert_int_equal(lease_claim(&child, i), 0);
	}
	lease_drop(&parent, 10, 5);
	assert_int_equal(lease_claim(&child, 10), 1);
	assert_int_equal(lease_claim(&child, 15), 0);
	assert_int_equal(lease_claim(&parent, 10), 0);
	lease_drop(&child, 0, SEGMENTS);
	assert_int_equal(lease_claim(&parent, 10), 1);
	assert_int_equal(lease_claim(&child, 10), 0);
	assert_int_equal(lease_claim(&child, 11), 1);
	close(fd);
	assert_int_equal(lease_claim(&parent, 11), 1);
	close(parent.fd_plus_one - 1);
}

static void a_killed_process_holds_nothing(void **state)
{
	struct lease parent = { 0 };
	int fd = lease_lend(&parent, SEGMENTS, 0), again;
	pid_t pid;

	(void)state;
	assert_true(fd >= 0);
	pid = fork();
	if (pid == 0) {
		close(parent.fd_plus_one - 1);
		for (;;)
			pause();
	}
	close(fd);
	lease_drop(&parent, 0, SEGMENTS);
	assert_int_equal(lease_claim(&parent, 7), 0);
	again = lease_lend(&parent, SEGMENTS, 0); /* another child, beside the first */
	assert_true(again >= 0);
	close(again);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(lease_claim(&parent, 7), 1);
	close(parent.fd_plus_one - 1);
}

/* A segment that another process is claiming just now is waited for: a fork does not fail because of it. */
static void who_is_claiming_is_waited_for(void **state)
{
	struct flock claim = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 7, .l_len = 1 };
	struct lease parent = { 0 };
	int fd = lease_lend(&parent, SEGMENTS, 0), again;
	pid_t pid;

	(void)state;
	assert_true(fd >= 0);
	lease_drop(&parent, 0, SEGMENTS);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &claim), 0);
	pid = fork();
	if (pid == 0) {
		usleep(20000); /* and with this process the last descriptor goes that the claim was made with */
		_exit(0);
	}
	close(fd);
	again = lease_lend(&parent, SEGMENTS, 0);
	assert_true(again >= 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(again);
	close(parent.fd_plus_one - 1);
}

/* Each process claims what it can, says so where all can see it, and drops it again. */
static int claim_at_random(struct lease *lease, _Atomic int *owner, int me)
{
	unsigned random = (unsigned)me;

	for (int i = 0; i < 20000; i++) {
		uint32_t segment = (random = random * 1103515245 + 12345) / 65536 % 20;
		int nobody = 0;

		if (!lease_claim(lease, segment))
			continue;
		if (!atomic_compare_exchange_strong(&owner[segment], &nobody, me))
			return 1;
		atomic_store(&owner[segment], 0);
		lease_drop(lease, segment, 1);
	}
	return 0;
}

static void no_two_processes_get_one_segment(void **state)
{
	_Atomic int *owner = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct lease parent = { 0 };
	pid_t pids[PROCESSES];

	(void)state;
	for (int i = 0; i < PROCESSES; i++) {
		int fd = lease_lend(&parent, SEGMENTS, 0);

		assert_true(fd >= 0);
		pids[i] = fork();
		if (pids[i] == 0) {
			lease_inherit(&parent, fd);
			lease_drop(&parent, 0, SEGMENTS);
			_exit(claim_at_random(&parent, owner, i + 1));
		}
		close(fd);
		lease_drop(&parent, 0, SEGMENTS);
	}
	for (int i = 0; i < PROCESSES; i++) {
		int status = -1;

		waitpid(pids[i], &status, 0);
		assert_int_equal(status, 0);
	}
	munmap((void *)owner, 4096);
	close(parent.fd_plus_one - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_child_everything_is_ones_own),
		cmocka_unit_test(a_segment_is_claimed_by_one),
		cmocka_unit_test(a_killed_process_holds_nothing),
		cmocka_unit_test(who_is_claiming_is_waited_for),
		cmocka_unit_test(no_two_processes_get_one_segment),
	};

	return cmocka_run_group_tests_name("lease", tests, NULL, NULL);
}
