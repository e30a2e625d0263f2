/*
 * mmap_family: mlock and its family. What is locked is in RAM, all of it, and stays there; pagemap says so.
 */
#include "mmap_family.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

#define EXPECT_IN_RAM(at, pages) EXPECT_SAME(present_pages((at), (pages)), (pages))

static void lock(void *at, size_t pages)
{
	if (mlock(at, pages * PAGE) == 0)
		return;
	if (errno == ENOMEM || errno == EPERM) {
		struct rlimit limit = { 0 };

		getrlimit(RLIMIT_MEMLOCK, &limit);
		if (geteuid() != 0 && limit.rlim_cur < pages * PAGE)
			skip("the process may not lock memory");
	}
	FAIL("mlock(%p, %zu pages) failed with errno %d", at, pages, errno);
}

static void locked_pages_are_all_in_core(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p + 100 * PAGE, 300);
	for (int i = 0; i < 2; i++) {
		EXPECT_IN_RAM(p + 100 * PAGE, 300);
		EXPECT_SAME(mincore_pages(p + 100 * PAGE, 300), 300);
		evict_all();
	}
	EXPECT_CONTENT(p, 0, AREA, 1);
	fill(p + 100 * PAGE, 0, 300, 2);
	evict_all();
	EXPECT_IN_RAM(p + 100 * PAGE, 300);
	EXPECT_CONTENT(p + 100 * PAGE, 0, 300, 2);
	unmap(p, AREA);
}

static void locking_fills_memory(void)
{
	unsigned char *p = map(AREA);

	lock(p, AREA);
	EXPECT_IN_RAM(p, AREA);
	evict_all();
	EXPECT_IN_RAM(p, AREA);
	EXPECT_ZEROES(p, AREA);
	unmap(p, AREA);
}

static void locking_on_fault_fills_nothing(void)
{
	unsigned char *p = map(AREA);

	madvise(p, AREA * PAGE, MADV_NOHUGEPAGE);
	EXPECT(mlock2(p, AREA * PAGE, MLOCK_ONFAULT) == 0);
	EXPECT_SAME(mincore_pages(p, AREA), 0);
	fill(p, 0, 100, 1);
	evict_all();
	EXPECT_IN_RAM(p, 100);
	EXPECT(mincore_pages(p, 100) == 100 && mincore_pages(p, AREA) <= 100 + AROUND);
	EXPECT_CONTENT(p, 0, 100, 1);
	unmap(p, AREA);
}

static void what_is_unlocked_may_leave_again(void)
{
	unsigned char *p = map_filled(AREA);

	for (int i = 0; i < 3; i++) {
		lock(p, AREA);
		EXPECT_IN_RAM(p, AREA);
		EXPECT(munlock(p + 10 * PAGE, (AREA - 20) * PAGE) == 0);
		evict_all();
		EXPECT_IN_RAM(p, 10);
		EXPECT_IN_RAM(p + (AREA - 10) * PAGE, 10);
		EXPECT_CONTENT(p, 0, AREA, 1);
	}
	unmap(p, AREA);
}

static void all_that_is_mapped_can_be_locked(void)
{
	unsigned char *p = map_filled(AREA), *fresh = map(100);

	if (mlockall(MCL_CURRENT))
		FAIL("mlockall failed with errno %d", errno);
	EXPECT_IN_RAM(p, AREA);
	EXPECT_IN_RAM(fresh, 100);
	evict_all();
	EXPECT_IN_RAM(p, AREA);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT(munlockall() == 0);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
	unmap(fresh, 100);
}

static void what_will_be_mapped_can_be_locked(void)
{
	unsigned char *p;

	EXPECT(mlockall(MCL_FUTURE) == 0);
	p = map(AREA);
	EXPECT_IN_RAM(p, AREA);
	fill(p, 0, AREA, 1);
	evict_all();
	EXPECT_IN_RAM(p, AREA);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
	EXPECT(munlockall() == 0);
	p = map(AREA);
	madvise(p, AREA * PAGE, MADV_NOHUGEPAGE);
	EXPECT_SAME(mincore_pages(p, AREA), 0);
	unmap(p, AREA);
}

static void all_can_be_locked_on_fault(void)
{
	unsigned char *p = map(AREA), *later;

	madvise(p, AREA * PAGE, MADV_NOHUGEPAGE);
	EXPECT(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0);
	later = map(AREA);
	madvise(later, AREA * PAGE, MADV_NOHUGEPAGE);
	EXPECT_SAME(mincore_pages(p, AREA), 0);
	EXPECT_SAME(mincore_pages(later, AREA), 0);
	fill(p, 0, 100, 1);
	fill(later, 0, 100, 2);
	evict_all();
	EXPECT_IN_RAM(p, 100);
	EXPECT_IN_RAM(later, 100);
	EXPECT_CONTENT(p, 0, 100, 1);
	EXPECT_CONTENT(later, 0, 100, 2);
	EXPECT(munlockall() == 0);
	unmap(p, AREA);
	unmap(later, AREA);
}

