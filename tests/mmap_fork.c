/*
 * mmap_family: forks. A child has what its parent had mapped, wherever it was, but for what the parent has said to keep
 * from it, and what either does to its own changes nothing for the other.
 */
#include "mmap_family.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void advise(void *at, size_t pages, int advice)
{
	if (madvise(at, pages * PAGE, advice))
		FAIL("madvise(%p, %zu pages, %d) failed with errno %d", at, pages, advice, errno);
}

static void change_all(void *at)
{
	unsigned char *p = at, *moved;

	EXPECT_CONTENT(p, 0, AREA, 1);
	evict_all();
	fill(p, 0, 200, 2);
	advise(p + 200 * PAGE, 100, MADV_DONTNEED);
	EXPECT(mprotect(p + 300 * PAGE, 100 * PAGE, PROT_NONE) == 0);
	unmap(p + 400 * PAGE, 100);
	moved = mremap(p + 500 * PAGE, 100 * PAGE, 300 * PAGE, MREMAP_MAYMOVE);
	EXPECT(moved != MAP_FAILED);
	evict_all();
	EXPECT_CONTENT(p, 0, 200, 2);
	EXPECT_ZEROES(p + 200 * PAGE, 100);
	EXPECT_SIGNAL(p + 300 * PAGE, 100, READS, SIGSEGV);
	EXPECT_SIGNAL(p + 400 * PAGE, 100, READS, SIGSEGV);
	EXPECT_CONTENT(moved, 500, 100, 1);
	EXPECT_ZEROES(moved + 100 * PAGE, 200);
	EXPECT_CONTENT(p + 600 * PAGE, 600, AREA - 600, 1);
}

static void what_a_child_does_is_its_own(void)
{
	unsigned char *p = map_filled(AREA);

	for (int i = 0; i < 3; i++) {
		IN_CHILD(change_all, p);
		EXPECT_CONTENT(p, 0, AREA, 1);
		evict_all();
	}
	unmap(p, AREA);
}

static unsigned char *inherited;

static void wait_and_see(void *ends)
{
	char byte;

	EXPECT(read(((int *)ends)[0], &byte, 1) == 1);
	EXPECT_CONTENT(inherited, 0, AREA, 1);
}

/* While the child waits, its parent changes and unmaps all of it. */
static void what_a_parent_does_is_its_own(void)
{
	int ends[2], status = -1;
	pid_t pid;

	inherited = map_filled(AREA);
	EXPECT(pipe(ends) == 0);
	pid = fork();
	if (pid == 0) {
		wait_and_see(ends);
		_exit(0);
	}
	fill(inherited, 0, 300, 2);
	advise(inherited + 300 * PAGE, 300, MADV_DONTNEED);
	unmap(inherited + 600 * PAGE, AREA - 600);
	evict_all();
	EXPECT(write(ends[1], "x", 1) == 1);
	EXPECT(waitpid(pid, &status, 0) == pid);
	EXPECT_SAME(status, 0);
	EXPECT_CONTENT(inherited, 0, 300, 2);
	EXPECT_ZEROES(inherited + 300 * PAGE, 300);
	unmap(inherited, 600);
}

static void go_on(void *at)
{
	static int depth;

	EXPECT_CONTENT(at, 0, AREA, (uint64_t)(1 + depth));
	depth++;
	fill(at, 0, AREA, (uint64_t)(1 + depth));
	evict_all();
	if (depth < 4)
		IN_CHILD(go_on, at);
	EXPECT_CONTENT(at, 0, AREA, (uint64_t)(1 + depth));
}