static void locked_memory_is_not_thrown_away(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p, 100);
	EXPECT_ERROR(madvise(p, 100 * PAGE, MADV_DONTNEED), EINVAL);
	EXPECT_ERROR(msync(p, 100 * PAGE, MS_INVALIDATE), EBUSY);
	EXPECT_CONTENT(p, 0, AREA, 1);
	if (madvise(p, 50 * PAGE, MADV_DONTNEED_LOCKED) == 0) {
		EXPECT_ZEROES(p, 50);
		EXPECT_CONTENT(p + 50 * PAGE, 50, AREA - 50, 1);
	}
	unmap(p, AREA);
}

static void locked_memory_can_be_unmapped_and_mapped_over(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p, AREA);
	unmap(p, 100);
	EXPECT(mmap(p + 200 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		    0) == p + 200 * PAGE);
	EXPECT_SIGNAL(p, 100, READS, SIGSEGV);
	EXPECT_CONTENT(p + 100 * PAGE, 100, 100, 1);
	EXPECT_ZEROES(p + 200 * PAGE, 100);
	evict_all();
	EXPECT_IN_RAM(p + 300 * PAGE, AREA - 300);
	EXPECT_CONTENT(p + 300 * PAGE, 300, AREA - 300, 1);
	unmap(p, AREA);
}

static void locks_move_and_grow_with_memory(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p, AREA);
	p = mremap(p, AREA * PAGE, 2 * AREA * PAGE, MREMAP_MAYMOVE);
	EXPECT(p != MAP_FAILED);
	EXPECT_IN_RAM(p, 2 * AREA);
	evict_all();
	EXPECT_IN_RAM(p, 2 * AREA);
	EXPECT_CONTENT(p, 0, AREA, 1);
	EXPECT_ZEROES(p + AREA * PAGE, AREA);
	unmap(p, 2 * AREA);
}

static void protected_memory_stays_locked(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p, AREA);
	EXPECT(mprotect(p, AREA * PAGE, PROT_READ) == 0);
	evict_all();
	EXPECT_IN_RAM(p, AREA);
	EXPECT(mprotect(p, AREA * PAGE, PROT_NONE) == 0);
	evict_all();
	EXPECT(mprotect(p, AREA * PAGE, PROT_READ | PROT_WRITE) == 0);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void see_content(void *p)
{
	EXPECT_CONTENT(p, 0, AREA, 1);
	fill(p, 0, AREA, 2);
	evict_all();
	EXPECT_CONTENT(p, 0, AREA, 2);
}

static void a_child_has_no_locks_and_all_content(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p, AREA);
	IN_CHILD(see_content, p);
	evict_all();
	EXPECT_IN_RAM(p, AREA);
	EXPECT_CONTENT(p, 0, AREA, 1);
	unmap(p, AREA);
}

static void locking_errors_are_the_kernels(void)
{
	unsigned char *p = map_filled(AREA);

	lock(p, 1);
	EXPECT(munlock(p, PAGE) == 0);
	EXPECT(mlock(p + 1, PAGE) == 0); /* pages 0 and 1 */
	EXPECT(munlock(p + 1, PAGE) == 0);
	EXPECT(mlock(p, 0) == 0 && munlock(p, 0) == 0);
	EXPECT_ERROR(mlock2(p, PAGE, 64), EINVAL);
	EXPECT_ERROR(mlockall(0), EINVAL);
	EXPECT_ERROR(mlockall(MCL_ONFAULT), EINVAL);
	EXPECT_ERROR(mlockall(64), EINVAL);
	unmap(p + 10 * PAGE, 10);
	EXPECT_ERROR(mlock(p, AREA * PAGE), ENOMEM);
	EXPECT_ERROR(munlock(p, AREA * PAGE), ENOMEM);
	EXPECT(mprotect(p, 10 * PAGE, PROT_NONE) == 0);
	EXPECT_ERROR(mlock(p, 10 * PAGE), ENOMEM);
	EXPECT(mprotect(p, 10 * PAGE, PROT_READ) == 0);
	EXPECT_CONTENT(p, 0, 10, 1);
	unmap(p, AREA);
}

const struct check lock_checks[] = {
	CHECK(locked_pages_are_all_in_core),
	CHECK(locking_fills_memory),
	CHECK(locking_on_fault_fills_nothing),
	CHECK(what_is_unlocked_may_leave_again),
	CHECK(all_that_is_mapped_can_be_locked),
	CHECK(what_will_be_mapped_can_be_locked),
	CHECK(all_can_be_locked_on_fault),
	CHECK(locked_memory_is_not_thrown_away),
	CHECK(locked_memory_can_be_unmapped_and_mapped_over),
	CHECK(locks_move_and_grow_with_memory),
	CHECK(protected_memory_stays_locked),
	CHECK(a_child_has_no_locks_and_all_content),
	CHECK(locking_errors_are_the_kernels),
	END_OF_CHECKS,
};