static void children_of_children_have_their_parents_memory(void)
{
	unsigned char *p = map_filled(AREA);

	IN_CHILD(go_on, p);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void see_wiped(void *at)
{
	unsigned char *p = at;

	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_ZEROES(p + 100 * PAGE, 300);
	EXPECT_CONTENT(p + 400 * PAGE, 400, AREA - 400, 1);
	fill(p + 100 * PAGE, 100, 300, 1);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
}

static void see_wiped_again(void *at)
{
	see_wiped(at);
	IN_CHILD(see_wiped, at); /* the advice is inherited */
}

static void see_all(void *at)
{
	EXPECT_CONTENT(at, 0, AREA, 1);
}

static void wipeonfork_is_zero_in_the_child(void)
{
	unsigned char *p = map_filled(AREA);

	advise(p + 100 * PAGE, 300, MADV_WIPEONFORK);
	IN_CHILD(see_wiped_again, p);
	EXPECT_CONTENT(p, 0, AREA, 1);
	evict_all();
	IN_CHILD(see_wiped, p);
	advise(p + 50 * PAGE, 500, MADV_KEEPONFORK);
	IN_CHILD(see_all, p);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void see_hole(void *at)
{
	unsigned char *p = at;

	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_SIGNAL(p + 100 * PAGE, 300, READS, SIGSEGV);
	EXPECT_CONTENT(p + 400 * PAGE, 400, AREA - 400, 1);
	evict_all();
	EXPECT_SIGNAL(p + 100 * PAGE, 300, WRITES, SIGSEGV);
	EXPECT_ERROR(mprotect(p + 100 * PAGE, 300 * PAGE, PROT_READ), ENOMEM);
}

static void use_hole(void *at)
{
	unsigned char *hole = (unsigned char *)at + 100 * PAGE;

	see_hole(at);
	EXPECT(mmap(hole, 300 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		    0) == hole);
	EXPECT_ZEROES(hole, 300);
	fill(hole, 100, 300, 1);
	evict_all();
	EXPECT_CONTENT(at, 0, AREA, 1);
	IN_CHILD(see_all, at); /* what is mapped anew is inherited */
}

static void dontfork_is_absent_in_the_child(void)
{
	unsigned char *p = map_filled(AREA);

	advise(p + 100 * PAGE, 300, MADV_DONTFORK);
	IN_CHILD(see_hole, p);
	IN_CHILD(use_hole, p);
	EXPECT_CONTENT(p, 0, AREA, 1);
	advise(p, AREA, MADV_DOFORK);
	evict_all();
	IN_CHILD(see_all, p);
	unmap(p, AREA);
}

static void see_protections(void *at)
{
	unsigned char *p = at;

	EXPECT_SIGNAL(p, 100, WRITES, SIGSEGV);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_SIGNAL(p + 100 * PAGE, 100, READS, SIGSEGV);
	EXPECT(mprotect(p, 200 * PAGE, PROT_READ | PROT_WRITE) == 0);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_SIGNAL(p, AREA, WRITES, 0);
}

static void protections_are_inherited(void)
{
	unsigned char *p = map_filled(AREA);

	EXPECT(mprotect(p, 100 * PAGE, PROT_READ) == 0 && mprotect(p + 100 * PAGE, 100 * PAGE, PROT_NONE) == 0);
	IN_CHILD(see_protections, p);
	EXPECT_SIGNAL(p + 100 * PAGE, 100, READS, SIGSEGV);
	EXPECT_SIGNAL(p, 100, WRITES, SIGSEGV);
	unmap(p, AREA);
}

static void is_killed(void *at)
{
	fill(at, 0, AREA, 2);
	evict_all();
	raise(SIGKILL);
}

static void a_killed_child_takes_nothing_along(void)
{
	unsigned char *p = map_filled(AREA);

	for (int i = 0; i < 5; i++) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0) {
			is_killed(p);
			_exit(0);
		}
		EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid);
		EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		EXPECT_CONTENT(p, 0, AREA, 1);
		evict_all();
	}
	unmap(p, AREA);
}

static void map_much(void *at)
{
	(void)at;
	for (uint64_t i = 0; i < 30; i++) {
		unsigned char *p = map(AREA);

		fill(p, 0, AREA, i);
		if (i % 10 == 0)
			evict_all();
		EXPECT_CONTENT(p, 0, AREA, i);
		unmap(p, AREA);
	}
}

static void a_child_maps_for_itself(void)
{
	unsigned char *p = map_filled(AREA);

	IN_CHILD(map_much, NULL);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

const struct check fork_checks[] = {
	CHECK(what_a_child_does_is_its_own),
	CHECK(what_a_parent_does_is_its_own),
	CHECK(children_of_children_have_their_parents_memory),
	CHECK(wipeonfork_is_zero_in_the_child),
	CHECK(dontfork_is_absent_in_the_child),
	CHECK(protections_are_inherited),
	CHECK(a_killed_child_takes_nothing_along),
	CHECK(a_child_maps_for_itself),
	END_OF_CHECKS,
};
